"""Draw one number of each layer over a training, such as the norm of its gradient."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.curves import Rows, column
from experiments.figures.style import INK, log_scale, plain, step_axis, titled_figure

MOST_NAMED = 14  # lines, beside which names find room
SHADES = colormaps["viridis"]


def layer_curves(rows: Rows, names: Mapping[str, str]) -> Figure:
    """Draw a line for each layer, dark for the first and light for the last one.

    Args:
      rows: one mapping for each evaluation, with ``"step"``.
      names: the key of each layer in a row, and its name. Of more than fourteen, the first, the
        last and those that end largest and smallest are named.
    """
    found = {name: column(rows, key) for key, name in names.items()}
    figure = titled_figure(0.9 + max(2.6, 0.17 * min(len(found), MOST_NAMED)), message(found))
    axes = figure.subplots()
    steps = column(rows, "step")
    colors = dict(zip(found, SHADES(np.linspace(0, 0.88, len(found))), strict=True))
    for name, values in found.items():
        seen = np.where(values > 0, values, np.nan)
        axes.plot(steps, seen, ".-", color=colors[name], linewidth=1.4, markersize=4)
    log_scale(axes)
    step_axis(axes)
    name_lines(axes, {name: (colors[name], found[name]) for name in worth_naming(found)})
    return figure


def message(found: Mapping[str, np.ndarray]) -> str:
    """Say which layers' last numbers are the largest and smallest, and how far they are apart."""
    ends = ends_of(found)
    if len(ends) < 2:
        return "One layer"
    least, most = min(ends, key=ends.__getitem__), max(ends, key=ends.__getitem__)
    if ends[least] == 0:
        return f"At the end no gradient arrives at {least}"
    return f"At the end the gradient of {most} is {ends[most] / ends[least]:.3g} times {least}'s"


def ends_of(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the last finite number of each layer that has any."""
    finite = {name: values[np.isfinite(values)] for name, values in found.items()}
    return {name: float(values[-1]) for name, values in finite.items() if values.size}


def worth_naming(found: Mapping[str, np.ndarray]) -> list[str]:
    """Return all names, or of many those at both ends of the order and of the numbers."""
    ends = ends_of(found)
    if len(found) <= MOST_NAMED or not ends:
        return list(found)
    order = sorted(ends, key=ends.__getitem__)
    return list(dict.fromkeys([next(iter(found)), list(found)[-1], order[0], order[-1]]))


def name_lines(axes: Axes, lines: Mapping[str, tuple[Sequence[float], np.ndarray]]) -> None:
    """Write the names beside the lines, in the order of their ends."""
    ends = ends_of({name: values for name, (_, values) in lines.items()})
    for name in sorted(ends, key=ends.__getitem__, reverse=True):
        axes.plot([], [], color=lines[name][0], label=plain(name), linewidth=2)
    if ends:
        axes.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=8.5,
            labelcolor=INK, labelspacing=0.3,
        )  # fmt: skip
