"""Train a translating network, show what it gets wrong, and let it write from a run."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.data.vocabulary import END
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Exhibit, Figure, Finished, Program, Table
from experiments.harness.runs import Command, Run
from experiments.shared.data_tables import data_table, padding_table
from experiments.shared.error_rates import aligned, edit_distance, error_rate
from experiments.shared.evaluations import leave_evaluation
from experiments.shared.tasks import minibatch_program
from experiments.shared.translating import (
    EXACT,
    LOSS,
    Languages,
    Written,
    buckets_of,
    encoded,
    ids_of,
    logits_of,
    metrics,
    network_of,
    write,
)
from recurrent.training.task import HParams, Metrics

SHOWN = 25  # of the worst, in the table
DECODED = 5000  # examples of the test split, for the table
STOP = "end"
BEAM = 5  # of evaluate, where none is asked for
MARGIN = 1.5  # how much longer than the longest target a network may write

Sentence = Sequence[str]


class Called(NamedTuple):
    """Hold what a report calls what is written: the whole, and one of its parts."""

    whole: str
    part: str


def translation_program(
    config: Any,
    languages: Languages,
    data: dict[str, dict[str, np.ndarray]],
    said: Callable[[], str],
    called: Called,
) -> Program:
    """Return the Program that trains by teacher forcing, in batches of like lengths.

    Args:
      config: of the run.
      languages: the vocabularies.
      data: the splits.
      said: tells what was read for them and what was left out, as sentences of the report.
      called: what the report calls what is written.
    """
    network = network_of(config, languages)

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> Any:
        trained = network_of(config, languages, hparams["dropout"], key)
        found = metrics(logits_of(trained, params, batch), batch, config.ends)
        return found["loss"].mean, found

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        return metrics(logits_of(network, params, batch), batch, config.ends)

    return minibatch_program(
        config,
        data,
        network.init,
        measure,
        LOSS,
        loss=loss,
        report=EXACT,
        exhibits=functools.partial(exhibits, config, languages, data, said, called),
        buckets=buckets_of(data),
    )


class Example(NamedTuple):
    """Hold a source, all targets that are right, and where in the data it stands first."""

    source: Sentence
    targets: list[Sentence]
    row: int


class Judged(NamedTuple):
    """Hold what was written for an example, the nearest right target, and how far that is."""

    source: Sentence
    found: Sentence
    true: Sentence
    distance: int


def judged(examples: Sequence[Example], written: Written, ends: bool = True) -> list[Judged]:
    """Compare what was written with the nearest of the targets that are right.

    Args:
      examples: N.
      written: for each of them.
      ends: whether the end was written too; if not, what was written is cut to the length of each
        target that it is compared with.
    """
    rows = []
    for example, words in zip(examples, written.words, strict=True):
        cut = [words if ends else words[: len(target)] for target in example.targets]
        distances = [*map(edit_distance, cut, example.targets)]
        best = int(np.argmin(distances))
        rows.append(Judged(example.source, cut[best], example.targets[best], distances[best]))
    return rows


def examples_of(data: dict[str, np.ndarray], languages: Languages) -> list[Example]:
    """Return the examples of a split, those of one source together, in their order."""
    found: dict[tuple[str, ...], Example] = {}
    pairs = zip(data["sources"].tolist(), data["targets"].tolist(), strict=True)
    for row, (source, target) in enumerate(pairs):
        words = tuple(languages.sources.read(source))
        example = found.setdefault(words, Example(words, [], row))
        example.targets.append(languages.targets.read(target))
    return [*found.values()]


def translated(
    config: Any, languages: Languages, params: Any, data: dict[str, Any], beam: int, most: int = 0
) -> list[Judged]:
    """Translate the examples of a split, all or ``most`` of them, and judge each."""
    examples = examples_of(data, languages)
    if most and most < len(examples):
        examples = [
            examples[k] for k in np.linspace(0, len(examples) - 1, most).round().astype(int)
        ]
    first = [example.row for example in examples]
    written = write(
        network_of(config, languages),
        params,
        languages,
        data["sources"][first],
        data["sources_lengths"][first],
        beam=beam,
        longest=longest_written(languages),
    )
    return judged(examples, written, config.ends)


def longest_written(languages: Languages) -> int:
    """Return after how many words what is written is cut, where it has come to no end."""
    return round(MARGIN * languages.longest_target)


def exhibits(
    config: Any,
    languages: Languages,
    data: dict[str, dict[str, np.ndarray]],
    said: Callable[[], str],
    called: Called,
    finished: Finished,
) -> Iterator[Exhibit]:
    """Draw attention, and list what came out most wrong and what was read.

    Args:
      config: of the run.
      languages: the vocabularies.
      data: the splits.
      said: tells what was read for them.
      called: what the report calls what is written.
      finished: the training.
    """
    rows = sorted(
        translated(config, languages, finished.kept, data["test"], 1, DECODED),
        key=lambda row: -row.distance,
    )
    wrong = [row for row in rows if row.distance]
    if rows:
        yield by_length(rows, called)
    if wrong:
        yield Table(
            "worst",
            "What it gets most wrong",
            f"Of {len(rows)} examples of the test split, {len(wrong)} came out wrong; those with "
            f"the most {called.part}s to change come first. What is wrong stands in brackets, "
            "empty where something is missing.",
            ("read", "written", "right", "changes"),
            [
                (in_one(row.source), marked(row), in_one(row.true), str(row.distance))
                for row in wrong[:SHOWN]
            ],
        )
    if config.attention != "last":
        for row, name in ((rows[-1], "right"), (rows[0], "wrong")):
            if (row.distance > 0) == (name == "wrong") and (config.ends or row.true):
                yield attention_of(config, languages, finished.kept, row, name, called)
    several = "A source stands in several pairs where several targets are right, or it is repeated."
    yield data_table(f"{said()} {several}", ("pairs", "different sources"), counts_of(data))
    yield padding_table(data["train"], buckets_of(data))


def marked(row: Judged) -> str:
    """Return what was written, with what is wrong of it in brackets, empty where words are missing.

    Example:
      >>> marked(Judged(["jump", "twice"], ["JUMP", "RUN", "UP"], ["JUMP", "JUMP"], 2))
      'JUMP [RUN] [UP]'
      >>> marked(Judged("ab", "x", "xy", 1))
      'x []'
    """
    pairs = aligned(row.found, row.true)
    return " ".join(one if one == other else f"[{one or ''}]" for one, other in pairs)


def by_length(rows: Sequence[Judged], called: Called) -> Figure:
    """Draw the share that came out right against the length of what is right."""
    from experiments.figures.alignments import rates_by_length

    lengths = np.array([len(row.true) for row in rows])
    exact = np.array([row.distance == 0 for row in rows])
    rate = error_rate((row.found, row.true) for row in rows)
    wrong = f"{rate:.2%} of {called.part}s wrong"
    if rate > 1:  # of what is written without an end; more than all of them cannot be wrong
        wrong = f"{rate:.2f} changes for each {called.part} that is right"
    message = f"{exact.mean():.2%} of {len(rows)} right; {wrong}"
    return Figure(
        "by_length",
        f"Longer {called.whole}s",
        f"A {called.whole} is right if each of its {called.part}s is; its length is that of what "
        "is right.",
        rates_by_length(message, lengths, exact, rate, called.whole, f"{called.part}s"),
    )


def in_one(words: Sentence) -> str:
    """Return a sentence as a text; letters stand side by side.

    Example:
      >>> in_one(["walk", "left"]), in_one("left")
      ('walk left', 'left')
    """
    return ("" if all(len(word) == 1 for word in words) else " ").join(words)


def attention_of(
    config: Any, languages: Languages, params: Any, row: Judged, name: str, called: Called
) -> Figure:
    """Draw where a network looks while the right parts of an example are written."""
    from experiments.figures.attention import attention_map

    weights, likeliest = attended(config, languages, params, row.source, row.true)
    true = [*row.true, STOP][: None if config.ends else -1]
    weights, likeliest = weights[:, : len(true)], likeliest[: len(true)]
    message = f"Where it looks while it writes what it gets {name}"
    return Figure(
        f"attention_{name}",
        message,
        f"Read: {in_one(row.source)}. Right: {in_one(row.true)}. A column for each {called.part}: "
        "the one that it finds likeliest after the right ones before it, in red where it is wrong; "
        "dark is where it looks.",
        attention_map(message, weights, [*row.source, STOP], likeliest, true),
    )


def counts_of(data: dict[str, dict[str, np.ndarray]]) -> dict[str, tuple[int, int]]:
    """Return how many pairs and how many different sources each split has."""
    return {
        split: (len(arrays["counts"]), len({*map(bytes, arrays["sources"])}))
        for split, arrays in data.items()
    }


def attended(
    config: Any, languages: Languages, params: Any, source: Sentence, target: Sentence
) -> tuple[np.ndarray, list[str]]:
    """Return the weights of attention ``[S, T]``, and the likeliest word at each step."""
    network = network_of(config, languages)
    ids = jnp.asarray([*languages.targets.ids(target), END])[:, None]  # [T, 1]
    read = jnp.asarray([*languages.sources.ids(source), END])[None]  # [1, S]
    memory, state = encoded(network, params, read, jnp.array([len(source) + 1]))
    weights, words = [], []
    for token in recurrent.shift_right(ids, END):
        weights.append(network.attended(params, memory, state, token)[:, 0])
        state, logits = network.step(params, memory, state, token)
        words += languages.targets.read([int(logits[0].argmax())]) or [STOP]
    return np.stack(jax.device_get(weights), axis=1), words


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Hold the flags of ``./launch.sh evaluate``."""

    beam: int = option(
        0,
        f"sequences kept at each word; 1 is greedy; 0 for {BEAM}, or 1 after --noends",
        minimum=0,
        maximum=1000,
    )
    split: str = option("test", "which part of the data", choices=("valid", "test"))
    most: int = option(0, "how many examples, evenly spread; 0 for all", minimum=0)


