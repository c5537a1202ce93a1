"""Tasks that are no supervised learning: each runs, sweeps by every search, and ends in a page."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from experiments.harness import run as single
from experiments.harness.config import options
from experiments.harness.processes import Hardware
from experiments.sweep import run
from experiments.sweep.axes import read_axes
from experiments.sweep.flags import Settings, Sweep
from tests import toys

pytestmark = pytest.mark.usefixtures("compiled_once")
slow = pytest.mark.slow
RATES = {
    "gan": "learning_rate=0.0001,0.003,0.01,0.03,0.1,0.3",
    "policy": "learning_rate=0.0001,0.001,0.01,0.05,0.1,0.2",
    "lengths": "learning_rate=0.0001,0.001,0.003,0.01,0.03,1e10",
}
SEARCHES = {
    "grid": Settings(layout="1x1"),
    "halving": Settings(search="halving", reduction=2, layout="1x1"),
    "pbt": Settings(search="pbt", interval=2, layout="1x1"),
}


def trained(name: str, folder: Path) -> dict[str, Any]:
    module = toys.ALL[name]
    asked = single.Asked(
        toys.experiment(module, name), module.Config(), folder, False, Hardware(), "./launch.sh"
    )
    assert single.main(asked) == 0
    return json.loads((folder / "result.json").read_text())


@pytest.mark.long
@pytest.mark.parametrize("name", RATES)
def test_a_run_keeps_its_best_in_the_direction_of_its_metric(name: str, tmp_path: Path) -> None:
    result = trained(name, tmp_path)
    select = toys.ALL[name].program(toys.ALL[name].Config()).select
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: select.score(row[f"valid_{select.name}"]))
    assert result["best_step"] == best["step"]
    assert result[f"valid_{select.name}"] == best[f"valid_{select.name}"]
    assert result["select"] == select.name
    assert result["higher_is_better"] == select.higher_is_better
    assert select.score(rows[-1][f"valid_{select.name}"]) > select.score(
        rows[0][f"valid_{select.name}"]
    ), "it learns"
    assert f"test {select.name}" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "search"),
    [
        pytest.param(name, search, marks=quick.get((name, search), slow))
        for quick in [
            {("policy", "grid"): (), ("policy", "halving"): (), ("gan", "pbt"): pytest.mark.long}
        ]
        for name in RATES
        for search in SEARCHES
    ],
)
def test_a_sweep_ends_in_a_page_with_the_right_winner(
    name: str, search: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = toys.ALL[name]
    axes = read_axes([RATES[name]], options(module.Config))
    asked = Sweep(
        toys.experiment(module, name), module.Config(), axes, SEARCHES[search], "./launch.sh sweep"
    )
    assert run.main(asked, tmp_path, overwrite=False) == 0
    rows = [json.loads(line) for line in (tmp_path / "sweep.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    program = module.program(module.Config())
    whole = [row for row in rows if row["evaluations_done"] == program.evaluations]
    whole = [row for row in whole if row["status"] == "finished"]
    key = f"valid_{program.select.name}"
    best = max(whole, key=lambda row: program.select.score(row[key]))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["best_learning_rate"] == best["learning_rate"]
    assert result[key] == best[key]
    assert all(math.isfinite(row["score"]) for row in whole)
    printed = capsys.readouterr().out.splitlines()
    first = next(line for line in printed if line.startswith("1 "))
    assert first.split()[1] == f"{best['learning_rate']:g}"
    page = (tmp_path / "report.html").read_text()
    assert page.index(f"{best[key]:.4f}") > 0
    if search == "halving":
        assert min(row["evaluations_done"] for row in rows) < program.evaluations
    if search == "pbt":
        given = {float(text) for text in RATES[name].partition("=")[2].split(",")}
        assert {row["learning_rate"] for row in rows} != given, "some go on with other values"
    if name == "lengths" and search != "pbt":
        assert [row["status"] for row in rows].count("diverged") == 1


def test_a_second_optimizer_has_flags_of_its_own() -> None:
    fields = options(toys.GanConfig)
    assert {"learning_rate", "critic_learning_rate", "critic_clip_norm"} <= set(fields)
    assert fields["critic_learning_rate"].traced
    slow_critic = toys.GanConfig(critic_learning_rate=1e-9)
    assert slow_critic.learning_rate == toys.GanConfig().learning_rate
