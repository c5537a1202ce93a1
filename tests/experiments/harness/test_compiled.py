"""Compiled programs on disk are a convenience: none that is missing or damaged is in the way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.harness.compiled import keep_compiled_programs

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import warnings, jax, jax.numpy as jnp
from experiments.harness.compiled import keep_compiled_programs
keep_compiled_programs()
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))[0, 0])
warnings.warn("of something else")
"""


def test_a_user_without_a_home_keeps_no_compiled_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    keep_compiled_programs()


def compiled_in(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=True)


@pytest.mark.long
@pytest.mark.parametrize(("warned", "written"), [("default", 0), ("ignore", 0), ("default", 4e9)])
def test_a_damaged_program_is_compiled_anew_and_kept(
    warned: str, written: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long ago, or by a clock that was wrong."""
    monkeypatch.setenv("PYTHONWARNINGS", warned)
    first = compiled_in(tmp_path)
    assert "damaged" not in first.stderr
    whole = {file: file.read_bytes() for file in tmp_path.glob("*-cache")}
    assert whole
    for file, data in whole.items():
        file.write_bytes(data[: len(data) // 2])
        os.utime(file, times=(written, written))
    second = compiled_in(tmp_path)
    assert second.stdout == first.stdout
    assert second.stderr.count("was damaged; it is compiled once more.") == len(whole)
    assert {
        file: len(file.read_bytes()) > 0 for file in tmp_path.glob("*-cache")
    }.keys() == whole.keys()
    third = compiled_in(tmp_path)
    assert "damaged" not in third.stderr
    shown = ["of something else" in each.stderr for each in (first, second, third)]
    assert shown == [warned == "default"] * 3


@pytest.mark.long
def test_a_program_that_another_process_is_writing_is_left_to_it(tmp_path: Path) -> None:
    first = compiled_in(tmp_path)
    files = sorted(tmp_path.glob("*-cache"))
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    second = compiled_in(tmp_path)
    assert second.stdout == first.stdout
    assert "damaged" not in second.stderr
    assert "Error reading" not in second.stderr
    assert [file.stat().st_size for file in files] == [100] * len(files)
