"""Tiny real runs of the classifiers, through the launcher, judged by the files that they leave."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import __main__, char_lm, image_cnn, sequential_digits
from experiments.data.images import load_images
from experiments.harness import catalogue, loop, stopping
from experiments.harness.config import hparams_of
from experiments.harness.errors import UserError
from experiments.harness.identity import identity_of
from experiments.harness.runs import load_run, read_config
from tests.experiments.run_files import assert_events, best_weights, read, rows_of, snapshot

pytestmark = pytest.mark.optimized

HIDDEN, CLASSES, TESTED = 6, 10, 360
STEPS_PER_EPOCH = 5  # batches of 256 in the 1257 training images
TINY = ("--epochs=1", "--batch_size=256")
COMMON_FIGURES = ("learning_curves", "confusion_matrix", "mistakes")
OWN_CELL = """
import jax
from recurrent import Hidden, gated


def soft(input_size, hidden_size):
    def gate(zx, zh, state):
        update = jax.nn.sigmoid(zx[0] + zh[0])
        candidate = jax.nn.soft_sign(zx[1] + zh[1])
        return Hidden((1 - update) * candidate + update * state.hidden)

    return gated(gate, input_size, hidden_size, gates=2)
"""


# What a finished run leaves


def finished(capfd: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    """Return what a command prints that ends well."""
    status = __main__.main([*arguments, f"--workdir={folder}"])
    out, err = capfd.readouterr()
    assert status == 0, err
    return out


def assert_complete(folder: Path, experiment: str, figures: tuple[str, ...], *more: str) -> None:
    names = {"config.json", "metrics.jsonl", "result.json", "report.html", "lock", *more}
    assert {entry.name for entry in folder.iterdir()} == names | {
        *("events", "checkpoints", "figures")
    }
    assert {file.name for file in (folder / "figures").iterdir()} == {f"{f}.png" for f in figures}
    for file in (folder / "figures").iterdir():
        assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(figures)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert f"./launch.sh {experiment}" in page
    config = read(folder, "config.json")
    assert config["experiment"] == experiment
    assert config["config"]["batch_size"] == 256


def assert_result(folder: Path, experiment: str, evaluations: int, parameters: int) -> None:
    result, rows = read(folder, "result.json"), rows_of(folder)
    assert result["experiment"] == experiment
    assert result["seed"] == read(folder, "config.json")["config"]["seed"]
    assert result["evaluations"] == evaluations
    assert result["steps"] == evaluations * STEPS_PER_EPOCH
    assert result["parameters"] == parameters
    assert result["jax"] == jax.__version__
    assert jax.devices()[0].device_kind in result["device"]
    assert 0 < result["train_seconds"] < 600
    assert all(isinstance(value, str | int | float) for value in result.values()), "a flat object"
    assert [row["evaluation"] for row in rows] == [n + 1 for n in range(evaluations)]
    assert [row["step"] for row in rows] == [STEPS_PER_EPOCH * row["evaluation"] for row in rows]
    assert result["select"] == "loss"
    assert result["higher_is_better"] is False
    assert result["report"] == "accuracy"
    best = min(rows, key=lambda row: row["valid_loss"])
    assert result["best_step"] == best["step"]
    assert result["valid_loss"] == best["valid_loss"]
    assert result["valid_accuracy"] == best["valid_accuracy"]
    for row in rows:
        assert row["train_gradient_norm"] > 0
        assert row["train_skipped"] == 0


def assert_recomputed(folder: Path, logits: np.ndarray) -> None:
    """Assert the test metrics, computed in float64 from logits ``[360, 10]``."""
    result, labels = read(folder, "result.json"), load_images("digits", 0).test.labels
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_probabilities[np.arange(TESTED), labels].mean()
    assert result["test_loss"] == pytest.approx(loss, rel=1e-4)
    right = int((logits.argmax(axis=1) == labels).sum())
    assert result["test_accuracy"] * TESTED == pytest.approx(right, abs=1.01)  # a tie may turn


def assert_predicts(capfd: pytest.CaptureFixture[str], folder: Path, logits: np.ndarray) -> None:
    """Assert that ``predict`` says of test images what these logits say."""
    images = load_images("digits", 0).test.images[:3]
    np.save(folder / "three.npy", images)
    Image.fromarray(images[0]).save(folder / "one.png")
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponents / exponents.sum(axis=1, keepdims=True)
    capfd.readouterr()
    command = ["predict", str(folder), "--json"]
    assert __main__.main([*command, f"--array={folder / 'three.npy'}"]) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    got = np.array([each["probabilities"] for each in found])
    np.testing.assert_allclose(got, expected[:3], atol=1e-5)
    assert [each["class"] for each in found] == list(got.argmax(axis=1))
    assert __main__.main(["predict", str(folder), f"--image={folder / 'one.png'}"]) == 0
    assert capfd.readouterr().out.split()[0] == str(got[0].argmax())


def assert_loads(folder: Path, module: Any, config: Any) -> None:
    """Assert that ``load_run`` returns what a finished run has left."""
    run = load_run(str(folder))
    assert (run.folder, run.experiment.module, run.config) == (folder, module, config)
    assert run.experiment.name == read(folder, "config.json")["experiment"]
    assert run.result == read(folder, "result.json")
    kept = best_weights(folder)
    assert jax.tree.structure(run.kept) == jax.tree.structure(kept)
    for one, other in zip(*map(jax.tree.leaves, (run.kept, kept)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    hparams = {name: value[0] for name, value in hparams_of(config).items()}
    test = jax.jit(run.program.task.evaluate)(run.kept, hparams, run.program.data["test"])
    assert float(test["loss"].mean) == pytest.approx(run.result["test_loss"], rel=1e-5)


# Recurrent networks


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def elman_gate(zx: list[Any], zh: list[Any], h: Any, c: Any) -> tuple[Any, Any]:
    return np.tanh(zx[0] + zh[0]), c


def lstm_gate(zx: list[Any], zh: list[Any], h: Any, c: Any) -> tuple[Any, Any]:
    i, f, g, o = (x + y for x, y in zip(zx, zh, strict=True))
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_gate(zx: list[Any], zh: list[Any], h: Any, c: Any) -> tuple[Any, Any]:
    r, u = sigmoid(zx[0] + zh[0]), sigmoid(zx[1] + zh[1])
    return (1 - u) * np.tanh(zx[2] + r * zh[2]) + u * h, c


def soft_gate(zx: list[Any], zh: list[Any], h: Any, c: Any) -> tuple[Any, Any]:
    u, z = sigmoid(zx[0] + zh[0]), zx[1] + zh[1]
    return (1 - u) * z / (1 + abs(z)) + u * h, c


def recurrent_logits(gate: Callable[..., Any], gates: int, params: Any, order: str) -> np.ndarray:
    """Return logits ``[360, 10]`` by a loop over time in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    inner, outer = params["cell"]["input"], params["cell"]["recurrent"]
    images = load_images("digits", 0).test.images / 255
    h = c = np.zeros((TESTED, HIDDEN))
    for x in sequential_digits.reader(order, (8, 8))(images):
        zx = np.split(x @ inner["kernel"] + inner["bias"], gates, axis=1)
        zh = np.split(h @ outer["kernel"] + outer.get("bias", 0), gates, axis=1)
        h, c = gate(zx, zh, h, c)
    return h @ params["head"]["kernel"] + params["head"]["bias"]


