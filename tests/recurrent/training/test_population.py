"""Populations: each member trains as it would alone, however the members are laid out."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import dense, lstm, stack, unroll
from recurrent.losses import Average, masked_average
from recurrent.training.minibatch import BATCH, minibatch_task
from recurrent.training.optimizers import optimizer
from recurrent.training.population import (
    DIVERGED,
    FINISHED,
    MOST_FAILURES,
    TRAINING,
    Layout,
    Limits,
    Member,
    batch_mesh,
    begin,
    copied,
    ended,
    judged,
    layouts,
    measured,
    put,
    restarted,
    sharding,
    spread,
    trained,
)
from recurrent.training.step import TrainState
from recurrent.training.task import Metric, Task

SIZE, STEPS = 24, 3
CELL = stack(lstm(2, 5), dense(5, 1))
two_devices = pytest.mark.skipif(
    len(jax.devices()) < 2, reason="needs two devices, as conftest has"
)
LAYOUTS = [
    Layout(1, 1),
    Layout(1, 2),
    pytest.param(Layout(2, 1), marks=two_devices),
    pytest.param(Layout(2, 2), marks=two_devices),
]


def sums(seed: int) -> dict[str, jax.Array]:
    """Sequences ``[N, T, 2]`` and the mean of each."""
    xs = np.random.default_rng(seed).normal(size=(SIZE, 6, 2)).astype(np.float32)
    return {"x": jnp.asarray(xs), "y": jnp.asarray(xs.mean((1, 2)))}


def measure(params: Any, batch: Any, hparams: Any) -> Any:
    ys = unroll(CELL, params, batch["x"].swapaxes(0, 1))[1]
    return {"loss": masked_average((ys[-1, :, 0] - batch["y"]) ** 2, batch["mask"])}


def loss(params: Any, batch: Any, key: jax.Array, hparams: Any) -> Any:
    metrics = measure(params, batch, hparams)
    return metrics["loss"].mean, metrics


def clipped_adam(hparams: Any) -> Any:
    return optimizer("adam", hparams["learning_rate"], clip_norm=1.0)


TASK = minibatch_task(CELL.init, loss, measure, clipped_adam, batch_size=8)
LOSS = Metric("loss", higher_is_better=False)
TRAIN, VALID = sums(0), sums(1)
RATES = [0.001, 0.01, 0.03, 0.1]
NEVER = Limits()


def hparams_of(rates: list[float]) -> dict[str, jax.Array]:
    return {"learning_rate": jnp.asarray(rates), "seed": jnp.arange(len(rates)) % 3}


def epoch(member: Member, train: Any, valid: Any, limits: Limits) -> Any:
    """Some steps and an evaluation of one member; its metrics of both."""
    due = member.status == TRAINING
    member, over_steps = trained(TASK, STEPS, member, train)
    at_end = measured(TASK, TASK.keep(member.state), member.hparams, due, valid)
    return judged(TASK, LOSS, limits, member, at_end), (over_steps, at_end)


@lru_cache
def programs(layout: Layout) -> tuple[Any, Any]:
    """Compiled functions that begin a population and train it for an epoch."""
    first = jax.jit(spread(partial(begin, TASK), layout))
    return first, jax.jit(spread(epoch, layout), donate_argnums=0)


def population_of(
    rates: list[float], layout: Layout, epochs: int = 3, limits: Limits = NEVER
) -> tuple[Member, list[Any]]:
    """Members after some epochs, and their metrics of each."""
    first, step = programs(layout)
    members, rows = first(hparams_of(rates)), []
    for _ in range(epochs):
        members, row = step(members, TRAIN, VALID, limits)
        rows.append(row)
    return members, rows


def keyless(tree: Any) -> Any:
    def bits(leaf: Any) -> Any:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(bits, tree)


def member_of(members: Any, k: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[k], members)


TRAIN_ALONE = jax.jit(TASK.train, static_argnums=3)
EVALUATE_ALONE = jax.jit(TASK.evaluate)


def alone(rate: float, seed: int, epochs: int = 3) -> tuple[Any, list[float]]:
    """Params and validation losses of the same training, written out without populations."""
    hparams = {"learning_rate": jnp.float32(rate), "seed": jnp.int32(seed)}
    state, losses = TASK.init(hparams), []
    for _ in range(epochs):
        state, _ = TRAIN_ALONE(state, hparams, TRAIN, STEPS)
        losses.append(float(EVALUATE_ALONE(state.params, hparams, VALID)["loss"].mean))
    return state.params, losses


# Members beside one another.


@pytest.mark.parametrize("layout", [Layout(1, 1), Layout(1, 2)])
def test_steps_and_evaluations_are_traced_once(layout: Layout) -> None:
    traced: list[str] = []

    def counted(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            traced.append(name)
            return getattr(TASK, name)(*arguments)

        return call

    task = TASK._replace(train=counted("train"), evaluate=counted("evaluate"))

    def both(member: Member, train: Any, valid: Any) -> Any:
        member, over_steps = trained(task, STEPS, member, train)
        due = member.status == TRAINING
        return over_steps, measured(task, task.keep(member.state), member.hparams, due, valid)

    members = jax.eval_shape(spread(partial(begin, TASK), layout), hparams_of(RATES))
    jax.jit(spread(both, layout)).lower(members, TRAIN, VALID)
    assert sorted(traced) == ["evaluate", "train"]


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_member_trains_as_it_would_alone(layout: Layout) -> None:
    members, rows = population_of(RATES, layout)
    for k, rate in enumerate(RATES):
        params, losses = alone(rate, k % 3)
        own = member_of(members.state.params, k)
        chex.assert_trees_all_close(own, params, rtol=1e-4, atol=1e-6)
        valid = [float(row[1]["loss"].mean[k]) for row in rows]
        np.testing.assert_allclose(valid, losses, rtol=1e-4)
        best = int(np.argmin(losses))
        assert int(members.best_step[k]) == (best + 1) * STEPS
        np.testing.assert_allclose(-float(members.best_score[k]), losses[best], rtol=1e-4)


@pytest.mark.parametrize(
    "layout",
    [
        LAYOUTS[0],
        pytest.param(Layout(1, 2), marks=pytest.mark.long),
        pytest.param(Layout(2, 1), marks=[two_devices, pytest.mark.long]),
        LAYOUTS[-1],
    ],
)
@pytest.mark.fault("N11")
def test_a_member_that_diverges_leaves_the_others_bitwise_as_they_were(layout: Layout) -> None:
    rates = [*RATES[:3], 1e10]
    limits = Limits(divergence_threshold=-100.0)
    members, _ = population_of(rates, layout, limits=limits)
    calm, _ = population_of([*rates[:-1], 0.01], layout, limits=limits)
    assert members.status.tolist() == [TRAINING] * (len(rates) - 1) + [DIVERGED]
    assert calm.status.tolist() == [TRAINING] * len(rates)
    for one, other in zip(*map(jax.tree.leaves, map(keyless, (members, calm))), strict=True):
        np.testing.assert_array_equal(one[:-1], other[:-1])


@pytest.mark.long
def test_taken_one_by_one_a_member_does_not_depend_on_how_many_there_are() -> None:
    few, many = (population_of(rates, Layout())[0] for rates in (RATES[:2], RATES))
    for one, other in zip(*map(jax.tree.leaves, map(keyless, (few, many))), strict=True):
        np.testing.assert_array_equal(one, other[:2])


@pytest.mark.long
@pytest.mark.optimized
def test_one_member_is_bitwise_what_the_functions_give_alone() -> None:
    hparams = member_of(hparams_of(RATES), 1)
    one, step, rows = jax.jit(partial(begin, TASK))(hparams), jax.jit(epoch), []
    for _ in range(2):
        one, row = step(one, TRAIN, VALID, NEVER)
        rows.append(row)
    stacked = jax.tree.map(lambda leaf: leaf[None], hparams)
    layout = Layout(1, 4)
    members = jax.jit(spread(partial(begin, TASK), layout))(stacked)
    step_all = jax.jit(spread(epoch, layout), donate_argnums=0)
    for row in rows:
        members, found = step_all(members, TRAIN, VALID, NEVER)
        chex.assert_trees_all_equal(member_of(found, 0), row)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(members)} == {1}
    chex.assert_trees_all_equal(keyless(member_of(members, 0)), keyless(one))


def test_one_member_has_the_program_of_its_function_with_no_batched_product() -> None:
    def product(member: Any) -> Any:
        return member["x"] @ member["w"]

    member = {"x": jnp.ones((4, 3)), "w": jnp.ones((3, 2))}
    stacked = jax.tree.map(lambda leaf: leaf[None], member)
    for layout in (Layout(1, 1), Layout(1, 8)):
        equations = jax.make_jaxpr(spread(product, layout))(stacked).eqns
        (found,) = (each for each in equations if each.primitive.name == "dot_general")
        assert [var.aval.shape for var in found.invars] == [(4, 3), (3, 2)]
        assert found.params["dimension_numbers"][1] == ((), ())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_members_stay_in_order_and_what_is_shared_reaches_each(layout: Layout) -> None:
    found = spread(lambda x, factor, bonus: factor * x + bonus, layout)(jnp.arange(8), 3, 1)
    np.testing.assert_array_equal(found, 3 * np.arange(8) + 1)


# One member's own course, on a task that is only a number.


class Walk(NamedTuple):
    """A state that is no `TrainState`: a number that grows, with failures told from outside."""

    at: jax.Array
    failures: jax.Array


def walk_task(updates_of_a_step: int = 1) -> Task:
    """Adds the hyperparameter "pace" to a number, so many times in each step."""

    def train(state: Walk, hparams: Any, data: Any, steps: int) -> Any:
        count = updates_of_a_step * steps
        failures = jnp.where(data["bad"], state.failures + count, 0)
        made = Average(jnp.float32(count), jnp.float32(1))
        return Walk(state.at + count * hparams["pace"], failures), {"updates": made}

    return Task(
        init=lambda hparams: Walk(jnp.float32(0), jnp.int32(0)),
        train=train,
        evaluate=lambda kept, hparams, data: {"at": Average(kept * data, jnp.float32(1))},
        keep=lambda state: state.at,
        failures=lambda state: state.failures,
    )


GOOD, BAD = {"bad": jnp.bool_(False)}, {"bad": jnp.bool_(True)}
WALK = walk_task()


def walker(pace: float = 1.0) -> Member:
    return begin(WALK, {"pace": jnp.float32(pace)})


def at_score(member: Member, value: float, step: int, limits: Limits, select: Metric) -> Member:
    """The member after an evaluation that gave this value, where it had come to this step."""
    state = member.state._replace(at=jnp.float32(10 * step))
    member = member._replace(state=state, step=jnp.int32(step))
    valid = {select.name: Average(jnp.float32(2 * value), jnp.float32(2))}
    return judged(WALK, select, limits, member, valid)


def test_a_new_member_has_taken_no_step_and_has_no_score() -> None:
    member = walker()
    assert int(member.step) == int(member.best_step) == int(member.evaluations_since_best) == 0
    assert int(member.status) == TRAINING
    assert float(member.best_score) == -np.inf
    assert member.hparams == {"pace": 1.0}
    assert member.best == member.state.at == 0


@pytest.mark.parametrize("updates", [1, 2, 5])
def test_a_member_counts_its_own_steps_whatever_the_task_does_in_one(updates: int) -> None:
    task = walk_task(updates)
    member = begin(task, {"pace": jnp.float32(1)})
    for calls in (1, 2):
        member, metrics = trained(task, STEPS, member, GOOD)
        assert int(member.step) == calls * STEPS
        assert float(member.state.at) == calls * STEPS * updates
        assert metrics["updates"].total == STEPS * updates
    assert member.step.dtype == jnp.int32


@pytest.mark.long
def test_a_member_counts_skipped_steps_as_steps_and_the_state_knows_its_own() -> None:
    broken = {**TRAIN, "y": jnp.full(SIZE, jnp.nan)}
    member = begin(TASK, member_of(hparams_of(RATES), 0))
    member, metrics = jax.jit(partial(trained, TASK, STEPS))(member, broken)
    assert int(member.step) == int(member.state.step) == STEPS
    assert metrics["skipped"].total == STEPS


def test_the_step_of_the_best_score_is_the_member_s_own() -> None:
    member, _ = trained(walk_task(5), STEPS, walker(), GOOD)
    member = judged(WALK, Metric("at", True), NEVER, member, {"at": Average(*jnp.ones(2))})
    assert int(member.best_step) == STEPS


def test_too_many_failures_in_a_row_are_a_divergence_and_fewer_are_not() -> None:
    member, _ = trained(WALK, MOST_FAILURES - 1, walker(), BAD)
    assert int(member.status) == TRAINING
    recovered, _ = trained(WALK, 1, member, GOOD)
    recovered, _ = trained(WALK, MOST_FAILURES - 1, recovered, BAD)
    assert int(recovered.status) == TRAINING
    lost, metrics = trained(WALK, 1, member, BAD)
    assert int(lost.status) == DIVERGED
    assert (int(lost.step), float(metrics["updates"].total)) == (MOST_FAILURES, 1)
    assert lost.status.dtype == jnp.int32


@pytest.mark.parametrize("status", [FINISHED, DIVERGED])
def test_a_member_that_has_ended_takes_no_step_and_counts_in_no_metric(status: int) -> None:
    member = walker()._replace(status=jnp.int32(status), step=jnp.int32(7))
    after, metrics = trained(WALK, STEPS, member, GOOD)
    chex.assert_trees_all_equal(after, member)
    assert metrics["updates"] == (0, 0)
    judgement = at_score(after, 5.0, 8, NEVER, Metric("at", True))
    assert judgement.best_score == after.best_score
    assert judgement.best == after.best
    assert (int(judgement.status), int(judgement.evaluations_since_best)) == (status, 0)


@pytest.mark.long
def test_steps_without_a_finite_gradient_end_members_and_change_no_params() -> None:
    broken = {**TRAIN, "y": jnp.full(SIZE, jnp.nan)}
    members = jax.vmap(partial(begin, TASK))(hparams_of(RATES))
    step = jax.jit(spread(partial(trained, TASK, STEPS), Layout(1, 4)))
    last = -(-MOST_FAILURES // STEPS)
    after = members
    for call in range(1, last + 2):
        after, metrics = step(after, broken)
        assert after.status.tolist() == [DIVERGED if call >= last else TRAINING] * 4
        assert metrics["skipped"].total.tolist() == [STEPS if call <= last else 0] * 4
    assert after.step.tolist() == [last * STEPS] * 4
    chex.assert_trees_all_equal(after.state.params, members.state.params)


def test_an_evaluation_is_made_only_where_it_is_due_with_the_hyperparameters() -> None:
    def evaluate(kept: Any, hparams: Any, data: Any) -> Any:
        return {"at": Average(hparams["pace"] * kept * data, jnp.float32(1))}

    task = WALK._replace(evaluate=evaluate)
    for due, expected in ((True, (30, 1)), (False, (0, 0))):
        found = measured(task, jnp.float32(5), {"pace": 2.0}, jnp.bool_(due), 3.0)
        assert found["at"] == expected


@pytest.mark.parametrize(
    ("higher_is_better", "values", "bests"),
    [
        (True, [3.0, 2.0, 5.0, 5.0], [1, 1, 3, 3]),
        (False, [3.0, 2.0, 5.0, 2.0], [1, 2, 2, 2]),
    ],
)
def test_the_best_is_kept_in_the_direction_of_the_metric(
    higher_is_better: bool, values: list[float], bests: list[int]
) -> None:
    select, member = Metric("at", higher_is_better), walker()
    for step, (value, best) in enumerate(zip(values, bests, strict=True), start=1):
        member = at_score(member, value, step, NEVER, select)
        assert int(member.best_step) == best
        assert float(member.best) == 10 * best, "what the task kept of the state at that step"
        sign = 1 if higher_is_better else -1
        assert float(member.best_score) == sign * values[best - 1]
        assert int(member.evaluations_since_best) == step - best
        assert int(member.status) == TRAINING


def test_the_last_evaluation_is_kept_where_nothing_is_to_be_chosen() -> None:
    select, limits = Metric("at", higher_is_better=True), Limits(patience=1)
    member = walker()
    for value, step in ((3, 1), (1, 2), (2, 3)):
        member = member._replace(step=jnp.int32(step))
        valid = {"at": Average(jnp.float32(value), jnp.float32(1))}
        member = judged(WALK, select, limits, member, valid, keep_last=jnp.array(True))
        assert (int(member.best_step), float(member.best_score)) == (step, value)
        assert int(member.status) == TRAINING
    lost = {"at": Average(jnp.float32(jnp.nan), jnp.float32(1))}
    member = judged(WALK, select, limits, member, lost, keep_last=jnp.array(True))
    assert (int(member.best_step), int(member.status)) == (3, DIVERGED)


def test_patience_ends_a_member_after_so_many_evaluations_without_a_better_score() -> None:
    member, statuses = walker(), []
    for step, value in enumerate([1.0, 2.0, 2.0, 3.0, 1.0, 3.0, 9.0], start=1):
        member = at_score(member, value, step, Limits(patience=2), Metric("at", True))
        statuses.append(int(member.status))
    assert statuses == [TRAINING] * 5 + [FINISHED] * 2
    assert (int(member.best_step), float(member.best_score)) == (4, 3)
    assert member.status.dtype == jnp.int32


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_a_divergence_and_never_the_best(
    value: float, higher_is_better: bool
) -> None:
    select = Metric("at", higher_is_better)
    before = at_score(walker(), 1.0, 1, NEVER, select)
    after = at_score(before, value, 2, NEVER, select)
    assert int(after.status) == DIVERGED
    assert (after.best, after.best_score, after.best_step) == (
        before.best,
        before.best_score,
        before.best_step,
    )


def test_a_score_below_the_threshold_is_a_divergence_even_where_it_is_the_first() -> None:
    limits = Limits(divergence_threshold=-4.0)
    for value, status in ((3.9, TRAINING), (4.0, TRAINING), (4.1, DIVERGED)):
        member = at_score(walker(), value, 1, limits, LOSS)
        assert int(member.status) == status
        assert float(member.best_score) == (-np.inf if status == DIVERGED else np.float32(-value))


def test_ended_finishes_members_in_training_and_no_others() -> None:
    statuses = jnp.array([TRAINING, FINISHED, DIVERGED] * 2)
    over = jnp.array([True] * 3 + [False] * 3)
    members = jax.vmap(lambda status: walker()._replace(status=status))(statuses)
    after = jax.vmap(ended)(members, over)
    assert after.status.tolist() == [FINISHED, FINISHED, DIVERGED, TRAINING, FINISHED, DIVERGED]
    chex.assert_trees_all_equal(after._replace(status=statuses), members)


@pytest.mark.long
@pytest.mark.parametrize("layout", [Layout(1, 1), Layout(1, 4)])
def test_early_stopping_keeps_the_best_params_and_ends_a_member(layout: Layout) -> None:
    rates = [0.0, 0.01, 0.0, 0.03]
    members, rows = population_of(rates, layout, epochs=4, limits=Limits(patience=2))
    for k, rate in enumerate(rates):
        losses = alone(rate, k % 3, epochs=4)[1]
        bests = [losses[: n + 1].index(min(losses[: n + 1])) for n in range(4)]
        last = next((n for n in range(4) if n - bests[n] == 2), 3)
        assert int(members.best_step[k]) == STEPS * (bests[last] + 1)
        params, _ = alone(rate, k % 3, epochs=bests[last] + 1)
        chex.assert_trees_all_close(member_of(members.best, k), params, rtol=1e-4, atol=1e-6)
        assert int(members.step[k]) == int(members.state.step[k]) == STEPS * (last + 1)
        assert int(members.status[k]) == (FINISHED if last - bests[last] == 2 else TRAINING)
        counted = [float(row[1]["loss"].weight[k]) for row in rows]
        assert counted == [SIZE] * (last + 1) + [0] * (3 - last)
    assert {TRAINING, FINISHED} == set(members.status.tolist())


# Slots that are filled again, and members that go on from copies.


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_slot_is_filled_again_without_another_program(layout: Layout) -> None:
    traces = []

    def counted(*args: Any) -> Any:
        traces.append(1)
        return epoch(*args)

    members = jax.jit(spread(partial(begin, TASK), layout))(hparams_of(RATES))
    step = jax.jit(spread(counted, layout))
    members, _ = step(members, TRAIN, VALID, NEVER)

    def fill(given: Any) -> Member:
        return restarted(TASK, *given)

    fresh = jnp.array([False, True, False, False])
    filled = jax.jit(spread(fill, layout))((members, fresh, hparams_of([0.03] * 4)))
    assert filled.step.tolist() == filled.state.step.tolist() == [STEPS, 0, STEPS, STEPS]
    assert float(filled.best_score[1]) == -np.inf
    for one, other in zip(*map(jax.tree.leaves, map(keyless, (filled, members))), strict=True):
        np.testing.assert_array_equal(np.delete(one, 1, 0), np.delete(other, 1, 0))
    first = len(traces)
    filled, _ = step(filled, TRAIN, VALID, NEVER)
    assert len(traces) == first
    own = member_of(filled.state.params, 1)
    chex.assert_trees_all_close(own, alone(0.03, 1, epochs=1)[0], rtol=1e-4, atol=1e-6)


class World(NamedTuple):
    """A state with random keys at several depths, one of them an array of keys."""

    networks: dict[str, TrainState]
    environments: dict[str, Any]


def world_of(seed: Any) -> World:
    def network(k: int) -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), k)
        return TrainState(jnp.int32(seed), jax.random.normal(key, (2,)), (), key, jnp.int32(0))

    at = jnp.float32(seed)
    keys = jax.random.split(jax.random.key(seed + 100), 3)
    return World({"a": network(1), "b": network(2)}, {"at": at, "keys": keys})


@pytest.mark.long
def test_copies_go_on_from_their_source_with_their_own_keys_wherever_those_are() -> None:
    seeds, sources = jnp.arange(4), jnp.array([2, 1, 2, 0])

    def member_with(seed: Any) -> Member:
        score = -jnp.float32(seed)
        hparams = {"rate": jnp.float32(seed)}
        best = world_of(seed).networks["a"].params
        return Member(hparams, world_of(seed), seed, best, score, seed, seed, jnp.int32(TRAINING))

    members = jax.vmap(member_with)(seeds)
    hparams = {"rate": jnp.arange(4.0) + 10}
    after = jax.jit(copied)(members, sources, hparams)
    chex.assert_trees_all_equal(after.hparams, hparams)
    for name in ("step", "best_step", "best_score", "evaluations_since_best", "status", "best"):
        np.testing.assert_array_equal(getattr(after, name), getattr(members, name)[sources])
    for name in ("a", "b"):
        own, before = after.state.networks[name], members.state.networks[name]
        np.testing.assert_array_equal(own.params, before.params[sources])
        np.testing.assert_array_equal(own.step, before.step[sources])
        np.testing.assert_array_equal(keyless(own.key), keyless(before.key))
    here, there = after.state.environments, members.state.environments
    np.testing.assert_array_equal(here["at"], there["at"][sources])
    np.testing.assert_array_equal(keyless(here["keys"]), keyless(there["keys"]))


@pytest.mark.long
def test_a_copy_has_the_weights_of_its_source_and_then_other_batches() -> None:
    members = jax.vmap(partial(begin, TASK))(hparams_of([0.01] * 3))
    step = jax.jit(spread(partial(trained, TASK, 1), Layout()))
    members, _ = step(members, TRAIN)
    members = copied(members, jnp.array([1, 1, 2]), members.hparams)
    copy, source = (member_of(members.state, k) for k in (0, 1))
    chex.assert_trees_all_equal((copy.params, copy.opt_state), (source.params, source.opt_state))
    members, metrics = step(members, TRAIN)
    assert metrics["loss"].total[0] != metrics["loss"].total[1]


# Layouts, and the devices they mean.


def test_which_layouts_are_worth_measuring() -> None:
    assert layouts(16, 1) == [Layout(1, 1), Layout(1, 4), Layout(1, 16)]
    assert layouts(16, 2) == [Layout(2, 1), Layout(2, 4), Layout(2, 8)]
    assert layouts(7, 2) == [Layout(1, 1), Layout(1, 7)]
    assert layouts(1, 8) == [Layout(1, 1)]


def devices_of(array: jax.Array) -> dict[int, tuple[int, ...]]:
    """The shape of what each device holds."""
    return {shard.device.id: shard.data.shape for shard in array.addressable_shards}


@two_devices
@pytest.mark.parametrize(
    ("layout", "of_members", "of_shared"),
    [
        (Layout(), {0: (4, 3)}, {0: (4, 3)}),
        (Layout(2), {0: (2, 3), 1: (2, 3)}, {0: (4, 3), 1: (4, 3)}),
        (Layout(batch_devices=2), {0: (4, 3), 1: (4, 3)}, {0: (4, 3), 1: (4, 3)}),
    ],
)
def test_members_are_put_on_the_devices_that_share_them_and_the_rest_on_each(
    layout: Layout, of_members: dict[int, Any], of_shared: dict[int, Any]
) -> None:
    array = np.arange(12.0).reshape(4, 3)
    for shared, expected in ((False, of_members), (True, of_shared)):
        there = put(array, layout, shared=shared)
        assert devices_of(there) == expected
        assert there.sharding == sharding(layout, shared=shared)
        np.testing.assert_array_equal(there, array)


@two_devices
def test_a_mesh_for_batches_is_set_only_by_a_layout_that_shares_them() -> None:
    def mesh() -> Any:
        return jax.sharding.get_abstract_mesh()

    for layout in (Layout(), Layout(2, 2)):
        with batch_mesh(layout):
            assert mesh().axis_names == ()
    with batch_mesh(Layout(batch_devices=2)):
        assert (mesh().axis_names, mesh().shape[BATCH]) == ((BATCH,), 2)
    assert mesh().axis_names == ()


@pytest.mark.long
@two_devices
def test_a_member_whose_batches_two_devices_share_trains_as_on_one() -> None:
    hparams = hparams_of([0.01])

    def run(layout: Layout) -> tuple[Member, Any, str]:
        own, whole = sharding(layout), sharding(layout, shared=True)
        train, valid = (put(data, layout, shared=True) for data in (TRAIN, VALID))
        with batch_mesh(layout):
            members = jax.jit(spread(partial(begin, TASK), layout), out_shardings=own)(hparams)
            step = jax.jit(
                spread(epoch, layout), donate_argnums=0, out_shardings=(own, (whole, whole))
            )
            compiled = step.lower(members, train, valid, NEVER).compile()
            members, _ = compiled(members, train, valid, NEVER)
            members, row = compiled(members, train, valid, NEVER)
        return members, row, str(compiled.as_text())

    (one, row, alone_text), (two, shared_row, shared_text) = (
        run(Layout(batch_devices=count)) for count in (1, 2)
    )
    assert "all-reduce" in shared_text
    assert "all-reduce" not in alone_text
    for leaf in jax.tree.leaves(two.state.params):
        assert len(leaf.sharding.device_set) == 2
        assert leaf.sharding.is_fully_replicated
    chex.assert_trees_all_close(two.state.params, one.state.params, rtol=1e-3, atol=1e-6)
    chex.assert_trees_all_close(shared_row, row, rtol=1e-4)
    assert two.step.tolist() == [2 * STEPS]


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(99), "expected 1 to"),
        (Layout(0), "expected 1 to"),
        (Layout(1, 0), "at least 1 member together"),
        pytest.param(Layout(2), "2 devices can share equally, got 3", marks=two_devices),
    ],
)
def test_layouts_that_cannot_be_are_refused(layout: Layout, words: str) -> None:
    function: Callable[..., Any] = spread(lambda x: x, layout)
    with pytest.raises(ValueError, match=words):
        function(jnp.arange(3))


@two_devices
def test_devices_cannot_share_members_and_batches_at_once() -> None:
    function: Callable[..., Any] = spread(lambda x: x, Layout(2, 1, 2))
    with pytest.raises(ValueError, match="share members or batches, not both, got 2 and 2"):
        function(jnp.arange(4))


@pytest.mark.parametrize(
    "members",
    [jnp.float32(1), {}, {"a": jnp.ones(3), "b": jnp.ones(2)}, (jnp.ones(3), jnp.ones(()))],
)
def test_members_that_are_not_stacked_are_refused(members: Any) -> None:
    function: Callable[..., Any] = spread(lambda x: x, Layout())
    with pytest.raises(ValueError, match="expected arrays with one first axis"):
        function(members)


@pytest.mark.parametrize("sizes", [(0, 2), (2, 0)])
def test_layouts_of_nothing_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        layouts(*sizes)


# What a task and a metric say of themselves.


def test_a_task_keeps_the_weights_and_counts_the_skipped_steps_of_a_train_state_by_default() -> (
    None
):
    task = Task(init=lambda h: h, train=lambda s, h, d, n: (s, {}), evaluate=lambda k, h, d: {})
    params, average = {"w": jnp.ones(2)}, {"w": jnp.zeros(2)}
    state = TrainState(jnp.int32(9), params, (), jax.random.key(0), jnp.int32(4))
    assert task.keep(state) is params
    chex.assert_trees_all_equal(task.keep(state._replace(average=average)), average)
    assert task.failures(state) == 4


def test_a_member_keeps_and_judges_what_its_task_says_not_a_train_state() -> None:
    member, _ = trained(WALK, 2, walker(pace=3.0), GOOD)
    valid = measured(WALK, WALK.keep(member.state), member.hparams, jnp.bool_(True), 1.0)
    member = judged(WALK, Metric("at", True), NEVER, member, valid)
    assert float(member.best) == float(member.best_score) == 6


def test_the_score_of_a_metric_has_the_sign_that_makes_higher_better() -> None:
    assert Metric("accuracy", higher_is_better=True).score(0.25) == 0.25
    assert Metric("loss", higher_is_better=False).score(0.25) == -0.25
    np.testing.assert_array_equal(LOSS.score(jnp.array([1.0, -2.0])), [-1, 2])


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (Metric("loss", False), 1.23456789, "1.235"),
        (Metric("loss", False), 1e-7, "1e-07"),
        (Metric("accuracy", True, "{:.2%}"), 0.98765, "98.77%"),
        (Metric("loss", False, "{:.3f} bits"), 2.0, "2.000 bits"),
        (Metric("accuracy", True, "{:.2%}"), None, "not finite"),
    ],
)
def test_a_metric_writes_its_value_for_people(
    metric: Metric, value: float | None, text: str
) -> None:
    assert metric.text(value) == text


@pytest.mark.long
def test_more_batch_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layout: expected at most \d+ batch_devices"):
        sharding(Layout(batch_devices=99))
