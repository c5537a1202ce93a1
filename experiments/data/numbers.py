"""Read numbers as people write them in files."""

import math


def number_of(word: str, decimal: str = ".") -> float | None:
    """Return the finite number that a word stands for; None where it stands for none.

    Args:
      word: such as ``"-1.5e3"``.
      decimal: the decimal sign.

    Example:
      >>> number_of(" 1.5 "), number_of("1,5", ","), number_of("1_0"), number_of("inf")
      (1.5, 1.5, None, None)
    """
    if decimal != ".":
        word = word.replace(decimal, ".") if "." not in word else word
    try:
        found = float(word)
    except ValueError:
        return None
    return found if math.isfinite(found) and "_" not in word else None
