"""Export cells with sizes that are not known, and run them in a process without this package."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import recurrent
from recurrent import (
    Cell,
    additive_attention,
    bidirectional,
    decoder,
    gru,
    linear_cross_entropy,
    lstm,
    multi_head_attention,
    parallel,
    unroll,
    zoneout,
)
from recurrent.export import STATES
from tests.recurrent.cases import BATCH, CELLS, HIDDEN, INPUT, TIME, random_like

SIZES = [(1, 1), (2, 3), (7, 2)]
KEY = jax.random.key(0)


def symbols_of(tree: Any) -> Any:
    """Return the shapes of a tree, with all leading axes of ``TIME, BATCH`` as symbols."""
    names = {TIME: "t", BATCH: "b"}

    def of_leaf(leaf: Any) -> str:
        return ",".join(names.get(size, str(size)) for size in leaf.shape)

    return export.symbolic_args_specs(tree, jax.tree.map(of_leaf, tree))


def given_to(cell: Cell, time: int, batch: int) -> tuple[Any, Any, Any]:
    """Return inputs ``[T, B, D]``, a mask and resets."""
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(time, batch, *cell.input_shape)).astype(np.float32)
    return xs, rng.random((time, batch)) < 0.6, rng.random((time, batch)) < 0.4


def assert_exports(function: Any, given: Any, sizes: Any, tolerance: float = 2e-6) -> None:
    """Check an exported function against the traced one, whose sizes are known."""
    exported = export.export(jax.jit(function))(*symbols_of(given(TIME, BATCH)))
    for size in sizes:
        got, expected = exported.call(*given(*size)), jax.jit(function)(*given(*size))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_exports_for_any_length_and_batch(name: str) -> None:
    cell = CELLS[name](INPUT, HIDDEN)
    params = jax.jit(cell.init)(jax.random.key(0))

    def run(xs, mask, reset):
        plain = unroll(cell, params, xs)[1]
        state, ys = unroll(cell, params, xs, mask=mask, reset=reset, reverse=True)
        return plain, jax.tree.leaves(state), ys

    assert_exports(run, lambda time, batch: given_to(cell, time, batch), SIZES)


@pytest.mark.long
@pytest.mark.parametrize("options", [{"remat": 3}, {"truncate": 2}, {"method": "scan"}])
def test_options_and_gradients_export_for_any_length_and_batch(options: Any) -> None:
    cell = lstm(INPUT, HIDDEN)
    params = cell.init(jax.random.key(0))

    def gradient(xs, mask, reset):
        def loss(params, xs):
            return (unroll(cell, params, xs, mask=mask, reset=reset, **options)[1] ** 2).sum()

        return jax.grad(loss, (0, 1))(params, xs)

    assert_exports(gradient, lambda time, batch: given_to(cell, time, batch), SIZES)


@pytest.mark.long
def test_both_directions_parallel_evaluation_and_fixed_lengths_export() -> None:
    both = bidirectional(gru(INPUT, 2), lstm(INPUT, 2))
    newton = parallel(gru(INPUT, HIDDEN))
    params = both.init(jax.random.key(0)), newton.init(jax.random.key(1))

    def run(xs, mask, reset):
        ys = unroll(both, params[0], xs, mask=mask, reset=reset)[1]
        return ys, unroll(newton, params[1], xs, mask=mask)[1]

    assert_exports(run, lambda time, batch: given_to(both, time, batch), SIZES, tolerance=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("causal", [True, False])
def test_attention_and_the_loss_of_a_readout_export(causal: bool) -> None:
    attention = multi_head_attention(INPUT, 2, causal=causal, rotary_base=100.0)
    params = attention.init(jax.random.key(0))
    readout = {"kernel": np.random.default_rng(1).normal(size=(INPUT, 5)).astype(np.float32)}

    def run(xs, mask):
        ys = attention.apply(params, xs, mask=mask)
        labels = jnp.ones(mask.shape, int)
        return ys, linear_cross_entropy(readout, ys, labels, mask, chunk=2).mean

    cell = gru(INPUT, HIDDEN)
    assert_exports(run, lambda time, batch: given_to(cell, time, batch)[:2], SIZES)


READER = """
import sys
import numpy as np
from jax import export

folder = sys.argv[1]
given = np.load(folder + "/given.npz")
start = [given[name] for name in sorted(given.files) if name.startswith("state")]
with open(folder + "/step", "rb") as file:
    step = export.deserialize(file.read())
with open(folder + "/sequence", "rb") as file:
    sequence = export.deserialize(file.read())
state, ys = start, []
for x in given["xs"]:
    state, y = step.call(state, x)
    ys.append(y)
