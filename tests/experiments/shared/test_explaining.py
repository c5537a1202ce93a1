"""What ``explain`` computes, writes and draws of a network small enough to be followed."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import __main__
from experiments.harness.errors import UserError
from experiments.shared.classification import Classifier
from experiments.shared.explaining import (
    Explain,
    as_text,
    chosen_image,
    explained,
    from_the_output,
    write,
)

SHAPE = (4, 4)


def classifier() -> Classifier:
    """Return a network whose classes 0 and 1 see the first and the last row."""

    def init(key: Any) -> Any:
        return {"body": jax.random.normal(key, (16, 2)), "head": jnp.ones(10)}

    def logits(params: Any, images: Any, rate: Any, key: Any) -> Any:
        seen = images.reshape(len(images), 16) @ params["body"]
        return jnp.pad(seen, ((0, 0), (0, 8))) * params["head"]

    return Classifier(init, logits, lambda params, test: iter(()))


@pytest.fixture(scope="module")
def found() -> Any:
    model = classifier()
    params = {"body": np.zeros((16, 2), np.float32), "head": np.ones(10, np.float32)}
    params["body"][:4, 0] = params["body"][12:, 1] = 4
    rng = np.random.default_rng(0)
    images = rng.random((17, *SHAPE), np.float32)
    layers = tuple(from_the_output(params))
    run = jax.jit(explained, static_argnums=(0, 1))
    key = jax.random.key(0)
    return images[0], jax.tree.map(
        np.asarray, run(model, layers, params, images[:1], images[1:], 0, key)
    )


@pytest.mark.long
def test_maps_point_at_what_the_class_depends_on(found: Any) -> None:
    image, explanation = found
    for name, values in explanation.maps.items():
        assert values.shape == SHAPE
        first = abs(values[:2]).sum() if name.startswith("rows") else values[:2].sum()
        if name != "rows, then columns (black)":  # a linear network's gradient never changes
            assert first > 5 * abs(values[2:]).sum(), name
    expected = np.where(np.arange(4)[:, None] == 0, 4 * image, 0)
    np.testing.assert_allclose(explanation.maps["integrated (black)"], expected, atol=1e-4)


@pytest.mark.long
def test_curves_begin_and_end_alike_and_beat_random_orders(found: Any) -> None:
    _, explanation = found
    methods = len(explanation.maps)
    for curves in (explanation.deletion, explanation.insertion):
        np.testing.assert_allclose(curves[..., -1], curves[:, :1, -1].repeat(curves.shape[1], 1))
    black = explanation.deletion[0].mean(-1)
    names = list(explanation.maps)
    assert black[names.index("integrated (black)")] < black[methods:].min()
    assert explanation.agreement.shape == (methods, methods)
    assert all(len(values) == 2 for values in explanation.sanity.values())


@pytest.mark.long
def test_the_text_names_each_method_with_its_areas(found: Any) -> None:
    lines = list(as_text(found[1]))
    assert [line.split("  ")[0] for line in lines[1 : len(found[1].maps) + 1]] == list(
        found[1].maps
    )
    assert lines[len(found[1].maps) + 1].startswith("random orders")
    assert any("R^2" in line for line in lines)


@pytest.mark.long
def test_the_figure_is_drawn_or_refused_in_a_sentence(found: Any, tmp_path: Path) -> None:
    image, explanation = found
    out = tmp_path / "a.png"
    write(out, "Why 0?", image, explanation, ["head", "body"])
    with Image.open(out) as drawn:
        assert drawn.width > drawn.height / 2 > 100
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "no" / "a.png", "Why 0?", image, explanation, ["head", "body"])


def test_an_image_is_that_of_the_test_split_or_of_a_file(tmp_path: Path) -> None:
    images = np.arange(32, dtype=np.uint8).reshape(2, *SHAPE)
    np.testing.assert_array_equal(chosen_image(Explain(index=1), images, SHAPE), images[1])
    with pytest.raises(UserError, match="--index: expected at most 1, got 2"):
        chosen_image(Explain(index=2), images, SHAPE)
    Image.fromarray(images[0]).save(tmp_path / "i.png")
    flags = Explain(image=str(tmp_path / "i.png"))
    np.testing.assert_array_equal(chosen_image(flags, images, SHAPE), images[0])


@pytest.mark.parametrize(
    ("params", "layers"),
    [
        (["cell", "head"], ["head", "cell"]),
        (["Conv_0", "Conv_1", "Dense_0", "Dense_1"], ["Dense_1", "Dense_0", "Conv_1", "Conv_0"]),
        (["head", "layers"], ["head", "layers"]),
    ],
)
def test_layers_come_from_the_output_down(params: list[str], layers: list[str]) -> None:
    assert from_the_output(dict.fromkeys(params)) == layers


@pytest.mark.long
@pytest.mark.parametrize("experiment", ["sequential_digits", "image_cnn"])
def test_a_trained_run_is_explained(
    experiment: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main([experiment, "--epochs=1", f"--workdir={tmp_path}"]) == 0
    capfd.readouterr()
    assert __main__.main(["explain", str(tmp_path), "--index=1", "--target=3"]) == 0
    assert f"explanation: {tmp_path / 'explanation.png'}" in capfd.readouterr().out
    with Image.open(tmp_path / "explanation.png") as drawn:
        assert drawn.height > 500
    assert __main__.main(["explain", str(tmp_path), "--index=9999"]) == 2
    assert "--index: expected at most 359, got 9999" in capfd.readouterr().err
