"""Output that cannot be written, or not in the encoding of the terminal."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments import __main__
from experiments.harness import streams

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def full() -> Iterator[int]:
    number = os.open("/dev/full", os.O_WRONLY)
    yield number
    os.close(number)


def test_a_line_that_does_not_fit_is_lost_and_the_reason_remembered(full: int) -> None:
    stream = streams.losing(full, None)
    assert streams.refusal_of(stream) == ""
    print("a line", file=stream, flush=True)
    assert streams.refusal_of(stream) == "No space left on device"
    print("another", file=stream)
    stream.close()
    assert os.fstat(full)  # it is left open


def test_the_first_refusal_is_said_and_is_an_exit_status(
    full: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", streams.losing(full, None))
    assert __main__.main(["list"]) == 1
    assert capfd.readouterr().err == "error: stdout cannot be written: No space left on device.\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_the_encoding_does_not_have_is_escaped(encoding: str, tmp_path: Path) -> None:
    number = os.open(tmp_path / "out", os.O_CREAT | os.O_WRONLY)
    like = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print("l\xe4ufe \u2192 \udce4", file=streams.losing(number, like), flush=True)
    os.close(number)
    umlaut = r"\xe4" if encoding == "ascii" else "\xe4"
    found = (tmp_path / "out").read_bytes().decode(encoding)
    assert found == umlaut.join(["l", r"ufe \u2192 \udce4" + "\n"])


def test_a_reader_of_stderr_that_is_gone_ends_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    stream = streams.losing(write, None)
    print("progress", file=stream, flush=True)
    assert streams.refusal_of(stream) == "Broken pipe"
    os.close(write)


def in_shell(redirection: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = f'exec "$0" -m experiments "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("redirection", "status"),
    [(">&-", 0), ("2>&-", 0), (">/dev/full", 1), ("2>/dev/full", 0), ("<&- >&- 2>&-", 0)],
)
def test_streams_that_are_closed_or_full_are_no_traceback(redirection: str, status: int) -> None:
    ended = in_shell(redirection, "list")
    assert ended.returncode == status
    assert ended.stderr in ("", "error: stdout cannot be written: No space left on device.\n")


@pytest.mark.long
@pytest.mark.parametrize("redirection", [">/dev/full 2>/dev/full", ">&- 2>&-"])
def test_a_training_whose_lines_are_lost_keeps_its_results(
    redirection: str, tmp_path: Path
) -> None:
    """And nothing of what libraries print goes into a file that has taken the number of stderr."""
    folder = tmp_path / "l\xe4ufe"
    flags = ["--hidden_size=2", "--epochs=1", "--cell=elman", f"--workdir={folder}"]
    junk = {"PYTHONIOENCODING": "ascii", "RECURRENT_STARTED": "junk"}
    ended = in_shell(redirection, "sequential_digits", *flags, **junk)
    assert (ended.returncode, ended.stderr) == (int("full" in redirection), "")
    assert (folder / "result.json").exists()
    assert (folder / "lock").read_text().count("\n") == 1


def test_a_deleted_working_directory_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert __main__.main(["sequential_digits"]) == 2
    assert capfd.readouterr().err.startswith("error: The working directory was deleted")


@pytest.mark.parametrize("flag", ["--workdir=l\udce4u", "--text=l\udce4u", "--init_from=\udce4"])
def test_a_text_that_is_not_utf8_is_a_sentence(
    flag: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["char_lm", flag]) == 2
    assert "expected a text in UTF-8" in capfd.readouterr().err


def test_a_run_below_a_folder_that_is_not_utf8_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "l\udce4u").mkdir()
    monkeypatch.chdir(tmp_path / "l\udce4u")
    assert __main__.main(["sequential_digits", "--workdir=run"]) == 2
    assert "the path of a run directory must be UTF-8" in capfd.readouterr().err


@pytest.mark.parametrize("variable", ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"])
def test_a_variable_that_holds_no_number_is_a_sentence(
    variable: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "junk")
    assert __main__.main(["sequential_digits", "--workdir=/proc/run"]) == 2
    said = f"error: {variable}: expected a whole number, got 'junk'; unset it.\n"
    assert capfd.readouterr().err.endswith(said)


@pytest.mark.long
@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("JAX_PLATFORMS", "error: JAX cannot start with JAX_PLATFORMS='junk': Unable to init"),
        ("JAX_NUM_CPU_DEVICES", "error: JAX refuses one of the variables JAX_"),
    ],
)
def test_a_device_that_jax_does_not_have_is_a_sentence(variable: str, words: str) -> None:
    ended = in_shell("", "sequential_digits", "--workdir=/proc/run", **{variable: "junk"})
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(words)


@pytest.mark.parametrize("text", ["junk", "nan", "-inf", "1e400", ""])
def test_a_start_that_is_no_time_is_unknown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.harness import run

    monkeypatch.setattr(run.time, "time", lambda: 1000.0)
    monkeypatch.setenv("RECURRENT_STARTED", text)
    assert run.seconds_before() == ""
    monkeypatch.setenv("RECURRENT_STARTED", "990,5")
    assert run.seconds_before() == " (9.5 s to the first step)"
    monkeypatch.delenv("RECURRENT_STARTED")  # in a script, which no launcher has started
    assert run.seconds_before() == ""


def test_a_pipe_that_does_not_wait_loses_nothing() -> None:
    code = "import sys; from experiments.harness import streams; streams.open_streams();"
    code += "print('x' * 500_000); print('end')"
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=writing, cwd=ROOT, env=os.environ) as process:
        os.close(writing)
        time.sleep(0.5)  # meanwhile the pipe is full
        with open(reading) as file:
            assert file.read() == "x" * 500_000 + "\nend\n"
        assert process.wait(60) == 0
