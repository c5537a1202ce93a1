"""Draw rows of small images with a name before each row."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.style import INK, WIDTH, plain, titled_figure
from recurrent.errors import ArgumentError

GAP = 0.08  # between images, a share of their size
MARGIN = 1.3  # inches for the names of the rows


def mosaic(
    message: str,
    images: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str] = (),
    limits: tuple[float, float] = (0, 255),
) -> Figure:
    """Return a figure of images in rows, black on white, in one Axes.

    Args:
      message: the title.
      images: ``[R, C, H, W]``; an image of NaN leaves its place empty.
      rows: a name for each row.
      columns: a text above each column; none where there are none.
      limits: the values of white and of black.

    Raises:
      ValueError: for images of another rank, none, or not one name for each row and column.
    """
    sizes = np.shape(images)
    if len(sizes) != 4 or not np.size(images) or len(rows) != sizes[0]:
        raise ArgumentError(
            f"images: expected [R, C, H, W] and R names, got {sizes} and {len(rows)} names."
        )
    if columns and len(columns) != sizes[1]:
        raise ArgumentError(f"columns: expected {sizes[1]} texts or none, got {len(columns)}.")
    tall = sizes[2] / sizes[3]
    inches = (WIDTH - MARGIN) / sizes[1]
    figure = titled_figure(0.6 + 0.2 * bool(columns) + inches * sizes[0] * tall, message)
    axes = figure.subplots()
    for (row, column), _ in np.ndenumerate(np.empty(sizes[:2])):
        x, y = column * (1 + GAP), row * (1 + GAP) * tall
        box = (x, x + 1, y + tall, y)
        axes.imshow(images[row, column], "Greys", vmin=limits[0], vmax=limits[1], extent=box)
    _name(axes, rows, columns, tall)
    axes.set_xlim(-0.02, sizes[1] * (1 + GAP))
    axes.set_ylim(sizes[0] * (1 + GAP) * tall, -0.02)
    return figure


def _name(axes: Axes, rows: Sequence[str], columns: Sequence[str], tall: float) -> None:
    """Write the names as labels of ticks without marks."""
    places = [(row * (1 + GAP) + 0.5) * tall for row in range(len(rows))]
    axes.set_yticks(places, [plain(name) for name in rows])
    above = [column * (1 + GAP) + 0.5 for column in range(len(columns))]
    axes.set_xticks(above, [plain(text) for text in columns])
    axes.xaxis.tick_top()
    axes.tick_params(colors=INK, labelsize=8, length=0)
    axes.spines[:].set_visible(False)
