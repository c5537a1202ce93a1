"""Draw one metric of all members of a sweep against another: what goes together in a population."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from experiments.figures.curves import format_value, is_percent, percent_ticks
from experiments.figures.style import (
    FAINT,
    INK,
    MUTED,
    color_bar,
    panel_title,
    plain,
    quiet,
    titled_figure,
)
from experiments.harness.plan import DIVERGED
from experiments.harness.program import Figure
from experiments.sweep.ranking import Configuration
from recurrent.training.task import Metric

BEST = 0.1  # of the members, whose range the title tells
HUES = "viridis"

Ranked = Sequence[Configuration]


def all_of(configurations: Ranked, metric: Metric, names: Sequence[str]) -> Iterator[Figure]:
    """Draw the metric against each of the others.

    Args:
      configurations: of a sweep that has ended.
      metric: the one that people read.
      names: of the other metrics.
    """
    for name in names:
        yield Figure(
            f"{metric.name}_by_{name}",
            f"{metric.name} against {name}".capitalize(),
            f"A dot is one training: the validation {metric.name} and {name} at its best "
            f"evaluation. {without_diverged(configurations)}".strip(),
            scatter(configurations, metric, name),
        )


def scatter(configurations: Ranked, metric: Metric, name: str) -> Drawing:
    """Draw a dot for each member, in the color of its value of the first field of numbers."""
    xs, ys, members = known_pairs(configurations, metric, name)
    figure = titled_figure(4.2, message(xs, ys, metric, name))
    axes = figure.subplots()
    field = first_field_of_numbers(configurations)
    values = np.array([each[field] for each in members] if field else [], float)
    shades: dict[str, Any] = {"color": MUTED}
    if field:
        shades = {"c": values, "cmap": HUES}
    dots = axes.scatter(xs, ys, s=26, alpha=0.8, linewidths=0.3, edgecolors="white", **shades)
    if field and len(xs):
        color_bar(figure, dots, field)
    best_range(axes, xs, ys, metric)
    quiet(axes)
    axes.set_xlabel(plain(f"validation {name}"), color=MUTED)
    panel_title(axes, f"validation {metric.name}")
    if is_percent(metric):
        percent_ticks(axes)
    return figure


def known_pairs(
    configurations: Ranked, metric: Metric, name: str
) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Return both numbers of each member that has them and did not diverge, and the members."""
    members = [each for own in reversed(configurations) for each in own.members]  # best on top
    keys = f"valid_{name}", f"valid_{metric.name}"
    members = [
        each
        for each in members
        if each["status"] != DIVERGED and None not in [each.get(key) for key in keys]
    ]
    xs, ys = (np.array([each[key] for each in members], float) for key in keys)
    return xs, ys, members


def best_range(axes: Axes, xs: np.ndarray, ys: np.ndarray, metric: Metric) -> None:
    """Shade where the best members lie, and draw a line at zero where it is within reach."""
    if len(xs):
        axes.axvspan(*range_of_best(xs, ys, metric), color=FAINT, alpha=0.6, zorder=0, linewidth=0)
    if len(xs) and xs.min() <= 0 <= xs.max():
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":", zorder=1)


def range_of_best(xs: np.ndarray, ys: np.ndarray, metric: Metric) -> tuple[float, float]:
    """Return the range of the one number over the tenth of the members best in the other.

    Members that are as good as the last of these count too.
    """
    scores = metric.score(ys)
    count = max(1, round(BEST * len(xs)))
    own = xs[scores >= np.sort(scores)[-count]]
    return float(own.min()), float(own.max())


def message(xs: np.ndarray, ys: np.ndarray, metric: Metric, name: str) -> str:
    """Say in which range the best members lie."""
    if not len(xs):
        return "No member has both numbers"
    low, high = range_of_best(xs, ys, metric)
    best = format_value(ys[np.argmax(metric.score(ys))], metric)
    whole = f"all: {xs.min():.2g} to {xs.max():.2g}"
    return f"The best tenth (up to {best}) has {name} {low:.2g} to {high:.2g}; {whole}"


def first_field_of_numbers(configurations: Ranked) -> str:
    """Return the first swept field whose values are different numbers; nothing where none is."""
    for field in configurations[0].values:
        values = {each.values[field] for each in configurations}
        if len(values) > 1 and all(type(value) in (int, float) for value in values):
            return field
    return ""


def without_diverged(configurations: Ranked) -> str:
    """Say how many members are not drawn because they diverged."""
    lost = sum(m["status"] == DIVERGED for each in configurations for m in each.members)
    shaded = "Shaded: the range of the best tenth."
    return f"{shaded} {lost} that diverged have no dot." if lost else shaded
