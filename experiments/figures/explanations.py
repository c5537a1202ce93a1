"""Draw explanations of one answer beside what tells whether to trust them."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.style import (
    COLORS,
    DIVERGING,
    FAINT,
    INK,
    MUTED,
    heat_map,
    panel_title,
    quiet,
    soften_frames,
    symmetric_limits,
    titled_figure,
)

COLUMNS = 5  # of maps in a row


class Curves(NamedTuple):
    """Hold what a probability does as an image is taken away or given.

    Attributes:
      title: which, in a few words.
      by_method: the curve ``[S + 1]`` of each method.
      random: curves of random orders ``[R, S + 1]``.
    """

    title: str
    by_method: Mapping[str, np.ndarray]
    random: np.ndarray


def explanation(
    message: str,
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    curves: list[Curves],
    agreement: np.ndarray,
    sanity: Mapping[str, np.ndarray],
    layers: list[str],
) -> Figure:
    """Draw the input, every map, curves, agreement of the maps, and maps of random networks.

    Args:
      message: the title.
      image: ``[height, width]``.
      maps: by name, ``[height, width]`` each.
      curves: a panel for each.
      agreement: rank correlations ``[M, M]`` of the maps, in their order.
      sanity: by method, rank correlations ``[L]`` with the map of the trained network, as ever
        more layers are random.
      layers: names, in the order in which they become random.
    """
    rows = -(-(len(maps) + 1) // COLUMNS)
    figure = titled_figure(1.9 * rows + 6.9, message, width=10.0)
    parts = figure.subfigures(3, 1, height_ratios=[1.9 * rows, 2.6, 3.6], squeeze=False)
    top, middle, bottom = parts[:, 0]
    _draw_maps(top.subplots(rows, COLUMNS, squeeze=False).ravel(), image, maps)
    colors = dict(zip(maps, (*COLORS, INK, FAINT), strict=False))
    panels = middle.subplots(1, len(curves), sharey=True)
    for axes, each in zip(np.atleast_1d(panels), curves, strict=True):
        _draw_curves(axes, each, colors)
    np.atleast_1d(panels)[0].set_ylabel("probability", color=MUTED, fontsize=8)
    lines = np.atleast_1d(panels)[0].get_lines()
    middle.legend(handles=list(lines), loc="outside right center", frameon=False, fontsize=7)
    left, right = bottom.subplots(1, 2)
    _draw_agreement(left, list(maps), agreement)
    _draw_sanity(right, sanity, layers, colors)
    return figure


def _draw_maps(panels: np.ndarray, image: np.ndarray, maps: Mapping[str, np.ndarray]) -> None:
    for axes in panels:
        axes.set_axis_off()
    panels[0].imshow(image, "gray_r")
    panels[0].set_title("the image", fontsize=9, color=INK)
    for axes, (name, values) in zip(panels[1:], maps.items(), strict=False):
        low, high = symmetric_limits(values)
        axes.imshow(values, DIVERGING, vmin=low, vmax=high, interpolation="nearest")
        axes.contour(image, levels=[0.5 * image.max()], colors=INK, linewidths=0.5)
        axes.set_title(name, fontsize=9, color=INK)


def _draw_curves(axes: Axes, curves: Curves, colors: Mapping[str, str]) -> None:
    shares = np.linspace(0, 100, curves.random.shape[1])
    for name, curve in curves.by_method.items():
        axes.plot(shares, curve, color=colors[name], linewidth=1.2, label=name)
    axes.fill_between(
        shares, curves.random.min(0), curves.random.max(0), color=FAINT, label="random orders"
    )
    axes.plot(shares, curves.random.mean(0), color=MUTED, linestyle="--", label="random, mean")
    panel_title(axes, curves.title)
    axes.set_xlabel("% of the pixels", color=MUTED, fontsize=8)
    axes.set_ylim(-0.02, 1.02)
    quiet(axes)


def _draw_agreement(axes: Axes, names: list[str], agreement: np.ndarray) -> None:
    image = heat_map(axes, agreement)
    image.set_clim(-1, 1)
    for i, row in enumerate(agreement):
        for j, value in enumerate(row):
            color = "white" if abs(value) > 0.6 else INK
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=6, color=color)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    soften_frames(axes)
    axes.tick_params(labelsize=7)
    panel_title(axes, "Do the maps agree? (rank correlation)")


def _draw_sanity(
    axes: Axes, sanity: Mapping[str, np.ndarray], layers: list[str], colors: Mapping[str, str]
) -> None:
    for name, values in sanity.items():
        axes.plot([1.0, *values], color=colors[name], marker="o", markersize=3, label=name)
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.set_xticks(range(len(layers) + 1), ["trained", *(f"+ {name}" for name in layers)])
    axes.set_ylim(-0.6, 1.05)
    axes.set_xlabel("layers that are random again, from the output down", color=MUTED, fontsize=8)
    panel_title(axes, "Do they show the network? (they must fall to 0)")
    quiet(axes)
    axes.legend(frameon=False, fontsize=7)
