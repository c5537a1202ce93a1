"""Does a network that has learned commands carry out those that are new: recombined, or longer?

Command: ./launch.sh scan_commands [--split=simple|random|length|jump] [--primitives=100]
             [--held_back=longest] [--attention=last] [--noends]
         ./launch.sh evaluate RUN_DIRECTORY --beam=5
         ./launch.sh predict RUN_DIRECTORY --command="walk left twice after jump"
         ./launch.sh explain RUN_DIRECTORY --text="walk left twice" [--step=2]
"""

import dataclasses
from collections.abc import Iterator
from functools import partial

import numpy as np

from experiments.data.scan import HELD_BACK, SPLITS, Pair, load_scan, said_of, verdict
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.harness.runs import Command, Run
from experiments.shared.explain_translation import explain_translation
from experiments.shared.idle_flags import check_idle
from experiments.shared.translating import Languages, TranslatorConfig, parts_of
from experiments.shared.translations import Called, evaluate_command, translate, translation_program


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
        "further verbs in the training commands, each as often as theirs, as in Patel et al. 2022; "
        "with --split=jump one of them stands alone, and what it comes to chooses",
        minimum=0,
        maximum=1000,
    )
    held_back: str = option(
        "random",
        "the training commands to choose by: drawn at random, or the longest, of 21 actions and "
        "more, which tell more of --split=length",
        choices=HELD_BACK,
    )
    split_seed: int = option(0, "decides what is drawn of the data", minimum=0)
    layers: int = 2
    query: str = "first"
    attention: str = "multiplicative"
    dropout: float = 0.1
    average: float = 0.995
    epochs: int = 30
    learning_rate: float = 4e-3


def splits_of(config: Config) -> dict[str, list[Pair]]:
    """Return the examples of each split.

    Raises:
      UserError: for commands to hold back where one of the further verbs is.
    """
    if config.split == "jump" and config.primitives:
        check_idle(config, {"held_back": "another --split, or no --primitives"})
    return load_scan(config.split, config.primitives, config.split_seed, config.held_back)


def parts(config: Config) -> tuple[Languages, dict[str, dict[str, np.ndarray]]]:
    """Return the vocabularies, and the splits as arrays."""
    return parts_of(splits_of(config))


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    splits = splits_of(config)
    said = partial(said_of, splits)
    return translation_program(config, *parts_of(splits), said, Called("command", "action"))


@dataclasses.dataclass(frozen=True)
class Predict:
    """Hold the flags of ``./launch.sh predict``."""

    command: str = option("", "a command, such as 'jump around left twice after walk'")
    beam: int = option(1, "sequences kept at each word; 1 is greedy", minimum=1, maximum=1000)


def predict(run: Run, flags: Predict) -> Iterator[str]:
    """Write the actions of a command, and whether they are right."""
    languages, _ = parts(run.config)
    command = flags.command.lower().split()
    actions = translate(run, languages, command, "--command", flags.beam)
    yield f"{' '.join(actions)}\n{verdict(command, actions)}"


commands = {
    "evaluate": evaluate_command(parts),
    "predict": Command(Predict, predict, "write the actions of a command"),
    "explain": explain_translation(parts, str.split),
}
