"""Draw explanations of one answer beside what tells whether to trust them."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from experiments.figures.style import (
    ACCENT,
    ALARM,
    DIVERGING,
    FAINT,
    INK,
    MUTED,
    color_bar,
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
UNSIGNED = "Purples"  # of maps that say how much, not for or against
CURVES = 4  # panels of curves in a row


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


class Layers(NamedTuple):
    """Hold how like maps are to those of networks in which some layers are random.

    Attributes:
      names: of L layers, from the output down.
      cascading: by method ``[L]``, where ever more layers are random.
      independent: the same, where one layer at a time is random.
    """

    names: Sequence[str]
    cascading: Mapping[str, Any]
    independent: Mapping[str, Any]


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
        image = draw_input(left, scene)
        name_axes(left, scene)
        if wide:
            color_bar(figure, image, "value")
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


def draw_input(axes: Axes, scene: Scene, faint: bool = False) -> AxesImage:
    """Draw an input in gray: an image as it is, a sequence from left to right."""
    values = scene.values if scene.what == "image" else scene.values.T
    low, high = float(values.min()), float(values.max())
    high = high + (high - low) * (1.5 if faint else 0) + 1e-9
    aspect = "equal" if scene.what == "image" else "auto"
    origin = "lower" if scene.what == "spectrogram" else "upper"
    image = axes.imshow(
        values, "Greys", vmin=low, vmax=high, aspect=aspect, origin=origin, interpolation="nearest"
    )
    soften_frames(axes)
    return image


def name_axes(axes: Axes, scene: Scene) -> None:
    """Say what lies along the axes."""
    across, up = scene.axes if scene.what != "image" else scene.axes[::-1]
    axes.set_xlabel(plain(across), color=MUTED, fontsize=8)
    axes.set_ylabel(plain(up), color=MUTED, fontsize=8)


def maps_over_input(
    scene: Scene,
    maps: Mapping[str, np.ndarray],
    meanings: Mapping[str, str],
    unsigned: Sequence[str],
    answer: str,
) -> Figure:
    """Draw each map over the input, which is gray below it.

    Args:
      scene: the input.
      maps: by name.
      meanings: of all names.
      unsigned: names of maps that say how much, not for or against, in a color of their own.
      answer: what is explained.
    """
    message = f"Red speaks for {answer}, blue against" + ("; purple: how much" if unsigned else "")
    if scene.what == "text":
        return maps_as_text(scene.letters, maps, meanings, unsigned, message)
    columns = COLUMNS[scene.what]
    rows = -(-len(maps) // columns)
    figure = titled_figure(0.4 + HEIGHTS[scene.what] * rows, message)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    for axes, (name, values) in zip(panels, maps.items(), strict=False):
        draw_input(axes, scene, faint=True)
        draw_map(axes, scene, values, signed=name not in unsigned)
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
    unsigned: Sequence[str],
    message: str,
) -> Figure:
    """Draw the text once for each map, every character or word on a ground of its color."""
    wide = sum(width for _, _, width in places_of(letters, 10**6))
    across = 2 if wide <= LETTERS // 2 else 1  # a short text twice in a row
    columns = min(LETTERS // across, max(wide, LETTERS // 3))
    lines = 1 + places_of(letters, columns)[-1][0]
    rows = -(-len(maps) // across)
    figure = titled_figure(0.5 + rows * (0.45 + 0.12 * across + 0.26 * lines), message)
    panels = figure.subplots(rows, across, squeeze=False).ravel()
    for axes in panels[len(maps) :]:
        axes.set_axis_off()
    for axes, (name, values) in zip(panels, maps.items(), strict=False):
        colors = UNSIGNED if name in unsigned else DIVERGING
        draw_text(axes, letters, values, columns=columns, colors=colors)
        said = textwrap.fill(f"{name}: {meanings[name]}", 110 // across)
        axes.set_title(plain(said), loc="left", fontsize=8, color=INK, pad=3)
    return figure


def draw_text(
    axes: Axes,
    letters: Sequence[str],
    values: np.ndarray,
    columns: int = LETTERS,
    least: int = 1,
    colors: str = DIVERGING,
) -> None:
    """Draw a text in lines, each part on red for values above 0, on blue below.

    On another scale than the diverging one 0 is its light end.
    """
    most = float(abs(values).max()) or 1.0
    places = places_of(letters, columns)
    for letter, value, (row, column, width) in zip(letters, values / most, places, strict=True):
        share = (1 + float(value)) / 2 if colors == DIVERGING else abs(float(value))
        ground = colormaps[colors](share)
        axes.add_patch(Rectangle((column, row), width, 1, facecolor=ground, linewidth=0))
        axes.text(
            column + width / 2,
            row + 0.55,
            plain(seen_letter(letter), "monospace"),
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


def draw_map(axes: Axes, scene: Scene, values: np.ndarray, signed: bool = True) -> None:
    """Draw a map in red and blue, or in purple without signs, the clearer the more it says."""
    values = values if scene.what == "image" else values.T
    most = float(np.percentile(abs(values), BRIGHTEST)) or float(abs(values).max()) or 1.0
    share = np.clip(values / most, -1, 1)
    aspect = "equal" if scene.what == "image" else "auto"
    origin = "lower" if scene.what == "spectrogram" else "upper"
    axes.imshow(
        share,
        DIVERGING if signed else UNSIGNED,
        vmin=-1 if signed else 0,
        vmax=1,
        alpha=0.85 * abs(share) ** 0.7,
        aspect=aspect,
        origin=origin,
        interpolation="nearest",
    )


def faithfulness(
    names: Sequence[str], deletion: np.ndarray, insertion: np.ndarray, wins: np.ndarray
) -> Figure:
    """Draw what the probability does as the input is taken away or given, for each method.

    Args:
      names: of M methods.
      deletion: ``[M + R, S + 1]``, random orders last.
      insertion: the same.
      wins: of four curves, how many are better than all random orders.
    """
    rows = -(-len(names) // CURVES)
    best = [name for name, won in zip(names, wins, strict=True) if won == wins.max()]
    said = ", ".join(best) if len(best) < 4 else f"{len(best)} of {len(names)} maps"
    message = (
        f"Better than random orders most often: {said}"
        if wins.max()
        else ("No map is better than random orders")
    )
    figure = titled_figure(0.7 + 1.65 * rows, message)
    panels = figure.subplots(rows, CURVES, squeeze=False, sharex=True, sharey=True)
    for axes in panels.ravel()[len(names) :]:
        axes.set_axis_off()
    handles = []
    for k, (axes, name) in enumerate(zip(panels.ravel(), names, strict=False)):
        drawn = (deletion, "taken away", ACCENT), (insertion, "given", ALARM)
        handles = [draw_curve(axes, each, k, len(names), *how) for each, *how in drawn]
        axes.set_ylim(-0.02, 1.02)
        quiet(axes)
        strong = "bold" if wins[k] == 4 else "normal"
        title = plain(f"{name} {wins[k]}/4")
        axes.set_title(title, loc="left", fontsize=8, color=INK, fontweight=strong, pad=4)
    for axes in panels[-1]:
        axes.set_xlabel("% of the input", color=MUTED, fontsize=8)
    for axes in panels[:, 0]:
        axes.set_ylabel("probability", color=MUTED, fontsize=8)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=8,
        title="most important parts first; bands: random orders",
        title_fontsize=8,
    )
    return figure


def draw_curve(
    axes: Axes, curves: np.ndarray, place: int, methods: int, label: str, color: str
) -> Line2D:
    """Draw the curve of one method over the band of random orders, and return its line."""
    shares = np.linspace(0, 100, curves.shape[1])
    random = curves[methods:]
    axes.fill_between(shares, random.min(0), random.max(0), color=color, alpha=0.15, linewidth=0)
    return axes.plot(shares, curves[place], color=color, linewidth=1.6, label=label)[0]


def sanity(
    random: Mapping[str, Any], verdicts: Sequence[str], allowed: float, layers: Layers
) -> Figure:
    """Draw how like the maps of networks with random layers are to that of the trained one.

    Args:
      random: by method ``[2, R]``, of networks without any trained layer: rank correlations of the
        maps and of their absolute values.
      verdicts: of the methods.
      allowed: the largest mean of a map that passes.
      layers: the same of the quick methods, layer by layer.
    """
    passed = sum(each == "passes" for each in verdicts)
    height = 1.3 + 0.27 * len(random)
    figure = titled_figure(height, f"{passed} of {len(random)} maps show what was learned")
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    draw_likeness(left, random, verdicts, allowed)
    draw_layers(right, layers, len(random))
    return figure


def draw_likeness(
    axes: Axes, random: Mapping[str, Any], verdicts: Sequence[str], allowed: float
) -> None:
    """Draw a row for each method: means of both rank correlations, and thin lines of all."""
    axes.axvspan(-1.05, allowed, color=FAINT, alpha=0.6, zorder=0)
    for row, (name, word) in enumerate(zip(random, verdicts, strict=True)):
        for values, mark, shift in zip(np.asarray(random[name]), "oD", (-0.12, 0.12), strict=True):
            color = ACCENT if word == "passes" else ALARM if word == "does not pass" else MUTED
            axes.plot([values.min(), values.max()], [row + shift] * 2, color=color, linewidth=1)
            face = color if mark == "D" else "white"
            axes.plot(values.mean(), row + shift, mark, color=color, markersize=5, mfc=face)
    words = [f"{name}: {word}" for name, word in zip(random, verdicts, strict=True)]
    axes.set_yticks(range(len(words)), [plain(each) for each in words])
    axes.set_ylim(len(words) - 0.5, -0.5)
    axes.set_xlim(-1.05, 1.05)
    panel_title(axes, "without any trained layer")
    axes.set_xlabel("rank correlation, hollow: with signs, full: without", color=MUTED, fontsize=8)
    quiet(axes)
    axes.tick_params(axis="y", labelsize=8, colors=INK)


def draw_layers(axes: Axes, layers: Layers, rows: int) -> None:
    """Draw a table of the quick methods, its rows beside those of all methods."""
    values = np.full((rows, 2 * len(layers.names)), np.nan)
    for row, (name, own) in enumerate(layers.cascading.items()):
        values[row] = [*np.asarray(own), *np.asarray(layers.independent[name])]
    axes.imshow(values, "Oranges", vmin=0, vmax=1.3, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(values):
        text = "" if np.isnan(value) else f"{value:.1f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=INK)
    axes.axvline(len(layers.names) - 0.5, color="white", linewidth=4)
    words = [f"+ {name}" if k else name for k, name in enumerate(layers.names)]
    words += [f"{name} alone" for name in layers.names]
    for column, word in enumerate(words):  # just below the table, in the rows of slow methods
        below = len(layers.cascading) - 0.35
        how: dict[str, Any] = {"rotation": 90, "ha": "center", "va": "top"}
        axes.text(column, below, plain(word), fontsize=7.5, color=INK, **how)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylim(rows - 0.5, -0.5)
    panel_title(axes, "which layers are random")
    soften_frames(axes)
    axes.spines[:].set_visible(False)


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
