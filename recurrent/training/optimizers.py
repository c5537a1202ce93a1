"""Clip, then regularize, then optimize on a schedule; every hyperparameter may be traced."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "cosine")

Number = Any  # a Python number or a traced scalar


def optimizer(
    name: str,
    learning_rate: Number,
    *,
    momentum: Number = 0.9,
    weight_decay: Number = 0.0,
    l1: Number = 0.0,
    clip_norm: Number = 0.0,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
) -> optax.GradientTransformation:
    """Build an optax transformation from a few hyperparameters.

    Build it *inside* the jitted function from traced hyperparameters: its state has the same
    structure for every value, so that a sweep over learning rates compiles once.

    Args:
      name: ``"sgd"`` (with momentum), ``"rmsprop"``, ``"adam"`` or ``"adamw"``.
      learning_rate: the peak of the schedule.
      momentum: of sgd and rmsprop; adam and adamw use betas of 0.9 and 0.999.
      weight_decay: strength of the decay of the kernels (see `kernels`: no biases, norms or decay
        rates); decoupled in adamw (Loshchilov & Hutter 2019), added to the gradient (L2) elsewhere.
      l1: strength of an L1 penalty on the same kernels, whose gradient is added after clipping.
      clip_norm: gradients of a larger global norm are scaled down to it (Pascanu et al. 2013);
        0 for no clipping.
      schedule: ``"constant"``, or ``"cosine"`` to zero at ``total_steps``.
      warmup_steps: steps W of linear rise before either: step s takes ``(s + 1) / W`` of the peak.
      total_steps: the length of training; needed by ``"cosine"``.

    Raises:
      ValueError: for an unknown name or schedule, or a cosine that has no total_steps, or no more
        than its warm-up takes.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> sgd = optimizer("sgd", learning_rate=0.5, momentum=0.0, clip_norm=1.0)
      >>> params = jnp.zeros(2)
      >>> updates, _ = sgd.update(jnp.array([3.0, 4.0]), sgd.init(params), params)
      >>> [round(float(x), 6) for x in updates]
      [-0.3, -0.4]
    """
    rate = learning_rate_schedule(learning_rate, schedule, warmup_steps, total_steps)
    decay = optax.add_decayed_weights(weight_decay, mask=kernels)
    base = {
        "sgd": lambda: [decay, optax.trace(momentum)],
        "rmsprop": lambda: [decay, optax.scale_by_rms(), optax.trace(momentum)],
        "adam": lambda: [decay, optax.scale_by_adam()],
        "adamw": lambda: [optax.scale_by_adam(), decay],
    }
    sparse = optax.masked(add_l1(l1), kernels)
    if name not in base:
        raise ValueError(f"optimizer: expected one of {list(base)}, got {name!r}.")
    return optax.chain(clip(clip_norm), sparse, *base[name](), optax.scale_by_learning_rate(rate))


def learning_rate_schedule(
    peak: Number, schedule: str, warmup_steps: int, total_steps: int | None
) -> optax.Schedule:
    """Build the function ``step -> learning rate``; see `optimizer`.

    Example:
      >>> rate = learning_rate_schedule(1.0, "constant", warmup_steps=4, total_steps=None)
      >>> [float(rate(step)) for step in (0, 1, 3, 9)]
      [0.25, 0.5, 1.0, 1.0]
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {list(SCHEDULES)}, got {schedule!r}.")
    if schedule == "cosine" and not total_steps:
        raise ValueError("total_steps: a cosine schedule needs the length of training, got none.")
    after = optax.constant_schedule(1.0)
    if schedule == "cosine":
        after = optax.cosine_decay_schedule(1.0, _after_warm_up(total_steps or 0, warmup_steps))

    if not warmup_steps:
        return lambda step: peak * after(step)
    rise = optax.linear_schedule(1 / warmup_steps, 1.0, warmup_steps - 1)
    shape = optax.join_schedules([rise, after], [warmup_steps])
    return lambda step: peak * shape(step)


def _after_warm_up(total_steps: int, warmup_steps: int) -> int:
    if warmup_steps >= total_steps:
        raise ValueError(
            f"warmup_steps: expected fewer than the total_steps={total_steps} of a cosine "
            f"schedule, got {warmup_steps}."
        )
    return total_steps - warmup_steps


def clip(norm: Number) -> optax.GradientTransformation:
    """Clip gradients to a global norm; 0 never clips, so that whether to clip can be swept."""
    return optax.clip_by_global_norm(jnp.where(jnp.asarray(norm) > 0, norm, jnp.inf))


def add_l1(strength: Number) -> optax.GradientTransformation:
    """Add the gradient of ``strength * sum |w|``, taken as zero where w is zero.

    With this subgradient weights come near zero but do not stay there. Tibshirani 1996.
    """

    def update(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda u, w: u + strength * jnp.sign(w), updates, params)

    return optax.stateless(update)


def kernels(params: Any) -> Any:
    """Mark the leaves that weight decay acts on: those with two axes or more, but no logarithms.

    A leaf called ``log_...`` holds logarithms, such as those of decay rates in a state space
    model, which nothing should pull to zero.

    Example:
      >>> import jax.numpy as jnp
      >>> kernels({"bias": jnp.ones(2), "kernel": jnp.ones((2, 2)), "log_decay": jnp.ones((2, 2))})
      {'bias': False, 'kernel': True, 'log_decay': False}
    """

    def is_kernel(path: Any, leaf: Array) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return jnp.ndim(leaf) >= 2 and not name.startswith("log_")

    return jax.tree_util.tree_map_with_path(is_kernel, params)
