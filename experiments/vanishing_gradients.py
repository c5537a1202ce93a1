"""Why do gradients through time vanish or explode, and what helps?

A symbol is shown first, then noise; at the end the network is asked for the symbol. Beside what it
learns stands how its gradients travel: at which rate they shrink or grow from the last step to the
first, and how fast small differences between its states do so.

Command: ./launch.sh vanishing_gradients [--cell=lstm] [--activation=relu] [--start=identity]
             [--gain=1.5] [--clip_norm=0] [--length=100]
         ./launch.sh sweep vanishing_gradients --sweep=gain=linear:0.4:1.6:20 --sweep=seed=0:10
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import recurrent
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Program
from experiments.shared.cell_flag import cell_option, make_cell
from experiments.shared.memory import MemoryConfig, memory_program
from experiments.shared.rates import AGAINST, SPECTRAL, has_spectrum, rates
from experiments.shared.remembering import Problem, recall
from experiments.shared.scaled_start import has_recurrent, scaled
from experiments.shared.time_scales import time_scales
from experiments.shared.traveling import exhibits
from recurrent.training.task import HParams

STARTS = {"orthogonal": "orthogonal", "identity": "identity", "gaussian": "lecun_normal"}
ACTIVATIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "linear": lambda z: z,
}


@dataclasses.dataclass(frozen=True)
class Config(MemoryConfig):
    """Hold the fields of this experiment."""

    cell: str = cell_option("elman", "; it must not look ahead, and have a step")
    activation: str = option("tanh", "of --cell=elman", choices=tuple(ACTIVATIONS))
    start: str = option(
        "orthogonal",
        "the first recurrent weights of an elman, lstm or gru: orthogonal, the identity, or normal "
        "of variance 1/H",
        choices=tuple(STARTS),
    )
    gain: float = option(
        1.0, "factor of the first recurrent weights", traced=True, minimum=0, maximum=100
    )
    length: int = 50
    hidden_size: int = 32
    chrono: bool = False
    epochs: int = 20
    learning_rate: float = 1e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes.

    Raises:
      UserError: for a gain of recurrent weights that the cell does not have.
    """
    problem = recall(config.length)
    cell = cell_of(config, problem)
    features = recurrent.output_shape(cell)[-1]
    network = recurrent.stack(cell, recurrent.dense(features, problem.outputs))
    if not has_recurrent(network.init) and config.gain != 1:
        raise UserError(
            f"--gain: the cell {config.cell} has no weights of the name recurrent/kernel; leave it "
            "at 1, or choose a cell such as elman."
        )
    made = memory_program(config, problem, network, lambda finished: iter(()), partial(rates, cell))

    def init(hparams: HParams) -> Any:
        state = made.task.init(hparams)
        grown = partial(scaled, gain=hparams["gain"])
        return state._replace(params=grown(state.params), average=grown(state.average))

    return made._replace(
        task=made.task._replace(init=init),
        exhibits=partial(exhibits, problem, cell, lambda hparams: init(hparams).params),
        against=[*AGAINST, *(SPECTRAL if has_spectrum(cell) else [])],
    )


def cell_of(config: Config, problem: Problem) -> recurrent.Cell:
    """Return the cell.

    Raises:
      UserError: for one that takes no such start, activation, or looks ahead.
    """
    options = time_scales(config.cell, problem.steps) if config.chrono else {}
    if config.activation != "tanh":
        options |= {"activation": ACTIVATIONS[config.activation]}
    if config.start != "orthogonal":
        options |= {"recurrent_init": STARTS[config.start]}
    sizes = problem.inputs, config.hidden_size
    return make_cell(config.cell, *sizes, causal=problem.steps, **options)
