"""Turn sound into log-mel features: short spectra, in bands as wide as the ear hears them.

Axis letters: N samples, T frames, M bands.
"""

from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from recurrent.cell import check_sizes
from recurrent.errors import ArgumentError


def mel(hertz: Any) -> Any:
    """Return frequencies in mel, by the formula of HTK: ``2595 log10(1 + f / 700)``.

    Example:
      >>> from recurrent.spectrograms import mel
      >>> round(float(mel(1000.0)))
      1000
    """
    return 2595 * np.log10(1 + np.asarray(hertz, np.float64) / 700)


def _hertz(mels: Any) -> Any:
    return 700 * (10 ** (mels / 2595) - 1)


@lru_cache
def mel_filters(bands: int, fft_size: int, rate: float, low: float, high: float) -> np.ndarray:
    """Return the weights of triangular bands over the bins of a spectrum.

    The corners of the triangles are spaced evenly in mel, from ``low`` to ``high`` hertz; each
    triangle rises from the center of the one before to 1 at its own, and falls to the next.

    Args:
      bands: M.
      fft_size: samples of which the spectrum is taken.
      rate: samples a second.
      low: hertz.
      high: hertz, at most half the rate.

    Returns:
      float64 ``[fft_size // 2 + 1, M]``, read only.

    Raises:
      ValueError: for frequencies that do not rise from 0 to half the rate.

    References:
      Young et al., The HTK book, version 3.4, section 5.4. Departure: the corners are not rounded
      to bins.

    Example:
      >>> from recurrent.spectrograms import mel_filters
      >>> mel_filters(2, 8, 8000, 0, 4000).round(2).T.tolist()
      [[0.0, 0.68, 0.0, 0.0, 0.0], [0.0, 0.32, 0.91, 0.45, 0.0]]
    """
    check_sizes(bands=bands, fft_size=fft_size)
    if not 0 <= low < high <= rate / 2:
        raise ArgumentError(
            f"low, high: expected 0 <= low < high <= {rate / 2} Hz, half the rate, got {low} and "
            f"{high}."
        )
    corners = _hertz(np.linspace(mel(low), mel(high), bands + 2))
    bins = np.arange(fft_size // 2 + 1)[:, None] * rate / fft_size
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    weights = np.maximum(0, np.minimum(rising, falling))
    weights.flags.writeable = False
    return weights


def warp_mel(features: Any, factors: Any, *, rate: float, knee: float) -> Array:
    """Stretch spectra in mel bands along the frequencies, as if the vocal tract were shorter.

    Equation: ``y[f] = x[f / a]`` up to the knee, where a is the factor; beyond it, frequencies are
    mapped linearly, so that half the rate stays where it is. Between the centers of bands, spectra
    are interpolated linearly; the outermost bands are repeated beyond them.

    Args:
      features: `log_mel` from 0 Hz to half the rate, or what is linear in it, ``[B, M, T]``.
      factors: a, of each example, ``[B]``; above 1 formants are raised.
      rate: samples a second.
      knee: hertz. The bend is where the higher of a frequency and what it is mapped to is this.

    Returns:
      ``[B, M, T]``.

    Raises:
      ValueError: for features of another rank, and a knee that is not below half the rate.

    References:
      Jaitly & Hinton 2013, Vocal tract length perturbation (VTLP) improves speech recognition.
      Departure: applied to the bands, not to the corners of their filters.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.spectrograms import warp_mel
      >>> tone = jnp.zeros((1, 40, 1)).at[0, 12].set(1.0)
      >>> raised = warp_mel(tone, jnp.array([1.2]), rate=8000, knee=3000)
      >>> raised[0, :, 0].argmax().item()
      14
    """
    features, factors = jnp.asarray(features), jnp.asarray(factors)
    top = rate / 2
    if features.ndim != 3 or not 0 < knee < top:
        raise ArgumentError(
            f"features, knee: expected the shape [B, M, T] and a knee between 0 and {top} Hz, half "
            f"the rate, got {list(features.shape)} and {knee}."
        )
    bands = features.shape[1]
    spacing = mel(top) / (bands + 1)
    centers = _hertz(spacing * np.arange(1, bands + 1))
    factors = factors[:, None]
    bend = knee * jnp.minimum(factors, 1)  # hertz, after the mapping
    above = top - (top - centers) * (top - bend / factors) / (top - bend)
    sources = jnp.where(centers <= bend, centers / factors, above)  # hertz, [B, M]
    places = 2595 * jnp.log10(1 + sources / 700) / spacing - 1  # `mel`, of traced frequencies
    places = jnp.clip(places, 0, bands - 1)
    weights = jnp.maximum(0, 1 - abs(places[..., None] - jnp.arange(bands)))
    return jnp.einsum("bmk,bkt->bmt", weights, features)


def frame_count(samples: Any, window: int, hop: int) -> Any:
    """Return how many whole windows fit into so many samples.

    Example:
      >>> from recurrent.spectrograms import frame_count
      >>> [frame_count(samples, window=200, hop=80) for samples in (199, 200, 280)]
      [0, 1, 2]
    """
    return (samples - window) // hop + 1


def log_mel(
    sound: Any,
    *,
    rate: float,
    window: int,
    hop: int,
    bands: int,
    low: float = 0.0,
    high: float | None = None,
    floor: float = 1e-10,
) -> Array:
    """Return the logarithms of the power in mel bands, frame by frame.

    Equation: ``y[t, m] = log max(floor, sum_k F[k, m] |X[t, k]|^2)``, where ``X[t]`` is the
    discrete Fourier transform of samples t hop to t hop + window, times a periodic Hann window,
    filled with zeros to the next power of two, and F are `mel_filters`. Frames are not centered:
    the first begins with the first sample.

    Args:
      sound: floats ``[..., N]``.
      rate: samples a second.
      window: samples of a frame.
      hop: samples from one frame to the next.
      bands: M.
      low: lowest frequency, hertz.
      high: highest frequency, hertz; half the rate by default.
      floor: the least power.

    Returns:
      ``[..., T, M]``, where T is `frame_count`.

    Raises:
      ValueError: for fewer samples than a window, no positive floor, and as `mel_filters` does.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.spectrograms import log_mel
      >>> tone = jnp.sin(2 * jnp.pi * 1000 * jnp.arange(800) / 8000)
      >>> found = log_mel(tone, rate=8000, window=200, hop=80, bands=20)
      >>> found.shape, found[0].argmax().item()
      ((8, 20), 9)
    """
    check_sizes(window=window, hop=hop)
    sound = jnp.asarray(sound)
    if sound.ndim < 1 or sound.shape[-1] < window or not floor > 0:
        raise ArgumentError(
            f"sound, floor: expected at least {window} samples, a window, and a floor above 0, got "
            f"{list(sound.shape)} and {floor}."
        )
    fft_size = 1 << (window - 1).bit_length()
    filters = mel_filters(bands, fft_size, rate, low, rate / 2 if high is None else high)
    frames = frame_count(sound.shape[-1], window, hop)
    places = hop * np.arange(frames)[:, None] + np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    pieces = sound[..., places] * hann.astype(sound.dtype)  # [..., T, window]
    spectrum = jnp.fft.rfft(pieces, fft_size)
    power = spectrum.real**2 + spectrum.imag**2
    return jnp.log(jnp.maximum(power @ filters.astype(power.dtype), floor))
