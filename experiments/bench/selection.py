"""``--only``: words that say which rows are measured."""

from collections.abc import Mapping, Sequence

from experiments.bench.cases import CELLS, FORMS, MEASURES, SHAPES
from experiments.bench.peers import OURS, PEERS
from experiments.harness.errors import UserError, did_you_mean

PARTS = ("table", "ablation", "long")
WORDS: dict[str, Sequence[str]] = {
    "part": PARTS,
    "cell": tuple(CELLS),
    "measure": tuple(MEASURES),
    "library": tuple(PEERS),
    "shape": tuple(map(str, SHAPES)),
    "form": FORMS,
}
Selection = Mapping[str, set[str]]


def read(text: str) -> Selection:
    """The words of ``--only`` by their kind, those kinds alone that are named.

    Where words are given but no part, the table is meant. We ourselves are always measured, since
    others are compared with us.

    Raises:
      UserError: for a word that is none, or one that chooses nothing.
    """
    words = {word for word in text.replace(" ", ",").split(",") if word}
    if text and not words:
        raise UserError(f"--only={text}: expected words with commas between.")
    for word in words:
        check(word)
    found = {kind: words & set(known) for kind, known in WORDS.items() if words & set(known)}
    if words and "part" not in found:
        found["part"] = {"table"}
    if "library" in found:
        found["library"].add(OURS)
    choosing = set().union(*(found[kind] for kind in found if kind != "part"))
    if choosing and "table" not in found["part"]:
        raise UserError(
            f"--only={text}: expected table beside {', '.join(sorted(choosing))}, which choose "
            f"rows of it; {' and '.join(sorted(found['part']))} can only be measured whole."
        )
    return found


def has(selection: Selection, **words: str) -> bool:
    """Whether each word, given by its kind, is meant; all are of a kind that is not named."""
    return all(word in selection.get(kind, {word}) for kind, word in words.items())


def check(word: str) -> None:
    """Raises `UserError` for a word that is none."""
    known = [name for names in WORDS.values() for name in names]
    if word not in known:
        kinds = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in WORDS.items())
        raise UserError(
            f"--only: there is no {word!r}.{did_you_mean(word, known)} What there is, by kind: "
            f"{kinds}. A row is measured if it has one of the words given of each kind."
        )
