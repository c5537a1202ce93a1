"""What ``ended.json`` says of a program is checked before anything is made of it."""

from pathlib import Path
from typing import Any

import pytest

from experiments.harness.config import options
from experiments.harness.errors import UserError
from experiments.harness.plan import Plan
from experiments.sweep.axes import read_axes
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.planning import planned
from experiments.sweep.run import Ended, checked_end
from tests import toys
from tests.toys import FIT, FitConfig

FILE = Path("programs/0/ended.json")
STEPS = {"evaluations_done": 1, "step": 2, "best_step": 2, "status": "finished"}
OUTCOMES = [
    {**STEPS, "member": member, "learning_rate": rate, "score": -rate, "valid_loss": rate}
    for member, rate in enumerate((0.3, 0.1))
]


@pytest.fixture(scope="module")
def plan() -> Plan:
    axes = read_axes(["learning_rate=0.3,0.1"], options(FitConfig))
    (found,) = planned(Sweep(toys.experiment(FIT), FitConfig(), axes, Settings(), ""))
    return found


def test_the_ends_of_all_members_are_taken(plan: Plan) -> None:
    ended = Ended(OUTCOMES, 1.5, {}, {"data of train": "0a"})
    assert checked_end(FILE, ended, plan) is ended
    lost: list[Any] = [OUTCOMES[1], OUTCOMES[0] | {"score": None, "valid_loss": None}]
    assert checked_end(FILE, Ended(lost, 0, {"rungs": [1]}, {}), plan).outcomes == lost


@pytest.mark.parametrize(
    "changed",
    [
        {"member": "0"},
        {"member": 1},
        {"member": True},
        {"step": None},
        {"best_step": [2]},
        {"evaluations_done": 1.5},
        {"score": "high"},
        {"valid_loss": {}},
    ],
)
def test_an_outcome_of_something_else_is_a_sentence(changed: dict[str, Any], plan: Plan) -> None:
    with pytest.raises(UserError, match=r"ended\.json is damaged: .*Restore it"):
        checked_end(FILE, Ended([OUTCOMES[0] | changed, OUTCOMES[1]], 1.5, {}, {}), plan)


@pytest.mark.parametrize("name", OUTCOMES[0])
def test_an_outcome_that_lacks_a_field_is_a_sentence(name: str, plan: Plan) -> None:
    lacking = {key: value for key, value in OUTCOMES[0].items() if key != name}
    if name == "valid_loss":  # as of a member that has diverged before its first evaluation
        checked_end(FILE, Ended([lacking, OUTCOMES[1]], 1.5, {}, {}), plan)
        return
    with pytest.raises(UserError, match=r"ended\.json is damaged"):
        checked_end(FILE, Ended([lacking, OUTCOMES[1]], 1.5, {}, {}), plan)


@pytest.mark.parametrize(
    ("outcomes", "seconds", "memory", "data"),
    [
        ({}, 1.5, {}, {}),
        (OUTCOMES[:1], 1.5, {}, {}),
        ([*OUTCOMES, OUTCOMES[0]], 1.5, {}, {}),
        ([[[]], OUTCOMES[1]], 1.5, {}, {}),
        (OUTCOMES, "long", {}, {}),
        (OUTCOMES, 1.5, [], {}),
        (OUTCOMES, 1.5, {}, []),
        (OUTCOMES, 1.5, {}, {"data of train": 1}),
        (None, None, None, None),
    ],
)
def test_what_is_no_end_is_a_sentence(
    outcomes: Any, seconds: Any, memory: Any, data: Any, plan: Plan
) -> None:
    with pytest.raises(UserError, match=r"ended\.json is damaged"):
        checked_end(FILE, Ended(outcomes, seconds, memory, data), plan)
