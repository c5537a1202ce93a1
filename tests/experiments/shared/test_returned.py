"""What an experiment's own functions return wrongly is said with the line of the function."""

import inspect
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.checks import check_program, with_checked_training
from experiments.harness.errors import UserError
from experiments.harness.mistakes import explained
from experiments.harness.program import Program
from experiments.shared.tasks import (
    MinibatchConfig,
    TbpttConfig,
    minibatch_program,
    tbptt_task,
)
from recurrent.losses import Average, masked_average
from recurrent.training import Metric
from tests import toys

DATA = {name: {"x": np.ones((5, 2), np.float32)} for name in ("train", "valid", "test")}
ERROR = Metric("error", higher_is_better=False)
CONFIG = MinibatchConfig(batch_size=3, epochs=1)


def init(key: Any) -> Any:
    return jnp.zeros(2)


def errors_of(params: Any, batch: Any) -> Any:
    return ((batch["x"] - params) ** 2).mean(axis=1)


def measure(params: Any, batch: Any, hparams: Any) -> Any:
    return {"error": masked_average(errors_of(params, batch), batch["mask"])}


def line_of(function: Any) -> int:
    return inspect.getsourcelines(function)[1]


def made(**own: Any) -> Program:
    given: dict[str, Any] = {"measure": measure, "loss": None, "select": ERROR, "report": None}
    given |= own
    measured, select = given.pop("measure"), given.pop("select")
    return minibatch_program(CONFIG, DATA, init, measured, select, **given)


MEASURED = {
    "a vector": lambda p, b, h: {"error": errors_of(p, b)},
    "a number": lambda p, b, h: errors_of(p, b).mean(),
    "nothing": lambda p, b, h: None,
    "pair": lambda p, b, h: (errors_of(p, b).mean(), measure(p, b, h)),
    "wide average": lambda p, b, h: {"error": Average(errors_of(p, b), b["mask"])},
    "another name": lambda p, b, h: {"eror": measure(p, b, h)["error"]},
    "too few arguments": lambda p, b: measure(p, b, {}),
}
SAID = {
    "a vector": r"expected 'error' to be a .*Average of two scalars, .*got float32\[8\]",
    "a number": r"expected it to return a dict of metrics, .*got float32\[\]",
    "nothing": r"a dict of metrics, .*got None",
    "pair": r"a dict of metrics, .*got \(float32\[\], \{error: Average\(",
    "wide average": r"of two scalars, .*got Average\(total=float32\[8\], weight=bool\[8\]\)",
    "another name": r"there is no metric 'error' among those that it returns: eror\. Give it",
    "too few arguments": r"expected it to take \(params, batch, hparams\), got \(p, b\)",
}


@pytest.mark.parametrize("name", MEASURED)
def test_a_wrong_measure_is_said_with_its_line(name: str) -> None:
    own = MEASURED[name]
    words = rf"^measure \({__file__}, line {line_of(own)}\): .*{SAID[name]}"
    with pytest.raises(UserError, match=words):
        check_program(made(measure=own), CONFIG)


LOST = {
    "a number": lambda p, b, k, h: errors_of(p, b).mean(),
    "a vector": lambda p, b, k, h: (errors_of(p, b), {}),
    "an average": lambda p, b, k, h: (measure(p, b, h)["error"], {}),
    "a count": lambda p, b, k, h: (b["mask"].sum(), {}),
    "a metric": lambda p, b, k, h: (errors_of(p, b).mean(), {"error": errors_of(p, b)}),
    "as measured": measure,
}
LOST_SAID = {
    "a number": r"expected it to return \(scalar, metrics\), got float32\[\]",
    "a vector": r"one floating-point number first, .*got float32\[3\]",
    "an average": r"one floating-point number first, .*got Average\(total=float32\[\]",
    "a count": r"one floating-point number first, .*got int32\[\]",
    "a metric": r"expected 'error' to be a .*got float32\[3\]",
    "as measured": r"to take \(params, batch, key, hparams\), got \(params, batch, hparams\)",
}


