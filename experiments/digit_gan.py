"""Do two networks that play against each other learn to draw handwritten digits?

Command: ./launch.sh digit_gan [--conditional] [--classifier=RUN_OF_IMAGE_CNN] [--data=digits]
         ./launch.sh digit_gan --generator=rows [--cell=lstm] [--nofeedback]
         ./launch.sh sample RUN_DIRECTORY --count=100 [--digit=7] --output=digits.png
"""

import dataclasses
from functools import partial
from typing import Any

from experiments.data.images import DATASETS, load_images
from experiments.harness.config import RunConfig, option, prefixed
from experiments.harness.program import Program
from experiments.shared import generators
from experiments.shared.adversaries import LOSSES, Kept, PlayerConfig, game_task
from experiments.shared.cell_flag import cell_option
from experiments.shared.classification import as_arrays
from experiments.shared.drawn_digits import evaluated, exhibits, sample_command
from experiments.shared.idle_flags import check_idle
from experiments.shared.judging import FRECHET, RATIO, JudgedConfig, references
from experiments.shared.optimizer_flags import optimizer_of
from recurrent.training.task import HParams, Metrics

FRAMES = 10  # of the film, at most
DISCRIMINATOR: Any = prefixed(PlayerConfig, "discriminator_")


@dataclasses.dataclass(frozen=True)
class Config(JudgedConfig, DISCRIMINATOR, PlayerConfig, RunConfig):
    """Hold the fields of this experiment; its generator has the optimizer without a prefix."""

    data: str = option("mnist", "the images: scikit-learn's 8x8 or MNIST's 28x28", choices=DATASETS)
    split_seed: int = option(0, "decides which images are held out", minimum=0)
    generator: str = option(
        "conv",
        "what draws: convolutions, or a recurrent cell that writes row by row",
        choices=generators.KINDS,
    )
    cell: str = cell_option("gru", ", of --generator=rows; with --feedback it must not look ahead")
    hidden_size: int = option(256, "H, of that cell", minimum=1, maximum=10**5)
    feedback: bool = option(True, "whether that cell reads the row that it wrote before")
    conditional: bool = option(False, "whether both are told which digit an image is to show")
    noise_size: int = option(64, "normal numbers that an image is drawn from", minimum=1)
    channels: int = option(32, "of the larger images in a convolutional generator", minimum=2)
    features: int = option(512, "of the dense layer that such a one begins with", minimum=1)
    discriminator_channels: int = option(32, "of its first layer", minimum=1)
    discriminator_features: int = option(256, "of its last but one layer, a dense one", minimum=1)
    loss: str = option("nonsaturating", "what both minimize", choices=tuple(LOSSES))
    smooth: str = option(
        "r1",
        "what keeps the discriminator smooth: a penalty on its slope at real images, or kernels "
        "divided by their spectral norms",
        choices=("r1", "spectral"),
    )
    penalty: float = option(1.0, "weight of that slope, in --smooth=r1", traced=True, minimum=0)
    penalty_every: int = option(
        4,
        "steps from one such penalty to the next, each so much the heavier",
        minimum=1,
        maximum=100,
    )
    average: float = option(
        0.998,
        "decay of the running average of the generator's weights, which is evaluated and kept",
        traced=True,
        minimum=0,
        below=1,
    )
    batch_size: int = option(64, "real images in one step, and drawn ones", minimum=1)
    evaluations: int = option(10, "of the whole training", minimum=1, maximum=10**6)
    steps_per_evaluation: int = option(500, "between two of them", minimum=1, maximum=10**6)
    samples: int = option(10_000, "images drawn in an evaluation", minimum=2, maximum=10**6)


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    check_idle(config, generators.idle(config.generator, config.smooth))
    splits = load_images(config.data, config.split_seed)
    players = generators.players_of(config)
    length = config.evaluations, config.steps_per_evaluation
    optimizers = optimizer_of(config, *length), optimizer_of(config, *length, "discriminator_")

    def evaluate(kept: Kept, hparams: HParams, data: Any) -> Metrics:
        return evaluated(players, kept.generator, config.samples, data)

    frames = min(FRAMES, config.evaluations)
    data = {"train": as_arrays(splits.train), **references(config, splits)}
    return Program(
        task=game_task(
            players,
            optimizers,
            evaluate,
            batch_size=config.batch_size,
            frames=frames,
            steps_per_frame=config.evaluations * config.steps_per_evaluation / frames,
        ),
        data=data,
        evaluations=config.evaluations,
        steps_per_evaluation=config.steps_per_evaluation,
        select=FRECHET,
        report=RATIO,
        exhibits=partial(exhibits, players, splits, data["test"], config.samples),
    )


commands = {"sample": sample_command(generators.players_of)}
