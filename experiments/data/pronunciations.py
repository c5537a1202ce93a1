"""Read the CMU Pronouncing Dictionary: words, and the phones of each way to say them."""

from typing import NamedTuple

import numpy as np

from experiments.data.download import REMOTE_FILES, fetch
from experiments.data.text import read_text
from experiments.harness.errors import UserError

SPLITS = ("random", "stems")
TEST_SHARE, VALID_SHARE = 0.1, 0.02  # of the words
# Taken off the end of a word, longest first, one after the other, while three letters stay.
# fmt: off
SUFFIXES = [
    "ization", "ations", "ation", "ively", "ments", "ships", "ness", "able", "ment", "ized",
    "izing", "ists", "ship", "ance", "ence", "ings", "less", "ally", "iest", "ing", "ers", "est",
    "ent", "ant", "ity", "ive", "ism", "ist", "ful", "ors", "ize", "ies", "ied", "ier", "ed",
    "er", "ly", "al", "or", "'s", "s'", "es", "y", "s", "d", "e", "i",
]
# fmt: on
LEFT = 3


class Entry(NamedTuple):
    """Hold a word as letters, and one way to say it as phones."""

    letters: tuple[str, ...]
    phones: tuple[str, ...]


def load_pronunciations(split: str, stress: bool, split_seed: int = 0) -> dict[str, list[Entry]]:
    """Return the entries as train, valid and test: all ways to say a word are in one of them.

    Args:
      split: ``"random"``: each word by itself; ``"stems"``: words of one stem together, so that
        the test has hardly any plural or past tense of a word that was trained on.
      stress: whether vowels keep the digit of their stress; without, entries that differ in
        nothing else become one.
      split_seed: decides which words are held out.

    Raises:
      UserError: where the file cannot be had, or holds something else.
    """
    (file,) = REMOTE_FILES["cmudict"]
    entries = read_entries(read_text(fetch(file)), stress)
    groups = [stem("".join(e.letters)) if split == "stems" else e.letters for e in entries]
    names = sorted({*groups}, key=str)
    order = np.random.default_rng(split_seed).random(len(names))
    drawn = dict(zip(names, order, strict=True))
    found: dict[str, list[Entry]] = {"train": [], "valid": [], "test": []}
    for entry, group in zip(entries, groups, strict=True):
        at = drawn[group]
        name = "test" if at < TEST_SHARE else "valid" if at < TEST_SHARE + VALID_SHARE else "train"
        found[name].append(entry)
    return found


def stem(word: str) -> str:
    """Return what is left of a word without the usual endings, with its last letter once.

    Example:
      >>> stem("procedures"), stem("procedure"), stem("planned"), stem("plans"), stem("studies")
      ('procedur', 'procedur', 'plan', 'plan', 'stud')
    """
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= LEFT:
            return stem(word.removesuffix(suffix))
    return stem(word[:-1]) if len(word) > LEFT and word[-1] == word[-2] else word


def read_entries(text: str, stress: bool) -> list[Entry]:
    """Read lines ``word PHONE PHONE ...``, the second way to say it as ``word(2)``.

    What follows ``#`` is left out, and so is an entry that stands there already.

    Raises:
      UserError: for a line of another form, with its number, and for a text without any.
    """
    entries: dict[Entry, None] = {}
    for number, line in enumerate(text.splitlines(), 1):
        word, *phones = line.partition("#")[0].split() or [""]
        word = word.partition("(")[0]
        if (
            not word
            or not phones
            or not all(phone.isascii() and phone.isalnum() for phone in phones)
        ):
            raise UserError(
                f"cmudict.dict, line {number}: expected WORD PHONE ..., got {line[:60]!r}."
            )
        plain = phones if stress else [phone.rstrip("012") for phone in phones]
        entries[Entry(tuple(word), tuple(plain))] = None
    if not entries:
        raise UserError("cmudict.dict: expected at least one line.")
    return [*entries]
