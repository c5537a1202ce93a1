"""Compute the reference results: each network as a plain loop in float64, and its gradient.

The equations are written once, for NumPy and for `jax.numpy`: values come from a Python loop over
NumPy arrays, gradients from `jax.grad` of `jax.lax.scan` over the same step in float64. No code of
a compared library is used.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from experiments.bench.cases import LEARNING_RATE, Case
from experiments.bench.weights import WAYS, Weights, as_moments, each, named

Reset = Literal["after", "before"]
Expected = dict[str, dict[str, np.ndarray]]


def expected(case: Case, weights: Weights, xs: np.ndarray, reset: Reset = "after") -> Expected:
    """Compute what a network must return in each measurement.

    Args:
      case: the network.
      weights: its weights, in the form of `experiments.bench.weights`.
      xs: its inputs ``[T, B, I]``.
      reset: whether a GRU resets h W_n + b_n (``"after"`` the product, as cuDNN does) or h itself
        (``"before"`` it, as in the paper, and without b_n).

    Returns:
      For each measurement, float64 arrays by name: the outputs; the loss and its gradients; the
      loss, and the changes of the weights and first moments of one step of Adam. The loss is the
      sum of the squares of all outputs.
    """
    wide = each(lambda arrays: {k: np.asarray(v, np.float64) for k, v in arrays.items()}, weights)
    if reset == "before":
        wide = each(lambda arrays: {k: v for k, v in arrays.items() if k != "b_n"}, wide)
    xs = xs.astype(np.float64)
    ys = outputs(case, wide, xs, reset)
    gradients, d_xs = gradient(case, wide, xs, reset)
    loss = np.square(ys).sum()
    return {
        "forward": {"outputs": ys},
        "backward": {"loss": loss, "inputs": d_xs, **named(gradients)},
        "adam": {"loss": loss, **adam_change(named(gradients)), **adam_moment(named(gradients))},
    }


def outputs(case: Case, weights: Weights, xs: np.ndarray, reset: Reset = "after") -> np.ndarray:
    """Return all outputs, ``[T, B, H]``, or ``[T, B, 2 H]`` for two directions."""

    def loop(step: Callable[..., Any], state: Any, xs: np.ndarray, backwards: bool) -> np.ndarray:
        ys = []
        for x in xs[::-1] if backwards else xs:
            state = step(state, x)
            ys.append(state[0])
        return np.stack(ys[::-1] if backwards else ys)  # [T, B, H]

    return network(np, loop, case.cell, weights, xs, reset)


def gradient(
    case: Case, weights: Weights, xs: np.ndarray, reset: Reset = "after"
) -> tuple[Weights, np.ndarray]:
    """Return the gradients of the sum of squared outputs with respect to weights and inputs."""
    import jax
    import jax.numpy as jnp

    def loop(step: Callable[..., Any], state: Any, xs: Any, backwards: bool) -> Any:
        def body(state: Any, x: Any) -> tuple[Any, Any]:
            state = step(state, x)
            return state, state[0]

        return jax.lax.scan(body, state, xs, reverse=backwards)[1]

    def loss(weights: Weights, xs: Any) -> Any:
        return jnp.square(network(jnp, loop, case.cell, weights, xs, reset)).sum()

    # On a GPU too the reference is computed by the processor.
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        return jax.device_get(jax.jit(jax.grad(loss, argnums=(0, 1)))(weights, xs))


def network(
    xp: Any, loop: Callable[..., Any], cell: str, weights: Weights, xs: Any, reset: Reset
) -> Any:
    """Run all layers, concatenating the outputs of two directions.

    Args:
      xp: `numpy` or `jax.numpy`.
      loop: runs a step over time, as ``loop(step, state, xs, backwards) -> ys``.
      cell: lstm, gru or elman.
      weights: in the form of `experiments.bench.weights`.
      xs: ``[T, B, I]``.
      reset: see `expected`.

    Returns:
      The outputs of the last layer, ``[T, B, H]`` or ``[T, B, 2 H]``.
    """
    for layer in weights:
        ways = [way for way in WAYS if way in layer]
        xs = xp.concatenate(
            [direction(xp, loop, cell, layer[way], xs, way == "backward", reset) for way in ways],
            axis=-1,
        )
    return xs


def direction(
    xp: Any,
    loop: Callable[..., Any],
    cell: str,
    w: dict[str, Any],
    xs: Any,
    backwards: bool,
    reset: Reset,
) -> Any:
    """Run one layer in one direction from a state of zeros; the arguments are as in `network`."""
    zeros = xp.zeros((xs.shape[1], w["w_h"].shape[0]), xs.dtype)
    steps = {"lstm": lstm_step, "gru": gru_step[reset], "elman": elman_step}
    state = (zeros, zeros) if cell == "lstm" else (zeros,)
    return loop(lambda state, x: steps[cell](xp, w, state, x), state, xs, backwards)


def sigmoid(xp: Any, a: Any) -> Any:
    """Compute the logistic function."""
    return 1 / (1 + xp.exp(-a))


def elman_step(xp: Any, w: dict[str, Any], state: Any, x: Any) -> Any:
    """Compute one step of an Elman network, ``h' = tanh(x W_x + h W_h + b)``."""
    (h,) = state
    return (xp.tanh(x @ w["w_x"] + h @ w["w_h"] + w["b"]),)


