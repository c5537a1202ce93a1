"""The gate before the clock: who computes something else is not timed."""

from collections.abc import Mapping

import numpy as np

LARGEST_ERROR = 1e-3  # float32 stays far below, another equation far above


def error(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """The largest difference of any array, as a share of that array's largest entry.

    Args:
      found: arrays by name. A library may lack one, such as a bias that its equation has not,
        but not the outputs or the loss.
      expected: the same in float64; entries that are NaN are not compared.

    Raises:
      ValueError: for a name that is not expected, a shape that differs, or missing outputs.
    """
    strange = sorted(set(found) - set(expected))
    if strange or not {"outputs", "loss", "inputs"} & set(expected) <= set(found):
        raise ValueError(f"expected the arrays {sorted(expected)}, got {sorted(found)}")
    return max(_error(name, found[name], expected[name]) for name in found)


def _error(name: str, found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = np.asarray(found, np.float64), np.asarray(expected)
    if found.shape != expected.shape:
        raise ValueError(f"{name}: expected the shape {expected.shape}, got {found.shape}")
    compared = ~np.isnan(expected)
    difference = np.abs(found - expected)[compared].max(initial=0)
    if not np.isfinite(difference):
        return float("inf")
    return float(difference / max(np.abs(expected[compared]).max(initial=0), 1e-30))
