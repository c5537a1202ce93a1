"""Measure forward + backward of one long sequence: time and memory against T."""

from collections.abc import Callable
from functools import partial
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.program import Network, Program, jax_program
from recurrent import Cell, lstm, min_gru, parallel, unroll

TIMES = (1024, 4096, 16384, 65536)
INPUTS = HIDDEN = 16
SLOW = 5.0  # seconds per call; a slower method is not run on longer sequences
LSTM = "LSTM"


def methods() -> dict[str, tuple[Callable[[], Cell], Callable[[int], int | None]]]:
    """Return the methods by name.

    Each is a function that makes the cell, and a function from T to the interval of steps at which
    `unroll` saves a state and recomputes those between (None saves all).
    """

    def by(method: Any) -> Callable[[], Cell]:
        return partial(min_gru, INPUTS, HIDDEN, method=method)

    def deer() -> Cell:
        return parallel(lstm(INPUTS, HIDDEN), fallback=False)  # NaN if it does not converge

    plain = partial(lstm, INPUTS, HIDDEN)
    return {
        LSTM: (plain, lambda time: None),
        "LSTM, recomputed": (plain, isqrt),
        "LSTM by DEER": (deer, lambda time: None),
        "minGRU, serial": (by("serial"), lambda time: None),
        "minGRU, chunked": (by("chunked"), lambda time: None),
        "minGRU, associative": (by("associative"), lambda time: None),
    }


def program(name: str, time: int) -> tuple[Program, dict[str, np.ndarray]]:
    """Build a method's program for one sequence, and what it must compute.

    The expected arrays are the loss and gradients of a `jax.lax.scan` over the same cell's step, in
    float64.

    Args:
      name: a key of `methods`.
      time: the number of steps.

    Returns:
      The program, and the arrays that it must compute by name.
    """
    make, every = methods()[name]
    cell = make()
    params = jax.device_get(cell.init(jax.random.key(0)))
    xs = np.random.default_rng(0).standard_normal((time, 1, INPUTS)).astype(np.float32)

    def apply(params: Any, xs: Any) -> Any:
        return unroll(cell, params, xs, remat=every(time))[1]

    network = Network(apply, params, _named)
    return jax_program(network, xs, "backward"), _expected(cell, params, xs)


def _named(params: Any) -> Any:
    leaves = jax.tree.leaves_with_path(params)
    return [{"forward": {jax.tree_util.keystr(path): leaf for path, leaf in leaves}}]


def _expected(cell: Cell, params: Any, xs: np.ndarray) -> dict[str, np.ndarray]:
    def loss(params: Any, xs: Any) -> Any:
        return jnp.square(unroll(cell, params, xs, method="scan")[1]).sum()

    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, xs))
        value, (d_params, d_xs) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*wide)
        from experiments.bench.weights import named

        return {"loss": np.asarray(value), "inputs": np.asarray(d_xs), **named(_named(d_params))}