def lstm_step(xp: Any, w: dict[str, Any], state: Any, x: Any) -> Any:
    """Compute one step of an LSTM.

    Equation: ``c' = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h' = sigmoid(o) tanh(c')``.
    """
    h, c = state
    i, f, g, o = xp.split(x @ w["w_x"] + h @ w["w_h"] + w["b"], 4, axis=-1)
    c = sigmoid(xp, f) * c + sigmoid(xp, i) * xp.tanh(g)
    return sigmoid(xp, o) * xp.tanh(c), c


def gru_step_after(xp: Any, w: dict[str, Any], state: Any, x: Any) -> Any:
    """Compute one step of a GRU that resets after the product.

    Equation: ``n = tanh(x_n + r (h W_n + b_n))``, ``h' = (1 - z) n + z h``.
    """
    (h,) = state
    x_r, x_z, x_n = xp.split(x @ w["w_x"] + w["b"], 3, axis=-1)
    h_r, h_z, h_n = xp.split(h @ w["w_h"], 3, axis=-1)
    r, z = sigmoid(xp, x_r + h_r), sigmoid(xp, x_z + h_z)
    n = xp.tanh(x_n + r * (h_n + w["b_n"]))
    return ((1 - z) * n + z * h,)


def gru_step_before(xp: Any, w: dict[str, Any], state: Any, x: Any) -> Any:
    """Compute one step of a GRU that resets before the product.

    Equation: ``n = tanh(x_n + (r h) W_n)``, ``h' = (1 - z) n + z h``.
    """
    (h,) = state
    x_r, x_z, x_n = xp.split(x @ w["w_x"] + w["b"], 3, axis=-1)
    w_r, w_z, w_n = xp.split(w["w_h"], 3, axis=-1)
    r, z = sigmoid(xp, x_r + h @ w_r), sigmoid(xp, x_z + h @ w_z)
    n = xp.tanh(x_n + (r * h) @ w_n)
    return ((1 - z) * n + z * h,)


gru_step = {"after": gru_step_after, "before": gru_step_before}


def adam_moment(gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return Adam's first moments after the first step, ``0.1 g``."""
    return as_moments({name: 0.1 * g for name, g in gradients.items()})


def adam_change(gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what the first step of Adam adds to the weights, ``-rate g / (|g| + 1e-8)``.

    Where a gradient is small relative to the largest, rounding in float32 decides its sign; such
    entries are NaN here, which excludes them from the comparison.
    """

    def change(g: np.ndarray) -> np.ndarray:
        sure = np.abs(g) > 1e-2 * np.abs(g).max()
        return np.where(sure, -LEARNING_RATE * g / (np.abs(g) + 1e-8), np.nan)

    return {name: change(g) for name, g in gradients.items()}
