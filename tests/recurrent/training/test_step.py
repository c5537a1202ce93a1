"""The train step against optax by hand, the data order, faults, and evaluation."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrent import dense, elman, unroll
from recurrent.losses import accuracy, cross_entropy, masked_average
from recurrent.regularization import dropout
from recurrent.training import step as train_module
from recurrent.training.optimizers import OPTIMIZERS, optimizer
from recurrent.training.step import (
    TrainState,
    epoch_order,
    evaluate,
    even_part,
    filled_batches,
    init_state,
    steps_per_epoch,
    train_step,
    train_steps,
)

pytestmark = pytest.mark.optimized

SIZE, BATCH, INPUT = 23, 4, 3
STEPS = 6
KEY = jax.random.key(7)


def line_data(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SIZE, INPUT)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(x @ np.array([1, -2, 3], np.float32) + 0.5)}


def line_init(key: jax.Array) -> Any:
    return {"kernel": jax.random.normal(key, (INPUT, 1)), "bias": jnp.zeros(1)}


def line_loss(params: Any, batch: Any, key: jax.Array) -> Any:
    error = (batch["x"] @ params["kernel"] + params["bias"])[..., 0] - batch["y"]
    squares = masked_average(error**2, batch.get("mask"))
    return squares.mean, {"loss": squares}


def visit_loss(params: Any, batch: Any, key: jax.Array) -> Any:
    """Its gradient at example i is 1 if i is in the batch: the params count visits."""
    return jnp.where(batch["mask"], params[batch["id"]], 0).sum(), {}


def noise_loss(params: Any, batch: Any, key: jax.Array) -> Any:
    """Its gradient is the step's noise."""
    return jax.random.normal(key) * params, {}


def one_step(name: str = "sgd", **numbers: Any) -> Callable[..., Any]:
    return jax.jit(partial(train_step, line_loss, optimizer(name, 0.1, **numbers)))


