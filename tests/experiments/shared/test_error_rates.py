"""Error rates, held to jiwer and to a table filled in by loops."""

from typing import Any

import numpy as np
import pytest

from experiments.shared.error_rates import aligned, edit_distance, error_rate


def by_loops(a: Any, b: Any) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i in range(len(a)):
        for j in range(len(b)):
            table[i + 1, j + 1] = min(
                table[i, j] + (a[i] != b[j]), table[i, j + 1] + 1, table[i + 1, j] + 1
            )
    return int(table[-1, -1])


def drawn(seed: int) -> list[tuple[list[str], list[str]]]:
    rng = np.random.default_rng(seed)
    return [
        tuple(rng.choice(list("abc"), size=rng.integers(1, 9)).tolist() for _ in range(2))
        for _ in range(30)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_those_of_the_table(seed: int) -> None:
    for found, true in drawn(seed):
        assert edit_distance(found, true) == by_loops(found, true)


@pytest.mark.parametrize(
    ("found", "true", "distance"),
    [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("ab", "ba", 2)],
)
def test_distances_of_little(found: str, true: str, distance: int) -> None:
    assert edit_distance(found, true) == distance


def test_the_rate_is_that_of_jiwer() -> None:
    jiwer = pytest.importorskip("jiwer")
    pairs = drawn(7)
    expected = jiwer.wer([" ".join(true) for _, true in pairs], [" ".join(f) for f, _ in pairs])
    assert error_rate(pairs) == pytest.approx(expected, rel=1e-12)


def test_a_rate_without_anything_true() -> None:
    assert error_rate([]) == 0
    assert error_rate([("", "")]) == 0
    assert error_rate([("a", "")]) == float("inf")


@pytest.mark.parametrize("seed", range(3))
def test_an_alignment_has_as_many_edits_as_the_distance_and_both_sequences(seed: int) -> None:
    for found, true in [*drawn(seed), ([], ["a"]), (["a"], []), ([], [])]:
        pairs = aligned(found, true)
        assert sum(a != b for a, b in pairs) == by_loops(found, true)
        assert [a for a, _ in pairs if a is not None] == found
        assert [b for _, b in pairs if b is not None] == true
