"""Join recordings of digits to strings of one speaker, and turn them into what a network reads.

Axis letters: B strings, N digits of the longest, L samples of a recording, W of a string.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments.data.recordings import PEOPLE, RATE, TEST, VALID, Recordings
from experiments.harness.config import option
from experiments.harness.errors import UserError
from recurrent.spectrograms import frame_count, log_mel, warp_mel
from recurrent.training.bucketing import Buckets, bucket_sizes
from recurrent.training.task import HParams

WINDOW, HOP, BANDS = 200, 80, 32  # 25 ms and 10 ms
FLOOR = 1e-2  # of the power in a band, about 40 dB below the mean of a string
EDGE = 100  # samples of silence, at least, before and after a string
MOST_SILENCE = 1200  # samples before, between and after digits, at most
MEAN, SPREAD = 0.2, 4.1  # of the features of training recordings at 60 dB, rounded
FASTEST = 1.25  # how much faster, or slower, a digit may be played in training
QUIETEST = 30.0  # dB; noise in training lies up to 5 dB above that of evaluation, or above this
MOST_SNR = 60.0  # and down to this
LOUDER, TILT = 0.3, 0.3  # standard deviations by which all bands, or high against low, are shifted
KNEE = 3000.0  # hertz, up to which spectra are stretched evenly
BAND_MASK, TIME_MASK = 8, 10  # bands and frames that are hidden in training, at most

SIZES = 3  # of batches

Strings = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class SoundConfig:
    """Hold how strings sound, in evaluation and in training."""

    snr: float = option(
        60.0,
        "power of the speech, without silences, over that of white noise in evaluation, dB; at 60 "
        "it is not heard",
        traced=True,
        minimum=-20,
        maximum=100,
    )
    speed: float = option(
        0.1,
        "how much faster or slower training digits are played, at most, a share",
        traced=True,
        minimum=0,
        maximum=0.25,
    )
    warp: float = option(
        0.0,
        "how much spectra of training strings are stretched or squeezed, at most, a share, as if "
        "the mouth were shorter or longer",
        traced=True,
        minimum=0,
        maximum=0.5,
    )


class Sound(NamedTuple):
    """Hold the sound of strings.

    Attributes:
      samples: ``[B, W]``, 0 beyond the end of each.
      total: samples of each, ``[B]``.
      speech: how many of these are of recordings, not of the silence around them, ``[B]``.
    """

    samples: Array
    total: Array
    speech: Array


def splits_of(
    found: Recordings, split: str, digits: int, seed: int, validate_on: str = "heard"
) -> tuple[dict[str, Strings], np.ndarray]:
    """Return the splits of `spoken_digits` as arrays of strings.

    The official split tests on the recordings of index 0 to 4 of every speaker. The split by
    speaker has all recordings in its test split, of which those of the held-out speaker count, and
    some of the other speakers' count in the others; see `roles` and `counted`. Recordings are
    parted before any are joined.

    Args:
      found: all recordings.
      split: ``"official"`` or ``"speaker"``.
      digits: of the longest string.
      seed: decides which recordings are joined, and the silence between them.
      validate_on: in the split by speaker, ``"heard"`` or ``"unheard"``.

    Returns:
      The splits, and the place of the speaker of each test string among the names.
    """
    alone = split == "speaker"
    test = found.indices >= 0 if alone else found.indices < TEST
    valid = (found.indices >= TEST) & (found.indices < VALID)
    longest = max(map(len, found.samples))
    people, data, speakers = len(found.names), {}, np.zeros(0)
    counting = roles(people, validate_on if alone else "all")
    places = {"train": found.indices >= VALID, "valid": valid, "test": test}
    for k, (name, chosen) in enumerate(places.items()):
        own = found.some(chosen)
        joined = 1 if name == "train" else digits  # those of training are joined in each step anew
        rows = dealt(own, joined, np.random.default_rng([seed, k]))
        data[name] = strings_of(own, rows, joined, longest, np.random.default_rng([seed, k, 1]))
        speakers = data[name]["speakers"]
        data[name]["turns"] = np.tile(np.array([*counting[name], people], np.int32), (len(rows), 1))
    return data, speakers


def check_people(names: Sequence[str]) -> None:
    """Raise `UserError` where ``--held_out``, which counts six people, would count beyond them."""
    if len(names) != PEOPLE:
        raise UserError(
            f"--split=speaker: expected recordings of {PEOPLE} people, each of whom --held_out may "
            f"hold back, got those of {len(names)}: {', '.join(names)}."
        )


def roles(people: int, validate_on: str) -> dict[str, tuple[int, int]]:
    """Return whose strings count in each split, as the first and the last turn.

    Speakers take turns by their places after the held-out one's, whose turn is 0; after the last
    comes the first. So each speaker is tested in one fold, and judges in another.

    Args:
      people: how many speakers there are.
      validate_on: ``"heard"`` for further recordings of those who were trained on, ``"unheard"``
        for those of turn 1, who is not trained on then, ``"all"`` where nobody is held out.

    Example:
      >>> roles(6, "unheard")
      {'train': (2, 5), 'valid': (1, 1), 'test': (0, 0)}
    """
    last = people - 1
    if validate_on == "all":
        return {"train": (0, last), "valid": (0, last), "test": (0, last)}
    if validate_on == "heard":
        return {"train": (1, last), "valid": (1, last), "test": (0, 0)}
    return {"train": (2, last), "valid": (1, 1), "test": (0, 0)}


def dealt(found: Recordings, digits: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Deal recordings out to strings of one speaker, of 1 to ``digits``, each recording once."""
    rows = []
    for speaker in range(len(found.names)):
        own = rng.permutation(np.flatnonzero(found.speakers == speaker))
        length = 0
        while len(own):
            length = length % digits + 1
            rows.append(own[:length])
            own = own[length:]
    return rows


