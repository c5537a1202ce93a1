"""Define the colors and sizes of all figures, and the parts that they share."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

INK = "#22272e"
MUTED = "#7d8590"
FAINT = "#dfe3e8"
ACCENT = "#1f6fb4"
ALARM = "#c2410c"
COLORS = (ACCENT, ALARM, "#2f8f5b", "#7a52a8", "#b08900", "#0f8b8d", "#c85a8a", "#7d8590")
DIVERGING = "RdBu_r"
ALARM_SHADES = LinearSegmentedColormap.from_list("alarm", ["#fbdcc9", "#e8590c", "#8f2d04"])
DOTS_PER_INCH = 200
WIDTH = 8.0  # inches


def plain(text: object, family: str = "sans-serif") -> str:
    r"""Return a text in the form in which matplotlib shows it as it is.

    A pair of dollar signs would be read as a formula, a legend leaves out what begins with an
    underscore, and of a character that the font does not have one is warned. So every text that
    may come from a user goes through here, once; U+FFFD stands for what cannot be drawn.

    Example:
      >>> print(plain("cost in $"))
      cost in \$
    """
    known = drawable(family)
    drawn = "".join(c if c == "\n" or ord(c) in known else "\ufffd" for c in str(text))
    escaped = drawn.replace("$", r"\$")
    return f"\u200b{escaped}" if escaped.startswith("_") else escaped  # a space without width


@functools.cache
def drawable(family: str) -> frozenset[int]:
    """Return the code points of which a family of fonts has a picture, regular and bold."""
    fonts = (get_font(findfont(FontProperties(family=family, weight=each))) for each in (400, 700))
    return frozenset.intersection(*(frozenset(font.get_charmap()) for font in fonts))


def log_scale(axes: Axes) -> None:
    """Make the vertical axis logarithmic, with ticks at 1, 2 and 5 written as plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def titled_figure(height: float, message: str, width: float = WIDTH) -> Figure:
    """Return an empty figure of `width` by `height` inches with the message as its title."""
    figure = Figure((width, height), DOTS_PER_INCH, facecolor="white", layout="constrained")
    text = plain(message)
    figure.suptitle(text, x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold", wrap=True)
    return figure


def message_figure(message: str) -> Figure:
    """Return a figure that shows only a message, for when there is nothing to draw."""
    figure = Figure((WIDTH, 1.0), DOTS_PER_INCH, facecolor="white")
    text = plain(message)
    figure.suptitle(
        text, x=0.5, y=0.5, ha="center", va="center", color=INK, fontsize=12, fontweight="bold"
    )
    return figure


def panel_title(axes: Axes, text: str, lines_below: int = 0) -> None:
    """Say above a panel what it shows, with room for small lines of text between the two."""
    pad = 6 + 11 * lines_below
    axes.set_title(plain(text), loc="left", color=INK, fontsize=10, pad=pad)


def quiet(axes: Axes) -> None:
    """Draw grid, spines and ticks faintly, so that they stand behind the data."""
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=MUTED, labelsize=8, which="both", length=0)


def step_axis(axes: Axes, name: str = "training step") -> None:
    """Let the horizontal axis of a quiet panel count whole numbers from zero."""
    axes.set_xlabel(name, color=MUTED)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    quiet(axes)


def format_percent(fraction: float, decimals: int = 1) -> str:
    """Format a fraction in percent, without rounding anything below 1 up to 100 %."""
    percent = round(100 * fraction, decimals)
    if percent == 100 and fraction < 1:
        percent -= 10.0**-decimals
    return f"{percent:.{decimals}f} %"


def tiled_images(
    message: str,
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
    cmap: str,
    limits: tuple[float, float],
    margin: float = 0.0,
) -> Figure:
    """Return a figure of small captioned images in rows.

    All are drawn in one Axes, because laying out forty Axes takes seconds.

    Args:
      message: the title of the figure.
      images: [height, width], or [height, width, 3] in color, each; all of one shape.
      captions: one text below each image.
      columns: images in a row.
      cmap: the name of matplotlib's color map.
      limits: the values at the two ends of the color map.
      margin: inches of the width that are left free, such as for a color bar.
    """
    height, width = images[0].shape[:2]
    tall, wide = 1.0 * height / width, 1.0
    across, down = wide + 0.22, tall + 0.34 * columns / 8
    rows = -(-len(images) // columns)
    figure = titled_figure(0.35 + (WIDTH - margin) / (columns * across) * rows * down, message)
    axes = figure.subplots()
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = (i % columns) * across, (i // columns) * down
        axes.imshow(image, cmap, vmin=limits[0], vmax=limits[1], extent=(x, x + wide, y + tall, y))
        axes.add_patch(Rectangle((x, y), wide, tall, fill=False, color=FAINT, linewidth=0.6))
        text = plain(caption)
        axes.text(x + wide / 2, y + tall + 0.04, text, color=INK, fontsize=8, ha="center", va="top")
    axes.set_xlim(-0.11, columns * across - 0.11)
    axes.set_ylim(rows * down - 0.05, -0.05)
    axes.set_axis_off()
    return figure


def soften_frames(*panels: Axes) -> None:
    """Draw the frames of the panels faintly and their ticks without marks."""
    for axes in panels:
        axes.spines[:].set_color(FAINT)
        axes.tick_params(colors=MUTED, labelsize=8, length=0)


def heat_map(axes: Axes, values: np.ndarray) -> AxesImage:
    """Draw a matrix with diverging colors centered at zero, NaN in gray."""
    low, high = symmetric_limits(values)
    axes.set_facecolor(MUTED)  # without it NaN would look like zero
    return axes.imshow(
        values, DIVERGING, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )


def symmetric_limits(values: np.ndarray) -> tuple[float, float]:
    """Return color limits centered at zero that hold all finite values."""
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    return (-largest, largest) if largest else (-1.0, 1.0)


def color_bar(figure: Figure, image: AxesImage | PathCollection, label: str) -> None:
    """Add a labeled color bar beside an image, or dots."""
    axes: Any = image.axes
    bar = figure.colorbar(image, ax=axes, aspect=30, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    bar.set_label(plain(label), color=MUTED)
