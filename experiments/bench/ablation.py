"""Explain the speed of the library's LSTM by one change at a time, forward + backward."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from experiments.bench import with_recurrent, with_scan
from experiments.bench.cases import Case, Shape
from experiments.bench.program import Network, layered
from experiments.bench.weights import Weights
from experiments.bench.with_scan import lstm_gate

CASES = tuple(
    Case("lstm", shape)
    for shape in (
        Shape(64, 64, 8, 64),
        Shape(128, 32, 128, 256),
        Shape(100, 20, 512, 512),
        Shape(100, 2, 64, 512),
    )
)
PLAIN = "plain scan"
Direction = dict[str, Array]


class How(NamedTuple):
    """Choose the form of the derived backward pass.

    Attributes:
      keeps_pre_activations: whether the forward pass saves the pre-activations; otherwise the
        backward pass computes them again.
      projects_inside: whether x W_x is computed inside the loop, instead of before it.
      transposes_before: whether W_h is transposed before the loop, instead of inside it.
    """

    keeps_pre_activations: bool = False
    projects_inside: bool = False
    transposes_before: bool = False


def variants() -> dict[str, Callable[[Case, Weights], Network]]:
    """Return a builder for each variant; its name says how it differs from the one before."""
    return {
        PLAIN: partial(_network, textbook),
        "+ input product before the loop": with_scan.build,
        "+ weight gradients after the loop": partial(_network, partial(derived, How())),
        "+ pre-activations kept": partial(_network, partial(derived, How(True))),
        "+ input product inside again": partial(_network, partial(derived, How(True, True))),
        "+ kernel transposed before the loop": partial(
            _network, partial(derived, How(True, True, True))
        ),
        "+ gate's backward by hand, written over what it read": with_recurrent.build,
    }


def _network(layer: Callable[[Direction, Array], Array], case: Case, weights: Weights) -> Network:
    return Network(layered(lambda w, xs, backwards: layer(w, xs)), weights, lambda params: params)


def textbook(w: Direction, xs: Array) -> Array:
    """Compute the textbook equation, differentiated by JAX."""

    def body(state: Any, x: Array) -> tuple[Any, Array]:
        state = lstm_gate(x @ w["w_x"] + state[0] @ w["w_h"] + w["b"], state[1])
        return state, state[0]

    return lax.scan(body, zeros(w, xs), xs)[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def derived(how: How, w: Direction, xs: Array) -> Array:
    """Compute the textbook LSTM with a backward pass derived by hand.

    The backward loop carries the gradient of the state and outputs only that of the
    pre-activations z; the gradients of the weights are computed after the loop.
    """
    return _forward(how, w, xs)[0]


def _forward(how: How, w: Direction, xs: Array) -> tuple[Array, Any]:
    def project(x: Array) -> Array:
        return x @ w["w_x"] + w["b"]

    def body(state: Any, x: Array) -> tuple[Any, Any]:
        z = (project(x) if how.projects_inside else x) + state[0] @ w["w_h"]
        state = lstm_gate(z, state[1])
        return state, (*state, z if how.keeps_pre_activations else None)

    inputs = xs if how.projects_inside else project(xs)  # [T, B, I] or [T, B, 4 H]
    _, (hs, cs, zs) = lax.scan(body, zeros(w, xs), inputs)
    return hs, (w, xs, hs, cs, zs)


def _backward(how: How, saved: Any, d_ys: Array) -> tuple[Direction, Array]:
    w, xs, hs, cs, zs = saved
    h_first, c_first = zeros(w, xs)
    h_before = jnp.concatenate([h_first[None], hs[:-1]])
    c_before = jnp.concatenate([c_first[None], cs[:-1]])
    if zs is None:
        zs = xs @ w["w_x"] + w["b"] + h_before @ w["w_h"]

    transposed = w["w_h"].T

    def body(carry: Any, inputs: Any) -> tuple[Any, Array]:
        d_h, d_c = carry
        to_h = transposed if how.transposes_before else w["w_h"].T
        z, c, d_y = inputs
        d_z, d_c = jax.vjp(lstm_gate, z, c)[1]((d_h + d_y, d_c))
        return (d_z @ to_h, d_c), d_z

    _, d_zs = lax.scan(body, (h_first, c_first), (zs, c_before, d_ys), reverse=True)
    d_w = {"w_x": _product(xs, d_zs), "w_h": _product(h_before, d_zs), "b": d_zs.sum((0, 1))}
    return d_w, d_zs @ w["w_x"].T


derived.defvjp(_forward, _backward)


def zeros(w: Direction, xs: Array) -> tuple[Array, Array]:
    """Return the initial state: h and c of zeros, both [B, H]."""
    h = jnp.zeros((xs.shape[1], w["w_h"].shape[0]), xs.dtype)
    return h, h


def _product(left: Array, right: Array) -> Array:
    """Return ``left^T right``, [M, N], of [T, B, M] and [T, B, N], summed over T and B."""
    return left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1])
