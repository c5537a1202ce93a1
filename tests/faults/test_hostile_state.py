"""What a checkpoint says of a training, in notes written by hand, is checked before it goes on."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from experiments.harness import loop, manifest
from experiments.harness.errors import UserError
from experiments.harness.loop import Observer
from experiments.harness.notes import state_of
from experiments.harness.plan import fresh_state, plan_of_run, to_json
from experiments.harness.stopping import Stopped
from tests.faults.processes import Record
from tests.toys import FitConfig, fit

pytestmark = pytest.mark.usefixtures("compiled_once")
CONFIG = FitConfig(evaluations=2, steps_per_call=5)


def trained(folder: Path, *stops: int) -> None:
    observer = Observer(lambda *_: None, lambda *_: None, lambda *_: None, lambda *_: None)
    loop.train(plan_of_run(fit(CONFIG), CONFIG), folder, observer, stops)


HOSTILE: dict[str, Any] = {
    "slots": [None, 1, "0", [], {}, [0, 0], [1], ["0"], [None] * 9, [0.5], [True]],
    "started": [None, -1, 7, "1", 0.5, []],
    "evaluation": [None, -1, 3, 99, "1", 0.5, True, 10**400],
    "step_in_evaluation": [None, -1, 5, 99, "1", 1.5],
    "divergence_threshold": [None, "low", [], {}],
    "outcomes": [None, 1, "x", [1], [{}], [{"status": "diverged"}]],
    "best_metrics": [None, [], {"x": 1}, {"0": 1}, {"7": {}}],
    "best_values": [None, [], {"x": 1}, {"0": 1}],
    "values": [None, [], {"x": {}}, {"0": 3}],
    "memory": [None, [], 3],
    "seconds": [None, "1", [], -1.0],
}


@pytest.mark.fault("S6")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_state_that_cannot_be_is_refused_in_a_sentence(
    tmp_path: Path, name: str, record_property: Record
):
    plan = plan_of_run(fit(CONFIG), CONFIG)
    sound = json.loads(json.dumps(to_json(fresh_state(plan, {}))))
    assert state_of(tmp_path, {"state": sound}, plan) == fresh_state(plan, {})
    for value in HOSTILE[name]:
        with pytest.raises(UserError, match=r"of no state of this training.*Restore it"):
            state_of(tmp_path, {"state": sound | {name: value}}, plan)
    record_property("hostile states", len(HOSTILE[name]))


@pytest.mark.fault("S6")
@pytest.mark.parametrize("notes", [{}, {"state": {}}, {"state": []}, {"state": {"slots": [0]}}])
def test_notes_without_a_state_are_refused_in_a_sentence(tmp_path: Path, notes: dict[str, Any]):
    with pytest.raises(UserError, match="of no state of this training"):
        state_of(tmp_path, notes, plan_of_run(fit(CONFIG), CONFIG))


@pytest.mark.long
@pytest.mark.fault("S6")
def test_a_checkpoint_of_another_state_is_left_alone(tmp_path: Path):
    with pytest.raises(Stopped):
        trained(tmp_path, signal.SIGTERM)
    latest = tmp_path / "checkpoints" / "latest"
    write_state(latest / "5", {"slots": [1]})
    before = {path: path.read_bytes() for path in latest.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=rf"newest checkpoint in {latest} .*\(slots\)"):
        trained(tmp_path)
    assert {path: path.read_bytes() for path in latest.rglob("*") if path.is_file()} == before


def write_state(folder: Path, change: dict[str, Any]) -> None:
    """Changes the state in a checkpoint, and the manifest with it."""
    file = folder / "notes" / "metadata"
    notes = json.loads(file.read_bytes())
    notes["state"] |= change
    file.write_text(json.dumps(notes))
    (folder / manifest.NAME).unlink()
    manifest.seal(folder)
