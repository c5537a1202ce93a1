"""Does a small recurrent network remember the first number of a sequence?

Command: ./launch.sh idea.py [--cell=gru] [--learning_rate=0.01]
         ./launch.sh sweep idea.py --sweep=learning_rate=log:1e-3:1e-1:4 --sweep=seed=0:4
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import Array

import recurrent
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.shared import cell_flag
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.losses import masked_average
from recurrent.training import Metric


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the flags of this experiment: those of training on batches, and its own."""

    cell: str = option("lstm", cell_flag.help_text(), check=cell_flag.cell_factory, file=True)
    hidden_size: int = option(32, "H, the size of the hidden state", minimum=1)
    length: int = option(20, "T, steps of a sequence", minimum=1)
    learning_rate: float = 0.01


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes: its data, its model and its loss."""
    cell = cell_flag.make_cell(config.cell, 1, config.hidden_size)
    head = recurrent.dense(recurrent.output_shape(cell)[-1], 1)

    def init(key: Array) -> Any:
        cell_key, head_key = jax.random.split(key)
        return {"cell": cell.init(cell_key), "head": head.init(head_key)}

    def measure(params: Any, batch: Any, hparams: Any) -> Any:
        xs = batch["xs"].T[:, :, None]  # [T, B, 1]
        _, ys = recurrent.unroll(cell, params["cell"], xs)
        guess = head.apply(params["head"], ys[-1])[:, 0]  # [B]
        return {"error": masked_average((guess - batch["xs"][:, 0]) ** 2, batch["mask"])}

    splits = ("train", "valid", "test")
    data = {name: examples(seed, config.length) for seed, name in enumerate(splits)}
    error = Metric("error", higher_is_better=False)  # what is minimized, and chooses the weights
    return minibatch_program(config, data, init, measure, error)


def examples(seed: int, length: int) -> dict[str, np.ndarray]:
    """Draw 1,024 sequences ``[N, T]``, the same for the same seed."""
    return {"xs": np.random.default_rng(seed).normal(size=(1024, length)).astype(np.float32)}
