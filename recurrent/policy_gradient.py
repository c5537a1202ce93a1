"""Compute what a policy gradient is made of: advantages, a clipped surrogate, entropies.

All functions take arrays of any shape and return a value for each entry; averages are the caller's.
Time is the first axis, ``[T, ...]``, where there is one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import as_array
from recurrent.errors import ArgumentError


def generalized_advantages(
    rewards: Any,
    values: Any,
    next_values: Any,
    terminated: Any,
    truncated: Any,
    *,
    discount: Any,
    decay: Any,
) -> Array:
    """Estimate by how much each action was better than what the value function expects.

    Equation, from the last step back to the first::

        delta_t = r_t + discount * (1 - terminated_t) * next_values_t - values_t
        A_t = delta_t + discount * decay * (1 - terminated_t) * (1 - truncated_t) * A_{t+1}

    with ``A_T = 0``. An episode that is truncated, by a limit of time, goes on as far as its value
    is concerned, so ``next_values_t`` is the value of the observation that step t led to, *before*
    any reset. Within an episode it is ``values_{t+1}``.

    Args:
      rewards: r ``[T, ...]``, of the action at each step.
      values: ``[T, ...]``, of the observation that the action was chosen by.
      next_values: ``[T, ...]``, of the observation that came of it; not read where an episode
        terminated.
      terminated: booleans ``[T, ...]``, true where nothing comes after the step.
      truncated: booleans ``[T, ...]``, true where the episode was cut off after the step.
      discount: gamma, from 0 to 1; may be traced.
      decay: lambda, from 0 (one step) to 1 (whole episodes); may be traced.

    Returns:
      A ``[T, ...]``; added to ``values`` it is the target of the value function, TD(lambda).

    Raises:
      ValueError: for arrays of different shapes, without a time axis, or flags that are
        no booleans.

    References:
      Schulman et al. 2016, High-dimensional continuous control using generalized advantage
      estimation, arXiv:1506.02438; time limits: Pardo et al. 2018, arXiv:1712.00378.

    Example:
      >>> import jax.numpy as jnp
      >>> ends = {"terminated": jnp.array([False, False]), "truncated": jnp.array([False, True])}
      >>> rewards, values = jnp.array([1.0, 1.0]), jnp.array([0.5, 0.5])
      >>> later, rates = jnp.array([0.5, 4.0]), {"discount": 0.5, "decay": 1.0}
      >>> generalized_advantages(rewards, values, later, **ends, **rates).tolist()
      [2.0, 2.5]
    """
    rewards, values, next_values = _alike(rewards=rewards, values=values, next_values=next_values)
    terminated, truncated = jnp.asarray(terminated), jnp.asarray(truncated)
    _check_flags({"terminated": terminated, "truncated": truncated}, rewards.shape)
    bootstrap = jnp.where(terminated, 0, next_values)
    deltas = rewards + discount * bootstrap - values
    factors = jnp.where(terminated | truncated, 0, discount * decay).astype(deltas.dtype)

    def step(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, factor = now
        advantage = delta + factor * later
        return advantage, advantage

    return lax.scan(step, jnp.zeros_like(deltas[0]), (deltas, factors), reverse=True)[1]


def clipped_surrogate(log_probs: Any, old_log_probs: Any, advantages: Any, clip: Any) -> Array:
    """Return the loss of proximal policy optimization for each action.

    Equation: ``-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)`` with
    ``ratio = exp(log_probs - old_log_probs)``. Its gradient is zero where the ratio has left the
    interval on the side to which the advantage pushes it.

    Args:
      log_probs: ``[...]``, of the actions by the policy that is trained.
      old_log_probs: ``[...]``, of the same actions by the policy that took them.
      advantages: A ``[...]``; no gradient goes through them or through ``old_log_probs``.
      clip: epsilon, above 0; may be traced.

    Raises:
      ValueError: for arrays of different shapes.

    References:
      Schulman et al. 2017, Proximal policy optimization algorithms, arXiv:1707.06347, equation 7.

    Example:
      >>> import jax.numpy as jnp
      >>> log_probs = jnp.log(jnp.array([0.9, 0.9, 0.3]))
      >>> old, advantages = jnp.log(jnp.array([0.6, 0.6, 0.6])), jnp.array([1.0, -1.0, 1.0])
      >>> clipped_surrogate(log_probs, old, advantages, 0.25).round(4).tolist()
      [-1.25, 1.5, -0.5]
    """
    log_probs, old_log_probs, advantages = _alike(
        log_probs=log_probs, old_log_probs=old_log_probs, advantages=advantages
    )
    old_log_probs, advantages = lax.stop_gradient((old_log_probs, advantages))
    ratio = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratio, 1 - clip, 1 + clip)
    return -jnp.minimum(ratio * advantages, clipped * advantages)


def clipped_value_loss(values: Any, old_values: Any, targets: Any, clip: Any) -> Array:
    """Return half the squared error of each value, the larger of the plain one and a clipped one.

    Equation: ``max((v - target)^2, (old + clip(v - old, -clip, clip) - target)^2) / 2``. With a
    ``clip`` of infinity it is plainly ``(v - target)^2 / 2``.

    Args:
      values: v ``[...]``, by the value function that is trained.
      old_values: ``[...]``, by the one of the time when the actions were taken.
      targets: ``[...]``; no gradient goes through them or through ``old_values``.
      clip: the distance from the old value within which the error may fall freely; may be traced.

    Raises:
      ValueError: for arrays of different shapes.

    References:
      Used in the implementation that goes with Schulman et al. 2017, not in the paper; see Engstrom
      et al. 2020, Implementation matters in deep policy gradients, arXiv:2005.12729.

    Example:
      >>> import jax.numpy as jnp
      >>> v, old, target = jnp.array([3.0]), jnp.array([1.0]), jnp.array([4.0])
      >>> [float(clipped_value_loss(v, old, target, clip)[0]) for clip in (0.5, jnp.inf)]
      [3.125, 0.5]
    """
    values, old_values, targets = _alike(values=values, old_values=old_values, targets=targets)
    old_values, targets = lax.stop_gradient((old_values, targets))
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    return jnp.maximum((values - targets) ** 2, (near - targets) ** 2) / 2


def categorical_log_prob(logits: Any, actions: Any) -> Array:
    """Return the log of the probability of each action under a categorical distribution.

    Args:
      logits: ``[..., A]``; one of minus infinity is an action that is never taken.
      actions: integers ``[...]`` from 0 to A - 1; any other has minus infinity.

    Raises:
      ValueError: for actions that are not integers, or of another shape than the logits without
        their last axis.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
      >>> jnp.exp(categorical_log_prob(logits, jnp.array([1, 0]))).round(4).tolist()
      [0.75, 0.5]
    """
    logits, actions = as_array("logits", logits), jnp.asarray(actions)
    if not jnp.issubdtype(actions.dtype, jnp.integer):
        raise ArgumentError(f"actions: expected integers, got {actions.dtype}.")
    _check_shape("actions", actions, logits.shape[:-1], "logits without their last axis")
    chosen = actions[..., None] == jnp.arange(logits.shape[-1])
    # a sum with one term that counts: its gradient is no scatter, which is slow on a CPU
    log_prob = jnp.where(chosen, jax.nn.log_softmax(logits), 0).sum(-1)
    return jnp.where(chosen.any(-1), log_prob, -jnp.inf)


def categorical_entropy(logits: Any) -> Array:
    """Return the entropy in nats of each categorical distribution.

    Equation: ``-sum_a p_a log p_a`` with ``p = softmax(logits)``, where ``0 log 0 = 0``.

    Args:
      logits: ``[..., A]``; one of minus infinity is an action that is never taken.

    Example:
      >>> import jax.numpy as jnp
      >>> even, sure = jnp.array([0.0, 0.0]), jnp.array([0.0, -jnp.inf])
      >>> [round(float(categorical_entropy(logits)), 4) for logits in (even, sure)]
      [0.6931, 0.0]
    """
    log_probs = jax.nn.log_softmax(as_array("logits", logits))
    possible = jnp.isfinite(log_probs) | jnp.isnan(log_probs)
    safe = jnp.where(possible, log_probs, 0)
    return jnp.where(possible, -jnp.exp(safe) * safe, 0).sum(-1)


def _alike(**arrays: Any) -> list[Array]:
    """Return arrays, which must have the shape of the first one."""
    found = {name: as_array(name, array) for name, array in arrays.items()}
    first = next(iter(found))
    for name, array in found.items():
        _check_shape(name, array, found[first].shape, first)
    return [*found.values()]


def _check_flags(flags: dict[str, Array], shape: tuple[int, ...]) -> None:
    if not shape:
        raise ArgumentError("rewards: expected a first axis of time, [T, ...], got a number.")
    for name, flag in flags.items():
        _check_shape(name, flag, shape, "rewards")
        if flag.dtype != jnp.bool_:
            raise ArgumentError(
                f"{name}: expected booleans, got {flag.dtype}; compare it with 0 first."
            )


def _check_shape(name: str, array: Array, shape: tuple[int, ...], of: str) -> None:
    if array.shape != shape:
        raise ArgumentError(
            f"{name}: expected the shape {list(shape)}, that of the {of}, got {list(array.shape)}."
        )
