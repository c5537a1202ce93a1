"""Truncated backpropagation through time: which tokens are read when, and from which state."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrent import lstm, unroll
from recurrent.losses import Average, masked_average
from recurrent.training.population import Layout, batch_mesh
from recurrent.training.step import TrainState, step_key
from recurrent.training.task import Task
from recurrent.training.tbptt import evaluate_streams, steps_per_epoch, tbptt_task

SIZE, STREAMS, WINDOW = 103, 4, 6
STEPS = steps_per_epoch(SIZE, STREAMS, WINDOW)
TOKENS = jnp.asarray(np.random.default_rng(0).permutation(SIZE), jnp.int32)
DATA = {"tokens": TOKENS}
HPARAMS = {"seed": 3, "rate": 0.1}
CELL = lstm(1, 3)
two_devices = pytest.mark.skipif(
    len(jax.devices()) < 2, reason="needs two devices, as conftest has"
)


def task_of(init: Any, start: Any, loss: Any, measure: Any = None, **options: Any) -> Task:
    shape = {"streams": STREAMS, "window": WINDOW, "evaluation_streams": 2}
    return tbptt_task(
        init,
        start,
        loss,
        measure or (lambda params, batch, carry, hparams: ({}, carry)),
        lambda hparams: optax.sgd(hparams["rate"]),
        **(shape | options),
    )


def cell_loss(params: Any, batch: Any, key: Any, carry: Any, hparams: Any) -> Any:
    carry, ys = read_by_cell(params, carry, batch["inputs"])
    errors = masked_average((ys.mean(-1) - batch["targets"] / SIZE) ** 2)
    return errors.mean, ({"loss": errors}, carry)


def cell_start(params: Any, streams: int) -> Any:
    return CELL.initial_state(params, (streams,))


def cell_measure(params: Any, batch: Any, carry: Any, hparams: Any = None) -> Any:
    carry, ys = read_by_cell(params, carry, batch["inputs"])
    seen = masked_average(ys.mean(-1) * batch["targets"], batch["mask"])
    return {"seen": seen, "targets": masked_average(batch["targets"], batch["mask"])}, carry


def read_by_cell(params: Any, state: Any, tokens: Any) -> Any:
    return unroll(CELL, params, tokens[..., None] / SIZE, state)


CELL_TASK = task_of(CELL.init, cell_start, cell_loss, cell_measure)
TRAIN = jax.jit(CELL_TASK.train, static_argnums=3)


def trained(rate: float, calls: list[int]) -> tuple[TrainState, list[Any]]:
    """The state after so many steps in each call, and the carry after each."""
    hparams = HPARAMS | {"rate": rate}
    state, carries = CELL_TASK.init(hparams), []
    for steps in calls:
        state, _ = TRAIN(state, hparams, DATA, steps)
        carries.append(state.carry)
    return state, carries


# What is read.


@pytest.mark.parametrize(("size", "steps"), [(SIZE, 4), (96, 4), (95, 3), (24, 1), (23, 0)])
def test_an_epoch_has_as_many_steps_as_windows_fit_into_a_stream(size: int, steps: int) -> None:
    assert steps_per_epoch(size, STREAMS, WINDOW) == steps


def batches(epochs: int) -> list[dict[str, np.ndarray]]:
    """What each step reads, told by the carry."""

    def loss(params: Any, batch: Any, key: Any, carry: Any, hparams: Any) -> Any:
        return 0 * params["a"], ({}, batch)

    def start(params: Any, streams: int) -> Any:
        empty = jnp.zeros((WINDOW, streams), jnp.int32)
        return {"inputs": empty, "targets": empty}

    task = task_of(lambda key: {"a": jnp.zeros(())}, start, loss)
    train, state = jax.jit(task.train, static_argnums=3), task.init(HPARAMS)
    read = []
    for _ in range(epochs * STEPS):
        state, _ = train(state, HPARAMS, DATA, 1)
        read.append(jax.tree.map(np.asarray, state.carry))
    return read


@pytest.mark.long
def test_an_epoch_reads_each_stream_in_order_and_no_token_twice() -> None:
    where = np.argsort(TOKENS)  # of each token, all being different
    all_read, splits = batches(3), []
    for epoch in range(3):
        read = all_read[epoch * STEPS : (epoch + 1) * STEPS]
        at = where[np.concatenate([batch["inputs"] for batch in read])]
        after = where[np.concatenate([batch["targets"] for batch in read])]
        splits.append(int(at[0, 0]))
        heads = (splits[-1] + np.arange(STREAMS) * (SIZE // STREAMS)) % SIZE
        steps = np.arange(STEPS * WINDOW)[:, None]
        np.testing.assert_array_equal(at, (heads + steps) % SIZE)
        np.testing.assert_array_equal(after, (heads + steps + 1) % SIZE)
        assert len(np.unique(at)) == at.size
    assert len(set(splits)) == 3, "each epoch splits the sequence elsewhere"


def inputs_of(key: Any, epochs: int) -> list[np.ndarray]:
    """The inputs of each step under the key of a training, cut out of the sequence by hand."""
    read = []
    for epoch in range(epochs):
        order = jax.random.split(key)[1]
        split = int(jax.random.randint(jax.random.fold_in(order, epoch), (), 0, SIZE))
        ring = np.roll(TOKENS, -split)
        streams = [ring[b * (SIZE // STREAMS) :] for b in range(STREAMS)]
        for k in range(STEPS):
            windows = [stream[k * WINDOW : (k + 1) * WINDOW] for stream in streams]
            read.append(np.stack(windows, axis=1))
    return read


# The state that is carried.


@pytest.mark.long
def test_the_state_goes_on_from_window_to_window_and_begins_anew_with_an_epoch() -> None:
    state, carries = trained(0.0, [1] * (2 * STEPS))
    read = inputs_of(state.key, epochs=2)
    for first in (0, STEPS):
        for k in range(STEPS):
            whole = jnp.concatenate(read[first : first + k + 1])
            expected, _ = read_by_cell(state.params, None, whole)
            found = carries[first + k]
            chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


def test_gradients_stay_in_the_window_and_do_not_enter_the_carried_state() -> None:
    state, _ = TRAIN(CELL_TASK.init(HPARAMS), HPARAMS, DATA, 1)
    after, metrics = TRAIN(state, HPARAMS, DATA, 1)
    first, second = (jnp.asarray(tokens) for tokens in inputs_of(state.key, epochs=1)[:2])
    successors = dict(zip(TOKENS.tolist(), np.roll(TOKENS, -1).tolist(), strict=True))
    targets = np.vectorize(successors.get)(second) / SIZE

    def truncated(params: Any) -> Any:
        return jnp.square(read_by_cell(params, state.carry, second)[1].mean(-1) - targets).mean()

    def whole(params: Any) -> Any:
        carry = read_by_cell(params, None, first)[0]
        return jnp.square(read_by_cell(params, carry, second)[1].mean(-1) - targets).mean()

    moved = jax.tree.map(lambda new, old: (old - new) / 0.1, after.params, state.params)
    error, slopes = jax.value_and_grad(truncated)(state.params)
    chex.assert_trees_all_close(moved, slopes, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"].mean, error, rtol=1e-5)
    far = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), slopes, jax.grad(whole)(state.params))
    assert max(jax.tree.leaves(far)) > 1e-4, "through both windows it is another gradient"


@pytest.mark.long
def test_calls_of_any_length_give_the_same() -> None:
    one, _ = trained(0.1, [STEPS, STEPS])
    other, _ = trained(0.1, [1, 2, 1, 3, 1])
    chex.assert_trees_all_close(other.params, one.params, rtol=1e-6)
    chex.assert_trees_all_close(other.carry, one.carry, rtol=1e-6)
    assert int(one.step) == int(other.step) == 2 * STEPS


@pytest.mark.long
def test_a_skipped_step_keeps_the_params_and_the_carry_and_counts_in_no_metric() -> None:
    def loss(params: Any, batch: Any, key: Any, carry: Any, hparams: Any) -> Any:
        bad = batch["inputs"][0, 0] * hparams["fault"]
        return params["a"] + params["a"] * bad, ({"loss": Average(bad, bad)}, carry + 1 + bad)

    task = task_of(
        init=lambda key: {"a": jnp.ones(())},
        start=lambda params, streams: jnp.ones(streams),
        loss=loss,
        average_decay=0.9,
    )
    train = jax.jit(task.train, static_argnums=3)
    good, bad = (HPARAMS | {"fault": jnp.float32(fault)} for fault in (0, np.nan))
    state, metrics = train(task.init(good), good, DATA, 1)
    np.testing.assert_array_equal(state.carry, np.full(STREAMS, 2.0))
    after, metrics = train(state, bad, DATA, 2)
    assert metrics["skipped"] == (2, 2)
    assert metrics["loss"] == metrics["gradient_norm"] == (0, 0)
    for part in ("params", "carry", "average", "opt_state"):
        chex.assert_trees_all_equal(getattr(after, part), getattr(state, part))
    assert (int(after.step), int(task.failures(after))) == (3, 2)
    after, metrics = train(after, good, DATA, 1)
    np.testing.assert_array_equal(after.carry, np.full(STREAMS, 3.0))
    assert int(task.failures(after)) == 0


def test_the_loss_sees_another_key_at_each_step_and_the_hyperparameters() -> None:
    def loss(params: Any, batch: Any, key: Any, carry: Any, hparams: Any) -> Any:
        return hparams["slope"] * params["a"], ({}, jax.random.key_data(key))

    task = task_of(
        init=lambda key: {"a": jnp.zeros(())},
        start=lambda params, streams: jnp.zeros(2, jnp.uint32),
        loss=loss,
    )
    hparams = HPARAMS | {"slope": 5.0}
    train, state, keys = jax.jit(task.train, static_argnums=3), task.init(hparams), []
    for _ in range(STEPS):
        expected = jax.random.key_data(step_key(state))
        state, _ = train(state, hparams, DATA, 1)
        np.testing.assert_array_equal(state.carry, expected)
        keys.append(tuple(state.carry.tolist()))
    assert len(set(keys)) == STEPS
    np.testing.assert_allclose(state.params["a"], -STEPS * 5.0 * 0.1, rtol=1e-6)


@pytest.mark.long
def test_a_task_keeps_the_average_of_its_params_where_it_is_told_to() -> None:
    decay = 0.2
    averaged = task_of(CELL.init, cell_start, cell_loss, average_decay=decay)
    train, state = jax.jit(averaged.train, static_argnums=3), averaged.init(HPARAMS)
    expected = state.params
    for step in range(STEPS):
        state, _ = train(state, HPARAMS, DATA, 1)
        keep = min(decay, (1 + step) / (10 + step))
        expected = optax.incremental_update(state.params, expected, 1 - keep)
    plain, _ = trained(HPARAMS["rate"], [STEPS])
    chex.assert_trees_all_close(state.params, plain.params, rtol=1e-5)
    chex.assert_trees_all_close(averaged.keep(state), expected, rtol=1e-5, atol=1e-7)
    assert CELL_TASK.keep(plain) is plain.params


@pytest.mark.long
def test_a_task_scales_its_loss_where_it_is_told_to() -> None:
    scaled = task_of(CELL.init, cell_start, cell_loss, loss_scale=256.0)
    state, _ = scaled.train(scaled.init(HPARAMS), HPARAMS, DATA, STEPS)
    plain, _ = trained(HPARAMS["rate"], [STEPS])
    chex.assert_trees_all_close(state.params, plain.params, rtol=1e-5, atol=1e-7)
    assert state.scale == (256, STEPS)


@pytest.mark.long
@two_devices
def test_two_devices_that_share_the_streams_train_as_one_does() -> None:
    def run(layout: Layout) -> tuple[TrainState, str]:
        with batch_mesh(layout):
            state = CELL_TASK.init(HPARAMS)
            train = jax.jit(CELL_TASK.train, static_argnums=3)
            program = train.lower(state, HPARAMS, DATA, STEPS).compile()
            return program(state, HPARAMS, DATA)[0], str(program.as_text())

    (one, alone), (two, shared) = (run(Layout(batch_devices=count)) for count in (1, 2))
    assert "all-reduce" in shared
    assert "all-reduce" not in alone
    chex.assert_trees_all_close(two.params, one.params, rtol=1e-4, atol=1e-6)


# Evaluation.


@pytest.mark.long
@pytest.mark.parametrize("streams", [1, 3, 7])
@pytest.mark.parametrize("window", [5, 200])
def test_an_evaluation_predicts_every_token_but_the_first_once(streams: int, window: int) -> None:
    params = CELL.init(jax.random.key(0))
    found = evaluate_streams(
        cell_measure, params, TOKENS, cell_start, streams=streams, window=window
    )
    assert int(found["targets"].weight) == SIZE - 1
    assert float(found["targets"].total) == float(TOKENS[1:].sum())
    assert isinstance(found["seen"], Average)
    np.testing.assert_allclose(found["seen"].total, seen_by_hand(params, streams), rtol=1e-4)


def seen_by_hand(params: Any, streams: int) -> float:
    """What `cell_measure` calls "seen", one whole stream after the other."""
    length = -(-(SIZE - 1) // streams)
    total = 0.0
    for head in range(0, SIZE - 1, length):
        part = TOKENS[head : head + length + 1]
        ys = unroll(CELL, params, part[:-1, None, None] / SIZE)[1]
        total += float((ys[:, 0].mean(-1) * part[1:]).sum())
    return total


@pytest.mark.long
def test_a_task_evaluates_in_as_many_streams_as_it_was_told() -> None:
    params = CELL.init(jax.random.key(0))
    found = jax.jit(CELL_TASK.evaluate)(params, HPARAMS, DATA)
    np.testing.assert_allclose(found["seen"].total, seen_by_hand(params, 2), rtol=1e-4)
    assert int(found["targets"].weight) == SIZE - 1


def test_hyperparameters_reach_the_measure() -> None:
    def measure(params: Any, batch: Any, carry: Any, hparams: Any) -> Any:
        return {"seen": masked_average(hparams["factor"] * batch["targets"], batch["mask"])}, carry

    task = task_of(lambda key: (), lambda params, streams: (), cell_loss, measure)
    found = task.evaluate((), {"factor": 2.0}, DATA)["seen"]
    assert found == (2 * int(TOKENS[1:].sum()), SIZE - 1)


# Mistakes.


@pytest.mark.parametrize(("size", "steps"), [(SIZE, STEPS + 1), (SIZE, 0), (10, 1)])
def test_steps_that_an_epoch_does_not_have_are_refused(size: int, steps: int) -> None:
    state = CELL_TASK.init(HPARAMS)
    with pytest.raises(ValueError, match=rf"steps: expected 1 to .*{size} tokens, got {steps}"):
        CELL_TASK.train(state, HPARAMS, {"tokens": TOKENS[:size]}, steps)


@pytest.mark.parametrize(("size", "streams", "window"), [(1, 1, 1), (9, 0, 1), (9, 1, 0)])
def test_evaluations_of_nothing_are_refused(size: int, streams: int, window: int) -> None:
    run = partial(evaluate_streams, cell_measure, (), TOKENS[:size], cell_start)
    with pytest.raises(ValueError, match="expected at least 2, 1 and 1"):
        run(streams=streams, window=window)
