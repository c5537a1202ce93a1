"""Compare norms, perceptrons and blocks with NumPy, torch and Flax; test frames of a video."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import Cell, dense, gru, lstm, unroll
from recurrent.cells.attention import attention_cell
from recurrent.cells.convolutional import causal_conv
from recurrent.convnet import ConvNet
from recurrent.images import frame_features, image_columns
from recurrent.layers import layer_norm, mlp, rms_norm
from recurrent.transformers import (
    griffin,
    pre_norm_block,
    recurrent_block,
    transformer,
    transformer_block,
)
from tests.recurrent.cases import disturbed, to_dtype, values_and_gradients

TIME, BATCH, SIZE = 9, 3, 6
MASK = np.random.default_rng(1).random((TIME, BATCH)) < 0.7
RESET = np.random.default_rng(2).random((TIME, BATCH)) < 0.25


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def init(layer: Any, seed: int = 0) -> Any:
    """Return random params in float64, with random biases and scales."""
    return disturbed(np.random.default_rng(seed), layer.init(jax.random.key(seed)))


def affine(params: Any, x: Any) -> np.ndarray:
    return x @ params["kernel"] + params["bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


# Layers.


@pytest.mark.long
def test_layer_norm_equals_flax_in_values_and_gradients() -> None:
    norm, reference = layer_norm(SIZE), nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)
    params, x = init(norm), 3 + normal(TIME, BATCH, SIZE)
    expected = values_and_gradients(lambda p, x: reference.apply({"params": p}, x), params, x)
    assert_close(values_and_gradients(norm.apply, params, x), expected)


def test_rms_norm_equals_its_equation_and_flax() -> None:
    norm, reference = rms_norm(SIZE), nn.RMSNorm(epsilon=1e-6)
    params, x = init(norm), 3 + normal(TIME, BATCH, SIZE)
    mean_square = (x**2).sum(axis=-1, keepdims=True) / SIZE
    assert_close(norm.apply(params, x), x / np.sqrt(mean_square + 1e-6) * params["scale"])
    expected = values_and_gradients(lambda p, x: reference.apply({"params": p}, x), params, x)
    assert_close(values_and_gradients(norm.apply, params, x), expected)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_norms_compute_statistics_of_bfloat16_in_float32(norm: Any) -> None:
    # In bfloat16, of 8 bits, a sum of 65,536 squares of about 300 would lose most of them.
    x = (300 + 40 * normal(4, 65_536)).astype(jnp.bfloat16)
    layer = norm(65_536)
    params = layer.init(jax.random.key(0))
    actual = layer.apply(to_dtype(params, jnp.bfloat16), x)
    assert actual.dtype == jnp.bfloat16
    assert_close(actual.astype(np.float64), layer.apply(params, x.astype(np.float64)), 0.02)


@pytest.mark.parametrize(
    ("kind", "activation"),
    [
        ("relu", lambda x: np.maximum(x, 0)),
        ("gelu", gelu),
        ("geglu", gelu),
        ("swiglu", lambda x: x / (1 + np.exp(-x))),
    ],
)
def test_perceptrons_equal_the_numpy_equations(kind: Any, activation: Callable[..., Any]) -> None:
    layer = mlp(SIZE, 10, kind=kind)
    params, x = init(layer), normal(TIME, BATCH, SIZE)
    hidden = activation(affine(params["input"], x))
    if kind in ("geglu", "swiglu"):
        hidden = hidden * affine(params["gate"], x)
    assert_close(layer.apply(params, x), affine(params["output"], hidden))


# Causal convolution.


def reference_conv(params: Any, xs: np.ndarray, mask: Any, reset: Any, order: Any) -> np.ndarray:
    ys = np.zeros(xs.shape)
    width = len(params["kernel"])
    for b in range(xs.shape[1]):
        past = [np.zeros(SIZE)] * width
        for t in order:
            if mask is None or mask[t, b]:
                past = [np.zeros(SIZE)] * width if reset is not None and reset[t, b] else past
                past = [*past[1:], xs[t, b]]
                taps = zip(params["kernel"], past, strict=True)
                ys[t, b] = params["bias"] + sum(k * x for k, x in taps)
    return ys


@pytest.mark.parametrize("method", ["auto", "scan"])
@pytest.mark.parametrize("width", [1, 4, 12])
def test_causal_conv_equals_a_numpy_loop(width: int, method: Any) -> None:
    cell = causal_conv(SIZE, width)
    params, xs = init(cell), normal(TIME, BATCH, SIZE)
    for mask, reset, order in [
        (None, None, range(TIME)),
        (MASK, RESET, range(TIME)),
        (MASK, RESET, range(TIME)[::-1]),
    ]:
        run = partial(unroll, mask=mask, reset=reset, reverse=order[0] != 0, method=method)
        _, ys = jax.jit(partial(run, cell))(params, xs)
        assert_close(ys, reference_conv(params, xs, mask, reset, order))


def test_causal_conv_equals_torch_in_values_and_gradients() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: it is in the bench extra")
    cell = causal_conv(SIZE, 4)
    params, xs, cotangent = init(cell), normal(TIME, BATCH, SIZE), normal(TIME, BATCH, SIZE)
    ys, pull_back = jax.vjp(jax.jit(lambda params, xs: unroll(cell, params, xs)[1]), params, xs)

    inputs, kernel, bias = (
        torch.tensor(np.asarray(a), requires_grad=True)
        for a in (xs, params["kernel"], params["bias"])
    )
    padded = torch.nn.functional.pad(inputs.permute(1, 2, 0), (3, 0))
    expected = torch.conv1d(padded, kernel.T[:, None], bias, groups=SIZE).permute(2, 0, 1)
    expected.backward(torch.tensor(cotangent))
    assert_close(ys, expected.detach().numpy())
    gradients = {"kernel": kernel.grad.numpy(), "bias": bias.grad.numpy()}
    assert_close(pull_back(cotangent), (gradients, inputs.grad.numpy()))


# Blocks.


def test_a_transformer_block_equals_torch_in_values_and_gradients() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: it is in the bench extra")
    cell = transformer_block(
        8, 2, window=TIME, kind="relu", norm=layer_norm, rotary_base=None, bias=True
    )
    params, xs, cotangent = init(cell), normal(TIME, BATCH, 8), normal(TIME, BATCH, 8)
    ys, pull_back = jax.vjp(jax.jit(lambda params, xs: unroll(cell, params, xs)[1]), params, xs)

    module = torch.nn.TransformerEncoderLayer(
        8, 2, 32, dropout=0.0, norm_first=True, dtype=torch.float64
    )
    module.load_state_dict(
        {name: torch.tensor(np.asarray(value)) for name, value in torch_weights(params).items()}
    )
    inputs = torch.tensor(xs, requires_grad=True)
    expected = module(inputs, src_mask=torch.triu(torch.ones(TIME, TIME, dtype=torch.bool), 1))
    expected.backward(torch.tensor(cotangent))
    assert_close(ys, expected.detach().numpy())
    of_params, of_xs = pull_back(cotangent)
    assert_close(of_xs, inputs.grad.numpy())
    gradients = {name: weight.grad.numpy() for name, weight in module.named_parameters()}
    assert_close(torch_weights(of_params), gradients)


def torch_weights(params: Any) -> dict[str, Any]:
    """Return our weights, transposed, under the names of `torch.nn.TransformerEncoderLayer`."""
    mixing, perceptron = params["mixing"], params["feed_forward"]
    inner = [mixing[name] for name in ("query", "key", "value")]
    weights = {
        "self_attn.in_proj_weight": np.concatenate([part["kernel"].T for part in inner]),
        "self_attn.in_proj_bias": np.concatenate([part["bias"] for part in inner]),
    }
    maps = {
        "self_attn.out_proj": mixing["output"],
        "linear1": perceptron["input"],
        "linear2": perceptron["output"],
    }
    for name, part in maps.items():
        weights |= {f"{name}.weight": part["kernel"].T, f"{name}.bias": part["bias"]}
    for name, ours in {"norm1": "mixing_norm", "norm2": "feed_forward_norm"}.items():
        weights |= {f"{name}.weight": params[ours]["scale"], f"{name}.bias": params[ours]["bias"]}
    return weights


def rms_normal(params: Any, x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * params["scale"]


def gated_perceptron(params: Any, x: np.ndarray) -> np.ndarray:
    return affine(params["output"], gelu(affine(params["input"], x)) * affine(params["gate"], x))


@pytest.mark.long
def test_griffin_blocks_equal_the_numpy_equations() -> None:
    """Use Griffin with an LSTM as its recurrence; other tests check the LSTM itself."""
    cell = griffin(4, SIZE, depth=3, heads=3, window=4, mixer=lstm)
    params, xs = init(cell), normal(TIME, BATCH, 4)
    x = affine(params["layer_0"], xs)
    for index in range(3):
        block = params[f"layer_{index + 1}"]
        mixing, normalised = block["mixing"], rms_normal(block["mixing_norm"], x)
        if index == 2:
            attention = attention_cell(SIZE, SIZE, heads=3, window=4, key_value_heads=1)
            mixed = jax.jit(partial(unroll, attention))(mixing, normalised)[1]
        else:
            branch = affine(mixing["branch"]["layer_0"], normalised)
            branch = reference_conv(mixing["branch"]["layer_1"], branch, None, None, range(TIME))
            branch = unroll(lstm(SIZE, SIZE), mixing["branch"]["layer_2"], branch)[1]
            mixed = affine(mixing["output"], branch * gelu(affine(mixing["gate"], normalised)))
        x = x + np.asarray(mixed)
        x = x + gated_perceptron(block["feed_forward"], rms_normal(block["feed_forward_norm"], x))
    actual = jax.jit(partial(unroll, cell))(params, xs)[1]
    assert_close(actual, rms_normal(params["layer_4"], x))


CELLS: dict[str, Cell] = {
    "transformer": transformer(4, SIZE, depth=1, heads=3, window=3, kind="swiglu"),
    "hawk": griffin(4, SIZE, depth=1, heads=3, mixer=gru),
    "griffin": griffin(4, SIZE, heads=3, window=3),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CELLS)
def test_transformers_auto_equals_scan_in_values_and_gradients(name: str) -> None:
    cell = CELLS[name]
    params, xs = init(cell), normal(TIME, BATCH, 4)
    state, _ = jax.jit(partial(unroll, cell))(params, normal(5, BATCH, 4, seed=3))

    def run(method):
        def function(params, state, xs):
            return unroll(cell, params, xs, state, mask=MASK, reset=RESET, method=method)

        return jax.jit(partial(values_and_gradients, function))(params, state, xs)

    assert_close(run("auto"), run("scan"), 1e-11)


@pytest.mark.long
@pytest.mark.parametrize("name", CELLS)
def test_masks_and_resets_split_the_unmasked_steps_into_separate_sequences(name: str) -> None:
    cell = CELLS[name]
    params, xs = init(cell), normal(TIME, BATCH, 4)
    _, ys = jax.jit(partial(unroll, cell, mask=MASK, reset=RESET))(params, xs)
    step = jax.jit(cell.step)
    for b in range(BATCH):
        for steps in np.split(np.arange(TIME), np.flatnonzero((RESET & MASK)[:, b])):
            state = cell.initial_state(params, ())
            for t in steps[MASK[steps, b]]:
                state, y = step(params, state, xs[t, b])
                assert_close(ys[t, b], y)
    np.testing.assert_array_equal(np.asarray(ys)[~MASK], 0)


@pytest.mark.long
def test_padding_affects_no_values_or_gradients_of_griffin() -> None:
    cell = CELLS["griffin"]

    @jax.jit
    def run(params, xs):
        def function(params, xs):
            return unroll(cell, params, xs, mask=MASK, reset=RESET)

        return values_and_gradients(function, params, xs)

    params, xs = init(cell), normal(TIME, BATCH, 4)
    zeros, other = (run(params, np.where(MASK[..., None], xs, fill)) for fill in (0, np.nan))
    chex.assert_tree_all_finite(zeros)
    chex.assert_trees_all_equal(other, zeros)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mlp(2, 2, kind=SOFTSIGN), "kind: expected one of"),
        (lambda: pre_norm_block(gru(3, 4), mlp(3, 3)), "mixer: expected outputs of the input's sh"),
        (lambda: recurrent_block(4, image_cell()), "mixer: expected a cell from vectors"),
        (lambda: causal_conv(4, 0), "width: expected at least 1, got 0"),
    ],
)
def test_invalid_transformer_arguments_are_an_error(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


SOFTSIGN: Any = "softsign"


def image_cell() -> Cell:
    return Cell(lambda key: {}, lambda params, shape: (), lambda p, s, x: (s, x), (2, 3, 1))


# Frames.


def test_frame_features_applies_the_network_to_each_frame() -> None:
    params, video = init(dense(12, 5)), normal(TIME, BATCH, 3, 2, 2)
    features = frame_features(lambda x: affine(params, x.reshape(-1, 12)), jnp.asarray(video))
    for t, b in np.ndindex(TIME, BATCH):
        assert_close(features[t, b], affine(params, video[t, b].reshape(12)))


def test_image_columns_run_from_left_to_right() -> None:
    images = normal(BATCH, 3, 8, 2)
    columns = image_columns(jnp.asarray(images), 2)
    assert columns.shape == (4, BATCH, 3, 2, 2)
    for t in range(4):
        np.testing.assert_array_equal(columns[t], images[:, :, 2 * t : 2 * t + 2])


@pytest.mark.long
def test_a_convnet_of_image_columns_feeds_a_recurrent_network() -> None:
    network, cell = ConvNet(classes=None), gru(128, 3)
    images = normal(BATCH, 8, 12, 1)
    params = {
        "network": to_dtype(network.init(jax.random.key(0), jnp.zeros((1, 8, 4, 1))), jnp.float64),
        "cell": init(cell),
    }
    assert set(params["network"]["params"]) == {"Conv_0", "Conv_1", "Dense_0"}

    def whole(params, images):
        frames = image_columns(images, 4)
        xs = frame_features(partial(network.apply, params["network"]), frames)
        return unroll(cell, params["cell"], xs)[1]

    def by_hand(params, images):
        state, ys = cell.initial_state(params["cell"], (BATCH,)), []
        for left in (0, 4, 8):
            x = network.apply(params["network"], images[:, :, left : left + 4])
            state, y = cell.step(params["cell"], state, x)
            ys.append(y)
        return jnp.stack(ys)

    actual, expected = (jax.jit(run)(params, images) for run in (whole, by_hand))
    assert_close(actual, expected)
    assert (np.abs(np.diff(actual, axis=0)) > 1e-4).all()


@pytest.mark.long
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: frame_features(jnp.sin, jnp.zeros((2, 3, 4))), "frames: expected the shape"),
        (lambda: image_columns(jnp.zeros((2, 3, 5, 1)), 2), "W a multiple of width=2"),
    ],
)
def test_invalid_frame_shapes_are_an_error(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
