"""Number the words of a language, and pad sentences to arrays."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

END, UNKNOWN = 0, 1  # the end of a sequence, also its start and its padding; and any other word
RESERVED = 2


class Vocabulary(NamedTuple):
    """Hold the words of a language; the number of the k-th is ``RESERVED + k``.

    Example:
      >>> vocabulary = vocabulary_of([["run", "left"], ["run"]])
      >>> vocabulary.ids(["run", "home"]), vocabulary.read([3, 1, 0, 2])
      ([3, 1], ['run', '?'])
    """

    words: tuple[str, ...]

    @property
    def size(self) -> int:
        """Return V, the reserved numbers included."""
        return RESERVED + len(self.words)

    def ids(self, sentence: Iterable[str]) -> list[int]:
        """Return the numbers of words, `UNKNOWN` for those that are not in the vocabulary."""
        numbers = self.numbers()
        return [numbers.get(word, UNKNOWN) for word in sentence]

    def numbers(self) -> dict[str, int]:
        """Return the number of each word."""
        return {word: RESERVED + k for k, word in enumerate(self.words)}

    def read(self, ids: Iterable[int]) -> list[str]:
        """Return the words up to the first `END`, a question mark for an unknown one."""
        found = []
        for each in ids:
            if each == END:
                break
            found.append("?" if each == UNKNOWN else self.words[each - RESERVED])
        return found


def vocabulary_of(sentences: Iterable[Iterable[str]]) -> Vocabulary:
    """Return the sorted words of sentences."""
    return Vocabulary(tuple(sorted({word for sentence in sentences for word in sentence})))


def padded(
    sentences: Sequence[Sequence[str]], vocabulary: Vocabulary, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return sentences as int32 ``[N, longest]``, and their lengths ``[N]``, each with its `END`.

    What follows the end is padding, `END` as well.

    Example:
      >>> padded([["b"], ["a", "b"]], vocabulary_of(["ab"]), 4)[0].tolist()
      [[3, 0, 0, 0], [2, 3, 0, 0]]
    """
    ids = np.full((len(sentences), longest), END, np.int32)
    lengths = np.array([len(sentence) + 1 for sentence in sentences], np.int32)
    numbers = vocabulary.numbers()
    for row, sentence in zip(ids, sentences, strict=True):
        row[: len(sentence)] = [numbers.get(word, UNKNOWN) for word in sentence]
    return ids, lengths
