"""A new cell, defined in this file alone, has all that the cells of the library have."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__
from recurrent import (
    GateVJP,
    Hidden,
    bidirectional,
    dense,
    elman,
    gated,
    gru,
    lstm,
    residual,
    stack,
    unroll,
)
from tests.recurrent.cases import disturbed, random_like, values_and_gradients
from tests.recurrent.traces import loops

pytestmark = pytest.mark.optimized

TIME, BATCH, SIZE = 6, 3, 4


def softsign_gru(input_size, hidden_size):
    def gate(zx, zh, state):
        reset, update = jax.nn.sigmoid(zx[0] + zh[0]), jax.nn.sigmoid(zx[1] + zh[1])
        candidate = jax.nn.soft_sign(zx[2] + reset * zh[2])
        return Hidden((1 - update) * candidate + update * state.hidden)

    return gated(gate, input_size, hidden_size, gates=3, recurrent_bias=True)


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def numpy_loop(params: Any, h: Any, xs: Any, mask: Any, reset: Any) -> tuple[Any, Any]:
    ys = []
    for x, real, fresh in zip(xs, mask[..., None], reset[..., None], strict=True):
        h = np.where(fresh & real, 0, h)
        zx, zh = (
            np.split(v @ params[side]["kernel"] + params[side]["bias"], 3, -1)
            for v, side in ((x, "input"), (h, "recurrent"))
        )
        r, u = sigmoid(zx[0] + zh[0]), sigmoid(zx[1] + zh[1])
        n = zx[2] + r * zh[2]
        new = (1 - u) * n / (1 + abs(n)) + u * h
        h, y = np.where(real, new, h), np.where(real, new, 0)
        ys.append(y)
    return h, np.stack(ys)


def given() -> tuple[Any, ...]:
    rng = np.random.default_rng(0)
    params = disturbed(rng, softsign_gru(SIZE, SIZE).init(jax.random.key(0)))
    flags = rng.random((2, TIME, BATCH)) < [[[0.7]], [[0.3]]]
    state, xs = rng.normal(size=(BATCH, SIZE)), rng.normal(size=(TIME, BATCH, SIZE))
    return params, Hidden(jnp.asarray(state)), xs, *flags


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_masks_and_resets_of_a_new_cell_equal_a_numpy_loop():
    params, state, xs, mask, reset = given()
    last, ys = unroll(softsign_gru(SIZE, SIZE), params, xs, state, mask=mask, reset=reset)
    expected_last, expected = numpy_loop(params, state.hidden, xs, mask, reset)
    np.testing.assert_allclose(ys, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(last.hidden, expected_last, rtol=1e-12, atol=1e-12)


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_a_new_cells_backward_pass_is_the_fast_one_and_equals_autodiff_of_the_scan():
    params, state, xs, mask, reset = given()

    def gradients(method: Any, params: Any, state: Any, xs: Any) -> Any:
        def whole(params: Any, state: Any, xs: Any) -> Any:
            cell = softsign_gru(SIZE, SIZE)
            return unroll(cell, params, xs, state, mask=mask, reset=reset, method=method)

        return values_and_gradients(whole, params, state, xs)

    chex.assert_trees_all_close(
        *(jax.jit(partial(gradients, method))(params, state, xs) for method in ("auto", "scan")),
        rtol=1e-12,
        atol=1e-12,
    )
    assert weights_carried(partial(gradients, "auto"), params, state, xs) == 0
    assert weights_carried(partial(gradients, "scan"), params, state, xs) > 0


def weights_carried(function: Any, *args: Any) -> int:
    """Count the loops that carry an array as large as a kernel, and so add to it in every step."""
    return sum((SIZE, 3 * SIZE) in loop.carried for loop in loops(function, *args))


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_a_new_cell_stacks_streams_and_goes_both_ways():
    cell = stack(
        softsign_gru(3, SIZE),
        residual(softsign_gru(SIZE, SIZE)),
        dense(SIZE, 2),
        input_shape=(3,),
    )
    params = cell.init(jax.random.key(1))
    xs = random_like(jnp.zeros((TIME, BATCH, 3)))
    _, whole = unroll(cell, params, xs)
    state, ys = cell.initial_state(params, (BATCH,)), []
    for x in xs:
        state, y = cell.step(params, state, x)
        ys.append(y)
    np.testing.assert_allclose(np.stack(ys), whole, rtol=1e-12, atol=1e-12)
    both = bidirectional(softsign_gru(3, 2), softsign_gru(3, 2))
    assert unroll(both, both.init(jax.random.key(2)), xs)[1].shape == (TIME, BATCH, 4)


@pytest.mark.long
def test_a_new_cell_trains_by_a_flag(tmp_path: Path):
    command = ["sequential_digits", f"--cell={__file__}:softsign_gru", f"--workdir={tmp_path}/run"]
    assert __main__.main([*command, "--epochs=3", "--hidden_size=16", "--batch_size=256"]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["evaluation"] for row in rows] == [1, 2, 3]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    parameters = json.loads((tmp_path / "run" / "result.json").read_text())["parameters"]
    assert parameters == 3 * 16 * (8 + 1 + 16 + 1) + 10 * (16 + 1)


# What the backward pass keeps, and what its loop does


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("factory", "kept", "own"),
    [(elman, 1, 0), (lstm, 4, 0), (gru, 4, 1), (softsign_gru, 4, 1)],
)
def test_the_sum_that_a_gate_reads_is_kept_once_and_has_one_gradient(
    factory: Any, kept: int, own: int
) -> None:
    cell = factory(SIZE, SIZE)
    params, xs = cell.init(jax.random.key(0)), random_like(jnp.zeros((TIME, BATCH, SIZE)))

    def differentiate(params: Any, xs: Any) -> Any:
        return values_and_gradients(lambda *args: unroll(cell, args[0], args[1])[1], params, xs)

    # the loops of a CPU, which write over what they read, and those of accelerators, which stack
    forward, stacking, backward, stacking_backward = loops(differentiate, params, xs)
    fields = len(cell.initial_state(params, ()))
    blocks = params["recurrent"]["kernel"].shape[1]
    for loop in (forward, stacking):
        over_time = [*loop.stacked, *(shape for shape in loop.carried if shape[0] == TIME)]
        assert sum(shape[-1] for shape in over_time) == (fields + kept) * SIZE
    assert backward.stacked == []
    rewritten = [shape[-1] for shape in backward.carried if shape[0] == TIME]
    assert sum(rewritten) == blocks + own * SIZE
    assert sum(shape[-1] for shape in stacking_backward.stacked) == blocks + own * SIZE
    products = [loop.products for loop in (forward, stacking, backward, stacking_backward)]
    # x, too, is multiplied in the loop of a CPU, unless its product cannot be joined with that of h
    assert products == [1 if own else 2, 1, 1, 1]
    others = [shape for shape in backward.carried if shape[0] != TIME]
    assert all(shape == (BATCH, SIZE) for shape in others)


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_a_part_that_a_gate_uses_beside_the_sum_is_kept_apart() -> None:
    """Here both parts have one gradient, though the sum alone does not determine the gate."""

    def switched(input_size: int, hidden_size: int) -> Any:
        def gate(zx, zh, state):
            fires = jax.lax.stop_gradient(zx[0]) + 1.0 > 1
            return Hidden(jnp.where(fires, jnp.tanh(zx[0] + zh[0]), state.hidden))

        return gated(gate, input_size, hidden_size, gates=1)

    cell = switched(SIZE, SIZE)
    params, xs = cell.init(jax.random.key(0)), random_like(jnp.zeros((TIME, BATCH, SIZE)))

    def differentiate(method: Any) -> Any:
        def run(params: Any, xs: Any) -> Any:
            return unroll(cell, params, xs, method=method)

        return values_and_gradients(run, params, xs)

    chex.assert_trees_all_close(differentiate("auto"), differentiate("scan"), atol=1e-12)


def squared(zx: Any, zh: Any, state: Any) -> Any:
    return Hidden(zx[0] * zh[0] ** 2 + state.hidden)


def squared_forward(zx: Any, zh: Any, state: Any) -> Any:
    return squared(zx, zh, state), zx, zh


def squared_backward(zx: Any, zh: Any, before: Any, d_new: Any) -> Any:
    d_h = d_new.hidden
    return [d_h * zh[0] ** 2], [2 * d_h * zx[0] * zh[0]], d_new


@pytest.mark.long
@pytest.mark.usefixtures("float64")
def test_a_gate_with_its_own_backward_pass_has_the_gradients_of_the_scan() -> None:
    vjp = GateVJP(squared_forward, squared_backward, frozenset())
    cell = gated(squared, SIZE, SIZE, gates=1, gate_vjp=vjp)
    params = jax.tree.map(lambda leaf: leaf / 4, cell.init(jax.random.key(0)))
    xs = random_like(jnp.zeros((TIME, BATCH, SIZE)))
    mask = jnp.arange(TIME)[:, None] < jnp.array([TIME, 2, 4])

    def differentiate(method: Any) -> Any:
        def run(params: Any, xs: Any) -> Any:
            return unroll(cell, params, xs, mask=mask, method=method)

        return values_and_gradients(run, params, xs)

    chex.assert_trees_all_close(differentiate("auto"), differentiate("scan"), atol=1e-12)


def test_a_backward_pass_of_its_own_is_refused_for_a_gate_with_params() -> None:
    vjp = GateVJP(squared_forward, squared_backward, frozenset())
    with pytest.raises(ValueError, match="gate_vjp: expected a gate without params"):
        gated(squared, 4, 5, gates=1, gate_vjp=vjp, gate_params=lambda key: {"gain": key})


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("forward", {"forward": lambda zx, zh, state: (state, zx, [])}),
        ("forward", {"forward": lambda zx, zh, state: (state, [zx[0] > 0], zh)}),
        ("backward", {"backward": lambda zx, zh, before, d_new: (zx + zh, zh, d_new)}),
        ("backward", {"backward": lambda zx, zh, before, d_new: (zx, zh, None)}),
        ("forward", {"shared": frozenset({0})}),
    ],
)
def test_a_backward_pass_of_other_blocks_is_refused(name: str, change: dict[str, Any]) -> None:
    vjp = GateVJP(squared_forward, squared_backward, frozenset())._replace(**change)
    cell = gated(squared, SIZE, SIZE, gates=1, gate_vjp=vjp)
    params, xs = cell.init(jax.random.key(0)), jnp.zeros((TIME, BATCH, SIZE))
    with pytest.raises(ValueError, match=f"gate_vjp: expected {name} to return"):
        jax.grad(lambda params: unroll(cell, params, xs)[1].sum())(params)
