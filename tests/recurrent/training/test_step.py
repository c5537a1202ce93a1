"""A training step and its parts against optax and NumPy: updates, skips, averages and scales."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrent.losses import masked_average
from recurrent.training import step as step_module
from recurrent.training.optimizers import OPTIMIZERS, optimizer
from recurrent.training.step import (
    TrainState,
    apply_gradients,
    gradients,
    init_state,
    layer_norms,
    log_layers,
    order_key,
    step_key,
    train_step,
    where_applied,
)

pytestmark = pytest.mark.optimized

SIZE, INPUT = 23, 3
KEY = jax.random.key(7)


def line_data() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SIZE, INPUT)).astype(np.float32)
    return {"x": jnp.asarray(x), "y": jnp.asarray(x @ np.array([1, -2, 3], np.float32) + 0.5)}


def line_init(key: jax.Array) -> Any:
    return {"kernel": jax.random.normal(key, (INPUT, 1)), "bias": jnp.zeros(1)}


def line_loss(params: Any, batch: Any, key: jax.Array) -> Any:
    error = (batch["x"] @ params["kernel"] + params["bias"])[..., 0] - batch["y"]
    squares = masked_average(error**2)
    return squares.mean, {"loss": squares}


def line_by_hand(params: Any, data: Any) -> tuple[Any, float]:
    """The gradients of `line_loss` and its value, in NumPy."""
    x, y = np.asarray(data["x"]), np.asarray(data["y"])
    error = x @ np.asarray(params["kernel"]) + np.asarray(params["bias"]) - y[:, None]
    slopes = {"kernel": 2 * x.T @ error / SIZE, "bias": 2 * error.mean(axis=0)}
    return slopes, float((error**2).mean())


def norm_by_hand(slopes: Any) -> float:
    return float(np.sqrt(sum(np.square(slope).sum() for slope in jax.tree.leaves(slopes))))


def broken(data: dict[str, jax.Array], fault: float = np.nan) -> dict[str, jax.Array]:
    return data | {"x": data["x"].at[2, 1].set(fault)}


def noise_loss(params: Any, batch: Any, key: jax.Array) -> Any:
    """Its gradient is the step's noise."""
    return jax.random.normal(key) * params, {}


def one_step(name: str = "sgd", **hparams: Any) -> Callable[..., Any]:
    return jax.jit(partial(train_step, line_loss, optimizer(name, 0.1, **hparams)))


def keyless(state: TrainState) -> TrainState:
    return state._replace(key=jax.random.key_data(state.key))


@pytest.mark.long
def test_a_step_equals_optax_by_hand() -> None:
    data = line_data()
    transformation = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    state = init_state(line_init, transformation, KEY)
    params, opt_state = state.params, state.opt_state
    step = jax.jit(partial(train_step, line_loss, transformation))
    update = jax.jit(transformation.update)
    for _ in range(3):
        slopes, error = line_by_hand(params, data)
        updates, opt_state = update(slopes, opt_state, params)
        params = jax.tree.map(np.add, params, updates)
        state, metrics = step(state, data)
        chex.assert_trees_all_close(state.params, params, rtol=1e-5)
        norm = norm_by_hand(slopes)
        assert norm > 1, "so that clipping acts, and the norm is that before it"
        np.testing.assert_allclose(metrics["gradient_norm"].mean, norm, rtol=1e-5)
        np.testing.assert_allclose(metrics["loss"].mean, error, rtol=1e-5)
        assert metrics["loss"].weight == SIZE
    assert (int(state.step), int(state.skipped)) == (3, 0)


@pytest.mark.long
def test_the_state_starts_at_zero_and_may_be_donated() -> None:
    adam = optimizer("adam", 0.1)
    state = init_state(line_init, adam, KEY, keep_average=True, loss_scale=8.0)
    assert (int(state.step), int(state.skipped)) == (0, 0)
    step = jax.jit(partial(train_step, line_loss, adam), donate_argnums=0)
    for _ in range(2):
        state, _ = step(state, line_data())
    assert int(state.step) == 2


