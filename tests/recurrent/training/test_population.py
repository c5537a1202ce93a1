"""Populations: each member trains as it would alone, however the members are laid out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import dense, lstm, stack, unroll
from recurrent.losses import masked_average
from recurrent.training.optimizers import optimizer
from recurrent.training.population import (
    DIVERGED,
    FINISHED,
    TRAINING,
    Layout,
    Limits,
    Member,
    advance,
    begin,
    layouts,
    replaced,
    spread,
)
from recurrent.training.step import evaluate, init_state, train_steps
from recurrent.training.task import Task

SIZE, BATCH, STEPS = 24, 8, 3
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


def squares(params: Any, batch: Any) -> Any:
    ys = unroll(CELL, params, batch["x"].swapaxes(0, 1))[1]
    return masked_average((ys[-1, :, 0] - batch["y"]) ** 2, batch["mask"])


def loss(params: Any, batch: Any, key: jax.Array) -> Any:
    error = squares(params, batch)
    return error.mean, {"loss": error}


def made(numbers: Any) -> Any:
    return optimizer("adam", numbers["learning_rate"], clip_norm=1.0)


def start(numbers: Any) -> Any:
    return init_state(CELL.init, made(numbers), jax.random.key(numbers["seed"]))


def run(state: Any, numbers: Any, data: Any, steps: int) -> Any:
    return train_steps(loss, made(numbers), state, data, BATCH, steps)


def measured(params: Any, data: Any) -> Any:
    return evaluate(lambda params, batch: {"loss": squares(params, batch)}, params, data, 10)


TASK = Task(start, run, measured, lambda means: -means["loss"])
TRAIN, VALID = sums(0), sums(1)
RATES = [0.001, 0.01, 0.03, 0.1]
NEVER = Limits()


def numbers_of(rates: list[float]) -> dict[str, jax.Array]:
    return {"learning_rate": jnp.asarray(rates), "seed": jnp.arange(len(rates)) % 3}


def trained(
    rates: list[float], layout: Layout, epochs: int = 3, limits: Limits = NEVER
) -> tuple[Member, list[Any]]:
    members = jax.jit(spread(partial(begin, TASK), layout))(numbers_of(rates))
    step = jax.jit(spread(partial(advance, TASK, STEPS), layout), donate_argnums=0)
    rows = []
    for _ in range(epochs):
        members, row = step(members, TRAIN, VALID, limits)
        rows.append(row)
    return members, rows


def keyless(member: Member) -> Member:
    return member._replace(state=member.state._replace(key=jax.random.key_data(member.state.key)))


def member(members: Any, k: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[k], members)


RUN, MEASURED = jax.jit(partial(run, steps=STEPS)), jax.jit(measured)


def alone(rate: float, seed: int, epochs: int = 3) -> tuple[Any, list[float]]:
    """Params and validation losses of the same training, written out without populations."""
    numbers = {"learning_rate": jnp.float32(rate), "seed": jnp.int32(seed)}
    state, losses = start(numbers), []
    for _ in range(epochs):
        state, _ = RUN(state, numbers, TRAIN)
        losses.append(float(MEASURED(state.params, VALID)["loss"].mean))
    return state.params, losses


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_member_trains_as_it_would_alone(layout: Layout) -> None:
    members, rows = trained(RATES, layout)
    for k, rate in enumerate(RATES):
        params, losses = alone(rate, k % 3)
        own = member(members.state.params, k)
        chex.assert_trees_all_close(own, params, rtol=1e-4, atol=1e-6)
        valid = [float(row[1]["loss"].mean[k]) for row in rows]
        np.testing.assert_allclose(valid, losses, rtol=1e-4)
        best = int(np.argmin(losses))
        assert int(members.best_step[k]) == (best + 1) * STEPS
        np.testing.assert_allclose(-float(members.best_score[k]), losses[best], rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_member_that_diverges_leaves_the_others_bitwise_as_they_were(layout: Layout) -> None:
    rates = [*RATES[:3], 1e10]
    limits = Limits(worst=-100.0)
    members, _ = trained(rates, layout, limits=limits)
    calm, _ = trained([*rates[:-1], 0.01], layout, limits=limits)
    assert members.status.tolist() == [TRAINING] * (len(rates) - 1) + [DIVERGED]
    assert calm.status.tolist() == [TRAINING] * len(rates)
    for one, other in zip(*map(jax.tree.leaves, map(keyless, (members, calm))), strict=True):
        np.testing.assert_array_equal(one[:-1], other[:-1])


def test_taken_one_by_one_a_member_does_not_depend_on_how_many_there_are() -> None:
    few, many = (trained(rates, Layout())[0] for rates in (RATES[:2], RATES))
    for one, other in zip(*map(jax.tree.leaves, map(keyless, (few, many))), strict=True):
        np.testing.assert_array_equal(one, other[:2])


@pytest.mark.parametrize("layout", [Layout(1, 1), Layout(1, 4)])
def test_early_stopping_keeps_the_best_params_and_ends_a_member(layout: Layout) -> None:
    rates = [0.0, 0.01, 0.0, 0.03]
    members, rows = trained(rates, layout, epochs=4, limits=Limits(patience=2))
    for k, rate in enumerate(rates):
        losses = alone(rate, k % 3, epochs=4)[1]
        bests = [losses[: n + 1].index(min(losses[: n + 1])) for n in range(4)]
        last = next((n for n in range(4) if n - bests[n] == 2), 3)
        assert int(members.best_step[k]) == STEPS * (bests[last] + 1)
        assert int(members.state.step[k]) == STEPS * (last + 1)
        assert int(members.status[k]) == (FINISHED if last - bests[last] == 2 else TRAINING)
        counted = [float(row[1]["loss"].weight[k]) for row in rows]
        assert counted == [SIZE] * (last + 1) + [0] * (3 - last)
    assert {TRAINING, FINISHED} == set(members.status.tolist())


def test_steps_without_a_finite_gradient_end_a_member() -> None:
    broken = {**TRAIN, "y": TRAIN["y"].at[:].set(jnp.nan)}
    members = jax.vmap(partial(begin, TASK))(numbers_of(RATES))
    step = jax.jit(spread(partial(advance, TASK, STEPS), Layout(1, 4)))
    after, _ = step(members, broken, VALID, Limits(skipped=2 * STEPS))
    assert after.status.tolist() == [TRAINING] * 4
    chex.assert_trees_all_equal(after.state.params, members.state.params)
    after, _ = step(after, broken, VALID, Limits(skipped=2 * STEPS))
    assert after.status.tolist() == [DIVERGED] * 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_place_is_filled_anew_without_another_program(layout: Layout) -> None:
    traces = []

    def counted(*args: Any) -> Any:
        traces.append(1)
        return advance(TASK, STEPS, *args)

    rates = RATES
    members = jax.jit(spread(partial(begin, TASK), layout))(numbers_of(rates))
    step = jax.jit(spread(counted, layout))
    members, _ = step(members, TRAIN, VALID, Limits())

    def fill(given: Any) -> Member:
        return replaced(TASK, *given)

    given = members, jnp.array([False, True, False, False]), numbers_of([0.03] * 4)
    members = jax.jit(spread(fill, layout))(given)
    assert members.state.step.tolist() == [STEPS, 0, STEPS, STEPS]
    first = len(traces)
    members, _ = step(members, TRAIN, VALID, Limits())
    assert len(traces) == first
    own = member(members.state.params, 1)
    chex.assert_trees_all_close(own, alone(0.03, 1, epochs=1)[0], rtol=1e-4, atol=1e-6)


def test_which_layouts_are_worth_measuring() -> None:
    assert layouts(16, 1) == [Layout(1, 1), Layout(1, 4), Layout(1, 16)]
    assert layouts(16, 2) == [Layout(2, 1), Layout(2, 4), Layout(2, 8)]
    assert layouts(7, 2) == [Layout(1, 1), Layout(1, 7)]
    assert layouts(1, 8) == [Layout(1, 1)]


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(99), "expected 1 to"),
        (Layout(0), "expected 1 to"),
        (Layout(1, 0), "at least 1 member together"),
        pytest.param(Layout(2), "2 devices can share equally, got 3", marks=two_devices),
    ],
)
def test_layouts_that_cannot_be(layout: Layout, words: str) -> None:
    function: Callable[..., Any] = spread(lambda x: x, layout)
    with pytest.raises(ValueError, match=words):
        function(jnp.arange(3))


@pytest.mark.parametrize(
    "members",
    [jnp.float32(1), {}, {"a": jnp.ones(3), "b": jnp.ones(2)}, (jnp.ones(3), jnp.ones(()))],
)
def test_members_that_are_not_stacked(members: Any) -> None:
    function: Callable[..., Any] = spread(lambda x: x, Layout())
    with pytest.raises(ValueError, match="expected arrays with one first axis"):
        function(members)


@pytest.mark.parametrize("sizes", [(0, 2), (2, 0)])
def test_layouts_of_nothing(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        layouts(*sizes)