@pytest.mark.parametrize("name", LOST)
def test_a_wrong_loss_is_said_with_its_line_before_anything_is_written(name: str) -> None:
    own = LOST[name]
    words = rf"^loss \({__file__}, line {line_of(own)}\): .*{LOST_SAID[name]}"
    with pytest.raises(UserError, match=words):
        made(loss=own)


def test_a_sound_loss_sees_what_training_gives_it() -> None:
    seen = {}

    def loss(params: Any, batch: Any, key: Any, hparams: Any) -> Any:
        seen.update(batch | hparams)
        return errors_of(params, batch).mean(), measure(params, batch, hparams)

    check_program(made(loss=loss), CONFIG)
    assert seen["x"].shape == (3, 2), "as many as in a batch"
    assert seen["mask"].shape == (3,)
    assert seen["seed"].dtype == jnp.int32
    assert seen["learning_rate"].dtype == jnp.float32


def test_the_name_of_a_metric_is_no_metric() -> None:
    with pytest.raises(UserError, match=r"expected a .*Metric, such as Metric\(.*got 'error'"):
        made(select="error")


@pytest.mark.long
def test_functions_of_a_long_sequence_are_checked_too() -> None:
    config = TbpttConfig(batch_size=2, window=3)
    wrong: Any = lambda params, batch, key, carry, hparams: (0.0, {})  # noqa: E731
    right: Any = lambda params, batch, carry, hparams: ({}, carry)  # noqa: E731
    sizes = {"tokens": 20, "evaluation_streams": 1}
    task = tbptt_task(config, init, lambda params, streams: (), wrong, right, **sizes)
    hparams = {"seed": 0, "learning_rate": 0.1, "weight_decay": 0.0, "l1": 0.0}
    hparams |= dict.fromkeys(("momentum", "beta1", "beta2", "epsilon", "clip_norm"), 0.9)
    hparams["clip_value"] = 0.0
    words = rf"^loss \({__file__}, line {line_of(wrong)}\): .*\(metrics, carry\), got \{{\}}"
    with pytest.raises(UserError, match=words):
        task.train(task.init(hparams), hparams, {"tokens": jnp.arange(20)}, 1)
    with pytest.raises(UserError, match=r"measure .*to take \(params, batch, carry, hparams\)"):
        tbptt_task(config, init, lambda params, streams: (), wrong, measure, **sizes)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda state: state, r"expected it to return \(state, metrics\)"),
        (lambda state: (state, {"loss": 1.0}), "expected 'loss' to be .* got float"),
        (lambda state: (state, None), "a dict of metrics, .*got None"),
    ],
)
def test_a_task_that_trains_to_something_else_is_said_with_its_line(found: Any, words: str) -> None:
    def train(state: Any, hparams: Any, data: Any, steps: int) -> Any:
        return found(state)

    program = toys.fit(toys.FitConfig(evaluations=2))
    checked = with_checked_training(program._replace(task=program.task._replace(train=train)))
    place = rf"^Task.train \({__file__}, line {line_of(train)}\): .*"
    with pytest.raises(UserError, match=place + words):
        checked.task.train(0, {}, (), 1)


def test_an_error_of_the_library_is_placed_where_its_cause_came_up(tmp_path: Path) -> None:
    from experiments.harness.user_files import load_file

    (tmp_path / "own.py").write_text("def fail():\n    return 1 / 0\n")
    own = load_file(tmp_path / "own.py")

    def library() -> None:
        try:
            own.fail()
        except ZeroDivisionError as cause:
            raise ValueError("worded by the library") from cause

    with pytest.raises(ValueError, match="worded by") as caught:
        library()
    said = f"worded by the library ({tmp_path}/own.py, line 2)"
    assert said in explained(caught.value)
