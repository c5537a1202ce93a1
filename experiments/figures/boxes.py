"""Draw how well explanations find the boxes that decide."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.style import ACCENT, ALARM, FAINT, INK, MUTED, plain, quiet, titled_figure

COLUMNS = 4
BRIGHTEST = 99  # percentile that has the full color


def areas(title: str, scores: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw bars of both areas for each method, the best product first."""
    order = sorted(
        scores, key=lambda name: -scores[name]["precision_area"] * scores[name]["recall_area"]
    )
    best = "none is better than random" if order[0] == "random" else f"{order[0]} is best"
    figure = titled_figure(0.9 + 0.36 * len(order), f"{title}: {best}")
    axes = figure.subplots()
    for shift, kind, color in ((-0.19, "precision", ACCENT), (0.19, "recall", ALARM)):
        values = [scores[name][f"{kind}_area"] for name in order]
        axes.barh(np.arange(len(order)) + shift, values, 0.36, color=color, label=kind)
    axes.set_yticks(range(len(order)), [plain(name) for name in order])
    axes.set_xlim(0, 1)
    axes.invert_yaxis()
    axes.set_xlabel("area under the curve", color=MUTED)
    quiet(axes)
    axes.tick_params(axis="y", labelsize=9, colors=INK)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def examples(title: str, found: Any) -> Figure:
    """Draw the maps of the first sequence, with the box outlined."""
    rows = -(-(len(found.maps) + 1) // COLUMNS)
    figure = titled_figure(0.4 + 2.1 * rows, f"{title}: maps should be dark in the outline alone")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    shown = {"the sequence": found.xs - found.xs.min()} | found.maps
    times, features = np.nonzero(found.inside[0])
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, maps) in zip(panels, shown.items(), strict=False):
        size = abs(maps[0].T)
        most = float(np.percentile(size, BRIGHTEST)) or 1.0
        axes.imshow(size, "Greys", vmin=0, vmax=most, interpolation="nearest")
        corner = times.min() - 0.5, features.min() - 0.5
        wide, tall = int(np.ptp(times)) + 1, int(np.ptp(features)) + 1
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, color=ALARM, linewidth=1.2))
        axes.add_patch(
            Rectangle((-0.5, -0.5), *maps[0].shape, fill=False, color=FAINT, linewidth=0.8)
        )
        axes.set_title(plain(name), fontsize=8, color=INK)
    return figure
