"""Turn a picture of one line of writing, of any size and color, into a strip that a network reads.

The paper is what most pixels are like; ink is what differs from it, so that dark on light, light on
dark and colored ink are all the same.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.errors import UserError
from experiments.harness.files import check_regular, path_of
from experiments.shared.shades import in_eight_bits

LARGEST_FILE = 2**28  # bytes
MOST_PIXELS = 50_000_000
LARGEST_SIDE = 1500  # pixels at which a picture is looked at
LONGEST = 4000  # columns of a strip
FAINTEST = 0.06  # of the range from black to white, by which ink must differ from its paper
FRAMED = 0.6  # of the upper or lower side; what covers more of it is no writing
SPECK = 0.04  # of the area of the largest piece of ink, below which a piece is left out
SHARE_OF_SPREAD = 6.0  # by how many spreads of the paper ink must differ from it


class Photo(NamedTuple):
    """Hold a line of writing, from 0 to 1, ``[height, width]``, and what was done to get it."""

    strip: np.ndarray
    notes: list[str]


def read_photo(text: str, flag: str, *, height: int, ink_height: int, margin: int) -> Photo:
    """Read an image file as a strip: its ink 1, its paper 0.

    Args:
      text: the path of a file that Pillow reads.
      flag: what names it, such as ``"--image: "``.
      height: of the strip.
      ink_height: to which the writing is scaled; it stands in the middle.
      margin: blank columns on either side of the writing.

    Raises:
      UserError: for what cannot be read as an image, is too large, or has no writing on it.
    """
    pixels, notes = read_pixels(text, flag)
    ink = ink_of(pixels, notes)
    if ink is None:
        raise UserError(f"{flag}{text} shows no writing: all of it is of about one color.")
    if (lines := lines_in(ink)) > 1:
        raise UserError(
            f"{flag}{text} shows {lines} lines of writing, one below another; expected one: cut "
            "the picture to it."
        )
    strip = scaled(ink, ink_height)
    if strip.shape[1] > LONGEST:
        raise UserError(
            f"{flag}the writing in {text} is {strip.shape[1] / ink_height:.0f} times as wide as "
            "it is high; expected one line of digits: cut the picture to it."
        )
    above = (height - strip.shape[0]) // 2
    below = height - strip.shape[0] - above
    return Photo(np.pad(strip, ((above, below), (margin, margin))).astype(np.float32), notes)


def read_pixels(text: str, flag: str) -> tuple[np.ndarray, list[str]]:
    """Return the colors of a picture, floats ``[H, W, 3]`` from 0 to 1, and what was left out.

    Raises:
      UserError: where it is none, or too large.
    """
    from PIL import Image, ImageOps

    file = path_of(text, flag)
    check_regular(file, flag, LARGEST_FILE)
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # such as that of a large picture, which is checked here
            with Image.open(file) as image:
                check_pixels(image.size, text, flag)
                frames = getattr(image, "n_frames", 1)
                if frames > 1:
                    image.seek(0)
                    notes.append(f"{text} has {frames} frames; the first is read.")
                image.load()
                turned = ImageOps.exif_transpose(image)
                if turned.size != image.size:
                    notes.append(f"{text} says that it is lying on its side; it was turned.")
                return colors(in_eight_bits(turned, text, notes), notes), notes
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, MemoryError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{flag}{text} cannot be read as an image: {said}.") from error
    except (TypeError, KeyError, IndexError, EOFError, OverflowError, AttributeError) as error:
        # whatever a decoder of Pillow meets in a damaged file
        raise UserError(f"{flag}{text} is damaged: {type(error).__name__}: {error}.") from error


def check_pixels(size: tuple[int, int], text: str, flag: str) -> None:
    """Raise `UserError` for a picture without pixels, or with too many to be looked at."""
    width, height = size
    if not 0 < width * height <= MOST_PIXELS:
        raise UserError(
            f"{flag}{text} has {width} x {height} pixels; expected 1 to {MOST_PIXELS:,}: scale it "
            "down."
        )


def colors(image: Any, notes: list[str]) -> np.ndarray:
    """Return the colors of a Pillow image of any mode, floats ``[H, W, 3]``, not too large."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = on_paper(image.convert("RGBA"), notes)
    image = image.convert("RGB")
    factor = -(-max(image.size) // LARGEST_SIDE)
    image = image.reduce(factor) if factor > 1 and min(image.size) >= factor else image
    return np.asarray(image, np.float64) / 255


def on_paper(image: Any, notes: list[str]) -> Any:
    """Lay a transparent image on white, or on black where what can be seen of it is light."""
    from PIL import Image

    pixels = np.asarray(image, np.float64) / 255
    alpha = pixels[..., 3]
    if (alpha == 1).all():
        return image
    light = (pixels[..., :3].mean(-1) * alpha).sum() > 0.5 * alpha.sum()
    name = "black" if light else "white"
    notes.append(f"It is transparent; it was laid on {name}.")
    paper = Image.new("RGBA", image.size, name)
    paper.alpha_composite(image)
    return paper


def ink_of(pixels: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """Return how much ink there is, from 0 to 1, cut to the writing; None where there is none.

    Args:
      pixels: colors ``[H, W, 3]``, from 0 to 1.
      notes: what is left out is added to these.
    """
    from scipy import ndimage

    apart = np.sqrt(np.square(pixels - paper(pixels)).mean(-1))
    quiet = np.median(apart)
    threshold = max(otsu(apart), SHARE_OF_SPREAD * quiet if quiet < 0.05 else 0, FAINTEST)
    inked = apart > threshold
    pieces, count = ndimage.label(inked, np.ones((3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    if not count:
        return None
    frame = framing(pieces)
    if 0 < len(frame) < count:  # where nothing else is there, it is the writing
        notes.append("What lies along its edge is taken for its surroundings, and left out.")
        pieces = np.where(np.isin(pieces, frame), 0, pieces)
    areas = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    large = np.isin(pieces, 1 + np.flatnonzero(areas >= SPECK * areas.max()))
    rows, columns = np.flatnonzero(large.any(1)), np.flatnonzero(large.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    full = np.quantile(apart[large], 0.75)
    floor = min(2.5 * quiet, 0.5 * threshold)
    near = ndimage.binary_dilation(large, iterations=2)[box]  # what belongs to the writing
    return np.clip((apart[box] - floor) / (full - floor), 0, 1) * near


def framing(pieces: np.ndarray) -> list[int]:
    """Return the numbers of pieces ``[H, W]`` that are no writing, such as the edge of a table.

    They cover most of the upper or lower side of the picture, or all of another: the stroke of a 1
    may lie along most of that.
    """
    sides = (FRAMED, pieces[0]), (FRAMED, pieces[-1]), (1.0, pieces[:, 0]), (1.0, pieces[:, -1])
    found = set()
    for share, side in sides:
        found |= {*np.flatnonzero(np.bincount(side) >= share * len(side)).tolist()}
    return sorted(found - {0})


def lines_in(ink: np.ndarray) -> int:
    """Return how many lines of writing lie one below another, with blank rows between.

    A piece less than half as high as the highest line, such as a dot, is none.

    Example:
      >>> lines_in(np.array([[1.0], [1.0], [0.0], [1.0], [1.0], [0.0], [1.0]]))
      2
    """
    filled = np.pad((ink > 0.1).any(1), 1).astype(int)
    starts, ends = (np.flatnonzero(np.diff(filled) == change) for change in (1, -1))
    heights = ends - starts
    return int((2 * heights > heights.max(initial=0)).sum())


def paper(pixels: np.ndarray) -> np.ndarray:
    """Return the color of the paper everywhere: a surface of second order that fits most pixels.

    Pixels far from it, such as ink, are left out and it is fitted again, a few times.
    """
    height, width, _ = pixels.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    values = pixels.reshape(-1, 3)
    every = max(1, len(values) // 20_000)
    some, seen = terms[::every], values[::every]
    surface = np.zeros((6, 3))
    surface[0] = np.median(seen, axis=0)
    for _ in range(8):
        apart = np.sqrt(np.square(seen - some @ surface).mean(-1))
        kept = apart <= max(2.5 * np.median(apart), 0.02)
        if kept.sum() < 60:  # too few to bend it
            break
        surface = np.linalg.lstsq(some[kept], seen[kept], rcond=None)[0]
    return (terms @ surface).reshape(pixels.shape)


def otsu(values: np.ndarray) -> float:
    """Return the threshold that parts values best in two groups (Otsu 1979).

    Example:
      >>> 0.2 < otsu(np.array([0.1, 0.12, 0.2, 0.8, 0.82])) < 0.8
      True
    """
    counts, edges = np.histogram(values, 256)
    centers = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (sums[-1] * below / total - sums) ** 2 / (below * (total - below))
    best = np.nan_to_num(between, nan=0, posinf=0)
    ties = np.flatnonzero(best >= best.max() - 1e-12)
    return float(edges[1 + ties[len(ties) // 2]])


def scaled(ink: np.ndarray, height: int) -> np.ndarray:
    """Scale ink to a height, and to full black where a thin stroke has become gray."""
    from PIL import Image

    width = max(1, round(ink.shape[1] * height / ink.shape[0]))
    image = Image.fromarray(ink.astype(np.float32))
    smaller = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    if ink.shape[0] < 2 * height:  # little or no reduction: a smoother one
        smaller = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    full = np.quantile(smaller[smaller > 0.1], 0.8) if (smaller > 0.1).any() else 1.0
    return np.clip(smaller / full, 0, 1)
