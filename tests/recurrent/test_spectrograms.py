"""Log-mel features, held to sums written from their definition in float64, and to librosa."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent.errors import ArgumentError
from recurrent.spectrograms import frame_count, log_mel, mel, mel_filters, warp_mel


def filters_by_loops(bands: int, size: int, rate: float, low: float, high: float) -> np.ndarray:
    """The triangles, one weight at a time."""

    def to_mel(hertz: float) -> float:
        return 2595 * math.log10(1 + hertz / 700)

    corners = [
        700 * (10 ** ((to_mel(low) + k * (to_mel(high) - to_mel(low)) / (bands + 1)) / 2595) - 1)
        for k in range(bands + 2)
    ]
    weights = np.zeros((size // 2 + 1, bands))
    for k in range(size // 2 + 1):
        hertz = k * rate / size
        for m in range(bands):
            left, center, right = corners[m : m + 3]
            if left < hertz <= center:
                weights[k, m] = (hertz - left) / (center - left)
            elif center < hertz < right:
                weights[k, m] = (right - hertz) / (right - center)
    return weights


def log_mel_by_loops(
    sound: np.ndarray, rate: float, window: int, hop: int, bands: int, floor: float
) -> np.ndarray:
    size = 2 ** math.ceil(math.log2(window))
    weights = filters_by_loops(bands, size, rate, 0, rate / 2)
    hann = np.array([math.sin(math.pi * n / window) ** 2 for n in range(window)])
    angles = 2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(window)) / size
    frames = []
    for start in range(0, len(sound) - window + 1, hop):
        piece = sound[start : start + window] * hann
        power = (np.cos(angles) @ piece) ** 2 + (np.sin(angles) @ piece) ** 2
        frames.append([math.log(max(floor, power @ weights[:, m])) for m in range(bands)])
    return np.array(frames)


SIZES = [
    {"rate": 8000, "window": 200, "hop": 80, "bands": 32, "floor": 1e-2},
    {"rate": 22050, "window": 256, "hop": 100, "bands": 7, "floor": 1e-10},
]


@pytest.mark.parametrize("sizes", SIZES, ids=["8 kHz", "22 kHz"])
def test_log_mel_is_its_definition(sizes: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    sound = rng.normal(size=1000) * np.linspace(0, 1, 1000)
    expected = log_mel_by_loops(sound, **sizes)
    found = jax.jit(lambda sound: log_mel(sound, **sizes))(jnp.asarray(sound, jnp.float32))
    frames = frame_count(1000, sizes["window"], sizes["hop"])
    assert found.shape == expected.shape == (frames, sizes["bands"])
    np.testing.assert_allclose(found, expected, atol=2e-4)
    with jax.enable_x64(True):
        np.testing.assert_allclose(log_mel(sound, **sizes), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("bands", "size", "rate", "low", "high"), [(32, 256, 8000, 0, 4000), (5, 64, 16000, 300, 7000)]
)
def test_the_filters_are_those_of_the_formula(
    bands: int, size: int, rate: float, low: float, high: float
) -> None:
    expected = filters_by_loops(bands, size, rate, low, high)
    np.testing.assert_allclose(mel_filters(bands, size, rate, low, high), expected, atol=1e-12)


def test_between_the_centers_the_filters_add_up_to_one() -> None:
    found = mel_filters(20, 4096, 8000, 0, 4000).sum(1)
    hertz = np.arange(len(found)) * 8000 / 4096
    centers = 700 * (10 ** (mel(4000) * np.array([1, 20]) / 21 / 2595) - 1)
    between = (hertz >= centers[0]) & (hertz <= centers[1])
    np.testing.assert_allclose(found[between], 1)


@pytest.mark.long
def test_a_batch_is_what_each_sound_is_alone_and_later_sound_changes_no_frame_before() -> None:
    sizes = {"rate": 8000, "window": 100, "hop": 40, "bands": 8}
    sound = jnp.asarray(np.random.default_rng(0).normal(size=(2, 500)), jnp.float32)
    found = log_mel(sound, **sizes)
    np.testing.assert_allclose(found[1], log_mel(sound[1], **sizes), rtol=1e-5, atol=1e-5)
    changed = log_mel(sound.at[:, 300:].add(1), **sizes)
    np.testing.assert_array_equal(changed[:, :6], found[:, :6])  # the frames that end before
    assert (changed[:, 6] != found[:, 6]).any()


def test_silence_is_the_floor() -> None:
    found = log_mel(jnp.zeros(300), rate=8000, window=200, hop=80, bands=4, floor=0.5)
    np.testing.assert_allclose(found, np.log(0.5), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 400}, "expected at least 400 samples"),
        ({"floor": 0.0}, "a floor above 0"),
        ({"high": 5000}, "half the rate"),
        ({"hop": 0}, "hop"),
        ({"bands": 0}, "bands"),
    ],
)
def test_what_has_no_features_is_an_error(options: dict[str, Any], message: str) -> None:
    sizes = {"rate": 8000, "window": 200, "hop": 80, "bands": 4} | options
    with pytest.raises(ArgumentError, match=message):
        log_mel(jnp.zeros(300), **sizes)


def test_the_filters_are_those_of_librosa() -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    expected = librosa.filters.mel(
        sr=8000, n_fft=256, n_mels=32, htk=True, norm=None, dtype=np.float64
    )
    np.testing.assert_allclose(mel_filters(32, 256, 8000, 0, 4000).T, expected, atol=1e-9)


def warped_by_loops(features: np.ndarray, a: float, rate: float, knee: float) -> np.ndarray:
    """Each band reads what lies at its source, by the mapping of the paper, solved for it."""
    top, bands = rate / 2, len(features)
    step = 2595 * math.log10(1 + top / 700) / (bands + 1)
    found = np.zeros_like(features)
    for m in range(bands):
        hertz = 700 * (10 ** (step * (m + 1) / 2595) - 1)
        corner = knee * min(a, 1)  # of what is mapped: a f below knee min(a, 1) / a
        slope = (top - corner) / (top - corner / a)
        source = hertz / a if hertz <= corner else top - (top - hertz) / slope
        place = 2595 * math.log10(1 + source / 700) / step - 1
        for t in range(features.shape[1]):
            found[m, t] = np.interp(place, np.arange(bands), features[:, t])
    return found


@pytest.mark.parametrize(("bands", "rate", "knee"), [(32, 8000, 3000), (9, 16000, 4800), (1, 4, 1)])
def test_spectra_are_stretched_as_the_paper_maps_frequencies(
    bands: int, rate: float, knee: float
) -> None:
    features = np.random.default_rng(0).normal(size=(5, bands, 3))
    factors = np.array([1.0, 0.8, 1.25, 0.93, 1.5])
    found = np.asarray(
        jax.jit(lambda x, a: warp_mel(x, a, rate=rate, knee=knee))(features, factors)
    )
    for k, a in enumerate(factors):
        expected = warped_by_loops(features[k], a, rate, knee)
        np.testing.assert_allclose(found[k], expected, atol=2e-4)
    np.testing.assert_allclose(found[0], features[0], atol=2e-4)


def test_spectra_of_another_shape_or_with_a_knee_beyond_all_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"got \[2, 3\] and 1000"):
        warp_mel(np.zeros((2, 3)), np.ones(2), rate=8000, knee=1000)
    for knee in (0, 4000, math.nan):
        with pytest.raises(ArgumentError, match=r"between 0 and 4000\.0 Hz"):
            warp_mel(np.zeros((1, 3, 2)), np.ones(1), rate=8000, knee=knee)
