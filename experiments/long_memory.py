"""Which recurrent network remembers, thousands of steps later, what it read first?

Command: ./launch.sh long_memory [--problem=adding|copy|recall] [--length=600] [--cell=lru]
             [--blocks=2]
         ./launch.sh sweep long_memory --sweep=cell=elman,lstm,gru,lem,orthogonal_rnn
"""

import dataclasses
from functools import partial

import recurrent
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.shared.blocks import block, deep
from experiments.shared.cell_flag import cell_option, make_cell
from experiments.shared.memory import MemoryConfig, memory_program
from experiments.shared.remembered import exhibits
from experiments.shared.remembering import PROBLEMS, Problem
from experiments.shared.time_scales import time_scales


@dataclasses.dataclass(frozen=True)
class Config(MemoryConfig):
    """Hold the fields of this experiment."""

    problem: str = option(
        "adding",
        "add the two marked numbers, copy ten symbols, or recall the first one",
        choices=PROBLEMS,
    )
    cell: str = cell_option("gru", "; it must not look ahead")
    blocks: int = option(
        0,
        "residual blocks of norm, cell and gated perceptron, as linear cells need; 0 takes the "
        "cell alone",
        minimum=0,
        maximum=100,
    )


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    problem = PROBLEMS[config.problem](config.length)
    network = network_of(config, problem)
    shown = partial(exhibits, problem, network, config.problem, config.batch_size)
    return memory_program(config, problem, network, shown)


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
