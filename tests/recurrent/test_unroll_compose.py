"""Compare `unroll` under all options at once with a Python loop that applies one rule at a time."""

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, PartitionSpec

from recurrent import Cell, dense, elman, gru, lstm, unroll
from recurrent.cells.linear import min_gru
from recurrent.cells.state_space import lru
from recurrent.combinators import bidirectional, learned_state, residual, skip_stack, stack
from recurrent.layers import layer_norm
from recurrent.regularization import step_dropout, variational_dropout, weight_drop, zoneout
from tests.recurrent.cases import disturbed, random_like

TIME, BATCH, INPUT, TRUNCATE = 7, 3, 3, 3

# Columns are batch elements; some resets are at padded steps, where they have no effect.
MASK = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1], [1, 0, 1]], bool)
RESET_STEPS = ([4, 5], [0, 5], [2, 3, 6])
RESET = np.stack([np.isin(np.arange(TIME), steps) for steps in RESET_STEPS], axis=1)


def noisy() -> Cell:
    keys = jax.random.split(jax.random.key(0), 4)
    return stack(
        step_dropout(INPUT, 0.4, keys[0]),
        zoneout(weight_drop(elman(INPUT, 4), 0.4, keys[1]), 0.3, keys[2]),
        variational_dropout(4, 0.4, keys[3]),
    )


CELLS: dict[str, Callable[[], Cell]] = {
    "gru": lambda: gru(INPUT, 4),
    "lru": lambda: lru(INPUT, 4),
    "stack": lambda: stack(
        residual(stack(layer_norm(INPUT), lstm(INPUT, INPUT))),
        skip_stack(elman(INPUT, 2), min_gru(INPUT + 2, 2)),
        dense(4, 2),
    ),
    "learned_state": lambda: stack(learned_state(elman(INPUT, 2)), learned_state(min_gru(2, 2))),
    "noise": noisy,
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@lru_cache
def inputs_of(name: str) -> tuple[Cell, Any, Any, np.ndarray]:
    """Return a cell, params, a state ``[B, ...]`` and inputs ``[T, B, D]`` with NaN in padding."""
    rng, cell = np.random.default_rng(0), CELLS[name]()
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: 0.5 * leaf, random_like(shapes))
    state = disturbed(rng, cell.initial_state(params, (BATCH,)))
    xs = rng.normal(size=(TIME, BATCH, INPUT))
    return cell, params, state, np.where(MASK[..., None], xs, np.nan)


def loop(cell: Cell, params: Any, state: Any, xs: Any) -> tuple[Any, Any, Any]:
    """Do by a Python loop what `unroll` documents for ``reverse``: ``(state, ys, states)``."""
    initial = cell.initial_state(params, (BATCH,))
    step = jax.jit(cell.step)
    outputs = []
    for reading, t in enumerate(reversed(range(TIME))):
        if reading and reading % TRUNCATE == 0:
            state = lax.stop_gradient(state)
        before = choose(MASK[t] & RESET[t], initial, state)
        after, y = step(params, before, choose(MASK[t], xs[t], jnp.zeros_like(xs[t])))
        state = choose(MASK[t], after, before)
        outputs.append((choose(MASK[t], y, jnp.zeros_like(y)), state))
    return state, *jax.tree.map(lambda *leaves: jnp.stack(leaves), *reversed(outputs))


def choose(flags: np.ndarray, chosen: Any, other: Any) -> Any:
    """Choose between two trees for each example; the batch is the first axis of every leaf."""

    def select(a: Any, b: Any) -> Any:
        return jnp.where(np.expand_dims(flags, tuple(range(1, jnp.ndim(a)))), a, b)

    return jax.tree.map(select, chosen, other)


def differentiate(run: Callable[..., Any], name: str) -> tuple[Any, Any]:
    """Return the results of ``run(params, state, xs)``, and gradients of last state and outputs."""
    _, params, state, xs = inputs_of(name)

    def only_floats(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf if leaf.dtype == np.float64 else None, tree)

    def floats_alone(params, floats, xs):
        given = jax.tree.map(lambda leaf, new: leaf if new is None else new, state, floats)
        last, ys, *states = run(params, given, xs)
        return (only_floats(last), ys), (last, ys, *states)

    outputs, pull_back, everything = jax.vjp(
        floats_alone, params, only_floats(state), xs, has_aux=True
    )
    return everything, pull_back(random_like(outputs))


@lru_cache
def expected(name: str) -> tuple[Any, Any]:
    return differentiate(partial(loop, inputs_of(name)[0]), name)


def assert_close(actual: Any, expected: Any) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.long
@pytest.mark.parametrize("name", CELLS)
def test_unroll_with_all_options_equals_a_python_loop_in_values_and_gradients(name: str) -> None:
    @jax.jit
    def run(params, state, xs):
        last, (ys, states) = unroll(
            inputs_of(name)[0],
            params,
            xs,
            state,
            mask=MASK,
            reset=RESET,
            reverse=True,
            remat=2,
            truncate=TRUNCATE,
            return_states=True,
        )
        return last, ys, states

    assert_close(differentiate(run, name), expected(name))


@pytest.mark.long
@pytest.mark.parametrize("name", CELLS)
def test_remat_and_truncation_equal_a_python_loop_in_values_and_gradients(name: str) -> None:
    @jax.jit
    def run(params, state, xs):
        options = {"reverse": True, "remat": 2, "truncate": TRUNCATE}
        return unroll(inputs_of(name)[0], params, xs, state, mask=MASK, reset=RESET, **options)

    (last, ys, _), gradients = expected(name)
    assert_close(differentiate(run, name), ((last, ys), gradients))


@pytest.mark.long
@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs the two devices of conftest")
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *itertools.product(["lstm", "gru", "elman", "min_gru"], ["auto", "scan"]),
        ("two ways", "auto"),
    ],
)
def test_a_batch_split_by_shard_map_equals_one_device(name: str, method: Any) -> None:
    """Compare values and gradients with those of one device; params are replicated."""
    made: dict[str, Any] = {"lstm": lstm, "gru": gru, "elman": elman, "min_gru": min_gru}
    cell = made[name](3, 4) if name in made else bidirectional(gru(3, 4), gru(3, 4))
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (5, 4, 3))
    mask = jnp.arange(5)[:, None] < jnp.array([5, 3, 1, 4])
    mesh = jax.make_mesh((2,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:2])
    cut = PartitionSpec(None, "batch")

    def loss(params: Any, xs: Any, mask: Any) -> Any:
        return (unroll(cell, params, xs, mask=mask, method=method)[1] ** 2).sum()

    def shared(params: Any, xs: Any, mask: Any) -> Any:
        value, gradients = jax.value_and_grad(loss, (0, 1))(params, xs, mask)
        return lax.psum(value, "batch"), gradients

    specs = PartitionSpec(), (PartitionSpec(), cut)
    mapped = jax.shard_map(shared, mesh=mesh, in_specs=(PartitionSpec(), cut, cut), out_specs=specs)
    actual = jax.jit(mapped)(params, xs, mask)
    right = jax.value_and_grad(loss, (0, 1))(params, xs, mask)
    chex.assert_trees_all_close(actual, right, rtol=1e-5, atol=1e-6)
