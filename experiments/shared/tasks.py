"""Build tasks from a Config: what its flags say is seen to here, not in the experiments."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax import Array

from experiments.harness.config import RunConfig, option
from experiments.harness.errors import UserError
from experiments.shared.optimizer_flags import OptimizerConfig, optimizer_of
from recurrent import training
from recurrent.training import minibatch, tbptt
from recurrent.training.task import Task


def check_loss_scale(scale: float) -> None:
    """Raise `UserError` for a loss scale that would make gradients smaller."""
    if 0 < scale < 1:
        raise UserError(f"--loss_scale: expected 0, or at least 1, got {scale}.")


@dataclasses.dataclass(frozen=True)
class MinibatchConfig(OptimizerConfig, RunConfig):
    """Hold the fields of training on batches, epoch by epoch, by gradient descent."""

    epochs: int = option(10, "passes over the training data", minimum=1, maximum=10**6)
    batch_size: int = option(64, "examples in one step", minimum=1, maximum=10**7)
    average: float = option(
        0.0,
        "decay of the running average of the weights, which is then evaluated and kept; 0 for none",
        minimum=0,
        below=1,
    )
    loss_scale: float = option(
        0.0,
        "initial factor of the loss, adapted during training, for a cell of your own whose "
        "products are in float16; 0 for none",
        minimum=0,
        maximum=2.0**24,
        check=check_loss_scale,
    )


@dataclasses.dataclass(frozen=True)
class TbpttConfig(MinibatchConfig):
    """Hold the fields of truncated backpropagation through time over one long sequence."""

    batch_size: int = option(32, "parallel streams", minimum=1, maximum=10**7)
    window: int = option(64, "T, tokens that gradients go back through", minimum=1)


def minibatch_task(
    config: MinibatchConfig,
    init: Callable[[Array], Any],
    loss: Callable[..., Any],
    measure: Callable[..., Any],
    *,
    examples: int,
    epochs: int,
) -> Task:
    """Build the task of a Config that trains on random batches of examples.

    An epoch is `steps_per_epoch` steps, and a Program of it evaluates after each epoch.

    Args:
      config: sizes of batches, optimizer, average and loss scale.
      init: ``key -> params``.
      loss: ``(params, batch, key, hparams) -> (scalar, metrics)``.
      measure: ``(params, batch, hparams) -> metrics``.
      examples: of the training split.
      epochs: of the whole training.
    """
    steps = minibatch.steps_per_epoch(examples, config.batch_size)
    return training.minibatch_task(
        init,
        loss,
        measure,
        optimizer_of(config, epochs, steps),
        batch_size=config.batch_size,
        average_decay=config.average,
        loss_scale=config.loss_scale,
    )


def tbptt_task(
    config: TbpttConfig,
    init: Callable[[Array], Any],
    start: Callable[[Any, int], Any],
    loss: Callable[..., Any],
    measure: Callable[..., Any],
    *,
    tokens: int,
    evaluation_streams: int,
) -> Task:
    """Build the task of a Config that trains on the windows of one long sequence.

    Args:
      config: sizes of windows, optimizer, average and loss scale.
      init: ``key -> params``.
      start: ``(params, streams) -> carry``, the recurrent state before the first token.
      loss: ``(params, batch, key, carry, hparams) -> (scalar, (metrics, carry))``.
      measure: ``(params, batch, carry, hparams) -> (metrics, carry)``.
      tokens: of the training split.
      evaluation_streams: how many streams an evaluation reads side by side.
    """
    steps = tbptt.steps_per_epoch(tokens, config.batch_size, config.window)
    return training.tbptt_task(
        init,
        start,
        loss,
        measure,
        optimizer_of(config, config.epochs, steps),
        streams=config.batch_size,
        window=config.window,
        evaluation_streams=evaluation_streams,
        average_decay=config.average,
        loss_scale=config.loss_scale,
    )
