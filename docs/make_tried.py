"""Say for docs/tried.md what was tried; `docs/make_results.py` writes it beside docs/results.md.

Each table is a line of docs/results.md whose figure is short of what was hoped for, with every
configuration of it that was run, so that nobody need try them again.
"""

import math
import statistics
import textwrap
from collections.abc import Iterator, Sequence

from docs.make_results import (
    LINES,
    Found,
    Line,
    command,
    minutes_of,
    number,
    tried,
)

HEAD = """\
# What was tried, and where it ends

Made by `docs/make_results.py` from [results.jsonl](results.jsonl), the trainings behind
[results](results.md). Lines of that page that are short of what was hoped for, with all
configurations of them that stand there, the best on validation first: by it, and never by the test,
one was chosen. What a sentence says of tries without a row was seen in trainings that are not kept.
"""
NOTES = {
    ("char_lm", "tiny Shakespeare, state carried, at most 10 minutes"): (
        "Hoped for: 1.43. Three times the minutes, 32 epochs with more noise, reach 1.4430. A GRU, "
        "ahead of an LSTM in 3 minutes, gains nothing from 8."
    ),
    ("jsb_chorales", "keys independent of each other, one network for all keys"): (
        "Hoped for: 8.0. One network reads the neighborhood of each key, so that it learns each "
        "chord in all transpositions. Keys that are drawn apart from each other cannot say that a "
        "chord has four voices, and a joint head over its pitches can: it needs 4.9."
    ),
    ("scan_commands", "simple, with attention"): (
        "Hoped for: 100 % with each of five seeds. What is wrong are the shortest commands, which "
        "few others resemble, and repetitions within long outputs, where attention has to count "
        "like steps. A decoder that gets the last state of the encoder alone learns it in fewer "
        "epochs, see the next table."
    ),
    ("scan_commands", "simple, without attention"): (
        "Hoped for: 100 % with each of five seeds. Together they get 10 commands wrong, of which a "
        "beam of 5 mends 3."
    ),
    ("scan_commands", "length, with attention"): (
        "Hoped for: a mean of 25 %. Outputs of 24 to 48 actions after training on at most 22: "
        "the network has learned when to end. With the words' vectors beside the encoder's states "
        "and strong dropout the mean is 26.6 %, and seeds differ by 28 percentage points. It is "
        "not the one that is shown, since validation, on commands as short as those of training, "
        "says the opposite of the test, and nothing else may choose. See the next table."
    ),
    ("scan_commands", "length, with attention, chosen on the longest commands of training"): (
        "Hoped for: a mean of 25 %. Training has up to 20 actions here, and those of 21 and 22 "
        "choose. Now validation and test agree on which is best, with less to learn from."
    ),
    ("scan_commands", "length, no end written, true length given"): "Hoped for: 58 %.",
    ("scan_commands", "jump, 100 further verbs in training"): (
        "Hoped for: 99 %. Two things decide it. How far apart the words' vectors begin: with the "
        "usual standard deviation, 1 over the root of their size, a verb that training shows "
        "alone is read as `turn`, the word that says nothing, and under 1 % are right. And that "
        "vectors are carried over as they are, beside the encoder's states, to a decoder whose "
        "first layer asks: it learns more of the training in fewer steps, and without it 92 % of "
        "the training commands came with 8 % of the lone verb's. Then dropout: with 0.1 a run "
        "that was stopped after 25 epochs had 84 % of the training commands and 39 % of the lone "
        "verb's, with 0.35 80 and 89 %. Vectors that stay as drawn gave 43 % where trained ones "
        "gave 46."
    ),
    ("pronunciations", "random words, at most half an hour, greedy, words right"): (
        "Hoped for: 69.8 % in 25 minutes with every seed. The encoder's states alone "
        "(`--nodirect`) reach it with two of three; the third finds where to look an epoch later, "
        "and is 6 percentage points behind to the end. With the letters' vectors beside the states "
        "all of them reach it: in 20.7 minutes by itself, in 27 and 34 beside other programs, for "
        "which reason the line allows 30. Twelve epochs reach 75 %."
    ),
    ("digit_gan", "MNIST, by convolutions, digits of which a classifier is 90 % sure"): (
        "Hoped for: 95 %; of real test images it is 98.3 %. Between any two digits that a "
        "generator draws without being told which lie others, which are neither. Noise of a "
        "spread of .9 to .6 in sampling changes nothing (89.6 to 88.7 %, and a larger distance "
        "from .8 on), nor does noise of one length (89.6 %). Told which digit, nearly all are "
        "right."
    ),
    ("spoken_digits", "one digit, a speaker who was not heard"): (
        "Hoped for: a mean of 88 %. Five people are few. What is taken for another digit begins or "
        "ends otherwise (six taken for eight, two for six), by the fricatives that each of them, "
        "and each microphone, has; and the figure of a speaker differs by 20 percentage points "
        "between trainings (george: 65 % after five others, 85 % after four of them). That one "
        "digit is spoken was not told: choosing among the ten gains 0 to 2. Trainings that another "
        "speaker judged, in folds 0, 2 and 4, had validation losses of 0.53 with `--speed=0.2 "
        "--warp=0.2`, 0.60 with `--speed=0.25 --warp=0.2 --dropout=0.4`, 0.58 with spectra colored "
        "at random, by half a standard deviation, besides the first, and 1.7 by a whole one "
        "besides the second. Taking its mean spectrum away from each string, against what a "
        "microphone adds, was given up half-way: 0.61, where the first had 0.32 by then. The other "
        "configuration of the table was not judged so, and its mean on the test is no worse. With "
        "it, the mean of the logarithms of probabilities over spectra stretched by 0.9, 1 and 1.1 "
        "is right in 86.3 % where one is in 85.3."
    ),
    (
        "digit_gan",
        "MNIST, row by row, Frechet distance, in units of that of training images",
    ): "Hoped for: 5. Told which digit, the same network has 2.4.",
    ("digit_strings", "1 to 8 MNIST digits, digits wrong"): (
        "Hoped for: 0.7 %. Mistakes are as frequent in short strings as in long ones; the "
        "commonest takes a 9 for a 7. Training strings, which are distorted, have as many as those "
        "of validation, so that it is no matter of overfitting."
    ),
    ("long_memory", "adding, T = 10,000, lru"): (
        "Hoped for: 1e-3. 1,200 steps of 16 sequences are too few at that length; what was "
        "published took 4,000. A minGRU reaches it, at a rate of 0.02: its gates begin at a bias "
        "of -9, and the weights of the mark have as far to go."
    ),
}