streamed, whole = [np.stack(ys), *state], sequence.call(start, given["xs"])
imported = {name.split(".")[0] for name in sys.modules} & {"recurrent", "experiments"}
assert not imported, imported
np.savez(folder + "/got.npz", *streamed, *whole)
"""


EXPORTED = {
    "lstm": lstm(INPUT, HIDDEN),
    "stack": recurrent.stack(lstm(INPUT, 6), gru(6, HIDDEN)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", EXPORTED)
def test_a_cell_runs_in_a_process_that_does_not_import_this_package(
    name: str, tmp_path: Path
) -> None:
    """Allow 8 units in the last place of float32; ``-rP`` prints the largest difference."""
    cell = EXPORTED[name]
    params = random_like(jax.eval_shape(cell.init, KEY))
    start = random_like(cell.initial_state(params, (BATCH,)), seed=1)
    xs = given_to(cell, TIME, BATCH)[0]
    leaves, tree = jax.tree.flatten(start)

    def step(leaves, x):
        state, y = cell.step(params, jax.tree.unflatten(tree, leaves), x)
        return jax.tree.leaves(state), y

    def sequence(leaves, xs):
        state, ys = unroll(cell, params, xs, jax.tree.unflatten(tree, leaves))
        return [ys, *jax.tree.leaves(state)]

    for function, given in ((step, (leaves, xs[0])), (sequence, (leaves, xs))):
        exported = export.export(jax.jit(function))(*symbols_of(given))
        (tmp_path / function.__name__).write_bytes(exported.serialize())
    named = {f"state{index}": leaf for index, leaf in enumerate(leaves)}
    np.savez(tmp_path / "given.npz", xs=xs, **named)
    subprocess.run([sys.executable, "-P", "-c", READER, str(tmp_path)], check=True, cwd=tmp_path)
    with np.load(tmp_path / "got.npz") as found:
        got, expected = [*found.values()], sequence(leaves, xs)
    pairs = zip(got, [*expected, *expected], strict=True)  # streamed, then whole
    differences = [float(abs(a - b).max() / max(1.0, abs(b).max())) for a, b in pairs]
    print(f"{name} in another process: largest difference {max(differences):.1e}")
    assert max(differences) <= 8 * 2.0**-23


def state_names(tree: Any) -> set[str]:
    """Return the names of all NamedTuples in a tree."""
    if not isinstance(tree, tuple | dict):
        return set()
    own = {type(tree).__name__} if hasattr(tree, "_fields") else set()
    parts = tree.values() if isinstance(tree, dict) else tree
    return own.union(*map(state_names, parts))


@pytest.mark.long
def test_the_state_of_every_cell_is_registered() -> None:
    registered = {each.__name__ for each in STATES}
    for make in CELLS.values():
        cell = make(INPUT, HIDDEN)
        state = jax.eval_shape(lambda key, c=cell: c.initial_state(c.init(key), ()), KEY)
        assert state_names(state) - {"Leaky"} <= registered


@pytest.mark.long
def test_states_are_written_and_read_as_they_are() -> None:
    cell = zoneout(lstm(2, 3), 0.5, None)
    params = cell.init(KEY)
    state = cell.initial_state(params, (2,))
    given = state, jnp.ones((2, 2))
    exported = export.export(jax.jit(lambda state, x: cell.step(params, state, x)))(*given)
    after, y = export.deserialize(exported.serialize()).call(*given)
    expected = cell.step(params, *given)
    assert jax.tree.structure((after, y)) == jax.tree.structure(expected)
    np.testing.assert_allclose(y, expected[1], rtol=1e-6)


@pytest.mark.long
def test_the_step_of_a_decoder_is_written_with_its_state_and_memory() -> None:
    network = decoder(gru(3 + 4, 5), additive_attention(5, 4, 6), vocabulary_size=9)
    params = network.init(KEY)
    memory = network.precompute(params, jnp.asarray(random_like(jnp.ones((7, 2, 4)))))
    given = memory, network.initial_state(params, (2,)), jnp.array([1, 2])

    def step(memory, state, tokens):
        return network.step(params, memory, state, tokens)

    got = export.deserialize(export.export(jax.jit(step))(*given).serialize()).call(*given)
    np.testing.assert_allclose(got[1], step(*given)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_the_package_may_be_loaded_anew() -> None:
    """Registering a name twice is an error to JAX."""
    code = """
import importlib, sys
import recurrent, recurrent.export
importlib.reload(recurrent.export)
importlib.reload(recurrent)
for name in [name for name in sys.modules if name.split(".")[0] == "recurrent"]:
    del sys.modules[name]
import recurrent
"""
    subprocess.run([sys.executable, "-c", code], check=True)
