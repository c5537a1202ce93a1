"""Minibatches: which examples each step sees, in which order, on which devices; evaluations."""

from functools import lru_cache, partial
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrent import dense, elman, unroll
from recurrent.errors import ArgumentError
from recurrent.losses import Average, accuracy, cross_entropy, masked_average
from recurrent.regularization import dropout
from recurrent.training.minibatch import (
    LARGEST_EVALUATION_BATCH,
    epoch_order,
    evaluate,
    even_batch_size,
    filled_batches,
    minibatch_task,
    shard_batch,
    steps_per_epoch,
    take,
)
from recurrent.training.optimizers import optimizer
from recurrent.training.population import Layout, batch_mesh
from recurrent.training.step import TrainState
from recurrent.training.task import Task

pytestmark = pytest.mark.optimized

SIZE, BATCH, INPUT = 23, 4, 3
STEPS = 6
two_devices = pytest.mark.skipif(
    len(jax.devices()) < 2, reason="needs two devices, as conftest has"
)


def line_data(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SIZE, INPUT)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(x @ np.array([1, -2, 3], np.float32) + 0.5)}


def line_init(key: jax.Array) -> Any:
    return {"kernel": jax.random.normal(key, (INPUT, 1)), "bias": jnp.zeros(1)}


def line_errors(params: Any, batch: Any) -> Average:
    error = (batch["x"] @ params["kernel"] + params["bias"])[..., 0] - batch["y"]
    return masked_average(error**2, batch["mask"])


def line_task(**options: Any) -> Task:
    """Fits a line by Adam, every option of which is a hyperparameter."""

    def loss(params: Any, batch: Any, key: jax.Array, hparams: Any) -> Any:
        squares = line_errors(params, batch)
        return squares.mean, {"loss": squares}

    def made(hparams: Any) -> optax.GradientTransformation:
        return optimizer("adam", **{k: v for k, v in hparams.items() if k != "seed"})

    def measure(params: Any, batch: Any, hparams: Any) -> Any:
        return {"loss": line_errors(params, batch)}

    return minibatch_task(line_init, loss, measure, made, batch_size=BATCH, **options)


def keyless(state: TrainState) -> TrainState:
    return state._replace(key=jax.random.key_data(state.key))


# Batches and their order.


@lru_cache
def visiting_task(momentum: float) -> Task:
    """A task whose gradient at example i is 1 if i is in the batch: the params count visits."""

    def loss(params: Any, batch: Any, key: jax.Array, hparams: Any) -> Any:
        return jnp.where(batch["mask"], params[batch["id"]], 0).sum(), {}

    task = minibatch_task(
        init=lambda key: jnp.zeros(SIZE),
        loss=loss,
        measure=lambda params, batch, hparams: {},
        optimizer=lambda hparams: optimizer("sgd", 1.0, momentum=momentum),
        batch_size=BATCH,
    )
    return task._replace(train=jax.jit(task.train, static_argnums=3))


def visits(epochs: int, seed: int = 7, momentum: float = 0.0) -> np.ndarray:
    """Minus the params after some epochs; with momentum they tell when an example was visited."""
    task, hparams = visiting_task(momentum), {"seed": seed}
    state = task.init(hparams)
    for _ in range(epochs):
        state, _ = task.train(state, hparams, {"id": jnp.arange(SIZE)}, STEPS)
    assert int(state.step) == epochs * STEPS
    return -np.asarray(state.params)


@pytest.mark.long
def test_an_epoch_visits_every_example_once() -> None:
    assert steps_per_epoch(SIZE, BATCH) == STEPS
    np.testing.assert_array_equal(visits(1), 1)
    np.testing.assert_array_equal(visits(3), 3)


