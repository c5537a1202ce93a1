"""Draw forecasts with their bands beside what came, and how good they are step by step."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.curves import percent_ticks
from experiments.figures.style import (
    ACCENT,
    ALARM,
    COLORS,
    INK,
    MUTED,
    panel_title,
    plain,
    quiet,
    titled_figure,
)


class Forecast(NamedTuple):
    """Hold one forecast, from step ``origin`` on.

    Attributes:
      origin: its first step.
      median: [h].
      bands: from the widest to the narrowest, each (lower, upper) [h].
    """

    origin: int
    median: np.ndarray
    bands: Sequence[tuple[np.ndarray, np.ndarray]]


class Shown(NamedTuple):
    """Hold one panel: its title, a series [T] that begins at step ``first``, and forecasts."""

    title: str
    first: int
    values: np.ndarray
    forecasts: Sequence[Forecast]


def forecasts(message: str, panels: Sequence[Shown], time: Callable[[int], str] = str) -> Figure:
    """Draw series with forecasts over them, one below another.

    Args:
      message: the title of the figure.
      panels: at least one.
      time: from a step to what stands below it.
    """
    figure = titled_figure(0.6 + 2.2 * len(panels), message)
    for axes, shown in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        draw_forecasts(axes, shown)
        panel_title(axes, shown.title)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(lambda value, _: plain(time(round(value))))
    figure.axes[0].legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    return figure


def draw_forecasts(axes: Axes, shown: Shown) -> None:
    """Draw one panel."""
    steps = shown.first + np.arange(len(shown.values))
    axes.plot(steps, shown.values, color=INK, linewidth=1.2, label="what came", zorder=3)
    alone = np.isfinite(shown.values) & ~np.isfinite(neighbors(shown.values))
    axes.plot(steps[alone], shown.values[alone], ".", color=INK, markersize=3)
    for number, each in enumerate(shown.forecasts):
        ahead = each.origin + np.arange(len(each.median))
        style = ".-" if len(ahead) < 30 else "-"
        label = "forecast: median and bands" if number == 0 else None
        axes.plot(ahead, each.median, style, color=ACCENT, linewidth=1.4, markersize=4, label=label)
        axes.axvline(each.origin - 0.5, color=MUTED, linewidth=0.6, linestyle=":")
        for lower, upper in each.bands:
            if len(ahead) > 1:
                axes.fill_between(ahead, lower, upper, color=ACCENT, alpha=0.16, linewidth=0)
            else:
                axes.vlines(ahead, lower, upper, color=ACCENT, alpha=0.3, linewidth=4)
    quiet(axes)


def neighbors(values: np.ndarray) -> np.ndarray:
    """Return the sum of the values at both sides, NaN where neither is known."""
    around = np.pad(values, 1, constant_values=np.nan)
    pairs = np.stack([around[:-2], around[2:]])
    return np.where(np.isfinite(pairs).any(0), 0.0, np.nan)


def by_step(
    errors: Mapping[str, np.ndarray], coverage: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """Draw errors and coverage by how far ahead is forecast.

    Args:
      errors: MASE by the name of a forecast, [h]; the first is ours.
      coverage: by the share in per cent that a band should hold, steps ahead and the share that it
        held there; a single one is drawn as that of all steps.
    """
    ours, *others = ((name, float(np.mean(each))) for name, each in errors.items())
    best, least = min(others, key=lambda each: each[1])
    message = f"Mean MASE {ours[1]:.2f}; the {best} forecast has {least:.2f}"
    figure = titled_figure(3.5, message)
    left, right = figure.subplots(1, 2)
    for color, (name, each) in zip((ACCENT, *COLORS[1:]), errors.items(), strict=False):
        ahead, wide = np.arange(1, len(each) + 1), 2.0 if name == ours[0] else 1.2
        style = "o--" if "seasonal" in name else "o-"  # without a season it is the naive one
        left.plot(ahead, each, style, color=color, linewidth=wide, markersize=3, label=name)
    panel_title(left, "Error as MASE")
    lines = len(next(iter(coverage.values()))[0]) > 1
    (coverage_lines if lines else coverage_bars)(right, coverage)
    panel_title(right, "Share within the band; dashed: as it should be")
    right.set_ylim(0, 1.04)
    percent_ticks(right)
    left.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    left.set_xlabel("steps ahead", color=MUTED)
    for axes in (left, right):
        quiet(axes)
        axes.legend(
            frameon=False, fontsize=8, labelcolor=INK, ncols=4, loc="upper center",
            bbox_to_anchor=(0.5, -0.16), columnspacing=1.0,
        )  # fmt: skip
    left.set_ylim(bottom=0)
    return figure


def coverage_lines(axes: Axes, coverage: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw by steps ahead what each band held, over a dashed line of what it should hold."""
    for color, (share, (ahead, held)) in zip(
        (ACCENT, COLORS[2], ALARM), coverage.items(), strict=False
    ):
        axes.axhline(share / 100, color=color, linewidth=0.8, linestyle="--")
        axes.plot(ahead, held, "o-", color=color, markersize=3, label=f"{share} % band")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("steps ahead", color=MUTED)


def coverage_bars(axes: Axes, coverage: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> None:
    """Draw what each band held at all steps as a bar, with a dashed line where it should end."""
    for place, (share, (_, held)) in enumerate(coverage.items()):
        axes.bar(place, held[0], 0.6, color=ACCENT, label="held" if place == 0 else None)
        label = "should hold" if place == 0 else None
        axes.plot([place - 0.4, place + 0.4], 2 * [share / 100], "--", color=INK, label=label)
        inside = held[0] > 0.1  # else there is no room
        height, color = (held[0] / 2, "white") if inside else (held[0] + 0.04, INK)
        text = plain(f"{held[0]:.0%}")
        axes.text(place, height, text, color=color, ha="center", va="center")
    axes.set_xticks(range(len(coverage)), [f"{share} % band" for share in coverage])
