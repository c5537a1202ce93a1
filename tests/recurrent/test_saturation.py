"""Gates and activations by name, against loops in NumPy, of cells that need not know of it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from recurrent import Cell, Hidden
from recurrent.saturation import activations, saturation

D, H, T, B = 3, 6, 11, 2
Found = dict[str, list[np.ndarray]]


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def given(cell: Cell, scale: float = 6.0) -> tuple[Any, np.ndarray]:
    """Params and inputs so large that some gates are near their bounds and others are not."""
    keys = jax.random.split(jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf + 0.3, cell.init(keys[0]))
    return params, np.asarray(scale * jax.random.normal(keys[1], (T, B, D)))


def maps(params: Any, x: np.ndarray, h: np.ndarray, gates: int) -> tuple[Any, Any]:
    """The pre-activations from the input, and from the state."""
    ours, theirs = params["input"], params.get("recurrent", {"kernel": np.zeros((H, gates * H))})
    zx = x @ np.asarray(ours["kernel"], float) + np.asarray(ours["bias"], float)
    zh = h @ np.asarray(theirs["kernel"], float) + np.asarray(theirs.get("bias", 0.0), float)
    return np.split(zx, gates, -1), np.split(zh, gates, -1)


def lstm_loop(params: Any, xs: np.ndarray, found: Found) -> None:
    h = c = np.zeros((B, H))
    for x in xs:
        zx, zh = maps(params, x, h, 4)
        i, f, g, o = (a + b for a, b in zip(zx, zh, strict=True))
        i, f, g, o = sigmoid(i), sigmoid(f + 1), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        names = ("input", "forget", "candidate", "output", "cell")
        for name, value in zip(names, (i, f, g, o, np.tanh(c)), strict=True):
            found.setdefault(name, []).append(value)


def gru_loop(params: Any, xs: np.ndarray, found: Found) -> None:
    h = np.zeros((B, H))
    for x in xs:
        zx, zh = maps(params, x, h, 3)
        r, u = sigmoid(zx[0] + zh[0]), sigmoid(zx[1] + zh[1])
        n = np.tanh(zx[2] + r * zh[2])
        h = (1 - u) * n + u * h
        for name, value in {"reset": r, "update": u, "candidate": n}.items():
            found.setdefault(name, []).append(value)


def elman_loop(params: Any, xs: np.ndarray, found: Found) -> None:
    h = np.zeros((B, H))
    for x in xs:
        (zx,), (zh,) = maps(params, x, h, 1)
        h = np.tanh(zx + zh)
        found.setdefault("hidden", []).append(h)


def relu_loop(params: Any, xs: np.ndarray, found: Found) -> None:
    h = np.zeros((B, H))
    for x in xs:
        (zx,), (zh,) = maps(params, x, h, 1)
        h = np.maximum(zx + zh, 0)
        found.setdefault("hidden", []).append(h)


def min_gru_loop(params: Any, xs: np.ndarray, found: Found) -> None:
    for x in xs:
        (update, _), _ = maps(params, x, np.zeros((B, H)), 2)
        found.setdefault("keep", []).append(sigmoid(-update))
        found.setdefault("update", []).append(sigmoid(update))


LOOPS: dict[str, tuple[Cell, Callable[..., None], set[str]]] = {
    "lstm": (recurrent.lstm(D, H), lstm_loop, {"candidate", "cell"}),
    "gru": (recurrent.gru(D, H), gru_loop, {"candidate"}),
    "elman": (recurrent.elman(D, H), elman_loop, {"hidden"}),
    "min_gru": (recurrent.min_gru(D, H), min_gru_loop, set()),
}


@pytest.mark.long
@pytest.mark.parametrize("name", LOOPS)
def test_shares_near_the_bounds_are_those_of_a_loop(name: str) -> None:
    cell, loop, between_minus_one_and_one = LOOPS[name]
    params, xs = given(cell)
    expected: Found = {}
    loop(params, xs, expected)
    values = activations(cell, params, xs)
    flat = {gate: value for named in values.values() for gate, value in named.items()}
    assert flat.keys() == expected.keys()
    assert set(values.get("tanh", {})) == between_minus_one_and_one
    shares = saturation(cell, params, xs)
    assert shares.keys() == expected.keys()
    for gate, steps in expected.items():
        each = np.array(steps)  # [T, B, H]
        np.testing.assert_allclose(flat[gate], each, atol=2e-5)
        bottom = -0.95 if gate in between_minus_one_and_one else 0.05
        for b in range(B):
            low = sum(v <= bottom for v in each[:, b].ravel()) / (T * H)
            high = sum(v >= 0.95 for v in each[:, b].ravel()) / (T * H)
            np.testing.assert_allclose(shares[gate].low[b], low, atol=1e-6)
            np.testing.assert_allclose(shares[gate].high[b], high, atol=1e-6)
    assert any(0 < float(share) < 1 for each in shares.values() for share in each.high)


def test_a_rectifier_is_shut_where_it_is_zero() -> None:
    cell = recurrent.elman(D, H, activation="relu")
    params, xs = given(cell, scale=1.0)
    params["recurrent"]["kernel"] *= 0.1
    expected: Found = {}
    relu_loop(params, xs, expected)
    shares = saturation(cell, params, xs)["hidden"]
    shut = (np.array(expected["hidden"]) == 0).mean((0, 2))
    np.testing.assert_allclose(shares.low, shut, atol=1e-6)
    assert 0 < shut.min() <= shut.max() < 1
    assert not shares.high.any()


def test_a_cell_of_ones_own_is_read_without_being_prepared() -> None:
    """Gates in a scope have its name, others their kind; functions that are called are seen."""

    @jax.jit
    def inner(z: jax.Array) -> jax.Array:
        with jax.named_scope("inner"):
            return jnp.tanh(z)

    def step(params: Any, state: Hidden, x: jax.Array) -> Any:
        with jax.named_scope("outer"):
            opened = jax.checkpoint(inner)(x)
        h = jax.nn.sigmoid(x) * state.hidden + jax.nn.sigmoid(2 * x) * opened
        return Hidden(h), h

    cell = Cell(
        init=lambda key: {},
        initial_state=lambda params, batch: Hidden(jnp.ones((*batch, D))),
        step=step,
        input_shape=(D,),
    )
    xs = np.random.default_rng(0).normal(size=(T, D)).astype(np.float32)
    found = activations(cell, {}, xs)
    assert {kind: [*named] for kind, named in found.items()} == {
        "tanh": ["outer/inner"],
        "sigmoid": ["sigmoid", "sigmoid 2"],
    }
    np.testing.assert_allclose(found["sigmoid"]["sigmoid"], sigmoid(xs), rtol=1e-5)
    np.testing.assert_allclose(found["sigmoid"]["sigmoid 2"], sigmoid(2 * xs), rtol=1e-5)
    np.testing.assert_allclose(found["tanh"]["outer/inner"], np.tanh(xs), rtol=1e-5, atol=1e-6)
    assert saturation(cell, {}, xs)["sigmoid"].low.shape == ()


@pytest.mark.long
def test_layers_of_a_stack_are_told_apart_and_what_has_no_gate_has_none() -> None:
    stack = recurrent.stack(recurrent.gru(D, H), recurrent.elman(H, H), recurrent.dense(H, 2))
    params, xs = given(stack)
    found = saturation(stack, params, xs)
    assert set(found) == {"reset", "update", "candidate", "hidden"}
    _, hs = recurrent.unroll(recurrent.gru(D, H), params["layer_0"], xs)
    alone = saturation(recurrent.elman(H, H), params["layer_1"], hs)
    np.testing.assert_allclose(found["hidden"].high, alone["hidden"].high, atol=1e-6)
    linear = recurrent.elman(D, H, activation=lambda z: z)
    assert saturation(linear, linear.init(jax.random.key(0)), xs) == {}


@pytest.mark.long
def test_it_goes_on_from_a_state_and_is_compiled_mapped_and_differentiated() -> None:
    cell = recurrent.gru(D, H)
    params, xs = given(cell)
    state, _ = recurrent.unroll(cell, params, xs[:5])
    whole = activations(cell, params, xs)["sigmoid"]["update"]
    later = activations(cell, params, xs[5:], state)["sigmoid"]["update"]
    np.testing.assert_allclose(later, whole[5:], atol=1e-5)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    mapped = jax.jit(jax.vmap(lambda params: saturation(cell, params, xs)))(many)
    for k in range(2):
        one = saturation(cell, jax.tree.map(lambda leaf, k=k: leaf[k], many), xs)
        jax.tree.map(lambda a, b, k=k: np.testing.assert_allclose(a[k], b, atol=1e-6), mapped, one)

    def opened(scale: Any) -> jax.Array:
        return activations(cell, params, scale * xs)["sigmoid"]["update"].mean()

    slope = jax.grad(opened)(1.0)
    np.testing.assert_allclose(slope, (opened(1.01) - opened(0.99)) / 0.02, rtol=0.05)


@pytest.mark.parametrize("margin", [0.0, 0.51, -1.0])
def test_a_margin_that_is_none_is_refused(margin: float) -> None:
    cell = recurrent.elman(D, H)
    with pytest.raises(ValueError, match=r"margin: expected above 0 and at most 0\.5, got"):
        saturation(cell, cell.init(jax.random.key(0)), jnp.ones((T, D)), margin=margin)


def test_a_cell_without_a_step_is_refused() -> None:
    both = recurrent.bidirectional(recurrent.gru(D, H), recurrent.gru(D, H))
    with pytest.raises(ValueError, match="bidirectional"):
        saturation(both, both.init(jax.random.key(0)), jnp.ones((T, D)))


@pytest.mark.parametrize(
    ("activation", "kind"),
    [
        (lambda z: jnp.maximum(z, 0), "relu"),
        (jax.nn.relu6, "relu"),
        (jax.nn.hard_tanh, "tanh"),
        (jax.nn.hard_sigmoid, "sigmoid"),
        (jax.nn.silu, None),
        (jax.nn.mish, None),
        (jax.nn.softplus, None),
    ],
)
def test_activations_of_other_forms_are_seen_and_those_without_bounds_are_not(
    activation: Any, kind: str | None
) -> None:
    cell = recurrent.elman(D, H, activation=activation)
    params, xs = given(cell)
    found = activations(cell, params, jnp.asarray(xs))
    assert list(found) == ([kind] if kind else [])
    if kind:
        (values,) = found[kind].values()
        _, ys = recurrent.unroll(cell, params, xs)
        np.testing.assert_array_equal(jnp.minimum(values, 6), jnp.minimum(ys, 6))  # as relu6 ends