@pytest.mark.long
def test_the_initial_carry_is_made_from_the_params() -> None:
    state = init_state(line_init, optax.sgd(0.1), KEY, lambda params: 2 * params["kernel"])
    np.testing.assert_array_equal(state.carry, 2 * state.params["kernel"])
    after, _ = train_step(line_loss, optax.sgd(0.1), state, line_data())
    np.testing.assert_array_equal(after.carry, state.carry)


def test_each_step_has_its_own_noise_and_the_key_of_the_training_stays() -> None:
    step = jax.jit(partial(train_step, noise_loss, optax.sgd(1.0)))
    state = init_state(lambda key: jnp.zeros(()), optax.sgd(1.0), KEY)
    key, noises = state.key, []
    for _ in range(4):
        before = state.params
        state, _ = step(state, {})
        noises.append(float(before - state.params))
    assert len(set(noises)) == 4
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(key))
    other = init_state(lambda key: jnp.zeros(()), optax.sgd(1.0), jax.random.key(8))
    assert float(step(other, {})[0].params) != -noises[0]


def test_the_key_of_a_step_depends_on_the_state_s_key_and_step_alone() -> None:
    start = init_state(line_init, optax.sgd(0.1), KEY)

    def after(steps: int, rate: float) -> TrainState:
        state = start
        for _ in range(steps):
            state, _ = train_step(line_loss, optax.sgd(rate), state, line_data())
        return state

    def bits(key: jax.Array) -> tuple[int, ...]:
        return tuple(jax.random.key_data(key).tolist())

    assert bits(step_key(after(2, 0.1))) == bits(step_key(after(2, 0.01)))
    others = [step_key(start._replace(step=jnp.int32(step))) for step in range(5)]
    others += [order_key(start), start.key]
    assert len(set(map(bits, others))) == len(others)
    assert bits(order_key(after(2, 0.1))) == bits(order_key(start))


# The two parts.


def test_gradients_equal_numpy_and_hand_batch_key_and_second_result_through() -> None:
    data = line_data()
    state = init_state(line_init, optax.sgd(0.1), KEY)

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        return line_loss(params, batch, key)[0], {"batch": batch, "key": jax.random.key_data(key)}

    slopes, seen = jax.jit(partial(gradients, loss))(state, data, jax.random.key(3))
    chex.assert_trees_all_close(slopes, line_by_hand(state.params, data)[0], rtol=1e-5)
    chex.assert_trees_all_equal(seen["batch"], data)
    np.testing.assert_array_equal(seen["key"], jax.random.key_data(jax.random.key(3)))


@pytest.mark.long
def test_apply_gradients_makes_one_update_of_optax_whatever_the_gradients_come_from() -> None:
    adam = optax.adam(0.1)
    state = init_state(line_init, adam, KEY)
    slopes = {"kernel": jnp.array([[3.0], [0.0], [0.0]]), "bias": jnp.array([-4.0])}
    after, metrics = jax.jit(partial(apply_gradients, adam))(state, slopes)
    updates, opt_state = adam.update(slopes, adam.init(state.params), state.params)
    expected = optax.apply_updates(state.params, updates)
    chex.assert_trees_all_close(after.params, expected, rtol=1e-6)
    chex.assert_trees_all_close(after.opt_state, opt_state, rtol=1e-6)
    assert (int(after.step), int(after.skipped)) == (1, 0)
    assert metrics == {"gradient_norm": (5, 1), "skipped": (0, 1)}


@pytest.mark.parametrize("loss_scale", [0.0, 64.0])
def test_further_arguments_reach_the_loss_and_are_not_differentiated(loss_scale: float) -> None:
    sgd = optax.sgd(0.5)

    def loss(params: Any, batch: Any, key: jax.Array, factor: Any, power: Any) -> Any:
        return batch * factor * params**power, {"seen": (factor, power)}

    state = init_state(lambda key: jnp.float32(3), sgd, KEY, loss_scale=loss_scale)
    slope, seen = jax.jit(partial(gradients, loss))(state, 1.0, KEY, 4.0, 2)
    assert (float(slope), seen) == (4 * 2 * 3, {"seen": (4, 2)})
    after, metrics = jax.jit(partial(train_step, loss, sgd))(state, 1.0, extra=(4.0, 2))
    assert (float(after.params), metrics["seen"]) == (3 - 0.5 * 24, (4, 2))


