"""Turn exhibits into files of a run's folder, and into what its page embeds."""

import base64
import csv
import io
import math
import re
import struct
import wave
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.harness.program import Animation, Audio, Exhibit, Figure, Table
from recurrent.errors import ArgumentError

PIXELS_PER_PAGE_PIXEL = 2  # of a figure, so that it is sharp on a fine screen
ENLARGED_TO = 320  # page pixels of the longer side of a small animation, about
SHORTEST_FRAME = 20  # milliseconds; browsers show frames of 10 or less much longer


class Embedded(NamedTuple):
    """Hold one exhibit as the page shows it.

    Attributes:
      kind: ``"image"``, ``"audio"``, ``"table"`` or ``"text"``.
      exhibit: with its heading, caption, and texts or rows.
      source: a ``data:`` address of an image or audio.
      width: of an image, in pixels of the page.
      height: of an image, in pixels of the page.
      enlarged: whether each pixel of an image is shown as a square of several.
    """

    kind: str
    exhibit: Exhibit
    source: str = ""
    width: int = 0
    height: int = 0
    enlarged: bool = False


def save_all(exhibits: Iterable[Exhibit], folder: Path) -> list[Embedded]:
    """Write each exhibit to a file in ``folder``, and return them for the page, in their order.

    Raises:
      ValueError: for a name that is not a plain file name or comes twice, and for contents of a
        wrong shape, type or rate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Embedded] = []
    names: set[str] = set()
    for exhibit in exhibits:
        check_name(exhibit.name, names)
        names.add(exhibit.name)
        found.append(save(exhibit, folder))
    return found


def check_name(name: str, taken: set[str]) -> None:
    """Raise `ValueError` for a name that is taken or is not a plain file name."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ArgumentError(
            f"exhibit: expected a name of letters, digits, _ and -, got {name!r}; rename it."
        )
    if name in taken:
        raise ArgumentError(f"exhibit: expected each name once, got {name!r} twice; rename one.")


def save(exhibit: Exhibit, folder: Path) -> Embedded:
    """Write one exhibit to its file, and return it for the page."""
    match exhibit:
        case Figure():
            kind, suffix, data = "image", "png", figure_bytes(exhibit)
        case Animation():
            kind, suffix, data = "image", "png", animation_bytes(exhibit)
        case Audio():
            kind, suffix, data = "audio", "wav", audio_bytes(exhibit)
        case Table():
            kind, suffix, data = "table", "csv", table_bytes(exhibit)
        case _:
            kind, suffix, data = "text", "txt", text_bytes(exhibit.text)
    (folder / f"{exhibit.name}.{suffix}").write_bytes(data)
    return embed(kind, exhibit, data)


def embed(kind: str, exhibit: Exhibit, data: bytes) -> Embedded:
    """Return an exhibit for the page, given the contents of its file."""
    if kind == "audio":
        return Embedded(kind, exhibit, data_address("audio/wav", data))
    if kind != "image":
        return Embedded(kind, exhibit)
    address = data_address("image/png", data)
    width, height = png_size(data)
    if isinstance(exhibit, Figure):
        width, height = width // PIXELS_PER_PAGE_PIXEL, height // PIXELS_PER_PAGE_PIXEL
        return Embedded(kind, exhibit, address, width, height)
    factor = max(1, ENLARGED_TO // max(width, height))
    return Embedded(kind, exhibit, address, factor * width, factor * height, factor > 1)


def data_address(media_type: str, data: bytes) -> str:
    """Return bytes as a ``data:`` address."""
    return f"data:{media_type};base64," + base64.b64encode(data).decode("ascii")


def png_size(data: bytes) -> tuple[int, int]:
    """Read width and height from the header of a PNG file."""
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def figure_bytes(figure: Figure) -> bytes:
    """Encode a matplotlib figure as a PNG file."""
    buffer = io.BytesIO()
    figure.figure.savefig(buffer, format="png")
    return buffer.getvalue()


def text_bytes(text: str) -> bytes:
    """Encode a text as UTF-8, with what is not Unicode escaped."""
    return text.encode("utf-8", "backslashreplace")


def table_bytes(table: Table) -> bytes:
    """Encode a table as a CSV file, the names of its columns first.

    Raises:
      ValueError: for a table without columns, or a row of another length.
    """
    width = len(table.columns)
    check(width > 0, table, "at least one column", "none", "leave out an empty exhibit")
    for number, row in enumerate(table.rows, start=1):
        got = f"{len(row)} in row {number}"
        check(len(row) == width, table, f"{width} cells a row", got, 'fill gaps with ""')
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([table.columns, *table.rows])
    return text_bytes(buffer.getvalue())


def audio_bytes(audio: Audio) -> bytes:
    """Encode samples, clipped to [-1, 1], as a WAV file of 16 bits.

    Raises:
      ValueError: for samples that are not finite floats ``[N]`` or ``[N, 2]``, and a rate below 1.
    """
    samples = np.asarray(audio.samples)
    check_samples(audio, samples)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(samples.ndim)
        file.setsampwidth(2)
        file.setframerate(int(audio.rate))
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()


def check_samples(audio: Audio, samples: np.ndarray) -> None:
    """Raise `ValueError` for samples that a WAV file cannot hold."""
    shape, rate = samples.shape, audio.rate
    fits = samples.size > 0 and (samples.ndim == 1 or shape[1:] == (2,))
    action = "move time to the first axis, and leave out an empty exhibit"
    check(fits, audio, "samples [N] or [N, 2], N > 0", list(shape), action)
    floats = np.issubdtype(samples.dtype, np.floating)
    action = "divide integers by their largest value"
    check(floats, audio, "floats from -1 to 1", samples.dtype, action)
    finite = bool(np.isfinite(samples).all())
    check(finite, audio, "finite samples", "NaN or infinity", "look at what made them")
    check(1 <= rate < math.inf, audio, "a rate of at least 1", rate, "give samples a second")


def animation_bytes(animation: Animation) -> bytes:
    """Encode frames as an animated PNG, which repeats forever and keeps every color.

    Raises:
      ValueError: for frames that are not uint8 ``[F, H, W]`` or ``[F, H, W, 3]``, and no rate.
    """
    from PIL import Image

    frames = np.asarray(animation.frames)
    check_frames(animation, frames)
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    images[0].save(
        buffer,
        format="PNG",
        save_all=True,
        append_images=images[1:],
        duration=max(SHORTEST_FRAME, 1000 / animation.rate),
        loop=0,
    )
    return buffer.getvalue()


def check_frames(animation: Animation, frames: np.ndarray) -> None:
    """Raise `ValueError` for frames that an animated PNG cannot hold."""
    shape, rate = frames.shape, animation.rate
    fits = frames.size > 0 and (frames.ndim == 3 or (frames.ndim == 4 and shape[3:] == (3,)))
    action = "move time to the first axis, and leave out an empty exhibit"
    check(fits, animation, "frames [F, H, W] or [F, H, W, 3], none 0", list(shape), action)
    action = "scale to 0 ... 255 and convert with .astype(np.uint8)"
    check(frames.dtype == np.uint8, animation, "uint8 frames", frames.dtype, action)
    check(0 < rate < math.inf, animation, "a rate above 0", rate, "give frames a second")


def check(holds: bool, exhibit: Exhibit, expected: str, got: object, action: str) -> None:
    """Raise `ValueError` unless something holds: what was expected, what came, what to do."""
    if not holds:
        raise ArgumentError(f"exhibit {exhibit.name!r}: expected {expected}, got {got}; {action}.")
