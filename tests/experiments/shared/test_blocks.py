"""Residual blocks against their equations, and a classifier made of them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from experiments import __main__
from experiments.harness.errors import UserError
from experiments.sequential_digits import Config, model_of, reader
from experiments.shared.blocks import averaged_steps, block, deep, pyramid


@pytest.mark.long
def test_blocks_are_norm_cell_and_gated_perceptron() -> None:
    network = deep(2, [block("min_gru", 4)] * 2)
    params = network.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (5, 3, 2))

    def norm(gain: Any, x: Any) -> Any:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(gain)

    def affine(layer: Any, x: Any) -> Any:
        return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])

    x = affine(params["layer_0"], np.asarray(xs))
    for one in (params["layer_1"], params["layer_2"]):
        read = jnp.asarray(norm(one["mixing_norm"]["scale"], x))
        mixed = recurrent.unroll(recurrent.min_gru(4, 4), one["mixing"], read)[1]
        x = x + np.asarray(mixed)
        normal, inner = norm(one["feed_forward_norm"]["scale"], x), one["feed_forward"]
        opened = affine(inner["input"], normal)
        hidden = opened / (1 + np.exp(-opened)) * affine(inner["gate"], normal)
        x = x + affine(inner["output"], hidden)
    expected = norm(params["layer_3"]["scale"], x)
    found = recurrent.unroll(network, params, xs)[1]
    np.testing.assert_allclose(np.asarray(found), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.long
def test_a_pyramid_averages_steps_between_its_blocks() -> None:
    one = block("gru", 4)
    layers = pyramid(2, [one] * 3, 3)
    params = layers.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (8, 5, 2))
    low, middle, high = (params[f"level_{k}"] for k in range(3))
    ys = np.asarray(xs) @ np.asarray(low["layer_0"]["kernel"]) + low["layer_0"]["bias"]
    _, ys = recurrent.unroll(one, low["layer_1"], ys)
    ys = jnp.stack([ys[0:3].mean(0), ys[3:6].mean(0), ys[6:8].mean(0)])
    _, ys = recurrent.unroll(one, middle, ys)
    _, ys = recurrent.unroll(one, high["layer_0"], ys.mean(0, keepdims=True))
    expected = ys / np.sqrt((ys**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(layers.apply(params, xs), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("pool", [1, 2, 3, 5, 9])
def test_steps_are_averaged_whatever_is_left_over(pool: int) -> None:
    xs = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    expected = [xs[k : k + pool].mean(0) for k in range(0, 7, pool)]
    np.testing.assert_allclose(averaged_steps(jnp.asarray(xs), pool), expected, atol=1e-6)


@pytest.mark.long
def test_a_pyramid_without_pooling_is_the_deep_cell() -> None:
    blocks = [block("lru", 4)] * 2
    layers, cell = pyramid(2, blocks, 1), deep(2, blocks)
    own = layers.init(jax.random.key(0))
    params = {
        "layer_0": own["level_0"]["layer_0"],
        "layer_1": own["level_0"]["layer_1"],
        "layer_2": own["level_1"]["layer_0"],
        "layer_3": own["level_1"]["layer_1"],
    }
    xs = jax.random.normal(jax.random.key(1), (6, 3, 2))
    expected = recurrent.unroll(cell, params, xs)[1]
    np.testing.assert_allclose(layers.apply(own, xs), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.long
def test_a_readout_of_the_mean_of_all_steps_names_the_digit() -> None:
    config = Config(order="permuted", cell="min_gru", hidden_size=4, blocks=2, pool=3)
    model = model_of(config, (8, 8))
    params = model.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (5, 8, 8))
    layers = pyramid(1, [block("min_gru", 4)] * 2, 3)
    ys = np.asarray(layers.apply(params["layers"], reader("permuted", (8, 8))(images)))
    assert ys.shape == (22, 5, 4)
    head = jax.tree.map(np.asarray, params["head"])
    expected = ys.mean(0) @ head["kernel"] + head["bias"]
    found = model.logits(params, images, 0.0, None)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_there_is_nothing_to_average_without_blocks() -> None:
    with pytest.raises(UserError, match="--pool: expected two --blocks or more"):
        model_of(Config(pool=4), (8, 8))


@pytest.mark.long
def test_blocks_train_and_predict(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, image = tmp_path / "run", tmp_path / "image.npy"
    sizes = ["--hidden_size=8", "--epochs=2", "--batch_size=256", "--blocks=2", "--pool=2"]
    assert __main__.main(["sequential_digits", "--cell=lru", *sizes, f"--workdir={run}"]) == 0
    np.save(image, np.zeros((8, 8), np.uint8))
    capfd.readouterr()
    assert __main__.main(["predict", str(run), f"--array={image}"]) == 0
    assert capfd.readouterr().out[0].isdigit()
