"""Read pictures whose shades of gray have more than eight bits."""

from typing import Any

import numpy as np

WHITES = (2**8 - 1, 2**12 - 1, 2**16 - 1, 2**32 - 1)  # of cameras and files


def in_eight_bits(image: Any, text: str, notes: list[str]) -> Any:
    """Return a Pillow image of floats, or of whole numbers above 255, in 8 bits; others as it is.

    Black is 0. Shades are not stretched from the darkest to the lightest, which would turn the
    noise of a blank page into writing.

    Args:
      image: of any mode.
      text: what it is called.
      notes: what is taken for white is added to these.
    """
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    shades = np.nan_to_num(np.asarray(image, np.float64), posinf=0, neginf=0)
    white = white_of(shades, floats=image.mode.startswith("F"))
    notes.append(f"{text} has shades up to {shades.max():g}; {white:g} is taken for white.")
    return Image.fromarray((255 * np.clip(shades / white, 0, 1)).round().astype(np.uint8))


def white_of(shades: np.ndarray, *, floats: bool) -> float:
    """Return what white is: the largest number of 8, 12, 16 or 32 bits, whatever holds all shades.

    Example:
      >>> white_of(np.array([0.0, 0.5]), floats=True), white_of(np.array([0, 700]), floats=False)
      (1.0, 4095.0)
    """
    highest = shades.max()
    if floats and highest <= 1:
        return 1.0
    return float(next((white for white in WHITES if highest <= white), highest))
