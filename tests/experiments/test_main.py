"""The launcher reads a command line, or refuses it before anything compiles or is written."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import __main__, char_lm, image_cnn, sequential_digits
from experiments.harness import catalogue, flags, loop, naming
from experiments.harness.config import options
from experiments.harness.errors import UserError
from experiments.harness.identity import identity_of
from experiments.shared import cell_flag, writing

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = {
    "sequential_digits": sequential_digits,
    "image_cnn": image_cnn,
    "char_lm": char_lm,
}


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let a command line fail at once that should have been refused."""

    def train(*_: Any) -> None:
        raise AssertionError("the training has begun")

    monkeypatch.setattr(loop, "train", train)
    monkeypatch.setattr(naming, "runs_of_ours", lambda: tmp_path / "runs")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return all entries below a folder with their bytes, but the lock, which names its owner."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != "lock"
    }


def refusal(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line of an error, with which a command has ended at status 2."""
    status = __main__.main(list(arguments))
    out, err = capfd.readouterr()
    assert status == 2
    assert out == ""
    assert err.endswith("\n")
    *before, said = err.splitlines(keepends=True)
    assert said.startswith("error: ")
    assert all("preparing" in line for line in before)
    return said


# Flags


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--sed=1", ["no flag --sed", 'Did you mean "seed"', "--help"]),
        ("--hiden_size=4", ["no flag --hiden_size", 'Did you mean "hidden_size"']),
        ("--learning-rate=1", ["no flag --learning-rate", 'Did you mean "learning_rate"']),
        ("--noseed", ["no flag --noseed"]),
        ("--zzz=1", ["no flag --zzz"]),
        ("--ze\nd=1", ["no flag --ze d"]),
        ("--flagfile=/etc/hostname", ["no flag --flagfile"]),
        ("--undefok=sed", ["no flag --undefok"]),
        ("--seed=1.5", ["--seed: expected a whole number, got '1.5'"]),
        ("--seed=one", ["--seed: expected a whole number, got 'one'"]),
        ("--seed=", ["--seed: expected a whole number, got ''"]),
        ("--seed=1\n2", ["--seed: expected a whole number, got '1\\n2'"]),
        ("--seed=-1", ["--seed: expected at least 0, got -1"]),
        ("--seed=2147483648", ["--seed: expected at most 2147483647, got 2147483648"]),
        ("--split_seed=-1", ["--split_seed: expected at least 0"]),
        ("--epochs=-1", ["--epochs: expected at least", "got -1"]),
        ("--batch_size=0", ["--batch_size: expected at least 1"]),
        ("--steps_per_call=0", ["--steps_per_call: expected at least 1"]),
        ("--hidden_size=0", ["--hidden_size: expected at least 1, got 0"]),
        ("--hidden_size=-8", ["--hidden_size: expected at least 1, got -8"]),
        ("--hidden_size=8.0", ["--hidden_size: expected a whole number"]),
        ("--learning_rate=0", ["--learning_rate: expected more than 0"]),
        ("--learning_rate=-0.1", ["--learning_rate: expected more than 0, got -0.1"]),
        ("--learning_rate=nan", ["--learning_rate: expected a finite number"]),
        ("--learning_rate=inf", ["--learning_rate: expected a finite number"]),
        ("--learning_rate=1e39", ["--learning_rate: expected a finite number"]),
        ("--learning_rate=fast", ["--learning_rate: expected a number, got 'fast'"]),
        ("--learning_rate=", ["--learning_rate: expected a number, got ''"]),
        ("--weight_decay=-1", ["--weight_decay: expected at least 0"]),
        ("--clip_norm=-1", ["--clip_norm: expected at least 0"]),
        ("--accumulate=0", ["--accumulate: expected at least 1, got 0"]),
        ("--average=1", ["--average: expected less than 1, got 1.0"]),
        ("--loss_scale=0.5", ["--loss_scale: expected 0, or at least 1, got 0.5"]),
        ("--patience=-1", ["--patience: expected at least 0, got -1"]),
        ("--warmup_epochs=-1", ["--warmup_epochs: expected at least 0"]),
        ("--warmup_epochs=-inf", ["--warmup_epochs: expected a finite number"]),
        ("--momentum=1", ["--momentum: expected less than 1"]),
        ("--dropout=1", ["--dropout: expected less than 1"]),
        ("--dropout=-0.5", ["--dropout: expected at least 0"]),
        ("--dropout=NaN", ["--dropout: expected a finite number"]),
        ("--label_smoothing=1.5", ["--label_smoothing: expected less than 1"]),
        ("--rotation=-1", ["--rotation: expected at least 0"]),
        ("--cell=lsmt", ["--cell: expected one of", 'Did you mean "lstm"']),
        ("--cell=dense", ["--cell: expected one of"]),
        ("--cell=Cell", ["--cell: expected one of"]),
        ("--cell=", ["--cell: expected"]),
        ("--order=colum", ["--order: expected one of row, pixel, permuted, got 'colum'"]),
        ("--order=permutted", ['Did you mean "permuted"']),
        ("--data=mnits", ["--data: expected one of", 'Did you mean "mnist"']),
        ("--data=", ["--data: expected one of"]),
        ("--optimizer=adma", ["--optimizer: expected one of", 'Did you mean "adam']),
        ("--schedule=cosin", ['Did you mean "cosine"']),
        ("--overwrite=maybe", ["--overwrite", "maybe"]),
        ("--name=", ["--name: expected"]),
        ("--name=../../x", ["--name: expected letters", "'../../x'", "--workdir"]),
        ("--name=/somewhere/x", ["--name: expected letters", "'/somewhere/x'"]),
        ("--name=a\nb", ["--name: expected letters", "'a\\nb'"]),
        ("--name=a\n", ["--name: expected letters"]),
        ("--name=..", ["--name: expected letters"]),
        ("--name=.", ["--name: expected letters"]),
        ("--name=a/b", ["--name: expected letters"]),
        ("--name=a\\b", ["--name: expected letters"]),
        ("--name=.hidden", ["--name: expected letters"]),
        ("--name=-x", ["--name: expected letters"]),
        ("--name=" + "x" * 121, ["--name: expected letters"]),
        ("--name=$(reboot)", ["--name: expected letters"]),
    ],
)
@pytest.mark.fault("S1", "S7")
def test_a_bad_flag_is_answered_in_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, flag: str, words: list[str]
):
    line = refusal(capfd, "sequential_digits", flag)
    for word in words:
        assert word in line
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed"], "--seed"),
        (["--epochs", "--seed=1"], "--epochs: expected a whole number, got '--seed=1'"),
        (["--workdir", "--seed=1"], "--workdir: expected a text, got '--seed=1'"),
        (["--name", "--overwrite"], "--name: expected"),
        (["--seed=1", "--seed=2"], "--seed: expected one value, got 2"),
        (["--seed=1", "--seed=1"], "--seed: expected one value, got 2"),
        (["--overwrite", "--nooverwrite"], "--overwrite: expected one value"),
        (["lstm"], "Unexpected argument 'lstm'"),
        (["--seed=1", "cell=gru"], "Unexpected argument 'cell=gru'"),
        (["--", "--seed=1"], "Unexpected argument '--seed=1'"),
        (["-"], "Unexpected argument '-'"),
        (["a\nb"], "Unexpected argument 'a\\nb'"),
        (["--workdir="], "--workdir: expected a text"),
        (["--nooverwrite=x"], "--nooverwrite: expected no value; write --nooverwrite, or --overw"),
        (["-nooverwrite="], "--nooverwrite: expected no value"),
    ],
)
@pytest.mark.fault("S1")
def test_bad_arguments_are_answered_in_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], words: str
):
    assert words in refusal(capfd, "sequential_digits", *arguments)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sequential_digit", 'Did you mean "sequential_digits"'),
        ("image-cnn", 'Did you mean "image_cnn"'),
        ("classification", "choose from"),
        ("run", "choose from"),
        ("../experiments/image_cnn", "choose from"),
        ("", "choose from"),
        ("a\nb", "'a\\nb'"),
    ],
)
@pytest.mark.fault("S1", "S7")
def test_an_unknown_experiment_names_the_known_ones(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str, hint: str
):
    line = refusal(capfd, name, "--epochs=1")
    assert "There is no experiment" in line
    assert hint in line
    assert all(known in line for known in EXPERIMENTS)
    assert tree(tmp_path) == {}


def test_flags_of_one_experiment_are_unknown_to_another(capfd: pytest.CaptureFixture[str]):
    assert "no flag --cell" in refusal(capfd, "image_cnn", "--cell=gru")
    assert "no flag --window" in refusal(capfd, "sequential_digits", "--window=8")


def test_flags_of_a_trained_runs_command_are_unknown_to_its_training(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    for flag in ("--prompt=c", "--sample", "--characters=5"):
        assert "no flag --" in refusal(capfd, "char_lm", flag, f"--workdir={tmp_path / 'run'}")
    assert tree(tmp_path) == {}


def test_flags_before_any_experiment_belong_to_the_default(capfd: pytest.CaptureFixture[str]):
    assert "--hidden_size: expected" in refusal(capfd, "--hidden_size=0")


@pytest.mark.parametrize("arguments", [[], ["--seed=3", "--cell=gru"]])
def test_without_an_experiment_the_default_one_is_run(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
):
    seen: list[Any] = []

    def note(*given: Any) -> int:
        seen.append(given)
        return 0

    monkeypatch.setattr(__main__, "run", note)
    assert __main__.main(arguments) == 0
    assert seen == [("sequential_digits", arguments)]


@pytest.mark.long
@given(st.data())
def test_flags_arrive_as_typed_values(data: st.DataObject):
    strategies = {
        "seed": st.integers(0, 2**31 - 1),
        "hidden_size": st.integers(1, 10**5),
        "learning_rate": st.floats(1e-9, 1e9),
        "dropout": st.floats(0, 0.9375, width=32, allow_subnormal=False),
        "cell": st.sampled_from(["elman", "gru", "lstm"]),
        "order": st.sampled_from(["row", "pixel", "permuted"]),
        "optimizer": st.sampled_from(["sgd", "rmsprop", "adam", "adamw"]),
    }
    names = data.draw(st.lists(st.sampled_from(sorted(strategies)), unique=True))
    wanted = {name: data.draw(strategies[name]) for name in names}
    arguments = [f"--{name}={value}" for name, value in wanted.items()]
    (settings,) = flags.read_flags(arguments, sequential_digits.Config)
    assert settings == dataclasses.replace(sequential_digits.Config(), **wanted)
    assert all(type(getattr(settings, name)) is type(value) for name, value in wanted.items())


def test_switches_and_values_after_a_space_are_read():
    launch, settings = flags.read_flags(
        ["--overwrite", "--seed", "3", "-epochs=2"], naming.Launch, sequential_digits.Config
    )
    assert launch == naming.Launch(overwrite=True)
    assert (settings.seed, settings.epochs) == (3, 2)
    (launch,) = flags.read_flags(["--nooverwrite"], naming.Launch)
    assert launch == naming.Launch()


# Commands of trained runs


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "sample: expected one run directory, as in ./launch.sh sample runs/char_lm/default"),
        (["--temperature=0"], "sample: expected one run directory"),
        (["--prompt=a", "here", "there"], "sample: expected one run directory"),
        (["here", "--prompt", "a b"], "There is no trained run in here"),
        (["there/is/none"], "There is no trained run in there/is/none"),
        (["there/is/none", "--prompt=a"], "There is no trained run in there/is/none"),
    ],
)
def test_a_command_of_a_trained_run_wants_its_directory(
    capfd: pytest.CaptureFixture[str], arguments: list[str], words: str
):
    assert words in refusal(capfd, "sample", *arguments)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--promt=a", ["no flag --promt", 'Did you mean "prompt"']),
        ("--seed=1", ["no flag --seed"]),
        ("--prompt=", ["--prompt: expected a text"]),
        ("--characters=0", ["--characters: expected at least 1, got 0"]),
        ("--characters=few", ["--characters: expected a whole number, got 'few'"]),
        ("--temperature=-1", ["--temperature: expected at least 0"]),
        ("--temperature=nan", ["--temperature: expected a finite number"]),
        ("--sample_seed=-1", ["--sample_seed: expected at least 0"]),
    ],
)
def test_a_bad_flag_of_a_command_is_answered_in_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, flag: str, words: list[str]
):
    identity = identity_of(catalogue.load("char_lm"), char_lm.Config())
    (tmp_path / "config.json").write_text(json.dumps(identity))
    before = tree(tmp_path)
    line = refusal(capfd, "sample", str(tmp_path), flag)
    for word in words:
        assert word in line
    assert tree(tmp_path) == before


def test_the_name_of_a_command_that_is_misspelt_is_guessed(capfd: pytest.CaptureFixture[str]):
    assert 'Did you mean "sample"' in refusal(capfd, "sampel", "runs/char_lm/default")


def test_a_misspelt_command_of_a_run_is_guessed_too(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    identity = identity_of(catalogue.load("char_lm"), char_lm.Config())
    (tmp_path / "config.json").write_text(json.dumps(identity))
    assert 'Did you mean "sample"' in refusal(capfd, "sampel", str(tmp_path))
    assert "Did you mean" not in refusal(capfd, "compose", str(tmp_path))


# Cells of the user's own


@pytest.mark.parametrize(
    ("text", "function", "words"),
    [
        (None, "mine", ["there is no file"]),
        ("", "mine", ["defines no function 'mine'"]),
        ("def mien(): pass\n", "mine", ["defines no function 'mine'", 'Did you mean "mien"']),
        ("mine = 3\n", "mine", ["defines no function 'mine'"]),
        ("x = 1\ndef mine(:\n", "mine", ["cell.py, line 2"]),
        ("def mine(d, h):\nreturn 1\n", "mine", ["cell.py, line 2"]),
        (b"\xff\xfe\n", "mine", ["cell.py"]),
        ("import nope\ndef mine(d, h): pass\n", "mine", ["No module named 'nope'", "line 1"]),
        ("def mine():\n    pass\n", "mine", ["TypeError: mine() takes 0 positional"]),
        ("def mine(d, h):\n    return d / 0\n", "mine", ["ZeroDivisionError", "cell.py, line 2"]),
        ("def mine(d, h):\n    return d\n", "mine", ["return a recurrent.Cell, got int"]),
        ("def mine(d, h):\n    pass\n", "mine", ["return a recurrent.Cell, got NoneType"]),
        ("def mine(d, h):\n    pass\n", "", ["defines no function ''"]),
    ],
)
def test_a_cell_that_will_not_do_is_answered_in_one_line(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: str | bytes | None,
    function: str,
    words: list[str],
):
    file = tmp_path / "cell.py"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    line = refusal(
        capfd, "sequential_digits", f"--cell={file}:{function}", f"--workdir={tmp_path / 'run'}"
    )
    assert "--cell: " in line
    for word in words:
        assert word in line
    assert set(tree(tmp_path)) <= {"cell.py"}


def test_a_cell_file_is_read_anew_and_knows_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "cell.py"
    for answer in (1, 2):  # of the same size, and within the same second
        file.write_text(f"def mine(d, h): return {answer}, __file__\n")
        assert cell_flag.cell_factory(f"{file}:mine")(3, 4) == (answer, str(file))
    assert tree(tmp_path).keys() == {"cell.py"}


@pytest.mark.parametrize("name", ["cell.txt", "cell", "folder.py"])
def test_a_cell_from_no_python_file_is_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, name: str
):
    if name == "folder.py":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text("def mine(d, h): pass\n")
    assert "--cell: " in refusal(capfd, "sequential_digits", f"--cell={tmp_path / name}:mine")


# The run directory


@pytest.mark.long
@pytest.mark.fault("R5")
def test_a_workdir_that_is_a_file_is_refused(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "file").write_text("text")
    before = tree(tmp_path)
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        line = refusal(capfd, "sequential_digits", f"--workdir={path}")
        assert str(path) in line
        assert "overwrite" not in line
    assert tree(tmp_path) == before


def test_a_workdir_that_holds_other_files_is_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    (tmp_path / "config.json").write_text('{"model": "another program\'s"}')
    (tmp_path / "thesis.tex").write_text("text")
    before = tree(tmp_path)
    for flag in ("--nooverwrite", "--overwrite"):
        line = refusal(capfd, "sequential_digits", f"--workdir={tmp_path}", flag)
        assert "holds files but no run" in line
    assert tree(tmp_path) == before


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="there is no sysfs")
@pytest.mark.fault("R5")
def test_a_workdir_that_nobody_may_write_is_refused(capfd: pytest.CaptureFixture[str]):
    line = refusal(capfd, "sequential_digits", "--workdir=/sys/kernel/recurrent")
    assert "/sys/kernel/recurrent cannot be written" in line


def test_a_workdir_with_a_newline_is_refused_in_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    (tmp_path / "a\nb").write_text("text")
    assert "is a file" in refusal(capfd, "sequential_digits", f"--workdir={tmp_path / 'a'}\nb")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Return a run directory as an earlier command with ``--seed=1`` has left it."""
    identity = identity_of(catalogue.load("sequential_digits"), sequential_digits.Config(seed=1))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "lock").write_text("process 1 on host\n")
    (folder / "config.json").write_text(json.dumps(identity))
    (folder / "metrics.jsonl").write_text('{"step": 20, "evaluation": 1}\n')
    return folder


@pytest.mark.parametrize(
    ("experiment", "arguments", "words"),
    [
        ("sequential_digits", ["--seed=2"], ["seed was 1, now 2"]),
        ("sequential_digits", [], ["seed was 1, now 0"]),
        ("sequential_digits", ["--seed=1", "--hidden_size=8"], ["hidden_size was 128, now 8"]),
        ("sequential_digits", ["--seed=1", "--cell=gru"], ["cell was 'lstm', now 'gru'"]),
        ("image_cnn", ["--seed=1"], ["experiment was 'sequential_digits', now 'image_cnn'"]),
    ],
)
@pytest.mark.fault("R12")
def test_a_run_of_another_configuration_is_refused_and_left_alone(
    capfd: pytest.CaptureFixture[str],
    earlier: Path,
    experiment: str,
    arguments: list[str],
    words: list[str],
):
    before = tree(earlier)
    line = refusal(capfd, experiment, f"--workdir={earlier}", *arguments)
    for word in [*words, "another configuration", "--overwrite"]:
        assert word in line
    assert tree(earlier) == before


@pytest.mark.long
@pytest.mark.parametrize("text", ["", "{", '{"experiment": ', "[]", "3", "\0"])
@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_a_damaged_file_of_an_earlier_run_is_refused_and_left_alone(
    capfd: pytest.CaptureFixture[str], earlier: Path, name: str, text: str
):
    (earlier / name).write_text(text)
    before = tree(earlier)
    line = refusal(capfd, "sequential_digits", f"--workdir={earlier}", "--seed=1")
    assert f"{earlier / name} is damaged" in line
    assert tree(earlier) == before


