"""The character language model: its text, its training, and sampling from a trained run."""

import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from experiments import __main__, char_lm
from experiments.data import text as texts
from experiments.harness import catalogue, loop, stopping
from experiments.harness import run as single
from experiments.harness.config import hparams_of
from experiments.harness.errors import UserError
from experiments.harness.plan import plan_of_run
from experiments.harness.runs import Run, load_run, members_of
from experiments.shared import language, rereading, writing
from tests.experiments.run_files import best_weights, read, rows_of

SENTENCES = "the cat sat on the mat. the dog sat on the log.\n"
FLAGS = ("--hidden_size=12", "--window=8", "--batch_size=4", "--epochs=3", "--steps_per_call=5")


def write_text(path: Path) -> Path:
    path.write_text(SENTENCES * 20 + "\u00fcber\n" * 8)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_text(tmp_path / "my text.txt")


# The text


def test_a_text_is_split_in_its_order(file: Path) -> None:
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


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_characters(tmp_path: Path) -> None:
    texts_of = {}
    for mark in ("", "\ufeff"):
        for end in ("\n", "\r\n"):
            path = tmp_path / "text.txt"
            path.write_bytes((mark + "one two\nthree\n".replace("\n", end) * 9).encode())
            texts_of[mark, end] = texts.load_text("pydoc", str(path))
    plain, *others = texts_of.values()
    assert plain.characters == "".join(sorted(set("one two\nthree\n")))
    for other in others:
        assert other.characters == plain.characters
        for ours, theirs in zip(plain[1:], other[1:], strict=True):
            np.testing.assert_array_equal(ours, theirs)


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
@pytest.mark.fault("S2")
def test_a_file_that_is_no_text_to_learn_from_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
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


def values_of(config: char_lm.Config) -> dict[str, Any]:
    """Return the traced fields as scalars."""
    return {name: value[0] for name, value in hparams_of(config).items()}


@pytest.mark.long
def test_a_readout_of_zeros_expects_every_character_equally() -> None:
    """The cross-entropy is then the logarithm of the number of characters."""
    own = char_lm.Config(hidden_size=4)
    program, hparams = char_lm.program(own), values_of(own)
    params = program.task.keep(program.task.init(hparams))
    assert sorted(params) == ["layer_0", "layer_1", "layer_2", "layer_3"]
    params["layer_3"] = jax.tree.map(np.zeros_like, params["layer_3"])
    data = {"tokens": program.data["valid"]["tokens"][:500]}
    found = program.task.evaluate(params, hparams, data)
    count = len(texts.load_text("pydoc").characters)
    assert float(found["loss"].mean) == pytest.approx(math.log(count), rel=1e-5)
    assert float(found["bits"].mean) == pytest.approx(math.log2(count), rel=1e-5)
    assert int(found["loss"].weight) == 499


@pytest.mark.slow
@pytest.mark.optimized
def test_a_trained_model_knows_more_than_how_often_each_character_comes(
    file: Path, tmp_path: Path
) -> None:
    own = config(file, epochs=30, hidden_size=32, learning_rate=0.01)
    trained = single.train(char_lm.program(own), own, tmp_path / "run")
    counts = Counter(file.read_text())
    shares = np.array(list(counts.values())) / sum(counts.values())
    entropy = -(shares * np.log(shares)).sum()
    assert trained.finished.rows[-1]["train_loss"] < 0.5 * entropy


def trained(
    file: Path, folder: Path, stop_after: float = math.inf
) -> tuple[loop.Population, list[int]]:
    """Train in a folder; return the population and the step after each call.

    A signal comes in the call that follows ``stop_after`` of them.
    """
    own = config(file, layers=2)
    plan = plan_of_run(char_lm.program(own), own)
    calls: list[int] = []
    stops: list[int] = []

    def called(state: Any, status: Any, metrics: Any) -> None:
        calls.append(int(np.asarray(status.step)[0]))
        if len(calls) == stop_after:
            stops.append(15)

    def ignore(*_: Any) -> None:
        pass

    observer = loop.Observer(started=ignore, called=called, evaluated=ignore, ended=ignore)
    there, _ = loop.train(plan, folder, observer, stops)
    return there, calls


