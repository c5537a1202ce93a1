"""A run compiles its step once for each shape, whatever its batches and its resumes."""

import logging
import signal
from pathlib import Path

import jax
import pytest

from experiments.harness import loop
from experiments.harness.loop import Observer
from experiments.harness.plan import plan_of_run
from experiments.harness.stopping import Stopped
from tests.faults.processes import Record
from tests.toys import LENGTHS, LengthsConfig

CONFIG = LengthsConfig(epochs=3, steps_per_call=5)  # 5 batches of 16, of which the last holds 8


def trained(folder: Path, *stops: int) -> None:
    observer = Observer(lambda *_: None, lambda *_: None, lambda *_: None, lambda *_: None)
    loop.train(plan_of_run(LENGTHS.program(CONFIG), CONFIG), folder, observer, stops)


def compilations(caplog: pytest.LogCaptureFixture) -> int:
    """How often the training step was compiled."""
    said = [record.getMessage() for record in caplog.records]
    return sum(text.startswith("Finished XLA compilation of jit(train)") for text in said)


@pytest.mark.long
@pytest.mark.fault("N7")
def test_ragged_batches_a_short_last_one_and_evaluations_are_one_compilation_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Record
):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        with pytest.raises(Stopped):
            trained(tmp_path, signal.SIGTERM)
        assert compilations(caplog) == 1
        trained(tmp_path)  # from the second epoch
        assert compilations(caplog) == 2
    record_property("compilations of a step in two starts", compilations(caplog))
