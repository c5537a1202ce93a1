"""Compare image distortions with NumPy and random ones with their bounds; test dropout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import dropout
from recurrent.errors import ArgumentError
from recurrent.images import affine_image, frame_features, random_affine

HEIGHT, WIDTH = 7, 6
IMAGE = np.random.default_rng(0).random((HEIGHT, WIDTH), np.float32)
KEY = jax.random.key(3)
EVEN = jnp.ones(2)


def distorted(image: Any, turn: float = 0.0, scale: Any = EVEN, shift: Any = (0.0, 0.0)) -> Any:
    return affine_image(
        jnp.asarray(image), jnp.asarray(turn), jnp.asarray(scale), jnp.asarray(shift)
    )


@pytest.mark.long
def test_affine_maps_without_distortion_are_the_identity() -> None:
    np.testing.assert_allclose(distorted(IMAGE), IMAGE, atol=1e-6)
    images = np.stack([IMAGE, IMAGE[::-1]])
    np.testing.assert_allclose(random_affine(KEY, jnp.asarray(images)), images, atol=1e-6)


@pytest.mark.parametrize("shift", [(2, 0), (-1, 0), (0, 3), (1, -2)])
def test_a_shift_by_whole_pixels_moves_the_image_and_fills_with_zeros(
    shift: tuple[int, int],
) -> None:
    rows, columns = shift
    expected = np.roll(np.pad(IMAGE, 3), (-rows, -columns), axis=(0, 1))[3:-3, 3:-3]
    np.testing.assert_allclose(
        distorted(IMAGE, shift=np.array(shift, np.float32)), expected, atol=1e-6
    )


def test_a_shift_by_half_a_pixel_averages_two_neighboring_pixels() -> None:
    expected = (IMAGE[:-1] + IMAGE[1:]) / 2
    np.testing.assert_allclose(distorted(IMAGE, shift=(0.5, 0.0))[:-1], expected, atol=1e-6)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_equal_rot90(quarters: int) -> None:
    square = IMAGE[:6, :6]
    turned = distorted(square, turn=quarters * np.pi / 2)
    np.testing.assert_allclose(turned, np.rot90(square, -quarters), atol=1e-5)


def test_a_scale_of_two_shows_every_second_pixel() -> None:
    image = np.random.default_rng(1).random((9, 9), np.float32)
    inner = distorted(image, scale=(2.0, 1.0))[2:7]
    np.testing.assert_allclose(inner, image[::2], atol=1e-6)


def test_an_image_shifted_out_of_the_frame_leaves_zeros() -> None:
    for shift in [(HEIGHT, 0), (0, -WIDTH), (100, 100)]:
        np.testing.assert_array_equal(distorted(IMAGE, shift=np.array(shift, np.float32)), 0)


def random_maps(**amounts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and the shift applied to each of many images, measured on two ramps."""
    count, size = 300, 41
    centre = size // 2
    ramp = np.arange(size, dtype=np.float32) - centre + 1000
    rows, columns = np.meshgrid(ramp, ramp, indexing="ij")
    seen = [
        np.asarray(random_affine(KEY, jnp.asarray(np.stack([image] * count)), **amounts)) - 1000
        for image in (rows, columns)
    ]
    at = np.stack(seen, axis=-1)
    origin = at[:, centre, centre]
    steps = [at[:, centre + 4, centre] - origin, at[:, centre, centre + 4] - origin]
    return np.stack(steps, axis=-1) / 4, origin / size


@pytest.mark.long
def test_random_rotations_span_the_whole_range_and_stay_inside() -> None:
    matrices, shifts = random_maps(rotation=20.0)
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert np.abs(angles).max() <= 20 + 1e-2
    assert angles.min() < -18
    assert angles.max() > 18
    np.testing.assert_allclose(matrices @ matrices.swapaxes(1, 2), [np.eye(2)] * 300, atol=1e-3)
    np.testing.assert_allclose(shifts, 0, atol=1e-4)


def test_random_scales_span_the_whole_range_and_stay_inside() -> None:
    matrices, shifts = random_maps(scale=0.25)
    scales = np.diagonal(matrices, axis1=1, axis2=2)
    assert scales.min() >= 1 / 1.25 - 1e-3
    assert scales.max() <= 1.25 + 1e-3
    assert (scales.min(axis=0) < 0.82).all()
    assert (scales.max(axis=0) > 1.22).all()
    assert np.abs(np.corrcoef(scales.T)[0, 1]) < 0.2
    np.testing.assert_allclose(matrices[:, [0, 1], [1, 0]], 0, atol=1e-4)
    np.testing.assert_allclose(shifts, 0, atol=1e-4)


