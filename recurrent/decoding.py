"""Decode from any model that predicts token by token: sampling, greedy decoding, beam search.

A model is a pure function ``step(state, tokens) -> (state, logits)`` with int32 tokens ``[B]`` and
logits ``[B, V]``. A cell with an embedding and a readout is one::

    def step(state, tokens):
        state, hidden = cell.step(params["cell"], state, params["embedding"][tokens])
        return state, readout.apply(params["readout"], hidden)

A transformer whose state is a key-value cache is another. Every array of the state either has B as
its first axis or is a scalar that all sequences share, such as a position. To continue a prompt,
read all but its last token with `recurrent.unroll` and pass the last one as ``first_token``.

Axis letters: B batch, V vocabulary, K beams, T length.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from recurrent.cell import State, check_sizes
from recurrent.errors import ArgumentError

Step = Callable[[State, Array], tuple[State, Array]]


class Decoded(NamedTuple):
    """Hold one decoded sequence for each batch element.

    Attributes:
      tokens: int32 ``[T, B]``, without ``first_token``; after the first stop token, the stop token
        is repeated.
      log_probs: ``[T, B]`` in nats, the log-probability of each token under the model itself,
        ``log_softmax(logits)``, without temperature and filters; zero after the stop token. They
        are differentiable; the choice of tokens is not.
      lengths: int32 ``[B]``, the number of tokens, the stop token included.
    """

    tokens: Array
    log_probs: Array
    lengths: Array


class Beams(NamedTuple):
    """Hold the K best sequences for each batch element, best first.

    Attributes:
      sequences: int32 ``[B, K, T]``, without ``first_token``; padded with the stop token (with 0 if
        there is none).
      scores: ``[B, K]``, log-probabilities in nats divided by the length penalty. If fewer than K
        sequences have a probability above zero, the remaining scores are -inf and their lengths
        0. Where the model gave NaN for one of the K, so is the best score.
      lengths: int32 ``[B, K]``, the number of tokens, the stop token included.
    """

    sequences: Array
    scores: Array
    lengths: Array


def filter_logits(
    logits: Any, temperature: Any = 1.0, top_k: Any = None, top_p: Any = None
) -> Array:
    """Return the logits of the distribution that `sample` draws from.

    First the logits are divided by the temperature, then the k largest are kept, then the nucleus
    of those: the smallest set of most probable tokens whose probabilities sum to p or more. Of
    equal logits the one of the lower index counts as larger. ``temperature``, ``top_k`` and
    ``top_p`` are scalars or arrays ``[...]``, and may be traced; traced values are not checked.

    Args:
      logits: floats ``[..., V]``; -inf excludes a token, and +inf excludes all others. A row that
        holds NaN, or excludes every token, becomes NaN.
      temperature: 0 or more; 0 keeps only the largest logit.
      top_k: an integer of at least 1; None, or V and more, keep all.
      top_p: above 0, up to 1; None and 1 keep all.

    Returns:
      ``[..., V]`` in float32 or wider, shifted so that the largest is 0; -inf where a token is
      not kept. At least one is kept.

    Raises:
      ValueError: for logits that are a scalar, of no token or not of a float type, a temperature
        that is negative or not finite, ``top_k`` below 1 or not an integer, or ``top_p`` outside
        (0, 1].

    References:
      Top-k: Fan et al., Hierarchical neural story generation, 2018. Nucleus: Holtzman et al.,
      The curious case of neural text degeneration, 2020.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.decoding import filter_logits
      >>> filter_logits(jnp.array([3.0, 1.0, 2.0]), temperature=0.5, top_k=2).tolist()
      [0.0, -inf, -2.0]
    """
    logits = _wide_floats("logits", logits)
    if logits.ndim < 1:
        raise ArgumentError("logits: expected the shape [..., V], got a scalar.")
    _check_vocabulary("logits", logits.shape[-1])
    _check_filters(temperature, top_k, top_p)
    temperature = jnp.asarray(temperature, logits.dtype)[..., None]
    is_greedy = temperature == 0
    logits = _shifted(logits)
    largest = jnp.arange(logits.shape[-1]) == logits.argmax(axis=-1, keepdims=True)
    logits = logits / jnp.where(is_greedy, 1, temperature)
    kept = ~is_greedy | largest
    if top_k is not None or top_p is not None:
        kept &= _in_top(logits, top_k, top_p)
    return jnp.where(kept, logits, -jnp.inf)


def _shifted(logits: Array) -> Array:
    """Return the logits less their largest; where that is +inf, 0 for it and -inf for the rest."""
    largest = logits.max(axis=-1, keepdims=True)
    of_infinite = jnp.where(logits == jnp.inf, 0, -jnp.inf)
    return jnp.where(largest == jnp.inf, of_infinite, logits - largest)


def sample(
    step: Step,
    state: State,
    first_token: Any,
    key: Array,
    length: int,
    *,
    temperature: Any = 1.0,
    top_k: Any = None,
    top_p: Any = None,
    stop_token: int | None = None,
) -> Decoded:
    """Sample tokens one by one, each from the model's logits after `filter_logits`.

    Args:
      step: the model, ``(state, tokens) -> (state, logits)``; see `recurrent.decoding`.
      state: its state before the first token is read.
      first_token: integers ``[B]``, read first and not returned.
      key: a random key. A larger ``length`` continues the sequences of a smaller one.
      length: T, the number of tokens to draw; static.
      temperature: see `filter_logits`; this and the next two are scalars or arrays ``[B]``, and
        may be traced.
      top_k: see `filter_logits`.
      top_p: see `filter_logits`.
      stop_token: the token that ends a sequence; static. None if all sequences have T tokens.

    Returns:
      The sequences, their log-probabilities and lengths.

    Raises:
      ValueError: as `filter_logits` does, and for first tokens that are not integers ``[B]``,
        a length below 1, a stop token outside the vocabulary, or a step that returns logits of
        a shape other than ``[B, V]`` or a state that differs from its argument in structure,
        shape or type.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.decoding import sample
      >>> def random_walk(state, tokens):  # one up or one down, with equal probability
      ...     up, down = jax.nn.one_hot((tokens + 1) % 8, 8), jax.nn.one_hot((tokens - 1) % 8, 8)
      ...     return state, jnp.log(up + down)
      >>> decoded = sample(random_walk, (), jnp.array([1, 4]), jax.random.key(0), 3)
      >>> (decoded.tokens % 2).tolist(), jnp.exp(decoded.log_probs[0]).round(3).tolist()
      ([[0, 1], [1, 0], [0, 1]], [0.5, 0.5])
    """
    _check_filters(temperature, top_k, top_p)

    def draw(logits: Array, time: Array) -> Array:
        logits = filter_logits(logits, temperature, top_k, top_p)
        return jax.random.categorical(jax.random.fold_in(key, time), logits)

    return _generate(step, state, first_token, length, stop_token, draw)


def greedy(
    step: Step, state: State, first_token: Any, length: int, *, stop_token: int | None = None
) -> Decoded:
    """Choose the token of the largest logit at each step; of equal ones the lowest token.

    Args:
      step: the model, as in `sample`.
      state: its state before the first token is read.
      first_token: integers ``[B]``, read first and not returned.
      length: T, the number of tokens; static.
      stop_token: the token that ends a sequence; static. None if all sequences have T tokens.

    Returns:
      The sequences, their log-probabilities and lengths.

    Raises:
      ValueError: as `sample` does.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.decoding import greedy
      >>> def count(state, tokens):
      ...     return state, jax.nn.one_hot((tokens + 1) % 8, 8)
      >>> decoded = greedy(count, (), jnp.array([1, 4]), 4, stop_token=6)
      >>> decoded.tokens.T.tolist(), decoded.lengths.tolist()
      ([[2, 3, 4, 5], [5, 6, 6, 6]], [4, 2])
    """

    def largest(logits: Array, _: Array) -> Array:
        return logits.argmax(axis=-1)

    return _generate(step, state, first_token, length, stop_token, largest)


def beam_search(
    step: Step,
    state: State,
    first_token: Any,
    *,
    beam_size: int,
    max_length: int,
    stop_token: int | None,
    length_penalty: Any = 0.0,
) -> Beams:
    """Search for the sequences with the highest scores.

    A sequence is complete when it ends with its first stop token or has ``max_length`` tokens.
    Its score is ``log P / ((5 + n) / 6) ** length_penalty`` for n tokens, the stop token
    included. Each step extends the K live prefixes by every token. The K best completed sequences
    are kept by score and the K best live prefixes by log-probability; ties go to the earlier beam,
    then to the lower token. With ``beam_size >= V ** max_length`` the search is exhaustive.

    The search stops early once, for every batch element, no live prefix can beat the worst of K
    finished sequences. Since a log-probability never rises and the divisor is largest at
    ``max_length``, ``log P / ((5 + max_length) / 6) ** length_penalty`` bounds the score of all
    continuations. The loop is a `jax.lax.while_loop`, which has no reverse-mode gradient.

    Args:
      step: the model, ``(state, tokens) -> (state, logits)``; see `recurrent.decoding`. It is
        called on B sequences at a time, with `jax.vmap` over the K beams, so it may close over
        arrays that start with B, such as an encoder's outputs. Logits of -inf exclude a token.
      state: its state before the first token is read.
      first_token: integers ``[B]``, read first and not returned.
      beam_size: K; static.
      max_length: T; static.
      stop_token: the token that ends a sequence; static. None if all sequences have T tokens.
      length_penalty: 0 or more; may be traced.

    Returns:
      The K best sequences of each batch element, their scores and lengths.

    Raises:
      ValueError: for a size below 1, a negative length penalty, a stop token outside the
        vocabulary, first tokens that are not integers ``[B]``, an array of the state that is
        neither a scalar nor starts with B, or a step that returns logits of a shape other than
        ``[B, V]`` or a state that differs from its argument in structure, shape or type.

    References:
      Wu et al., Google's neural machine translation system, 2016, section 7. Departures: no
      coverage penalty, and no pruning by a margin below the best.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.decoding import beam_search
      >>> table = jnp.log(jnp.array([[0.0, 0.6, 0.4], [0.4, 0.3, 0.3], [0.9, 0.1, 0.0]]))
      >>> def markov_chain(state, tokens):
      ...     return state, table[tokens]  # [B, V]
      >>> options = {"beam_size": 3, "max_length": 2, "stop_token": None}
      >>> search = jax.jit(lambda first: beam_search(markov_chain, (), first, **options))
      >>> beams = search(jnp.array([0]))  # the best sequence does not begin with the best token
      >>> beams.sequences[0, 0].tolist(), round(float(jnp.exp(beams.scores[0, 0])), 3)
      ([2, 0], 0.36)
    """
    check_sizes(beam_size=beam_size, max_length=max_length)
    _check_values("length_penalty", length_penalty, lambda a: a >= 0, "0 or more")
    state, tokens, scores = _checked_start(step, state, first_token, stop_token)
    _check_batch_first(state, tokens.shape[0])
    step_beams = _over_beams(step, state)
    sizes = jnp.arange(1, max_length + 1, dtype=scores.dtype)
    divisors = ((5 + sizes) / 6) ** jnp.asarray(length_penalty, scores.dtype)

    def can_improve(search: _Search) -> Array:
        bound = search.live.scores.max(axis=1) / divisors[-1]
        return (search.time < max_length) & (bound > search.finished.scores.min(axis=1)).any()

    def extend(search: _Search) -> _Search:
        state, logits = step_beams(search.state, search.tokens)
        log_probs = jax.nn.log_softmax(logits.astype(scores.dtype))
        return _extend(search, state, log_probs, divisors, stop_token)

    start = _start(state, tokens, scores.dtype, beam_size, max_length, stop_token)
    search = lax.while_loop(can_improve, extend, start)
    truncated = search.live._replace(scores=search.live.scores / divisors[-1])
    best = _best(search.finished, truncated)
    return _blank_where_impossible(best, _fill(stop_token))


class _Search(NamedTuple):
    """Hold the state of a beam search between two steps.

    ``live.scores`` are log-probabilities; ``finished.scores`` are divided by the length penalty.
    """

    time: Array
    state: State
    tokens: Array
    live: Beams
    finished: Beams


def _start(
    state: State, tokens: Array, dtype: Any, beam_size: int, max_length: int, stop_token: int | None
) -> _Search:
    shape = (tokens.shape[0], beam_size)
    nothing = Beams(
        jnp.full((*shape, max_length), _fill(stop_token), jnp.int32),
        jnp.full(shape, -jnp.inf, dtype),
        jnp.full(shape, max_length, jnp.int32),
    )
    live = nothing._replace(scores=nothing.scores.at[:, 0].set(0))
    places = jnp.zeros(shape, jnp.int32)
    state = _take(jax.tree.map(lambda leaf: leaf[:, None] if leaf.ndim else leaf, state), places)
    tokens = _take(tokens[:, None], places)
    return _Search(jnp.zeros((), jnp.int32), state, tokens, live, nothing)


def _extend(
    search: _Search, state: State, log_probs: Array, divisors: Array, stop_token: int | None
) -> _Search:
    time, live, finished = search.time, search.live, search.finished
    batch, beam_size, vocabulary = log_probs.shape
    possible = live.scores[..., None] != -jnp.inf
    totals = jnp.where(possible, live.scores[..., None] + log_probs, -jnp.inf)  # [B, K, V]
    if stop_token is not None:
        ended = live._replace(
            scores=totals[..., stop_token] / divisors[time],
            lengths=jnp.full_like(live.lengths, time + 1),
        )
        finished = _best(finished, ended)
        totals = totals.at[..., stop_token].set(-jnp.inf)
    # [B, K] of [B, K * V]
    scores, places = top_k(totals.reshape(batch, beam_size * vocabulary), beam_size)
    parents, tokens = jnp.divmod(places, vocabulary)
    sequences = _take(live.sequences, parents).at[:, :, time].set(tokens)
    live = live._replace(sequences=sequences, scores=scores)
    return _Search(time + 1, _take(state, parents), tokens, live, finished)


def _best(kept: Beams, others: Beams) -> Beams:
    """Return the best of both, best first, as many as ``kept`` holds; ties go to ``kept``."""
    pool = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), kept, others)
    _, places = top_k(pool.scores, kept.scores.shape[1])
    return _take(pool, places)


def top_k(scores: Array, count: int) -> tuple[Array, Array]:
    """Apply `jax.lax.top_k` with every NaN before all numbers, so that no search overlooks one.

    By itself it sorts a NaN whose sign bit is set below -inf, and so does nothing of a score that
    a model has failed to give.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.decoding import top_k
      >>> top_k(jnp.array([1.0, -jnp.nan, 2.0]), 2)[0].tolist()
      [nan, 2.0]
    """
    return lax.top_k(jnp.where(jnp.isnan(scores), jnp.nan, scores), count)


def _take(tree: Any, places: Array) -> Any:
    """Gather ``[B, K, ...]`` from arrays ``[B, N, ...]`` at indices ``[B, K]``; keep scalars."""

    def take(leaf: Array) -> Array:
        return jax.vmap(lambda rows, chosen: rows[chosen])(leaf, places) if leaf.ndim else leaf

    return jax.tree.map(take, tree)


def _over_beams(step: Step, state: State) -> Step:
    """Map a step over the beams: state arrays ``[B, K, ...]`` and tokens ``[B, K]``."""
    axes = jax.tree.map(lambda leaf: 1 if leaf.ndim else None, state)
    return jax.vmap(step, in_axes=(axes, 1), out_axes=(axes, 1))


def _blank_where_impossible(beams: Beams, fill: int) -> Beams:
    possible = beams.scores != -jnp.inf
    return Beams(
        jnp.where(possible[..., None], beams.sequences, fill),
        beams.scores,
        jnp.where(possible, beams.lengths, 0),
    )


def _generate(
    step: Step,
    state: State,
    first_token: Any,
    length: int,
    stop_token: int | None,
    choose: Callable[[Array, Array], Array],
) -> Decoded:
    check_sizes(length=length)
    state, first, _ = _checked_start(step, state, first_token, stop_token)
    stop = -1 if stop_token is None else stop_token

    def body(carry: Any, time: Array) -> tuple[Any, Any]:
        state, token, ended = carry
        state, logits = step(state, token)
        logits = _wide_floats("logits", logits)
        token = jnp.where(ended, stop, choose(logits, time)).astype(jnp.int32)
        log_probs = jax.nn.log_softmax(logits)
        log_prob = jnp.take_along_axis(log_probs, token[:, None], axis=-1)[:, 0]
        outputs = (token, jnp.where(ended, 0, log_prob), ~ended)
        return (state, token, ended | (token == stop)), outputs

    carry = (state, first, jnp.zeros(first.shape, bool))
    _, (tokens, log_probs, real) = lax.scan(body, carry, jnp.arange(length))
    return Decoded(tokens, log_probs, real.sum(axis=0, dtype=jnp.int32))


def _in_top(logits: Array, top_k: Any, top_p: Any) -> Array:
    order = jnp.argsort(logits, axis=-1, descending=True, stable=True)
    rank = jnp.arange(logits.shape[-1])
    kept = jnp.ones(logits.shape, bool)
    if top_k is not None:
        kept &= rank < jnp.asarray(top_k)[..., None]
    if top_p is not None:
        top_p = jnp.asarray(top_p, logits.dtype)[..., None]
        sorted_logits = jnp.take_along_axis(logits, order, axis=-1)
        probs = jax.nn.softmax(jnp.where(kept, sorted_logits, -jnp.inf))
        before = jnp.cumsum(probs[..., :-1], axis=-1)
        before = jnp.concatenate([jnp.zeros_like(probs[..., :1]), before], axis=-1)
        # Rounding can bring the sum to 1 before the last token, which top_p = 1 must keep.
        kept &= (before < top_p) | (top_p >= 1)
    nothing = jnp.zeros(logits.shape, bool)
    return jnp.put_along_axis(nothing, order, kept, axis=-1, inplace=False)


def _fill(stop_token: int | None) -> int:
    return 0 if stop_token is None else stop_token


def _wide_floats(name: str, values: Any) -> Array:
    values = jnp.asarray(values)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ArgumentError(f"{name}: expected floats, got {values.dtype}.")
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def check_token(name: str, token: int, vocabulary: int) -> None:
    """Check that a token lies in the vocabulary.

    Args:
      name: the argument's name, for the message.
      token: the token.
      vocabulary: V.

    Raises:
      ValueError: for a token that is negative or not below V.

    Example:
      >>> from recurrent.decoding import check_token
      >>> check_token("stop_token", 8, vocabulary=8)
      Traceback (most recent call last):
          ...
      recurrent.errors.ArgumentError: stop_token: expected a token from 0 to 7, got 8.
    """
    if not 0 <= token < vocabulary:
        raise ArgumentError(f"{name}: expected a token from 0 to {vocabulary - 1}, got {token}.")


def _check_vocabulary(name: str, size: int) -> None:
    if size == 0:
        raise ArgumentError(f"{name}: expected logits of at least one token, got none (V=0).")


def _check_filters(temperature: Any, top_k: Any, top_p: Any) -> None:
    _check_values(
        "temperature", temperature, lambda a: (a >= 0) & np.isfinite(a), "finite and 0 or more"
    )
    if top_k is not None:
        if not jnp.issubdtype(jnp.asarray(top_k).dtype, jnp.integer):
            raise ArgumentError(f"top_k: expected an integer, got {jnp.asarray(top_k).dtype}.")
        _check_values("top_k", top_k, lambda a: a >= 1, "at least 1")
    if top_p is not None:
        _check_values("top_p", top_p, lambda a: (a > 0) & (a <= 1), "above 0, up to 1")


def _check_values(name: str, value: Any, is_right: Callable[[Any], Any], expected: str) -> None:
    if not isinstance(value, Tracer) and not np.all(is_right(np.asarray(value))):
        raise ArgumentError(f"{name}: expected {expected}, got {value}.")


def _checked_start(
    step: Step, state: State, first_token: Any, stop_token: int | None
) -> tuple[State, Array, jax.ShapeDtypeStruct]:
    """Check a model's arguments and what it returns.

    Returns:
      The state and first tokens as arrays, and the shape ``[B, V]`` and type of the scores.
    """
    tokens = jnp.asarray(first_token)
    if tokens.ndim != 1 or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise ArgumentError(
            f"first_token: expected integers [B], got {tokens.dtype} {list(tokens.shape)}."
        )
    state, tokens = jax.tree.map(jnp.asarray, state), tokens.astype(jnp.int32)
    new_state, logits = jax.eval_shape(step, state, tokens)
    if logits.ndim != 2 or logits.shape[0] != tokens.shape[0]:
        raise ArgumentError(
            f"step: expected logits [B={tokens.shape[0]}, V], got {list(logits.shape)}."
        )
    _check_vocabulary("step", logits.shape[1])
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ArgumentError(f"step: expected logits of a float type, got {logits.dtype}.")
    _check_same_state(state, new_state)
    if stop_token is not None:
        check_token("stop_token", stop_token, logits.shape[1])
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    return state, tokens, jax.ShapeDtypeStruct(logits.shape, dtype)


def _check_same_state(state: State, new_state: State) -> None:
    def signature(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: f"{leaf.dtype} {list(leaf.shape)}", tree)

    if signature(state) != signature(new_state):
        raise ArgumentError(
            f"step: expected a state like the one that it was given, {signature(state)}, "
            f"got {signature(new_state)}."
        )


def _check_batch_first(state: State, batch: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if leaf.ndim and leaf.shape[0] != batch:
            raise ArgumentError(
                f"state{jax.tree_util.keystr(path)}: expected a scalar or the shape [B={batch}, "
                f"...], got {list(leaf.shape)}."
            )
