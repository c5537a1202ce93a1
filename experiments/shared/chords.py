"""Give sets of pitches probabilities: each key by itself, or one pitch after another."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import recurrent
from experiments.data.chorales import KEYS, NONE, VOICES
from recurrent.losses import masked_average
from recurrent.training.task import Metrics

NEVER = -1e30  # the logit of what cannot come
REACH = 14  # keys on either side that a key sees
CLASSES = 12  # pitches of an octave
SEEN = 2 * REACH + 1 + CLASSES + 3  # features of what a key sees


class Head(NamedTuple):
    """Hold how the probability of a chord follows from a vector.

    Attributes:
      init: ``key -> params``.
      nats: ``(params, features [..., F], pitches [..., VOICES]) -> [...]``, minus the log of the
        probability of the chord.
      draw: ``(params, features [F], key, temperature) -> pitches [VOICES]``.
    """

    init: Callable[[Array], Any]
    nats: Callable[[Any, Array, Array], Array]
    draw: Callable[[Any, Array, Array, float], Array]


def roll(pitches: Array) -> Array:
    """Return which keys sound, float32 ``[..., KEYS]``, from pitches ``[..., VOICES]``."""
    return jax.nn.one_hot(pitches, KEYS).sum(axis=-2)  # NONE is no key


def around(roll: Array) -> Array:
    """Return what each key sees of a chord, ``[..., KEYS, SEEN]``, from a roll ``[..., KEYS]``.

    It is the same for a chord that is shifted, but for the last: the keys within `REACH`; how many
    keys sound of each pitch class, from its own upwards; how many sound below and above; its place.
    """
    wide = jnp.pad(roll, [(0, 0)] * (roll.ndim - 1) + [(REACH, REACH)])
    near = jnp.stack([wide[..., k : k + KEYS] for k in range(2 * REACH + 1)], axis=-1)
    octaves = jnp.pad(roll, [(0, 0)] * (roll.ndim - 1) + [(0, -KEYS % CLASSES)])
    classes = octaves.reshape(*roll.shape[:-1], -1, CLASSES).sum(-2)
    rotated = classes[..., (jnp.arange(KEYS)[:, None] + jnp.arange(CLASSES)) % CLASSES]
    upwards = jnp.cumsum(roll, -1)
    place = jnp.broadcast_to(jnp.linspace(-1, 1, KEYS), roll.shape)
    counts = jnp.stack([upwards - roll, upwards[..., -1:] - upwards, place], axis=-1)
    return jnp.concatenate([near, rotated, counts], axis=-1)


def for_each_key(parts: Sequence[recurrent.Cell]) -> recurrent.Cell:
    """Return layers that read what each key sees, with a number for each key, from rolls."""
    readout = recurrent.dense(recurrent.output_shape(parts[-1])[-1], 1)
    see = recurrent.Layer(lambda key: {}, lambda params, roll: around(roll))
    flat = recurrent.Layer(lambda key: {}, lambda params, ys: ys[..., 0])
    inner = recurrent.for_each(recurrent.stack(*parts, readout), KEYS)
    return recurrent.stack(see, inner, flat, input_shape=(KEYS,))


def metrics(nats: Array, batch: dict[str, Array]) -> Metrics:
    """Return the mean cost of a frame, over all frames and as the mean of the songs' means."""
    frames = jnp.arange(1, len(nats) + 1)[:, None] < batch["lengths"]  # [T - 1, B]
    within = frames & batch["mask"]
    of_songs = (nats * within).sum(0) / jnp.maximum(frames.sum(0), 1)
    return {
        "loss": masked_average(nats, within),
        "song": masked_average(of_songs, batch["mask"]),
    }


def transposed(key: Array, pitches: Array, most: int) -> Array:
    """Shift each song ``[B, T, V]`` by up to ``most`` semitones, as far as all its keys stay keys.

    All shifts that are possible are as probable.
    """
    lowest = pitches.min((1, 2), keepdims=True, initial=NONE)
    highest = jnp.where(pitches == NONE, -1, pitches).max((1, 2), keepdims=True)
    down, up = jnp.minimum(most, lowest), jnp.minimum(most, KEYS - 1 - highest)
    by = jax.random.randint(key, lowest.shape, -down, up + 1)
    return jnp.where(pitches == NONE, NONE, pitches + by)