def recurrent_size(gates: int, biases: int, features: int) -> int:
    cell = gates * HIDDEN * (features + HIDDEN + biases)
    return cell + HIDDEN * CLASSES + CLASSES


@pytest.mark.long
@pytest.mark.parametrize(
    ("cell", "order", "gate", "gates", "biases"),
    [
        pytest.param("elman", "permuted", elman_gate, 1, 1, marks=pytest.mark.long),
        ("lstm", "row", lstm_gate, 4, 1),
        pytest.param("gru", "pixel", gru_gate, 3, 2, marks=pytest.mark.long),
    ],
)
def test_a_recurrent_network_trains_to_a_complete_directory_of_true_numbers(
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    cell: str,
    order: str,
    gate: Callable[..., Any],
    gates: int,
    biases: int,
    monkeypatch: pytest.MonkeyPatch,
):
    flags = (*TINY, f"--cell={cell}", f"--order={order}", f"--hidden_size={HIDDEN}")
    out = finished(capfd, tmp_path, "sequential_digits", *flags)
    assert f"sequential_digits begins in {tmp_path} (" in out
    assert f"report: {tmp_path / 'report.html'}" in out
    assert_complete(tmp_path, "sequential_digits", (*COMMON_FIGURES, "hidden_state"))
    features = 8 if order == "row" else 1
    assert_result(tmp_path, "sequential_digits", 1, recurrent_size(gates, biases, features))
    assert_events(tmp_path)
    assert_recomputed(tmp_path, recurrent_logits(gate, gates, best_weights(tmp_path), order))
    config = sequential_digits.Config(
        epochs=1, batch_size=256, cell=cell, order=order, hidden_size=HIDDEN
    )
    assert_loads(tmp_path, sequential_digits, config)
    logits = recurrent_logits(gate, gates, best_weights(tmp_path), order)
    assert_predicts(capfd, tmp_path, logits)
    if cell == "elman":
        (tmp_path / "result.json").unlink()
        assert_another_model_is_refused(capfd, tmp_path, flags, monkeypatch)


