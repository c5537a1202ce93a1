"""Paths that users write, and files that must not be read."""

import os
from pathlib import Path

import pytest

from experiments import __main__
from experiments.harness.errors import UserError
from experiments.harness.files import check_regular, path_of

NOBODY = "~nobody-of-this-name/x"


def test_a_tilde_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere/ada")
    assert path_of("~/x") == Path("/somewhere/ada/x")
    assert path_of("a/~/x") == Path("a/~/x")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NOBODY, "there is no home directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "is no path"),
    ],
)
def test_what_cannot_be_a_path_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"^--flag: .*{words}"):
        path_of(text, "--flag: ")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["sequential_digits", f"--workdir={NOBODY}"], "--workdir: "),
        (["sequential_digits", f"--config={NOBODY}"], "--config: "),
        (["sequential_digits", f"--cell={NOBODY}.py:f"], "--cell: "),
        (["char_lm", f"--text={NOBODY}"], "--text: "),
        (["char_lm", f"--init_from={NOBODY}"], "--init_from: "),
        (["sweep", "char_lm", f"--sweep=text={NOBODY},b"], "--text: "),
        (["sweep", "char_lm", "--sweep=seed=0,1", f"--workdir={NOBODY}"], "--workdir: "),
        (["report", NOBODY], "report: "),
        (["report", "a", f"--out={NOBODY}.html"], "--out: "),
        (["bench", "--quick", f"--out={NOBODY}"], "--out: "),
        (["sample", NOBODY], "sample: "),
        (["sample", NOBODY, "--help"], "sample: "),
        (["info", NOBODY], "info: "),
        (["new", f"{NOBODY}.py"], "new: "),
        ([f"{NOBODY}.py"], ""),
    ],
)
@pytest.mark.parametrize("path", [NOBODY, "x" * 300])
def test_every_path_of_a_command_line_is_refused_in_a_sentence(
    capfd: pytest.CaptureFixture[str], arguments: list[str], flag: str, path: str
) -> None:
    given = [word.replace(NOBODY, path) for word in arguments]
    assert __main__.main(given) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"error: {flag}")


@pytest.mark.fault("S5")
def test_pipes_devices_folders_and_huge_files_are_refused_before_they_are_read(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for odd in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match="is no regular file"):
            check_regular(odd)
    huge = tmp_path / "huge"
    huge.touch()
    os.truncate(huge, 2**40)  # of which the disk holds nothing
    with pytest.raises(UserError, match="has 1099511627776 bytes; expected at most 1024"):
        check_regular(huge, most_bytes=1024)
    check_regular(tmp_path / "not there")


@pytest.mark.parametrize(
    "arguments",
    [["char_lm", "--text="], ["sequential_digits", "--config="], ["sequential_digits", "--cell="]],
)
def test_a_file_of_a_terabyte_is_neither_hashed_nor_read(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str]
) -> None:
    huge = tmp_path / "huge.py"
    huge.touch()
    os.truncate(huge, 2**40)
    name = ":f" if arguments[-1] == "--cell=" else ""
    assert __main__.main([*arguments[:-1], f"{arguments[-1]}{huge}{name}"]) == 2
    assert "has 1099511627776 bytes; expected at most" in capfd.readouterr().err
