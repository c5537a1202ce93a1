"""How well does a network learn to pronounce English words from their letters?

Command: ./launch.sh pronunciations [--split=stems] [--stress] [--cell=gru] [--attention=last]
         ./launch.sh evaluate RUN_DIRECTORY --beam=5
         ./launch.sh predict RUN_DIRECTORY --word=recurrent
         ./launch.sh explain RUN_DIRECTORY --text=recurrent [--step=2]
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from experiments.data.pronunciations import SPLITS, Dictionary, Entry, load_dictionary, splits_of
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.harness.runs import Command, Run
from experiments.shared.explain_translation import explain_translation
from experiments.shared.translating import Languages, TranslatorConfig, parts_of
from experiments.shared.translations import Called, evaluate_command, translate, translation_program


@dataclasses.dataclass(frozen=True)
class Config(TranslatorConfig):
    """Hold the fields of this experiment."""

    split: str = option(
        "random",
        "how the words of the test are chosen: each by itself, or all words of a stem together",
        choices=SPLITS,
    )
    stress: bool = option(False, "whether vowels have the digit of their stress")
    split_seed: int = option(0, "decides which words are held out", minimum=0)
    layers: int = 2
    query: str = "first"
    direct: bool = True
    attention: str = "multiplicative"
    hidden_size: int = 256
    embedding_size: int = 128
    dropout: float = 0.15
    average: float = 0.999
    epochs: int = 5
    batch_size: int = 128
    learning_rate: float = 2e-3


def splits_in(dictionary: Dictionary, config: Config) -> dict[str, list[Entry]]:
    """Return the entries of each split."""
    return splits_of(dictionary.entries, config.split, config.split_seed)


def parts(config: Config) -> tuple[Languages, dict[str, dict[str, np.ndarray]]]:
    """Return the letters, the phones, and the splits as arrays."""
    return parts_of(splits_in(load_dictionary(config.stress), config))


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    dictionary = load_dictionary(config.stress)
    languages, data = parts_of(splits_in(dictionary, config))
    return translation_program(config, languages, data, dictionary.said, Called("word", "phone"))


@dataclasses.dataclass(frozen=True)
class Predict:
    """Hold the flags of ``./launch.sh predict``."""

    word: str = option("", "a word, such as recurrent; capitals are read as small letters")
    beam: int = option(5, "sequences kept at each phone; 1 is greedy", minimum=1, maximum=1000)


def predict(run: Run, flags: Predict) -> Iterator[str]:
    """Write the phones of a word."""
    languages, _ = parts(run.config)
    yield " ".join(translate(run, languages, [*flags.word.lower()], "--word", flags.beam))


commands = {
    "evaluate": evaluate_command(parts),
    "predict": Command(Predict, predict, "write the phones of a word"),
    "explain": explain_translation(parts, list),
}
