"""The dictionary of pronunciations: its lines, its splits, and its file where it is."""

import os
import re
from pathlib import Path

import pytest

from experiments.data import pronunciations
from experiments.data.download import REMOTE_FILES
from experiments.data.pronunciations import (
    Dictionary,
    Entry,
    load_dictionary,
    read_entries,
    splits_of,
    stem,
)
from experiments.data.vocabulary import END, UNKNOWN, padded, vocabulary_of
from experiments.harness.errors import UserError

LINES = """a AH0
a(2) EY1
object AA1 B JH EH0 K T
object(2) AH0 B JH EH1 K T
read R IY1 D # verb, now
read(2) R EH1 D
"""


def test_entries_are_read_with_stress_and_without() -> None:
    found = read_entries(LINES, stress=True).entries
    assert found[1] == Entry(("a",), ("EY1",))
    assert [("".join(e.letters), len(e.phones)) for e in found] == [
        *(("a", 1), ("a", 1), ("object", 6), ("object", 6), ("read", 3), ("read", 3))
    ]
    without = [" ".join(entry.phones) for entry in read_entries(LINES, stress=False).entries]
    assert without == ["AH", "EY", "AA B JH EH K T", "AH B JH EH K T", "R IY D", "R EH D"]


def test_lines_that_are_no_entry_of_their_own_are_counted() -> None:
    """In the older form of the file, with capitals, comments and words that begin with a mark."""
    text = ";;; # of 1998\nIN  IH0 N\nIN(1)  IH1 N\n(PAREN  P ER0\nin IH0 N\n;;; end\n"
    found = read_entries(text, stress=True)
    assert (len(found.entries), found.comments, found.repeated) == (3, 2, 1)
    assert ["".join(entry.letters) for entry in found.entries] == ["in", "in", "(paren"]
    without = read_entries(text, stress=False)
    assert (len(without.entries), without.comments, without.repeated) == (2, 2, 2)
    said = without.said()
    assert "has 6 lines. 2 are comments. 2 are left out" in said
    assert "other 2 are each" in said
    assert "comments" not in Dictionary(without.entries, 0, 2).said()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "at least one line"),
        ("a AH0\n\nb B", "line 2: expected WORD PHONE"),
        ("a", "line 1"),
        ("# only words", "line 1"),
        ("(2) AH0", "line 1"),
        ("a AH0 ?", "line 1"),
        ("a 012\n", "line 1: expected WORD PHONE"),
        ("a AH0\nb B 0AH\n", "line 2: expected WORD PHONE"),
        ("a(b AH0\n", "line 1"),
        (";;; nothing\n", "at least one line"),
        ("a AH0\n;;; no\nb B Y", "line 3: expected an end of the line, which may be cut off"),
    ],
)
def test_a_line_of_another_form_is_named(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_entries(text, stress=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "cmudict" / "cmudict.dict"
    file.parent.mkdir()
    words = [
        a + b + end for a in "bdfgklmnprst" for b in ("ook", "ill", "and") for end in ("", "s")
    ]
    file.write_text("".join(f"{w} {' '.join(w.upper())}\n{w}(2) X Y Z\n" for w in words))
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("split", pronunciations.SPLITS)
def test_all_ways_to_say_a_word_are_in_one_split(
    split: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pronunciations, "TEST_SHARE", 0.3)
    monkeypatch.setattr(pronunciations, "VALID_SHARE", 0.2)
    entries = load_dictionary(stress=False).entries
    found = splits_of(entries, split)
    of = {name: {"".join(e.letters) for e in entries} for name, entries in found.items()}
    assert sum(map(len, of.values())) == len(set().union(*of.values())) == 72
    assert sum(map(len, found.values())) == 144
    assert all(of.values())
    stems = {name: {stem(word) for word in words} for name, words in of.items()}
    shared = (stems["train"] & stems["test"]) | (stems["valid"] & stems["test"])
    assert bool(shared) == (split == "random")
    assert splits_of(entries, split) == found
    assert splits_of(entries, split, 1) != found


@pytest.mark.parametrize(
    "words",
    [
        "procedure procedures procedure's",
        "plan plans planned planning planner",
        "hit hits hitting",
        "abide abides abided abiding",
        "study studies studied",
        "millionaire millionaires",
    ],
)
def test_forms_of_a_word_have_one_stem(words: str) -> None:
    assert len(set(map(stem, words.split()))) == 1


def test_the_dictionary_is_read_whole() -> None:
    (file,) = REMOTE_FILES["cmudict"]
    path = Path(os.environ.get("RECURRENT_DATA_DIR", "nowhere"), file.path)
    if not path.is_file():
        pytest.skip("the dictionary is not in RECURRENT_DATA_DIR")
    text = path.read_text("utf-8")
    entries, comments, repeated = read_entries(text, stress=True)
    assert comments == 0
    assert repeated == 2  # "mormonism" and "tribalism" stand there twice
    assert len(entries) == 135_166 - 2
    assert len({entry.letters for entry in entries}) == 126_052
    # what a file looks like that was cut off
    with pytest.raises(UserError, match="expected an end of the line"):
        read_entries(text[:100_000], stress=False)
    rows = {(re.sub(r"\(\d+\)$", "", row.split()[0]), re.sub(r"\d", "", " ".join(row.split()[1:])))
            for row in re.sub(r" *#.*", "", text).splitlines()}  # fmt: skip
    without = read_entries(text, stress=False)
    assert without.repeated == 135_166 - len(rows) == 306


def test_words_are_numbered_and_what_is_unknown_has_a_number_too() -> None:
    vocabulary = vocabulary_of([["b", "a"], ["c", "a"]])
    assert vocabulary.words == ("a", "b", "c")
    assert vocabulary.size == 5
    ids = vocabulary.ids(["c", "z", "a"])
    assert ids == [4, UNKNOWN, 2]
    assert vocabulary.read([*ids, END, 3]) == ["c", "?", "a"]
    rows, lengths = padded([["c", "z", "a"], []], vocabulary, 5)
    assert rows.tolist() == [[4, UNKNOWN, 2, END, END], [END] * 5]
    assert lengths.tolist() == [4, 1]
