"""Start real processes of the launcher, and read what they have saved."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
EPOCHS, STEPS_PER_EPOCH = 16, 20
TOTAL = EPOCHS * STEPS_PER_EPOCH
PATIENCE = 300  # seconds, on a machine that is busy with other things
FLAGS = (
    *("--cell=elman", "--hidden_size=8", f"--epochs={EPOCHS}", "--steps_per_call=3"),
    "--learning_rate=0.01",
)
COMMAND = (sys.executable, "-m", "experiments")
# The same with a save after every call, so that a kill at any moment falls into a save or near.
ALWAYS_SAVING = (
    *(sys.executable, "-c"),
    "import sys; from experiments import __main__; from experiments.harness import loop;"
    "loop.SECONDS_BETWEEN_SAVES = -1; sys.exit(__main__.main(sys.argv[1:]))",
)
Record = Callable[[str, Any], None]  # what the fixture `record_property` is
Launch = Callable[..., "contextlib.AbstractContextManager[Process]"]


class Process:
    """A run of the launcher, with its output in files."""

    def __init__(
        self, command: tuple[str, ...], run: Path, cache: Path, flags: tuple[str, ...] = FLAGS
    ):
        self.run = run
        self.out, self.err = (run.parent / name for name in ("stdout", "stderr"))
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_PLATFORMS": "cpu",
        }
        arguments = [*command, "sequential_digits", *flags, f"--workdir={run}"]
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.popen = subprocess.Popen(
                arguments, cwd=ROOT, env=environment, stdout=out, stderr=err
            )

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Waits for something that must come before the end."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            assert self.popen.poll() is None, self.out.read_text() + self.err.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end(self) -> int:
        return self.popen.wait(timeout=PATIENCE)

    def succeed(self) -> str:
        """Its output, after it has ended well."""
        assert self.end() == 0, self.err.read_text()
        return self.out.read_text()

    def said(self) -> list[str]:
        """What it printed to stderr after its first line, but for its progress.

        A process that another test killed may have left half a compiled program, which is mended.
        """
        lines = self.err.read_text().splitlines()[1:]
        mended = "is compiled once more."
        return [line for line in lines if line[:5] != "step " and not line.endswith(mended)]

    def first_step(self) -> int:
        """The step that it says it goes on from; 0 where it begins."""
        text = self.out.read_text()
        found = re.search(r"sequential_digits (?:begins|goes on from step (\d+)) in ", text)
        assert found, text
        return int(found[1] or 0)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs of all these processes, whichever worker starts them."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"


@pytest.fixture
def launch(cache: Path, tmp_path: Path) -> Launch:
    @contextlib.contextmanager
    def start(
        command: tuple[str, ...] = COMMAND, cache: Path = cache, flags: tuple[str, ...] = FLAGS
    ) -> Iterator[Process]:
        process = Process(command, tmp_path / "run", cache, flags)
        try:
            yield process
        finally:
            process.popen.kill()
            process.popen.wait()

    return start


def saved_steps(folder: Path) -> list[int]:
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    return sorted(int(name) for name in names if name.isdigit())


def saving(run: Path, *names: str) -> bool:
    """Whether a save is under way, or was when the process was killed."""
    folders = [run / "checkpoints" / name for name in names or ("latest", "best")]
    return any("tmp" in entry.name for folder in folders for entry in folder.iterdir())


def row_count(run: Path) -> int:
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def arrays(folder: Path) -> list[tuple[str, str, bytes]]:
    """Path, dtype and bytes of every array in a folder's newest checkpoint."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(folder) as manager:
        raw: Any = ocp.args.StandardRestore()
        found = manager.restore(manager.latest_step(), args=ocp.args.Composite(state=raw))
    leaves = jax.tree_util.tree_leaves_with_path(found["state"])
    return [
        (jax.tree_util.keystr(path), str(np.asarray(leaf).dtype), np.asarray(leaf).tobytes())
        for path, leaf in leaves
    ]
