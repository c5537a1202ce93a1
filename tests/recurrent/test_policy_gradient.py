"""Advantages, surrogates and entropies against plain loops of the papers' equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent.errors import ArgumentError
from recurrent.policy_gradient import (
    categorical_entropy,
    categorical_log_prob,
    clipped_surrogate,
    clipped_value_loss,
    generalized_advantages,
)

T, N = 30, 4


def experience(seed: int = 0) -> dict[str, np.ndarray]:
    """A batch with ends of both kinds; where an episode terminated, no value means anything."""
    rng = np.random.default_rng(seed)
    names = ("rewards", "values", "next_values")
    found: dict[str, Any] = {name: rng.normal(size=(T, N)).astype(np.float32) for name in names}
    found |= {name: rng.random((T, N)) < 0.15 for name in ("terminated", "truncated")}
    found["next_values"][found["terminated"]] = np.nan
    assert (found["terminated"] & found["truncated"]).any()
    return found


def as_sum_of_errors(batch: dict[str, np.ndarray], discount: float, decay: float) -> np.ndarray:
    """Equation 16 of Schulman et al. 2016, the sum that the recursion stands for, in float64."""
    delta = np.empty((T, N))
    for t in range(T):
        for n in range(N):
            later = 0.0 if batch["terminated"][t, n] else float(batch["next_values"][t, n])
            delta[t, n] = batch["rewards"][t, n] + discount * later - batch["values"][t, n]
    advantages = np.zeros((T, N))
    for t in range(T):
        for n in range(N):
            for k in range(t, T):
                advantages[t, n] += (discount * decay) ** (k - t) * delta[k, n]
                if batch["terminated"][k, n] or batch["truncated"][k, n]:
                    break
    return advantages


@pytest.mark.parametrize(("discount", "decay"), [(0.99, 0.95), (0.9, 0.0), (1.0, 1.0), (0.0, 0.5)])
def test_advantages_are_discounted_sums_of_errors_up_to_the_end_of_an_episode(
    discount: float, decay: float
) -> None:
    batch = experience()
    found = generalized_advantages(**batch, discount=discount, decay=decay)
    expected = as_sum_of_errors(batch, discount, decay)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_the_gradient_of_advantages_is_that_of_the_sum() -> None:
    batch = experience(1)
    batch["next_values"] = np.nan_to_num(batch["next_values"])
    weights = np.random.default_rng(2).normal(size=(T, N)).astype(np.float32)

    def weighed(name: str, array: Any) -> Any:
        changed: Any = batch | {name: array}
        return (weights * generalized_advantages(**changed, discount=0.9, decay=0.7)).sum()

    for name in ("rewards", "values", "next_values"):
        found = jax.grad(lambda array, name=name: weighed(name, array))(jnp.asarray(batch[name]))
        before = as_sum_of_errors(batch, 0.9, 0.7)
        for t, n in [(0, 0), (3, 1), (11, 2), (T - 1, 3)]:
            moved = batch | {name: batch[name].copy()}
            moved[name][t, n] += 1  # of a linear function, so no step is too large
            expected = (weights * (as_sum_of_errors(moved, 0.9, 0.7) - before)).sum()
            assert float(found[t, n]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_with_a_decay_of_one_values_cancel_within_an_episode() -> None:
    """Then the advantage is the discounted return, bootstrapped at a limit of time, less v."""
    rewards, values = np.array([1.0, 2, 3], np.float32), np.array([5.0, 6, 7], np.float32)
    ends = {"terminated": np.zeros(3, bool), "truncated": np.array([False, False, True])}
    found = generalized_advantages(
        rewards, values, np.array([6.0, 7, 8], np.float32), **ends, discount=0.5, decay=1.0
    )
    assert float(found[0]) == 1 + 0.5 * 2 + 0.25 * 3 + 0.125 * 8 - 5


def surrogate_by_hand(
    log_probs: np.ndarray, old: np.ndarray, advantages: np.ndarray, clip: float
) -> tuple[np.ndarray, np.ndarray]:
    """Equation 7 of Schulman et al. 2017 with its derivative by the log of the probability."""
    values, slopes = np.empty(len(log_probs)), np.empty(len(log_probs))
    for k, (new, before, a) in enumerate(zip(log_probs, old, advantages, strict=True)):
        ratio = np.exp(float(new) - float(before))
        bounded = min(max(ratio, 1 - clip), 1 + clip)
        values[k] = -min(ratio * a, bounded * a)
        is_cut = (a > 0 and ratio > 1 + clip) or (a < 0 and ratio < 1 - clip)
        slopes[k] = 0 if is_cut else -ratio * a
    return values, slopes


def test_the_surrogate_and_its_gradient_are_those_of_the_equation() -> None:
    rng = np.random.default_rng(3)
    log_probs, old = (-rng.exponential(size=500).astype(np.float32) for _ in range(2))
    advantages = rng.normal(size=500).astype(np.float32)
    values, slopes = surrogate_by_hand(log_probs, old, advantages, 0.2)
    found = clipped_surrogate(log_probs, old, advantages, 0.2)
    np.testing.assert_allclose(found, values, rtol=1e-5)

    def total(*given: Any) -> Any:
        return clipped_surrogate(*given, clip=0.2).sum()

    gradients = jax.grad(total, argnums=(0, 1, 2))(log_probs, old, advantages)
    np.testing.assert_allclose(gradients[0], slopes, rtol=1e-5)
    assert (slopes == 0).any()
    assert not np.any(gradients[1])
    assert not np.any(gradients[2])


@pytest.mark.parametrize("clip", [0.3, np.inf])
def test_the_value_loss_and_its_gradient_are_those_of_the_larger_error(clip: float) -> None:
    rng = np.random.default_rng(4)
    v, old, target = (rng.normal(size=400).astype(np.float32) for _ in range(3))
    expected, slopes = np.empty(400), np.empty(400)
    for k in range(400):
        step = min(max(float(v[k]) - float(old[k]), -clip), clip)
        plain, near = float(v[k]) - target[k], old[k] + step - target[k]
        expected[k] = max(plain**2, near**2) / 2
        moves = abs(float(v[k]) - float(old[k])) < clip
        slopes[k] = plain if moves or plain**2 > near**2 else 0
    np.testing.assert_allclose(clipped_value_loss(v, old, target, clip), expected, rtol=1e-4)
    gradient = jax.grad(lambda v: clipped_value_loss(v, old, target, clip).sum())(jnp.asarray(v))
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.long
def test_log_probabilities_and_entropies_are_those_of_the_softmax() -> None:
    logits = 3 * np.random.default_rng(5).normal(size=(6, 7, 4)).astype(np.float32)
    actions = np.random.default_rng(6).integers(0, 4, (6, 7))
    p = np.exp(logits.astype(float))
    p /= p.sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, actions[..., None], -1)[..., 0]
    np.testing.assert_allclose(categorical_log_prob(logits, actions), np.log(chosen), atol=1e-5)
    np.testing.assert_allclose(categorical_entropy(logits), -(p * np.log(p)).sum(-1), atol=1e-5)
    one_hot = np.arange(4) == actions[..., None]
    slopes = jax.grad(lambda x: categorical_log_prob(x, actions).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(slopes, one_hot - p, atol=1e-5)
    entropy = -(p * np.log(p)).sum(-1, keepdims=True)
    slopes = jax.grad(lambda x: categorical_entropy(x).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(slopes, -p * (np.log(p) + entropy), atol=1e-5)


@pytest.mark.long
def test_an_action_that_is_never_taken_makes_no_gradient_infinite() -> None:
    logits = jnp.array([0.5, -jnp.inf, 0.5])
    assert float(categorical_entropy(logits)) == pytest.approx(np.log(2), rel=1e-5)
    assert np.isfinite(jax.grad(categorical_entropy)(logits)).all()
    slopes = jax.grad(lambda x: categorical_log_prob(x, jnp.int32(0)))(logits)
    np.testing.assert_allclose(slopes, [0.5, 0, -0.5], atol=1e-6)
    assert np.isnan(float(categorical_entropy(jnp.array([jnp.nan, 0.0]))))


@pytest.mark.parametrize("action", [-1, 3])
def test_an_action_that_there_is_not_has_no_probability(action: int) -> None:
    assert float(categorical_log_prob(jnp.zeros(3), action * jnp.ones((), int))) == -np.inf


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": np.zeros((T, 1), np.float32)}, "values: expected the shape"),
        ({"terminated": np.zeros((T, N))}, "terminated: expected booleans, got float"),
        ({"truncated": np.zeros(N, bool)}, "truncated: expected the shape [30, 4]"),
    ],
)
def test_experience_that_does_not_fit_together_is_refused(change: Any, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        generalized_advantages(**experience() | change, discount=0.9, decay=0.9)
    assert words in str(caught.value)


def test_arguments_of_other_shapes_or_types_are_refused() -> None:
    one, two = np.zeros(1, np.float32), np.zeros(2, np.float32)
    with pytest.raises(ArgumentError, match=r"old_log_probs: expected the shape \[1\]"):
        clipped_surrogate(one, two, one, 0.2)
    with pytest.raises(ArgumentError, match=r"targets: expected the shape \[1\]"):
        clipped_value_loss(one, one, two, 0.2)
    with pytest.raises(ArgumentError, match="actions: expected integers, got float32"):
        categorical_log_prob(np.zeros((1, 3), np.float32), one)
    with pytest.raises(ArgumentError, match="actions: expected the shape"):
        categorical_log_prob(np.zeros((1, 3), np.float32), np.zeros(2, int))
    flags = dict.fromkeys(("terminated", "truncated"), np.bool_(False))
    numbers = dict.fromkeys(("rewards", "values", "next_values"), np.float32(0))
    with pytest.raises(ArgumentError, match="rewards: expected a first axis of time"):
        generalized_advantages(**numbers, **flags, discount=1, decay=1)
