"""One metric of all members against another, read back from the figure."""

from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from experiments.harness.plan import DIVERGED, FINISHED
from experiments.report.exhibits import figure_bytes
from experiments.sweep import pairs
from experiments.sweep.ranking import Configuration, ranked
from recurrent.training.task import Metric

RIGHT = Metric("right", higher_is_better=True, format="{:.1%}")
LOSS = Metric("$loss$", higher_is_better=False)


def population(metric: Metric, *, field: bool = True) -> list[Configuration]:
    """Twenty members of ten gains and two seeds, best near a rate of 0; one has diverged."""
    outcomes: list[dict[str, Any]] = []
    for k in range(20):
        rate = (k - 10) / 10
        good = 1 - abs(rate)
        outcomes.append(
            {
                "member": k,
                "cell": "elman",
                **({"gain": (k // 2) / 10} if field else {}),
                "seed": k % 2,
                "status": DIVERGED if k == 3 else FINISHED,
                "evaluations_done": 2,
                "score": None if k == 3 else good,
                "valid_rate": None if k == 4 else rate,
                f"valid_{metric.name}": good if metric.higher_is_better else 2 - good,
            }
        )
    return ranked(outcomes, ["cell", *(["gain"] if field else []), "seed"])


def dots(figure: Figure) -> np.ndarray:
    """Where the dots are, by their horizontal place."""
    (found,) = (each for each in figure.axes[0].collections if isinstance(each, PathCollection))
    places = np.asarray(found.get_offsets())
    return places[places[:, 0].argsort()]


@pytest.mark.parametrize("metric", [RIGHT, LOSS])
def test_a_dot_is_a_member_that_did_not_diverge_and_has_both_numbers(metric: Metric) -> None:
    (found,) = pairs.all_of(population(metric), metric, ["rate"])
    expected = np.array([(k - 10) / 10 for k in range(20) if k not in (3, 4)])
    good = 1 - np.abs(expected)
    np.testing.assert_allclose(dots(found.figure)[:, 0], expected)
    np.testing.assert_allclose(
        dots(found.figure)[:, 1], good if metric.higher_is_better else 2 - good
    )
    assert "1 that diverged have no dot" in found.caption
    title = str(found.figure.get_suptitle())
    # a tenth of 18 are two; the second best is as good as the third
    assert "has rate -0.1 to 0.1; all: -1 to 0.9" in title
    assert figure_bytes(found).startswith(b"\x89PNG")


def test_the_color_is_the_first_field_of_different_numbers() -> None:
    assert pairs.first_field_of_numbers(population(RIGHT)) == "gain"
    assert pairs.first_field_of_numbers(population(RIGHT, field=False)) == ""
    with_bar, without = (
        pairs.scatter(population(RIGHT, field=each), RIGHT, "rate") for each in (True, False)
    )
    assert len(with_bar.axes) == len(without.axes) + 1


def test_where_no_member_has_both_numbers_the_figure_says_so() -> None:
    found = pairs.scatter(population(RIGHT), RIGHT, "unknown")
    assert "No member has both numbers" in str(found.get_suptitle())
