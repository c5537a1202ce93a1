"""Train: tasks, the parts of a step, optimizers, minibatches, long sequences and populations."""

from recurrent.training import dynamic, minibatch, optimizers, population, step, task, tbptt
from recurrent.training.minibatch import minibatch_task
from recurrent.training.optimizers import optimizer
from recurrent.training.step import (
    LossScale,
    TrainState,
    apply_gradients,
    gradients,
    init_state,
    log_layers,
    step_key,
    train_step,
    where_applied,
)
from recurrent.training.task import Metric, Task
from recurrent.training.tbptt import tbptt_task

__all__ = [
    "LossScale",
    "Metric",
    "Task",
    "TrainState",
    "apply_gradients",
    "dynamic",
    "gradients",
    "init_state",
    "log_layers",
    "minibatch",
    "minibatch_task",
    "optimizer",
    "optimizers",
    "population",
    "step",
    "step_key",
    "task",
    "tbptt",
    "tbptt_task",
    "train_step",
    "where_applied",
]