def strings_of(
    found: Recordings, rows: list[np.ndarray], digits: int, longest: int, rng: np.random.Generator
) -> Strings:
    """Return strings of recordings as arrays.

    Returns:
      ``"samples"`` int16 ``[S, L, N]``, ``"lengths"`` and ``"classes"`` ``[S, N]``, ``"counts"``
      and ``"longest"`` (the most samples of a recording) ``[S]``, ``"silences"`` ``[S, N + 1]``,
      ``"speakers"`` and ``"ids"`` ``[S]``.
    """
    shape = len(rows), digits
    samples = np.zeros((len(rows), longest, digits), np.int16)
    lengths, classes = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for s, row in enumerate(rows):
        for n, k in enumerate(row):
            samples[s, : len(found.samples[k]), n] = found.samples[k]
            lengths[s, n], classes[s, n] = len(found.samples[k]), found.classes[k]
    return {
        "samples": samples,
        "lengths": lengths,
        "classes": classes,
        "counts": np.array([len(row) for row in rows], np.int32),
        "longest": lengths.max(1),
        "silences": rng.integers(EDGE, MOST_SILENCE, (len(rows), digits + 1), np.int32),
        "speakers": np.array([found.speakers[row[0]] for row in rows], np.int32),
        "ids": np.arange(len(rows), dtype=np.int32),
    }


def buckets_of(data: dict[str, Strings]) -> Buckets:
    """Choose to which lengths of recordings batches are cut, so that the least is padding."""
    longest = data["train"]["samples"].shape[1]
    limits = bucket_sizes(data["train"]["longest"], SIZES)
    limits = limits if limits[-1] == longest else (*limits, longest)
    return Buckets("longest", limits, {"samples": limits})


def counted(batch: Any, hparams: HParams) -> Array:
    """Return which strings of a batch count: those whose speaker's turn its split has."""
    first, last, people = batch["turns"].T
    turn = (batch["speakers"] - hparams["held_out"]) % jnp.maximum(people, 1)  # 0 fills up batches
    return batch["mask"] & (first <= turn) & (turn <= last)


def rows_that_count(split: Strings, held_out: int) -> np.ndarray:
    """Return the places of the strings of a split that count where this speaker is held out."""
    batch = split | {"mask": np.ones(len(split["speakers"]), bool)}
    return np.flatnonzero(counted(batch, {"held_out": held_out}))


