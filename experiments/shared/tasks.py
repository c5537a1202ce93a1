"""Build tasks from a Config: what its flags say is seen to here, not in the experiments."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from experiments.harness.config import RunConfig, option
from experiments.harness.errors import UserError
from experiments.harness.program import Exhibit, Finished, Program, no_exhibits
from experiments.harness.runs import config_of, weights_of
from experiments.shared.optimizer_flags import OptimizerConfig, learning_rate_of, optimizer_of
from experiments.shared.returned import check_metrics, checked_loss, checked_measure, try_loss
from recurrent import training
from recurrent.losses import Average
from recurrent.training import TrainState, minibatch, tbptt
from recurrent.training.bucketing import Buckets
from recurrent.training.task import HParams, Metric, Metrics, Task


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
    init_from: str = option(
        "", "run directory whose best weights the training starts from", file=True
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


def started(config: MinibatchConfig, init: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Return ``key -> params``, those of another run where ``--init_from`` names one.

    Raises:
      UserError: where that run has no weights, or weights of other shapes.
    """
    if not config.init_from:
        return init
    weights = weights_of(config.init_from, jax.eval_shape(init, jax.random.key(0)))
    say_other_cell(config)
    return lambda key: weights


def say_other_cell(config: MinibatchConfig) -> None:
    """Warn where the weights of ``--init_from`` are those of another cell, whose shapes fit."""
    cell = getattr(config, "cell", None)
    trained = config_of(config.init_from).get("cell", cell)
    if trained != cell:
        print(
            f"warning: --init_from: the weights are those of --cell={trained}, here it is {cell}.",
            file=sys.stderr,
        )


def minibatch_task(
    config: MinibatchConfig,
    init: Callable[[Array], Any],
    loss: Callable[..., Any],
    measure: Callable[..., Any],
    *,
    examples: int,
    epochs: int,
    buckets: Buckets | None = None,
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
      buckets: see `recurrent.training.minibatch_task`.
    """
    steps = minibatch.steps_per_epoch(examples, config.batch_size)
    task = training.minibatch_task(
        started(config, init),
        loss,
        measure,
        optimizer_of(config, epochs, steps),
        batch_size=config.batch_size,
        average_decay=config.average,
        loss_scale=config.loss_scale,
        buckets=buckets,
    )
    return with_learning_rate(task, learning_rate_of(config, epochs, steps))


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
    task = training.tbptt_task(
        started(config, init),
        start,
        checked_loss(loss, carries=True),
        checked_measure(measure, carries=True),
        optimizer_of(config, config.epochs, steps),
        streams=config.batch_size,
        window=config.window,
        evaluation_streams=evaluation_streams,
        average_decay=config.average,
        loss_scale=config.loss_scale,
    )
    return with_learning_rate(task, learning_rate_of(config, config.epochs, steps))


def with_learning_rate(task: Task, learning_rate: Callable[[HParams, Any], Any]) -> Task:
    """Add the metric ``"learning_rate"`` to the training of a task; nothing trains otherwise.

    Args:
      task: whose state is a `TrainState`.
      learning_rate: ``(hparams, step) -> rate``.
    """

    def train(state: TrainState, hparams: HParams, data: Any, steps: int) -> Any:
        rates = jax.vmap(functools.partial(learning_rate, hparams))(state.step + jnp.arange(steps))
        mean = Average(rates.sum(), jnp.float32(steps))
        state, metrics = task.train(state, hparams, data, steps)
        return state, {"learning_rate": mean} | metrics

    return task._replace(train=train)


def check_splits(data: Any) -> None:
    """Raise `UserError` where splits are missing or empty, or their arrays do not fit together."""
    for split in ("train", "valid", "test"):
        if not isinstance(data, dict) or split not in data:
            raise UserError(f"data: expected the splits train, valid and test; {split} is missing.")
        arrays = data[split]
        if not isinstance(arrays, dict) or not arrays:
            raise UserError(f"data: expected {split} to be a dict of arrays [examples, ...].")
        if arrays.keys() != data["train"].keys():
            names = f"{', '.join(arrays)}, but train has {', '.join(data['train'])}"
            raise UserError(f"data: {split} has {names}; give all splits the same arrays.")
        counts = {name: check_array(split, name, array) for name, array in arrays.items()}
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise UserError(f"data: in {split}, {said} examples; they must be as many.")


def check_array(split: str, name: str, array: Any) -> int:
    """Return the number of examples of an array of numbers.

    Raises:
      UserError: where it is none.
    """
    kind = getattr(getattr(array, "dtype", None), "kind", "")
    if kind not in "biufcV" or not kind or not array.ndim or not array.shape[0]:
        raise UserError(
            f"data: expected {name!r} of {split} to be an array of numbers with one example or "
            f"more, got {type(array).__name__} {getattr(array, 'shape', '')}."
        )
    return array.shape[0]


def minibatch_program(
    config: MinibatchConfig,
    data: dict[str, Any],
    init: Callable[[Array], Any],
    measure: Callable[..., Metrics],
    select: Metric,
    *,
    loss: Callable[..., Any] | None = None,
    report: Metric | None = None,
    exhibits: Callable[[Finished], Iterator[Exhibit]] = no_exhibits,
    buckets: Buckets | None = None,
    epochs: int = 0,
) -> Program:
    """Return the Program that trains on random batches and is evaluated after each epoch.

    Args:
      config: with the number of epochs, and what `minibatch_task` takes from it.
      data: the splits ``"train"``, ``"valid"`` and ``"test"``, each a dict of arrays
        ``[examples, ...]``.
      init: ``key -> params``.
      measure: ``(params, batch, hparams) -> metrics``; ``batch`` has a few examples of the data,
        and a ``"mask"`` that is false where a last batch is filled up.
      select: the metric that chooses what is kept.
      loss: ``(params, batch, key, hparams) -> (scalar, metrics)``; by default the mean of the
        selecting metric, which is then minimized, or maximized if it is better when higher.
      report: the metric that people read, by default the selecting one.
      exhibits: of the report.
      buckets: where given, examples of like length share a batch, cut to one of a few sizes; see
        `recurrent.training.bucketing`.
      epochs: of the whole training; 0 takes those of the Config.

    Raises:
      UserError: for splits that are missing or empty, or whose arrays do not fit together, for
        functions that take other arguments, and a loss that returns something else. So does, while
        it is traced, a ``measure`` that does.
    """
    check_metrics([select, report or select])
    measure = checked_measure(measure, [select, report or select])

    def own_loss(params: Any, batch: Any, key: Array, hparams: HParams) -> Any:
        metrics = measure(params, batch, hparams)
        mean = metrics[select.name].mean
        return -mean if select.higher_is_better else mean, metrics

    check_splits(data)
    if loss is not None:
        loss = checked_loss(loss)
        try_loss(loss, init, data["train"], config)
    examples, epochs = minibatch.example_count(data["train"]), epochs or config.epochs
    return Program(
        task=minibatch_task(
            config,
            init,
            loss or own_loss,
            measure,
            examples=examples,
            epochs=epochs,
            buckets=buckets,
        ),
        data=data,
        evaluations=epochs,
        steps_per_evaluation=minibatch.steps_per_epoch(examples, config.batch_size),
        select=select,
        report=report or select,
        exhibits=exhibits,
    )
