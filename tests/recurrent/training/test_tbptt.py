"""Truncated backpropagation: which tokens are read when, and from which state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrent import lstm, unroll
from recurrent.losses import Average, masked_average
from recurrent.training.step import TrainState, init_state
from recurrent.training.tbptt import evaluate_streams, steps_per_epoch, train_streams

SIZE, STREAMS, WINDOW = 103, 4, 6
STEPS = steps_per_epoch(SIZE, STREAMS, WINDOW)
TOKENS = jnp.asarray(np.random.default_rng(0).permutation(SIZE), jnp.int32)
CELL = lstm(1, 3)
SHAPE = {"streams": STREAMS, "window": WINDOW}


def test_how_many_windows_there_are() -> None:
    assert STEPS == 4
    assert steps_per_epoch(64, 8, 8) == 1
    assert steps_per_epoch(63, 8, 8) == 0


def batches(epochs: int) -> list[dict[str, np.ndarray]]:
    """What each step reads, told by the carry."""

    def loss(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        return 0 * params["a"], ({}, batch)

    empty = {name: jnp.zeros((WINDOW, STREAMS), jnp.int32) for name in ("inputs", "targets")}
    init = {"a": jnp.zeros(())}
    state = init_state(lambda key: init, optax.sgd(1.0), jax.random.key(0), lambda params: empty)
    read = []
    for _ in range(epochs * STEPS):
        state, _ = train_streams(
            *(loss, optax.sgd(1.0), state, TOKENS, lambda params: empty), **SHAPE, steps=1
        )
        read.append(jax.tree.map(np.asarray, state.carry))
    return read


def test_an_epoch_reads_each_stream_in_order() -> None:
    where = np.argsort(TOKENS)  # of each token, all being different
    cuts = []
    for epoch in range(3):
        read = batches(3)[epoch * STEPS : (epoch + 1) * STEPS]
        places = where[np.concatenate([batch["inputs"] for batch in read])]
        after = where[np.concatenate([batch["targets"] for batch in read])]
        cuts.append(places[0, 0])
        heads = (cuts[-1] + np.arange(STREAMS) * (SIZE // STREAMS)) % SIZE
        steps = np.arange(STEPS * WINDOW)[:, None]
        np.testing.assert_array_equal(places, (heads + steps) % SIZE)
        np.testing.assert_array_equal(after, (heads + steps + 1) % SIZE)
        assert len(np.unique(places)) == places.size
    assert len(set(cuts)) == 3


def read_by_cell(params: Any, state: Any, batch: Any) -> Any:
    return unroll(CELL, params, batch["inputs"][..., None] / SIZE, state)


def trained(rate: float, calls: list[int]) -> tuple[TrainState, list[Any]]:
    """The state after so many steps in each call, and the carry after each."""

    def loss(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        carry, ys = read_by_cell(params, carry, batch)
        errors = masked_average((ys.mean(-1) - batch["targets"] / SIZE) ** 2)
        return errors.mean, ({"loss": errors}, carry)

    def start(params: Any) -> Any:
        return CELL.initial_state(params, (STREAMS,))

    state = init_state(CELL.init, optax.sgd(rate), jax.random.key(3), start)
    run = jax.jit(
        lambda state, steps: train_streams(
            *(loss, optax.sgd(rate), state, TOKENS, start), **SHAPE, steps=steps
        )[0],
        static_argnums=1,
    )
    carries = []
    for steps in calls:
        state = run(state, steps)
        carries.append(state.carry)
    return state, carries


def test_the_state_goes_on_from_window_to_window_and_begins_anew_with_an_epoch() -> None:
    state, carries = trained(0.0, [1] * (2 * STEPS))
    for epoch, first in enumerate((0, STEPS)):
        read = batches_of(state.key)[first : first + STEPS]
        for k in range(STEPS):
            whole = {"inputs": jnp.concatenate(read[: k + 1])}
            expected, _ = read_by_cell(state.params, None, whole)
            for name, value in expected._asdict().items():
                np.testing.assert_allclose(
                    getattr(carries[epoch * STEPS + k], name), value, rtol=1e-4, atol=1e-6
                )


def batches_of(key: Any) -> list[Any]:
    """The inputs of two epochs under a run's key, cut out by hand."""
    read = []
    for epoch in range(2):
        order = jax.random.split(key)[1]
        cut = int(jax.random.randint(jax.random.fold_in(order, epoch), (), 0, SIZE))
        ring = np.roll(TOKENS, -cut)
        streams = [ring[b * (SIZE // STREAMS) :] for b in range(STREAMS)]
        for k in range(STEPS):
            windows = [stream[k * WINDOW : (k + 1) * WINDOW] for stream in streams]
            read.append(np.stack(windows, axis=1))
    return read


def test_calls_of_any_length_give_the_same() -> None:
    one, _ = trained(0.1, [STEPS, STEPS])
    other, _ = trained(0.1, [1, 2, 1, 3, 1])
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert int(one.step) == int(other.step) == 2 * STEPS


def test_a_step_that_is_skipped_keeps_the_carry() -> None:
    def loss(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        return params["a"] * jnp.nan, ({}, carry + jnp.nan)

    def start(params: Any) -> Any:
        return jnp.ones(STREAMS)

    state = init_state(lambda key: {"a": jnp.ones(())}, optax.sgd(1.0), jax.random.key(0), start)
    state, metrics = train_streams(loss, optax.sgd(1.0), state, TOKENS, start, **SHAPE, steps=2)
    assert metrics["skipped"].total == 2
    np.testing.assert_array_equal(state.carry, np.ones(STREAMS))


@pytest.mark.parametrize("streams", [1, 3, 7])
@pytest.mark.parametrize("window", [5, 200])
def test_an_evaluation_predicts_every_token_but_the_first_once(streams: int, window: int) -> None:
    params = CELL.init(jax.random.key(0))

    def measure(params: Any, carry: Any, batch: Any) -> Any:
        carry, ys = read_by_cell(params, carry, batch)
        seen = masked_average(ys.mean(-1) * batch["targets"], batch["mask"])
        return {"seen": seen, "targets": masked_average(batch["targets"], batch["mask"])}, carry

    found = evaluate_streams(
        *(measure, params, TOKENS, lambda params: CELL.initial_state(params, (streams,))),
        **{"streams": streams, "window": window},
    )
    length = -(-(SIZE - 1) // streams)
    total = 0.0
    for head in range(0, SIZE - 1, length):
        part = TOKENS[head : head + length + 1]
        ys = unroll(CELL, params, part[:-1, None, None] / SIZE)[1]
        total += float((ys[:, 0].mean(-1) * part[1:]).sum())
    assert int(found["targets"].weight) == SIZE - 1
    assert float(found["targets"].total) == float(TOKENS[1:].sum())
    assert isinstance(found["seen"], Average)
    np.testing.assert_allclose(found["seen"].total, total, rtol=1e-4)


@pytest.mark.parametrize(("size", "steps"), [(SIZE, STEPS + 1), (SIZE, 0), (10, 1)])
def test_steps_that_an_epoch_does_not_have(size: int, steps: int) -> None:
    def loss(params: Any, carry: Any, batch: Any, key: Any) -> Any:
        return 0 * params["a"], ({}, carry)

    sgd = optax.sgd(1.0)
    state = init_state(lambda key: {"a": jnp.ones(())}, sgd, jax.random.key(0))
    with pytest.raises(ValueError, match=f"got {steps}"):
        train_streams(loss, sgd, state, TOKENS[:size], lambda params: (), **SHAPE, steps=steps)


@pytest.mark.parametrize(("size", "streams", "window"), [(1, 1, 1), (9, 0, 1), (9, 1, 0)])
def test_evaluations_of_nothing(size: int, streams: int, window: int) -> None:
    with pytest.raises(ValueError, match="expected at least 2, 1 and 1"):
        evaluate_streams(
            lambda params, carry, batch: ({}, carry),
            *((), TOKENS[:size], lambda params: ()),
            **{"streams": streams, "window": window},
        )