def joined_anew(key: Array, batch: Any, digits: int) -> Any:
    """Return a batch of single recordings joined to strings of 1 to ``digits`` of one speaker.

    The first digit of string b is recording b, the others are drawn among those of its speaker.
    """
    partners, counts, silences = jax.random.split(key, 3)
    size = len(batch["counts"])
    same = (batch["speakers"][:, None] == batch["speakers"]) & batch["mask"]
    chance = jnp.where(same, 0.0, -jnp.inf)  # [B, B]
    drawn = jax.random.categorical(partners, chance[:, None], shape=(size, digits))
    own = jnp.arange(size)[:, None]
    some = same.any(1)[:, None]  # none of the examples that fill up a last batch
    rows = jnp.where(some & (jnp.arange(digits) > 0), drawn, own)  # [B, N]
    return batch | {
        "samples": batch["samples"][..., 0][rows].swapaxes(1, 2),
        "lengths": batch["lengths"][:, 0][rows],
        "classes": batch["classes"][:, 0][rows],
        "counts": jax.random.randint(counts, (size,), 1, digits + 1),
        "silences": jax.random.randint(silences, (size, digits + 1), EDGE, MOST_SILENCE),
    }


def sounded(batch: Any, rates: Any = 1.0) -> Sound:
    """Return the sound of strings.

    Args:
      batch: as `strings_of` has it.
      rates: how much faster each digit is played, ``[B, N]``, at least 1 / `FASTEST`;
        linearly interpolated.
    """
    _, longest, digits = batch["samples"].shape
    real = jnp.arange(digits) < batch["counts"][:, None]
    durations = jnp.where(real, jnp.floor((batch["lengths"] - 1) / rates).astype(int) + 1, 0)
    after = jnp.where(real, batch["silences"][:, 1:], 0)
    steps = durations + after
    starts = batch["silences"][:, :1] + jnp.cumsum(steps, 1) - steps
    slowed = 1 if isinstance(rates, float) else FASTEST
    total = round(digits * (longest * slowed + MOST_SILENCE)) + MOST_SILENCE
    places = jnp.arange(total)
    which = (places >= starts[..., None]).sum(1) - 1  # [B, W]
    which = jnp.clip(which, 0, jnp.maximum(batch["counts"] - 1, 0)[:, None])
    at = (places - jnp.take_along_axis(starts, which, 1)) * taken(rates, which)
    inside = (at >= 0) & (at <= taken(batch["lengths"], which) - 1)
    flat = batch["samples"].swapaxes(1, 2).reshape(len(which), -1)  # [B, N * L]
    low = jnp.clip(at.astype(int), 0, longest - 1)
    beside = [jnp.minimum(low + k, longest - 1) + which * longest for k in (0, 1)]
    below, above = (jnp.take_along_axis(flat, each, 1).astype(jnp.float32) for each in beside)
    sound = jnp.where(inside, below + (at - low) * (above - below), 0)
    return Sound(sound / 2**15, batch["silences"][:, 0] + steps.sum(1), durations.sum(1))


def taken(values: Any, which: Array) -> Any:
    """Return for each sample the value ``[B, N]`` of its digit; a single number stays as it is."""
    return values if isinstance(values, float) else jnp.take_along_axis(values, which, 1)


def noisy(sound: Sound, snr: Any, noise: Any) -> Array:
    """Return sound of a mean power of 1, silences included, with noise added to it, ``[B, W]``.

    Args:
      sound: of the strings.
      snr: the power of the speech, without the silence around it, over that of the noise, dB,
        ``[B]`` or one for all.
      noise: of power 1, ``[B, W]``, or 0.
    """
    real = jnp.arange(sound.samples.shape[1]) < sound.total[:, None]
    power = jnp.square(sound.samples).sum(1) / jnp.maximum(sound.total, 1)
    louder = sound.total / jnp.maximum(sound.speech, 1)  # the power of the speech alone, over 1
    level = jnp.sqrt(louder) * 10 ** (-jnp.asarray(snr) / 20)
    scaled = sound.samples / jnp.sqrt(jnp.maximum(power, 1e-12))[:, None]
    return jnp.where(real, scaled + level[:, None] * noise, 0)


