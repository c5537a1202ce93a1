"""Tiny real runs of every experiment, through the launcher, judged by the files that they leave."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import __main__, image_cnn, sequential_digits
from experiments.data.images import load_images
from experiments.harness import loop, stopping
from experiments.harness.checkpoint import checkpoints

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
    """What a command prints that ends well."""
    status = __main__.main([*arguments, f"--workdir={folder}"])
    out, err = capfd.readouterr()
    assert status == 0, err
    return out


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def best_params(folder: Path) -> Any:
    with checkpoints(folder / "checkpoints" / "best", keep=1) as manager:
        assert manager.all_steps() == [read(folder, "result.json")["best_step"]]
        return manager.restore(manager.latest_step())["state"]


def assert_complete(folder: Path, experiment: str, figures: tuple[str, ...]) -> None:
    names = {"config.json", "metrics.jsonl", "result.json", "report.html", "lock"}
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


def assert_result(folder: Path, experiment: str, epochs: int, parameters: int) -> None:
    result, rows = read(folder, "result.json"), rows_of(folder)
    assert result["experiment"] == experiment
    assert result["seed"] == read(folder, "config.json")["config"]["seed"]
    assert result["steps"] == epochs * STEPS_PER_EPOCH
    assert result["parameters"] == parameters
    assert result["jax"] == jax.__version__
    assert jax.devices()[0].device_kind in result["device"]
    assert 0 < result["train_seconds"] < 600
    assert all(isinstance(value, str | int | float) for value in result.values()), "a flat object"
    assert [row["step"] for row in rows] == [STEPS_PER_EPOCH * (n + 1) for n in range(epochs)]
    best = min(rows, key=lambda row: row["valid_loss"])
    assert result["best_step"] == best["step"]
    assert result["valid_loss"] == best["valid_loss"]
    assert result["valid_accuracy"] == best["valid_accuracy"]
    for row in rows:
        assert row["train_gradient_norm"] > 0
        assert row["train_skipped"] == 0


def events_of(folder: Path) -> dict[tuple[str, int], float]:
    """Tag and step to value, as TensorBoard shows them: a new start purges later steps."""
    from tensorboardX.proto import event_pb2

    proto: Any = event_pb2  # generated, so without types
    found: dict[tuple[str, int], float] = {}
    for file in sorted((folder / "events").iterdir()):
        assert "tfevents" in file.name, "TensorBoard looks for this word"
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack_from("<Q", data)
            event = proto.Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]
            if event.session_log.status == proto.SessionLog.START:
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def assert_events(folder: Path) -> None:
    wanted = {
        (name.replace("_", "/", 1), row["step"]): value
        for row in rows_of(folder)
        for name, value in row.items()
        if name not in ("step", "epoch")
    }
    assert events_of(folder) == wanted


def assert_recomputed(folder: Path, logits: np.ndarray) -> None:
    """The test split's numbers from logits ``[360, 10]`` in float64."""
    result, labels = read(folder, "result.json"), load_images("digits", 0).test.labels
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_probabilities[np.arange(TESTED), labels].mean()
    assert result["test_loss"] == pytest.approx(loss, rel=1e-4)
    right = int((logits.argmax(axis=1) == labels).sum())
    assert result["test_accuracy"] * TESTED == pytest.approx(right, abs=1.01)  # a tie may turn


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Times and bytes of all files but the lock, whose text names its last owner."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "lock"]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


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
    """A loop over time in float64."""
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