@pytest.mark.long
@pytest.mark.parametrize("loss_scale", [0.0, 64.0])
def test_a_step_is_its_two_parts_bit_for_bit(loss_scale: float) -> None:
    sgd = optimizer("sgd", 0.1, clip_norm=1.0)

    def parts(state: TrainState, data: Any) -> Any:
        slopes, metrics = gradients(line_loss, state, data, step_key(state))
        state, update = apply_gradients(sgd, state, slopes, 0.9)
        return state, where_applied(state, metrics) | update

    def whole(state: TrainState, data: Any) -> Any:
        return train_step(line_loss, sgd, state, data, 0.9)

    start = init_state(line_init, sgd, KEY, keep_average=True, loss_scale=loss_scale)
    ends = []
    for step in map(jax.jit, (parts, whole)):
        state, rows = start, []
        for batch in (line_data(), broken(line_data()), line_data()):
            state, metrics = step(state, batch)
            rows.append(metrics)
        ends.append((keyless(state), rows))
    chex.assert_trees_all_equal(*ends)


@pytest.mark.long
def test_a_skip_in_one_of_two_states_leaves_the_other_as_if_it_were_alone() -> None:
    rates = {"generator": 0.1, "critic": 0.03}

    def loss(params: Any, batch: Any, key: jax.Array) -> Any:
        return (params * batch).sum() ** 2, ()

    @jax.jit
    def step(states: dict[str, TrainState], batches: dict[str, Any]) -> Any:
        """One update of each of two networks, as in a game."""
        after, metrics = {}, {}
        for name, state in states.items():
            slopes, _ = gradients(loss, state, batches[name], step_key(state))
            adam = optax.adam(rates[name])
            after[name], metrics[name] = apply_gradients(adam, state, slopes)
        return after, metrics

    start = {
        name: init_state(lambda key: jax.random.normal(key, (3,)), optax.adam(rate), KEY)
        for name, rate in rates.items()
    }
    good = {"generator": jnp.array([1.0, 2.0, 3.0]), "critic": jnp.array([0.5, -1.0, 2.0])}
    calm, _ = step(start, good)
    states, metrics = step(start, good | {"critic": good["critic"] * jnp.nan})
    chex.assert_trees_all_equal(keyless(states["generator"]), keyless(calm["generator"]))
    assert (states["generator"].params != start["generator"].params).all()
    for part in ("params", "opt_state"):
        own, before = (getattr(each["critic"], part) for each in (states, start))
        chex.assert_trees_all_equal(own, before)
    assert [int(states[name].skipped) for name in rates] == [0, 1]
    assert [int(states[name].step) for name in rates] == [1, 1]
    assert [int(metrics[name]["skipped"].total) for name in rates] == [0, 1]
    again, _ = step(states, good)
    assert [int(again[name].skipped) for name in rates] == [0, 0]
    assert (again["critic"].params != start["critic"].params).all()


def test_where_applied_takes_the_new_after_an_update_and_the_old_or_zeros_after_a_skip() -> None:
    state = init_state(line_init, optax.sgd(0.1), KEY)
    new, old = {"a": jnp.array([jnp.nan, 2.0])}, {"a": jnp.array([3.0, 4.0])}
    for skipped, expected in ((0, [np.nan, 2]), (1, [3, 4]), (5, [3, 4])):
        found = where_applied(state._replace(skipped=jnp.int32(skipped)), new, old)
        np.testing.assert_array_equal(found["a"], expected)
    np.testing.assert_array_equal(where_applied(state._replace(skipped=1), new)["a"], [0, 0])
    np.testing.assert_array_equal(where_applied(state, new)["a"], [np.nan, 2])


