"""The character language model: its text, its training and resume, and what it writes."""

import json
import math
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import __main__, char_lm
from experiments.data import text as texts
from experiments.harness import loop, stopping
from experiments.harness.config import traced
from experiments.harness.errors import UserError

SENTENCES = "the cat sat on the mat. the dog sat on the log.\n"
FLAGS = ("--hidden_size=12", "--window=8", "--batch_size=4", "--epochs=3", "--steps_per_call=5")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my text.txt"
    path.write_text(SENTENCES * 20 + "\u00fcber\n" * 8)
    return path


# The text


def test_a_text_is_cut_in_its_order(file: Path) -> None:
    whole = file.read_text()
    parts = texts.load_text("pydoc", str(file))
    read = np.concatenate(parts[1:])
    assert "".join(parts.characters[k] for k in read) == whole
    assert parts.characters == "".join(sorted(set(whole)))
    assert [len(part) for part in parts[1:]] == [
        int(0.9 * len(whole)),
        int(0.95 * len(whole)) - int(0.9 * len(whole)),
        len(whole) - int(0.95 * len(whole)),
    ]


def test_the_default_text_needs_no_network() -> None:
    parts = texts.load_text("pydoc")
    assert len(parts.train) > 300_000
    assert "assert" in "".join(parts.characters[k] for k in parts.train[:2000])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe\x00", "is no UTF-8 text: byte 0"),
        (b"", "expected different characters"),
        (b"aaaa", "expected different characters"),
        (b"abcabc" * 5, "27 characters to train on, fewer than 32 streams of 64"),
    ],
)
def test_what_is_no_text_to_learn_from(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "x.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        char_lm.program(char_lm.Config(text=str(path)))
    assert words in str(refusal.value)


def test_a_folder_or_a_huge_file_is_refused(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for odd in (str(tmp_path), "/dev/null"):
        with pytest.raises(UserError, match="is no regular file"):
            texts.load_text("pydoc", odd)
    monkeypatch.setattr(texts, "LARGEST", 100)
    with pytest.raises(UserError, match="expected at most 100"):
        texts.load_text("pydoc", str(file))


# The training


def config(file: Path, **fields: Any) -> char_lm.Config:
    small: dict[str, Any] = {"hidden_size": 12, "window": 8, "batch_size": 4, "epochs": 3}
    small |= {"steps_per_call": 5}
    return char_lm.Config(text=str(file), **(small | fields))


def trained(file: Path, folder: Path, **fields: Any) -> loop.Outcome:
    folder.mkdir(exist_ok=True)
    own = config(file, **fields)
    return loop.train(char_lm.program(own), own, folder, lambda step: None)


def test_an_untrained_model_expects_about_what_it_has_to() -> None:
    """With a readout of zeros every character is as likely: the logarithm of how many there are."""
    own = char_lm.Config(hidden_size=4)
    program = char_lm.program(own)
    params = program.task.init(traced(own)).params
    params["head"] = jax.tree.map(np.zeros_like, params["head"])
    found = program.task.evaluate(params, {"tokens": program.data["valid"]["tokens"][:500]})
    count = len(texts.load_text("pydoc").characters)
    assert float(found["loss"].mean) == pytest.approx(math.log(count), rel=1e-5)
    assert float(found["bits"].mean) == pytest.approx(math.log2(count), rel=1e-5)
    assert int(found["loss"].weight) == 499


@pytest.mark.slow
@pytest.mark.optimized
def test_it_learns_more_than_how_often_each_character_comes(file: Path, tmp_path: Path) -> None:
    outcome = trained(file, tmp_path / "run", epochs=30, hidden_size=32, learning_rate=0.01)
    counts = Counter(file.read_text())
    shares = np.array(list(counts.values())) / sum(counts.values())
    assert outcome.rows[-1]["train_loss"] < 0.5 * -(shares * np.log(shares)).sum()


@pytest.mark.parametrize("stop_after", [pytest.param(3, marks=pytest.mark.slow), 7])
def test_a_resume_goes_on_with_the_state_and_ends_at_the_same_bits(
    file: Path, tmp_path: Path, stop_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(file, tmp_path / "whole", layers=2)
    calls, moments = [], loop.moments

    def interrupted(*given: Any) -> Any:
        for moment in moments(*given):
            calls.append(moment.step)
            if len(calls) == stop_after:
                signal.raise_signal(signal.SIGTERM)
            yield moment

    monkeypatch.setattr(loop, "moments", interrupted)
    with pytest.raises(stopping.Stopped):
        trained(file, tmp_path / "stopped", layers=2)
    again = trained(file, tmp_path / "stopped", layers=2)
    steps = char_lm.program(config(file)).steps_per_epoch
    assert calls[stop_after - 1] % steps, "it was to stop within an epoch, where a state is carried"
    assert again.rows == whole.rows
    for one, other in zip(*(jax.tree.leaves(bits(o.state)) for o in (whole, again)), strict=True):
        np.testing.assert_array_equal(one, other)


def bits(state: Any) -> Any:
    return jax.tree.map(
        lambda leaf: (
            jax.random.key_data(leaf)
            if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        ),
        state,
    )


# What it writes


def test_a_trained_run_writes(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["char_lm", f"--text={file}", f"--workdir={tmp_path}/run", *FLAGS]
    assert __main__.main(command) == 0
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["test_bits"] == pytest.approx(result["test_loss"] / math.log(2), rel=1e-5)
    pictures = {path.name for path in (tmp_path / "run/figures").iterdir()}
    assert pictures == {"learning_curves.png", "surprise.png"}
    capsys.readouterr()
    written = []
    for flags in (["--prompt=the "], ["--prompt=the "], ["--sample_seed=1"], ["--temperature=0"]):
        assert __main__.main([*command, "--sample", "--characters=40", *flags]) == 0
        written.append(capsys.readouterr().out)
    assert written[0] == written[1]
    assert written[0].startswith("the ")
    assert len(written[0]) == len("the ") + 40 + 1
    assert set("".join(written)) <= set(file.read_text())
    assert len({*written}) == 3


def test_writing_one_by_one_is_what_the_model_expects(file: Path) -> None:
    """At temperature 0: the most likely character after all before, read at once."""
    own = config(file)
    model = char_lm.model_of(own, texts.load_text("pydoc", str(file)).characters)
    params = model.init(jax.random.key(4))
    wanted = char_lm.Use(sample=True, prompt="the cat", characters=12, temperature=0.0)
    text = "".join(char_lm.use(own, wanted, params))
    for k in range(len("the cat"), len(text)):
        tokens = jax.numpy.array([[model.characters.index(c)] for c in text[:k]])
        _, logits = model.logits(params, model.start(params, 1), tokens, 0.0, None)
        assert text[k] == model.characters[int(logits[-1, 0].argmax())]


def test_what_cannot_be_written(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["char_lm", f"--text={file}", f"--workdir={tmp_path / 'run'}", *FLAGS[1:]]
    assert __main__.main([*command, "--sample"]) == 2
    assert "There is no trained run in" in capsys.readouterr().err
    assert __main__.main([*command, FLAGS[0]]) == 0
    capsys.readouterr()
    for flags, words in (
        (["--prompt=CAT"], "--prompt: expected characters of the training text, got"),
        (["--characters=0"], "--characters: expected at least 1, got 0"),
        (["--temperature=-1"], "--temperature: expected at least 0"),
    ):
        assert __main__.main([*command, FLAGS[0], "--sample", *flags]) == 2
        assert words in capsys.readouterr().err
    assert __main__.main([*command, "--hidden_size=13", "--sample"]) == 2
    assert "holds a run of another configuration" in capsys.readouterr().err


def test_a_text_of_one_line_begins_with_its_first_character(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "line.txt"
    file.write_text("cab " * 300)
    command = ["char_lm", f"--text={file}", f"--workdir={tmp_path / 'run'}", *FLAGS]
    assert __main__.main([*command, "--prompt=c"]) == 2
    assert "--prompt: it belongs to --sample" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert __main__.main(command) == 0
    capsys.readouterr()
    assert __main__.main([*command, "--sample", "--characters=5"]) == 0
    assert capsys.readouterr().out.startswith("c")
    file.unlink()
    assert __main__.main([*command, "--sample"]) == 2
    assert f"{file} cannot be read" in capsys.readouterr().err


def test_it_sweeps_with_no_line_written_for_it(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "char_lm", f"--text={file}", f"--workdir={tmp_path}/sweep", *FLAGS]
    assert (
        __main__.main([*command, "--sweep=learning_rate=0.001,0.03", "--sweep=dropout=0,0.2"]) == 0
    )
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("sweep of char_lm: 4 members of 4 settings in 1 program")
    rows = [json.loads(line) for line in (tmp_path / "sweep/sweep.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["valid_loss"])
    assert f"--learning_rate={best['learning_rate']:g}" in next(
        line for line in out if line.startswith("the best alone")
    )
