"""Read strips, such as lines of writing or spectrograms, as strings by a network, trained with CTC.

Symbol 0 is the blank, symbol k + 1 is class k.

Axis letters: T frames, B batch, V symbols, N labels.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import recurrent
from experiments.shared.cell_flag import make_cell
from recurrent.convnet import COLUMNS_A_FRAME, StripNet, frames_of
from recurrent.ctc import ctc_greedy, ctc_prefix_beam, edit_distances
from recurrent.losses import Average, masked_average
from recurrent.training.task import Metric, Metrics

BLANK = 0
TOGETHER = 64  # strips read at once outside training
LOSS = Metric("loss", higher_is_better=False, format="{:.4f} nats a string")
ERRORS = Metric("errors", higher_is_better=False, format="{:.2%} of digits wrong")
EXACT = Metric("exact", higher_is_better=True, format="{:.2%} of strings right")


class Transcriber(NamedTuple):
    """Hold the parts of a network that reads strips.

    Attributes:
      eyes: from strips to frames.
      cell: over the frames, in both directions.
      readout: from its outputs to the logits of the symbols.
    """

    eyes: StripNet
    cell: recurrent.Cell
    readout: recurrent.Layer


def transcriber(
    cell: str, hidden_size: int, classes: int, channels: tuple[int, ...], features: int = 128
) -> Transcriber:
    """Return the network; ``cell`` is what ``--cell`` names, run in both directions."""
    both = [make_cell(cell, features, hidden_size) for _ in range(2)]
    over = recurrent.bidirectional(*both)
    readout = recurrent.dense(recurrent.output_shape(over)[-1], classes + 1)
    return Transcriber(StripNet(channels, features), over, readout)


def init(model: Transcriber, height: int, key: Array) -> Any:
    """Draw the params for strips of a height."""
    keys = jax.random.split(key, 3)
    strip = np.zeros((1, height, COLUMNS_A_FRAME, 1), np.float32)
    return {
        "eyes": model.eyes.init(keys[0], strip, np.array([1]))["params"],
        "cell": model.cell.init(keys[1]),
        "readout": model.readout.init(keys[2]),
    }


def frame_logits(
    model: Transcriber,
    params: Any,
    strips: Array,
    widths: Array,
    dropout: Any = 0.0,
    key: Array | None = None,
) -> tuple[Array, Array]:
    """Return logits ``[T, B, V]`` and how many frames ``[B]`` each strip has.

    Args:
      model: the network.
      params: of the network.
      strips: ``[B, height, width]``.
      widths: ``[B]``, the columns of each.
      dropout: share of features dropped before and after the cell.
      key: the random key of their masks; None in evaluation.
    """
    keys = [None, None] if key is None else jax.random.split(key)
    seen = model.eyes.apply({"params": params["eyes"]}, strips[..., None], widths, dropout, keys[0])
    frames = frames_of(widths)
    _, ys = recurrent.unroll(model.cell, params["cell"], seen, lengths=frames)
    ys = recurrent.dropout(ys, dropout, keys[1])
    return model.readout.apply(params["readout"], ys), frames


def feasible(frames: Array, labels: Array, counts: Array) -> Array:
    """Return which strings ``[B]`` a path can spell: a frame a label, and a blank between equals.

    Args:
      frames: of each, ``[B]``.
      labels: ``[B, N]``.
      counts: labels of each, ``[B]``.
    """
    pairs = jnp.arange(1, labels.shape[1]) < counts[:, None]
    repeats = ((labels[:, 1:] == labels[:, :-1]) & pairs).sum(1)
    return frames >= counts + repeats


def ctc_costs(logits: Array, frames: Array, labels: Array, counts: Array) -> Array:
    """Return minus the log of the probability of strings ``[B]``, in nats, by `optax.ctc_loss`.

    A string that no path can spell costs 1e5 or so, the library's infinity: see `feasible`.

    Args:
      logits: ``[T, B, V]``.
      frames: of each, ``[B]``.
      labels: symbols ``[B, N]``, none of them the blank.
      counts: labels of each, ``[B]``.
    """
    beyond = jnp.arange(len(logits)) >= frames[:, None]
    unused = jnp.arange(labels.shape[1]) >= counts[:, None]
    float32 = jnp.float32
    return optax.ctc_loss(
        logits.swapaxes(0, 1).astype(float32),
        beyond.astype(float32),
        labels,
        unused.astype(float32),
        blank_id=BLANK,
    )


def metrics(logits: Array, frames: Array, classes: Array, counts: Array, mask: Array) -> Metrics:
    """Return the cost of a string, the error rate of its symbols, and how many strings are exact.

    The error rate is the sum of the edit distances over the sum of the lengths. Decoding is greedy.
    Strings that are too long for their frames have no finite cost, and are left out of its mean;
    as errors they count.

    Args:
      logits: ``[T, B, V]``.
      frames: of each, ``[B]``.
      classes: from 0 on, ``[B, N]``.
      counts: labels of each, ``[B]``.
      mask: which examples count, ``[B]``.
    """
    labels = classes + 1
    spelt = mask & feasible(frames, labels, counts)
    found = ctc_greedy(jax.lax.stop_gradient(logits), frames, BLANK)
    wrong = edit_distances(found.labels, found.lengths, labels, counts)
    # NaN is no answer, though the greedy path would call it one
    broken = jnp.isnan(logits).any((0, 2))
    wrong = jnp.where(broken, jnp.maximum(counts, 1), wrong)
    as_floats = functools.partial(jnp.sum, where=mask, dtype=jnp.float32)
    return {
        "loss": masked_average(ctc_costs(logits, frames, labels, counts), spelt),
        "errors": Average(as_floats(wrong), as_floats(counts)),
        "exact": masked_average((wrong == 0).astype(jnp.float32), mask),
    }


class Reading(NamedTuple):
    """Hold what a network reads in a strip.

    Attributes:
      classes: the classes read, from the left to the right.
      places: of each, the column where it fires most; only of greedy decoding.
      probability: of the whole string with a beam; of the best path with greedy decoding.
    """

    classes: list[int]
    places: list[float]
    probability: float


def read(
    model: Transcriber, params: Any, strips: np.ndarray, widths: np.ndarray, beam: int = 1
) -> list[Reading]:
    """Read strips ``[N, height, width]``, `TOGETHER` at a time; a beam of 1 is greedy decoding."""

    @jax.jit
    def decoded(params: Any, strips: Array, widths: Array) -> Any:
        logits, frames = frame_logits(model, params, strips, widths)
        log_p = jax.nn.log_softmax(logits)
        if beam == 1:
            return log_p, frames
        found = ctc_prefix_beam(log_p, frames, beam_size=beam, blank=BLANK)
        return found.labels[:, 0], found.lengths[:, 0], found.log_probs[:, 0]

    readings: list[Reading] = []
    for start in range(0, len(strips), TOGETHER):
        part = slice(start, start + TOGETHER)
        missing = max(0, start + TOGETHER - len(strips)) if len(strips) > TOGETHER else 0
        rows = np.pad(strips[part], ((0, missing), (0, 0), (0, 0)))  # one shape, one compilation
        found = jax.device_get(decoded(params, rows, np.pad(widths[part], (0, missing))))
        kept = range(len(rows) - missing)
        decode: Callable[..., Reading] = best_path if beam == 1 else of_beam
        readings += [decode(*found, k) for k in kept]
    return readings


def read_one(model: Transcriber, params: Any, strip: np.ndarray, beam: int) -> Reading:
    """Read one strip ``[height, width]``."""
    width = strip.shape[1]
    filled = np.pad(strip, ((0, 0), (0, -width % COLUMNS_A_FRAME)))
    return read(model, params, filled[None], np.array([width]), beam)[0]


def best_path(log_p: np.ndarray, frames: np.ndarray, k: int) -> Reading:
    """Return the greedy reading of strip k, and where each symbol of it fires.

    Args:
      log_p: ``[T, B, V]``.
      frames: ``[B]``.
      k: which of the batch.
    """
    own = log_p[: frames[k], k]
    path = own.argmax(-1) if len(own) else np.zeros(0, int)
    starts = np.flatnonzero((path != BLANK) & (path != np.concatenate([[BLANK], path[:-1]])))
    places = []
    for start in starts:
        stay = path[start:] != path[start]
        end = start + (int(stay.argmax()) if stay.any() else len(stay))
        peak = start + int(own[start:end, path[start]].argmax())
        places.append(COLUMNS_A_FRAME * (peak + 0.5))
    total = float(np.exp(own.max(-1).sum(dtype=np.float64))) if len(own) else 1.0
    return Reading((path[starts] - 1).tolist(), places, total)


def of_beam(labels: np.ndarray, lengths: np.ndarray, log_probs: np.ndarray, k: int) -> Reading:
    """Return the reading of strip k from labels ``[B, T]``, their lengths and log-probabilities."""
    own = labels[k, : lengths[k]] - 1
    return Reading(own.tolist(), [], float(np.exp(np.float64(log_probs[k]))))