def independent(features: int, *, as_they_are: bool = False) -> Head:
    """Return a head in which each key sounds with a probability of its own.

    Equation: ``-log p = -sum_k y_k log s(z_k) + (1 - y_k) log(1 - s(z_k))``, z linear, or the
    features as they are. A drawn chord keeps the `VOICES` likeliest of the keys that were drawn.
    """
    same = recurrent.Layer(lambda key: {}, lambda params, xs: xs)
    readout = same if as_they_are else recurrent.dense(features, KEYS)

    def nats(params: Any, xs: Array, pitches: Array) -> Array:
        logits = readout.apply(params, xs)
        sounds = roll(pitches)
        signed = jnp.where(sounds > 0, logits, -logits)
        return -jax.nn.log_sigmoid(signed).sum(-1)

    def draw(params: Any, x: Array, key: Array, temperature: float) -> Array:
        logits = readout.apply(params, x) / temperature
        sounds = jax.random.bernoulli(key, jax.nn.sigmoid(logits))
        best, keys = jax.lax.top_k(jnp.where(sounds, logits, NEVER), VOICES)
        return jnp.sort(jnp.where(best > NEVER, keys, NONE))

    return Head(readout.init, nats, draw)


def joint(features: int, hidden_size: int) -> Head:
    """Return a head that names the pitches of a chord one by one, from the lowest to the highest.

    So a chord's probability is the product of those of its pitches, given the lower ones, and of
    its end; they add up to one over all sets of up to `VOICES` keys, computed exactly.

    Equation: ``h_k = tanh(W x + sum_{j<k} E n_j + L n_{k-1} + b_k)``; the next pitch, or the end,
    is a softmax of ``V h_k`` over the keys above ``n_{k-1}``. It resembles NADE (Larochelle &
    Murray 2011), but names the keys that sound and not all of them.

    Args:
      features: F.
      hidden_size: of h.
    """
    into, out = recurrent.dense(features, hidden_size), recurrent.dense(hidden_size, KEYS + 1)

    def init(key: Array) -> Any:
        keys = jax.random.split(key, 4)
        tables = {
            name: 0.1 * jax.random.normal(own, (KEYS + 1, hidden_size))
            for name, own in zip(("sounding", "last"), keys[:2], strict=True)
        }
        place = jnp.zeros((VOICES, hidden_size))
        return tables | {"into": into.init(keys[2]), "out": out.init(keys[3]), "place": place}

    def logits(params: Any, x: Array, before: Array, last: Array, place: Any) -> Array:
        """Score the next pitch ``[..., KEYS + 1]``, where ``NONE`` is the end."""
        told = before + params["last"][last] + params["place"][place]
        scores = out.apply(params["out"], jnp.tanh(x + told))
        above = jnp.arange(KEYS + 1) > jnp.where(last == NONE, -1, last)[..., None]
        return jnp.where(above, scores, NEVER)

    def nats(params: Any, xs: Array, pitches: Array) -> Array:
        x = into.apply(params["into"], xs)[..., None, :]
        start = jnp.full_like(pitches[..., :1], NONE)
        last = jnp.concatenate([start, pitches[..., :-1]], -1)  # NONE at first, and after the end
        known = jnp.where((last == NONE)[..., None], 0, params["sounding"][last])
        scores = logits(params, x, jnp.cumsum(known, -2), last, jnp.arange(VOICES))
        log_p = jax.nn.log_softmax(scores)
        ended = (last == NONE) & (jnp.arange(VOICES) > 0)
        chosen = jnp.take_along_axis(log_p, pitches[..., None], -1)[..., 0]
        return -jnp.where(ended, 0, chosen).sum(-1)

    def draw(params: Any, features: Array, key: Array, temperature: float) -> Array:
        x = into.apply(params["into"], features)

        def step(carry: Any, place: Array) -> Any:
            before, last, ended = carry
            scores = logits(params, x, before, last, place) / temperature
            drawn = jax.random.categorical(jax.random.fold_in(key, place), scores)
            pitch = jnp.where(ended, NONE, drawn)
            before = before + jnp.where(pitch == NONE, 0, params["sounding"][pitch])
            return (before, pitch, pitch == NONE), pitch

        start = (jnp.zeros_like(x), jnp.int32(NONE), jnp.array(False))
        return jax.lax.scan(step, start, jnp.arange(VOICES))[1]

    return Head(init, nats, draw)
