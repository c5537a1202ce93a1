"""Build residual blocks of attention, recurrences and multilayer perceptrons, as cells.

Each block takes the cell that mixes time steps as an argument, so that attention and recurrences
of any kind can be combined. D is the size of the inputs and outputs of a block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
from jax import Array

from recurrent.cell import (
    Cell,
    Params,
    Shape,
    State,
    output_shape,
    sequence,
    zero_padding,
)
from recurrent.cells.attention import attention_cell
from recurrent.cells.convolutional import causal_conv
from recurrent.cells.linear import rg_lru
from recurrent.combinators import stack
from recurrent.errors import ArgumentError
from recurrent.layers import (
    Layer,
    dense,
    init_all,
    mlp,
    rms_norm,
)
from recurrent.linear_map import affine


def pre_norm_block(
    mixer: Cell, feed_forward: Layer, *, norm: Callable[[int], Layer] = rms_norm
) -> Cell:
    """Build a pre-norm residual block.

    Equation: ``x' = x + mixer(norm(x))``, ``y = x' + feed_forward(norm'(x'))``.

    Args:
      mixer: a cell from D to D: attention, a recurrence, a `recurrent_block`.
      feed_forward: a layer from D to D, applied to each step alone.
      norm: ``D -> Layer``; makes the two normalizations.

    Returns:
      The cell, with the state of the mixer. Params: ``{"mixing_norm", "mixing",
      "feed_forward_norm", "feed_forward"}``.

    Raises:
      ValueError: for a mixer whose input and output differ in size.

    References:
      Xiong et al. 2020, arXiv:2002.04745.

    Example:
      >>> import jax
      >>> from recurrent import gru, mlp, output_shape, pre_norm_block
      >>> cell = pre_norm_block(gru(4, 4), mlp(4, 8))
      >>> output_shape(cell), list(jax.eval_shape(cell.init, jax.random.key(0)))
      ((4,), ['feed_forward', 'feed_forward_norm', 'mixing', 'mixing_norm'])
    """
    if output_shape(mixer) != mixer.input_shape:
        raise ArgumentError(
            f"mixer: expected outputs of the input's shape {list(mixer.input_shape)}, since they "
            f"are added to it, got {list(output_shape(mixer))}."
        )
    normalize = norm(mixer.input_shape[-1])
    layers = {
        "mixing_norm": normalize,
        "feed_forward_norm": normalize,
        "feed_forward": feed_forward,
    }

    def forward(params: Params, x: Array, mix: _Mix) -> tuple[State, Array]:
        state, mixed = mix(normalize.apply(params["mixing_norm"], x))
        x = x + mixed
        normal = normalize.apply(params["feed_forward_norm"], x)
        return state, x + feed_forward.apply(params["feed_forward"], normal)

    return _around("mixing", mixer, layers, mixer.input_shape, forward)


def transformer_block(
    size: int,
    heads: int,
    *,
    window: int = 256,
    hidden_factor: int = 4,
    kind: Literal["relu", "gelu", "geglu", "swiglu"] = "gelu",
    norm: Callable[[int], Layer] = rms_norm,
    **attention: Any,
) -> Cell:
    """Build a causal pre-norm transformer block: `pre_norm_block` of `attention_cell` and `mlp`.

    Args:
      size: D.
      heads: N, the number of attention heads.
      window: how many steps each step attends to, itself included.
      hidden_factor: the hidden layer of the perceptron has ``hidden_factor * D`` units.
      kind: the kind of the perceptron, see `mlp`.
      norm: ``D -> Layer``; makes the two normalizations.
      **attention: further options of `attention_cell`.

    Returns:
      The cell, as `pre_norm_block` returns it.

    References:
      Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020, arXiv:2002.04745.

    Example:
      >>> import jax
      >>> from recurrent import output_shape, transformer_block
      >>> cell = transformer_block(8, heads=2, window=4, hidden_factor=3)
      >>> params = jax.eval_shape(cell.init, jax.random.key(0))
      >>> output_shape(cell), params["feed_forward"]["input"]["kernel"].shape
      ((8,), (8, 24))
    """
    mixer = attention_cell(size, size, heads=heads, window=window, **attention)
    return pre_norm_block(mixer, mlp(size, hidden_factor * size, kind=kind), norm=norm)


def recurrent_block(size: int, mixer: Cell, *, width: int = 4) -> Cell:
    """Build the gated recurrent block of Griffin.

    Equation: ``y = (mixer(conv(x W_1 + b_1)) * gelu(x W_2 + b_2)) W_3 + b_3`` with
    `causal_conv` as conv.

    Args:
      size: D, the size of inputs and outputs.
      mixer: a cell from R to R', such as `rg_lru`.
      width: the width of the convolution, in steps.

    Returns:
      The cell. Params: ``{"branch": {"layer_0": dense D to R, "layer_1": convolution, "layer_2":
      mixer}, "gate": dense D to R', "output": dense R' to D}``; the state is that of the branch,
      a `StackState`.

    Raises:
      ValueError: for a size or width below 1, or a mixer that does not map vectors to vectors.

    References:
      De et al. 2024, arXiv:2402.19427, section 2.3.

    Example:
      >>> import jax
      >>> from recurrent import output_shape, recurrent_block, rg_lru
      >>> cell = recurrent_block(4, rg_lru(6, 6))
      >>> output_shape(cell), list(jax.eval_shape(cell.init, jax.random.key(0)))
      ((4,), ['branch', 'gate', 'output'])
    """
    shapes = mixer.input_shape, output_shape(mixer)
    if [len(shape) for shape in shapes] != [1, 1]:
        raise ArgumentError(
            f"mixer: expected a cell from vectors to vectors, got the shapes {shapes}."
        )
    (inner,), (outer,) = shapes
    branch = stack(dense(size, inner), causal_conv(inner, width), mixer, input_shape=(size,))
    layers = {"gate": dense(size, outer), "output": dense(outer, size)}

    def forward(params: Params, x: Array, mix: _Mix) -> tuple[State, Array]:
        state, mixed = mix(x)
        gate = jax.nn.gelu(affine(params["gate"], x))
        return state, affine(params["output"], mixed * gate)

    return _around("branch", branch, layers, (size,), forward)


def transformer(
    input_size: int,
    hidden_size: int,
    *,
    depth: int = 2,
    heads: int = 4,
    window: int = 256,
    **options: Any,
) -> Cell:
    """Build a causal transformer: an affine map of the input, blocks and a final normalization.

    Args:
      input_size: the size of the input.
      hidden_size: D, the size of the blocks and of the output.
      depth: the number of blocks.
      heads: N, the number of attention heads.
      window: how many steps each step attends to in each block; for full attention, at least the
        length of the longest sequence.
      **options: further options of `transformer_block`.

    Returns:
      The cell, a `stack` of the map, the blocks and an RMS norm.

    References:
      Vaswani et al. 2017, arXiv:1706.03762; pre-norm: Xiong et al. 2020, arXiv:2002.04745.
      Departures: rotary positions, see `attention_cell`; a decoder without an encoder.

    Example:
      >>> from recurrent import dense, embedding, output_shape, stack, transformer
      >>> language_model = stack(
      ...     embedding(10, 4), transformer(4, 8, depth=1, heads=2), dense(8, 10), input_shape=()
      ... )
      >>> output_shape(language_model)
      (10,)
    """
    block = transformer_block(hidden_size, heads, window=window, **options)
    return _between(input_size, hidden_size, [block] * depth)


def griffin(
    input_size: int,
    hidden_size: int,
    *,
    depth: int = 3,
    heads: int = 4,
    window: int = 256,
    hidden_factor: int = 3,
    mixer: Callable[[int, int], Cell] = rg_lru,
) -> Cell:
    """Build Griffin: gated linear recurrences, with local attention in every third block.

    Each block is a `pre_norm_block` with a geglu `mlp`. Blocks 0, 1, 3, 4, ... mix time steps by a
    `recurrent_block`, blocks 2, 5, ... by local multi-query attention with rotary positions.

    Args:
      input_size: the size of the input.
      hidden_size: D, the size of the blocks, of the recurrences and of the output.
      depth: the number of blocks.
      heads: N, the number of attention heads.
      window: how many steps each step attends to.
      hidden_factor: the hidden layer of each perceptron has ``hidden_factor * D`` units.
      mixer: the recurrence, ``(D, D) -> Cell``.

    Returns:
      The cell, a `stack` of the map, the blocks and an RMS norm.

    References:
      De et al. 2024, arXiv:2402.19427, section 2. Departures: an affine map of the input in place
      of the embedding; recurrences of size D in place of about 4 D / 3; a window of 256 in place
      of 1024; biases everywhere but in the attention.

    Example:
      >>> import jax
      >>> from recurrent import griffin
      >>> cell = griffin(3, 8, depth=3, heads=2, window=4)
      >>> params = jax.eval_shape(cell.init, jax.random.key(0))  # a map, three blocks, a norm
      >>> ["branch" in params[f"layer_{index}"]["mixing"] for index in (1, 2, 3)]
      [True, True, False]
    """
    feed_forward = mlp(hidden_size, hidden_factor * hidden_size, kind="geglu")
    recurrence = recurrent_block(hidden_size, mixer(hidden_size, hidden_size))
    attention = attention_cell(
        hidden_size, hidden_size, heads=heads, window=window, key_value_heads=1
    )
    blocks = [
        pre_norm_block(attention if index % 3 == 2 else recurrence, feed_forward)
        for index in range(depth)
    ]
    return _between(input_size, hidden_size, blocks)


def _between(input_size: int, size: int, blocks: list[Cell]) -> Cell:
    """Stack an affine map of the input, the blocks, and a last normalization."""
    return stack(dense(input_size, size), *blocks, rms_norm(size), input_shape=(input_size,))


_Mix = Callable[[Any], tuple[State, Any]]


def _around(
    name: str,
    inner: Cell,
    layers: dict[str, Layer],
    input_shape: Shape,
    forward: Callable[[Params, Any, _Mix], tuple[State, Any]],
) -> Cell:
    """Make a cell from an inner one, whose state it shares, and layers around it.

    ``forward(params, x, mix) -> (state, y)`` must treat each step alone except for
    ``mix(x) -> (state, y)``, which runs one step of the inner cell or its whole sequence.
    """

    def initial_state(params: Params, batch_shape: Shape) -> State:
        return inner.initial_state(params[name], batch_shape)

    def step(params: Params, state: State, x: Any) -> tuple[State, Any]:
        return forward(params, x, partial(inner.step, params[name], state))

    def run(params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool):
        own = params[name]
        mix = partial(sequence, inner, own, state, mask=mask, reset=reset, reverse=reverse)
        state, ys = forward(params, zero_padding(mask, xs), mix)
        return state, zero_padding(mask, ys)

    init = partial(init_all, {name: inner, **layers})
    return Cell(init, initial_state, step, input_shape, run)