@pytest.mark.parametrize(
    ("cell", "order", "gate", "gates", "biases"),
    [
        ("elman", "permuted", elman_gate, 1, 1),
        ("lstm", "row", lstm_gate, 4, 1),
        ("gru", "pixel", gru_gate, 3, 2),
    ],
)
def test_sequential_digits(
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
    assert_recomputed(tmp_path, recurrent_logits(gate, gates, best_params(tmp_path), order))
    if cell == "elman":
        (tmp_path / "result.json").unlink()
        assert_another_model_is_refused(capfd, tmp_path, flags, monkeypatch)


def assert_another_model_is_refused(
    capfd: pytest.CaptureFixture[str],
    folder: Path,
    flags: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same flags may mean another model where the library changed between two parts."""
    before = snapshot(folder)
    make = sequential_digits.cell_flag.make_cell
    monkeypatch.setattr(sequential_digits.cell_flag, "make_cell", lambda n, d, h: make(n, d, h + 1))
    assert __main__.main(["sequential_digits", *flags, f"--workdir={folder}"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "is of another model: train.params.cell." in line
    assert re.search(rf"float32\[.*{HIDDEN}\] there and float32\[.*{HIDDEN + 1}\] here", line)
    assert snapshot(folder) == before


def test_a_cell_of_ones_own(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    file, folder = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(OWN_CELL)
    flags = (*TINY, "--seed=3", f"--cell={file}:soft", f"--hidden_size={HIDDEN}")
    finished(capfd, folder, "sequential_digits", *flags)
    assert_complete(folder, "sequential_digits", (*COMMON_FIGURES, "hidden_state"))
    assert_result(folder, "sequential_digits", 1, recurrent_size(2, 1, 8))
    assert_recomputed(folder, recurrent_logits(soft_gate, 2, best_params(folder), "row"))
    before = snapshot(folder)

    assert "This run is finished already" in finished(capfd, folder, "sequential_digits", *flags)
    assert snapshot(folder) == before

    file.write_text(OWN_CELL.replace("soft_sign", "tanh"))
    assert __main__.main(["sequential_digits", *flags, f"--workdir={folder}"]) == 2
    line = capfd.readouterr().err
    assert len(line.splitlines()) == 1
    assert "holds a run of another configuration (sources.cell was '" in line
    assert snapshot(folder) == before


def test_rows_and_pixels_in_reading_order():
    images = np.arange(2 * 3 * 4).reshape(2, 3, 4) / 24
    rows = sequential_digits.reader("row", (3, 4))(images)
    pixels = sequential_digits.reader("pixel", (3, 4))(images)
    assert rows.shape == (3, 2, 4)
    assert pixels.shape == (12, 2, 1)
    for b, y, x in np.ndindex(2, 3, 4):
        assert rows[y, b, x] == pixels[4 * y + x, b, 0] == 2 * images[b, y, x] - 1


def test_permuted_is_one_shuffle_of_the_pixels_for_all():
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
    """3x3, padded with zeros to the same size, then ReLU and 2x2 max-pooling."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = sum(
        padded[:, y : y + height, x : x + width] @ params["kernel"][y, x]
        for y, x in np.ndindex(3, 3)
    )
    out = np.maximum(out + params["bias"], 0)
    return out.reshape(len(images), height // 2, 2, width // 2, 2, -1).max(axis=(2, 4))


def convolutional_logits(params: Any) -> np.ndarray:
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x = load_images("digits", 0).test.images[..., None] / 255
    for name in ("Conv_0", "Conv_1"):
        x = convolved(x, params[name])
    x = x.reshape(TESTED, -1) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    return np.maximum(x, 0) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def convolutional_size(height: int, width: int) -> int:
    flat = 64 * (height // 4) * (width // 4)
    return (9 + 1) * 32 + (9 * 32 + 1) * 64 + (flat + 1) * 128 + (128 + 1) * CLASSES


def test_image_cnn(capfd: pytest.CaptureFixture[str], tmp_path: Path):
    flags = ("image_cnn", "--epochs=2", "--batch_size=256")
    finished(capfd, tmp_path, *flags)
    assert_complete(tmp_path, "image_cnn", (*COMMON_FIGURES, "kernels"))
    assert_result(tmp_path, "image_cnn", 2, convolutional_size(8, 8))
    assert_events(tmp_path)
    assert_recomputed(tmp_path, convolutional_logits(best_params(tmp_path)))
    before = snapshot(tmp_path)
    assert "This run is finished already" in finished(capfd, tmp_path, *flags)
    assert snapshot(tmp_path) == before


def test_the_articles_network_has_the_articles_size():
    """Of 28x28: 32 and 64 kernels of 3x3, dense 128 and 10."""
    model = image_cnn.convnet_classifier(28, 28)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert size == convolutional_size(28, 28) == 421_642


# What may go wrong in a run


def test_a_diverging_run_says_so(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "train", lambda *_: stopping.refuse_divergence(20, 40))
    assert __main__.main(["sequential_digits", f"--workdir={tmp_path}"]) == 3
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: Training diverged: the last 20 ")
    assert "step 40" in line
    assert "--learning_rate" in line
    assert not (tmp_path / "result.json").exists()


def test_overwrite_begins_anew(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def stopped(*_: Any) -> None:
        raise stopping.Stopped(15, 3, 5)

    monkeypatch.setattr(loop, "train", stopped)
    flags = [*TINY, "--hidden_size=4", f"--workdir={tmp_path}"]
    assert __main__.main(["sequential_digits", *flags]) == 143
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["Stopped and saved at step 3 of 5; the same command goes on from there."]
    (tmp_path / "figures").mkdir()
    other = [*TINY, "--hidden_size=5", f"--workdir={tmp_path}"]
    assert __main__.main(["sequential_digits", *other]) == 2
    assert (tmp_path / "figures").exists()
    assert __main__.main(["sequential_digits", *other, "--overwrite"]) == 143
    assert not (tmp_path / "figures").exists()
    assert read(tmp_path, "config.json")["config"]["hidden_size"] == 5