def assert_another_model_is_refused(
    capfd: pytest.CaptureFixture[str],
    folder: Path,
    flags: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Assert that a run is not gone on with where its flags mean another model by now."""
    before = snapshot(folder)
    make = sequential_digits.cell_flag.make_cell
    monkeypatch.setattr(sequential_digits.cell_flag, "make_cell", lambda n, d, h: make(n, d, h + 1))
    assert __main__.main(["sequential_digits", *flags, f"--workdir={folder}"]) == 2
    _, line = capfd.readouterr().err.splitlines()  # after the one that it is preparing
    assert "is of another model: members.state.params.cell." in line
    assert re.search(rf"float32\[.*{HIDDEN}\] there and float32\[.*{HIDDEN + 1}\] here", line)
    assert snapshot(folder) == before


@pytest.mark.long
def test_a_cell_of_ones_own_trains_and_its_run_is_used_by_a_copy_once_it_is_edited(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, folder = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(OWN_CELL)
    monkeypatch.chdir(tmp_path)
    flags = (*TINY, "--seed=3", "--cell=mine.py:soft", f"--hidden_size={HIDDEN}")
    finished(capfd, folder, "sequential_digits", *flags)
    assert_complete(folder, "sequential_digits", (*COMMON_FIGURES, "hidden_state"), "files")
    assert_result(folder, "sequential_digits", 1, recurrent_size(2, 1, 8))
    assert_recomputed(folder, recurrent_logits(soft_gate, 2, best_weights(folder), "row"))
    before = snapshot(folder)

    assert "This run is finished already" in finished(capfd, folder, "sequential_digits", *flags)
    assert snapshot(folder) == before

    file.write_text(OWN_CELL.replace("soft_sign", "tanh"))
    assert __main__.main(["sequential_digits", *flags, f"--workdir={folder}"]) == 2
    _, line = capfd.readouterr().err.splitlines()
    assert "--cell: mine.py has changed since the run in" in line
    found = load_run(folder)  # by its own copy
    assert "note: --cell: mine.py has changed; what the run in" in capfd.readouterr().err
    assert Path(found.config.cell.rpartition(":")[0]).read_text() == OWN_CELL
    for text in ("def soft(:\n", "def other(): pass\n", None):  # which nothing imports
        file.write_text(text) if text else file.unlink()
        assert load_run(folder).config == found.config
    assert snapshot(folder) == before

    file.write_text(OWN_CELL)
    monkeypatch.chdir("/")  # from anywhere, though the flag was written for one place
    found = load_run(folder)
    assert found.result == read(folder, "result.json")
    assert found.config.cell == f"{file}:soft"


def test_rows_and_pixels_are_read_in_reading_order():
    images = np.arange(2 * 3 * 4).reshape(2, 3, 4) / 24
    rows = sequential_digits.reader("row", (3, 4))(images)
    pixels = sequential_digits.reader("pixel", (3, 4))(images)
    assert rows.shape == (3, 2, 4)
    assert pixels.shape == (12, 2, 1)
    for b, y, x in np.ndindex(2, 3, 4):
        assert rows[y, b, x] == pixels[4 * y + x, b, 0] == 2 * images[b, y, x] - 1


def test_permuted_pixels_are_one_shuffle_for_all_images():
    images = np.random.default_rng(1).random((5, 8, 8))
    pixels = sequential_digits.reader("pixel", (8, 8))(images)
    permuted = sequential_digits.reader("permuted", (8, 8))(images)
    order = [int(np.flatnonzero(pixels[:, 0, 0] == value)[0]) for value in permuted[:, 0, 0]]
    assert sorted(order) == list(range(64))
    assert np.mean(np.diff(order) == 1) < 0.2
    np.testing.assert_array_equal(permuted, pixels[order])
    again = sequential_digits.reader("permuted", (8, 8))(images)
    np.testing.assert_array_equal(again, permuted)


# The convolutional network


def convolved(images: np.ndarray, params: dict[str, np.ndarray]) -> np.ndarray:
    """Convolve by 3x3, padded with zeros to the same size, then apply ReLU and 2x2 max-pooling."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = sum(
        padded[:, y : y + height, x : x + width] @ params["kernel"][y, x]
        for y, x in np.ndindex(3, 3)
    )
    out = np.maximum(out + params["bias"], 0)
    return out.reshape(len(images), height // 2, 2, width // 2, 2, -1).max(axis=(2, 4))


def convolutional_logits(params: Any) -> np.ndarray:
    """Return logits ``[360, 10]`` in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = load_images("digits", 0).test.images[..., None] / 255
    for name in ("Conv_0", "Conv_1"):
        x = convolved(x, params[name])
    x = x.reshape(TESTED, -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    return np.maximum(x, 0) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def convolutional_size(height: int, width: int) -> int:
    flat = 64 * (height // 4) * (width // 4)
    return (9 + 1) * 32 + (9 * 32 + 1) * 64 + (flat + 1) * 128 + (128 + 1) * CLASSES


@pytest.mark.long
def test_the_convolutional_network_trains_to_a_complete_directory_of_true_numbers(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    flags = ("image_cnn", "--epochs=2", "--batch_size=256")
    finished(capfd, tmp_path, *flags)
    assert_complete(tmp_path, "image_cnn", (*COMMON_FIGURES, "kernels"))
    assert_result(tmp_path, "image_cnn", 2, convolutional_size(8, 8))
    assert_events(tmp_path)
    assert_recomputed(tmp_path, convolutional_logits(best_weights(tmp_path)))
    assert_loads(tmp_path, image_cnn, image_cnn.Config(epochs=2, batch_size=256))
    assert_predicts(capfd, tmp_path, convolutional_logits(best_weights(tmp_path)))
    before = snapshot(tmp_path)
    assert "This run is finished already" in finished(capfd, tmp_path, *flags)
    assert snapshot(tmp_path) == before


def test_the_surveys_network_has_the_surveys_size():
    """Of 28x28 images: 32 and 64 kernels of 3x3, dense layers of 128 and 10."""
    model = image_cnn.convnet_classifier(image_cnn.Config(), (28, 28))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert size == convolutional_size(28, 28) == 421_642


# What may go wrong in a run


@pytest.mark.long
def test_a_run_that_diverges_says_at_which_step_and_leaves_no_result(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    flags = ("--cell=elman", f"--hidden_size={HIDDEN}", "--epochs=2", "--batch_size=32")
    rate = ("--optimizer=sgd", "--learning_rate=1e38", "--clip_norm=0", "--warmup_epochs=0")
    command = ["sequential_digits", *flags, *rate, "--steps_per_call=30", f"--workdir={tmp_path}"]
    assert __main__.main(command) == 3
    err = capfd.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    found = re.match(r"error: Training diverged: the last (\d+) steps up to step (\d+) had ", line)
    assert found, line
    failures, step = map(int, found.groups())
    assert 20 <= failures <= step <= 40
    assert "gradients that are not finite" in line
    assert "--learning_rate" in line
    assert not (tmp_path / "result.json").exists()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.long
def test_overwrite_deletes_the_earlier_run_where_another_configuration_is_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stopped(*_: Any) -> None:
        raise stopping.Stopped(15, 3)

    monkeypatch.setattr(loop, "train", stopped)
    flags = [*TINY, "--hidden_size=4", f"--workdir={tmp_path}"]
    assert __main__.main(["sequential_digits", *flags]) == 143
    _, *lines = capfd.readouterr().err.splitlines()
    assert lines == ["Stopped and saved at step 3; the same command goes on from there."]
    (tmp_path / "figures").mkdir()
    other = [*TINY, "--hidden_size=5", f"--workdir={tmp_path}"]
    assert __main__.main(["sequential_digits", *other]) == 2
    assert (tmp_path / "figures").exists()
    assert __main__.main(["sequential_digits", *other, "--overwrite"]) == 143
    assert not (tmp_path / "figures").exists()
    assert read(tmp_path, "config.json")["config"]["hidden_size"] == 5


# Directories that cannot be loaded


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    """Return the directory of a run that has saved nothing yet."""
    identity = identity_of(
        catalogue.load("sequential_digits"), sequential_digits.Config(hidden_size=HIDDEN)
    )
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(identity))
    return folder


def test_a_folder_without_a_run_is_not_loaded(tmp_path: Path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "none", tmp_path / "file", tmp_path / "empty"):
        with pytest.raises(UserError, match=f"There is no trained run in {path}"):
            load_run(path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "file"]


def test_a_run_without_an_evaluation_is_not_loaded(untrained: Path):
    with pytest.raises(UserError, match="has not been evaluated yet: train it further"):
        load_run(untrained)
    assert [path.name for path in untrained.rglob("*")] == ["config.json"]


def test_a_sweep_is_not_loaded_as_a_run(untrained: Path):
    identity = read(untrained, "config.json") | {"axes": {"seed": "0:3"}}
    (untrained / "config.json").write_text(json.dumps(identity))
    with pytest.raises(UserError, match="has no best training: it has not finished"):
        load_run(untrained)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"hiden_size": 8},
            "config.json: there is no field 'hiden_size'. Did you mean \"hidden_size\"",
        ),
        ({"hidden_size": "8"}, "config.json: hidden_size must be a whole number, got '8'"),
        ({"hidden_size": 8.0}, "hidden_size must be a whole number, got 8.0"),
        ({"hidden_size": True}, "hidden_size must be a whole number, got True"),
        ({"learning_rate": "1"}, "learning_rate must be a number, got '1'"),
        ({"learning_rate": True}, "learning_rate must be a number, got True"),
        ({"cell": None}, "cell must be a text, got None"),
        ({"hidden_size": -8}, "--hidden_size: expected at least 1, got -8"),
        ({"dropout": float("nan")}, "--dropout: expected a finite number"),
        ({"order": "column"}, "--order: expected one of row, pixel, permuted, got 'column'"),
        ({"cell": "lsmt"}, "--cell: expected one of"),
    ],
)
def test_a_config_with_an_unknown_or_impossible_field_is_not_loaded(
    untrained: Path, change: dict[str, Any], words: str
):
    identity = read(untrained, "config.json")
    identity["config"] |= change
    (untrained / "config.json").write_text(json.dumps(identity))
    with pytest.raises(UserError, match=re.escape(words)):
        load_run(untrained)


def test_a_config_without_a_field_of_the_experiment_is_not_loaded(untrained: Path):
    identity = read(untrained, "config.json")
    del identity["config"]["order"], identity["config"]["seed"]
    identity["origin"] = {"commit": "0ad262b53"}
    (untrained / "config.json").write_text(json.dumps(identity))
    with pytest.raises(UserError, match="is of another version: it does not say seed, order"):
        load_run(untrained)
    with pytest.raises(UserError, match="that it was trained with, commit 0ad262b53"):
        load_run(untrained)


def test_a_whole_number_in_a_config_stands_for_a_number(untrained: Path):
    identity = read(untrained, "config.json")
    identity["config"]["learning_rate"] = 1
    (untrained / "config.json").write_text(json.dumps(identity))
    expected = sequential_digits.Config(hidden_size=HIDDEN, learning_rate=1.0)
    experiment = catalogue.load("sequential_digits")
    assert read_config(untrained, experiment) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("[]", "is damaged: expected an object"),
        ("{}", "is damaged: experiment is None"),
        ('{"experiment": "image_cnn"}', "is damaged: config is None"),
        ('{"experiment": 3, "config": {}}', "is damaged: experiment is 3"),
        ('{"experiment": "image_cnn", "config": []}', "is damaged: config is []"),
        (
            '{"experiment": "image_cmn", "config": {}, "sources": {}}',
            "There is no experiment 'image_cmn'",
        ),
        ('{"experiment": "../image_cnn", "config": {}, "sources": {}}', "There is no experiment"),
        ('{"experiment": "harness.runs", "config": {}, "sources": {}}', "There is no experiment"),
        ('{"experiment": "image_cnn", "config": {}, "sources": 3}', "is damaged: sources is 3"),
    ],
)
def test_a_damaged_config_is_not_loaded(untrained: Path, text: str, words: str):
    (untrained / "config.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(words)):
        load_run(untrained)


def test_a_run_of_another_experiment_has_no_text_to_sample(
    capfd: pytest.CaptureFixture[str], untrained: Path
):
    assert "sample" in char_lm.commands
    assert __main__.main(["sample", str(untrained)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        f"error: sample: the experiment of {untrained} has no such command; it has predict, "
        "explain.\n"
    )
