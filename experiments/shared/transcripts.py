"""Show what a network reads in strips: where each symbol fires, what is wrong, and how often."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.harness.program import Exhibit, Figure, Finished, Table
from experiments.shared.error_rates import aligned, edit_distance, error_rate
from experiments.shared.transcribing import ERRORS, EXACT, LOSS, Reading

SHOWN = 12  # strips in a figure
BEAMS = (1, 3, 10)
NONE = "none"


class Strips(NamedTuple):
    """Hold strips of a split, and what stands in them.

    Attributes:
      images: ``[N, height, width]``.
      widths: columns of each, ``[N]``.
      truths: its classes, from the left to the right.
      thing: what they are, in the plural, such as ``"test strings"``.
      cmap: the color map in which they are drawn.
      upwards: whether the first row is drawn at the bottom, as the lowest band of a spectrogram.
      note: what a reader of the figures must know of them.
    """

    images: np.ndarray
    widths: np.ndarray
    truths: Sequence[Sequence[int]]
    thing: str
    cmap: str
    upwards: bool = False
    note: str = ""


def transcript_exhibits(
    strips: Strips, read: Callable[[int], list[Reading]], classes: int, finished: Finished
) -> Iterator[Exhibit]:
    """Draw learning curves, alignments, mistakes, errors by length, confusions, and a beam's gain.

    Args:
      strips: of the test split.
      read: ``beam -> readings`` of all of them.
      classes: how many there are.
      finished: the training.
    """
    from experiments.figures.classification import confusion_matrix
    from experiments.figures.curves import learning_curves

    readings = read(1)
    pairs = list(zip([each.classes for each in readings], strips.truths, strict=True))
    yield Figure(
        "learning_curves",
        "Learning curves",
        "Training strings are new ones in each epoch, with distortions and dropout on.",
        learning_curves(finished.rows, [LOSS, ERRORS, EXACT], finished.best_step),
    )
    yield from alignment_figures(strips, readings)
    if len({*map(len, strips.truths)}) > 1:
        yield by_length(strips, pairs)
    yield Figure(
        "confusion_matrix",
        "What is taken for what",
        f"Digits of all {strips.thing}, each beside the one it is aligned with; in the last column "
        "those that were left out, in the last row those read where none is.",
        confusion_matrix(confusions(pairs, classes), [*map(str, range(classes)), NONE]),
    )
    yield beams_table(strips, read)


def alignment_figures(strips: Strips, readings: Sequence[Reading]) -> Iterator[Figure]:
    """Draw some strips that were read rightly, the longest among them, and some that were not."""
    wrong = [k for k, each in enumerate(readings) if list(each.classes) != list(strips.truths[k])]
    others = sorted({*range(len(readings))} - {*wrong})
    spread = np.linspace(0, len(others) - 1, min(SHOWN, len(others))).round().astype(int)
    yield drawn(
        "alignment",
        "Where each digit fires",
        "A line stands in the frame where the network is surest of a digit; it was told what was "
        "in a strip, never where.",
        f"{len(others):,} of {len(readings):,} {strips.thing} are read without a mistake",
        strips,
        readings,
        [others[k] for k in spread],
    )
    surest = sorted(wrong, key=lambda k: -readings[k].probability)
    message = f"{len(wrong):,} of {len(readings):,} {strips.thing} are read wrongly"
    if len(wrong) > SHOWN:
        message += f"; the {SHOWN} of which the network was surest"
    yield drawn(
        "mistakes",
        "What it got wrong",
        "Red: what does not stand there. What was left out has no line.",
        message if wrong else f"All {len(readings):,} {strips.thing} are read without a mistake",
        strips,
        readings,
        surest[:SHOWN],
    )


def drawn(
    name: str,
    heading: str,
    caption: str,
    message: str,
    strips: Strips,
    readings: Sequence[Reading],
    chosen: Sequence[int],
) -> Figure:
    """Draw chosen strips with what was read in them."""
    from experiments.figures.alignments import Mark, Strip, alignments

    def strip(k: int) -> Strip:
        image = strips.images[k, :, : strips.widths[k]]
        reading, true = readings[k], list(strips.truths[k])
        right = [a == b for a, b in aligned(reading.classes, true) if a is not None]
        marks = [
            Mark(str(label), place, is_right)
            for label, place, is_right in zip(reading.classes, reading.places, right, strict=True)
        ]
        return Strip(image[::-1] if strips.upwards else image, marks, said(reading, true))

    widest = max((strips.widths[k] for k in chosen), default=0)
    columns = 4 if widest < 4 * strips.images.shape[1] else 2
    figure = alignments(message, [*map(strip, chosen)], strips.cmap, columns)
    return Figure(name, heading, f"{caption} {strips.note}".strip(), figure)


def said(reading: Reading, true: Sequence[int]) -> str:
    """Write what was read, and what stands there where that is something else."""
    found, there = spelt(reading.classes), spelt(true)
    if found == there:
        return f"{found}, p = {reading.probability:.3f}"
    return f"read {found or 'nothing'}, is {there or 'nothing'}, p = {reading.probability:.3f}"


def spelt(classes: Sequence[int]) -> str:
    """Write digits as a string.

    Example:
      >>> spelt([4, 0, 7])
      '407'
    """
    return "".join(map(str, classes))


Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]  # (found, true)


def by_length(strips: Strips, pairs: Pairs) -> Figure:
    """Draw the share of strings read without a mistake against their length."""
    from experiments.figures.alignments import rates_by_length

    lengths = np.array([len(true) for _, true in pairs])
    exact = np.array([list(found) == list(true) for found, true in pairs])
    rate = error_rate(pairs)
    return Figure(
        "by_length",
        "Longer strings",
        "A string is right if each of its digits is, and no other was read.",
        rates_by_length(
            f"{exact.mean():.2%} of {strips.thing} right; {rate:.2%} of digits wrong",
            lengths,
            exact,
            rate,
        ),
    )


def confusions(pairs: Pairs, classes: int) -> np.ndarray:
    """Return counts ``[true, found]`` of aligned classes; the last row and column stand for none.

    Example:
      >>> confusions([([0, 1], [0, 0]), ([1], [])], 2).tolist()
      [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
    """
    counts = np.zeros((classes + 1, classes + 1), int)
    for found, true in pairs:
        for one, other in aligned(list(found), list(true)):
            counts[classes if other is None else other, classes if one is None else one] += 1
    return counts


def beams_table(strips: Strips, read: Callable[[int], list[Reading]]) -> Table:
    """Compare greedy decoding with prefix beam search."""

    def row(beam: int) -> list[str]:
        found = [each.classes for each in read(beam)]
        pairs = list(zip(found, strips.truths, strict=True))
        edits = sum(edit_distance(*pair) for pair in pairs)
        exact = sum(list(a) == list(b) for a, b in pairs) / len(pairs)
        name = "greedy" if beam == 1 else f"prefix beam of {beam}"
        return [name, f"{exact:.2%}", f"{error_rate(pairs):.2%}", str(edits)]

    return Table(
        "decoding",
        "Greedy or beam",
        f"All {len(strips.truths):,} {strips.thing}. A prefix beam adds up the paths that spell a "
        "string; greedy decoding takes the likeliest path.",
        ["decoding", "strings right", "digits wrong", "edits"],
        [row(beam) for beam in BEAMS],
    )
