"""Encoder-decoder networks, with and without attention.

Letters beside those of `recurrent.attention`: V size of the vocabulary, W size of its embedding.
The decoder reads the encoder's outputs ``[S, ..., E]``, whatever made them: a cell, two of them
in `recurrent.bidirectional`, a transformer.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.attention import Attention, Memory
from recurrent.cell import Cell, Params, Shape, State, check_sizes, output_shape, unroll
from recurrent.layers import dense, embedding
from recurrent.linear_map import affine


class DecoderState(NamedTuple):
    """The state of a decoder.

    Attributes:
      cell: the state of its cell.
      feedback: ``[..., H]``, the last output of the cell, or the last attentional vector with
        input feeding; zero at first.
    """

    cell: State
    feedback: Array


class Decoder(NamedTuple):
    """A decoder, from ``decoder``.

    Attributes:
      init: ``key -> params``.
      precompute: ``(params, values, mask=None) -> Memory``, once per sequence; see `Attention`.
      initial_state: ``(params, batch_shape) -> DecoderState``.
      step: ``(params, memory, state, tokens) -> (state, logits)`` with tokens ``[...]`` and logits
        ``[..., V]``. ``partial(step, params, memory)`` is what `recurrent.decode` takes.
      sequence: ``(params, memory, state, tokens, *, mask=None) -> (state, logits)`` with tokens
        ``[T, ...]`` and logits ``[T, ..., V]``: teacher forcing, with the numbers of ``step``.
        Where the mask ``[T, ...]`` is False the state is held and the logits mean nothing.
    """

    init: Callable[[Array], Params]
    precompute: Callable[..., Memory]
    initial_state: Callable[[Params, Shape], DecoderState]
    step: Callable[[Params, Memory, DecoderState, Array], tuple[DecoderState, Array]]
    sequence: Callable[..., tuple[DecoderState, Array]]


def decoder(
    cell: Cell, attention: Attention, vocabulary_size: int, *, input_feeding: bool = False
) -> Decoder:
    """A decoder of tokens that attends to a memory.

    Equation, with the embedding w_t of the token read, the cell's output h_t and the memory M:
    ``c_t = attend(h_{t-1}, M)``, ``h_t = cell([w_t; c_t])``, ``logits_t = readout([h_t; c_t])``.
    With input feeding: ``h_t = cell([w_t; a_{t-1}])``, ``c_t = attend(h_t, M)``,
    ``a_t = tanh([h_t; c_t] W_a)``, ``logits_t = readout(a_t)``.

    Args:
      cell: from ``W + E`` (``W + H`` with input feeding) to H; it determines W.
      attention: from queries of size H to memories of size E; `last_context` for none.
      vocabulary_size: V.
      input_feeding: see the equation.

    Returns:
      The decoder. Params: ``{"embedding": {"kernel": [V, W]}, "cell", "attention", "readout":
      {"kernel", "bias"}}``, and ``"attentional": {"kernel": [H + E, H]}`` with input feeding.

    Raises:
      ValueError: for a cell whose sizes do not fit, or a vocabulary size below 1.

    References:
      Bahdanau et al. 2014, arXiv:1409.0473. Departures: no maxout layer, and w_t is not read out;
      the first query is zero. Input feeding: Luong et al. 2015, arXiv:1508.04025, section 3.3.
    """
    check_sizes(vocabulary_size=vocabulary_size)
    if output_shape(cell) != (attention.query_size,):
        raise ValueError(
            f"cell: expected outputs of the attention's query_size={attention.query_size}, "
            f"got the shape {list(output_shape(cell))}."
        )
    hidden, memory_size = attention.query_size, attention.memory_size
    embedding_size = _embedding_size(cell, hidden if input_feeding else memory_size)
    embed = embedding(vocabulary_size, embedding_size)
    features = hidden if input_feeding else hidden + memory_size
    advance = partial(_attend_after if input_feeding else _attend_before, cell, attention)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 5)
        params = {
            "embedding": embed.init(keys[0]),
            "cell": cell.init(keys[1]),
            "attention": attention.init(keys[2]),
            "readout": dense(features, vocabulary_size).init(keys[3]),
        }
        if input_feeding:
            kernel = dense(hidden + memory_size, hidden).init(keys[4])["kernel"]
            params["attentional"] = {"kernel": kernel}
        return params

    def precompute(params: Params, values: Array, mask: Array | None = None) -> Memory:
        return attention.precompute(params["attention"], values, mask)

    def initial_state(params: Params, batch_shape: Shape) -> DecoderState:
        feedback = jnp.zeros((*batch_shape, hidden), params["embedding"]["kernel"].dtype)
        return DecoderState(cell.initial_state(params["cell"], batch_shape), feedback)

    def step(
        params: Params, memory: Memory, state: DecoderState, tokens: Array
    ) -> tuple[DecoderState, Array]:
        state, y = advance(memory, params, state, embed.apply(params["embedding"], tokens))
        return state, affine(params["readout"], y)

    def sequence(
        params: Params, memory: Memory, state: DecoderState, tokens: Array, *, mask: Any = None
    ) -> tuple[DecoderState, Array]:
        reader = Cell(init, initial_state, partial(advance, memory), (embedding_size,))
        embedded = embed.apply(params["embedding"], tokens)
        state, ys = unroll(reader, params, embedded, state, mask=mask)
        return state, affine(params["readout"], ys)

    return Decoder(init, precompute, initial_state, step, sequence)


class EncoderDecoder(NamedTuple):
    """An encoder and a decoder, from ``encoder_decoder``.

    Attributes:
      init: ``key -> params``, ``{"encoder", "decoder"}``.
      encode: ``(params, inputs, mask=None) -> (Memory, DecoderState)`` with inputs ``[S, ..., D]``
        and the mask ``[S, ...]``.
      step: as in `Decoder`.
      sequence: as in `Decoder`.
    """

    init: Callable[[Array], Params]
    encode: Callable[..., tuple[Memory, DecoderState]]
    step: Callable[[Params, Memory, DecoderState, Array], tuple[DecoderState, Array]]
    sequence: Callable[..., tuple[DecoderState, Array]]


def encoder_decoder(
    encoder: Cell, decoder: Decoder, *, init_from_encoder: bool = False
) -> EncoderDecoder:
    """A sequence-to-sequence network.

    For training, ``tokens = shift_right(targets, start_token)``::

        memory, state = network.encode(params, inputs, inputs_mask)
        _, logits = network.sequence(params, memory, state, tokens)
        loss = cross_entropy(logits, targets, targets_mask).mean

    Args:
      encoder: a cell with outputs of the size E of the decoder's memory, such as
        ``stack(embedding(U, D), bidirectional(gru(D, E // 2), gru(D, E // 2)), input_shape=())``
        for tokens of a vocabulary of size U.
      decoder: from ``decoder``.
      init_from_encoder: whether the decoder's cell starts from the encoder's last state, which must
        be of the same shape, and not from its own initial state.

    References:
      Sutskever et al. 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078; Bahdanau et al.
      2014, arXiv:1409.0473.
    """

    def init(key: Array) -> Params:
        encoder_key, decoder_key = jax.random.split(key)
        return {"encoder": encoder.init(encoder_key), "decoder": decoder.init(decoder_key)}

    def encode(params: Params, inputs: Array, mask: Array | None = None):
        last, outputs = unroll(encoder, params["encoder"], inputs, mask=mask)
        memory = decoder.precompute(params["decoder"], outputs, mask)
        state = decoder.initial_state(params["decoder"], outputs.shape[1:-1])
        return memory, state._replace(cell=last) if init_from_encoder else state

    def step(params: Params, memory: Memory, state: DecoderState, tokens: Array):
        return decoder.step(params["decoder"], memory, state, tokens)

    def sequence(
        params: Params, memory: Memory, state: DecoderState, tokens: Array, *, mask: Any = None
    ):
        return decoder.sequence(params["decoder"], memory, state, tokens, mask=mask)

    return EncoderDecoder(init, encode, step, sequence)


def shift_right(targets: Any, start_token: Any) -> Array:
    """What a decoder reads to predict the targets ``[T, ...]``: all but its last, a step later."""
    targets = jnp.asarray(targets)
    return jnp.concatenate([jnp.full_like(targets[:1], start_token), targets[:-1]])


def _attend_before(
    cell: Cell, attention: Attention, memory: Memory, params: Params, state: DecoderState, x: Array
) -> tuple[DecoderState, Array]:
    context, _ = attention.attend(params["attention"], state.feedback, memory)
    inner, output = cell.step(params["cell"], state.cell, _side_by_side(x, context))
    return DecoderState(inner, output), _side_by_side(output, context)


def _attend_after(
    cell: Cell, attention: Attention, memory: Memory, params: Params, state: DecoderState, x: Array
) -> tuple[DecoderState, Array]:
    inner, output = cell.step(params["cell"], state.cell, _side_by_side(x, state.feedback))
    context, _ = attention.attend(params["attention"], output, memory)
    attentional = jnp.tanh(affine(params["attentional"], _side_by_side(output, context)))
    return DecoderState(inner, attentional), attentional


def _side_by_side(*parts: Array) -> Array:
    return jnp.concatenate(parts, axis=-1)


def _embedding_size(cell: Cell, fed_back: int) -> int:
    if len(cell.input_shape) != 1 or cell.input_shape[0] <= fed_back:
        raise ValueError(
            f"cell: expected inputs of more than {fed_back} features, which is what is fed to it "
            f"beside the embedding of a token, got the shape {list(cell.input_shape)}."
        )
    return cell.input_shape[0] - fed_back
