"""Pictures of a run: arrays in, a `matplotlib.figure.Figure` out.

Import this module lazily: it brings matplotlib. No function touches pyplot, a global
setting or a file; the caller saves with `figure.savefig(path)`. Figures hold 200 dots
per inch, so that half their pixels is their natural size on a page.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    MaxNLocator,
    PercentFormatter,
)

from experiments.figures.style import (
    ACCENT,
    ALARM,
    COLOURS,
    FAINT,
    INK,
    MUTED,
    _figure,
    _percent,
    _words,
    log_scale,
)

LOG_SCALE_FROM_RATIO = 10.0


def learning_curves(
    rows: Sequence[Mapping[str, float | None]],
    metric: str = "accuracy",
    best_step: int | None = None,
) -> Figure:
    """Loss and metric over the training steps, training against validation.

    Args:
      rows: One mapping per epoch with `step` and any of `train_loss`, `valid_loss`,
        `train_METRIC`, `valid_METRIC`. Missing, None and non-finite values leave a gap;
        the loss panel says how many epochs had a loss that is not finite.
      metric: The metric's name. An accuracy is a fraction and is shown in percent.
      best_step: The step whose parameters were kept; marked in both panels.
    """
    if not rows:
        return _words("No epoch is finished yet")
    figure = _figure(3.3, _curves_message(rows, metric, best_step))
    loss_panel, metric_panel = figure.subplots(1, 2)
    _curves(loss_panel, rows, "loss", best_step)
    _curves(metric_panel, rows, metric, best_step)
    _note_broken_losses(loss_panel, rows)
    return figure


def overlaid(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float | None]]]], title: str
) -> Figure:
    """Lines over the training steps, those of one name in one colour.

    Args:
      curves: Name to (steps, values) of each line; None and non-finite values leave a gap.
      title: What the values are.
    """
    figure = _figure(4.0, title)
    axes = figure.subplots()
    for k, (name, lines) in enumerate(curves.items()):
        for number, (steps, values) in enumerate(lines):
            axes.plot(
                steps,
                np.array(values, float),
                color=COLOURS[k % len(COLOURS)],
                linestyle=("-", "--", ":")[k // len(COLOURS) % 3],
                linewidth=1.4,
                alpha=1.0 if len(lines) == 1 else 0.6,
                label=name if number == 0 else None,
            )
    if _spans_decades(axes):
        log_scale(axes)
    axes.set_xlabel("training step", color=MUTED)
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=MUTED, labelsize=8, which="both", left=False)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def _show(value: float, metric: str) -> str:
    return _percent(value) if _is_accuracy(metric) else f"{value:#.3g}".removesuffix(".")


def _is_accuracy(metric: str) -> bool:
    return metric.endswith("accuracy")


def _column(rows: Sequence[Mapping[str, float | None]], key: str) -> np.ndarray:
    """[len(rows)], NaN where the value is missing or not finite."""
    values = np.array([row.get(key) for row in rows], float)
    return np.where(np.isfinite(values), values, np.nan)


def _curves_message(
    rows: Sequence[Mapping[str, float | None]], metric: str, best_step: int | None
) -> str:
    steps = _column(rows, "step")
    values = _column(rows, f"valid_{metric}")
    best = values[steps == best_step]
    if best.size and np.isfinite(best[-1]):
        value = _show(best[-1], metric)
        return f"Best validation {metric} {value}, at step {best_step} of {steps[-1]:.0f}"
    for split, key in (("Validation", "valid"), ("Training", "train")):
        values = _column(rows, f"{key}_{metric}")
        if np.isfinite(values[-1]):
            return f"{split} {metric} {_show(values[-1], metric)} after {steps[-1]:.0f} steps"
    return f"No finite {metric} after {steps[-1]:.0f} steps"


def _curves(
    axes: Axes,
    rows: Sequence[Mapping[str, float | None]],
    name: str,
    best_step: int | None,
) -> None:
    steps = _column(rows, "step")
    ends = []
    for split, key, colour in (("train", "train", MUTED), ("validation", "valid", ACCENT)):
        values = _column(rows, f"{key}_{name}")
        if not np.isfinite(values).any():
            continue
        size = 3 if len(rows) <= 40 else 1
        axes.plot(
            steps, values, color=colour, marker="o", markersize=size, label=split, clip_on=False
        )
        last = values[np.isfinite(values)][-1]
        text = f"{split} {_show(last, name)}" if last == values[-1] else split
        ends.append((last, text, colour))
    _curve_panel(axes, name)
    axes.set_xlim(0, 1.04 * max(steps[-1], 1))  # in both panels, however early a loss breaks
    if best_step is not None:
        _mark_best(axes, best_step, steps, _column(rows, f"valid_{name}"))
    _label_ends(axes, ends)


def _curve_panel(axes: Axes, name: str) -> None:
    log = name == "loss" and _spans_decades(axes)
    if log:
        log_scale(axes)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if name == "loss" and not log and _drawn(axes).size:
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), max(0.0, 1.08 * _drawn(axes).max()))
    if _is_accuracy(name):
        _accuracy_axis(axes)
    axes.set_title(f"{name}, log scale" if log else name, loc="left", color=INK, fontsize=10)
    axes.set_xlabel("training step", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8, which="both", left=False)


def _accuracy_axis(axes: Axes) -> None:
    """Up to 100 %, so that what is missing is seen, and down to the next full ten below."""
    values = _drawn(axes)
    lowest = np.floor(10 * values.min()) / 10 if values.size else 0.0
    axes.set_ylim(min(lowest, 0.9), 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))


def _drawn(axes: Axes) -> np.ndarray:
    lines = [np.asarray(line.get_ydata(), float) for line in axes.get_lines()]
    values = np.concatenate([np.ones(0), *lines])
    return values[np.isfinite(values)]


def _spans_decades(axes: Axes) -> bool:
    values = _drawn(axes)
    return bool(
        values.size and values.min() > 0 and values.max() >= LOG_SCALE_FROM_RATIO * values.min()
    )


def _mark_best(axes: Axes, best_step: int, steps: np.ndarray, values: np.ndarray) -> None:
    axes.axvline(best_step, color=ACCENT, linewidth=0.8, linestyle=(0, (4, 3)), label="best")
    axes.plot(
        steps[steps == best_step],
        values[steps == best_step],
        "o",
        color=ACCENT,
        ms=6,
        clip_on=False,
    )
    at_the_end = best_step > 0.95 * steps[-1]  # where the curves have their names
    side = "right" if at_the_end else "center"
    axes.text(
        best_step, 1.0, "best", color=ACCENT, fontsize=8, ha=side, va="bottom",
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names the curves at the right edge, apart from one another where they meet."""
    axes.get_ylim()  # settles the limits that the transformation below reads
    to_fraction = axes.transScale + axes.transLimits
    lowest = -np.inf
    for value, text, colour in sorted(ends):
        lowest = max(lowest + 0.075, to_fraction.transform((1.0, value))[1])
        axes.text(
            1.02, lowest, text, color=colour, fontsize=8.5, va="center", transform=axes.transAxes
        )


def _note_broken_losses(axes: Axes, rows: Sequence[Mapping[str, float | None]]) -> None:
    losses = [[row[key] for key in ("train_loss", "valid_loss") if key in row] for row in rows]
    broken = [any(x is None or not np.isfinite(x) for x in losses_) for losses_ in losses]
    if not any(broken):
        return
    first = rows[broken.index(True)]["step"]
    note = f"not finite in {sum(broken)} of {len(rows)} epochs,\nfirst at step {first}"
    axes.text(
        0.98, 0.97, note, color=ALARM, fontsize=8.5, ha="right", va="top",
        transform=axes.transAxes, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip
