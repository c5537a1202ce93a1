"""Compare the convolutional network with SciPy in float64, and its size with a closed form."""

from functools import lru_cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy.signal import correlate

from recurrent.convnet import ConvNet, StripNet, frames_of
from recurrent.convolution import convolve, max_pool_2x2
from recurrent.errors import ArgumentError
from recurrent.losses import cross_entropy
from tests.recurrent.cases import to_dtype, values_and_gradients

pytestmark = pytest.mark.optimized

SIZES = [(28, 28, 1), (8, 8, 1), (5, 7, 2), (4, 4, 3)]


@lru_cache
def network(size: tuple[int, int, int], classes: int = 10) -> tuple[ConvNet, Any, np.ndarray]:
    """Return the network, random params (initial biases would be zero) and three images."""
    model = ConvNet(classes)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, *size)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    params = jax.tree.map(lambda leaf: 0.1 * rng.normal(size=leaf.shape), shapes)
    return model, to_dtype(params, np.float32), images


def parameter_count(height: int, width: int, channels: int, classes: int) -> int:
    convolutions = (9 * channels + 1) * 32 + (9 * 32 + 1) * 64
    flat = (height // 4) * (width // 4) * 64
    return convolutions + (flat + 1) * 128 + (128 + 1) * classes


@pytest.mark.parametrize(("size", "count"), [((28, 28, 1), 421_642), ((8, 8, 1), 53_002)])
def test_the_parameter_count_of_a_convnet_equals_the_closed_form(
    size: tuple[int, int, int], count: int
) -> None:
    params = jax.eval_shape(ConvNet().init, jax.random.key(0), jnp.zeros((1, *size)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert parameter_count(*size, classes=10) == count


def convolution(images: np.ndarray, layer: Any) -> np.ndarray:
    """Compute each output channel as a zero-padded correlation over both axes and all channels."""
    kernel = np.asarray(layer["kernel"], np.float64)
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    maps = [
        [correlate(image, kernel[..., f], "valid", "direct")[..., 0] for image in padded]
        for f in range(kernel.shape[-1])
    ]
    return np.stack(maps, axis=-1) + layer["bias"]


def pooled(images: np.ndarray) -> np.ndarray:
    height, width = images.shape[1] // 2 * 2, images.shape[2] // 2 * 2
    corners = [images[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]
    return np.max(corners, axis=0)


def reference(params: Any, images: np.ndarray) -> np.ndarray:
    layers, x = params["params"], images
    for name in ("Conv_0", "Conv_1"):
        x = pooled(np.maximum(convolution(x, layers[name]), 0))
    x = x.reshape(len(x), -1) @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"]
    return np.maximum(x, 0) @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"]


@pytest.mark.long
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_convnet_logits_equal_scipy(size: tuple[int, int, int]) -> None:
    model, params, images = network(size)
    logits = jax.jit(model.apply)(params, images)
    assert logits.shape == (3, 10)
    expected = reference(params, images)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())


def test_a_convnet_gives_one_logit_for_each_class() -> None:
    model, params, images = network((8, 8, 1), classes=7)
    assert jax.eval_shape(model.apply, params, images).shape == (3, 7)


@pytest.mark.long
def test_a_convnet_drops_nothing_without_a_key_or_at_rate_zero() -> None:
    model, params, images = network((8, 8, 1))
    apply = jax.jit(model.apply)
    plain = apply(params, images)
    np.testing.assert_array_equal(apply(params, images, 0.9, None), plain)
    np.testing.assert_array_equal(apply(params, images, 0.0, jax.random.key(1)), plain)
    noisy = [apply(params, images, 0.5, jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert (noisy[0] != noisy[2]).all()
    assert (noisy[0] != plain).all()


@pytest.mark.long
def test_every_convnet_gradient_is_finite_and_nonzero() -> None:
    model, params, images = network((8, 8, 1))

    @jax.jit
    def gradient(images):
        def loss(params):
            logits: Any = model.apply(params, images, 0.3, jax.random.key(0))
            return cross_entropy(logits, jnp.array([1, 2, 3])).mean

        return jax.grad(loss)(params)

    gradients = gradient(images)
    chex.assert_tree_all_finite(gradients)
    assert all(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(gradients))
    chex.assert_tree_all_finite(gradient(np.zeros_like(images)))


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 1)], ids=str)
@pytest.mark.parametrize(
    ("shape", "padding"),
    [((3, 3, 2, 4), "SAME"), ((2, 5, 2, 3), "VALID"), ((2, 5, 2, 3), ((2, 0), (1, 3)))],
    ids=str,
)
def test_convolution_by_patch_products_equals_xla_in_values_and_gradients(
    shape: tuple[int, ...], padding: Any, strides: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        images, kernel = (
            jnp.asarray(rng.normal(size=(2, 6, 7, 2))),
            jnp.asarray(rng.normal(size=shape)),
        )

        layout = ("NHWC", "HWIO", "NHWC")

        def xla(images, kernel):
            return lax.conv_general_dilated(
                images, kernel, strides, padding, dimension_numbers=layout
            )

        def product(images, kernel):
            # On a CPU this is a matrix product of patches.
            return convolve(images, kernel, strides, padding, dimension_numbers=layout)

        actual, expected = (
            jax.jit(partial(values_and_gradients, function))(images, kernel)
            for function in (product, xla)
        )
        chex.assert_trees_all_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("strides", "options"),
    [((1, 1), {"rhs_dilation": (2, 2)}), ((2, 1), {"feature_group_count": 2})],
    ids=str,
)
def test_dilated_and_grouped_convolutions_equal_xla(
    strides: tuple[int, int], options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 6, 7, 2)), jnp.float32)
    channels = 1 if "feature_group_count" in options else 2
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels, 4)), jnp.float32)
    options = options | {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    expected = lax.conv_general_dilated(images, kernel, strides, "SAME", **options)
    actual = convolve(images, kernel, strides, "SAME", **options)
    np.testing.assert_array_equal(actual, expected)


def test_max_pooling_drops_an_odd_last_row_and_column() -> None:
    images = np.arange(30.0).reshape(1, 5, 6, 1)
    expected = [[7, 9, 11], [19, 21, 23]]
    np.testing.assert_array_equal(max_pool_2x2(jnp.asarray(images))[0, ..., 0], expected)
    odd = max_pool_2x2(jnp.asarray(images[:, :, :5]))
    np.testing.assert_array_equal(odd[0, ..., 0], [[7, 9], [19, 21]])


def strip_reference(params: Any, strip: np.ndarray) -> np.ndarray:
    """Return frames ``[T, F]`` of one strip ``[height, width, channels]``, of its own width."""
    layers, x = params["params"], strip[None]
    for name in ("Conv_0", "Conv_1"):
        even = np.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, 0)))
        x = pooled(np.maximum(convolution(even, layers[name]), 0))
    x = np.maximum(convolution(x, layers["Conv_2"]), 0)
    x = np.maximum(x[:, 0:-1:2], x[:, 1::2])[0].swapaxes(0, 1)  # [T, height, channels]
    dense = layers["Dense_0"]
    return np.maximum(x.reshape(len(x), -1) @ dense["kernel"] + dense["bias"], 0)


