"""A winner at the edge of what was tried is named, and one within it is not."""

import math
from typing import Any

import pytest

from experiments.harness.config import options
from experiments.harness.plan import DIVERGED, FINISHED
from experiments.sweep.axes import Bounds, read_axes
from experiments.sweep.edges import edge_notes, share_below
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.ranking import Configuration, ranked
from tests import toys
from tests.toys import FIT, FitConfig


def notes(
    text: str, value: Any, settings: Settings | None = None, status: str = FINISHED
) -> list[str]:
    """Return the notes on a sweep of one field whose best value is this."""
    axes = read_axes([text, "seed=0:3"], options(FitConfig))
    asked = settings or Settings()
    return edge_notes(
        Sweep(toys.experiment(FIT), FitConfig(), axes, asked, ""),
        winner(axes[0].field, value, status),
    )


def winner(field: str, value: Any, status: str) -> Configuration:
    lost = status == DIVERGED
    outcome = {
        "member": 0,
        field: value,
        "seed": 0,
        "status": status,
        "evaluations_done": 1,
        "score": None if lost else -1.0,
    }
    return ranked([outcome], [field, "seed"])[0]


DRAWN = Settings(search="random", draws=20)


def test_the_note_says_which_value_it_is_and_that_more_may_lie_beyond() -> None:
    assert notes("learning_rate=0.001,0.01,0.1", 0.1) == [
        "The best learning_rate, 0.1, is the largest that was tried: the optimum may lie beyond."
    ]
    assert notes("learning_rate=log:1e-3:1:8", 0.99, DRAWN) == [
        "The best learning_rate, 0.99, is in the upper 5 % of log:0.001:1: the optimum may lie "
        "beyond."
    ]


@pytest.mark.parametrize(
    ("text", "value", "words"),
    [
        ("learning_rate=0.1,0.001,0.01", 0.1, "largest"),  # in any order
        ("learning_rate=0.1,0.001,0.01", 0.001, "smallest"),
        ("learning_rate=0.1,0.001,0.01", 0.01, ""),
        ("learning_rate=0.1,0.01", 0.1, ""),  # of two, each is at an edge
        ("learning_rate=log:1e-3:1:4", 1.0, "largest"),  # a grid: these values and no others
        ("learning_rate=log:1e-3:1:4", 0.1, ""),
        ("degree=2:6", 5, "largest"),
        ("degree=2:6", 4, ""),
        ("degree=1,2,3", 1, ""),  # there is no smaller degree
        ("momentum=0,0.5,0.9", 0.0, ""),  # nor a momentum below 0
        ("momentum=0,0.5,0.9", 0.9, "largest"),
        ("optimizer=adam,adamw,sgd", "sgd", ""),  # no number
    ],
)
def test_of_three_or_more_listed_numbers_the_ends_are_edges(
    text: str, value: Any, words: str
) -> None:
    found = notes(text, value)
    assert len(found) == bool(words)
    assert all(words in note for note in found)


@pytest.mark.parametrize(
    ("value", "words"),
    # 5 % of three decades is a factor of 10 ** 0.15 = 1.413 at each end.
    [(0.00141, "lower 5 %"), (0.00142, ""), (0.03, ""), (0.707, ""), (0.709, "upper 5 %")],
)
def test_of_a_range_that_was_drawn_from_the_outer_5_percent_on_its_scale_are_edges(
    value: float, words: str
) -> None:
    found = notes("learning_rate=log:1e-3:1", value, DRAWN)
    assert len(found) == bool(words)
    assert all(words in note for note in found)


def test_a_linear_range_is_measured_on_its_own_scale() -> None:
    assert share_below(Bounds("linear", 2.0, 6.0), 3.0) == pytest.approx(0.25)
    assert share_below(Bounds("log", 1e-4, 1.0), 0.1) == pytest.approx(0.75)
    assert notes("weight_decay=linear:1:21", 19.9, DRAWN) == []
    assert len(notes("weight_decay=linear:1:21", 20.1, DRAWN)) == 1


def test_values_that_population_based_training_moved_to_the_end_are_at_the_edge() -> None:
    settings = Settings(search="pbt", interval=1)
    assert len(notes("learning_rate=log:1e-3:1:4", 1.0, settings)) == 1
    assert notes("learning_rate=log:1e-3:1:4", 0.8, settings) == []


def test_where_all_diverged_there_is_no_best_value() -> None:
    assert notes("learning_rate=1,10,100", 100.0, status=DIVERGED) == []
    assert math.isinf(winner("learning_rate", 1.0, DIVERGED).score)
