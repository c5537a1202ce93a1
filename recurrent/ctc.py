"""Decode the outputs of connectionist temporal classification (CTC), and count their errors.

A path has one symbol per frame. Merging repeated symbols of a path and then dropping the blanks
gives its labels, so two equal labels in a row need a blank between them. The probability of a label
sequence is the sum over its paths. For training, use `optax.ctc_loss`, which is batch-major.

Axis letters: T frames, B batch, V symbols including the blank, K beams.

References:
  Graves et al., Connectionist temporal classification, 2006.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import check_sizes, length_mask, where_flag
from recurrent.decoding import check_token, top_k
from recurrent.errors import ArgumentError


class Labels(NamedTuple):
    """Hold one label sequence for each batch element.

    Attributes:
      labels: int32 ``[B, T]``, padded with the blank.
      lengths: int32 ``[B]``, the number of labels.
    """

    labels: Array
    lengths: Array


class LabelBeams(NamedTuple):
    """Hold the K best label sequences for each batch element, best first.

    Attributes:
      labels: int32 ``[B, K, T]``, padded with the blank.
      lengths: int32 ``[B, K]``, the number of labels.
      log_probs: ``[B, K]`` in nats. If fewer than K sequences were found, the remaining
        log-probabilities are -inf and their lengths 0. Where a frame holds NaN, so is the best.
    """

    labels: Array
    lengths: Array
    log_probs: Array


def ctc_greedy(log_probs: Any, lengths: Any, blank: int = 0) -> Labels:
    """Return the labels of the most probable path.

    The path takes the most probable symbol of each frame, the lowest of equally probable ones.

    Args:
      log_probs: ``[T, B, V]``; logits give the same result.
      lengths: integers ``[B]`` from 0 to T; frames at and beyond the length are not read.
      blank: the symbol that is not a label; static.

    Returns:
      The label sequences and their lengths.

    Raises:
      ValueError: for log-probabilities of another rank, with an empty axis or not of a float type,
        lengths that are not integers ``[B]`` from 0 to T, or a blank that is not among the symbols.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.ctc import ctc_greedy
      >>> path = jnp.array([[2], [2], [0], [2], [1]])  # [T, B]
      >>> decoded = ctc_greedy(jax.nn.one_hot(path, 3), jnp.array([5]))
      >>> decoded.labels.tolist(), decoded.lengths.tolist()
      ([[2, 2, 1, 0, 0]], [3])
    """
    log_probs, lengths = _checked(log_probs, lengths, blank)
    time, batch, _ = log_probs.shape
    path = log_probs.argmax(axis=-1).astype(jnp.int32)
    previous = jnp.concatenate([jnp.full((1, batch), blank, jnp.int32), path[:-1]])
    is_label = (path != blank) & (path != previous) & length_mask(lengths, time)
    places = jnp.where(is_label, jnp.cumsum(is_label, axis=0) - 1, time)
    labels = jnp.full((batch, time), blank, jnp.int32)
    labels = labels.at[jnp.arange(batch), places].set(path, mode="drop")
    return Labels(labels, is_label.sum(axis=0, dtype=jnp.int32))


def ctc_prefix_beam(log_probs: Any, lengths: Any, *, beam_size: int, blank: int = 0) -> LabelBeams:
    """Search for the most probable label sequences, summing over the paths of each.

    This prefix beam search keeps the K most probable label prefixes after each frame, each with two
    probabilities: that of its paths that end with a blank, and that of its paths that end with its
    last label. Ties go to the earlier beam, then to the lower symbol. The returned
    log-probabilities are exact if K is at least the number of prefixes; otherwise they are lower
    bounds, since paths through dropped prefixes are missing. Sums are computed in log space, in
    float32 or wider. The time is O(T K (K + V + T)) per batch element.

    Args:
      log_probs: ``[T, B, V]``, each frame normalized over V; -inf excludes a symbol.
      lengths: integers ``[B]`` from 0 to T; frames at and beyond the length are not read. A length
        of 0 gives the empty label sequence with probability 1.
      beam_size: K; static.
      blank: the symbol that is not a label; static.

    Returns:
      The K best label sequences of each batch element, their lengths and log-probabilities.

    Raises:
      ValueError: as `ctc_greedy` does, and for a beam size below 1.

    References:
      Hannun et al., First-pass large vocabulary continuous speech recognition using
      bi-directional recurrent DNNs, 2014, algorithm 1. Departure: no language model and no
      insertion bonus.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.ctc import ctc_prefix_beam
      >>> log_probs = jnp.log(jnp.array([[[0.6, 0.4]], [[0.6, 0.4]]]))  # [T, B, V]
      >>> beams = ctc_prefix_beam(log_probs, jnp.array([2]), beam_size=2)
      >>> beams.labels[0].tolist()  # the best path is all blanks, but [1] has three paths
      [[1, 0], [0, 0]]
      >>> [round(float(prob), 2) for prob in jnp.exp(beams.log_probs[0])]
      [0.64, 0.36]
    """
    check_sizes(beam_size=beam_size)
    log_probs, lengths = _checked(log_probs, lengths, blank)
    search = partial(_search, beam_size=beam_size, blank=blank)
    return jax.vmap(search, in_axes=(1, 0))(log_probs, lengths)


def edit_distances(found: Any, found_lengths: Any, true: Any, true_lengths: Any) -> Array:
    """Return the fewest insertions, deletions and substitutions between pairs of label sequences.

    Each costs one. The sum of a data set's distances over the sum of its true lengths is the error
    rate that people publish; the mean of the pairs' own rates is another number.

    Args:
      found: integers ``[B, M]``.
      found_lengths: integers ``[B]`` from 0 to M; labels at and beyond the length are not read.
      true: integers ``[B, N]``.
      true_lengths: integers ``[B]`` from 0 to N.

    Returns:
      int32 ``[B]``.

    Raises:
      ValueError: for arrays whose shapes do not fit together.

    References:
      Levenshtein 1966, Binary codes capable of correcting deletions, insertions, and reversals.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.ctc import edit_distances
      >>> found, true = jnp.array([[1, 2, 2, 4], [5, 0, 0, 0]]), jnp.array([[1, 2, 3], [5, 6, 0]])
      >>> edit_distances(found, jnp.array([4, 1]), true, jnp.array([3, 2])).tolist()
      [2, 1]
    """
    found, true = jnp.asarray(found), jnp.asarray(true)
    found_lengths, true_lengths = jnp.asarray(found_lengths), jnp.asarray(true_lengths)
    counts = [found.shape[:1], found_lengths.shape, true.shape[:1], true_lengths.shape]
    if found.ndim != 2 or true.ndim != 2 or len({*counts}) > 1:
        raise ArgumentError(
            "found, true: expected the shapes [B, M], [B], [B, N] and [B], got "
            f"{', '.join(str(list(each.shape)) for each in (found, found_lengths, true))} and "
            f"{list(true_lengths.shape)}."
        )
    places = jnp.arange(found.shape[1] + 1, dtype=jnp.int32)

    def read(row: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
        label, real = inputs  # [B]
        # by substitution or deletion; then by insertions, whose costs are a running minimum
        best = jnp.minimum(row[:, :-1] + (found != label[:, None]), row[:, 1:] + 1)
        best = jnp.concatenate([row[:, :1] + 1, best], axis=1)
        following = lax.cummin(best - places, axis=1) + places
        return jnp.where(real[:, None], following, row), None

    start = jnp.broadcast_to(places, (found.shape[0], len(places)))
    steps = true.T, length_mask(true_lengths, true.shape[1])
    row, _ = lax.scan(read, start, steps)  # row[b, m]: from the first m labels found
    return jnp.take_along_axis(row, found_lengths[:, None], axis=1)[:, 0]


class _Prefixes(NamedTuple):
    """Hold K label prefixes; those of nonzero probability all differ.

    Attributes:
      labels: ``[K, T]``.
      lengths: ``[K]``.
      last: ``[K]``, the last label; the blank if there is none.
      ends_blank: ``[K]``, log-probability of the paths that end with a blank.
      ends_label: ``[K]``, log-probability of the paths that end with the last label.
      starts: ``[K, K]``, whether prefix j starts with prefix i or equals it.
    """

    labels: Array
    lengths: Array
    last: Array
    ends_blank: Array
    ends_label: Array
    starts: Array

    @property
    def total(self) -> Array:
        return jnp.logaddexp(self.ends_blank, self.ends_label)


def _search(log_probs: Array, length: Array, *, beam_size: int, blank: int) -> LabelBeams:
    """Run the prefix search on one example, with ``log_probs`` ``[T, V]``."""
    time, _ = log_probs.shape
    impossible = jnp.full(beam_size, -jnp.inf, log_probs.dtype)
    start = _Prefixes(
        labels=jnp.full((beam_size, time), blank, jnp.int32),
        lengths=jnp.zeros(beam_size, jnp.int32),
        last=jnp.full(beam_size, blank, jnp.int32),
        ends_blank=impossible.at[0].set(0),
        ends_label=impossible,
        starts=jnp.eye(beam_size, dtype=bool),
    )

    def body(prefixes: _Prefixes, inputs: Any) -> tuple[_Prefixes, None]:
        frame, real = inputs
        return where_flag(real, _read(prefixes, frame, blank), prefixes), None

    prefixes, _ = lax.scan(body, start, (log_probs, jnp.arange(time) < length))
    possible = prefixes.total != -jnp.inf
    return LabelBeams(
        jnp.where(possible[:, None], prefixes.labels, blank),
        jnp.where(possible, prefixes.lengths, 0),
        prefixes.total,
    )


def _read(prefixes: _Prefixes, frame: Array, blank: int) -> _Prefixes:
    """Return the K best prefixes after one more frame ``[V]``."""
    total, last = prefixes.total, prefixes.last
    symbols = jnp.arange(frame.shape[0])
    repeats = symbols == last[:, None]  # [K, V]
    extended = jnp.where(repeats, prefixes.ends_blank[:, None], total[:, None]) + frame
    parents = _parents(prefixes)
    reached = jnp.where(parents >= 0, extended[parents, last], -jnp.inf)
    held = prefixes._replace(
        ends_blank=total + frame[blank],
        ends_label=jnp.logaddexp(prefixes.ends_label + frame[last], reached),
    )
    beyond = frame.shape[0]
    extended = extended.at[parents, jnp.where(parents >= 0, last, beyond)].set(
        -jnp.inf, mode="drop"
    )
    # The blank adds no label, so its column is free to hold the prefix without an extension.
    candidates = extended.at[:, blank].set(held.total)
    _, places = top_k(candidates.reshape(-1), total.shape[0])  # [K] of [K * V]
    sources, labels = jnp.divmod(places, frame.shape[0])
    return _chosen(held, extended, sources, labels, labels == blank)


def _parents(prefixes: _Prefixes) -> Array:
    """Return the index ``[K]`` of the prefix that lacks only the last label, or -1 if none does."""
    possible = prefixes.total != -jnp.inf
    one_longer = prefixes.lengths == prefixes.lengths[:, None] + 1
    is_parent = prefixes.starts & one_longer & possible & possible[:, None]
    return jnp.where(is_parent.any(axis=0), is_parent.argmax(axis=0), -1)


def _chosen(
    held: _Prefixes, extended: Array, sources: Array, labels: Array, holds: Array
) -> _Prefixes:
    """Select the next prefixes.

    Prefix k is prefix ``sources[k]``, followed by ``labels[k]`` unless ``holds[k]``.
    """
    beams, time = held.labels.shape
    lengths = held.lengths[sources]
    places = jnp.where(holds, time, lengths)
    return _Prefixes(
        labels=held.labels[sources].at[jnp.arange(beams), places].set(labels, mode="drop"),
        lengths=jnp.where(holds, lengths, lengths + 1),
        last=jnp.where(holds, held.last[sources], labels),
        ends_blank=jnp.where(holds, held.ends_blank[sources], -jnp.inf),
        ends_label=jnp.where(holds, held.ends_label[sources], extended[sources, labels]),
        starts=_starts(held, sources, labels, holds),
    )


def _starts(held: _Prefixes, sources: Array, labels: Array, holds: Array) -> Array:
    """Compute `_Prefixes.starts` of the selected prefixes from that of the prefixes before.

    Comparing their labels instead would take time K * K * T.
    """
    is_next = jnp.minimum(held.lengths[sources], held.labels.shape[1] - 1)
    next_label = held.labels[sources[None, :], is_next[:, None]]
    differ = sources[:, None] != sources
    still_starts = holds[:, None] | (differ & (next_label == labels[:, None]))
    started = held.starts[sources[:, None], sources]
    return jnp.eye(len(sources), dtype=bool) | (started & still_starts)


def _checked(log_probs: Any, lengths: Any, blank: int) -> tuple[Array, Array]:
    log_probs, lengths = jnp.asarray(log_probs), jnp.asarray(lengths)
    if log_probs.ndim != 3 or 0 in log_probs.shape:
        raise ArgumentError(
            f"log_probs: expected the shape [T, B, V], none of them 0, got {list(log_probs.shape)}."
        )
    if not jnp.issubdtype(log_probs.dtype, jnp.floating):
        raise ArgumentError(f"log_probs: expected floats, got {log_probs.dtype}.")
    time, batch, vocabulary = log_probs.shape
    if lengths.shape != (batch,):
        raise ArgumentError(f"lengths: expected the shape [B={batch}], got {list(lengths.shape)}.")
    length_mask(lengths, time)
    check_token("blank", blank, vocabulary)
    return log_probs.astype(jnp.promote_types(log_probs.dtype, jnp.float32)), lengths
