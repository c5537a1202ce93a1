"""Read the CMU Pronouncing Dictionary: words, and the phones of each way to say them."""

import re
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
COMMENT = ";;;"  # begins a line, in the older form of the file
FURTHER = re.compile(r"\(\d+\)$")  # after a word: which of the ways to say it follows
PHONE = re.compile(r"[A-Za-z][A-Za-z0-9]*")


class Entry(NamedTuple):
    """Hold a word as letters, and one way to say it as phones."""

    letters: tuple[str, ...]
    phones: tuple[str, ...]


class Dictionary(NamedTuple):
    """Hold the entries of a file, each once, and how many of its lines are no entry of their own.

    Attributes:
      entries: in the order of their first lines.
      comments: lines that begin with `COMMENT`.
      repeated: lines whose entry stands there already.
    """

    entries: list[Entry]
    comments: int
    repeated: int

    def said(self) -> str:
        """Say what was read and what was left out, and why."""
        lines = len(self.entries) + self.comments + self.repeated
        comments = f" {self.comments:,} are comments." * (self.comments > 0)
        return (
            f"The dictionary has {lines:,} lines.{comments} {self.repeated:,} are left out because "
            "their word is said there in the same phones already, as is common where stress is "
            f"not read. The other {len(self.entries):,} are each in one of the splits."
        )


def load_dictionary(stress: bool) -> Dictionary:
    """Read the file.

    Args:
      stress: whether vowels keep the digit of their stress; without, entries that differ in
        nothing else become one.

    Raises:
      UserError: where the file cannot be had, or holds something else.
    """
    (file,) = REMOTE_FILES["cmudict"]
    return read_entries(read_text(fetch(file)), stress)


def splits_of(entries: list[Entry], split: str, split_seed: int = 0) -> dict[str, list[Entry]]:
    """Return entries as train, valid and test: all ways to say a word are in one of them.

    Args:
      entries: of a dictionary.
      split: ``"random"``: each word by itself; ``"stems"``: words of one stem together, so that
        the test has hardly any plural or past tense of a word that was trained on.
      split_seed: decides which words are held out.
    """
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
      ('procedur', 'procedur', 'plan', 'plan', 'stu')
    """
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= LEFT:
            return stem(word.removesuffix(suffix))
    return stem(word[:-1]) if len(word) > LEFT and word[-1] == word[-2] else word


def read_entries(text: str, stress: bool) -> Dictionary:
    """Read lines ``word PHONE PHONE ...``, the second way to say it as ``word(2)``.

    Words are read in small letters; what follows ``#`` is left out.

    Raises:
      UserError: for a line of another form, with its number, a last one that has no end, and a
        text without entries.
    """
    lines = text.splitlines()
    entries = [
        read_entry(line, number, stress)
        for number, line in enumerate(lines, 1)
        if not line.startswith(COMMENT)
    ]
    if not entries:
        raise UserError("cmudict.dict: expected at least one line.")
    if not text.endswith("\n"):
        raise UserError(
            f"cmudict.dict, line {len(lines)}: expected an end of the line, which may be cut off: "
            "put the whole file in its place."
        )
    found = dict.fromkeys(entries)
    return Dictionary([*found], len(lines) - len(entries), len(entries) - len(found))


def read_entry(line: str, number: int, stress: bool) -> Entry:
    """Read one line; raise `UserError` where it is of another form."""
    word, *phones = line.partition("#")[0].split() or [""]
    word = FURTHER.sub("", word.lower())
    if not word or "(" in word[1:] or not phones or not all(map(PHONE.fullmatch, phones)):
        raise UserError(f"cmudict.dict, line {number}: expected WORD PHONE ..., got {line[:60]!r}.")
    plain = phones if stress else [phone.rstrip("012") for phone in phones]
    return Entry(tuple(word), tuple(plain))
