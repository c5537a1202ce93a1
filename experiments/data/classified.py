"""Load classified time series of unequal lengths, in the splits of their archives."""

from typing import NamedTuple

import numpy as np

from experiments.data.download import REMOTE_FILES, fetch
from experiments.data.ts_files import Cases, read_ts
from experiments.harness.errors import UserError

CLASSIFIED = ("JapaneseVowels", "GunPoint", "ItalyPowerDemand", "ArrowHead", "OSULeaf")


class Arrays(NamedTuple):
    """Hold cases as arrays, filled up with NaN to one length.

    Attributes:
      values: float32 [N, T, D]; NaN is missing, or past the end.
      lengths: int32 [N].
      labels: int32 [N], indices into the classes.
    """

    values: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class Classified(NamedTuple):
    """Hold the splits of a data set, and the words for its classes."""

    splits: dict[str, Arrays]
    classes: list[str]


def load_classified(name: str, resample: int, valid_share: float) -> Classified:
    """Return a data set of the UCR and UEA archives.

    Args:
      name: one of `CLASSIFIED`.
      resample: 0 for the official split of training and test cases; any other number draws one of
        the same size, class by class, as the archives do.
      valid_share: of the training cases of each class, which are held back to choose by; at least
        one of each.

    Raises:
      UserError: where a file is missing or damaged, or a class has too few cases.
    """
    train, test = (read_ts(fetch(file)) for file in REMOTE_FILES[name])
    classes = sorted({*train.labels}, key=lambda word: (len(word), word))
    if unknown := {*test.labels} - {*classes}:
        raise UserError(f"{name}: the training cases lack the classes {sorted(unknown)}.")
    cases = Cases(train.values + test.values, train.labels + test.labels)
    whole = as_arrays(cases, classes)
    first = np.arange(len(train.labels))
    rest = np.arange(len(first), len(cases.labels))
    if resample:
        first, rest = resampled(whole.labels, len(first), resample)
    fit, held = held_out(whole.labels, first, valid_share)
    rows = {"train": fit, "valid": held, "test": rest}
    return Classified({split: taken(whole, each) for split, each in rows.items()}, classes)


def as_arrays(cases: Cases, classes: list[str]) -> Arrays:
    """Return cases as arrays."""
    labels = np.array([classes.index(word) for word in cases.labels], np.int32)
    return padded(cases.values, labels)


def padded(values: list[np.ndarray], labels: np.ndarray) -> Arrays:
    """Fill series [T, D] up to the length of the longest."""
    lengths = np.array([len(each) for each in values], np.int32)
    whole = np.full((len(lengths), lengths.max(), values[0].shape[1]), np.nan, np.float32)
    for row, each in zip(whole, values, strict=True):
        row[: len(each)] = each
    return Arrays(whole, lengths, labels)


def taken(arrays: Arrays, rows: np.ndarray) -> Arrays:
    """Return some of the cases."""
    return Arrays(*(each[rows] for each in arrays))


def resampled(labels: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw another split, in which each class has as many training cases as it had.

    It is the split that the archives and their toolkits give to this number: the cases of each
    class, training cases first, are shuffled by one generator, class after class.

    Args:
      labels: of all cases [N], those of the official training split first.
      size: how many those are.
      seed: the number of the split.
    """
    source = np.random.RandomState(seed)  # the older generator: theirs
    parts = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        source.shuffle(rows)
        parts.append(np.split(rows, [(labels[:size] == label).sum()]))
    first, rest = zip(*parts, strict=True)
    return np.concatenate(first), np.concatenate(rest)


def held_out(labels: np.ndarray, rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Split the training cases of each class, at random but always alike.

    Raises:
      UserError: for a class of one case.
    """
    source = np.random.default_rng(0)
    fit, held = [], []
    for label in np.unique(labels):
        own = source.permutation(rows[labels[rows] == label])
        if len(own) < 2:
            raise UserError("data: expected two training cases or more of each class, got one.")
        count = min(max(1, round(share * len(own))), len(own) - 1)
        held.append(own[:count])
        fit.append(own[count:])
    return np.concatenate(fit), np.concatenate(held)