def evaluate_command(parts: Callable[[Any], tuple[Languages, dict[str, Any]]]) -> Command:
    """Return the command that translates a whole split, and leaves a file with what it came to.

    Args:
      parts: ``config -> (languages, splits)``.
    """

    def evaluate(run: Run, flags: Evaluate) -> Iterator[str]:
        if not run.config.ends and flags.beam > 1:
            raise UserError(
                f"--beam: the run in {run.folder} was trained with --noends, so sequences have the "
                "true length and no beam; give --beam=1."
            )
        beam = flags.beam or (BEAM if run.config.ends else 1)
        languages, data = parts(run.config)
        begun = time.monotonic()
        rows = translated(run.config, languages, run.kept, data[flags.split], beam, flags.most)
        found = {
            "split": flags.split,
            "beam": beam,
            "examples": len(rows),
            "exact": float(np.mean([row.distance == 0 for row in rows])),
            "error_rate": error_rate((row.found, row.true) for row in rows),
            "seconds": round(time.monotonic() - begun, 3),
        }
        if not flags.most:
            leave_evaluation(run, f"evaluation-{flags.split}-beam{beam}", found)
        yield (
            f"{found['exact']:.2%} of {len(rows)} right, error rate {found['error_rate']:.2%}, "
            f"{found['seconds']:.1f} s with compiling, beam {beam}"
        )

    return Command(Evaluate, evaluate, "translate a whole split by beam search")


def translate(run: Run, languages: Languages, words: Sentence, flag: str, beam: int) -> list[str]:
    """Translate a sentence of a user's; warn where what is written has no end, or no word.

    Raises:
      UserError: as `ids_of` does, and for a network that writes no end.
    """
    if not run.config.ends:
        raise UserError(
            f"{flag}: the run in {run.folder} was trained with --noends, so it does not know when "
            "to stop."
        )
    ids, length = ids_of(words, languages, flag)
    longest = longest_written(languages)
    network = network_of(run.config, languages)
    (found,) = write(network, run.kept, languages, ids, length, beam=beam, longest=longest).words
    said = {
        0: "it writes no word before the end; train it further",
        longest: f"what it writes came to no end, and was cut after {longest} words",
    }
    if len(found) in said:
        print(f"warning: {flag}: {said[len(found)]}.", file=sys.stderr)
    return found