# Steps that are skipped.


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.fault("N1")
def test_a_step_that_is_not_finite_changes_nothing_but_the_counters(name: str) -> None:
    step = one_step(name, weight_decay=0.1, clip_norm=1.0)
    good = line_data()
    before, _ = step(init_state(line_init, optimizer(name, 0.1), KEY), good)
    state = before
    faults = (np.nan, np.inf, -np.inf, 1e30)
    for times, fault in enumerate(faults, start=1):
        state, metrics = step(state, broken(good, fault))
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


@pytest.mark.fault("N3")
def test_a_huge_but_finite_norm_is_clipped_and_not_skipped() -> None:
    good = line_data()
    large = good | {"y": good["y"] + 1e15}
    state = init_state(line_init, optimizer("sgd", 0.1), KEY)
    after, metrics = one_step(momentum=0.0, clip_norm=1.0)(state, large)
    move = optax.tree.norm(jax.tree.map(jnp.subtract, after.params, state.params))
    assert metrics["gradient_norm"].mean > 1e14
    assert 0.0999 < move < 0.1001
    assert int(after.skipped) == 0


# The average of the weights.


@pytest.mark.long
def test_the_average_of_the_weights_is_that_of_a_loop() -> None:
    decay, steps = 0.6, 7
    data = {"x": jnp.arange(float(steps))}

    def loss(params: Any, batch: Any, key: Any) -> Any:
        return (params["w"] * batch["x"]).sum(), {}

    def draw(key: Any) -> Any:
        return {"w": jnp.ones(2)}

    sgd = optax.sgd(0.1)
    state = init_state(draw, sgd, jax.random.key(0), keep_average=True)
    expected = np.ones(2)
    for step in range(steps):
        batch = {"x": data["x"][step]}
        state, _ = train_step(loss, sgd, state, batch, decay)
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * np.asarray(state.params["w"])
        np.testing.assert_allclose(state.weights["w"], expected, rtol=1e-6)
    assert not np.allclose(state.weights["w"], state.params["w"])
    plain = init_state(draw, sgd, jax.random.key(0))
    assert plain.weights is plain.params


def test_a_skipped_step_leaves_the_average_as_it_is() -> None:
    data, sgd = line_data(), optax.sgd(0.1)
    state = init_state(line_init, sgd, KEY, keep_average=True)
    for _ in range(3):
        state, _ = train_step(line_loss, sgd, state, data, 0.9)
    after, _ = train_step(line_loss, sgd, state, broken(data), 0.9)
    assert after.skipped == 1
    chex.assert_trees_all_equal(after.average, state.average)


# The scale of the loss.


@pytest.mark.long
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
    monkeypatch.setattr(step_module, "STEPS_TO_DOUBLE", 3)
    good, sgd = line_data(), optax.sgd(0.1)
    bad = broken(good)
    state = init_state(line_init, sgd, KEY, loss_scale=8.0)
    scales = []
    for batch in (good, bad, bad, good, good, good, good):
        state, _ = train_step(line_loss, sgd, state, batch)
        scales.append(tuple(jax.tree.leaves(state.scale)))
    assert scales == [(8, 1), (4, 0), (2, 0), (2, 1), (2, 2), (4, 0), (4, 1)]


@pytest.mark.parametrize(("factor", "bad", "end"), [(2.0**23, False, 2.0**24), (4.0, True, 1.0)])
def test_a_scale_stays_within_its_bounds(
    factor: float, bad: bool, end: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "STEPS_TO_DOUBLE", 1)
    data, sgd = line_data(), optax.sgd(1e-3)
    batch = broken(data) if bad else data
    state = init_state(line_init, sgd, KEY, loss_scale=factor)
    for _ in range(5):
        state, _ = train_step(line_loss, sgd, state, batch)
    assert state.scale == (end, 0)


@pytest.mark.parametrize("factor", [0.5, -1.0, 2.0**25, np.nan])
def test_a_first_scale_out_of_bounds_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="loss_scale: expected 0, or 1 to"):
        init_state(line_init, optax.sgd(0.1), KEY, loss_scale=factor)


