"""Every word of the command line answers what it cannot use in one sentence, and writes nothing."""

import os
from pathlib import Path

import pytest

from experiments import __main__
from experiments.harness import catalogue, naming

FOLDERS = ["info", "report", "predict", "explain", "sample"]  # whose first word is a run
PATHS = {
    "missing": "nowhere",
    "a file": "file.txt",
    "no run": "folder",
    "a null": "a\0b",
    "no such home": "~nobody-of-that-name/run",
    "not utf-8": "l\udce4u",
    "nothing": "",
    "a name too long": "x" * 5000,
    "a pipe": "pipe",
    "a loop of links": "loop",
}
VALUES = {"no number": "=x", "nothing": "=", "no equals sign": "", "too large": "=1e99"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(naming, "runs_of_ours", lambda: tmp_path / "runs")
    (tmp_path / "file.txt").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def check_refused(place: Path, capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    before = sorted(place.rglob("*"))
    status = __main__.main(arguments)
    out, err = capfd.readouterr()
    assert status == 2, (out, err)
    *lines, said = err.splitlines()
    assert said.startswith("error: ")
    assert said.endswith((".", "?", ")"))
    assert all("preparing" in line for line in lines)
    assert "Traceback" not in err
    assert sorted(place.rglob("*")) == before
    assert (place / "file.txt").read_text() == "precious"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("word", FOLDERS)
def test_a_path_that_is_no_run(
    word: str, path: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_refused(place, capfd, [word, PATHS[path]])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("flag", ["--config", "--init_from", "--cell", "--optimizer", "--text"])
def test_a_flag_of_a_path_that_leads_nowhere(
    flag: str, path: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    value = PATHS[path] + {"--cell": ".py:f", "--optimizer": ".py:f"}.get(flag, "")
    check_refused(place, capfd, ["char_lm", f"{flag}={value}"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("before", [[], ["sweep"]])
def test_an_experiment_of_a_path_that_leads_nowhere(
    before: list[str], path: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_refused(place, capfd, [*before, f"{PATHS[path]}/idea.py"])


@pytest.mark.parametrize("path", ["a file", "a null", "no such home", "a name too long"])
def test_a_new_file_where_none_can_be(
    path: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_refused(place, capfd, ["new", f"{PATHS[path]}/idea.py"])


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("word", [*catalogue.experiments(), "sweep sequential_digits", "bench"])
def test_numbers_that_are_none(
    word: str, value: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flag = "--seeds" if word == "bench" else "--epochs"
    check_refused(place, capfd, [*word.split(), flag + VALUES[value]])


@pytest.mark.parametrize(
    "words",
    [
        ["-"],
        ["\0"],
        ["sequential_digit"],
        ["download"],
        ["download", "mnits"],
        ["new"],
        ["new", "idea"],
        ["sweep"],
        ["sweep", "nothing"],
        ["report"],
        ["info"],
        ["completion"],
        ["completion", "tcsh"],
        ["list", "more"],
        ["--version", "more"],
    ],
    ids=repr,
)
def test_words_that_say_nothing(
    words: list[str], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    check_refused(place, capfd, words)
