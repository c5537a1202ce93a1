"""What an experiment gets wrong about its program is a sentence, before anything is trained."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest

from experiments.harness import run
from experiments.harness.checks import check_program
from experiments.harness.errors import UserError
from experiments.harness.processes import Hardware
from experiments.harness.program import Exhibit, Finished, Program, Text
from recurrent.losses import Average
from recurrent.training import Metric, Task
from tests import toys

CONFIG = toys.FitConfig(evaluations=2)
PROGRAM = toys.fit(CONFIG)


def evaluating(value: Any) -> Program:
    task = PROGRAM.task._replace(evaluate=lambda kept, hparams, data: {"loss": value})
    return PROGRAM._replace(task=task)


BARE = Task(
    init=lambda hparams: {"n": jnp.int32(0)},
    train=lambda state, hparams, data, steps: (state, {}),
    evaluate=PROGRAM.task.evaluate,
)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (PROGRAM._replace(report=Metric("los", False)), "no metric 'los' among .*: loss"),
        (PROGRAM._replace(select=Metric("x", True)), "no metric 'x' among"),
        (PROGRAM._replace(data={"train": (), "valid": ()}), "got none called 'test'; give"),
        (evaluating(jnp.float32(1)), "expected 'loss' to be a recurrent.losses.Average"),
        (evaluating(Average(jnp.ones(2), jnp.ones(2))), "of two scalars"),
        (PROGRAM._replace(task=BARE), "failures: expected a TrainState, got dict; give the Task"),
        (
            PROGRAM._replace(task=BARE._replace(failures=lambda state: state["n"])),
            "keep: expected a TrainState, got dict; give the Task one",
        ),
    ],
)
def test_a_program_that_does_not_fit_together_is_refused(program: Program, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_program(program, CONFIG)


def test_the_programs_of_all_toys_fit_together() -> None:
    for module in toys.ALL.values():
        check_program(module.program(module.Config()), module.Config())


def test_a_task_without_training_metrics_and_with_python_numbers_trains(tmp_path: Path) -> None:
    def evaluate(kept: Any, hparams: Any, data: Any) -> Any:
        return {"size": Average(jnp.float32(kept), jnp.float32(1))}

    task = Task(
        init=lambda hparams: {"n": 0},
        train=lambda state, hparams, data, steps: ({"n": state["n"] + steps}, {}),
        evaluate=evaluate,
        keep=lambda state: state["n"],
        failures=lambda state: jnp.int32(0),
    )
    size = Metric("size", higher_is_better=True)
    program = PROGRAM._replace(task=task, select=size, report=size)
    trained = run.train(program, CONFIG, tmp_path)
    assert int(trained.finished.kept) == 10
    assert trained.finished.rows[-1] == {"step": 10, "evaluation": 2, "valid_size": 10.0}


@pytest.mark.long
def test_an_evaluation_that_counted_nothing_is_never_the_best(tmp_path: Path) -> None:
    """A loss of nothing is not a loss of zero."""
    task = PROGRAM.task._replace(
        evaluate=lambda kept, hparams, data: {"loss": Average(jnp.float32(0), jnp.float32(0))}
    )
    trained = run.train(PROGRAM._replace(task=task), CONFIG, tmp_path)
    assert trained.outcome["best_step"] == 0
    assert trained.outcome["status"] == "finished"


@pytest.mark.long
def test_an_exhibit_that_fails_costs_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhibits(finished: Finished) -> Iterator[Exhibit]:
        yield Text("words", "Words", "", "fine")
        raise RuntimeError("no ink")

    module = toys.module(toys.FitConfig, lambda config: PROGRAM._replace(exhibits=exhibits))
    asked = run.Asked(
        toys.experiment(module), CONFIG, tmp_path, False, Hardware(), "./launch.sh toy"
    )
    assert run.main(asked) == 0
    assert "the exhibits cannot be drawn (RuntimeError: no ink)" in capsys.readouterr().err
    assert json.loads((tmp_path / "result.json").read_text())["steps"] == 10
    assert (tmp_path / "report.html").exists()


@pytest.mark.long
def test_the_progress_of_a_task_shows_validation_where_training_has_no_such_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []

    class Display:
        def __enter__(self) -> Any:
            return lambda step, message, stage: messages.append(message)

        def __exit__(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(run, "progress", lambda total: Display())
    config = toys.GanConfig(evaluations=2)
    run.train(toys.gan(config), config, tmp_path)
    assert messages[-1].startswith("valid distance ")
