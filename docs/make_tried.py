"""Say for docs/tried.md what was tried; `docs/make_results.py` writes it beside docs/results.md.

Each table is a line of docs/results.md whose figure misses its target, with every
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

`docs/make_results.py` writes this page from [results.jsonl](results.jsonl), the trainings behind
[results](results.md). It lists the rows of that page that miss their target, each with every
configuration that was kept, the best on validation first. Validation alone chose the one that is
shown; the test never did. Tries without a row in a table come from trainings that were not kept.
"""
NOTES = {
    ("char_lm", "tiny Shakespeare, state carried, at most 10 minutes"): (
        "Target: 1.43. Three times the minutes (32 epochs with more dropout) reach 1.4430. A GRU "
        "beats the LSTM at 3 minutes, but gains nothing from training for 8."
    ),
    ("jsb_chorales", "keys independent of each other, one network for all keys"): (
        "Target: 8.0. One network reads the neighborhood of each key, so it learns a chord in "
        "every transposition at once. A head that draws keys independently of each other cannot "
        "express that a chord has four voices; a joint head over the pitches can, and reaches 4.9."
    ),
    ("scan_commands", "simple, with attention"): (
        "Target: 100 % with each of five seeds. The remaining mistakes are the shortest commands, "
        "which few others resemble, and repetitions within long outputs, where attention has to "
        "count steps that look alike. A decoder that is given only the encoder's last state learns "
        "the split in fewer epochs: see the next table."
    ),
    ("scan_commands", "simple, without attention"): (
        "Target: 100 % with each of five seeds. The five seeds get 10 commands wrong between them; "
        "a beam of 5 corrects 3 of these."
    ),
    ("scan_commands", "length, with attention"): (
        "Target: a mean of 25 %. Training has outputs of at most 22 actions, the test has 24 to "
        "48, and the network has learned when to stop. Feeding the word embeddings to the decoder "
        "beside the encoder's states, with strong dropout, gives a mean of 26.6 %, with 28 "
        "percentage points between seeds. That configuration is not shown: validation, on commands "
        "as short as those of training, ranks it lower, and only validation may choose. The next "
        "table validates on longer commands."
    ),
    ("scan_commands", "length, with attention, chosen on the longest commands of training"): (
        "Target: a mean of 25 %. Here training has outputs of at most 20 actions, and those of 21 "
        "and 22 form the validation split. Validation and test now agree on which configuration is "
        "best, but there is less to learn from."
    ),
    ("scan_commands", "length, no end written, true length given"): "Target: 58 %.",
    ("scan_commands", "jump, 100 further verbs in training"): (
        "Target: 99 %. Three things matter. First, the scale of the initial embeddings: with the "
        "usual standard deviation, one over the square root of their size, a verb that training "
        "shows only on its own is treated like `turn`, the word without an action, and under 1 % "
        "are right. Second, passing the embeddings on unchanged, beside the encoder's states, to a "
        "decoder whose first layer queries the attention: it fits the training set in fewer steps, "
        "whereas without it 92 % on training commands went with 8 % on those of the new verb. "
        "Third, dropout: at 0.1, a run stopped after 25 epochs had 84 % on training commands and "
        "39 % on those of the new verb; at 0.35, 80 and 89 %. Freezing the embeddings gave 43 %, "
        "training them 46 %."
    ),
    ("pronunciations", "random words, at most half an hour, greedy, words right"): (
        "Target: 69.8 % in 25 minutes with every seed. With the encoder's states alone "
        "(`--nodirect`) two of three seeds reach it; the third finds the alignment an epoch later "
        "and stays 6 percentage points behind. With the letter embeddings beside the states all "
        "three reach it: in 20.7 minutes on an idle machine, and in 27 and 34 beside other "
        "programs, which is why the row allows 30. Twelve epochs reach 75 %."
    ),
    ("digit_gan", "MNIST, by convolutions, digits of which a classifier is 90 % sure"): (
        "Target: 95 %; of real test images the classifier is that sure of 98.3 %. A generator that "
        "is not told which digit to draw is a continuous map from noise, so between any two digits "
        "it also draws images that are neither. Sampling with noise of a smaller spread (0.9 to "
        "0.6) changes nothing: 89.6 to 88.7 %, with a larger distance from 0.8 down. Neither does "
        "noise of a fixed norm (89.6 %). Told which digit, the same generator reaches 98 %."
    ),
    ("spoken_digits", "one digit, a speaker who was not heard"): (
        "Target: a mean of 88 %. Five speakers are few to learn from. Most confusions are between "
        "digits that differ in their fricatives (six taken for eight, two for six), which vary "
        "with speaker and microphone, and one speaker's figure moves by 20 percentage points "
        "between trainings (george: 65 % after training on five others, 85 % after four of them). "
        "Telling the decoder that there is exactly one digit adds 0 to 2 points. Trainings of "
        "folds 0, 2 and 4 were validated on one more speaker who was not trained on. Their mean "
        "validation losses: 0.53 with `--speed=0.2 --warp=0.2`; 0.60 with `--speed=0.25 --warp=0.2 "
        "--dropout=0.4`; 0.58 with the first and randomly colored spectra (half a standard "
        "deviation); 1.7 with the second and spectra colored by a whole one. Subtracting the mean "
        "spectrum of each string, the usual remedy for differing microphones, was given up "
        "half-way, where its best fold had a loss of 0.61 and that of the first 0.32. The other "
        "configuration in the table was not validated this way; on the test its mean is no worse. "
        "Averaging its log probabilities over spectra stretched by 0.9, 1 and 1.1 raises it from "
        "85.3 to 86.3 %."
    ),
    (
        "digit_gan",
        "MNIST, row by row, Frechet distance, in units of that of training images",
    ): "Target: 5. Told which digit to draw, the same network reaches 2.4.",
    ("long_memory", "adding, T = 10,000, lru"): (
        "Target: 1e-3. At that length, 1,200 steps of 16 sequences are too few; the published run "
        "took 4,000. A minGRU reaches the target at a learning rate of 0.02, which it needs "
        "because its gates start at a bias of -9 and have to move that far."
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
