"""Where does a network keep bits: at which points of its state space, and what lies between them?

Short pulses come on several lines, and the outputs hold the sign of the last pulse of each. After
training, the states that the cell leaves alone under no input are found: stable ones, which hold
the bits, and saddles, over which a pulse must push the state.

Command: ./launch.sh flip_flop [--cell=elman] [--bits=4]
         ./launch.sh fixed_points RUN_DIRECTORY
"""

import dataclasses
from functools import partial

import recurrent
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.shared.cell_flag import cell_option, make_cell
from experiments.shared.fixed_points import Study, check_state, exhibits, fixed_points_command
from experiments.shared.flipping import flip_flop
from experiments.shared.memory import MemoryConfig, memory_program
from experiments.shared.time_scales import time_scales


@dataclasses.dataclass(frozen=True)
class Config(MemoryConfig):
    """Hold the fields of this experiment."""

    bits: int = option(3, "lines of pulses, each of which is a bit to hold", minimum=1, maximum=6)
    cell: str = cell_option(
        "gru", "; it must not look ahead, and its state must be numbers of which Jacobians exist"
    )
    length: int = 50
    hidden_size: int = 24
    chrono: bool = False
    examples: int = 6400
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-2


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes.

    Raises:
      UserError: for a cell that looks ahead, or whose state is not of floating-point numbers.
    """
    study = study_of(config)
    check_state(config.cell, study.cell)
    return memory_program(config, study.problem, study.network, partial(exhibits, study))


def study_of(config: Config) -> Study:
    """Return the problem, the cell, and the network that reads its outputs out.

    Raises:
      UserError: for a cell that looks ahead.
    """
    problem = flip_flop(config.bits, config.length)
    options = time_scales(config.cell, config.length) if config.chrono else {}
    sizes = problem.inputs, config.hidden_size
    cell = make_cell(config.cell, *sizes, causal=config.length, **options)
    features = recurrent.output_shape(cell)[-1]
    return Study(problem, cell, recurrent.stack(cell, recurrent.dense(features, problem.outputs)))


commands = {"fixed_points": fixed_points_command(study_of)}
