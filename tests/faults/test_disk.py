"""Real runs that a file system refuses: one sentence, and the same command goes on."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.harness.checkpoint import damage, steps_in
from tests.faults.processes import ALWAYS_SAVING, Launch, Process, Record, row_count

pytestmark = pytest.mark.long


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in place of the run directory."""
    folder = tmp_path / "run"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def said_at_the_end(process: Process) -> str:
    """The one line of a run that could not write."""
    status, said = process.end(), process.said()
    assert status == 2, said
    assert len(said) == 1, said
    return said[0]


@pytest.mark.fault("R4")
def test_a_run_whose_disk_is_full_says_so_and_goes_on_once_there_is_room(
    launch: Launch, small_disk: Path, record_property: Record
):
    record_property("full disks", 1)
    latest = small_disk / "checkpoints" / "latest"
    with launch(ALWAYS_SAVING) as process:
        process.wait_until(lambda: row_count(small_disk) > 0)
        with open(small_disk / "filler", "wb", 0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        line = said_at_the_end(process)
    assert "cannot be written: No space left on device" in line
    assert f"(the file system at {small_disk} has 0.0 MB free)" in line
    last = steps_in(latest)[-1]
    assert last > 0
    assert damage(latest / str(last)) == ""
    (small_disk / "filler").unlink()
    with launch() as process:
        process.wait_until(lambda: "goes on" in process.out.read_text())
        assert process.first_step() == last


@pytest.mark.fault("R6")
def test_a_run_whose_checkpoints_become_a_file_ends_with_a_sentence(launch: Launch):
    """As a folder in which it may not write, but for every user."""
    with launch(ALWAYS_SAVING) as process:
        latest = process.run / "checkpoints" / "latest"
        process.wait_until(lambda: row_count(process.run) > 0)
        latest.rename(process.run / "gone")
        latest.write_text("")
        line = said_at_the_end(process)
    assert line.startswith(f"error: A checkpoint in {latest} cannot be written: Not a directory")
