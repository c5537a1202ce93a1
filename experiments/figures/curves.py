"""Draw learning curves, of one run or of several."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.style import (
    ACCENT,
    ALARM,
    COLORS,
    FAINT,
    INK,
    MUTED,
    format_percent,
    log_scale,
    message_figure,
    panel_title,
    plain,
    step_axis,
    titled_figure,
)
from recurrent.training.task import Metric

LOG_SCALE_FROM_RATIO = 10.0
LABEL_HEIGHT = 0.075  # of a panel

Rows = Sequence[Mapping[str, float | None]]


def learning_curves(rows: Rows, metrics: Sequence[Metric], best_step: int | None = None) -> Figure:
    """Draw metrics over the training steps, for training and validation, one panel each.

    Args:
      rows: One mapping per evaluation with `step` and any of `train_NAME` and `valid_NAME`.
        Missing, None and non-finite values leave a gap; a panel says how many evaluations had
        a non-finite value.
      metrics: One to three, the one that people read last; the title states its value.
      best_step: The step whose parameters were kept; it is marked in each panel. 0 and None
        stand for no such step.
    """
    if not rows:
        return message_figure("No evaluation is finished yet")
    figure = titled_figure(3.3, _curves_message(rows, metrics[-1], best_step))
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        _curves(axes, rows, metric, best_step)
        if len(metrics) > 2:  # in narrow panels, more numbers would run into each other
            axes.xaxis.set_major_locator(MaxNLocator(2, integer=True))
    return figure


def overlaid(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float | None]]]], title: str
) -> Figure:
    """Draw several curves over the training steps in one panel, one color for each name.

    Args:
      curves: For each name, the (steps, values) of its lines; None and non-finite values leave a
        gap.
      title: What they show.
    """
    figure = titled_figure(4.0, title)
    axes = figure.subplots()
    for k, (name, lines) in enumerate(curves.items()):
        for number, (steps, values) in enumerate(lines):
            axes.plot(
                steps,
                np.array(values, float),
                color=COLORS[k % len(COLORS)],
                linestyle=("-", "--", ":")[k // len(COLORS) % 3],
                linewidth=1.4,
                alpha=1.0 if len(lines) == 1 else 0.6,
                label=plain(name) if number == 0 else None,
            )
    if _spans_a_decade(axes):
        log_scale(axes)
    step_axis(axes)
    if not axes.get_lines():  # of which a legend would warn
        return figure
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
    )
    return figure


def is_percent(metric: Metric) -> bool:
    """Return whether people read the metric, a fraction, in percent."""
    return metric.format.endswith("%}")


def format_value(value: float, metric: Metric) -> str:
    """Format a value briefly, in percent or with three digits."""
    if is_percent(metric):
        return format_percent(value)
    if 100 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:#.3g}".removesuffix(".")


def percent_ticks(axes: Axes) -> None:
    """Write the ticks of the vertical axis, which are fractions, in percent."""
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def column(rows: Rows, key: str) -> np.ndarray:
    """Return one value per row, [len(rows)]; NaN where it is missing or not finite."""
    values = np.array([row.get(key) for row in rows], float)
    return np.where(np.isfinite(values), values, np.nan)


def _keys(metric: Metric) -> tuple[str, str]:
    return f"train_{metric.name}", f"valid_{metric.name}"


def _curves_message(rows: Rows, metric: Metric, best_step: int | None) -> str:
    steps = column(rows, "step")
    values = column(rows, f"valid_{metric.name}")
    best = values[steps == best_step]
    if best.size and np.isfinite(best[-1]):
        value = format_value(best[-1], metric)
        where = f"At its best evaluation, step {best_step} of {steps[-1]:.0f}"
        return f"{where}: validation {metric.name} {value}"
    for split, key in (("Validation", "valid"), ("Training", "train")):
        value = column(rows, f"{key}_{metric.name}")[-1]
        if np.isfinite(value):
            text = format_value(value, metric)
            return f"{split} {metric.name} {text} after {steps[-1]:.0f} steps"
    return f"No finite {metric.name} after {steps[-1]:.0f} steps"


def _curves(axes: Axes, rows: Rows, metric: Metric, best_step: int | None) -> None:
    panel_title(axes, metric.name, lines_below=1)  # in which the best evaluation is named
    if not any(key in row for row in rows for key in _keys(metric)):
        _not_measured(axes, metric)
        return
    steps = column(rows, "step")
    ends = []
    for split, key, color in (("train", "train", MUTED), ("validation", "valid", ACCENT)):
        values = column(rows, f"{key}_{metric.name}")
        if not np.isfinite(values).any():
            continue
        size = 3 if len(rows) <= 40 else 1
        axes.plot(
            steps, values, color=color, marker="o", markersize=size, label=split, clip_on=False
        )
        last = values[np.isfinite(values)][-1]
        text = f"{split} {format_value(last, metric)}" if last == values[-1] else split
        ends.append((last, text, color))
    _curve_panel(axes, metric)
    axes.set_xlim(0, 1.04 * max(steps[-1], 1))  # the same in all panels, even if one diverges
    if best_step:
        _mark_best(axes, best_step, steps, column(rows, f"valid_{metric.name}"))
    label_ends(axes, ends)
    _note_broken(axes, rows, metric)


def _curve_panel(axes: Axes, metric: Metric) -> None:
    log = not metric.higher_is_better and _spans_a_decade(axes)
    if log:
        log_scale(axes)
        panel_title(axes, f"{metric.name}, log scale", lines_below=1)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        _linear_limits(axes, metric)
    if is_percent(metric):
        percent_ticks(axes)
    step_axis(axes)


def _linear_limits(axes: Axes, metric: Metric) -> None:
    """Let an accuracy end at 100 %, and what is better when lower begin at 0 if that is near."""
    values = _finite_values(axes)
    if metric.higher_is_better and is_percent(metric):
        # From the next multiple of 10 % below all values, at most 90 %.
        lowest = np.floor(10 * values.min()) / 10 if values.size else 0.0
        axes.set_ylim(min(lowest, 0.9), 1.0)
    elif not metric.higher_is_better and values.size and 0 <= 2 * values.min() <= values.max():
        axes.set_ylim(0.0, 1.08 * values.max() or 1.0)


def _finite_values(axes: Axes) -> np.ndarray:
    lines = [np.asarray(line.get_ydata(), float) for line in axes.get_lines()]
    values = np.concatenate([np.ones(0), *lines])
    return values[np.isfinite(values)]


def _spans_a_decade(axes: Axes) -> bool:
    values = _finite_values(axes)
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
    share = best_step / steps[-1]
    side = "left" if share < 0.2 else "right" if share > 0.8 else "center"  # stay in the panel
    axes.text(
        best_step, 1.01, "best evaluation", color=ACCENT, fontsize=8, ha=side, va="bottom",
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Label the curves at their right ends, moved apart where they would overlap."""
    axes.get_ylim()  # update the lazy limits before reading the transformation
    to_fraction = axes.transScale + axes.transLimits
    lowest = -np.inf
    for value, text, color in sorted(ends):
        lowest = max(lowest + LABEL_HEIGHT, to_fraction.transform((1.0, value))[1])
        axes.text(
            1.02, lowest, text, color=color, fontsize=8.5, va="center", transform=axes.transAxes
        )


def _not_measured(axes: Axes, metric: Metric) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FAINT)
    axes.text(
        0.5, 0.5, plain(f"{metric.name} was not measured"), color=MUTED, ha="center", va="center",
        transform=axes.transAxes,
    )  # fmt: skip


def _note_broken(axes: Axes, rows: Rows, metric: Metric) -> None:
    """Say below the panel how many evaluations had a value that was not finite."""
    values = [[row[key] for key in _keys(metric) if key in row] for row in rows]
    broken = [any(x is None or not np.isfinite(x) for x in each) for each in values]
    if not any(broken):
        return
    first = rows[broken.index(True)]["step"]
    note = f"not finite in {sum(broken)} of {len(rows)} evaluations,\nfirst at step {first}"
    axes.annotate(
        note, (0, 0), (0, -32), xycoords="axes fraction", textcoords="offset points",
        color=ALARM, fontsize=8.5, va="top",
    )  # fmt: skip
