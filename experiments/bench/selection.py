"""Read ``--only``, the words that select which rows are measured."""

import re
from collections.abc import Mapping, Sequence

from experiments.bench.cases import CELLS, FORMS, MEASURES, SHAPES, Shape
from experiments.bench.libraries import LIBRARIES, OURS
from experiments.harness.errors import UserError, did_you_mean

PARTS = ("table", "ablation", "long", "populations", "drawn")
WORDS: dict[str, Sequence[str]] = {
    "part": PARTS,
    "cell": tuple(CELLS),
    "measure": tuple(MEASURES),
    "library": tuple(LIBRARIES),
    "shape": tuple(map(str, SHAPES)),
    "form": FORMS,
}
Selection = Mapping[str, set[str]]


def read(text: str) -> Selection:
    """Parse ``--only`` into sets of words by kind, for the kinds that are mentioned.

    Words without a part select the table. Our own library is always measured, because the others
    are compared with it. A shape need not be listed: any four sizes such as 50x64x39x96 are one.

    Raises:
      UserError: if a word is unknown, or selects rows of a table that is not measured.
    """
    words = {word for word in text.replace(" ", ",").split(",") if word}
    if text and not words:
        raise UserError(f"--only={text}: expected words separated by commas.")
    for word in words:
        check(word)
    found = {kind: words & set(known) for kind, known in WORDS.items() if words & set(known)}
    if any(map(is_shape, words)):
        found["shape"] = set(filter(is_shape, words))
    if words and "part" not in found:
        found["part"] = {"table"}
    if "library" in found:
        found["library"].add(OURS)
    choosing = set().union(*(found[kind] for kind in found if kind != "part"))
    if choosing and "table" not in found["part"]:
        raise UserError(
            f"--only={text}: expected table in addition to {', '.join(sorted(choosing))}, which "
            f"select its rows; {' and '.join(sorted(found['part']))} can only be measured whole."
        )
    return found


def is_shape(word: str) -> bool:
    """Return whether a word is four sizes from 1 to 999,999, as in 28x32x28x128."""
    return re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){3}", word) is not None


def shapes(selection: Selection) -> tuple[Shape, ...]:
    """Return the shapes to measure: those listed, then those that only ``--only`` names."""
    named = sorted(selection.get("shape", set()) - set(map(str, SHAPES)))
    return SHAPES + tuple(Shape(*map(int, word.split("x"))) for word in named)


def has(selection: Selection, **words: str) -> bool:
    """Return whether all words, given by kind, are selected; an unmentioned kind selects all."""
    return all(word in selection.get(kind, {word}) for kind, word in words.items())


def check(word: str) -> None:
    """Raise `UserError` for an unknown word of ``--only``."""
    known = [name for names in WORDS.values() for name in names]
    if word not in known and not is_shape(word):
        kinds = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in WORDS.items())
        raise UserError(
            f"--only: there is no {word!r}.{did_you_mean(word, known)} Words by kind: {kinds}, or "
            "other sizes TxBxIxH. A row is measured if it matches a word of every kind that is "
            "given."
        )
