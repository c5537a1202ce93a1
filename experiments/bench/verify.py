"""Verify results before timing: a program that computes something else is not timed."""

from collections.abc import Mapping

import numpy as np

from recurrent.errors import ArgumentError


def error(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Return the largest difference in any array, relative to that array's largest entry.

    Args:
      found: arrays by name. A library may lack one, such as a bias that its equation does not
        have, but not the outputs, the loss or the gradient of the inputs.
      expected: the same in float64; entries that are NaN are not compared.

    Returns:
      The error; infinity if an entry is not finite.

    Raises:
      ValueError: if a name is unexpected, a shape differs, or the outputs, the loss or the gradient
        of the inputs are missing.
    """
    unexpected = sorted(set(found) - set(expected))
    if unexpected or not {"outputs", "loss", "inputs"} & set(expected) <= set(found):
        raise ArgumentError(f"expected the arrays {sorted(expected)}, got {sorted(found)}")
    return max(_error(name, found[name], expected[name]) for name in found)


def _error(name: str, found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected)
    if found.shape != expected.shape:
        raise ArgumentError(f"{name}: expected the shape {expected.shape}, got {found.shape}")
    compared = ~np.isnan(expected)
    difference = np.abs(found - expected)[compared].max(initial=0)
    if not np.isfinite(difference):
        return float("inf")
    return float(difference / max(np.abs(expected[compared]).max(initial=0), 1e-30))
