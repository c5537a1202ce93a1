"""Cut a text into words, and number those that are frequent."""

import collections
import re
from typing import NamedTuple

import numpy as np

from experiments.data.text import SHARE_OF_TRAIN, SHARE_OF_VALID
from experiments.data.vocabulary import Vocabulary
from experiments.harness.errors import UserError

WORD = re.compile(r"\w+(?:['\u2019]\w+)*|[^\w\s]|\n")


class Words(NamedTuple):
    """Hold three consecutive parts of a text as numbers of words, int32, with their vocabulary."""

    vocabulary: Vocabulary
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def words_of(text: str) -> list[str]:
    r"""Cut a text into words in lower case, marks, and ends of lines.

    Example:
      >>> words_of("Don't go,\nI say!")
      ["don't", 'go', ',', '\n', 'i', 'say', '!']
    """
    return WORD.findall(text.lower())


def numbered_words(text: str, most_words: int, vocabulary: int) -> Words:
    """Return the first 90 % of a text, of which few words are taken, the next 5 %, and the rest.

    Words that the part for training has fewer than twice, and all but its most frequent ones, are
    unknown: they share one number.

    Args:
      text: of any length.
      most_words: of the part for training, its first ones.
      vocabulary: the most words that have a number of their own.

    Raises:
      UserError: for a text with fewer words, or with too few for all three parts.
    """
    words = words_of(text)
    cuts = [int(len(words) * share) for share in (SHARE_OF_TRAIN, SHARE_OF_TRAIN + SHARE_OF_VALID)]
    if not most_words <= cuts[0] or len(words) - cuts[1] < 2 or cuts[1] - cuts[0] < 2:
        raise UserError(
            f"--examples: expected at most {cuts[0]}, the words of the first nine tenths of the "
            f"text, and two or more in each half of the last, got {most_words}; take fewer, or a "
            "longer text."
        )
    train = words[:most_words]
    common = [word for word, n in collections.Counter(train).most_common(vocabulary) if n > 1]
    known = Vocabulary(tuple(sorted(common)))
    parts = (train, words[cuts[0] : cuts[1]], words[cuts[1] :])
    return Words(known, *(np.array(known.ids(part), np.int32) for part in parts))


def windows(tokens: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    """Cut numbers ``[N]`` into sequences in which each predicts the next.

    Returns:
      ``"tokens"`` and ``"targets"``, ``[B, T]``, and ``"real"``, False where the last sequence is
      filled up.

    Example:
      >>> found = windows(np.array([5, 6, 7, 8]), 2)
      >>> found["tokens"].tolist(), found["targets"].tolist(), found["real"][1].tolist()
      ([[5, 6], [7, 0]], [[6, 7], [8, 0]], [True, False])
    """
    count = len(tokens) - 1
    rows = -(-count // steps)

    def filled(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, rows * steps - count)).reshape(rows, steps)

    real = filled(np.ones(count, bool))
    return {"tokens": filled(tokens[:-1]), "targets": filled(tokens[1:]), "real": real}