def test_an_average_of_narrow_weights_follows_them() -> None:
    """1.25 - 0.25 * 0.999^5000 by the closed form; each move is far below a step of bfloat16."""
    state = init_state(lambda key: {"w": jnp.bfloat16(1)}, optax.sgd(0.0), KEY, keep_average=True)
    state = state._replace(params={"w": jnp.bfloat16(1.25)}, averaged=jnp.int32(100_000))

    def step(_: int, state: TrainState) -> TrainState:
        return apply_gradients(optax.sgd(0.0), state, {"w": jnp.bfloat16(0)}, 0.999)[0]

    state = jax.lax.fori_loop(0, 5000, step, state)
    rounding = 1e-5 if jax.default_backend() == "cpu" else 1e-4  # of 5,000 steps, 3.5e-5 on a GPU
    np.testing.assert_allclose(state.average["w"], 1.25 - 0.25 * 0.999**5000, rtol=rounding)
    assert state.weights["w"].dtype == jnp.bfloat16


@pytest.mark.parametrize("decay", [0.0, jnp.float32(0)])
def test_a_decay_of_zero_forgets_what_the_average_was(decay: Any) -> None:
    state = init_state(lambda key: jnp.float32(1), optax.sgd(1.0), KEY, keep_average=True)
    state = state._replace(average=jnp.float32(jnp.inf))
    state, _ = apply_gradients(optax.sgd(1.0), state, jnp.float32(-1), decay)
    assert state.average == 2.0


@pytest.mark.fault("N1")
def test_an_update_that_is_not_finite_is_skipped_though_its_gradient_is() -> None:
    """The second moment of 1e30 is no number of float32, 0.5 / 1e-8 none of float16."""
    for made, dtype, gradient in (
        (optax.adam(0.1), jnp.float32, 1e30),
        (optax.sgd(1e38), jnp.float32, 10.0),
        (optax.scale(1e5), jnp.float16, 1.0),
    ):
        state = init_state(lambda key, dtype=dtype: jnp.ones(2, dtype), made, KEY)
        after, metrics = apply_gradients(made, state, jnp.array([gradient, 0], dtype))
        assert (int(after.skipped), float(metrics["skipped"].mean)) == (1, 1)
        unchanged = state.params, state.opt_state
        chex.assert_trees_all_equal((after.params, after.opt_state), unchanged)


def test_a_param_that_is_infinite_by_design_does_not_stop_the_others() -> None:
    state = init_state(lambda key: jnp.array([0.0, -jnp.inf]), optax.sgd(1.0), KEY)
    state, _ = apply_gradients(optax.sgd(1.0), state, jnp.array([1.0, 0.0]))
    assert (state.params.tolist(), int(state.skipped)) == ([-1.0, -np.inf], 0)


def test_the_types_of_a_state_stay_whatever_the_types_of_the_hyperparameters() -> None:
    optimizer = optax.adam(jnp.float32(0.1), b1=jnp.float32(0.9))
    state = init_state(lambda key: jnp.ones(2, jnp.bfloat16), optimizer, KEY, keep_average=True)
    after, _ = apply_gradients(optimizer, state, jnp.ones(2, jnp.bfloat16), jnp.float32(0.9))
    chex.assert_trees_all_equal_dtypes(keyless(after), keyless(state))


def test_finite_gradients_are_clipped_or_taken_though_their_norm_is_infinite() -> None:
    gradient = jnp.array([3e38, 3e38])
    for clip_norm, move in ((1.0, 0.1 / np.sqrt(2)), (0.0, 3e37)):
        made = optimizer("sgd", 0.1, momentum=0.0, clip_norm=clip_norm)
        state = init_state(lambda key: jnp.zeros(2), made, KEY)
        state, metrics = jax.jit(partial(apply_gradients, made))(state, gradient)
        assert (int(state.skipped), float(metrics["skipped"].mean)) == (0, 0)
        np.testing.assert_allclose(state.params, -move, rtol=1e-6)


