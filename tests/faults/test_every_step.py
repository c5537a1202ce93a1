"""A run restored at each of its steps goes on to the same bits."""

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.harness import loop
from experiments.harness.loop import Observer
from experiments.harness.plan import plan_of_run
from experiments.harness.stopping import Stopped
from tests.faults.processes import Record, arrays, saved_steps
from tests.toys import FIT_STEPS, FitConfig, fit

CONFIG = FitConfig(evaluations=4, steps_per_call=1, schedule="cosine")
STEPS = CONFIG.evaluations * FIT_STEPS

pytestmark = pytest.mark.usefixtures("compiled_once")


def trained(folder: Path, stops: Sequence[int] = ()) -> None:
    observer = Observer(lambda *_: None, lambda *_: None, lambda *_: None, lambda *_: None)
    loop.train(plan_of_run(fit(CONFIG), CONFIG), folder, observer, stops)


def results(folder: Path) -> tuple[Any, ...]:
    """The rows, and the bits of the last checkpoints."""
    kept = [arrays(folder / "checkpoints" / name) for name in ("latest", "best")]
    return (folder / "metrics.jsonl").read_bytes(), *kept


@pytest.mark.long
@pytest.mark.fault("R9", "R10")
def test_every_suffix_of_a_run_of_twenty_steps_ends_at_the_same_bits(
    tmp_path: Path, record_property: Record
):
    """The schedule goes on as well: the last steps have other learning rates than the first."""
    trained(tmp_path / "whole")
    for step in range(1, STEPS):
        with pytest.raises(Stopped):
            trained(tmp_path / "chain", [signal.SIGTERM])  # one step further
        assert saved_steps(tmp_path / "chain/checkpoints/latest")[-1] == step
        shutil.copytree(tmp_path / "chain", tmp_path / "suffix")
        trained(tmp_path / "suffix")
        assert results(tmp_path / "suffix") == results(tmp_path / "whole")
        shutil.rmtree(tmp_path / "suffix")
    record_property("suffixes", STEPS - 1)
