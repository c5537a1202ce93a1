"""Turn exhibits into files of a run's folder, and into what its page embeds."""

import base64
import csv
import io
import re
import struct
import wave
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.program import Animation, Audio, Exhibit, Figure, Table

DENSITY = 2  # pixels of a figure's file to a pixel of its natural size on the page


class Embedded(NamedTuple):
    """Hold one exhibit as the page shows it.

    Attributes:
      kind: ``"image"``, ``"audio"``, ``"table"`` or ``"text"``.
      exhibit: with its heading, caption, and texts or rows.
      source: a ``data:`` address of what is no text.
      width: natural width of an image, in pixels of the page.
      height: natural height.
    """

    kind: str
    exhibit: Exhibit
    source: str = ""
    width: int = 0
    height: int = 0


def save_all(exhibits: Iterable[Exhibit], folder: Path) -> list[Embedded]:
    """Write each exhibit to a file in ``folder``, and return them for the page, in their order.

    Raises:
      ValueError: for a name that is no plain file name or comes twice, and for contents of a wrong
        shape, type or rate.
    """
    folder.mkdir(exist_ok=True)
    found, names = [], set()
    for exhibit in exhibits:
        check_name(exhibit.name, names)
        names.add(exhibit.name)
        found.append(save(exhibit, folder))
    return found


def check_name(name: str, known: set[str]) -> None:
    """Raise `ValueError` for the name of an exhibit that cannot be that of a new file."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ValueError(
            f"exhibit: expected a name of letters, digits, _ and -, got {name!r}; rename it."
        )
    if name in known:
        raise ValueError(f"exhibit: expected each name once, got {name!r} twice; rename one.")


def save(exhibit: Exhibit, folder: Path) -> Embedded:
    """Write one exhibit to its file, and return it for the page."""
    match exhibit:
        case Figure():
            return save_image(exhibit, folder, "png", png_bytes(exhibit), DENSITY)
        case Animation():
            return save_image(exhibit, folder, "gif", gif_bytes(exhibit), 1)
        case Audio():
            data = wav_bytes(exhibit)
            (folder / f"{exhibit.name}.wav").write_bytes(data)
            return Embedded("audio", exhibit, data_address("audio/wav", data))
        case Table():
            with open(folder / f"{exhibit.name}.csv", "w", newline="") as stream:
                csv.writer(stream).writerows([exhibit.columns, *exhibit.rows])
            return Embedded("table", exhibit)
    (folder / f"{exhibit.name}.txt").write_text(exhibit.text, "utf-8")
    return Embedded("text", exhibit)


def save_image(exhibit: Exhibit, folder: Path, kind: str, data: bytes, density: int) -> Embedded:
    """Write a PNG or GIF, and return it for the page."""
    (folder / f"{exhibit.name}.{kind}").write_bytes(data)
    place, form = (16, ">II") if kind == "png" else (6, "<HH")
    width, height = struct.unpack_from(form, data, place)
    address = data_address(f"image/{kind}", data)
    return Embedded("image", exhibit, address, width // density, height // density)


def data_address(kind: str, data: bytes) -> str:
    """Return bytes as a ``data:`` address of a media type."""
    return f"data:{kind};base64," + base64.b64encode(data).decode("ascii")


def png_bytes(figure: Figure) -> bytes:
    """Draw a matplotlib figure."""
    buffer = io.BytesIO()
    figure.figure.savefig(buffer, format="png")
    return buffer.getvalue()


def wav_bytes(audio: Audio) -> bytes:
    """Encode samples as a WAV file of 16 bits.

    Raises:
      ValueError: for samples that are not numbers ``[N]`` or ``[N, 2]``, none, or no rate.
    """
    samples = np.asarray(audio.samples)
    channels = 1 if samples.ndim == 1 else samples.shape[-1]
    if samples.ndim not in (1, 2) or channels not in (1, 2) or not samples.size:
        raise ValueError(
            f"audio {audio.name!r}: expected samples [N] or [N, 2], got {list(samples.shape)}."
        )
    if not np.issubdtype(samples.dtype, np.floating) or not np.isfinite(samples).all():
        raise ValueError(
            f"audio {audio.name!r}: expected finite floats from -1 to 1, got {samples.dtype}; "
            "divide integers by their largest value."
        )
    if audio.rate < 1:
        raise ValueError(f"audio {audio.name!r}: expected a rate above 0, got {audio.rate}.")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(int(audio.rate))
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    return buffer.getvalue()


def gif_bytes(animation: Animation) -> bytes:
    """Encode frames as a GIF that repeats for ever.

    Raises:
      ValueError: for frames that are not uint8 ``[F, H, W]`` or ``[F, H, W, 3]``, none, or no rate.
    """
    from PIL import Image

    frames: Any = np.asarray(animation.frames)
    shape = list(frames.shape)
    if len(shape) not in (3, 4) or shape[3:] not in ([], [3]) or not frames.size:
        raise ValueError(
            f"animation {animation.name!r}: expected frames [F, H, W] or [F, H, W, 3], got {shape}."
        )
    if frames.dtype != np.uint8:
        raise ValueError(
            f"animation {animation.name!r}: expected uint8 from 0 to 255, got {frames.dtype}."
        )
    if not animation.rate > 0:
        raise ValueError(
            f"animation {animation.name!r}: expected a rate above 0, got {animation.rate}."
        )
    images = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    milliseconds = max(10, round(1000 / animation.rate))
    images[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=milliseconds,
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()
