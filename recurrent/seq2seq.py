"""Build encoder-decoder networks, with and without attention.

Axis letters, in addition to those of `recurrent.attention`: V size of the vocabulary, W size of its
embedding. The decoder reads the encoder's outputs ``[S, ..., E]``, which may come from any network:
a cell, two cells in `recurrent.bidirectional`, a transformer.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.attention import Attention, Memory
from recurrent.cell import (
    Cell,
    Params,
    Shape,
    State,
    as_tokens,
    check_sizes,
    in_one_type,
    output_shape,
    unroll,
)
from recurrent.errors import ArgumentError
from recurrent.initializers import Initializer
from recurrent.layers import dense, embedding
from recurrent.linear_map import affine


class DecoderState(NamedTuple):
    """Hold the state of a decoder.

    Attributes:
      cell: the state of its cell; with a query cell the pair of states (query cell's, cell's).
      feedback: ``[..., H]``, the last output of the cell, or with input feeding the last
        attentional vector; zero before the first step. With a query cell nothing is fed back, and
        it is ``()``.
    """

    cell: State
    feedback: Any


class Decoder(NamedTuple):
    """Hold the functions of a decoder; `recurrent.decoder` builds one.

    Attributes:
      init: ``key -> params``.
      precompute: ``(params, values, mask=None) -> Memory``, once per sequence; see
        `recurrent.attention.Attention`.
      initial_state: ``(params, batch_shape) -> DecoderState``.
      step: ``(params, memory, state, tokens) -> (state, logits)`` with tokens ``[...]`` and logits
        ``[..., V]``. ``partial(step, params, memory)`` is the ``step`` that the functions of
        `recurrent.decoding` take.
      sequence: ``(params, memory, state, tokens, *, mask=None) -> (state, logits)`` with tokens
        ``[T, ...]`` and logits ``[T, ..., V]``: teacher forcing, with the same results as
        repeated calls of ``step``. Where the mask ``[T, ...]`` is False, the state is held and the
        logits are arbitrary. With a query cell each part runs over the whole sequence before the
        next does, by its fast path.
      attended: ``(params, memory, state, tokens) -> [S, ...]``: the weights of attention in the
        ``step`` of these arguments.
    """

    init: Callable[[Array], Params]
    precompute: Callable[..., Memory]
    initial_state: Callable[[Params, Shape], DecoderState]
    step: Callable[[Params, Memory, DecoderState, Array], tuple[DecoderState, Array]]
    sequence: Callable[..., tuple[DecoderState, Array]]
    attended: Callable[[Params, Memory, DecoderState, Array], Array]


def decoder(
    cell: Cell,
    attention: Attention,
    vocabulary_size: int,
    *,
    input_feeding: bool = False,
    query: Cell | None = None,
    embedding_init: Initializer | None = None,
) -> Decoder:
    """Build a decoder, which reads and predicts tokens and attends to a memory.

    Equation, with the embedding w_t of the token read, the cell's output h_t and the memory M:
    ``c_t = attend(h_{t-1}, M)``, ``h_t = cell([w_t; c_t])``, ``logits_t = readout([h_t; c_t])``.
    With input feeding: ``h_t = cell([w_t; a_{t-1}])``, ``c_t = attend(h_t, M)``,
    ``a_t = tanh([h_t; c_t] W_a)``, ``logits_t = readout(a_t)``.
    With a query cell: ``q_t = query(w_t)``, ``c_t = attend(q_t, M)``, ``h_t = cell([q_t; c_t])``,
    ``logits_t = readout([h_t; c_t])``: nothing that attention found comes back to what asks, so
    teacher forcing attends from all steps at once.

    Args:
      cell: a cell with inputs of size ``W + E`` (``W + H`` with input feeding, ``Q + E`` with a
        query cell), and outputs of size H.
      attention: attention with queries of the size H (Q with a query cell) and a memory of size E;
        `recurrent.last_context` for a decoder without attention.
      vocabulary_size: V.
      input_feeding: whether the cell reads the last attentional vector a_{t-1} in place of the
        context c_t; see the equation.
      query: a cell with inputs of size W and outputs of size Q, which reads the tokens and asks;
        see the equation. None: the cell does so itself.
      embedding_init: draws the vectors of tokens, as in `recurrent.embedding`.

    Returns:
      The decoder. Params: ``{"embedding": {"kernel": [V, W]}, "cell", "attention", "readout":
      {"kernel", "bias"}}``, and ``"attentional": {"kernel": [H + E, H]}`` with input feeding, or
      ``"query"`` with a query cell.

    Raises:
      ValueError: for a cell whose sizes do not fit, a vocabulary size below 1, or both input
        feeding and a query cell.

    References:
      Bahdanau et al. 2014, arXiv:1409.0473. Departures: there is no maxout layer, the readout does
      not read w_t, and the first query is zero. Input feeding: Luong et al. 2015, arXiv:1508.04025,
      section 3.3. Query cell: the lowest layer of the decoder in Chen et al. 2018,
      arXiv:1804.09849, with one more departure: it does not read the context of the last step.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import additive_attention, decoder, gru
      >>> network = decoder(gru(3 + 4, 5), additive_attention(5, 4, 6), vocabulary_size=9)
      >>> def logits(key, values, tokens):  # [S, B, E], [T, B]
      ...     params = network.init(key)
      ...     state = network.initial_state(params, tokens.shape[1:])
      ...     return network.sequence(params, network.precompute(params, values), state, tokens)[1]
      >>> values, tokens = jnp.ones((7, 2, 4)), jnp.ones((5, 2), int)
      >>> jax.eval_shape(logits, jax.random.key(0), values, tokens).shape  # [T, B, V]
      (5, 2, 9)
    """
    check_sizes(vocabulary_size=vocabulary_size)
    if query is not None and input_feeding:
        raise ArgumentError("query: expected None with input_feeding, got both.")
    if query is not None:
        body = _asking_first(query, cell, attention)
    else:
        body = _feeding_back(cell, attention, input_feeding)
    embed = embedding(vocabulary_size, body.input_size, kernel_init=embedding_init)
    readout = dense(body.output_size, vocabulary_size)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 5)
        return {
            "embedding": embed.init(keys[0]),
            "cell": cell.init(keys[1]),
            "attention": attention.init(keys[2]),
            "readout": readout.init(keys[3]),
            **body.further(keys[4]),
        }

    def precompute(params: Params, values: Array, mask: Array | None = None) -> Memory:
        return attention.precompute(params["attention"], values, mask)

    def step(
        params: Params, memory: Memory, state: DecoderState, tokens: Array
    ) -> tuple[DecoderState, Array]:
        x = embed.apply(params["embedding"], tokens)
        state, y, _ = body.step(params, memory, state, x)
        return state, affine(params["readout"], y)

    def sequence(
        params: Params, memory: Memory, state: DecoderState, tokens: Array, *, mask: Any = None
    ) -> tuple[DecoderState, Array]:
        xs = embed.apply(params["embedding"], tokens)
        state, ys = body.sequence(params, memory, state, xs, mask)
        return state, affine(params["readout"], ys)

    def attended(params: Params, memory: Memory, state: DecoderState, tokens: Array) -> Array:
        return body.step(params, memory, state, embed.apply(params["embedding"], tokens))[2]

    return Decoder(init, precompute, body.initial_state, step, sequence, attended)


class EncoderDecoder(NamedTuple):
    """Hold the functions of a sequence-to-sequence network; `recurrent.encoder_decoder` builds one.

    Attributes:
      init: ``key -> params``, ``{"encoder", "decoder"}``.
      encode: ``(params, inputs, mask=None) -> (Memory, DecoderState)`` with inputs ``[S, ..., D]``
        and the mask ``[S, ...]``.
      step: as in `Decoder`.
      sequence: as in `Decoder`.
      attended: as in `Decoder`.
    """

    init: Callable[[Array], Params]
    encode: Callable[..., tuple[Memory, DecoderState]]
    step: Callable[[Params, Memory, DecoderState, Array], tuple[DecoderState, Array]]
    sequence: Callable[..., tuple[DecoderState, Array]]
    attended: Callable[[Params, Memory, DecoderState, Array], Array]


def encoder_decoder(
    encoder: Cell, decoder: Decoder, *, init_from_encoder: bool = False
) -> EncoderDecoder:
    """Build a sequence-to-sequence network from an encoder and a decoder.

    A training loss::

        tokens = shift_right(targets, start_token)
        memory, state = network.encode(params, inputs, inputs_mask)
        _, logits = network.sequence(params, memory, state, tokens)
        loss = cross_entropy(logits, targets, targets_mask).mean

    Args:
      encoder: a cell with outputs of the size E of the decoder's memory, such as
        ``stack(embedding(U, D), bidirectional(gru(D, E // 2), gru(D, E // 2)), input_shape=())``
        for tokens of a vocabulary of size U.
      decoder: a decoder, from `recurrent.decoder`.
      init_from_encoder: whether the decoder's cell starts from the encoder's last state, which must
        have the same shape, rather than from its own initial state.

    Returns:
      The network.

    References:
      Sutskever et al. 2014, arXiv:1409.3215; Cho et al. 2014, arXiv:1406.1078; Bahdanau et al.
      2014, arXiv:1409.0473.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import decoder, encoder_decoder, gru, last_context, shift_right
      >>> network = encoder_decoder(gru(2, 4), decoder(gru(3 + 4, 5), last_context(5, 4), 9))
      >>> def logits(key, inputs, targets):  # [S, B, D], [T, B]
      ...     params = network.init(key)
      ...     memory, state = network.encode(params, inputs)
      ...     return network.sequence(params, memory, state, shift_right(targets, 0))[1]
      >>> inputs, targets = jnp.ones((7, 2, 2)), jnp.ones((5, 2), int)
      >>> jax.eval_shape(logits, jax.random.key(0), inputs, targets).shape  # [T, B, V]
      (5, 2, 9)
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

    def attended(params: Params, memory: Memory, state: DecoderState, tokens: Array) -> Array:
        return decoder.attended(params["decoder"], memory, state, tokens)

    return EncoderDecoder(init, encode, step, sequence, attended)


def shift_right(targets: Any, start_token: Any) -> Array:
    """Return the tokens that a decoder reads to predict the targets.

    They are the start token, followed by all targets but the last.

    Args:
      targets: ``[T, ...]``.
      start_token: the token read first.

    Returns:
      ``[T, ...]``, in the type of the targets; integers of less than 32 bits become int32, so that
      the start token need not be one of theirs.

    Example:
      >>> from recurrent import shift_right
      >>> shift_right([[4, 7], [5, 8], [6, 9]], start_token=0).tolist()  # [T, B]
      [[0, 0], [4, 7], [5, 8]]
    """
    targets = as_tokens(targets)
    return jnp.concatenate([jnp.full_like(targets[:1], start_token), targets[:-1]])


class _Body(NamedTuple):
    """Hold what lies between the embedding of a decoder and its readout.

    Attributes:
      further: ``key -> params``, those beside the cell's and the attention's.
      initial_state: as in `Decoder`.
      step: ``(params, memory, state, x) -> (state, y, weights)``.
      sequence: ``(params, memory, state, xs, mask) -> (state, ys)``.
      input_size: W.
      output_size: of y.
    """

    further: Callable[[Array], Params]
    initial_state: Callable[[Params, Shape], DecoderState]
    step: Callable[..., tuple[DecoderState, Array, Array]]
    sequence: Callable[..., tuple[DecoderState, Array]]
    input_size: int
    output_size: int


def _feeding_back(cell: Cell, attention: Attention, input_feeding: bool) -> _Body:
    """Build a body whose cell asks, and reads what was found."""
    _check_asks(cell, attention, "cell")
    hidden, memory_size = attention.query_size, attention.memory_size
    input_size = _embedding_size(cell, hidden if input_feeding else memory_size, "cell")
    attend = _attend_after if input_feeding else _attend_before

    def further(key: Array) -> Params:
        if not input_feeding:
            return {}
        return {"attentional": {"kernel": dense(hidden + memory_size, hidden).init(key)["kernel"]}}

    def init(key: Array) -> Params:  # of the params that are read here
        return {"cell": cell.init(key), "attention": attention.init(key), **further(key)}

    def initial_state(params: Params, batch_shape: Shape) -> DecoderState:
        dtype = in_one_type(params)["embedding"]["kernel"].dtype
        feedback = jnp.zeros((*batch_shape, hidden), dtype)
        return DecoderState(cell.initial_state(params["cell"], batch_shape), feedback)

    def step(params: Params, memory: Memory, state: DecoderState, x: Array):
        return attend(cell, attention, memory, params, state, x)

    def sequence(params: Params, memory: Memory, state: DecoderState, xs: Array, mask: Any):
        def advance(params: Params, state: DecoderState, x: Array):
            return step(params, memory, state, x)[:2]

        reader = Cell(init, initial_state, advance, (input_size,))
        return unroll(reader, params, xs, state, mask=mask)

    output_size = hidden if input_feeding else hidden + memory_size
    return _Body(further, initial_state, step, sequence, input_size, output_size)


def _asking_first(query: Cell, cell: Cell, attention: Attention) -> _Body:
    """Build a body in which one cell asks, and another reads what was found."""
    _check_asks(query, attention, "query")
    read, shape = attention.query_size + attention.memory_size, output_shape(cell)
    if cell.input_shape != (read,) or len(shape) != 1:
        raise ArgumentError(
            f"cell: expected inputs of {read} features, those of the query and of the memory, and "
            f"outputs with one axis, got the shapes {list(cell.input_shape)} and {list(shape)}."
        )

    def initial_state(params: Params, batch_shape: Shape) -> DecoderState:
        asking = query.initial_state(params["query"], batch_shape)
        return DecoderState((asking, cell.initial_state(params["cell"], batch_shape)), ())

    def step(params: Params, memory: Memory, state: DecoderState, x: Array):
        asking, asked = query.step(params["query"], state.cell[0], x)
        context, weights = attention.attend(params["attention"], asked, memory)
        inner, output = cell.step(params["cell"], state.cell[1], _side_by_side(asked, context))
        return DecoderState((asking, inner), ()), _side_by_side(output, context), weights

    def sequence(params: Params, memory: Memory, state: DecoderState, xs: Array, mask: Any):
        """Do what ``step`` does, each part for all steps before the next."""
        asking, asked = unroll(query, params["query"], xs, state.cell[0], mask=mask)
        contexts, _ = jax.vmap(lambda q: attention.attend(params["attention"], q, memory))(asked)
        found = _side_by_side(asked, contexts)
        inner, outputs = unroll(cell, params["cell"], found, state.cell[1], mask=mask)
        return DecoderState((asking, inner), ()), _side_by_side(outputs, contexts)

    return _Body(
        further=lambda key: {"query": query.init(key)},
        initial_state=initial_state,
        step=step,
        sequence=sequence,
        input_size=_embedding_size(query, 0, "query"),
        output_size=shape[0] + attention.memory_size,
    )


def _attend_before(
    cell: Cell, attention: Attention, memory: Memory, params: Params, state: DecoderState, x: Array
) -> tuple[DecoderState, Array, Array]:
    context, weights = attention.attend(params["attention"], state.feedback, memory)
    inner, output = cell.step(params["cell"], state.cell, _side_by_side(x, context))
    feedback = output.astype(state.feedback.dtype)
    return DecoderState(inner, feedback), _side_by_side(output, context), weights


def _attend_after(
    cell: Cell, attention: Attention, memory: Memory, params: Params, state: DecoderState, x: Array
) -> tuple[DecoderState, Array, Array]:
    inner, output = cell.step(params["cell"], state.cell, _side_by_side(x, state.feedback))
    context, weights = attention.attend(params["attention"], output, memory)
    attentional = jnp.tanh(affine(params["attentional"], _side_by_side(output, context)))
    return DecoderState(inner, attentional.astype(state.feedback.dtype)), attentional, weights


def _side_by_side(*parts: Array) -> Array:
    return jnp.concatenate(parts, axis=-1)


def _check_asks(asks: Cell, attention: Attention, name: str) -> None:
    if output_shape(asks) != (attention.query_size,):
        raise ArgumentError(
            f"{name}: expected outputs of the attention's query_size={attention.query_size}, "
            f"got the shape {list(output_shape(asks))}."
        )


def _embedding_size(asks: Cell, fed_back: int, name: str) -> int:
    if len(asks.input_shape) != 1 or asks.input_shape[0] <= fed_back:
        raise ArgumentError(
            f"{name}: expected inputs of more than {fed_back} features, which is what is fed to it "
            f"beside the embedding of a token, got the shape {list(asks.input_shape)}."
        )
    return asks.input_shape[0] - fed_back
