"""Each value alone and all together: which members, what they have gained, and the page."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import __main__, sequential_digits
from experiments.harness.config import options
from experiments.harness.errors import UserError
from experiments.sweep.alone import compared, message, numbers, table
from experiments.sweep.axes import alone, read_axes
from experiments.sweep.ranking import ranked
from recurrent.training.task import Metric
from tests import toys

OPTIONS = options(sequential_digits.Config)
BASE = {name: option.default for name, option in OPTIONS.items()}
NOT_SWEPT = {"l1": 0.0, "weight_decay": 0.0}


def members(*texts: str) -> list[dict[str, Any]]:
    return alone(read_axes(texts, OPTIONS), BASE)


def test_each_value_stands_alone_and_the_first_ones_together() -> None:
    assert members("l1=0.1,0.2", "weight_decay=0.3") == [
        NOT_SWEPT,
        {"l1": 0.1, "weight_decay": 0.0},
        {"l1": 0.2, "weight_decay": 0.0},
        {"l1": 0.0, "weight_decay": 0.3},
        {"l1": 0.1, "weight_decay": 0.3},
    ]
    found = members("l1=0.1", "seed=3,5", "weight_decay=0.3")
    assert [each["seed"] for each in found] == [3, 5] * 4
    assert found[0] == NOT_SWEPT | {"seed": 3}


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UserError, match="two fields or more beside the seed"):
        members("l1=0.1,0.2", "seed=0:3")
    with pytest.raises(UserError, match=r"--sweep=l1: 0.0 is its value without the sweep"):
        members("l1=0,0.1", "weight_decay=0.3")
    with pytest.raises(UserError, match="--sweep=l1: a grid needs a count"):
        members("l1=linear:0.1:0.2", "weight_decay=0.3")


def outcomes(seeds: int) -> list[dict[str, Any]]:
    """Members whose test loss is 1 less with l1, and 3 less with both, give or take 0.1."""
    rows = []
    axes = ["l1=0.1", "weight_decay=0.3", f"seed=0:{seeds}"]
    for number, values in enumerate(members(*axes)):
        gain = (values["l1"] > 0) * 1.0 + (values["l1"] > 0 and values["weight_decay"] > 0) * 2.0
        loss = 5 - gain + 0.1 * (-1) ** values["seed"]
        own = {"member": number, "status": "finished", "evaluations_done": 2, "score": -loss}
        rows.append({**values, **own, "valid_loss": loss, "test_loss": loss})
    return rows


def test_gains_are_measured_in_spreads_of_the_seeds() -> None:
    loss = Metric("loss", higher_is_better=False)
    found = compared(ranked(outcomes(2), ["l1", "weight_decay", "seed"]), BASE, loss)
    assert [each.name for each in found] == ["all together", "l1 0.1", "none", "weight_decay 0.3"]
    spread = np.std([5.1, 4.9], ddof=1)  # of both, so that of their mean variance too
    assert [each.gain for each in found] == pytest.approx([3, 1, 0, 0])
    assert [each.spreads for each in found] == pytest.approx([3 / spread, 1 / spread, 0, 0])
    said = numbers(found, [loss])
    assert said["none_test_loss"] == pytest.approx(5)
    assert (said["best_alone"], said["gain_in_spreads"]) == ("all together", found[0].spreads)
    assert "all together, 2 against 5, 21.2 spreads" in message(found, loss)


def test_one_seed_has_no_spread() -> None:
    loss = Metric("loss", higher_is_better=False)
    found = compared(ranked(outcomes(1), ["l1", "weight_decay", "seed"]), BASE, loss)
    assert [each.spreads for each in found] == [None] * 4
    assert found[0].gain == pytest.approx(3)


def test_members_that_diverged_have_no_gain() -> None:
    loss = Metric("loss", higher_is_better=False)
    rows = outcomes(2)
    for row in rows[2:4]:
        row |= {"status": "diverged", "score": None, "test_loss": None}
    found = compared(ranked(rows, ["l1", "weight_decay", "seed"]), BASE, loss)
    assert (found[-1].name, found[-1].gain, found[-1].spreads) == ("l1 0.1", None, None)
    shown = table(found, toys.FIT.program(toys.FIT.Config()))
    assert [row[0] for row in shown.rows] == ["all together", "none", "weight_decay 0.3", "l1 0.1"]
    assert shown.rows[0][-2:] == ["+3.0000", "+21.2"]
    assert shown.rows[-1][1] == "diverged"


@pytest.mark.long
def test_the_page_shows_every_seed_and_the_weights(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    sweeps = ["--sweep=l1=0.01", "--sweep=early_stopping=true", "--sweep=seed=0:2"]
    sizes = ["--epochs=2", "--hidden_size=8", "--examples=60"]
    command = ["sweep", "regularization", "--search=alone", "--keep_all", *sizes, *sweeps]
    assert __main__.main([*command, f"--workdir={folder}"]) == 0
    names = {file.name for file in (folder / "figures").iterdir()}
    assert names == {"ranking.csv", "alone.png", "training_and_validation.png", "weights.png"}
    rows = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    result = json.loads((folder / "result.json").read_text())
    none = [row["test_accuracy"] for row in rows if not row["l1"] and not row["early_stopping"]]
    assert result["none_test_accuracy"] == pytest.approx(np.mean(none))
    assert math.isfinite(result["gain"])
