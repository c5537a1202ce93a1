"""Fixed points of systems that are solved by hand, and of cells by brute force."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import recurrent
from recurrent import Cell
from recurrent.fixed_points import find_fixed_points


class Plane(NamedTuple):
    """Hold a state of two arrays."""

    across: Any
    up: Any


def double_well(pull: float = 0.1) -> Cell:
    """Return ``a' = a + pull (a - a^3) + x``, ``u' = u / 2``, with known fixed points at x = 0."""

    def step(params: Any, state: Plane, x: Any) -> tuple[Plane, Any]:
        new = Plane(state.across + pull * (state.across - state.across**3) + x, state.up / 2)
        return new, new.across

    return Cell(
        init=lambda key: {},
        initial_state=lambda params, batch: Plane(jnp.zeros((*batch, 1)), jnp.zeros((*batch, 1))),
        step=step,
        input_shape=(1,),
    )


def starts(count: int = 20, scale: float = 1.5) -> Plane:
    points = np.random.default_rng(0).uniform(-scale, scale, (2, count, 1)).astype(np.float32)
    return Plane(*map(jnp.asarray, points))


def test_the_points_of_a_double_well_are_found_and_told_apart() -> None:
    found = find_fixed_points(double_well(), {}, jnp.zeros(1), starts())
    order = np.argsort(np.asarray(found.states.across)[:, 0])
    np.testing.assert_allclose(found.states.across[order, 0], [-1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(found.states.up[order, 0], 0, atol=1e-5)
    assert found.is_fixed.all()
    assert found.is_stable[order].tolist() == [True, False, True]
    # d a' / d a = 1 + pull (1 - 3 a^2)
    np.testing.assert_allclose(
        found.eigenvalues[order], [[0.8, 0.5], [1.1, 0.5], [0.8, 0.5]], atol=1e-5
    )
    expected = 1 / abs(np.log([[0.8, 0.5], [1.1, 0.5], [0.8, 0.5]]))
    np.testing.assert_allclose(found.time_constants[order], expected, rtol=1e-4)
    np.testing.assert_allclose(found.input_jacobians, [[[1], [0]]] * 3, atol=1e-6)


@pytest.mark.long
def test_a_constant_input_moves_and_removes_points() -> None:
    """Of ``a - a^3 + 10 x``, whose only root at x = .1 is 1.3247, the plastic number."""
    found = find_fixed_points(double_well(), {}, jnp.full(1, 0.1), starts())
    fixed = np.asarray(found.states.across)[found.is_fixed, 0]
    np.testing.assert_allclose(fixed, [1.3247180], atol=1e-5)


@pytest.mark.long
def test_a_slow_point_is_not_called_fixed() -> None:
    """Where the input has only just removed two points, q has a minimum above zero."""
    edge = 2 / 3 / np.sqrt(3)  # of a - a^3, at a = 1 / sqrt(3)
    found = find_fixed_points(double_well(), {}, jnp.full(1, -0.1 * 1.05 * edge), starts(60))
    slow = np.asarray(found.states.across)[~found.is_fixed, 0]
    assert found.is_fixed.sum() == 1
    assert len(slow) == 1
    assert slow[0] == pytest.approx(1 / np.sqrt(3), abs=0.02)


@pytest.mark.long
@pytest.mark.parametrize(
    "make",
    [
        recurrent.elman,
        pytest.param(recurrent.gru, marks=pytest.mark.long),
        pytest.param(recurrent.lstm, marks=pytest.mark.long),
    ],
)
def test_points_of_cells_stay_where_they_are(make: Callable[..., Cell]) -> None:
    with jax.enable_x64(True):
        cell = make(2, 6)
        params = cell.init(jax.random.key(0))
        params = jax.tree.map(lambda leaf: 2 * leaf.astype(float), params)
        xs = jax.random.normal(jax.random.key(1), (12, 8, 2), float)
        _, (_, states) = recurrent.unroll(cell, params, xs, return_states=True)
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), states)
        found = find_fixed_points(cell, params, jnp.zeros(2), flat)
        assert found.is_fixed.any()
        assert (found.speeds[found.is_fixed] < 1e-12).all()
        after, _ = cell.step(params, found.states, jnp.zeros((len(found.speeds), 2)))
        moved = jax.vmap(lambda a, b: jnp.linalg.norm(ravel_pytree(a)[0] - ravel_pytree(b)[0]))(
            after, found.states
        )
        np.testing.assert_allclose(0.5 * np.asarray(moved) ** 2, found.speeds, atol=1e-20)
        for point, jacobian, stable, fixed in zip(
            jax.vmap(lambda s: ravel_pytree(s)[0])(found.states),
            *(found.jacobians, found.is_stable, found.is_fixed),
            strict=True,
        ):
            back = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], found.states))[1]
            if not fixed:
                continue
            nudge = 1e-7 * np.random.default_rng(0).normal(size=point.shape)
            new, _ = cell.step(params, back(point + nudge), jnp.zeros(2))
            np.testing.assert_allclose(
                ravel_pytree(new)[0] - point, jacobian @ nudge, atol=1e-3 * np.abs(nudge).max()
            )
            state = back(point + nudge)
            for _ in range(2000):
                state, _ = cell.step(params, state, jnp.zeros(2))
            away = float(jnp.linalg.norm(ravel_pytree(state)[0] - point))
            assert (away < 1e-6) == bool(stable)


@pytest.mark.long
def test_equal_points_count_once_and_outliers_are_left_out() -> None:
    """The cubic map has its roots alone, also from starts that Newton's method throws far away."""
    many = find_fixed_points(double_well(0.9), {}, jnp.zeros(1), starts(200, 1.2))
    assert len(many.speeds) == 3
    one = find_fixed_points(
        double_well(), {}, jnp.zeros(1), Plane(jnp.ones((5, 1)), jnp.zeros((5, 1)))
    )
    np.testing.assert_allclose(one.states.across, [[1.0]], atol=1e-6)


