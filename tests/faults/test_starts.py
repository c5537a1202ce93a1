"""Many starts at once in one directory, and command lines that are wrong."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults.processes import COMMAND, FLAGS, PATIENCE, ROOT, Launch, Record, row_count

LONG = (*(flag for flag in FLAGS if "epochs" not in flag), "--epochs=100000")


def started(folder: Path, said: Path, cache: Path) -> subprocess.Popen[bytes]:
    with open(said, "w") as stream:
        return subprocess.Popen(
            [*COMMAND, "sequential_digits", *LONG, f"--workdir={folder}"],
            cwd=ROOT,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )


@pytest.mark.slow
@pytest.mark.fault("R13")
def test_of_ten_starts_at_once_one_trains_and_nine_name_it(
    launch: Launch, tmp_path: Path, cache: Path, record_property: Record
):
    run, said = tmp_path / "run", [tmp_path / f"said-{k}" for k in range(10)]
    starts = [started(run, file, cache) for file in said]
    try:
        deadline = time.monotonic() + PATIENCE
        while sum(each.poll() is None for each in starts) > 1 or not row_count(run):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (owner,) = [each for each in starts if each.poll() is None]
    finally:
        for each in starts:
            each.kill()
            each.wait()
    for each, file in zip(starts, said, strict=True):
        if each is not owner:
            assert each.returncode == 2
            named = f"in use by process {owner.pid} on {os.uname().nodename}"
            assert named in file.read_text().splitlines()[-1]
    assert owner.returncode == -signal.SIGKILL
    with launch(flags=LONG) as heir:
        heir.wait_until(lambda: re.search("begins in|goes on", heir.out.read_text()) is not None)
    record_property("starts at once", len(starts))


@pytest.mark.long
@pytest.mark.fault("S1")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sequential_digits", "--hiden_size=8"], 'Did you mean "hidden_size"'),
        (["sequential_digits", "--cell=lsmt"], 'Did you mean "lstm"'),
        (["sequential_digits", "--hidden_size=0"], "expected at least 1, got 0"),
        (["sequential_digit"], 'Did you mean "sequential_digits"'),
        (["sweep", "char_lm", "--sweep=learning_rat=0.1,1"], 'Did you mean "learning_rate"'),
    ],
)
def test_a_wrong_command_ends_in_three_seconds_before_any_device_is_touched(
    arguments: list[str], words: str, tmp_path: Path, record_property: Record
):
    """Of a processor, since others may use it too; of three tries, as it may be slow to begin."""
    tries = (seconds_until_refused(arguments, words, tmp_path) for _ in range(3))
    seconds = next((each for each in tries if each < 3), None)
    assert seconds is not None
    record_property("seconds of a processor", seconds)


def seconds_until_refused(arguments: list[str], words: str, folder: Path) -> float:
    environment = os.environ | {"JAX_PLATFORMS": "no-such-device", "PYTHONPATH": str(ROOT)}
    command = [*COMMAND, *arguments]
    with open(folder / "said", "w") as stream:
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=stream)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 2
    assert words in (folder / "said").read_text().splitlines()[-1]
    return used.ru_utime + used.ru_stime