def test_random_shifts_span_the_whole_range_and_stay_inside() -> None:
    matrices, shifts = random_maps(shift=0.1)
    assert np.abs(shifts).max() <= 0.1 + 1e-4
    assert (shifts.min(axis=0) < -0.09).all()
    assert (shifts.max(axis=0) > 0.09).all()
    assert np.abs(np.corrcoef(shifts.T)[0, 1]) < 0.2
    np.testing.assert_allclose(matrices, [np.eye(2)] * 300, atol=1e-4)


def test_random_distortions_depend_on_the_key_and_may_be_traced() -> None:
    traces = []

    @jax.jit
    def run(key, amount):
        traces.append(amount)
        images = jnp.stack([jnp.asarray(IMAGE)] * 2)
        return random_affine(key, images, rotation=90 * amount, scale=amount, shift=amount)

    same, again, other = run(KEY, 0.2), run(KEY, 0.2), run(jax.random.key(4), 0.2)
    np.testing.assert_array_equal(same, again)
    assert np.abs(same - other).max() > 0.01
    assert np.abs(same[0] - same[1]).max() > 0.01
    np.testing.assert_allclose(run(KEY, 0.0)[0], IMAGE, atol=1e-6)
    assert len(traces) == 1


# Dropout.


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_a_share_of_the_entries_and_scales_the_rest(rate: float) -> None:
    x = 1 + np.random.default_rng(0).random((200, 100), np.float32)
    y = np.asarray(dropout(jnp.asarray(x), rate, KEY))
    kept = y != 0
    deviation = np.sqrt(rate * (1 - rate) / x.size)
    assert abs(kept.mean() - (1 - rate)) < 5 * deviation
    np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=1e-6)
    assert abs(y.mean() - x.mean()) < 5 * 2 * deviation / (1 - rate)


def test_dropout_without_a_key_or_a_rate_does_nothing() -> None:
    x = jnp.asarray(IMAGE)
    np.testing.assert_array_equal(dropout(x, 0.9, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, KEY), x)


def test_dropout_draws_every_entry_from_the_key() -> None:
    x = jnp.asarray(np.random.default_rng(0).random((50, 60)) + 1)
    same, again, other = (dropout(x, 0.5, key) != 0 for key in (KEY, KEY, jax.random.key(4)))
    np.testing.assert_array_equal(same, again)
    assert 0.4 < (same != other).mean() < 0.6
    assert 0.4 < (same[0] != same[1]).mean() < 0.6
    assert 0.4 < (same[:, 0] != same[:, 1]).mean() < 0.6


def test_dropout_takes_a_traced_rate_and_gradients_follow_the_mask() -> None:
    traces = []

    @jax.jit
    def gradient(x, rate):
        traces.append(rate)
        return jax.grad(lambda x: (dropout(x, rate, KEY) * x).sum())(x)

    x = jnp.asarray(IMAGE) + 1
    for rate in (0.25, 0.5):
        np.testing.assert_allclose(gradient(x, rate), 2 * dropout(x, rate, KEY), rtol=1e-6)
    assert len(traces) == 1


def test_dropout_under_jit_takes_and_checks_a_constant_array_as_rate() -> None:
    x, rate = jnp.asarray(IMAGE), jnp.asarray(0.25)
    traced = jax.jit(lambda x: dropout(x, rate, KEY))(x)
    np.testing.assert_allclose(traced, dropout(x, 0.25, KEY), rtol=1e-6)
    too_high = jnp.asarray(1.0)
    with pytest.raises(ValueError, match=r"rate: expected 0 to below 1, got 1\.0"):
        jax.jit(lambda x: dropout(x, too_high, KEY)).lower(x)


def test_frames_may_be_none_but_not_without_pixels() -> None:
    def mean(frames: Any) -> Any:
        return frames.mean(axis=(1, 2))  # [N, channels]

    assert frame_features(mean, jnp.zeros((3, 0, 4, 4, 1))).shape == (3, 0, 1)
    assert frame_features(mean, jnp.zeros((0, 2, 4, 4, 1))).shape == (0, 2, 1)
    for shape in ((3, 0, 4, 4), (3, 4, 0, 1), (3, 4, 4, 0)):
        with pytest.raises(ArgumentError, match=r"frames: expected .* with at least one pixel"):
            frame_features(mean, jnp.zeros(shape))