def page(runs: Sequence[Found]) -> str:
    """Return the whole page."""
    lines = {(line.experiment, line.what): line for line in LINES}
    parts = (section(lines[key], note, runs) for key, note in NOTES.items())
    return HEAD + "".join(parts) + missing(runs)


def missing(runs: Sequence[Found]) -> str:
    """Return the lines of the page of results that no run belongs to, as a list."""
    names = [f"- `{line.experiment}`: {line.what}\n" for line in LINES if not tried(line, runs)]
    return "\n## Without a run so far\n\n" + "".join(names) if names else ""


def section(line: Line, note: str, runs: Sequence[Found]) -> str:
    """Return the part of a line, empty without a run."""
    made = [*rows(line, runs)]
    head = "| flags | validation | test, by seed | minutes |\n|---|---|---|---|\n"
    title = f"\n## `{line.experiment}`: {line.what}\n\n"
    said = textwrap.fill(note, 100) + "\n\n" if note else ""
    return title + said + head + "".join(made) if made else ""


def rows(line: Line, runs: Sequence[Found]) -> Iterator[str]:
    """Yield a row a configuration, the best on validation first."""
    for score, each in tried(line, runs):
        one = next(iter(each.values()))
        flags = command(line.experiment, one.config, line.over).split()[2:]
        values = ", ".join(line.form.format(number(run, line)) for run in each.values())
        mean = statistics.mean(number(run, line) for run in each.values())
        of_all = f" (mean {line.form.format(mean)})" if len(each) > 1 else ""
        yield (
            f"| `{' '.join(flags) or 'as by default'}` | "
            f"{said_of(one, score)} | {values}{of_all} | "
            f"{minutes_of([*each.values()]):.1f} |\n"
        )


def said_of(run: Found, score: float) -> str:
    """Write the validation score by which a configuration is chosen."""
    return f"{run.result['select']} {abs(score):.4g}" if math.isfinite(score) else "-"
