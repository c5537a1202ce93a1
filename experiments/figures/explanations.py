"""Draw explanations of one answer beside what tells whether to trust them."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.style import (
    ACCENT,
    COLORS,
    DIVERGING,
    FAINT,
    INK,
    MUTED,
    heat_map,
    panel_title,
    plain,
    quiet,
    soften_frames,
    titled_figure,
)

COLUMNS = {"image": 4, "series": 2, "spectrogram": 2}  # of maps in a row
HEIGHTS = {"image": 2.55, "series": 1.8, "spectrogram": 1.8}  # of a row, inches
LETTERS = 60  # in a line
LINES = 9  # for which an input has room at least
SHOWN = 8  # answers
BRIGHTEST = 99  # percentile of a map's absolute values that has the full color
STYLES = ("-", "--")  # of more methods than there are colors


class Scene(NamedTuple):
    """Hold an input without padding, and how it is drawn.

    Attributes:
      values: an image ``[H, W]`` or a sequence ``[T, F]``.
      what: "image", "series", "text" or "spectrogram".
      axes: names of the two axes.
      letters: of a text, a character or word for each step.
    """

    values: np.ndarray
    what: str
    axes: tuple[str, str]
    letters: Sequence[str] = ""


class Panel(NamedTuple):
    """Hold what a probability does as an input is taken away or given.

    Attributes:
      title: which, in a few words.
      curves: of each method ``[M, S + 1]``.
      random: of random orders ``[R, S + 1]``.
    """

    title: str
    curves: np.ndarray
    random: np.ndarray


def input_and_answers(
    scene: Scene, answers: Sequence[str], probabilities: np.ndarray, target: int
) -> Figure:
    """Draw the input, and bars of the likeliest answers, that which is explained in color."""
    wide = scene.what != "image"
    figure = titled_figure(3.0, f"{answers[target]}: probability {probabilities[target]:.3f}")
    left, right = figure.subplots(1, 2, width_ratios=[2.6 if wide else 1, 1])
    if scene.what == "text":
        draw_text(left, scene.letters, np.zeros(len(scene.letters)), columns=40, least=LINES)
    else:
        draw_input(left, scene)
        name_axes(left, scene)
    order = np.argsort(-probabilities, kind="stable")[:SHOWN]
    colors = [ACCENT if k == target else FAINT for k in order]
    right.barh(range(len(order)), probabilities[order], color=colors)
    for place, k in enumerate(order):
        right.text(
            probabilities[k] + 0.02,
            place,
            f"{probabilities[k]:.3f}",
            va="center",
            fontsize=8,
            color=MUTED,
        )
    right.set_yticks(range(len(order)), [plain(answers[k]) for k in order])
    right.set_xlim(0, 1.25)
    right.invert_yaxis()
    right.set_xticks([])
    panel_title(right, "probability")
    quiet(right)
    right.grid(visible=False)
    right.tick_params(axis="y", labelsize=9, colors=INK)
    return figure


def draw_input(axes: Axes, scene: Scene, faint: bool = False) -> None:
    """Draw an input in gray: an image as it is, a sequence from left to right."""
    values = scene.values if scene.what == "image" else scene.values.T
    low, high = float(values.min()), float(values.max())
    high = high + (high - low) * (1.5 if faint else 0) + 1e-9
    aspect = "equal" if scene.what == "image" else "auto"
    origin = "lower" if scene.what == "spectrogram" else "upper"
    axes.imshow(
        values, "Greys", vmin=low, vmax=high, aspect=aspect, origin=origin, interpolation="nearest"
    )
    soften_frames(axes)


def name_axes(axes: Axes, scene: Scene) -> None:
    """Say what lies along the axes."""
    across, up = scene.axes if scene.what != "image" else scene.axes[::-1]
    axes.set_xlabel(plain(across), color=MUTED, fontsize=8)
    axes.set_ylabel(plain(up), color=MUTED, fontsize=8)


def maps_over_input(
    scene: Scene, maps: Mapping[str, np.ndarray], meanings: Mapping[str, str], message: str
) -> Figure:
    """Draw each map over the input, which is gray below it."""
    if scene.what == "text":
        return maps_as_text(scene.letters, maps, meanings, message)
    columns = COLUMNS[scene.what]
    rows = -(-len(maps) // columns)
    figure = titled_figure(0.4 + HEIGHTS[scene.what] * rows, message)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    for axes, (name, values) in zip(panels, maps.items(), strict=False):
        draw_input(axes, scene, faint=True)
        draw_map(axes, scene, values)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(plain(name), loc="left", fontsize=9, color=INK, pad=4)
        said = textwrap.fill(meanings[name], 26 if columns > 2 else 58)
        axes.set_xlabel(said, fontsize=7.5, color=MUTED, loc="left", labelpad=3)
    if scene.what != "image":
        panels[0].set_ylabel(plain(scene.axes[1]), color=MUTED, fontsize=7)
    return figure


def maps_as_text(
    letters: Sequence[str],
    maps: Mapping[str, np.ndarray],
    meanings: Mapping[str, str],
    message: str,
) -> Figure:
    """Draw the text once for each map, every character or word on a ground of its color."""
    rows = 1 + places_of(letters, LETTERS)[-1][0]
    figure = titled_figure(0.5 + len(maps) * (0.55 + 0.26 * rows), message)
    for axes, (name, values) in zip(
        figure.subplots(len(maps), 1, squeeze=False).ravel(), maps.items(), strict=True
    ):
        draw_text(axes, letters, values)
        axes.set_title(
            f"{plain(name)}: {plain(meanings[name])}", loc="left", fontsize=8, color=INK, pad=3
        )
    return figure


def draw_text(
    axes: Axes,
    letters: Sequence[str],
    values: np.ndarray,
    columns: int = LETTERS,
    least: int = 1,
) -> None:
    """Draw a text in lines, each part on red for values above 0, on blue below."""
    most = float(abs(values).max()) or 1.0
    places, colors = places_of(letters, columns), colormaps[DIVERGING]
    for letter, value, (row, column, width) in zip(letters, values / most, places, strict=True):
        ground = colors((1 + float(value)) / 2)
        axes.add_patch(Rectangle((column, row), width, 1, facecolor=ground, linewidth=0))
        axes.text(
            column + width / 2,
            row + 0.55,
            plain(seen_letter(letter)),
            ha="center",
            va="center",
            fontsize=10,
            family="monospace",
            color="white" if abs(value) > 0.65 else INK,
        )
    axes.set_xlim(0, columns)
    axes.set_ylim(max(1 + places[-1][0], least), 0)
    axes.set_axis_off()


def places_of(letters: Sequence[str], columns: int) -> list[tuple[int, int, int]]:
    """Return line, column and width of each character or word; a word has room on both sides.

    Example:
      >>> places_of(["a", "b", "two", "words"], 10)
      [(0, 0, 1), (0, 1, 1), (0, 2, 5), (1, 0, 7)]
    """
    found, row, column = [], 0, 0
    for letter in letters:
        width = len(letter) + 2 * (len(letter) > 1)
        if column and column + width > columns:
            row, column = row + 1, 0
        found.append((row, column, width))
        column += width
    return found


def seen_letter(letter: str) -> str:
    """Return a character that can be seen: a dot for a space, a pilcrow for a line's end."""
    if letter == "\n":
        return "\u00b6"
    return letter if letter.isprintable() and letter != " " else "\u00b7"


