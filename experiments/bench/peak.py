"""Measure the peak FLOP/s that this machine reaches in a matrix product."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench.precision import dtype
from experiments.bench.timing import interleaved

SIZES = {"cpu": (512, 1024, 2048), "gpu": (2048, 4096, 8192)}


def measure(with_torch: bool, precision: str, repeats: int) -> dict[str, float]:
    """Return the best GFLOP/s for each library and matrix size, by names such as ``jax 1024``.

    Args:
      with_torch: whether torch is installed and should be measured too.
      precision: a key of `experiments.bench.precision.PRECISIONS`.
      repeats: rounds, in each of which all sizes and libraries take a turn.
    """
    import jax

    makers = {"jax": _jax} | ({"torch": _torch} if with_torch else {})
    sizes = SIZES.get(jax.default_backend(), SIZES["cpu"])
    operands = {size: _operands(size, dtype(precision)) for size in sizes}
    runs = {f"{n} {size}": make(operands[size]) for n, make in makers.items() for size in sizes}
    times = interleaved(runs, 0, repeats)
    return {name: 2e-9 * int(name.split()[1]) ** 3 / t.min() for name, t in times.items()}


def _operands(size: int, dtype: Any) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, size, size)).astype(dtype)


def _jax(operands: np.ndarray) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    a, b = map(jnp.asarray, operands)
    product = jax.jit(jnp.matmul)
    return lambda: product(a, b).block_until_ready()


def _torch(operands: np.ndarray) -> Callable[[], Any]:
    import torch  # pyright: ignore[reportMissingImports]

    from experiments.bench import with_torch

    a, b = map(with_torch.placed, operands)
    return with_torch.finished(lambda: torch.matmul(a, b))
