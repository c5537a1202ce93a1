"""Does a small recurrent network remember the first number of a sequence?

Command: ./launch.sh idea.py [--cell=gru] [--learning_rate=0.01]
         ./launch.sh guess runs/idea/default --sequence=0.5,-1.2,0.3
         ./launch.sh sweep idea.py --sweep=learning_rate=log:1e-3:1e-1:4 --sweep=seed=0:4
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

import recurrent
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.harness.runs import Command, Run
from experiments.shared import cell_flag
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.losses import masked_average
from recurrent.training import Metric


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the flags of this experiment: those of training on batches, and its own."""

    cell: str = cell_flag.cell_option("lstm")
    hidden_size: int = option(32, "H, the size of the hidden state", minimum=1)
    length: int = option(20, "T, steps of a sequence", minimum=1)
    learning_rate: float = 0.01


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes: its data, its model and its loss."""
    model = model_of(config)

    def measure(params: Any, batch: Any, hparams: Any) -> Any:
        xs = batch["xs"].T[:, :, None]  # [T, B, 1]
        _, ys = recurrent.unroll(model, params, xs)  # [T, B, 1]
        # For several lengths: unroll(..., lengths=lengths), recurrent.last_output(ys, lengths).
        return {"error": masked_average((ys[-1, :, 0] - batch["xs"][:, 0]) ** 2, batch["mask"])}

    splits = ("train", "valid", "test")
    data = {name: examples(seed, config.length) for seed, name in enumerate(splits)}
    error = Metric("error", higher_is_better=False)  # what is minimized, and chooses the weights
    return minibatch_program(config, data, model.init, measure, error)


def model_of(config: Config) -> recurrent.Cell:
    """Return the network, from sequences ``[T, B, 1]`` to a guess after each step."""
    cell = cell_flag.make_cell(config.cell, 1, config.hidden_size)
    head = recurrent.dense(recurrent.output_shape(cell)[-1], 1)
    return recurrent.stack(cell, head, input_shape=(1,))


def examples(seed: int, length: int) -> dict[str, np.ndarray]:
    """Draw 1,024 sequences ``[N, T]``, the same for the same seed."""
    return {"xs": np.random.default_rng(seed).normal(size=(1024, length)).astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Guess:
    """Hold the flags of ``./launch.sh guess RUN_DIRECTORY``."""

    sequence: str = option("0.5,-1.2,0.3", "its numbers, separated by commas")


def guess(run: Run, flags: Guess) -> Iterator[str]:
    """Say what a trained network remembers of the first number of a sequence."""
    xs = np.array([float(word) for word in flags.sequence.split(",")], np.float32)
    _, ys = recurrent.unroll(model_of(run.config), run.kept, xs[:, None, None])
    yield f"{float(ys[-1, 0, 0]):.4f}"


commands = {"guess": Command(Guess, guess, "name the first number of a sequence")}
