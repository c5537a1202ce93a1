"""Choose the precision of products on a GPU, alike for all libraries."""

from typing import Any

import numpy as np

from experiments.bench.weights import Weights, each

PRECISIONS = {
    "float32": "numbers and products of float32",
    "tf32": "numbers of float32, whose products on a GPU have the 10 bits of TF32",
    "bfloat16": "numbers and products of bfloat16; only forward and backward are measured",
}
# Rounding stays below these, relative to the largest entry; another equation lies above the first.
LARGEST_ERRORS = {"float32": 1e-3, "tf32": 3e-2, "bfloat16": 0.2}
_IN_JAX = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}
_IN_TORCH = {"float32": "ieee", "tf32": "tf32", "bfloat16": "ieee"}


def choose(name: str, with_torch: bool) -> None:
    """Set the precision of all products that follow; on a CPU it makes no difference.

    Args:
      name: a key of `PRECISIONS`.
      with_torch: whether torch is installed.
    """
    import jax

    jax.config.update("jax_default_matmul_precision", _IN_JAX[name])
    if with_torch:
        import torch  # pyright: ignore[reportMissingImports]

        torch.backends.cuda.matmul.fp32_precision = _IN_TORCH[name]
        of_rnn: Any = torch.backends.cudnn.rnn
        of_rnn.fp32_precision = _IN_TORCH[name]


def rounded(name: str, weights: Weights, xs: np.ndarray) -> tuple[Weights, np.ndarray]:
    """Return weights and inputs in the type in which they are stored."""
    kind = dtype(name)
    arrays = each(lambda w: {key: array.astype(kind) for key, array in w.items()}, weights)
    return arrays, xs.astype(kind)


def dtype(name: str) -> Any:
    """Return the type of the numbers: float32 or bfloat16."""
    from jax.numpy import bfloat16

    return bfloat16.dtype if name == "bfloat16" else np.dtype(np.float32)


def measures(name: str, all_measures: Any) -> list[str]:
    """Return what is measured: no step of Adam in bfloat16, whose rounding swallows the step."""
    return [m for m in all_measures if name != "bfloat16" or m != "adam"]