def test_skipped_steps_do_not_age_the_average() -> None:
    """The first update is the first, however many were skipped: the average keeps a tenth."""
    sgd = optax.sgd(0.1)
    state = init_state(lambda key: jnp.float32(0), sgd, KEY, keep_average=True)
    expected = 0.0
    for step, gradient in enumerate([np.nan] * 15 + [-10.0, np.inf, -10.0]):
        state, _ = apply_gradients(sgd, state, jnp.float32(gradient), 0.999)
        if np.isfinite(gradient):
            keep = 1 / 10 if step == 15 else 2 / 11
            expected = keep * expected + (1 - keep) * float(state.params)
        np.testing.assert_allclose(state.average, expected, rtol=1e-6)
    assert (int(state.step), int(state.averaged)) == (18, 2)


@pytest.mark.parametrize("loss_scale", [0.0, 1024.0])
def test_complex_params_go_downhill_in_both_parts(loss_scale: float) -> None:
    """The gradient by x + iy of |x + iy - target|^2 is 2 (x + iy - target), by hand."""
    target = 1 + 2j

    def loss(params: Any, batch: Any, key: Any) -> Any:
        return jnp.abs(params - target) ** 2, {}

    start = init_state(
        lambda key: jnp.complex64(3 - 1j), optax.sgd(0.25), jax.random.key(0), loss_scale=loss_scale
    )
    state, metrics = train_step(loss, optax.sgd(0.25), start, ())
    np.testing.assert_allclose(state.params, 3 - 1j - 0.25 * 2 * (3 - 1j - target), rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"].mean, 2 * abs(3 - 1j - target), rtol=1e-6)


@pytest.mark.long
def test_norms_of_layers_are_those_of_a_loop_over_what_lies_side_by_side() -> None:
    rng = np.random.default_rng(0)
    draw = rng.normal
    slopes = {
        "layers": [
            {"kernel": draw(size=(3, 2)), "gate": {"bias": draw(size=4)}},
            {"w": draw(size=5)},
        ],
        "decay": draw(size=3) + 1j * draw(size=3),
        "scale": np.array([3e38, 3e38], np.float32),
        "none": np.zeros(2),
    }
    expected = {
        "layers/0": np.sqrt((slopes["layers"][0]["kernel"] ** 2).sum()),
        "layers/0/gate": np.sqrt((slopes["layers"][0]["gate"]["bias"] ** 2).sum()),
        "layers/1": np.sqrt((slopes["layers"][1]["w"] ** 2).sum()),
        "decay": np.sqrt((np.abs(slopes["decay"]) ** 2).sum()),
        "scale": np.inf,  # 4.2e38 is beyond the range of float32, as the norm of the whole is
        "none": 0.0,
    }
    found = layer_norms(jax.tree.map(jnp.asarray, slopes))
    assert found.keys() == {f"gradient_norm/{name}" for name in expected}
    for name, value in expected.items():
        np.testing.assert_allclose(found[f"gradient_norm/{name}"].mean, value, rtol=1e-6)
    large = layer_norms({"a": {"w": jnp.full(4, 1e25)}})["gradient_norm/a"]
    np.testing.assert_allclose(large.mean, 2e25, rtol=1e-6)
    assert list(layer_norms(jnp.ones(4))) == ["gradient_norm/params"]


@pytest.mark.long
def test_logging_layers_moves_no_bit_and_a_skipped_step_counts_in_none_of_them() -> None:
    adam, data = optimizer("adam", 0.1), line_data()
    plain = state = init_state(line_init, adam, KEY)
    step = jax.jit(partial(train_step, line_loss, adam))
    logging = jax.jit(partial(train_step, line_loss, log_layers(adam)))
    for batch in (data, broken(data), data):
        plain, before = step(plain, batch)
        state, metrics = logging(state, batch)
        chex.assert_trees_all_equal(keyless(state), keyless(plain))
        layers = {name: metrics.pop(f"gradient_norm/{name}") for name in ("kernel", "bias")}
        assert metrics.keys() == before.keys()
        squares = sum(float(each.mean) ** 2 for each in layers.values())
        np.testing.assert_allclose(squares, float(before["gradient_norm"].mean) ** 2, rtol=1e-5)
        assert {float(each.weight) for each in layers.values()} == {float(state.skipped == 0)}
