"""Measure the peak FLOP/s that this machine reaches in a float32 matrix product."""

from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench.timing import interleaved

SIZES = (512, 1024, 2048)


def measure(with_torch: bool, repeats: int) -> dict[str, float]:
    """Return the best GFLOP/s for each library and matrix size, by names such as ``jax 1024``.

    Args:
      with_torch: whether torch is installed and should be measured too.
      repeats: rounds, in each of which all sizes and libraries take a turn.
    """
    makers = {"jax": _jax} | ({"torch": _torch} if with_torch else {})
    runs = {f"{name} {size}": make(size) for name, make in makers.items() for size in SIZES}
    times = interleaved(runs, 0, repeats)
    return {name: 2e-9 * int(name.split()[1]) ** 3 / t.min() for name, t in times.items()}


def _operands(size: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, size, size)).astype(np.float32)


def _jax(size: int) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    a, b = map(jnp.asarray, _operands(size))
    product = jax.jit(jnp.matmul)
    return lambda: product(a, b).block_until_ready()


def _torch(size: int) -> Callable[[], Any]:
    import torch  # pyright: ignore[reportMissingImports]

    a, b = map(torch.tensor, _operands(size))
    return lambda: torch.matmul(a, b)