@pytest.mark.long
@pytest.mark.parametrize("stop_after", [pytest.param(2, marks=pytest.mark.slow), 9])
def test_a_resume_within_an_epoch_goes_on_with_the_carried_state_to_the_same_bits(
    file: Path, tmp_path: Path, stop_after: int
) -> None:
    whole, _ = trained(file, tmp_path / "whole")
    steps = char_lm.program(config(file)).steps_per_evaluation
    with pytest.raises(stopping.Stopped, match="Stopped and saved at step") as stop:
        trained(file, tmp_path / "stopped", stop_after)
    stopped_at = int(str(stop.value).split("at step ")[1].split(";")[0])
    assert stopped_at % steps, "within an epoch, where a recurrent state is carried"
    again, calls = trained(file, tmp_path / "stopped")
    assert calls[0] > stopped_at
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")
    assert np.any(leaves_of(whole.members.state.carry)[0]), "there is a state to go on with"
    for one, other in zip(leaves_of(whole), leaves_of(again), strict=True):
        np.testing.assert_array_equal(one, other)


def leaves_of(tree: Any) -> list[Any]:
    """Return all arrays, random keys as their data."""
    return [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]


def loss_of(own: char_lm.Config, params: Any, carry: Any = None, key: int = 0) -> Any:
    """Return the loss of one window of 8 steps of 2 streams, and the carry after it."""
    tokens = jnp.asarray(np.random.default_rng(key).integers(9, size=(9, 2)))
    batch = {"inputs": tokens[:-1], "targets": tokens[1:]}
    model = char_lm.model_of(own, 9)
    carry = model.initial_state(params, (2,)) if carry is None else carry
    random = jax.random.key(key)
    found, (_, carry) = language.trained_on(
        own, 9, params, batch, random, carry, {"dropout": jnp.float32(0.5)}
    )
    return found, carry


@pytest.mark.long
def test_tied_weights_are_one_table(file: Path) -> None:
    own = config(file, tied=True, embedding_size=5)
    params = char_lm.model_of(own, 9).init(jax.random.key(0))
    assert params["embedding"]["kernel"].shape == (9, 5)
    assert sorted(params) == ["bias", "cell", "embedding"]
    assert np.isfinite(loss_of(own, params)[0])


@pytest.mark.long
def test_variational_masks_are_renewed_for_each_window(file: Path) -> None:
    own = config(file, variational=True)
    params = char_lm.model_of(own, 9).init(jax.random.key(0))
    _, first = loss_of(own, params, key=0)
    _, second = loss_of(own, params, first, key=1)
    masks = [np.asarray(carry.layers[2].keep) for carry in (first, second)]
    assert masks[0].shape == (2, 12)
    assert (masks[0] != masks[1]).any()
    assert 0 < masks[0].mean() < 1


@pytest.mark.long
def test_dropped_weights_are_those_of_the_state(file: Path) -> None:
    own = config(file, weight_drop=0.5, hidden_size=32)
    params = char_lm.model_of(own, 9).init(jax.random.key(0))
    slopes = jax.grad(lambda params: loss_of(own, params)[0])(params)["layer_1"]
    assert 0.4 < np.mean(np.asarray(slopes["recurrent"]["kernel"]) == 0) < 0.6
    assert np.mean(np.asarray(slopes["input"]["kernel"]) == 0) < 0.1
    with pytest.raises(UserError, match="--weight_drop: the cell min_gru has no weights"):
        char_lm.program(config(file, cell="min_gru", weight_drop=0.5))


# A trained run, and what it writes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run of two layers, which the launcher has trained."""
    folder = tmp_path_factory.mktemp("finished")
    file = write_text(folder / "text.txt")
    command = ["char_lm", f"--text={file}", f"--workdir={folder / 'run'}", "--layers=2", *FLAGS]
    jax.config.update("jax_disable_most_optimizations", True)  # as in a test, to compile quickly
    assert __main__.main(command) == 0
    return folder / "run"


@pytest.mark.long
def test_a_finished_run_leaves_bits_and_figures(finished: Path) -> None:
    result = read(finished, "result.json")
    assert result["test_bits"] == pytest.approx(result["test_loss"] / math.log(2), rel=1e-5)
    assert (result["select"], result["higher_is_better"]) == ("loss", False)
    assert result["report"] == "bits"
    assert result["evaluations"] == 3
    figures = {path.name for path in (finished / "figures").iterdir()}
    assert figures == {"learning_curves.png", "surprise.png", "sample.txt", "data.csv"}
    assert "bits a character" in (finished / "report.html").read_text()


@pytest.mark.long
def test_a_loaded_run_has_the_weights_that_were_kept_at_the_best_evaluation(
    finished: Path,
) -> None:
    run = load_run(finished)
    assert run.experiment.module is char_lm
    assert run.experiment.name == "char_lm"
    assert run.config == config(finished.parent / "text.txt", layers=2)
    assert run.result == read(finished, "result.json")
    kept = best_weights(finished)
    assert sorted(kept) == sorted(run.kept) == [f"layer_{n}" for n in range(6)]
    for one, other in zip(leaves_of(run.kept), leaves_of(kept), strict=True):
        np.testing.assert_array_equal(one, other)
    program, hparams = run.program, values_of(run.config)
    test = jax.jit(program.task.evaluate)(run.kept, hparams, program.data["test"])
    assert float(test["loss"].mean) == pytest.approx(run.result["test_loss"], rel=1e-5)


def sampled(capsys: pytest.CaptureFixture[str], folder: Path, *flags: str) -> str:
    """Return what ``./launch.sh sample`` prints."""
    assert __main__.main(["sample", str(folder), *flags]) == 0
    return capsys.readouterr().out


@pytest.mark.long
def test_the_page_has_what_the_run_writes_when_it_is_asked(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (finished / "figures/sample.txt").read_text()
    assert text.strip() == sampled(capsys, finished).strip()
    assert len(text) > 400


@pytest.mark.long
def test_the_text_of_a_trained_run_depends_on_prompt_seed_and_temperature_alone(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (["--prompt=the "], ["--prompt=the "], ["--sample_seed=1"], ["--temperature=0"])
    written = [sampled(capsys, finished, "--characters=40", *own) for own in flags]
    assert written[0] == written[1]
    assert written[0].startswith("the ")
    assert len(written[0]) == len("the ") + 40 + 1
    assert set("".join(written)) <= set((finished.parent / "text.txt").read_text())
    assert len({*written}) == 3


def sample_of(run: Run, **flags: Any) -> str:
    return "".join(writing.sample(run, writing.Sample(**flags)))


def untrained(own: char_lm.Config) -> Run:
    """Return a run with random weights."""
    program = char_lm.program(own)
    kept = program.task.keep(program.task.init(values_of(own)))
    return Run(Path(), catalogue.load("char_lm"), own, program, kept, {})


@pytest.fixture
def wild(file: Path) -> Run:
    """Return a run whose text does not settle down to a few characters."""
    return untrained(config(file, cell="elman", layers=2, hidden_size=32))


@pytest.mark.long
@pytest.mark.parametrize("prompt", ["the cat", "t", ""])
def test_text_at_temperature_0_is_the_most_likely_character_after_all_before(
    wild: Run, prompt: str
) -> None:
    """The model reads the whole text at once here, across the pieces in which it was drawn."""
    text = sample_of(wild, prompt=prompt, characters=2 * writing.PIECE + 20, temperature=0.0)
    characters = texts.load_text("pydoc", wild.config.text).characters
    begun = len(prompt) or 1
    assert text.startswith(prompt or "\n")
    assert len(text) == begun + 2 * writing.PIECE + 20
    assert len(set(text[writing.PIECE - 10 : writing.PIECE + 20])) > 4, "no constant text"
    model = char_lm.model_of(wild.config, len(characters))
    tokens = jnp.array([[characters.index(c)] for c in text])
    _, logits = recurrent.unroll(model, wild.kept, tokens)
    likely = "".join(characters[k] for k in logits[begun - 1 : -1, 0].argmax(axis=-1))
    assert text[begun:] == likely


@pytest.mark.long
def test_a_longer_text_begins_with_the_shorter_one(wild: Run) -> None:
    longest = sample_of(wild, prompt="the ", characters=130, temperature=1.0)
    assert len(longest) == 4 + 130
    for characters in (1, 49, 50, 51, 100):
        text = sample_of(wild, prompt="the ", characters=characters, temperature=1.0)
        assert text == longest[: 4 + characters]


@pytest.mark.long
def test_every_piece_of_a_text_is_drawn_with_another_key(wild: Run) -> None:
    """Where all characters are as likely after any text, only the key tells pieces apart."""
    flat = wild._replace(kept=jax.tree.map(jnp.zeros_like, wild.kept))
    text = sample_of(flat, characters=3 * writing.PIECE, temperature=1.0)[1:]
    pieces = [text[k : k + writing.PIECE] for k in range(0, len(text), writing.PIECE)]
    assert len(set(pieces)) == 3
    assert text != sample_of(flat, characters=3 * writing.PIECE, sample_seed=1, temperature=1.0)[1:]


@pytest.mark.long
def test_a_prompt_of_unknown_characters_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["sample", str(finished), "--prompt=CAT"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--prompt: expected characters of the training text, got ['A', 'C', 'T']" in err


# What a text costs it


def evaluated(folder: Path, *flags: str) -> dict[str, Any]:
    assert __main__.main(["evaluate", str(folder), *flags]) == 0
    return read(folder, f"evaluation{'-dynamic' if flags else ''}.json")


@pytest.mark.long
def test_a_text_is_read_warm_and_cold_and_both_halves_are_told(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated_before = evaluated(finished)
    monkeypatch.setattr(rereading, "STREAMS", 1)
    monkeypatch.setattr(rereading, "WINDOW", 16)
    found, run = evaluated(finished), load_run(finished)
    assert evaluated_before["carried_test"] == pytest.approx(run.result["test_loss"], rel=1e-5)
    assert found["best_step"] == run.result["best_step"]
    text = texts.load_text("pydoc", run.config.text)
    model = char_lm.model_of(run.config, len(text.characters))
    totals = []
    for part in (text.valid, text.test):
        costs = []
        for start in range(0, len(part) - 1, rereading.WINDOW):  # as the whole is one stream
            tokens = part[start : start + rereading.WINDOW + 1]
            _, logits = recurrent.unroll(model, run.kept, jnp.asarray(tokens[:-1, None]))
            log_p = np.asarray(jax.nn.log_softmax(logits))[:, 0]
            costs += [-log_p[np.arange(len(log_p)), tokens[1:]]]
        totals.append(np.concatenate(costs))
    for name, costs in zip(
        ("valid", "test", "both"), [*totals, np.concatenate(totals)], strict=True
    ):
        assert found[f"cold_{name}"] == pytest.approx(costs.mean(), rel=1e-5)


@pytest.mark.long
def test_a_model_that_learns_as_it_reads_has_rates_chosen_on_the_validation_text(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {}
    for rates in ((0.0,), (1e-2,), (0.0, 1e-2)):
        monkeypatch.setattr(rereading, "RATES", rates)
        monkeypatch.setattr(rereading, "DECAYS", (1e-2,))
        costs[rates] = evaluated(finished, "--dynamic")
    (still, moved, found) = costs.values()
    assert "this rate is the " in capsys.readouterr().out
    assert still["dynamic_valid"] != moved["dynamic_valid"]
    best = min(still, moved, key=lambda each: each["dynamic_valid"])
    for name in ("rate", "dynamic_valid", "dynamic_test", "dynamic_both"):
        assert found[name] == best[name]


@pytest.mark.long
def test_an_ensemble_has_the_mean_of_the_probabilities_of_its_members(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "char_lm", f"--text={file}", f"--workdir={tmp_path / 'both'}", *FLAGS]
    assert __main__.main([*command, "--sweep=seed=0:2", "--keep_all"]) == 0
    assert __main__.main(["evaluate", str(tmp_path / "both"), "--ensemble"]) == 0
    found = read(tmp_path / "both" / "best", "evaluation-ensemble.json")
    text = texts.load_text("pydoc", str(file))
    shares = []
    model = char_lm.model_of(config(file), len(text.characters))
    members = members_of(load_run(tmp_path / "both"))
    assert "warning" not in capfd.readouterr().err
    for each in members:
        _, logits = recurrent.unroll(model, each.kept, jnp.asarray(text.test[:-1, None]))
        shares.append(np.asarray(jax.nn.softmax(logits))[:, 0])
    likely = np.mean(shares, axis=0)[np.arange(len(text.test) - 1), text.test[1:]]
    assert rereading.streams_of(len(text.test)) == 1  # so the state is carried from the beginning
    assert found["carried_test"] == pytest.approx(-np.log(likely).mean(), rel=1e-5)
    one = rereading.cost([(model, members[0].kept)])(jnp.asarray(text.test))
    twice = rereading.cost([(model, members[0].kept)] * 2)(jnp.asarray(text.test))
    assert float(one.mean) == pytest.approx(float(twice.mean), rel=1e-5)
    assert found["members"] == 2
    assert __main__.main(["evaluate", str(tmp_path / "both"), "--ensemble", "--dynamic"]) == 2
    assert "--dynamic: expected it without --ensemble" in capfd.readouterr().err


@pytest.fixture
def stopped(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a run that was stopped before its first evaluation."""

    def stop(*_: Any) -> None:
        raise stopping.Stopped(15, 5)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "train", stop)
        command = ["char_lm", f"--text={file}", f"--workdir={tmp_path / 'run'}", *FLAGS]
        assert __main__.main(command) == 128 + 15
    return tmp_path / "run"


def test_a_run_that_was_never_evaluated_writes_nothing(
    stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    before = sorted(stopped.rglob("*"))
    assert __main__.main(["sample", str(stopped)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"error: The run in {stopped} has not been evaluated yet: train it further; or anew, at a "
        "smaller learning rate, if it diverged.\n"
    )
    assert sorted(stopped.rglob("*")) == before


@pytest.mark.long
def test_a_text_that_has_changed_since_the_training_is_sampled_from_as_it_was(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The new one, of as many other characters, would be taken for it."""
    run, file = tmp_path / "run", write_text(tmp_path / "text.txt")
    shutil.copytree(finished, run)
    identity = (run / "config.json").read_text()
    (run / "config.json").write_text(identity.replace(str(finished.parent / file.name), str(file)))

    def sampled(status: int) -> tuple[str, str]:
        capsys.readouterr()
        assert __main__.main(["sample", str(run), "--characters=40"]) == status
        return capsys.readouterr()

    before, _ = sampled(0)
    file.write_text(file.read_text().replace("c", "z"))
    after, said = sampled(0)
    assert after == before
    assert f"note: --text: text.txt has changed; what the run in {run} was trained with" in said
    identity = (run / "config.json").read_text()
    other = re.sub('("the data of train": ")..', r"\1zz", identity)
    (run / "config.json").write_text(other)
    assert "warning: the data of train is not what the run in" in sampled(0)[1]
    (run / "config.json").write_text(identity)
    shutil.rmtree(run / "files")
    assert f"--text: text.txt has changed since the run in {run}" in sampled(2)[1]
    file.unlink()
    assert f"{file} cannot be read" in sampled(2)[1]


@pytest.mark.long
def test_a_text_of_one_line_is_continued_from_its_first_character(tmp_path: Path) -> None:
    file = tmp_path / "line.txt"
    file.write_text("cab " * 300)
    text = sample_of(untrained(config(file)), characters=5)
    assert text.startswith("c")
    assert len(text) == 6
    assert set(text) <= set("cab ")


@pytest.mark.long
def test_a_language_model_sweeps_and_its_best_writes_text(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "char_lm", f"--text={file}", f"--workdir={tmp_path}/sweep", *FLAGS]
    swept = ["--sweep=learning_rate=0.001,0.03", "--sweep=dropout=0,0.2"]
    assert __main__.main([*command, *swept]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("sweep of char_lm: 4 members of 4 configurations in 1 program")
    rows = [json.loads(line) for line in (tmp_path / "sweep/sweep.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["valid_loss"])
    assert f"--learning_rate={best['learning_rate']:g}" in next(
        line for line in out if line.startswith("the best alone")
    )
    assert load_run(tmp_path / "sweep").config.learning_rate == best["learning_rate"]
    assert __main__.main(["sample", f"{tmp_path}/sweep", "--characters=20"]) == 0
    assert len(capsys.readouterr().out) == 22  # a new line before, and one after
