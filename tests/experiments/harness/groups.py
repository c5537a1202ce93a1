"""Start trainings of several processes, and watch them."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
LONG = ["sequential_digits", "--order=pixel", "--epochs=60", "--learning_rate=0.001"]
LONG += ["--cell=gru", "--hidden_size=8", "--batch_size=32", "--dropout=0.3"]
has_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")


def launched(*arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "experiments", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*arguments: str) -> tuple[int, str]:
    process = launched(*arguments)
    out, errors = process.communicate(timeout=300)
    return process.returncode, out + errors


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def evaluations_in(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (folder / "metrics.jsonl").read_text().count("\n")
    return 0


def children_of(process: subprocess.Popen[str]) -> list[int]:
    return [
        int(n) for n in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]


def are_gone(children: list[int]) -> bool:
    return not any(Path(f"/proc/{child}").exists() for child in children)
