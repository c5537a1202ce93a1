"""Write images side by side into one PNG file, ink black on white."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments.harness.errors import UserError
from experiments.harness.files import path_of


def png_path(output: str) -> Path:
    """Return the path of ``--output``.

    Raises:
      UserError: where it does not end in .png.
    """
    file = path_of(output, "--output: ")
    if file.suffix.lower() != ".png":
        raise UserError(f"--output: expected a file that ends in .png, got {output!r}.")
    return file


def sheet(images: np.ndarray) -> np.ndarray:
    """Lay images ``[N, H, W]`` out in rows, about as many as there are columns."""
    count, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    full = np.zeros((rows * columns, height, width), images.dtype)
    full[:count] = images
    return full.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, -1)


def write_png(file: Any, image: np.ndarray) -> None:
    """Write an image, uint8, whose ink is 255, black on white.

    Raises:
      UserError: where the file cannot be written.
    """
    from PIL import Image

    try:
        Image.fromarray(255 - image).save(file, format="PNG")
    except OSError as error:
        raise UserError(f"--output: {file} cannot be written: {error.strerror}.") from error
