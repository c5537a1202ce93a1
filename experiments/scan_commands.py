"""Does a network that has learned commands carry out those that are new: recombined, or longer?

Command: ./launch.sh scan_commands [--split=simple|random|length|jump] [--primitives=100]
             [--attention=last] [--noends]
         ./launch.sh evaluate RUN_DIRECTORY --beam=5
         ./launch.sh predict RUN_DIRECTORY --command="walk left twice after jump"
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.data.scan import SPLITS, load_scan
from experiments.data.vocabulary import vocabulary_of
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.harness.runs import Command, Run
from experiments.shared.translating import (
    Languages,
    TranslatorConfig,
    arrays_of,
    translation_program,
)
from experiments.shared.translations import evaluate_command, exhibits, translate


@dataclasses.dataclass(frozen=True)
class Config(TranslatorConfig):
    """Hold the fields of this experiment."""

    split: str = option(
        "simple",
        "what is held back for the test: commands drawn at random, as published (simple) or anew "
        "(random, which needs no files), the longest (length), or all with jump but itself (jump)",
        choices=SPLITS,
    )
    primitives: int = option(
        0,
        "further verbs in the training commands, as in Patel et al. 2022",
        minimum=0,
        maximum=1000,
    )
    split_seed: int = option(0, "decides what is drawn of the data", minimum=0)
    epochs: int = 30
    learning_rate: float = 2e-3


def parts(config: Config) -> tuple[Languages, dict[str, dict[str, np.ndarray]]]:
    """Return the vocabularies, and the splits as arrays."""
    pairs = load_scan(config.split, config.primitives, config.split_seed)
    every = [pair for split in pairs.values() for pair in split]
    languages = Languages(
        vocabulary_of(pair.command for pair in every),
        vocabulary_of(pair.actions for pair in every),
        1 + max(len(pair.command) for pair in every),
        1 + max(len(pair.actions) for pair in every),
    )
    return languages, {name: arrays_of(split, languages) for name, split in pairs.items()}


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    languages, data = parts(config)

    def shown(finished: Any) -> Any:
        return exhibits(config, languages, data, finished)

    return translation_program(config, languages, data, exhibits=shown)


@dataclasses.dataclass(frozen=True)
class Predict:
    """Hold the flags of ``./launch.sh predict``."""

    command: str = option("", "a command, such as 'jump around left twice after walk'")
    beam: int = option(1, "sequences kept at each word; 1 is greedy", minimum=1, maximum=1000)


def predict(run: Run, flags: Predict) -> Iterator[str]:
    """Write the actions of a command."""
    languages, _ = parts(run.config)
    yield " ".join(
        translate(run, languages, flags.command.lower().split(), "--command", flags.beam)
    )


commands = {
    "evaluate": evaluate_command(parts),
    "predict": Command(Predict, predict, "write the actions of a command"),
}
