"""Training: the task, the step, optimizers, populations and truncated backpropagation."""

from recurrent.training import optimizers, population, step, task, tbptt

__all__ = ["optimizers", "population", "step", "task", "tbptt"]