def test_a_step_equals_optax_by_hand() -> None:
    data = line_data()
    transformation = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    state = init_state(line_init, transformation, KEY)
    params, opt_state = state.params, state.opt_state
    step = jax.jit(partial(train_step, line_loss, transformation))
    update = jax.jit(transformation.update)
    for _ in range(3):
        x, y, kernel = np.asarray(data["x"]), np.asarray(data["y"]), np.asarray(params["kernel"])
        error = x @ kernel + np.asarray(params["bias"]) - y[:, None]
        by_hand = {"kernel": 2 * x.T @ error / SIZE, "bias": 2 * error.mean(axis=0)}
        updates, opt_state = update(by_hand, opt_state, params)
        params = jax.tree.map(np.add, params, updates)
        state, metrics = step(state, data)
        chex.assert_trees_all_close(state.params, params, rtol=1e-5)
        norm = np.sqrt(sum(np.square(g).sum() for g in by_hand.values()))
        assert norm > 1
        np.testing.assert_allclose(metrics["gradient_norm"].mean, norm, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"].mean, (error**2).mean(), rtol=1e-5)
    assert (int(state.step), int(state.skipped)) == (3, 0)


def test_the_state_starts_at_zero_and_may_be_donated() -> None:
    state = init_state(line_init, optimizer("adam", 0.1), KEY)
    assert (int(state.step), int(state.skipped)) == (0, 0)
    step = jax.jit(partial(train_step, line_loss, optimizer("adam", 0.1)), donate_argnums=0)
    for _ in range(2):
        state, _ = step(state, line_data())
    assert int(state.step) == 2


def test_each_step_has_its_own_noise_and_the_run_s_key_stays() -> None:
    step = jax.jit(partial(train_step, noise_loss, optax.sgd(1.0)))
    state = init_state(lambda key: jnp.zeros(()), optax.sgd(1.0), KEY)
    noises = []
    for _ in range(4):
        before = state.params
        state, _ = step(state, {})
        noises.append(float(before - state.params))
    assert len(set(noises)) == 4
    other = init_state(lambda key: jnp.zeros(()), optax.sgd(1.0), jax.random.key(8))
    assert float(step(other, {})[0].params) != -noises[0]
    np.testing.assert_array_equal(
        jax.random.key_data(state.key), jax.random.key_data(other._replace(key=state.key).key)
    )


@lru_cache
def visiting_epoch(momentum: float) -> tuple[Any, Any]:
    transformation = optimizer("sgd", 1.0, momentum=momentum)
    run = partial(train_steps, visit_loss, transformation, batch_size=BATCH, steps=STEPS)
    return transformation, jax.jit(run)


def visits(epochs: int, key: jax.Array = KEY, momentum: float = 0.0) -> np.ndarray:
    """Minus the params after some epochs; with momentum they tell when an example was visited."""
    transformation, epoch = visiting_epoch(momentum)
    state = init_state(lambda key: jnp.zeros(SIZE), transformation, key)
    for _ in range(epochs):
        state, _ = epoch(state, {"id": jnp.arange(SIZE)})
    assert int(state.step) == epochs * STEPS
    return -np.asarray(state.params)


def test_an_epoch_visits_every_example_once() -> None:
    assert steps_per_epoch(SIZE, BATCH) == STEPS
    np.testing.assert_array_equal(visits(1), 1)
    np.testing.assert_array_equal(visits(3), 3)


def test_the_order_is_random_reproducible_and_the_key_s() -> None:
    first, again, other = (
        visits(1, KEY, 0.5),
        visits(1, KEY, 0.5),
        visits(1, jax.random.key(8), 0.5),
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    in_order = np.repeat(2 - 0.5 ** np.arange(STEPS - 1, -1, -1), BATCH)[:SIZE]
    np.testing.assert_array_equal(np.sort(first), np.sort(in_order))
    assert (first != in_order).any()


def test_epochs_differ_in_order() -> None:
    after_one, after_two = visits(1, KEY, 0.5), visits(2, KEY, 0.5)
    # An example's velocity of the first epoch goes on through the second: take it out.
    velocity = 2 - after_one
    carried = after_one + velocity * (1 - 0.5**STEPS)
    second = after_two - carried
    np.testing.assert_allclose(np.sort(second), np.sort(after_one), atol=1e-5)
    assert np.abs(second - after_one).max() > 0.1


def test_batches_are_filled_up_at_the_end_only() -> None:
    order, real = epoch_order(KEY, SIZE, BATCH)
    assert order.shape == real.shape == (STEPS, BATCH)
    np.testing.assert_array_equal(np.sort(order[real]), np.arange(SIZE))
    np.testing.assert_array_equal(real.reshape(-1), np.arange(STEPS * BATCH) < SIZE)
    order, real = filled_batches(jnp.array([5, 6, 7, 8, 9]), 3)
    np.testing.assert_array_equal(order, [[5, 6, 7], [8, 9, 0]])
    np.testing.assert_array_equal(real, [[1, 1, 1], [1, 1, 0]])


@pytest.mark.parametrize(("size", "batch", "steps"), [(8, 4, 2), (9, 4, 3), (3, 4, 1), (4, 4, 1)])
def test_steps_per_epoch_counts_the_short_one(size: int, batch: int, steps: int) -> None:
    assert steps_per_epoch(size, batch) == steps


def rnn_task() -> tuple[Any, Any]:
    cell, readout = elman(INPUT, 5), dense(5, 4)

    def init(key):
        cell_key, readout_key = jax.random.split(key)
        return {"cell": cell.init(cell_key), "readout": readout.init(readout_key)}

    def loss(params, batch, key):
        state, _ = unroll(cell, params["cell"], jnp.swapaxes(batch["x"], 0, 1))
        logits = readout.apply(params["readout"], dropout(state.hidden, 0.3, key))
        average = cross_entropy(logits, batch["y"], batch["mask"])
        return average.mean, {"loss": average, "right": accuracy(logits, batch["y"], batch["mask"])}

    return init, loss


def rnn_data() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SIZE, 6, INPUT)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(rng.integers(0, 4, SIZE))}