def features_of(sound: Array, totals: Array) -> tuple[Array, Array]:
    """Return log-mel features ``[B, BANDS, T]``, 0 past each end, and the frames of each ``[B]``.

    They are scaled by the mean and the standard deviation of all training recordings, and T is a
    multiple of four.

    Args:
      sound: of a mean power of 1, ``[B, W]``.
      totals: samples of each, ``[B]``.
    """
    spectra = partial(log_mel, rate=RATE, window=WINDOW, hop=HOP, bands=BANDS, floor=FLOOR)
    # One by one, since XLA would make each sample anew, noise and all, in each window it lies in.
    found = lax.map(spectra, sound)
    frames = jnp.clip(frame_count(totals, WINDOW, HOP), 1, found.shape[1])
    real = (jnp.arange(found.shape[1]) < frames[:, None])[..., None]
    scaled = jnp.where(real, (found - MEAN) / SPREAD, 0).swapaxes(1, 2)
    return jnp.pad(scaled, ((0, 0), (0, 0), (0, -scaled.shape[2] % 4))), frames


def heard(batch: Any, snr: Any) -> tuple[Array, Array]:
    """Return the features of strings as they are, with white noise that each string has its own."""
    sound = sounded(batch)
    keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(0), number))(batch["ids"])
    # As long in each bucket, so that the noise of a string does not depend on those beside it.
    noise = jax.vmap(lambda key: jax.random.normal(key, sound.samples.shape[1:]))(keys)
    return features_of(noisy(sound, snr, noise), sound.total)


def heard_alone(samples: np.ndarray) -> np.ndarray:
    """Return the features ``[BANDS, T]`` of one recording ``[W]`` as it is."""
    total = jnp.array([len(samples)])
    sound = noisy(Sound(jnp.asarray(samples[None]), total, total), MOST_SNR, 0.0)
    features, frames = features_of(sound, total)
    return np.asarray(features[0, :, : int(frames[0])])


def distorted(key: Array, batch: Any, hparams: HParams) -> tuple[Array, Array]:
    """Return the features of strings as another person, room or microphone might give them.

    Each digit is played faster or slower, its pitch with it, by up to ``hparams["speed"]``; there
    is white noise of random power, the spectrum is stretched by up to ``hparams["warp"]`` and
    tilted, and some bands and frames are hidden.

    References:
      Park et al. 2019, SpecAugment, arXiv:1904.08779. Departure: one mask of each kind.
    """
    speed, level, noise, warp, shift, bands, time = jax.random.split(key, 7)
    shape = batch["lengths"].shape
    spread = jnp.log1p(hparams["speed"])
    rates = jnp.exp(spread * jax.random.uniform(speed, shape, minval=-1))
    sound = sounded(batch, rates)
    least = jnp.minimum(hparams["snr"], QUIETEST) - 5
    snr = jax.random.uniform(level, shape[:1], minval=least, maxval=MOST_SNR)
    loud = noisy(sound, snr, jax.random.normal(noise, sound.samples.shape))
    features, frames = features_of(loud, sound.total)
    spread = jnp.log1p(hparams["warp"])
    factors = jnp.exp(spread * jax.random.uniform(warp, shape[:1], minval=-1))
    features = warp_mel(features, factors, rate=RATE, knee=KNEE)
    louder, tilt = jax.random.normal(shift, (2, shape[0], 1, 1))
    features += LOUDER * louder + TILT * tilt * jnp.linspace(-1, 1, BANDS)[:, None]
    longest = jnp.minimum(TIME_MASK, frames // 5)
    hidden = stripe(bands, jnp.full(shape[:1], BANDS), jnp.full(shape[:1], BAND_MASK), BANDS)
    hidden = hidden[:, :, None] | stripe(time, frames, longest, features.shape[2])[:, None]
    return jnp.where(hidden, 0, features), frames


def stripe(key: Array, sizes: Array, longest: Array, total: int) -> Array:
    """Return booleans ``[B, total]``, true in one random stripe of each row.

    Args:
      key: the random key.
      sizes: within which it lies, ``[B]``.
      longest: of it, ``[B]``.
      total: of a row.
    """
    parts = jax.random.uniform(key, (2, len(sizes)))
    width = jnp.floor(parts[0] * (longest + 1))
    start = jnp.floor(parts[1] * (sizes - width + 1))
    places = jnp.arange(total)
    return (places >= start[:, None]) & (places < (start + width)[:, None])