def test_a_wrong_flag_overwrites_no_earlier_run(
    capfd: pytest.CaptureFixture[str], earlier: Path, tmp_path: Path
):
    (tmp_path / "cell.py").write_text("def mine(d, h): pass\n")
    before = tree(earlier)
    for flag in (f"--cell={tmp_path / 'cell.py'}:mine", "--cell=lsmt", "--sed=1", "--seed=x"):
        refusal(capfd, "sequential_digits", f"--workdir={earlier}", "--overwrite", flag)
    assert tree(earlier) == before


def test_missing_data_leave_an_earlier_run_alone(
    capfd: pytest.CaptureFixture[str],
    earlier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "file").write_text("text")
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(tmp_path / "file" / "below"))
    before = tree(earlier)
    refusal(capfd, "sequential_digits", "--data=mnist", f"--workdir={earlier}", "--overwrite")
    assert tree(earlier) == before


# Names


def folder_of(*arguments: str) -> Path:
    launch, settings = flags.read_flags(list(arguments), naming.Launch, sequential_digits.Config)
    parent = naming.runs_of(catalogue.load("sequential_digits")) / "sequential_digits"
    return naming.run_directory(parent, launch, naming.default_name(settings))


def test_the_run_directory_is_named_after_what_was_changed(tmp_path: Path):
    runs = tmp_path / "runs" / "sequential_digits"
    assert folder_of() == runs / "default"
    assert folder_of("--hidden_size=128") == runs / "default"
    assert folder_of("--cell=gru", "--seed=1") == folder_of("--seed=1", "--cell=gru")
    assert folder_of("--seed=1", "--cell=gru").name == "seed=1,cell=gru"
    assert folder_of("--name=first.try-2") == runs / "first.try-2"
    assert folder_of("--workdir=here/there", "--name=x") == Path("here/there")


