"""What TensorBoard reads of a run: metrics by step, hyperparameters beside the final metrics."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from experiments.harness.plan import DIVERGED, FINISHED
from experiments.harness.run import train
from experiments.harness.tensorboard import event_writer
from tests.experiments.run_files import assert_events, events_in, events_of
from tests.toys import FitConfig, fit

HPARAMS = {"learning_rate": 0.5, "layers": 2, "cell": "lstm", "shuffle": True}
OUTCOME = {
    "status": FINISHED,
    "step": 30,
    "best_step": 20,
    "valid_loss": 0.25,
    "test_loss": 0.5,
    "test_top_5": 1.0,
}


def plugin_data(folder: Path) -> dict[str, Any]:
    """What the page of hyperparameters reads, by its tag."""
    from tensorboardX.proto import plugin_hparams_pb2

    proto: Any = plugin_hparams_pb2
    return {
        value.tag: proto.HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events_in(folder)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    }


def fields(folder: Path) -> dict[str, Any]:
    """The hyperparameters of a run, by name."""
    start = plugin_data(folder)["_hparams_/session_start_info"].session_start_info
    return {name: getattr(x, x.WhichOneof("kind")) for name, x in start.hparams.items()}


def test_the_page_of_hyperparameters_has_every_field_and_the_final_metrics(tmp_path: Path) -> None:
    with event_writer(tmp_path / "events", HPARAMS, ["loss"]) as events:
        events.add({"step": 10, "evaluation": 1, "valid_loss": 0.75})
        assert fields(tmp_path) == HPARAMS, "which are there while it trains"
        assert "_hparams_/session_end_info" not in plugin_data(tmp_path)
        events.end(OUTCOME)
    experiment = plugin_data(tmp_path)["_hparams_/experiment"].experiment
    assert {info.name for info in experiment.hparam_infos} == {*HPARAMS}
    shown = {info.name.tag for info in experiment.metric_infos}
    assert shown == {"best/loss", "test/loss"}
    assert events_of(tmp_path) == {
        ("valid/loss", 10): 0.75,
        ("best/loss", 20): 0.25,
        ("test/loss", 20): 0.5,
        ("test/top_5", 20): 1.0,
    }
    assert plugin_data(tmp_path)["_hparams_/session_end_info"].session_end_info.status == 1


@pytest.mark.parametrize("best_step", [0, 20])
def test_a_run_that_diverged_has_no_success_and_only_the_numbers_of_its_best(
    tmp_path: Path, best_step: int
) -> None:
    with event_writer(tmp_path / "events", HPARAMS, ["loss"]) as events:
        events.add({"step": 10, "evaluation": 1, "valid_loss": None})
        events.end(OUTCOME | {"status": DIVERGED, "best_step": best_step})
    assert "_hparams_/session_end_info" not in plugin_data(tmp_path)
    best = {("best/loss", 20), ("test/loss", 20), ("test/top_5", 20)}
    assert {*events_of(tmp_path)} == (best if best_step else set())


def test_an_end_that_is_written_again_hides_no_row(tmp_path: Path) -> None:
    """As after a crash between the end of training and the result."""
    with event_writer(tmp_path / "events", HPARAMS, ["loss"]) as events:
        events.add({"step": 30, "evaluation": 1, "valid_loss": 0.75})
        events.end(OUTCOME)
    before = events_of(tmp_path)
    with event_writer(tmp_path / "events", HPARAMS, ["loss"]) as events:
        events.end(OUTCOME)
    assert len([*(tmp_path / "events").iterdir()]) == 2
    assert events_of(tmp_path) == before
    assert ("valid/loss", 30) in before


@pytest.mark.long
def test_a_run_shows_its_config(tmp_path: Path) -> None:
    config = FitConfig(evaluations=2, seed=3)
    outcome = train(fit(config), config, tmp_path).outcome
    assert fields(tmp_path) == dataclasses.asdict(config)
    assert_events(tmp_path, outcome)