def test_steps_in_one_call_equal_steps_in_two_bit_for_bit() -> None:
    init, loss = rnn_task()
    transformation = optimizer("adam", 0.01, clip_norm=1.0)
    run = jax.jit(partial(train_steps, loss, transformation), static_argnums=(2, 3))
    start, data = init_state(init, transformation, KEY), rnn_data()
    whole, metrics = run(start, data, BATCH, STEPS)
    state, first = run(start, data, BATCH, STEPS // 2)
    state, second = run(state, data, BATCH, STEPS // 2)
    without_key = [s._replace(key=jax.random.key_data(s.key)) for s in (state, whole)]
    chex.assert_trees_all_equal(*without_key)
    chex.assert_trees_all_close(jax.tree.map(jnp.add, first, second), metrics, rtol=1e-6)
    assert metrics["loss"].weight == SIZE
    assert metrics["gradient_norm"].weight == STEPS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(name: str) -> None:
    step = one_step(name, weight_decay=0.1, clip_norm=1.0)
    good = line_data()
    start = init_state(line_init, optimizer(name, 0.1), KEY)
    before, _ = step(start, good)
    state = before
    faults = (np.nan, np.inf, -np.inf, 1e30)
    for times, fault in enumerate(faults, start=1):
        state, metrics = step(state, good | {"x": good["x"].at[2, 1].set(fault)})
        chex.assert_trees_all_equal(
            (state.params, state.opt_state), (before.params, before.opt_state)
        )
        assert (int(state.step), int(state.skipped)) == (1 + times, times)
        assert metrics["loss"] == metrics["gradient_norm"] == (0, 0)
        assert metrics["skipped"] == (1, 1)
    after, metrics = step(state, good)
    assert (int(after.step), int(after.skipped)) == (2 + len(faults), 0)
    assert metrics["skipped"] == (0, 1)
    assert metrics["loss"].weight == SIZE
    expected, _ = step(before, good)
    chex.assert_trees_all_equal(after.params, expected.params)
    assert (after.params["kernel"] != before.params["kernel"]).all()


def test_a_huge_but_finite_norm_is_clipped() -> None:
    good = line_data()
    large = good | {"y": good["y"] + 1e15}
    state = init_state(line_init, optimizer("sgd", 0.1), KEY)
    after, metrics = one_step(momentum=0.0, clip_norm=1.0)(state, large)
    move = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, state.params))
    assert metrics["gradient_norm"].mean > 1e14
    assert 0.0999 < move < 0.1001
    assert int(after.skipped) == 0


def test_an_epoch_with_one_bad_batch_counts_the_others() -> None:
    transformation = optimizer("sgd", 0.01)
    run = jax.jit(partial(train_steps, line_loss, transformation), static_argnums=(2, 3))
    good = line_data()
    bad = good | {"x": good["x"].at[5, 0].set(jnp.nan)}
    state, metrics = run(init_state(line_init, transformation, KEY), bad, BATCH, STEPS)
    assert metrics["skipped"] == (1, STEPS)
    assert metrics["gradient_norm"].weight == STEPS - 1
    assert metrics["loss"].weight in (SIZE - BATCH, SIZE - SIZE % BATCH)
    chex.assert_tree_all_finite((state.params, metrics))


def test_a_skipped_step_leaves_the_average_as_it_is() -> None:
    data, sgd = line_data(), optax.sgd(0.1)
    state = init_state(line_init, sgd, KEY, keep_average=True)
    for _ in range(3):
        state, _ = train_step(line_loss, sgd, state, data, 0.9)
    broken = data | {"x": data["x"] * jnp.nan}
    after, _ = train_step(line_loss, sgd, state, broken, 0.9)
    assert after.skipped == 1
    chex.assert_trees_all_equal(after.average, state.average)


@pytest.mark.parametrize("factor", [1.0, 2.0**12])
def test_a_scaled_loss_takes_the_same_steps(factor: float) -> None:
    data, adam = line_data(), optax.adam(0.1)
    plain = init_state(line_init, adam, KEY)
    scaled = init_state(line_init, adam, KEY, loss_scale=factor)
    for _ in range(5):
        plain, metrics = train_step(line_loss, adam, plain, data)
        scaled, same = train_step(line_loss, adam, scaled, data)
        np.testing.assert_allclose(same["loss"], metrics["loss"], rtol=1e-6)
        np.testing.assert_allclose(same["gradient_norm"], metrics["gradient_norm"], rtol=1e-6)
    chex.assert_trees_all_close(scaled.params, plain.params, rtol=1e-6)
    assert scaled.scale == (factor, 5)
    assert plain.scale == ()


def test_a_scale_saves_gradients_that_float16_has_no_numbers_for() -> None:
    def loss(params: Any, batch: Any, key: Any) -> Any:
        small = (params["w"].astype(jnp.float16) * jnp.float16(2e-5)).astype(jnp.float32)
        return 1e-4 * small.sum(), {}

    def after(loss_scale: float) -> Any:
        sgd = optax.sgd(1.0)
        state = init_state(lambda key: {"w": jnp.ones(2)}, sgd, KEY, loss_scale=loss_scale)
        return 1 - train_step(loss, sgd, state, {})[0].params["w"]

    np.testing.assert_array_equal(after(0.0), 0)  # 2e-9 is below the least number of float16
    gradient = jax.grad(lambda w: 1e-4 * 2e-5 * w.sum())(jnp.ones(2))
    np.testing.assert_allclose(after(2.0**15), gradient, rtol=0.03, atol=2**-24)


