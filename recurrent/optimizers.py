"""Clip, then regularise, then optimise on a schedule; every number may be traced."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw")
SCHEDULES = ("constant", "cosine")

Number = Any  # a Python number or a traced scalar


def optimizer(
    name: str,
    learning_rate: Number,
    *,
    momentum: Number = 0.9,
    weight_decay: Number = 0.0,
    clip_norm: Number = 0.0,
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
) -> optax.GradientTransformation:
    """An optax transformation from a few numbers.

    Build it *inside* the jitted function from traced numbers: its state has the same structure
    for every value, so that a sweep over learning rates compiles once.

    Args:
      name: ``"sgd"`` (with momentum), ``"rmsprop"``, ``"adam"`` or ``"adamw"``.
      learning_rate: the peak of the schedule.
      momentum: of sgd and rmsprop; adam and adamw keep their own (0.9, 0.999).
      weight_decay: times the kernels (arrays of two axes and more, so no biases or norms);
        decoupled in adamw (Loshchilov & Hutter 2019), added to the gradient (L2) elsewhere.
      clip_norm: gradients of a larger global norm are scaled down to it (Pascanu et al. 2013);
        0 for no clipping.
      schedule: ``"constant"``, or ``"cosine"`` to zero at ``total_steps``.
      warmup_steps: steps of linear rise from zero before either.
      total_steps: the length of training; needed by ``"cosine"``.

    Raises:
      ValueError: for an unknown name or schedule, or a cosine that has no total_steps.
    """
    rate = learning_rate_schedule(learning_rate, schedule, warmup_steps, total_steps)
    decay = optax.add_decayed_weights(weight_decay, mask=kernels)
    base = {
        "sgd": lambda: [decay, optax.trace(momentum)],
        "rmsprop": lambda: [decay, optax.scale_by_rms(), optax.trace(momentum)],
        "adam": lambda: [decay, optax.scale_by_adam()],
        "adamw": lambda: [optax.scale_by_adam(), decay],
    }
    if name not in base:
        raise ValueError(f"optimizer: expected one of {list(base)}, got {name!r}.")
    return optax.chain(clip(clip_norm), *base[name](), optax.scale_by_learning_rate(rate))


def learning_rate_schedule(
    peak: Number, schedule: str, warmup_steps: int, total_steps: int | None
) -> optax.Schedule:
    """``step -> learning rate``; see `optimizer`."""
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: expected one of {list(SCHEDULES)}, got {schedule!r}.")
    if schedule == "cosine" and not total_steps:
        raise ValueError("total_steps: a cosine schedule needs the length of training, got none.")
    after = optax.constant_schedule(1.0)
    if schedule == "cosine":
        after = optax.cosine_decay_schedule(1.0, max(1, (total_steps or 0) - warmup_steps))
    rise = optax.linear_schedule(0.0, 1.0, warmup_steps)
    shape = optax.join_schedules([rise, after], [warmup_steps]) if warmup_steps else after
    return lambda step: peak * shape(step)


def clip(norm: Number) -> optax.GradientTransformation:
    """`optax.clip_by_global_norm` with 0 for "never", so that whether to clip can be swept."""
    return optax.clip_by_global_norm(jnp.where(jnp.asarray(norm) > 0, norm, jnp.inf))


def kernels(params: Any) -> Any:
    """True for the leaves that weight decay acts on: two axes or more."""
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, params)
