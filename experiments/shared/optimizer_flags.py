"""Build the optimizer that flags ask for."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import optax

from experiments.harness.config import option
from experiments.harness.errors import UserError
from recurrent.training import optimizers
from recurrent.training.task import HParams


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Hold the fields of one optimizer; `config.prefixed` gives a second one its own flags."""

    optimizer: str = option("adamw", "the optimizer", choices=optimizers.OPTIMIZERS)
    learning_rate: float = option(1e-3, "the peak learning rate", traced=True, above=0)
    schedule: str = option(
        "cosine", "the learning rate after warm-up", choices=optimizers.SCHEDULES
    )
    warmup_epochs: float = option(
        1.0,
        "epochs of linear warm-up, at most half of the training; where there are no epochs, the "
        "steps between two evaluations count as one",
        minimum=0,
        maximum=10**6,
    )
    momentum: float = option(0.9, "momentum of sgd and rmsprop", traced=True, minimum=0, below=1)
    weight_decay: float = option(
        0.0, "decay of kernels: decoupled in adamw, L2 elsewhere", traced=True, minimum=0
    )
    l1: float = option(
        0.0, "strength of L1 on kernels, added to the gradient", traced=True, minimum=0
    )
    clip_norm: float = option(
        1.0, "the largest global norm of a gradient; 0 never clips", traced=True, minimum=0
    )
    accumulate: int = option(
        1,
        "batches averaged per update; an incomplete last group is dropped",
        minimum=1,
        maximum=10**6,
    )


def optimizer_of(
    config: Any, evaluations: int, steps_per_evaluation: int, prefix: str = ""
) -> Callable[[HParams], optax.GradientTransformation]:
    """Return ``hparams -> optimizer``, to be called inside the compiled program.

    Args:
      config: with the fields of `OptimizerConfig`.
      evaluations: of the whole training; epochs, where it has any.
      steps_per_evaluation: batches between two of them.
      prefix: of the fields' names, for a second optimizer.

    Raises:
      UserError: where the whole training has fewer batches than one update takes.
    """

    def field(name: str) -> Any:
        return getattr(config, prefix + name)

    steps, accumulate = evaluations * steps_per_evaluation, field("accumulate")
    if accumulate > steps:
        raise UserError(
            f"--{prefix}accumulate: the whole training has {steps} batches, fewer than the "
            f"{accumulate} of one update."
        )
    updates = math.ceil(steps / accumulate)
    warmup = round(field("warmup_epochs") * steps_per_evaluation / accumulate)

    def build(hparams: HParams) -> optax.GradientTransformation:
        made = optimizers.optimizer(
            field("optimizer"),
            hparams[prefix + "learning_rate"],
            momentum=hparams[prefix + "momentum"],
            weight_decay=hparams[prefix + "weight_decay"],
            l1=hparams[prefix + "l1"],
            clip_norm=hparams[prefix + "clip_norm"],
            schedule=field("schedule"),
            warmup_steps=min(warmup, updates // 2),
            total_steps=updates,
        )
        if accumulate == 1:
            return made
        return optax.MultiSteps(made, accumulate).gradient_transformation()

    return build