def test_the_name_of_a_run_stays_within_its_folder(tmp_path: Path):
    (tmp_path / "a b").mkdir()
    file = tmp_path / "a b" / "my cell;rm.py"
    file.write_text("def mine(d, h): pass\n")
    folder = folder_of(f"--cell={file}:mine")
    assert folder.parent == tmp_path / "runs" / "sequential_digits"
    assert set(folder.name).isdisjoint("/ ;:\\")


def test_long_names_of_runs_differ_where_their_flags_do(tmp_path: Path):
    flags = {
        "learning_rate": 0.0123456789,
        "weight_decay": 0.0123456789,
        "label_smoothing": 0.0123456789,
        "clip_norm": 0.0123456789,
        "dropout": 0.0123456789,
    }
    arguments = [f"--{name}={value}" for name, value in flags.items()]
    names = [folder_of(*arguments, f"--shift=0.{seed}").name for seed in range(5)]
    assert len(set(names)) == 5
    assert max(map(len, names)) <= 100


# Help


def test_list_prints_each_experiment_and_its_question(capsys: pytest.CaptureFixture[str]):
    assert __main__.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = dict(line.split(maxsplit=1) for line in lines)
    assert list(listed) == sorted(listed)
    assert len(listed) == len(lines)
    for name, module in EXPERIMENTS.items():
        assert listed[name] == (module.__doc__ or "").splitlines()[0]
    assert all(question.endswith("?") for question in listed.values())


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_help_shows_the_ways_to_call(capsys: pytest.CaptureFixture[str], word: str):
    assert __main__.main([word]) == 0
    out = capsys.readouterr().out
    runs = ("EXPERIMENT [--flag=value", "EXPERIMENT --help", "sweep EXPERIMENT", "COMMAND DIR")
    for command in (*runs, "report DIR", "list", "download", "bench", "test"):
        assert f"./launch.sh {command}" in out
    assert "uses a trained run: evaluate, sample, explain, predict" in out
    assert f"default experiment, {__main__.DEFAULT}" in out


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_help_of_an_experiment_gives_type_default_and_meaning_of_each_field(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, experiment: str
):
    assert __main__.main([experiment, "--seed=3", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith((EXPERIMENTS[experiment].__doc__ or "").splitlines()[0])
    own = out.partition("\n./launch.sh ")[0]  # commands may have flags of the same names
    parts = [" ".join(part.split()) for part in re.split(r"\n [ *] --", own)[1:]]
    for cls in (EXPERIMENTS[experiment].Config, naming.Launch):
        for field in dataclasses.fields(cls):
            (entry,) = [part for part in parts if part.split()[0] == field.name]
            item = options(cls)[field.name]
            assert item.help in entry
            assert f"default {item.default}" in entry.replace('"', "").replace("false", "False")
            kinds = {int: "whole number", float: "number", bool: "true/false", str: "text"}
            assert all(choice in entry for choice in item.choices or (kinds[item.type],))
    for of_absl in ("flagfile", "undefok", "helpfull", "pdb"):
        assert of_absl not in out
    assert tree(tmp_path) == {}


def test_the_help_of_an_experiment_lists_the_commands_of_its_trained_runs(
    capsys: pytest.CaptureFixture[str],
):
    for arguments in (["char_lm", "--help"], ["sample", "--help"]):
        assert __main__.main(arguments) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "write text with a trained run" in out
        assert "./launch.sh sample DIR" in out
        for name, field in options(writing.Sample).items():
            assert f"--{name} " in out
            assert field.help in out
    assert __main__.main(["evaluate", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("./launch.sh evaluate DIR [--flag=value ...]\n\n")
    assert "\n\npronunciations, scan_commands: translate a whole split by beam search\n" in out
    assert "\n\nchar_lm: " in out
    assert __main__.main(["image_cnn", "--help"]) == 0
    assert "sample DIR" not in capsys.readouterr().out


@pytest.mark.parametrize("columns", [40, 60, 200])
def test_help_is_as_wide_as_the_terminal_and_lists_own_fields_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert __main__.main(["char_lm", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [word for line in lines for word in line[:4].split() + line[3:].split()[:1]]
    assert names.index("--layers") < names.index("--seed") < names.index("--workdir")
    long = [line for line in lines if len(line) > min(columns, 100) and "./launch.sh" not in line]
    assert not [line for line in long if len(max(line.split(), key=len)) + 6 < min(columns, 100)]


def test_help_marks_what_sweeps_in_one_program(capsys: pytest.CaptureFixture[str]):
    assert __main__.main(["sequential_digits", "--help"]) == 0
    out = capsys.readouterr().out
    starred = {line.split()[1][2:] for line in out.splitlines() if line.startswith(" * --")}
    fields = options(sequential_digits.Config)
    assert starred == {name for name, item in fields.items() if item.traced}
    assert {"learning_rate", "seed", "dropout"} <= starred
    assert "hidden_size" not in starred


def test_download_without_the_name_of_a_data_set_is_refused(capfd: pytest.CaptureFixture[str]):
    assert "say which data set" in refusal(capfd, "download")
    assert "imagenet" in refusal(capfd, "download", "imagenet")


def test_an_interruption_prints_one_line_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "dispatch", interrupt)
    assert __main__.main([]) == 130
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1


def test_a_call_of_exit_is_a_sentence_and_no_success(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(__main__, "dispatch", lambda *_: sys.exit())
    assert refusal(capfd) == "error: it calls sys.exit(). --traceback shows the rest.\n"


@pytest.mark.parametrize("function", ["f", "g"])
@pytest.mark.parametrize(
    ("call", "said"), [("exit(0)", "it calls sys.exit(0)"), ("raise Own('no')", "Own: no")]
)
def test_a_cell_that_exits_is_a_sentence_and_no_success(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, function: str, call: str, said: str
):
    """When it is made, and when it takes a step; also by an error that is no `Exception`."""
    file = tmp_path / "cell.py"
    file.write_text(
        "import recurrent\nclass Own(BaseException): 1\n"
        f"def stop(*_): {call}\ndef f(d, h): {call}\n"
        "def g(d, h): return recurrent.gru(d, h)._replace(step=stop, sequence=None)\n"
    )
    line = refusal(capfd, "sequential_digits", f"--cell={file}:{function}")
    assert said in line
    assert f"cell.py, line {4 if function == 'f' else 3}" in line


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "There is not enough memory; choose a smaller --batch_size"),
        (
            jax.errors.JaxRuntimeError("INTERNAL: Out of memory allocating 4294967296 bytes."),
            "There is not enough memory for 4.0 GiB at once; choose",
        ),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no"), "There is not enough memory;"),
    ],
)
def test_a_lack_of_memory_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: Exception,
    words: str,
):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(__main__, "dispatch", fail)
    assert refusal(capfd).startswith(f"error: {words}")


@pytest.mark.parametrize(
    "error", [UserError("two\nlines  of\ttext"), UserError("two lines of text")]
)
def test_an_error_of_several_lines_is_printed_as_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: UserError
):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(__main__, "dispatch", fail)
    assert refusal(capfd) == "error: two lines of text\n"


# As a process of its own


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sequential_digits", "--epoch=1"], 'Did you mean "epochs"'),
        (["sequential_digit"], 'Did you mean "sequential_digits"'),
        (["image_cnn", "--workdir=setup.cfg/../pyproject.toml/x"], "cannot be written"),
    ],
)
def test_a_process_refuses_in_one_line_with_status_2(arguments: list[str], words: str):
    ended = process(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert words in ended.stderr
    *before, said = ended.stderr.splitlines()
    assert said.startswith("error: ")
    assert all("preparing" in line for line in before)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_error(unbuffered: str):
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "experiments", "list"],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=write,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (141, "")