@pytest.mark.long
def test_frames_of_strips_equal_scipy_whatever_the_width_of_the_array() -> None:
    model, widths = StripNet((2, 3, 4), features=5), np.array([20, 13, 4, 1])
    rng = np.random.default_rng(0)
    strips = rng.normal(size=(4, 8, 24, 1)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), strips, widths)
    params = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape), shapes)
    params = to_dtype(params, np.float32)
    found = np.asarray(jax.jit(model.apply)(params, strips, widths))
    assert found.shape == (6, 4, 5)
    for k, width in enumerate(widths):
        expected = strip_reference(params, strips[k, :, :width])
        frames = int(frames_of(width))
        assert len(expected) == frames
        np.testing.assert_allclose(found[:frames, k], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "channels", "message"),
    [
        ((1, 8, 6, 1), (2, 3), "a width that is a multiple of 4"),
        ((1, 4, 8, 1), (2, 3, 4), "a height of 8 or more"),
        ((8, 8, 1), (2, 3), "expected the shape"),
        ((1, 8, 8, 1), (2,), "expected two or more"),
    ],
)
def test_strips_that_cannot_be_read_are_an_error(shape: Any, channels: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        StripNet(channels).init(jax.random.key(0), np.zeros(shape, np.float32), np.array([1]))
