"""A save that is killed at any moment leaves the checkpoint before it, or the new one, whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.processes import ROOT, Record

# It imports once, and forks a process for each kill before any thread is started. A process that
# saves counts what it is about to do in its folder, by Python's audit events, and ends itself
# before one of them. What is written by C++, the data of arrays, lies between two of these.
CODE = """
import os, signal, sys
from pathlib import Path
import numpy as np
import orbax.checkpoint
from experiments.harness import commit
from experiments.harness.checkpoint import checkpoints, restore, save, steps_in

base = Path(sys.argv[1])
LOOKS = {"os.listdir", "os.scandir"}  # which change nothing

def tree(step):
    return {"kernel": np.random.default_rng(step).normal(size=(64, 192)).astype(np.float32)}

def saved(folder, *steps):
    with checkpoints(folder, keep=1) as manager:
        for step in steps:
            save(manager, step, tree(step), {"step": step})

def killed_at(folder, place):
    events = []
    def count(event, arguments):
        if event.split(".")[0] not in ("open", "os", "shutil") or event in LOOKS:
            return
        if not any(str(folder) in str(each) for each in arguments):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        events.append(event)
        if len(events) == place:
            print("at", event, arguments[0] if event != "os.rename" else arguments[1], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    saved(folder, 7)
    print("events", len(events), flush=True)

def looked_at(folder):
    with checkpoints(folder, read_only=True) as manager:
        before, found = steps_in(folder), restore(manager, tree(3), leave=True)
    step = found[1]["step"]
    assert (found[0]["kernel"] == tree(step)["kernel"]).all()
    saved(folder, 9)
    saved(folder, 11)
    left = sorted(entry.name for entry in folder.iterdir())
    assert left == ["11"], left
    print("restored", step, "of", *before, flush=True)

def forked(function, *given):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            function(*given)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

place = 1
while True:
    folder = base / f"kill-{place}"
    assert forked(saved, folder, 3) == 0
    print("kill", place, flush=True)
    status = forked(killed_at, folder, place)
    assert status in (0, -signal.SIGKILL), status
    assert forked(looked_at, folder) == 0
    if status == 0:
        break
    place += 1
"""


def phase(place: str) -> str:
    """The phase of a save, from what it was about to do."""
    event, path = place.split()
    folder, name = Path(path).parent.name, Path(path).name
    if "3" in (folder, name):
        return "deleting the old one"
    if name == "7":
        return "the rename"
    if name == "manifest":
        return "the manifest"
    return "making folders" if event == "os.mkdir" else "writing files"


@pytest.mark.long
@pytest.mark.fault("R2")
def test_a_save_killed_before_anything_that_it_does_leaves_a_whole_checkpoint_and_no_rest(
    tmp_path: Path, record_property: Record
):
    """A save of step 7 over step 3; the next saves, of steps 9 and 11, leave nothing else."""
    ended = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    *killed, whole = [part.splitlines()[1:] for part in ended.stdout.split("kill ")[1:]]
    assert whole[0].startswith("events")
    assert whole[1] == "restored 7 of 7"
    phases = [phase(line.removeprefix("at ")) for line, _ in killed]
    for name, (_, restored) in zip(phases, killed, strict=True):
        assert restored == ("restored 7 of 3 7" if "deleting" in name else "restored 3 of 3")
    expected = {"making folders", "writing files", "the manifest", "the rename"}
    assert set(phases) == expected | {"deleting the old one"}
    record_property("kills of a save", len(phases))
    counts = [f"{name} {phases.count(name)}" for name in sorted(set(phases))]
    record_property("before", ", ".join(counts))
