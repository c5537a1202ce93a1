"""Draw a comparison of several remedies with none of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.curves import Rows, column, is_percent
from experiments.figures.style import (
    ACCENT,
    FAINT,
    INK,
    MUTED,
    panel_title,
    plain,
    quiet,
    titled_figure,
)
from recurrent.training.task import Metric

ACROSS = 4  # panels in a row
LEAST, MOST = -7.0, 1.0  # of the logarithm of a weight that is drawn


def strips(message: str, values: Mapping[str, Sequence[float]], metric: Metric) -> Figure:
    """Draw the values of each name as dots in a row, the first name on top.

    Args:
      message: the title.
      values: of each name, a number for each seed.
      metric: that they are of; the name ``none`` is what the others are compared with.
    """
    figure = titled_figure(0.9 + 0.3 * len(values), message)
    axes = figure.subplots()
    none = np.asarray(values.get("none", ()), float)
    if none.size:
        spread = none.std(ddof=1) if none.size > 1 else 0.0
        axes.axvspan(none.mean() - spread, none.mean() + spread, color=FAINT, zorder=0)
        axes.axvline(none.mean(), color=MUTED, linewidth=0.8, zorder=0)
    for row, own in enumerate(map(np.asarray, values.values())):
        color = ACCENT if row == 0 else INK
        axes.plot(own, np.full(own.shape, row), "o", color=color, alpha=0.5, markersize=5)
        if own.size:
            axes.plot([own.mean()] * 2, [row - 0.3, row + 0.3], color=color, linewidth=2)
    axes.set_yticks(range(len(values)), [plain(name) for name in values])
    axes.set_ylim(len(values) - 0.4, -0.6)
    if is_percent(metric):
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set_xlabel(plain(f"test {metric.name}"), color=MUTED)
    quiet(axes)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    return figure


def curves(rows: Mapping[str, Sequence[Rows]], metric: Metric) -> Figure:
    """Draw a metric of training and of validation over the steps, a panel for each name."""
    figure, panels = small_panels(list(rows), "Gray: training. Blue: validation")
    drawn = [np.ones(0)]
    for axes, members in zip(panels, rows.values(), strict=True):
        for own in members:
            steps = column(own, "step")
            for split, color in (("train", MUTED), ("valid", ACCENT)):
                values = column(own, f"{split}_{metric.name}")
                axes.plot(steps, values, color=color, linewidth=0.9, alpha=0.8)
                drawn.append(values)
    finite = np.concatenate(drawn)
    finite = finite[np.isfinite(finite)]
    for axes in panels:
        axes.set_ylim(min(0.0, finite.min()), float(np.quantile(finite, 0.99)) * 1.05)
        axes.set_xlim(left=0)
    return figure


def sizes(weights: Mapping[str, np.ndarray]) -> Figure:
    """Draw how many weights ``[N]`` have which size, a panel for each name."""
    figure, panels = small_panels(
        list(weights), "Shares of weights as good as zero, below 0.001, in each panel"
    )
    bins = np.linspace(LEAST, MOST, 49).tolist()
    for axes, own in zip(panels, weights.values(), strict=True):
        size = np.log10(np.clip(abs(own), 10**LEAST, 10**MOST))
        axes.hist(size, bins, weights=np.full(own.size, 1 / own.size), color=ACCENT)
        axes.axvline(-3, color=INK, linewidth=0.8, linestyle="--")
        share = f"{(abs(own) < 1e-3).mean():.1%}"
        axes.text(0.03, 0.93, share, color=INK, fontsize=9, va="top", transform=axes.transAxes)
        axes.xaxis.set_major_formatter(lambda power, _: f"$10^{{{power:.0f}}}$")
        axes.set_yticks([])
    return figure


def small_panels(names: Sequence[str], message: str) -> tuple[Figure, list[Any]]:
    """Return a figure with a small panel for each name, all of the same scales."""
    rows = -(-len(names) // ACROSS)
    figure = titled_figure(0.5 + 1.5 * rows, message)
    panels = figure.subplots(rows, ACROSS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        panel_title(axes, name)
        axes.title.set_fontsize(8.5)
        quiet(axes)
    return figure, list(panels[: len(names)])
