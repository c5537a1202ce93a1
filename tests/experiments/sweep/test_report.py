"""The table and the page of a sweep say what their numbers are."""

import statistics
from pathlib import Path
from typing import Any

import pytest

from experiments.harness.config import options
from experiments.harness.plan import FINISHED, Plan
from experiments.sweep import report
from experiments.sweep.axes import read_axes
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.planning import planned
from experiments.sweep.ranking import Configuration, ranked
from tests import toys
from tests.toys import FIT, FitConfig, fit

RATES = "learning_rate=0.001,0.01,0.1"
PROGRAM = fit(FitConfig())


def outcomes(seeds: int) -> list[dict[str, Any]]:
    """Return members whose loss falls as the rate grows."""
    return [
        {
            "member": k,
            "learning_rate": rate,
            "seed": seed,
            "status": FINISHED,
            "evaluations_done": 9,
            "step": 45,
            "best_step": 20,
            "score": -(0.1 + seed) / rate,
            "valid_loss": (0.1 + seed) / rate,
            "test_loss": (0.1 + seed) / rate,
        }
        for k, (rate, seed) in enumerate(
            (rate, seed) for rate in (0.001, 0.01, 0.1) for seed in range(seeds)
        )
    ]


def swept(seeds: int) -> tuple[Sweep, Plan, list[Configuration]]:
    axes = read_axes([RATES, f"seed=0:{seeds}"], options(FitConfig))
    sweep = Sweep(toys.experiment(FIT), FitConfig(), axes, Settings(layout="1x1"), "./launch.sh")
    return sweep, planned(sweep)[0], ranked(outcomes(seeds), ["learning_rate", "seed"])


def written(folder: Path, seeds: int) -> str:
    sweep, plan, configurations = swept(seeds)
    report.write(sweep, plan, configurations, {}, 1.0, folder)
    return (folder / "report.html").read_text()


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_spread_is_explained_where_it_is_shown_and_nowhere_else(
    seeds: int, tmp_path: Path
) -> None:
    note = f"\u00b1 is the sample standard deviation over {seeds} seeds."
    *_, configurations = swept(seeds)
    text, page = report.table_text(configurations, PROGRAM), written(tmp_path, seeds)
    values = [0.1 / 0.1, 1.1 / 0.1, 2.1 / 0.1]
    spread = f"{statistics.mean(values):.4f} \u00b1 {statistics.stdev(values):.4f}"
    for shown in (text, page):
        assert (spread in shown) == (seeds == 3)
        assert (note in shown) == (seeds == 3)
        assert ("\u00b1" in shown) == (seeds == 3)
    assert len(text.splitlines()) == (5 if seeds == 3 else 4)


def test_configurations_with_other_numbers_of_seeds_are_said_to_have_them() -> None:
    configurations = ranked(outcomes(3)[:-1], ["learning_rate", "seed"])
    assert report.spread_note(configurations).endswith("over 2 to 3 seeds.")


def test_the_page_says_that_the_best_is_the_largest_that_was_tried(tmp_path: Path) -> None:
    words = "The best learning_rate, 0.1, is the largest that was tried: the optimum may lie beyond"
    assert f'<p class="note" role="note">{words}.</p>' in written(tmp_path, 1)


def test_the_page_says_of_which_evaluation_its_numbers_are(tmp_path: Path) -> None:
    page = written(tmp_path, 3)
    assert "test loss of the winner at its best evaluation, mean of 3 seeds" in page
    assert "Ranking, by validation loss (lower is better)" in page
    assert "of each member at its best evaluation" in page
    higher = PROGRAM._replace(select=PROGRAM.select._replace(higher_is_better=True))
    *_, configurations = swept(1)
    assert "(higher is better)" in report.ranking_table(configurations, higher).heading
