"""The optimiser that a Config asks for."""

import math
from collections.abc import Callable

import optax

from experiments.harness.config import TrainingConfig
from experiments.harness.errors import UserError
from experiments.harness.program import Numbers
from recurrent.training import optimizers


def optimizer_of(
    config: TrainingConfig, epochs: int, steps_per_epoch: int
) -> Callable[[Numbers], optax.GradientTransformation]:
    """``numbers -> optimiser``, to be called inside the compiled program.

    Args:
      config: its static fields: optimizer, schedule, warmup_epochs and accumulate.
      epochs: of the training.
      steps_per_epoch: batches in an epoch.

    Raises:
      UserError: where the whole training has fewer batches than one update takes.
    """
    if config.accumulate > epochs * steps_per_epoch:
        raise UserError(
            f"--accumulate: the whole training has {epochs * steps_per_epoch} batches, fewer than "
            f"the {config.accumulate} of one update."
        )
    updates = math.ceil(epochs * steps_per_epoch / config.accumulate)
    warmup = round(config.warmup_epochs * steps_per_epoch / config.accumulate)

    def build(numbers: Numbers) -> optax.GradientTransformation:
        made = optimizers.optimizer(
            config.optimizer,
            numbers["learning_rate"],
            momentum=numbers["momentum"],
            weight_decay=numbers["weight_decay"],
            l1=numbers["l1"],
            clip_norm=numbers["clip_norm"],
            schedule=config.schedule,
            warmup_steps=min(warmup, updates // 2),
            total_steps=updates,
        )
        if config.accumulate == 1:
            return made
        return optax.MultiSteps(made, config.accumulate).gradient_transformation()

    return build
