"""Name what an image shows by a trained classifier: ``./launch.sh predict RUN --image=FILE``."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.data.images import SHAPES
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.files import check_regular, path_of
from experiments.harness.runs import Command, Run
from experiments.shared.classification import Classifier, class_probabilities
from experiments.shared.shades import in_eight_bits

SHOWN = 3  # classes of each image
DARKEST = 16  # the largest whole number of images on another scale, such as scikit-learn's
ModelOf = Callable[[Any, tuple[int, int]], Classifier]


@dataclasses.dataclass(frozen=True)
class Predict:
    """Hold the flags of ``./launch.sh predict``."""

    image: str = option(
        "", "an image file that Pillow reads, white on black, of the size of the training images"
    )
    array: str = option(
        "", "a .npy file [height, width] or [N, height, width]: whole numbers 0 to 255, or 0 to 1"
    )
    json: bool = option(False, "write an object for each image in place of text")


def predict_command(model_of: ModelOf) -> Command:
    """Return the command, for an experiment whose network is ``model_of(config, image shape)``."""

    def predict(run: Run, flags: Predict) -> Iterator[str]:
        shape = SHAPES[run.config.data]
        images = read_images(flags, shape)
        model = model_of(run.config, shape)
        lines = map(
            as_json if flags.json else as_text, class_probabilities(model, run.kept, images)
        )
        yield "\n".join(lines)

    return Command(Predict, predict, "name the class of an image, with probabilities")


def as_text(probabilities: np.ndarray) -> str:
    """Write the likeliest classes, the first as the answer."""
    best = np.argsort(-probabilities, kind="stable")[:SHOWN]
    return f"{best[0]}  (" + ", ".join(f"{k}: {probabilities[k]:.4f}" for k in best) + ")"


def as_json(probabilities: np.ndarray) -> str:
    """Write the class and all probabilities as an object."""
    found = {"class": int(probabilities.argmax()), "probabilities": probabilities.tolist()}
    return json.dumps(found)


def read_images(flags: Predict, shape: tuple[int, int]) -> np.ndarray:
    """Return the images of the flags as uint8 ``[N, height, width]``.

    Raises:
      UserError: where none is given, or it cannot be read, or is of another size or type.
    """
    if bool(flags.image) == bool(flags.array):
        raise UserError("predict: expected either --image=FILE or --array=FILE.npy.")
    if flags.array:
        return as_bytes(read_array(flags.array, shape), flags.array)
    return read_image(flags.image, shape)[None]


def read_image(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Read an image file in shades of gray, white on black as the training images are."""
    from PIL import Image

    file = path_of(path, "--image: ")
    check_regular(file, "--image: ")
    notes: list[str] = []
    try:
        with Image.open(file) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1:
                notes.append(f"{path} has {frames} frames; the first is read.")
            found = np.asarray(in_eight_bits(image, path, notes).convert("L"))
            clear = image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3] < 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"--image: {path} cannot be read as an image: {error}.") from error
    check_size("--image", path, found.shape, shape)
    if np.any(clear):
        raise UserError(
            f"--image: {path} has transparent pixels, which have no shade of gray; save it without "
            "transparency, white on black."
        )
    for note in notes:
        print(note, file=sys.stderr)
    return found


def read_array(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Read an array ``[N, height, width]``; one image may come without its first axis."""
    file = path_of(path, "--array: ")
    check_regular(file, "--array: ")
    try:
        # mapped first, which finds a file that is shorter than it says before memory is taken
        found = np.array(np.lib.format.open_memmap(file, mode="r"))
    except Exception as error:  # whatever NumPy meets in a header, which it reads as Python
        raise UserError(f"--array: {path} cannot be read as a .npy file: {error}.") from error
    if found.ndim not in (2, 3) or not found.size:
        raise UserError(f"--array: expected {path} to hold one array [N, height, width].")
    check_size("--array", path, found.shape[-2:], shape)
    return found.reshape(-1, *shape)


def check_size(flag: str, path: str, found: tuple[int, ...], shape: tuple[int, int]) -> None:
    """Raise `UserError` for an image that is not of the size of the training images."""
    if found != shape:
        raise UserError(
            f"{flag}: the network reads images of {shape[0]} x {shape[1]} pixels, and {path} has "
            f"{' x '.join(map(str, found))}; resize it."
        )


def as_bytes(array: np.ndarray, path: str) -> np.ndarray:
    """Convert numbers from 0 to 1, or whole ones from 0 to 255, to bytes.

    Raises:
      UserError: for other numbers, and for what is no number.
    """
    kind = array.dtype.kind
    if kind in "ui" and array.min() >= 0 and array.max() <= 255:
        if 1 < array.max() <= DARKEST:
            raise UserError(
                f"--array: the largest of the whole numbers in {path} is {array.max()}, though "
                "white is 255; scale them to 0 to 255, or to numbers from 0 to 1."
            )
        return array.astype(np.uint8)
    if kind == "f" and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        return np.rint(array * 255).astype(np.uint8)
    raise UserError(
        f"--array: expected whole numbers from 0 to 255, or numbers from 0 to 1, and {path} holds "
        f"{array.dtype} that are neither."
    )
