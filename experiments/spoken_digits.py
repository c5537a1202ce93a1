"""How well does a network understand spoken digits: of people it has heard, of others, in noise?

Six people say each digit fifty times. Trained with CTC on strings, which are joined anew each time:
on single digits alone, CTC learns to answer in the first frame, and learns it slowly.

Command: ./launch.sh spoken_digits [--split=speaker --held_out=3] [--digits=5] [--snr=10]
         ./launch.sh sweep spoken_digits --split=speaker --sweep=held_out=0,1,2,3,4,5
         ./launch.sh predict RUN_DIRECTORY --wav=FILE [--beam=10]
         ./launch.sh explain RUN_DIRECTORY [--index=N | --wav=FILE]
"""

import dataclasses
from functools import partial
from typing import Any

from jax import Array, random

from experiments.data.recordings import load_recordings
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.shared import spoken, transcribing
from experiments.shared.cell_flag import cell_option
from experiments.shared.explain_sound import explain_sound
from experiments.shared.idle_flags import check_idle
from experiments.shared.listening import exhibits, listen_command
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from experiments.shared.transcribing import EXACT, LOSS, Transcriber
from recurrent.training.task import HParams, Metrics

CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Config(spoken.SoundConfig, MinibatchConfig):
    """Hold the fields of this experiment."""

    split: str = option(
        "official",
        "what is held back for the test: the first five recordings of each digit by each speaker "
        "(official), or all of one speaker (speaker)",
        choices=("official", "speaker"),
    )
    held_out: int = option(
        0,
        "with --split=speaker, who is held back: george, jackson, lucas, nicolas, theo, yweweler",
        traced=True,
        minimum=0,
        maximum=5,
    )
    validate_on: str = option(
        "heard",
        "with --split=speaker, who decides which weights are kept: those who are trained on, by "
        "further recordings, or who comes after the one held back, and is not trained on then",
        choices=("heard", "unheard"),
    )
    digits: int = option(1, "of the longest string in evaluation", minimum=1, maximum=20)
    joined: int = option(3, "of the longest string in training, if more", minimum=1, maximum=20)
    split_seed: int = option(0, "decides which recordings are joined", minimum=0)
    cell: str = cell_option("lstm", ", which reads the frames in both directions")
    hidden_size: int = option(96, "H, of each direction", minimum=1, maximum=10**5)
    channels: int = option(16, "of the first convolution; each next has twice as many", minimum=1)
    dropout: float = option(0.2, "share of features dropped", traced=True, minimum=0, below=1)
    epochs: int = 20
    batch_size: int = 16
    average: float = 0.99
    learning_rate: float = 2e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    if config.split != "speaker":
        check_idle(config, dict.fromkeys(("held_out", "validate_on"), "--split=speaker"))
    found = load_recordings()
    if config.split == "speaker":
        spoken.check_people(found.names)
    data, speakers = spoken.splits_of(
        found, config.split, config.digits, config.split_seed, config.validate_on
    )
    model, longest = model_of(config), max(config.digits, config.joined)

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        joining, distorting, dropping = random.split(key, 3)
        batch = spoken.joined_anew(joining, batch, longest)
        strips = spoken.distorted(distorting, batch, hparams)
        found = judged(params, batch, strips, hparams, hparams["dropout"], dropping)
        return found["loss"].mean, found

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        return judged(params, batch, spoken.heard(batch, hparams["snr"]), hparams)

    def judged(
        params: Any, batch: Any, strips: Any, hparams: HParams, dropout: Any = 0.0, key: Any = None
    ) -> Metrics:
        features, widths = strips
        logits, frames = transcribing.frame_logits(model, params, features, widths, dropout, key)
        mask = spoken.counted(batch, hparams)
        return transcribing.metrics(logits, frames, batch["classes"], batch["counts"], mask)

    return minibatch_program(
        *(config, data, partial(transcribing.init, model, spoken.BANDS), measure, LOSS),
        loss=loss,
        report=EXACT,
        exhibits=partial(exhibits, model, data["test"], speakers, found.names),
        buckets=spoken.buckets_of(data),
    )


def model_of(config: Config) -> Transcriber:
    """Return the network."""
    channels = config.channels, 2 * config.channels, 4 * config.channels
    return transcribing.transcriber(config.cell, config.hidden_size, CLASSES, channels)


commands = {"predict": listen_command(model_of), "explain": explain_sound(model_of)}