@pytest.mark.long
def test_the_order_is_random_and_reproducible_and_follows_the_seed() -> None:
    first, again, other = (visits(1, seed, momentum=0.5) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    in_order = np.repeat(2 - 0.5 ** np.arange(STEPS - 1, -1, -1), BATCH)[:SIZE]
    np.testing.assert_array_equal(np.sort(first), np.sort(in_order))
    assert (first != in_order).any()


def test_epochs_differ_in_order() -> None:
    after_one, after_two = visits(1, momentum=0.5), visits(2, momentum=0.5)
    # An example's velocity of the first epoch goes on through the second: take it out.
    velocity = 2 - after_one
    carried = after_one + velocity * (1 - 0.5**STEPS)
    second = after_two - carried
    np.testing.assert_allclose(np.sort(second), np.sort(after_one), atol=1e-5)
    assert np.abs(second - after_one).max() > 0.1


@pytest.mark.long
def test_batches_are_filled_up_at_the_end_only() -> None:
    order, real = epoch_order(jax.random.key(7), SIZE, BATCH)
    assert order.shape == real.shape == (STEPS, BATCH)
    np.testing.assert_array_equal(np.sort(order[real]), np.arange(SIZE))
    np.testing.assert_array_equal(real.reshape(-1), np.arange(STEPS * BATCH) < SIZE)
    order, real = filled_batches(jnp.array([5, 6, 7, 8, 9]), 3)
    np.testing.assert_array_equal(order, [[5, 6, 7], [8, 9, 0]])
    np.testing.assert_array_equal(real, [[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(("size", "batch", "steps"), [(8, 4, 2), (9, 4, 3), (3, 4, 1), (4, 4, 1)])
def test_steps_per_epoch_counts_the_short_batch(size: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(size, batch) == steps


def test_a_batch_holds_the_examples_it_asks_for_and_zeros_where_it_is_filled_up() -> None:
    data = {"x": jnp.arange(1.0, 9.0).reshape(4, 2), "label": jnp.array([5, 6, 7, 8])}
    batch = take(data, jnp.array([3, 0, 0]), jnp.array([True, True, False]))
    np.testing.assert_array_equal(batch["x"], [[7, 8], [1, 2], [0, 0]])
    np.testing.assert_array_equal(batch["label"], [8, 5, 0])
    np.testing.assert_array_equal(batch["mask"], [True, True, False])
    assert batch["label"].dtype == data["label"].dtype


def rnn_task() -> Task:
    """Classifies sequences, with dropout, so that each step has noise of its own."""
    cell, readout = elman(INPUT, 5), dense(5, 4)

    def init(key: jax.Array) -> Any:
        cell_key, readout_key = jax.random.split(key)
        return {"cell": cell.init(cell_key), "readout": readout.init(readout_key)}

    def logits_of(params: Any, batch: Any, key: Any = None) -> Any:
        state, _ = unroll(cell, params["cell"], jnp.swapaxes(batch["x"], 0, 1))
        hidden = state.hidden if key is None else dropout(state.hidden, 0.3, key)
        return readout.apply(params["readout"], hidden)

    def metrics_of(logits: Any, batch: Any) -> Any:
        given = logits, batch["y"], batch["mask"]
        return {"loss": cross_entropy(*given), "right": accuracy(*given)}

    def loss(params: Any, batch: Any, key: jax.Array, hparams: Any) -> Any:
        metrics = metrics_of(logits_of(params, batch, key), batch)
        return metrics["loss"].mean, metrics

    return minibatch_task(
        init,
        loss,
        measure=lambda params, batch, hparams: metrics_of(logits_of(params, batch), batch),
        optimizer=lambda hparams: optimizer("adam", 0.01, clip_norm=1.0),
        batch_size=BATCH,
    )


def rnn_data() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SIZE, 6, INPUT)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(rng.integers(0, 4, SIZE))}


@pytest.mark.long
def test_steps_in_one_call_equal_steps_in_two_bit_for_bit() -> None:
    task, hparams, data = rnn_task(), {"seed": 7}, rnn_data()
    train = jax.jit(task.train, static_argnums=3)
    start = task.init(hparams)
    whole, metrics = train(start, hparams, data, STEPS)
    state, first = train(start, hparams, data, STEPS // 2)
    state, second = train(state, hparams, data, STEPS // 2)
    chex.assert_trees_all_equal(keyless(state), keyless(whole))
    chex.assert_trees_all_close(jax.tree.map(jnp.add, first, second), metrics, rtol=1e-6)
    assert metrics["loss"].weight == SIZE
    assert metrics["gradient_norm"].weight == STEPS


@pytest.mark.long
def test_an_epoch_with_one_bad_batch_counts_the_others() -> None:
    task, hparams = line_task(), {"seed": 7, "learning_rate": 0.01}
    good = line_data()
    bad = good | {"x": good["x"].at[5, 0].set(jnp.nan)}
    state, metrics = jax.jit(task.train, static_argnums=3)(task.init(hparams), hparams, bad, STEPS)
    assert metrics["skipped"] == (1, STEPS)
    assert metrics["gradient_norm"].weight == STEPS - 1
    assert metrics["loss"].weight in (SIZE - BATCH, SIZE - SIZE % BATCH)
    assert int(state.step) == STEPS
    chex.assert_tree_all_finite((state.params, metrics))


# The task.


@pytest.mark.long
def test_a_task_trains_like_optax_over_its_own_batches() -> None:
    task, hparams, data = line_task(), {"seed": 3, "learning_rate": 0.1}, line_data()
    adam = optax.adam(0.1)
    start = task.init(hparams)
    _, order_key = jax.random.split(start.key)
    params, opt_state = start.params, adam.init(start.params)
    errors = []
    for epoch in range(2):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(order_key, epoch), SIZE))
        for rows in np.split(order, range(BATCH, SIZE, BATCH)):
            x, y = np.asarray(data["x"])[rows], np.asarray(data["y"])[rows]
            error = x @ np.asarray(params["kernel"]) + np.asarray(params["bias"]) - y[:, None]
            slopes = {"kernel": 2 * x.T @ error / len(rows), "bias": 2 * error.mean(axis=0)}
            updates, opt_state = adam.update(slopes, opt_state, params)
            params = jax.tree.map(np.add, params, updates)
            errors.append(float((error**2).sum()))
    state, train = start, jax.jit(task.train, static_argnums=3)
    for epoch in range(2):
        state, metrics = train(state, hparams, data, STEPS)
        total = sum(errors[epoch * STEPS : (epoch + 1) * STEPS])
        np.testing.assert_allclose(metrics["loss"], (total, SIZE), rtol=1e-4)
    chex.assert_trees_all_close(state.params, params, rtol=1e-4, atol=1e-6)


def test_the_seed_alone_decides_the_initial_params() -> None:
    task = line_task()
    first, same, other = (
        task.init({"seed": seed, "learning_rate": rate}).params["kernel"]
        for seed, rate in ((1, 0.1), (1, 0.2), (2, 0.1))
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).all()


@pytest.mark.long
def test_hyperparameters_reach_the_loss_the_measure_and_the_optimizer() -> None:
    def loss(params: Any, batch: Any, key: jax.Array, hparams: Any) -> Any:
        return hparams["slope"] * params, {}

    task = minibatch_task(
        init=lambda key: jnp.float32(0),
        loss=loss,
        measure=lambda params, batch, hparams: {
            "seen": masked_average(hparams["factor"] * batch["x"], batch["mask"])
        },
        optimizer=lambda hparams: optax.sgd(hparams["rate"]),
        batch_size=2,
    )
    hparams = {"seed": 0, "slope": 3.0, "rate": 0.5, "factor": 10.0}
    data = {"x": jnp.arange(4.0)}
    state, _ = task.train(task.init(hparams), hparams, data, 2)
    assert float(state.params) == -2 * 3 * 0.5
    assert task.evaluate(task.keep(state), hparams, data)["seen"] == (60, 4)


@pytest.mark.long
def test_a_task_evaluates_the_average_of_its_params_where_it_keeps_one() -> None:
    decay, hparams, data = 0.7, {"seed": 7, "learning_rate": 0.1}, line_data()
    plain, averaged = line_task(), line_task(average_decay=decay)
    state, train = plain.init(hparams), jax.jit(plain.train, static_argnums=3)
    expected: Any = state.params
    for step in range(STEPS):
        state, _ = train(state, hparams, data, 1)
        keep = min(decay, (1 + step) / (10 + step))
        expected = optax.incremental_update(state.params, expected, 1 - keep)
    other, _ = averaged.train(averaged.init(hparams), hparams, data, STEPS)
    chex.assert_trees_all_close(other.params, state.params, rtol=1e-5)
    chex.assert_trees_all_close(averaged.keep(other), expected, rtol=1e-5)
    assert plain.keep(state) is state.params
    assert state.average == ()
    error = float(averaged.evaluate(averaged.keep(other), hparams, data)["loss"].mean)
    x, y = np.asarray(data["x"]), np.asarray(data["y"])
    line = x @ np.asarray(expected["kernel"])[:, 0] + np.asarray(expected["bias"])
    np.testing.assert_allclose(error, ((line - y) ** 2).mean(), rtol=1e-4)


@pytest.mark.long
def test_a_task_scales_its_loss_where_it_is_told_to() -> None:
    hparams, data = {"seed": 7, "learning_rate": 0.1}, line_data()
    plain, scaled = line_task(), line_task(loss_scale=1024.0)
    state, _ = plain.train(plain.init(hparams), hparams, data, STEPS)
    other, _ = scaled.train(scaled.init(hparams), hparams, data, STEPS)
    chex.assert_trees_all_close(other.params, state.params, rtol=1e-5)
    assert other.scale == (1024, STEPS)
    assert state.scale == ()


@pytest.mark.long
@pytest.mark.fault("N7")
def test_one_compilation_serves_all_hyperparameters() -> None:
    traces, task = [], line_task()

    @jax.jit
    def run(state: TrainState, data: Any, hparams: dict[str, Any]) -> Any:
        traces.append(hparams)
        return task.train(state, hparams, data, STEPS)

    kernels = []
    for rate, decay, clip_norm in [(0.1, 0.0, 0.0), (0.01, 0.1, 1.0), (0.001, 0.0, 0.5)]:
        hparams = {"seed": 7, "learning_rate": rate}
        hparams |= {"weight_decay": decay, "clip_norm": clip_norm}
        after, _ = run(task.init(hparams), line_data(), hparams)
        kernels.append(np.asarray(after.params["kernel"]))
    run(after, line_data(1), hparams)
    assert len(traces) == 1
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1


def test_training_finds_the_line() -> None:
    task, hparams = line_task(), {"seed": 7, "learning_rate": 0.05}
    train, state = jax.jit(task.train, static_argnums=3), task.init(hparams)
    for _ in range(100):
        state, _ = train(state, hparams, line_data(), STEPS)
    np.testing.assert_allclose(state.params["kernel"][:, 0], [1, -2, 3], atol=1e-3)
    np.testing.assert_allclose(state.params["bias"], [0.5], atol=1e-3)
    error = task.evaluate(task.keep(state), hparams, line_data(1))["loss"]
    assert error.mean < 1e-5, "on new points of the same line too"


# Evaluation.


def measure(params: Any, batch: Any) -> Any:
    return {"loss": line_errors(params, batch)}


@pytest.mark.parametrize("batch_size", [1, 4, SIZE - 1, SIZE, 2 * SIZE])
def test_an_evaluation_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    data, params = line_data(), line_init(jax.random.key(7))
    x, y = np.asarray(data["x"]), np.asarray(data["y"])
    expected = np.square(x @ np.asarray(params["kernel"])[:, 0] - y).sum()
    actual = jax.jit(partial(evaluate, measure), static_argnums=2)(params, data, batch_size)
    np.testing.assert_allclose(actual["loss"], (expected, SIZE), rtol=1e-5)


def test_an_evaluation_of_more_examples_than_one_batch_counts_each_once() -> None:
    size = 2 * LARGEST_EVALUATION_BATCH + 7
    sizes = []

    def count(params: Any, batch: Any) -> Any:
        sizes.append(batch["mask"].shape[0])
        return {"x": masked_average(batch["x"], batch["mask"])}

    found = evaluate(count, None, {"x": jnp.arange(float(size))})
    assert found["x"] == (size * (size - 1) / 2, size)
    assert set(sizes) == {even_batch_size(size, LARGEST_EVALUATION_BATCH)}


@pytest.mark.parametrize(
    ("size", "limit", "part"),
    [(180, 500, 184), (570, 500, 288), (1000, 500, 500), (7, 7, 7), (1, 500, 8), (10, 3, 3)],
)
def test_the_batches_of_an_evaluation_are_few_and_evenly_filled(
    size: int, limit: int, part: int
) -> None:
    assert even_batch_size(size, limit) == part
    assert -(-size // part) == -(-size // limit)


# Devices that share batches.


@two_devices
@pytest.mark.fault("N10")
def test_what_a_batch_holds_does_not_depend_on_the_devices_that_share_it() -> None:
    data = {"x": np.arange(40.0, dtype=np.float32).reshape(20, 2)}
    indices, mask = np.array([3, 1, 7, 0]), np.array([True, True, True, False])
    alone = jax.jit(take)(data, indices, mask)
    with batch_mesh(Layout(batch_devices=2)):
        shared = jax.jit(take)(data, indices, mask)
    for name, leaf in shared.items():
        assert leaf.sharding.spec[0] == "batch", name
        assert {shard.data.shape[0] for shard in leaf.addressable_shards} == {2}
    jax.tree.map(np.testing.assert_array_equal, shared, alone)


@two_devices
def test_a_batch_is_shared_along_the_axis_that_is_asked_for() -> None:
    with batch_mesh(Layout(batch_devices=2)):
        shared = jax.jit(partial(shard_batch, axis=1))(jnp.ones((3, 4)))
    assert {shard.data.shape for shard in shared.addressable_shards} == {(3, 2)}


@two_devices
def test_a_batch_that_devices_cannot_share_equally_stays_whole() -> None:
    batch = {"odd": jnp.ones((3, 4)), "even": jnp.ones((4, 4))}
    with batch_mesh(Layout(batch_devices=2)):
        shared = jax.jit(partial(shard_batch, axis=0))(batch)
    assert {shard.data.shape for shard in shared["odd"].addressable_shards} == {(3, 4)}
    assert {shard.data.shape for shard in shared["even"].addressable_shards} == {(2, 4)}


@pytest.mark.parametrize("axis_name", [None, "members"])
def test_without_a_mesh_for_batches_nothing_is_shared(axis_name: str | None) -> None:
    batch = {"x": np.ones((4, 4))}
    if axis_name is None:
        assert shard_batch(batch, axis=0) is batch
        return
    kind = (jax.sharding.AxisType.Auto,)
    with jax.set_mesh(jax.make_mesh((1,), (axis_name,), kind, devices=jax.devices()[:1])):
        assert shard_batch(batch, axis=0) is batch


@pytest.mark.long
@two_devices
@pytest.mark.fault("N10")
def test_two_devices_train_as_one_does_masks_of_dropout_included() -> None:
    task, hparams, data = rnn_task(), {"seed": 7}, rnn_data()

    def trained(layout: Layout) -> tuple[TrainState, Any, str]:
        with batch_mesh(layout):
            state = task.init(hparams)
            train = jax.jit(task.train, static_argnums=3).lower(state, hparams, data, STEPS)
            program = train.compile()
            state, metrics = program(state, hparams, data)
            return state, metrics, str(program.as_text())

    (one, metrics, alone), (two, shared_metrics, shared) = (
        trained(Layout(batch_devices=count)) for count in (1, 2)
    )
    assert "all-reduce" in shared
    assert "all-reduce" not in alone
    chex.assert_trees_all_close(keyless(two).params, keyless(one).params, rtol=1e-3, atol=1e-6)
    chex.assert_trees_all_close(shared_metrics, metrics, rtol=1e-4)


def test_no_examples_and_batches_of_none_are_explained() -> None:
    nothing, unused = {"x": jnp.zeros(0), "y": jnp.zeros(0)}, cast(Any, None)
    with pytest.raises(ArgumentError, match="data: expected at least one example, got none"):
        evaluate(measure, None, nothing)
    task, hparams = line_task(), {"seed": 0, "learning_rate": 0.1}
    with pytest.raises(ArgumentError, match="data: expected at least one example, got none"):
        task.train(task.init(hparams), hparams, nothing, 1)
    with pytest.raises(ArgumentError, match="batch_size: expected at least 1, got 0"):
        evaluate(measure, None, {"x": jnp.zeros(3)}, batch_size=0)
    with pytest.raises(ArgumentError, match="batch_size: expected at least 1, got 0"):
        minibatch_task(line_init, unused, unused, unused, batch_size=0)
