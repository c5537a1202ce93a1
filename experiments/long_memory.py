"""Which recurrent network still knows, after thousands of steps, what it read in the beginning?

Command: ./launch.sh long_memory [--problem=adding|copy] [--length=600] [--cell=lru --blocks=2]
         ./launch.sh sweep long_memory --sweep=cell=elman,lstm,gru,lem,orthogonal_rnn
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import recurrent
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.shared.blocks import block, deep
from experiments.shared.cell_flag import cell_option, make_cell
from experiments.shared.remembered import exhibits
from experiments.shared.remembering import PROBLEMS, Problem, drawn, numbered
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from experiments.shared.time_scales import time_scales
from recurrent.training.task import HParams, Metric, Metrics

LOSS = Metric("loss", higher_is_better=False)
RIGHT = Metric("right", higher_is_better=True, format="{:.2%}")
HELD_OUT = {"valid": 500, "test": 2000}  # sequences


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the fields of this experiment."""

    problem: str = option(
        "adding", "add the two marked numbers, or copy ten symbols", choices=PROBLEMS
    )
    length: int = option(200, "T, steps from the first to the last", minimum=3, maximum=10**6)
    examples: int = option(5000, "sequences an epoch, each drawn anew", minimum=1, maximum=10**8)
    cell: str = cell_option("gru", "; it must not look ahead")
    hidden_size: int = option(64, "H, the size of the hidden state", minimum=1, maximum=10**5)
    blocks: int = option(
        0,
        "residual blocks of norm, cell and gated perceptron, as linear cells need; 0 takes the "
        "cell alone",
        minimum=0,
        maximum=100,
    )
    chrono: bool = option(
        True,
        "whether the memory spans T steps before training, by the gates' biases (Tallec & Ollivier "
        "2018), radii, step sizes or the window, where the cell has such",
    )
    epochs: int = 50
    batch_size: int = 50
    learning_rate: float = 3e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    problem = PROBLEMS[config.problem](config.length)
    network = network_of(config, problem)

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        fresh = jax.random.split(key, len(batch["number"]))
        found = judged(problem, network, params, drawn(problem, fresh), batch["mask"])
        return found["loss"].mean, found

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        sequences = numbered(problem, batch["number"])
        return judged(problem, network, params, sequences, batch["mask"])

    return minibatch_program(
        config,
        numbers(config.examples),
        network.init,
        measure,
        LOSS,
        report=RIGHT,
        loss=loss,
        exhibits=partial(exhibits, problem, network, config.problem),
    )


def network_of(config: Config, problem: Problem) -> recurrent.Cell:
    """Return the network, from sequences ``[T, B, D]`` to outputs ``[T, B, O]``.

    Raises:
      UserError: for a cell that looks ahead, or that blocks cannot be made of.
    """
    options = time_scales(config.cell, problem.steps) if config.chrono else {}
    sizes = problem.inputs, config.hidden_size
    cell = make_cell(config.cell, *sizes, causal=problem.steps, **options)
    if config.blocks:
        one = block(config.cell, config.hidden_size, options)
        cell = deep(problem.inputs, [one] * config.blocks)
    return recurrent.stack(cell, recurrent.dense(recurrent.output_shape(cell)[-1], problem.outputs))


def judged(
    problem: Problem, network: recurrent.Cell, params: Any, sequences: Any, mask: Array
) -> Metrics:
    """Return what the answers to sequences are worth."""
    xs, targets = sequences
    return problem.judge(recurrent.unroll(network, params, xs)[1], targets, mask)


def numbers(examples: int) -> dict[str, Any]:
    """Return the numbers of sequences by split; those of training only count them."""
    counts = {"train": examples} | HELD_OUT
    starts = {"train": 0, "valid": 0, "test": HELD_OUT["valid"]}
    return {
        name: {"number": jnp.arange(starts[name], starts[name] + count)}
        for name, count in counts.items()
    }