@pytest.mark.long
def test_points_of_a_line_are_found_though_its_jacobian_is_singular() -> None:
    """Of ``a' = a, u' = u / 2 - u^3 / 8`` every point with u = 0 is fixed."""

    def step(params: Any, state: Plane, x: Any) -> tuple[Plane, Any]:
        return Plane(state.across, state.up / 2 - state.up**3 / 8), x

    line = double_well()._replace(step=step)
    found = find_fixed_points(line, {}, jnp.zeros(1), starts(), iterations=1)
    assert len(found.speeds) > 10  # as many places as starts, but for neighbors
    assert found.is_fixed.all()
    np.testing.assert_allclose(found.states.up, 0, atol=1e-6)


def test_wrong_starts_are_refused() -> None:
    cell = recurrent.lstm(2, 3)
    params = cell.init(jax.random.key(0))
    state = cell.initial_state(params, (4,))
    with pytest.raises(ValueError, match=r"x: expected one input of shape \[2\], got \[4, 2\]"):
        find_fixed_points(cell, params, jnp.ones((4, 2)), state)
    with pytest.raises(ValueError, match=r"states: expected .* an axis of starts in front"):
        find_fixed_points(cell, params, jnp.ones(2), cell.initial_state(params, ()))
    with pytest.raises(ValueError, match="one start or more"):
        find_fixed_points(cell, params, jnp.ones(2), cell.initial_state(params, (0,)))
    with pytest.raises(ValueError, match="tolerance: expected above 0"):
        find_fixed_points(cell, params, jnp.ones(2), state, tolerance=0.0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "count"),
    [
        (recurrent.elman, 1),
        pytest.param(recurrent.gru, 10, marks=pytest.mark.long),
        pytest.param(recurrent.lstm, 1, marks=pytest.mark.long),
    ],
)
def test_the_initial_state_alone_leads_to_a_point(make: Callable[..., Cell], count: int) -> None:
    cell = make(2, 4)
    params = cell.init(jax.random.key(0))
    x = jnp.array([1.0, -1.0])
    found = find_fixed_points(cell, params, x, cell.initial_state(params, (count,)), iterations=300)
    assert found.is_fixed.tolist() == [True]
    state = jax.tree.map(lambda leaf: leaf[0], found.states)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        *(cell.step(params, state, x)[0], state),
    )


@pytest.mark.long
def test_a_cell_that_never_rests_has_no_points() -> None:
    def step(params: Any, state: Any, x: Any) -> Any:
        return state + 1.0 + x, state

    drift = Cell(lambda key: {}, lambda params, shape: jnp.zeros((*shape, 2)), step, ())
    found = find_fixed_points(drift, {}, jnp.zeros(()), jnp.zeros((3, 2)), iterations=10)
    assert not found.is_fixed.any()
    assert not found.is_stable.any()
    assert found.input_jacobians.shape == (len(found.speeds), 2, 1)


def test_starts_that_are_not_finite_are_refused() -> None:
    cell = recurrent.elman(2, 3)
    params = cell.init(jax.random.key(0))
    states = cell.initial_state(params, (5,))
    states = states._replace(hidden=states.hidden.at[1].set(jnp.nan))
    with pytest.raises(ValueError, match="but 1 of 5 starts holds others; leave those out"):
        find_fixed_points(cell, params, jnp.ones(2), states)
    with pytest.raises(ValueError, match="but x holds others"):
        find_fixed_points(cell, params, jnp.full(2, jnp.inf), cell.initial_state(params, (5,)))


@pytest.mark.long
def test_narrow_states_are_refused() -> None:
    cell = recurrent.elman(2, 3)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), cell.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="expected float32 or float64, got bfloat16; convert them"):
        find_fixed_points(cell, params, jnp.ones(2, jnp.bfloat16), cell.initial_state(params, (2,)))
