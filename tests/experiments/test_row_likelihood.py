"""Digits row by row: probabilities that add up to one, drawing, and a short training."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import recurrent
from experiments import __main__
from experiments.harness.errors import UserError
from experiments.row_likelihood import inked
from experiments.shared import drawing
from experiments.shared.drawing import SEEN, Model
from experiments.shared.drawing_sheets import sample_command

HEIGHT, WIDTH = 3, 4


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(
        rows=recurrent.gru(WIDTH, 5),
        context=recurrent.dense(5, WIDTH * 2),
        pixels=recurrent.gru(1 + SEEN + 2, 6),
        readout=recurrent.dense(6, 1),
    )


@pytest.fixture(scope="module")
def params(model: Model) -> Any:
    return jax.tree.map(lambda leaf: 2 * leaf, drawing.init(model, jax.random.key(0)))


def all_images() -> np.ndarray:
    pixels = [*itertools.product((0, 1), repeat=HEIGHT * WIDTH)]
    return np.array(pixels, np.float32).reshape(-1, HEIGHT, WIDTH)


@pytest.mark.long
def test_the_probabilities_of_all_images_add_up_to_one(model: Model, params: Any) -> None:
    nats = np.asarray(drawing.nats(model, params, jnp.asarray(all_images())), float)
    assert np.exp(-nats).sum() == pytest.approx(1, abs=1e-5)
    assert np.exp(-nats).max() > 4 / 2 ** (HEIGHT * WIDTH)  # far from uniform


@pytest.mark.long
def test_images_are_drawn_as_often_as_they_are_probable(model: Model, params: Any) -> None:
    count = 60_000
    drawn = np.asarray(
        drawing.drawn(model, params, jnp.zeros((count, 0, WIDTH)), HEIGHT, jax.random.key(1))
    )
    places = 2 ** np.arange(HEIGHT * WIDTH)[::-1]
    shares = np.bincount(
        (drawn.reshape(count, -1) @ places).astype(int), minlength=2 ** (HEIGHT * WIDTH)
    )
    p = np.exp(-np.asarray(drawing.nats(model, params, jnp.asarray(all_images())), float))
    bound = 5 * np.sqrt(p / count) + 3 / count
    assert (np.abs(shares / count - p) <= bound).all()


@pytest.mark.long
def test_what_is_given_is_kept_and_the_rest_depends_on_it(model: Model, params: Any) -> None:
    """The rest is drawn as often as it is probable, given the first row."""
    count = 20_000
    for top in ([1, 1, 1, 1], [0, 0, 0, 0]):
        given = jnp.tile(jnp.array(top, jnp.float32), (count, 1, 1))
        drawn = np.asarray(drawing.drawn(model, params, given, HEIGHT, jax.random.key(2)))
        assert (drawn[:, 0] == top).all()
        images = all_images()
        images = images[(images[:, 0] == top).all(-1)]
        p = np.exp(-np.asarray(drawing.nats(model, params, jnp.asarray(images)), float))
        expected = (p[:, None, None] * images).sum(0) / p.sum()
        np.testing.assert_allclose(drawn.mean(0), expected, atol=5 * 0.5 / np.sqrt(count))


def test_gray_is_the_probability_of_ink() -> None:
    gray = np.tile(np.array([0, 64, 128, 255], np.uint8), (5000, 1))
    found = inked(gray, [0, 1])
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found.mean(0), [0, 64 / 255, 128 / 255, 1], atol=0.03)
    np.testing.assert_array_equal(found, inked(gray, [0, 1]))
    assert (found != inked(gray, [0, 2])).any()


@pytest.mark.long
def test_a_run_draws_into_a_file(model: Model, params: Any, tmp_path: Path) -> None:
    """New images from nothing, and halves of given ones beside what they were."""
    test = all_images()[1234:4000:55].astype(np.uint8)
    command = sample_command(lambda config: model, lambda config: test)
    run: Any = SimpleNamespace(config=None, kept=params)
    file = tmp_path / "drawn.png"

    def sheet(**flags: Any) -> np.ndarray:
        given = command.flags(count=5, output=str(file), **flags)
        assert "".join(command.run(run, given)).startswith(f"{file}: 5 ")
        return 1 - np.asarray(Image.open(file)) / 255  # ink 1

    found = sheet(seed=3)
    nothing = jnp.zeros((5, 0, WIDTH))
    expected = np.asarray(drawing.drawn(model, params, nothing, HEIGHT, jax.random.key(3)))
    assert found.shape == (2 * HEIGHT, 3 * WIDTH)
    for k in range(5):
        row, column = divmod(k, 3)
        place = found[row * HEIGHT :, column * WIDTH :]
        np.testing.assert_array_equal(place[:HEIGHT, :WIDTH], expected[k])
    assert (sheet(seed=3) == found).all()
    assert (sheet(seed=4) != found).any()

    found = sheet(complete=True)
    wide = found.shape[1] // 3
    for k in range(5):
        row, column = divmod(k, 3)
        pair = found[row * HEIGHT : (row + 1) * HEIGHT, column * wide : (column + 1) * wide]
        whole, drawn = pair[:, 2 : 2 + WIDTH], pair[:, 4 + WIDTH : 4 + 2 * WIDTH]
        np.testing.assert_array_equal(whole, test[k])
        np.testing.assert_array_equal(drawn[: HEIGHT // 2], test[k, : HEIGHT // 2])
        assert {*np.unique(drawn)} <= {0, 1}
    for flags, says in (
        ({"output": "drawn.jpg"}, "--output: expected a file that ends in .png"),
        ({"output": str(tmp_path / "no" / "x.png")}, "--output: .* cannot be written"),
        ({"output": str(file), "count": 999, "complete": True}, "--count: expected at most 51"),
    ):
        with pytest.raises(UserError, match=says):
            list(command.run(run, command.flags(**flags)))


@pytest.mark.long
def test_it_trains_and_draws(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    flags = ["--data=digits", "--epochs=2", "--hidden_size=8", "--pixel_size=8"]
    assert __main__.main(["row_likelihood", *flags, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["test_loss"] < 64 * np.log(2)
    assert {file.name for file in (run / "figures").iterdir()} >= {
        *("learning_curves.png", "samples.png", "completions.png", "surprise.png", "data.csv")
    }
    capfd.readouterr()
    for flags in ([], ["--complete"]):
        file = tmp_path / "drawn.png"
        command = ["sample", str(run), "--count=4", f"--output={file}", *flags]
        assert __main__.main(command) == 0
        assert capfd.readouterr().out.startswith(f"{file}: 4 ")
        assert file.read_bytes().startswith(b"\x89PNG")
