"""The progress of a sweep: one count and one best over all of its programs."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from experiments.harness import loop
from experiments.harness.config import options
from experiments.harness.plan import Plan, SweepState
from experiments.harness.program import Program
from experiments.sweep import progress, run
from experiments.sweep.axes import read_axes
from experiments.sweep.flags import Settings, Sweep
from recurrent.losses import Average
from recurrent.training import Metric
from tests import toys
from tests.toys import FIT_EVALUATIONS, FIT_STEPS, LOSS, FitConfig, fit

MEMBERS, STEPS = 6, FIT_STEPS * FIT_EVALUATIONS
TEXTS = ("degree=2,1", "learning_rate=0.003,0.1,1e10")


def with_another_to_read(config: Any) -> Program:
    """The fit, read by a metric that has no relation to the one that selects."""
    program = fit(config)

    def evaluate(*given: Any) -> Any:
        return program.task.evaluate(*given) | {"size": Average(jnp.float32(5), jnp.float32(1))}

    size = Metric("size", higher_is_better=True)
    return program._replace(task=program.task._replace(evaluate=evaluate), report=size)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, Any]]:
    """What the display is told, with the total at first."""
    calls: list[tuple[int, str, Any]] = []

    @contextlib.contextmanager
    def display(total: int) -> Iterator[Any]:
        calls.append((total, "", None))
        yield lambda *given: calls.append(given)

    monkeypatch.setattr(run, "progress", display)
    return calls


def sweep(folder: Path, stop_after: float = float("inf")) -> None:
    """Trains a sweep, or dies before so many evaluations are over."""
    evaluated, calls = loop.evaluated, []

    def counted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) > stop_after:
            raise KeyboardInterrupt
        return evaluated(*given)

    module = toys.experiment(toys.module(FitConfig, with_another_to_read))
    axes = read_axes(TEXTS, options(FitConfig))
    asked = Sweep(module, FitConfig(steps_per_call=2), axes, Settings(layout="1x1"), "./launch.sh")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluated", counted)
        patch.setattr(loop, "SECONDS_BETWEEN_SAVES", -1)
        run.main(asked, folder, overwrite=False)


def losses(folder: Path) -> list[float]:
    """All validation losses, in the order in which they were measured."""
    rows = []
    for program in (0, 1):
        lines = (folder / f"programs/{program}/metrics.jsonl").read_text().splitlines()
        rows += [json.loads(line) for line in lines]
    return [row["valid_loss"] for row in rows]


def best_in(message: str) -> float | None:
    """The best loss that a message tells; None where it tells none."""
    first, *_ = message.split(", ")
    name, best, value = first.split(" ")[1], *first.split(" ")[::2]
    return float(value) if (best, name) == ("best", "loss") else None


@pytest.mark.long
def test_it_counts_all_programs_and_its_best_is_that_of_the_metric_that_selects(
    tmp_path: Path, shown: list[tuple[int, str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(tmp_path)
    (total, *_), *calls = shown
    assert total == MEMBERS * STEPS
    steps = [step for step, *_ in calls]
    assert steps == sorted(steps)
    assert steps[0] == 3 * 2, "after a call of 2 steps of 3 members"
    assert steps[-1] == total, "a member that diverges counts as a whole training"
    assert calls[0][1] == "0 of 6 ended"
    assert calls[-1][1].endswith(", 6 of 6 ended")
    found = [best_in(message) for _, message, _ in calls]
    told = [value for value in found if value is not None]
    assert told == sorted(told, reverse=True), "it never gets worse"
    assert told[-1] == float(f"{min(losses(tmp_path)):.4g}")
    assert found.count(None) == 2, "the calls before the first evaluation"
    assert len({stage for *_, stage in calls}) == 4, "each program compiles twice"
    assert "goes on" not in capsys.readouterr().out


@pytest.mark.long
def test_a_resume_says_how_far_it_has_come_and_knows_the_best(
    tmp_path: Path, shown: list[tuple[int, str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, stop_after=FIT_EVALUATIONS + 3)
    before = shown[-1]
    shown.clear()
    capsys.readouterr()
    sweep(tmp_path)
    out = capsys.readouterr().out.splitlines()
    (said,) = [line for line in out if line.startswith("goes on")]
    # of the second program one has diverged, and two have taken 3 evaluations and 4 steps
    step = 3 * STEPS + STEPS + 2 * (3 * FIT_STEPS + 4)
    assert said == f"goes on: 4 of 6 members have ended, step {step} of {MEMBERS * STEPS}"
    assert shown[1][0] > step >= before[0]
    first, last = best_in(before[1]), best_in(shown[1][1])
    assert first is not None
    assert last is not None
    assert last <= first


def test_what_waits_or_has_ended_is_counted() -> None:
    config = FitConfig()
    values: list[dict[str, Any]] = [{}] * 4
    plan = Plan(fit(config), config, values, [10, 11, 12, 13], [], None, slots=2)  # pyright: ignore
    state = SweepState(slots=(3, None), step_in_evaluation=2, outcomes=({}, {}))
    assert progress.steps_done(plan, state, [7, 99]) == 2 * STEPS + 7
    rows = [{"member": 13, "step": 5}, {"member": 10, "step": 45}, {"member": 13, "step": 10}]
    assert progress.steps_at_start(plan, state, rows) == 2 * STEPS + 12
    assert progress.steps_at_start(plan, state, []) == 2 * STEPS + 2
    assert progress.whole_of([plan, plan], 3) == (24, 24 * STEPS)


@pytest.mark.parametrize(
    ("higher", "values", "best"),
    [(False, [0.5, None, 0.25, 0.75], 0.25), (True, [0.5, None, 0.25], 0.5), (True, [None], None)],
)
def test_the_best_goes_by_the_direction_of_the_metric(
    higher: bool, values: Sequence[float | None], best: float | None
) -> None:
    select = LOSS._replace(higher_is_better=higher)
    rows = [{"valid_loss": value} for value in values]
    assert progress.best_of(select, None, rows) == best
    assert progress.best_of(select, best, []) == best
