"""Tasks of any kind, killed in real processes: the same command again ends at the same bits."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.processes import PATIENCE, ROOT, arrays, saved_steps

CODE = """
import json
import sys
from pathlib import Path
from experiments.harness import catalogue, loop, run
from experiments.harness.processes import Hardware
from tests import toys
loop.SECONDS_BETWEEN_SAVES = -1
name, folder, fields = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
module = toys.ALL[name] if name in toys.ALL else catalogue.load(name).module
config = module.Config(steps_per_call=1, **fields)
experiment = toys.experiment(module, name)
sys.exit(run.main(run.Asked(experiment, config, folder, False, Hardware(), "again")))
"""


# of the experiments, which by default are too long
FIELDS = {
    "recurrent_ppo": {
        **{"environment": "memory_chain", "length": 3, "hidden_size": 8, "steps": 60 * 32},
        **{"environments": 4, "horizon": 8, "minibatches": 2, "epochs": 2},
    },
    "digit_gan": {
        **{"data": "digits", "evaluations": 40, "steps_per_evaluation": 2, "batch_size": 8},
        **{"channels": 2, "features": 8, "discriminator_channels": 2, "samples": 100},
    },
}


def started(name: str, folder: Path, cache: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PLATFORMS": "cpu",
    }
    fields = json.dumps(FIELDS.get(name, {}))
    command = [sys.executable, "-c", CODE, name, str(folder), fields]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)


def killed_amid(name: str, folder: Path, cache: Path) -> int:
    """Kills a run some saves after its first one; returns the last step that it has saved."""
    process, latest = started(name, folder, cache), folder / "checkpoints" / "latest"
    first = max(saved_steps(latest), default=0)
    deadline = time.monotonic() + PATIENCE
    while max(saved_steps(latest), default=0) < first + 5:
        assert process.poll() is None, "it ended too soon for the test to mean anything"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    return max(saved_steps(latest))


@pytest.mark.slow  # test_loop.py stops and resumes each of them within one process
@pytest.mark.parametrize("name", ["gan", "policy", "lengths", *FIELDS])
@pytest.mark.fault("R1")
def test_a_task_killed_twice_ends_at_the_same_bits(name: str, tmp_path: Path, cache: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    assert started(name, whole, cache).wait(PATIENCE) == 0
    assert killed_amid(name, folder, cache) < killed_amid(name, folder, cache)
    assert started(name, folder, cache).wait(PATIENCE) == 0
    for kept in ("latest", "best"):
        ours, theirs = (path / "checkpoints" / kept for path in (folder, whole))
        assert saved_steps(ours)[-1] == saved_steps(theirs)[-1]
        assert arrays(ours) == arrays(theirs)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    results = [json.loads((path / "result.json").read_text()) for path in (folder, whole)]
    for result in results:
        del result["train_seconds"], result["finished"]
    assert results[0] == results[1]