def test_a_scale_is_halved_by_what_is_not_finite_and_doubled_after_many_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_module, "STEPS_TO_DOUBLE", 3)
    data, sgd = line_data(), optax.sgd(0.1)
    broken = data | {"x": data["x"] * jnp.nan}
    state = init_state(line_init, sgd, KEY, loss_scale=8.0)
    scales = []
    for batch in (data, broken, broken, data, data, data, data):
        state, _ = train_step(line_loss, sgd, state, batch)
        scales.append(tuple(jax.tree.leaves(state.scale)))
    assert scales == [(8, 1), (4, 0), (2, 0), (2, 1), (2, 2), (4, 0), (4, 1)]


@pytest.mark.parametrize(("factor", "bad", "end"), [(2.0**23, False, 2.0**24), (4.0, True, 1.0)])
def test_a_scale_stays_within_its_bounds(
    factor: float, bad: bool, end: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "STEPS_TO_DOUBLE", 1)
    data, sgd = line_data(), optax.sgd(1e-3)
    batch = data | {"x": data["x"] * jnp.nan} if bad else data
    state = init_state(line_init, sgd, KEY, loss_scale=factor)
    for _ in range(5):
        state, _ = train_step(line_loss, sgd, state, batch)
    assert state.scale == (end, 0)
    with pytest.raises(ValueError, match="loss_scale: expected 0, or 1 to"):
        init_state(line_init, sgd, KEY, loss_scale=0.5)


def measure(params: Any, batch: Any) -> Any:
    return line_loss(params, batch, KEY)[1]


@pytest.mark.parametrize("batch_size", [1, 4, SIZE - 1, SIZE, 2 * SIZE])
def test_evaluation_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    data, params = line_data(), line_init(KEY)
    expected = measure(params, data)["loss"]
    actual = jax.jit(partial(evaluate, measure), static_argnums=2)(params, data, batch_size)
    np.testing.assert_allclose(actual["loss"], expected, rtol=1e-6)
    assert actual["loss"].weight == SIZE


@pytest.mark.parametrize(
    ("size", "limit", "part"),
    [(180, 500, 184), (570, 500, 288), (1000, 500, 500), (7, 7, 7), (1, 500, 8), (10, 3, 3)],
)
def test_an_evaluation_fills_up_little(size: int, limit: int, part: int) -> None:
    assert even_part(size, limit) == part
    assert -(-size // part) == -(-size // limit)


def test_one_compilation_serves_all_hyperparameters() -> None:
    traces = []

    @jax.jit
    def run(state: TrainState, data: Any, numbers: dict[str, Any]) -> Any:
        traces.append(numbers)
        return train_steps(line_loss, optimizer("adam", **numbers), state, data, BATCH, STEPS)

    state = init_state(line_init, optimizer("adam", 0.1), KEY)
    kernels = []
    for rate, decay, clip_norm in [(0.1, 0.0, 0.0), (0.01, 0.1, 1.0), (0.001, 0.0, 0.5)]:
        numbers = {"learning_rate": rate, "weight_decay": decay, "clip_norm": clip_norm}
        after, _ = run(state, line_data(), numbers)
        kernels.append(np.asarray(after.params["kernel"]))
    run(after, line_data(1), numbers)
    assert len(traces) == 1
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1


def test_training_finds_the_line() -> None:
    transformation = optimizer("sgd", 0.05)
    run = jax.jit(partial(train_steps, line_loss, transformation), static_argnums=(2, 3))
    state = init_state(line_init, transformation, KEY)
    for _ in range(60):
        state, _ = run(state, line_data(), BATCH, STEPS)
    np.testing.assert_allclose(state.params["kernel"][:, 0], [1, -2, 3], atol=1e-3)
    np.testing.assert_allclose(state.params["bias"], [0.5], atol=1e-3)


def test_the_average_of_the_weights_is_that_of_a_loop() -> None:
    decay, steps = 0.6, 7
    data = {"x": jnp.arange(float(steps))}

    def loss(params: Any, batch: Any, key: Any) -> Any:
        return (params["w"] * batch["x"]).sum(), {}

    def draw(key: Any) -> Any:
        return {"w": jnp.ones(2)}

    made = optax.sgd(0.1)
    state = init_state(draw, made, jax.random.key(0), keep_average=True)
    expected = np.ones(2)
    for step in range(steps):
        batch = {"x": data["x"][step]}
        state, _ = train_step(loss, made, state, batch, decay)
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * np.asarray(state.params["w"])
        np.testing.assert_allclose(state.weights["w"], expected, rtol=1e-6)
    assert not np.allclose(state.weights["w"], state.params["w"])
    plain = init_state(draw, made, jax.random.key(0))
    assert plain.weights is plain.params