def draw_map(axes: Axes, scene: Scene, values: np.ndarray) -> None:
    """Draw a map in red and blue, the clearer the more it says."""
    values = values if scene.what == "image" else values.T
    most = float(np.percentile(abs(values), BRIGHTEST)) or float(abs(values).max()) or 1.0
    share = np.clip(values / most, -1, 1)
    aspect = "equal" if scene.what == "image" else "auto"
    origin = "lower" if scene.what == "spectrogram" else "upper"
    axes.imshow(
        share,
        DIVERGING,
        vmin=-1,
        vmax=1,
        alpha=0.85 * abs(share) ** 0.7,
        aspect=aspect,
        origin=origin,
        interpolation="nearest",
    )


def curve_panels(
    names: Sequence[str], deletion: Any, insertion: Any, baselines: Sequence[str]
) -> list[Panel]:
    """Return four panels: taken away and given, for two baselines ``[2, M + R, S + 1]``."""
    return [
        Panel(f"{what}: {base}", each[k, : len(names)], each[k, len(names) :])
        for k, base in enumerate(baselines)
        for what, each in (
            ("taken away, in its place", deletion),
            ("given, in place of", insertion),
        )
    ]


def faithfulness(panels: Sequence[Panel], names: Sequence[str]) -> Figure:
    """Draw curves of all methods beside the band of random orders."""
    figure = titled_figure(6.4, "Probability of the answer, the most important parts first")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    lines = []
    for axes, panel in zip(grid.ravel(), panels, strict=True):
        lines = draw_curves(axes, panel, names)
    for axes in grid[-1]:
        axes.set_xlabel("% of the input", color=MUTED, fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("probability", color=MUTED, fontsize=8)
    figure.legend(handles=lines, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def draw_curves(axes: Axes, panel: Panel, names: Sequence[str]) -> list:
    """Draw one panel, and return its lines for the legend."""
    shares = np.linspace(0, 100, panel.random.shape[1])
    lines = [
        axes.plot(shares, curve, linewidth=1.3, label=plain(name), **style_of(k))[0]
        for k, (name, curve) in enumerate(zip(names, panel.curves, strict=True))
    ]
    band = axes.fill_between(
        shares, panel.random.min(0), panel.random.max(0), color=FAINT, label="random orders"
    )
    panel_title(axes, panel.title)
    axes.set_ylim(-0.02, 1.02)
    quiet(axes)
    return [*lines, band]


def style_of(place: int) -> dict[str, Any]:
    """Return color and dashes of a method."""
    return {"color": COLORS[place % len(COLORS)], "linestyle": STYLES[place // len(COLORS) % 2]}


def sanity(
    cascading: Mapping[str, Any],
    independent: Mapping[str, Any],
    layers: Sequence[str],
    names: Sequence[str],
) -> Figure:
    """Draw how like the maps of networks with random layers are to that of the trained one."""
    figure = titled_figure(3.6, "A map that shows what was learned falls to 0 with random weights")
    left, right = figure.subplots(1, 2, sharey=True)
    marks = range(len(layers) + 1)
    for name, values in cascading.items():
        style = style_of(names.index(name))
        left.plot(marks, [1.0, *values], marker="o", markersize=3, label=plain(name), **style)
        apart = np.asarray(independent[name])
        right.plot(range(1, len(layers) + 1), apart, marker="o", **style | {"linestyle": "none"})
    left.set_xticks(marks, ["trained", *(plain(f"+ {name}") for name in layers)])
    right.set_xticks(range(1, len(layers) + 1), [plain(name) for name in layers])
    panel_title(left, "ever more layers, from the output down")
    panel_title(right, "one layer at a time")
    left.set_ylim(-1.05, 1.05)
    left.set_ylabel("rank correlation", color=MUTED, fontsize=8)
    right.margins(x=0.3)
    for axes in (left, right):
        quiet(axes)
        axes.axhspan(-0.3, 0.3, color=FAINT, alpha=0.5, zorder=0)
        axes.axhline(0, color=MUTED, linewidth=0.6)
    handles = left.get_lines()[: len(cascading)]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def agreement(names: Sequence[str], values: np.ndarray) -> Figure:
    """Draw rank correlations ``[M, M]`` of the maps."""
    mean = float((values.sum() - len(values)) / max(1, values.size - len(values)))
    figure = titled_figure(4.8, f"Two maps agree by {mean:.2f} on average (1: the same order)")
    axes = figure.subplots()
    heat_map(axes, values).set_clim(-1, 1)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            color = "white" if abs(value) > 0.6 else INK
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=7, color=color)
    words = [plain(name) for name in names]
    axes.set_xticks(range(len(names)), words, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), words)
    soften_frames(axes)
    axes.tick_params(labelsize=8, colors=INK)
    return figure
