"""Dynamic evaluation: equal to a loop that scores a window, then learns from it."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrent import lstm, unroll
from recurrent.losses import masked_average
from recurrent.training.dynamic import dynamic_evaluation, mean_squares, towards
from recurrent.training.tbptt import evaluate_streams

SIZE, WINDOW = 24, 5
TOKENS = jnp.asarray(np.random.default_rng(0).integers(9, size=SIZE), jnp.int32)
CELL = lstm(1, 3)
PARAMS = CELL.init(jax.random.key(0))


def start(params: Any, streams: int) -> Any:
    return CELL.initial_state(params, (streams,))


def loss(params: Any, batch: Any, carry: Any) -> Any:
    carry, ys = unroll(CELL, params, batch["inputs"][..., None] / SIZE, carry)
    errors = masked_average((ys.mean(-1) - batch["targets"] / SIZE) ** 2, batch["mask"])
    return errors.mean, ({"loss": errors}, carry)


def windows() -> list[dict[str, Any]]:
    """Return the windows of one stream, the last of which is not full."""
    found = []
    for begin in range(0, SIZE - 1, WINDOW):
        stop = min(begin + WINDOW, SIZE - 1)
        read = {"inputs": TOKENS[begin:stop, None], "targets": TOKENS[begin + 1 : stop + 1, None]}
        found.append(read | {"mask": jnp.ones((stop - begin, 1), bool)})
    return found


@pytest.mark.long
@pytest.mark.parametrize("optimizer", [optax.sgd(0.3), optax.adam(0.1)])
def test_it_equals_a_loop_that_scores_each_window_and_then_learns_from_it(optimizer: Any) -> None:
    params, state, carry = PARAMS, optimizer.init(PARAMS), start(PARAMS, 1)
    totals = []
    for batch in windows():
        slopes, (metrics, carry) = jax.grad(loss, has_aux=True)(params, batch, carry)
        updates, state = optimizer.update(slopes, state, params)
        params = optax.apply_updates(params, updates)
        totals.append(metrics["loss"].total)
    found = dynamic_evaluation(loss, PARAMS, TOKENS, start, optimizer, window=WINDOW)["loss"]
    np.testing.assert_allclose(found.total, sum(totals), rtol=1e-5)
    assert int(found.weight) == SIZE - 1


@pytest.mark.long
def test_without_updates_it_is_plain_evaluation() -> None:
    def measure(params: Any, batch: Any, carry: Any) -> Any:
        return loss(params, batch, carry)[1]

    options: dict[str, Any] = {"window": WINDOW, "streams": 2}
    plain = evaluate_streams(measure, PARAMS, TOKENS, start, **options)
    still = towards(PARAMS, jax.tree.map(jnp.ones_like, PARAMS), 0.0, 0.5)
    found = dynamic_evaluation(loss, PARAMS, TOKENS, start, still, **options)
    chex.assert_trees_all_close(found, plain, rtol=1e-6)


@pytest.mark.long
def test_squares_are_means_over_windows() -> None:
    carry, squares = start(PARAMS, 1), []
    for batch in windows():
        slopes, (_, carry) = jax.grad(loss, has_aux=True)(PARAMS, batch, carry)
        squares.append(jax.tree.map(jnp.square, slopes))
    expected = jax.tree.map(lambda *leaves: sum(leaves) / len(squares), *squares)
    found = mean_squares(loss, PARAMS, TOKENS, start, window=WINDOW, streams=1)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("decay", [0.01, 0.9])
def test_the_updates_are_those_of_krause(decay: float) -> None:
    rng = np.random.default_rng(0)
    trained, params, slopes = (
        {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=3)} for _ in range(3)
    )
    squares = {"w": rng.uniform(size=(3, 4)), "b": 9 * rng.uniform(size=3)}
    rms = {name: np.sqrt(leaf) for name, leaf in squares.items()}
    mean = np.concatenate([leaf.ravel() for leaf in rms.values()]).mean()
    expected = {
        name: -0.1 * slopes[name] / (rms[name] + 1e-5)
        + decay * np.minimum(rms[name] / mean, 1 / decay) * (trained[name] - params[name])
        for name in trained
    }
    assert any((decay * leaf / mean > 1).any() for leaf in rms.values()) == (decay > 0.5)
    rule = towards(trained, squares, 0.1, decay)
    found, _ = jax.jit(rule.update)(slopes, rule.init(params), params)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


def test_the_updates_need_the_params() -> None:
    rule = towards(PARAMS, PARAMS, 0.1, 0.1)
    with pytest.raises(ValueError, match="params: expected those to be pulled back"):
        rule.update(PARAMS, rule.init(PARAMS))
