"""A cell that looks ahead: read where each direction ends, refused where it sees the answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__, char_lm, sequential_digits
from experiments.data.images import load_images
from experiments.harness.errors import UserError
from experiments.shared.classification import Classifier
from recurrent import Cell, bidirectional, dense, elman, stack, unroll
from tests.experiments.run_files import best_weights, read

HIDDEN, ROWS, WIDTH = 4, 8, 8
CELLS = """
from recurrent import bidirectional, dense, elman, stack


def both(input_size, hidden_size):
    return bidirectional(elman(input_size, hidden_size), elman(input_size, hidden_size))


def mixed(input_size, hidden_size):
    return stack(both(input_size, hidden_size), dense(2 * hidden_size, 5))


def above(input_size, hidden_size):
    return both(input_size, hidden_size) if input_size > 6 else elman(input_size, 7)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cells.py"
    path.write_text(CELLS)
    return path


def numpy_elman(params: Any, xs: np.ndarray) -> np.ndarray:
    """Return ``h_t = tanh(W x_t + U h_{t-1} + b)`` in float64."""
    h, hs = np.zeros((xs.shape[1], HIDDEN)), []
    for x in xs:
        z = x @ params["input"]["kernel"] + params["input"]["bias"]
        h = np.tanh(z + h @ params["recurrent"]["kernel"])
        hs.append(h)
    return np.stack(hs)


def numpy_both(params: Any, xs: np.ndarray) -> np.ndarray:
    """Return both directions side by side, each at the index of its input."""
    there = numpy_elman(params["forward"], xs)
    back = numpy_elman(params["backward"], xs[::-1])[::-1]
    return np.concatenate([there, back], axis=-1)


def numpy_mixed(params: Any, xs: np.ndarray) -> np.ndarray:
    ys = numpy_both(params["layer_0"], xs)
    return ys @ params["layer_1"]["kernel"] + params["layer_1"]["bias"]


def numpy_logits(outputs: Callable[..., Any], params: Any, images: np.ndarray) -> np.ndarray:
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    ys = outputs(params["cell"], 2 * images.swapaxes(0, 1) - 1)
    read = np.concatenate([ys[0], ys[-1]], axis=-1)
    return read @ params["head"]["kernel"] + params["head"]["bias"]


def classifier(cell: Cell) -> Classifier:
    return sequential_digits.sequence_classifier(
        cell, sequential_digits.reader("row", (ROWS, WIDTH))
    )


def both_ways() -> Cell:
    return bidirectional(elman(WIDTH, HIDDEN), elman(WIDTH, HIDDEN))


@pytest.mark.long
@pytest.mark.parametrize(
    ("cell", "outputs", "size"),
    [
        (both_ways(), numpy_both, 2 * HIDDEN),
        (stack(both_ways(), dense(2 * HIDDEN, 5)), numpy_mixed, 5),
    ],
)
def test_a_classifier_reads_both_directions_where_they_have_seen_everything(
    cell: Cell, outputs: Callable[..., Any], size: int
) -> None:
    model = classifier(cell)
    params = model.init(jax.random.key(0))
    images = np.random.default_rng(0).random((3, ROWS, WIDTH)).astype(np.float32)
    assert params["head"]["kernel"].shape == (2 * size, 10)
    np.testing.assert_allclose(
        model.logits(params, jnp.asarray(images), 0.0, None),
        numpy_logits(outputs, params, images),
        atol=1e-5,
    )


@pytest.mark.parametrize("way", ["forward", "backward"])
@pytest.mark.parametrize("row", [0, ROWS - 1])
def test_either_direction_alone_tells_apart_images_that_differ_in_an_outermost_row(
    way: str, row: int
) -> None:
    """With the other direction's weights at zero, its outputs are zero."""
    model = classifier(both_ways())
    params = model.init(jax.random.key(0))
    other = "backward" if way == "forward" else "forward"
    params["cell"][other] = jax.tree.map(jnp.zeros_like, params["cell"][other])
    at_end = np.zeros((4, HIDDEN, 1))  # forward and backward at the first step, and at the last
    at_end[2 if way == "forward" else 1] = 1
    params["head"]["kernel"] *= at_end.reshape(4 * HIDDEN, 1)
    image = np.full((1, ROWS, WIDTH), 0.5, np.float32)
    changed = image.copy()
    changed[:, row] = 1
    one, two = (model.logits(params, jnp.asarray(each), 0.0, None) for each in (image, changed))
    assert float(abs(one - two).max()) > 1e-3


def test_a_cell_that_reads_forwards_is_read_at_its_last_output() -> None:
    model = classifier(elman(WIDTH, HIDDEN))
    params = model.init(jax.random.key(0))
    assert params["head"]["kernel"].shape == (HIDDEN, 10)
    images = np.random.default_rng(0).random((3, ROWS, WIDTH)).astype(np.float32)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    last = numpy_elman(wide["cell"], 2 * images.swapaxes(0, 1) - 1)[-1]
    expected = last @ wide["head"]["kernel"] + wide["head"]["bias"]
    found = model.logits(params, jnp.asarray(images), 0.0, None)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(("name", "outputs"), [("both", numpy_both), ("mixed", numpy_mixed)])
def test_a_bidirectional_cell_of_a_file_trains_and_its_figures_are_true(
    file: Path, tmp_path: Path, name: str, outputs: Callable[..., Any]
) -> None:
    folder = tmp_path / "run"
    flags = [f"--cell={file}:{name}", f"--hidden_size={HIDDEN}", "--epochs=1", "--batch_size=256"]
    assert __main__.main(["sequential_digits", *flags, f"--workdir={folder}"]) == 0
    test = load_images("digits", 0).test
    logits = numpy_logits(outputs, best_weights(folder), test.images / 255)
    right = int((logits.argmax(axis=1) == test.labels).sum())
    found = read(folder, "result.json")["test_accuracy"] * len(test.labels)
    assert found == pytest.approx(right, abs=1.01)  # a tie may turn


# A language model

SMALL: dict[str, Any] = {"hidden_size": 4, "embedding_size": 4, "window": 8, "batch_size": 4}


@pytest.mark.parametrize(("name", "layers"), [("both", 1), ("mixed", 1), ("above", 2)])
def test_a_language_model_refuses_a_cell_that_sees_the_next_character(
    file: Path, name: str, layers: int
) -> None:
    """In whichever layer it is."""
    config = char_lm.Config(cell=f"{file}:{name}", layers=layers, **SMALL)
    with pytest.raises(UserError, match=r"--cell: .* looks ahead: .* forwards alone"):
        char_lm.program(config)


@pytest.mark.long
def test_a_language_model_takes_the_same_cell_where_it_reads_forwards(file: Path) -> None:
    """Moving any token moves no logits before it, and those after it."""
    model = char_lm.model_of(char_lm.Config(cell=f"{file}:above", **SMALL), 5)
    params = model.init(jax.random.key(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 5, (6, 1)))

    def logits(tokens: Any) -> Any:
        return unroll(model, params, tokens)[1]

    before = logits(tokens)
    for step in range(6):
        after = logits(tokens.at[step].set((tokens[step] + 1) % 5))
        np.testing.assert_array_equal(after[:step], before[:step])
        assert float(abs(after[step:] - before[step:]).min(axis=-1).max()) > 0


def test_a_refused_cell_leaves_nothing_behind(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    command = ["char_lm", f"--cell={file}:both", *flags, f"--workdir={folder}"]
    assert __main__.main(command) == 2
    assert "looks ahead" in capsys.readouterr().err
    assert not folder.exists()
