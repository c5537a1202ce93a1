"""Combine cells into larger cells: stacks, skip connections, both directions, a learned state.

A whole sequence runs layer by layer through each cell's own sequence function, so a combination
is as fast as its parts. Combinators that add noise are in `recurrent.regularization`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from recurrent.cell import (
    Cell,
    Params,
    Shape,
    State,
    check_sizes,
    in_chunks,
    output_shape,
    rematerialize,
    scan_sequence,
    sequence,
    zero_padding,
)
from recurrent.errors import ArgumentError
from recurrent.initializers import Initializer
from recurrent.layers import Layer, embedding
from recurrent.linear_map import affine


class StackState(NamedTuple):
    """Hold the state of every part in order, ``()`` for a part without memory."""

    layers: tuple[State, ...]


class BidirectionalState(NamedTuple):
    """Hold the states of the two directions, each after the last step that it read."""

    forward: State
    backward: State


def stack(*parts: Cell | Layer, input_shape: Shape | None = None) -> Cell:
    """Stack cells and layers, so that each reads the outputs of the one before.

    Layers without memory may stand anywhere: an embedding or a projection at the bottom, a
    normalization in the middle, a readout on top::

        stack(embedding(V, D), lstm(D, H), layer_norm(H), lstm(H, H), dense(H, V), input_shape=())

    Args:
      *parts: cells and layers, starting with the one that reads the input. A layer must act on
        each step alone, with any leading axes.
      input_shape: the shape of one input; needed where the first part is a layer that changes the
        shape, such as a projection, ``(D,)``, or an embedding, ``()``.

    Returns:
      The cell, with params ``{"layer_0": ..., "layer_1": ...}`` and the state `StackState`.

    Raises:
      ValueError: for no parts, or a part that cannot read the outputs of the one before.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import dense, embedding, gru, stack, unroll
      >>> cell = stack(embedding(10, 3), gru(3, 4), dense(4, 10), input_shape=())
      >>> params = cell.init(jax.random.key(0))
      >>> state, logits = unroll(cell, params, jnp.array([[1, 2], [3, 4], [5, 6]]))  # [T, B]
      >>> logits.shape, len(state.layers)
      ((3, 2, 10), 3)
    """
    if not parts:
        raise ArgumentError("parts: expected at least one cell or layer, got none.")
    for part in parts:
        if not isinstance(part, Cell | Layer):
            raise ArgumentError(f"parts: expected cells and layers, one by one, got {part!r}.")
    given = _first_shape(parts) if input_shape is None else input_shape
    giver, is_guess = "the stack reads", input_shape is None
    cells: list[Cell] = []
    for index, part in enumerate(parts):
        cell = _memoryless(part, given) if isinstance(part, Layer) else part
        _check_takes(index, cell, given, giver)
        is_guess = is_guess and isinstance(part, Layer)
        # A cell takes this shape, so an error in it is its own, and says more as it is.
        is_layer = isinstance(part, Layer)
        given = _output_shape_of(index, cell, is_guess) if is_layer else output_shape(cell)
        giver = f"layer {index} gives"
        cells.append(cell)

    def connect(layer: Callable[[int, Array], Array], x: Array) -> Array:
        for index in range(len(cells)):
            x = layer(index, x)
        return x

    return _layered(tuple(cells), connect)


def skip_stack(*cells: Cell) -> Cell:
    """Stack cells so that every one also reads the input, and every one's output is returned.

    Equation: ``h^1 = cell_1(x)``, ``h^n = cell_n([x; h^{n-1}])``, ``y = [h^1; ...; h^N]``.

    Args:
      *cells: the first with inputs of size D, each other with inputs of size D plus the output
        size of the one before.

    Returns:
      The cell, with params ``{"layer_0": ..., "layer_1": ...}`` and the state `StackState`.

    Raises:
      ValueError: for no cells, or sizes that do not match.

    References:
      Graves 2013, Generating sequences with recurrent neural networks, arXiv:1308.0850, eqs. 1 to
      5. A `recurrent.dense` on top of it computes the paper's sum over layers.

    Example:
      >>> from recurrent import gru, lstm, output_shape, skip_stack
      >>> output_shape(skip_stack(gru(3, 4), lstm(3 + 4, 5)))
      (9,)
    """
    if not cells:
        raise ArgumentError("cells: expected at least one, got none.")
    for index, cell in enumerate(cells[1:], start=1):
        given = _side_by_side(cells[0].input_shape, output_shape(cells[index - 1]))
        _check_takes(index, cell, given, f"the input and layer {index - 1} together give")

    def connect(layer: Callable[[int, Array], Array], x: Array) -> Array:
        ys = [layer(0, x)]
        for index in range(1, len(cells)):
            ys.append(layer(index, _join(x, ys[-1])))
        return _join(*ys)

    return _layered(cells, connect)


def residual(cell: Cell) -> Cell:
    """Add a cell's input to its output: ``y = x + cell(x)``.

    Args:
      cell: a cell whose outputs have the shape of its inputs.

    Returns:
      The cell, with the params and state of ``cell``.

    Raises:
      ValueError: if inputs and outputs differ in shape.

    References:
      He et al. 2016, arXiv:1512.03385; between recurrent layers: Wu et al. 2016,
      arXiv:1609.08144, section 3.1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import elman, residual, unroll
      >>> cell = residual(elman(4, 4))
      >>> shapes = jax.eval_shape(cell.init, jax.random.key(0))
      >>> params = jax.tree.map(jnp.zeros_like, shapes)  # with these elman returns 0
      >>> xs = jnp.arange(8.0).reshape(2, 4)  # [T, D]
      >>> bool((unroll(cell, params, xs)[1] == xs).all())
      True
    """
    given = output_shape(cell)
    if given != cell.input_shape:
        raise ArgumentError(
            f"residual: expected a cell whose outputs have the shape of its inputs, "
            f"{list(cell.input_shape)}, got {list(given)}; put a dense layer into a stack with it."
        )
    return _around(cell, jnp.add)


def for_each(cell: Cell, count: int) -> Cell:
    """Read several inputs at each step by one cell, each with a state of its own.

    Equation: ``state_k, y_k = cell(state_k, x_k)`` for k from 0 to N - 1, with the same params.

    Args:
      cell: the cell.
      count: N.

    Returns:
      The cell, with inputs ``[..., N, *cell.input_shape]``, outputs ``[..., N, H]``, the params of
      ``cell`` and its state with an axis of size N after those of the batch.

    Raises:
      ValueError: for a count below 1.

    References:
      Johnson 2017, Generating polyphonic music using tied parallel networks.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import for_each, lstm, unroll
      >>> cell = for_each(lstm(3, 4), count=5)
      >>> params = cell.init(jax.random.key(0))
      >>> state, ys = unroll(cell, params, jnp.ones((7, 2, 5, 3)))  # [T, B, N, D]
      >>> ys.shape, state.hidden.shape
      ((7, 2, 5, 4), (2, 5, 4))
    """
    check_sizes(count=count)

    def initial_state(params: Params, batch_shape: Shape) -> State:
        return cell.initial_state(params, (*batch_shape, count))

    def repeated(flags: Array | None) -> Array | None:
        return None if flags is None else jnp.repeat(flags[..., None], count, axis=-1)

    def run(params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool):
        flags = {"mask": repeated(mask), "reset": repeated(reset)}
        return sequence(cell, params, state, xs, **flags, reverse=reverse)

    return Cell(cell.init, initial_state, cell.step, (count, *cell.input_shape), run)


def tied_embedding(vocabulary: int, cell: Cell, *, kernel_init: Initializer | None = None) -> Cell:
    """Read tokens, and score those that may follow, with one table of vectors.

    Equation, with the table E: ``x_t = E[token_t]``, ``h_t = cell(x_t)``,
    ``logits_t = E h_t + b``.

    Args:
      vocabulary: V; tokens are 0 to V - 1.
      cell: a cell whose outputs have the shape of its inputs, vectors of size W; where the
        recurrent layers are wider, it ends in ``dense(H, W)``.
      kernel_init: draws the table; see `recurrent.embedding`.

    Returns:
      The cell, from tokens ``[...]`` to logits ``[..., V]``, with the state of ``cell`` and the
      params ``{"embedding": {"kernel": [V, W]}, "cell": ..., "bias": [V]}``; the bias starts at
      zero.

    Raises:
      ValueError: for a cell whose inputs and outputs are not vectors of one size, or a vocabulary
        below 1.

    References:
      Press & Wolf 2017, arXiv:1608.05859; Inan et al. 2017, arXiv:1611.01462.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import dense, lstm, stack, tied_embedding, unroll
      >>> model = tied_embedding(10, stack(lstm(4, 8), dense(8, 4)))
      >>> params = model.init(jax.random.key(0))
      >>> unroll(model, params, jnp.array([[1, 2], [3, 4], [5, 6]]))[1].shape  # [T, B, V]
      (3, 2, 10)
    """
    shape = cell.input_shape
    if len(shape) != 1 or output_shape(cell) != shape:
        raise ArgumentError(
            "tied_embedding: expected a cell whose outputs are vectors of the size of its inputs, "
            f"{list(shape)}, got {list(output_shape(cell))}; end it with a dense layer."
        )
    table = embedding(vocabulary, *shape, kernel_init=kernel_init)

    def init(key: Array) -> Params:
        keys = jax.random.split(key)
        bias = jnp.zeros(vocabulary)
        return {"embedding": table.init(keys[0]), "cell": cell.init(keys[1]), "bias": bias}

    def initial_state(params: Params, batch_shape: Shape) -> State:
        return cell.initial_state(params["cell"], batch_shape)

    def score(params: Params, ys: Array) -> Array:
        return affine({"kernel": params["embedding"]["kernel"].T, "bias": params["bias"]}, ys)

    def step(params: Params, state: State, token: Array) -> tuple[State, Array]:
        x = table.apply(params["embedding"], token)
        state, y = cell.step(params["cell"], state, x)
        return state, score(params, y)

    def run(params: Params, state: State, xs: Array, *, mask: Any, reset: Any, reverse: bool):
        xs = table.apply(params["embedding"], zero_padding(mask, xs))
        whole = partial(sequence, mask=mask, reset=reset, reverse=reverse)
        state, ys = whole(cell, params["cell"], state, xs)
        return state, zero_padding(mask, score(params, ys))

    return Cell(init, initial_state, step, (), run)


def dense_connection(cell: Cell) -> Cell:
    """Concatenate a cell's input with its output: ``y = [x; cell(x)]``.

    A stack of such cells is a densely connected network: every cell reads the input and the outputs
    of all cells below.

    Args:
      cell: a cell whose inputs and outputs differ in no more than their last axis.

    Returns:
      The cell, with the params and state of ``cell``.

    Raises:
      ValueError: if inputs and outputs differ in more than their last axis.

    References:
      Huang et al. 2017, arXiv:1608.06993.

    Example:
      >>> from recurrent import dense_connection, elman, gru, output_shape, stack
      >>> output_shape(stack(dense_connection(gru(3, 4)), dense_connection(elman(3 + 4, 2))))
      (9,)
    """
    _side_by_side(cell.input_shape, output_shape(cell))
    return _around(cell, _join)


def bidirectional(forward: Cell, backward: Cell) -> Cell:
    """Run two cells in opposite directions and concatenate: ``y_t = [forward_t; backward_t]``.

    With lengths or a mask, the backward direction starts at each example's own end. A reset at x_t
    begins a new sequence there, so the backward direction is reset between x_t and x_{t-1}: packed
    sequences give what each would give alone. With ``reverse`` the two directions swap; each output
    keeps the index of its input.

    The cell has no step, since the backward direction needs the whole sequence. Only
    `recurrent.unroll` can run it, without ``method="scan"``, ``return_states``, ``truncate`` and
    ``remat``; to save memory, wrap each direction in `remat`.

    Args:
      forward: the cell that reads from the first step to the last.
      backward: the cell that reads from the last step to the first.

    Returns:
      The cell, with params ``{"forward": ..., "backward": ...}`` and the state
      `BidirectionalState`.

    Raises:
      ValueError: for cells whose inputs differ in shape, or whose outputs differ in more than the
        last axis.

    References:
      Schuster & Paliwal 1997, Bidirectional recurrent neural networks.

    Example:
      >>> import jax
      >>> from recurrent import bidirectional, gru, lstm, output_shape
      >>> cell = bidirectional(gru(3, 4), lstm(3, 5))
      >>> output_shape(cell), list(jax.eval_shape(cell.init, jax.random.key(0)))
      ((9,), ['backward', 'forward'])
    """
    if forward.input_shape != backward.input_shape:
        raise ArgumentError(
            f"backward: expected a cell with inputs of shape {list(forward.input_shape)}, as "
            f"forward has, got {list(backward.input_shape)}."
        )
    _side_by_side(output_shape(forward), output_shape(backward))

    def init(key: Array) -> Params:
        forward_key, backward_key = jax.random.split(key)
        return {"forward": forward.init(forward_key), "backward": backward.init(backward_key)}

    def initial_state(params: Params, batch_shape: Shape) -> BidirectionalState:
        return BidirectionalState(
            forward.initial_state(params["forward"], batch_shape),
            backward.initial_state(params["backward"], batch_shape),
        )

    def run(params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool):
        turned = None if reset is None else _reversed(reset, mask, reverse)
        there = partial(sequence, forward, mask=mask, reset=reset, reverse=reverse)
        back = partial(sequence, backward, mask=mask, reset=turned, reverse=not reverse)
        forward_state, ys = there(params["forward"], state.forward, xs)
        backward_state, zs = back(params["backward"], state.backward, xs)
        return BidirectionalState(forward_state, backward_state), _join(ys, zs)  # [T, ..., H + H']

    return Cell(init, initial_state, _no_step, forward.input_shape, run)


def learned_state(cell: Cell) -> Cell:
    """Make a cell's initial state trainable, with one state for all examples.

    Training starts from the cell's own initial state. A reset goes back to the trained state, whose
    gradient is the sum over all examples and resets. Sequences with resets run by the plain scan of
    the step, because the sequence function of the inner cell can reset only to its own initial
    state.

    Args:
      cell: the cell.

    Returns:
      The cell, with params ``{"cell": ..., "state": {"hidden": [H], ...}}``, where the names of
      nested states are joined, as in ``"layers/0/hidden"``. Leaves that are not floating-point are
      not trained.

    Raises:
      ValueError: for a state with a common scale, such as that of `recurrent.slstm`.

    Example:
      >>> import jax
      >>> from recurrent import learned_state, lstm
      >>> params = learned_state(lstm(3, 4)).init(jax.random.key(0))
      >>> {name: leaf.shape for name, leaf in params["state"].items()}
      {'hidden': (4,), 'cell': (4,)}
    """
    check_state_not_scaled(cell, "learned_state")

    def init(key: Array) -> Params:
        params = cell.init(key)
        leaves = _named_leaves(cell.initial_state(params, ()))
        trained = {name: leaf for name, leaf in leaves.items() if _is_floating(leaf)}
        return {"cell": params, "state": trained}

    def initial_state(params: Params, batch_shape: Shape) -> State:
        state = cell.initial_state(params["cell"], batch_shape)
        leaves = [
            jnp.broadcast_to(params["state"][name], leaf.shape).astype(leaf.dtype)
            if _is_floating(leaf)
            else leaf
            for name, leaf in _named_leaves(state).items()
        ]
        return jax.tree.unflatten(jax.tree.structure(state), leaves)

    def step(params: Params, state: State, x: Any) -> tuple[State, Any]:
        return cell.step(params["cell"], state, x)

    def run(params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool):
        if reset is not None:
            return scan_sequence(
                learned, params, state, xs, mask=mask, reset=reset, reverse=reverse
            )
        return sequence(cell, params["cell"], state, xs, mask=mask, reset=None, reverse=reverse)

    learned = Cell(init, initial_state, step, cell.input_shape, run)
    return learned


def remat(cell: Cell, steps: int) -> Cell:
    """Store only every ``steps``-th state of a cell for the backward pass, and recompute the rest.

    Memory for a sequence falls from T to T / steps + steps states; outputs and gradients do not
    change. It does what the ``remat`` argument of `recurrent.unroll` does, for one part of a larger
    cell, and has no effect where a sequence runs by the plain scan of the step.

    Args:
      cell: the cell.
      steps: the number of steps between two stored states.

    Returns:
      The cell, with the params and state of ``cell``.

    Raises:
      ValueError: for steps below 1.

    References:
      Chen et al. 2016, Training deep nets with sublinear memory cost, arXiv:1604.06174.

    Example:
      >>> from recurrent import bidirectional, gru, output_shape, remat
      >>> output_shape(bidirectional(remat(gru(3, 4), 32), remat(gru(3, 4), 32)))
      (8,)
    """
    check_sizes(steps=steps)
    return cell._replace(sequence=partial(in_chunks(sequence, steps, rematerialize), cell))


def _layered(
    cells: tuple[Cell, ...], connect: Callable[[Callable[[int, Any], Any], Any], Any]
) -> Cell:
    """Make a cell from several and ``connect(layer, x) -> y``, which calls ``layer(index, x)``."""

    def init(key: Array) -> Params:
        keys = jax.random.split(key, len(cells))
        pairs = zip(cells, keys, strict=True)
        return {f"layer_{index}": cell.init(k) for index, (cell, k) in enumerate(pairs)}

    def initial_state(params: Params, batch_shape: Shape) -> StackState:
        return StackState(
            tuple(
                cell.initial_state(params[f"layer_{index}"], batch_shape)
                for index, cell in enumerate(cells)
            )
        )

    def thread(run: Callable[..., Any], params: Params, state: StackState, x: Any):
        states = list(state.layers)

        def layer(index: int, x: Any) -> Any:
            own = params[f"layer_{index}"]
            states[index], y = run(cells[index], own, state.layers[index], x)
            return y

        y = connect(layer, x)
        return StackState(tuple(states)), y

    def step(params: Params, state: State, x: Any) -> tuple[State, Any]:
        return thread(_step, params, state, x)

    def run(params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool):
        whole = partial(sequence, mask=mask, reset=reset, reverse=reverse)
        return thread(whole, params, state, xs)

    return Cell(init, initial_state, step, cells[0].input_shape, run)


def _step(cell: Cell, params: Params, state: State, x: Any) -> tuple[State, Any]:
    return cell.step(params, state, x)


def _no_step(params: Params, state: State, x: Any) -> tuple[State, Any]:
    raise ArgumentError(
        "bidirectional: expected a whole sequence, got one step, which cannot know what follows; "
        'run it by unroll with method="auto", without return_states and truncate; remat and '
        "learned_state go around each direction inside of it: bidirectional(remat(forward, 32), "
        "remat(backward, 32))."
    )


def _around(cell: Cell, join: Callable[[Any, Any], Any]) -> Cell:
    """Make the cell with ``y = join(x, cell(x))``, where joining zeros must give zeros."""

    def step(params: Params, state: State, x: Any) -> tuple[State, Any]:
        state, y = cell.step(params, state, x)
        return state, join(x, y)

    def run(params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool):
        xs = zero_padding(mask, xs)
        state, ys = sequence(cell, params, state, xs, mask=mask, reset=reset, reverse=reverse)
        return state, join(xs, ys)

    return cell._replace(step=step, sequence=run)


def check_state_not_scaled(cell: Cell, name: str) -> None:
    """Check that no part of a cell's state is a scale that multiplies the other parts.

    Raises:
      ValueError: if one is; the message begins with ``name``.
    """
    state = jax.eval_shape(lambda key: cell.initial_state(cell.init(key), ()), jax.random.key(0))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state)]
    if any(path.endswith(".log_scale") for path in paths):
        raise ArgumentError(
            f"{name}: expected a state whose entries stand for themselves, got one with a "
            "log_scale, by which its other fields are to be multiplied."
        )


def _reversed(reset: Array, mask: Array | None, reverse: bool) -> Array:
    """Move reset flags so that they separate the same sequences when read in the other direction.

    A flag stands at the first step of a sequence in reading order; in the other direction that is
    the real step before it.
    """
    if reverse:
        reset, mask = jax.tree.map(lambda flags: flags[::-1], (reset, mask))
    time = reset.shape[0]
    steps = jnp.arange(time).reshape(time, *[1] * (reset.ndim - 1))
    steps = jnp.broadcast_to(steps, reset.shape)
    never = jnp.zeros_like(reset[:1])
    after = steps + 1
    if mask is not None:  # the next real step
        real = lax.cummin(jnp.where(mask, steps, time), reverse=True)
        after = jnp.concatenate([real[1:], jnp.full_like(steps[:1], time)])
    turned = jnp.take_along_axis(jnp.concatenate([reset, never]), after, axis=0)
    turned = turned if mask is None else turned & mask
    return turned[::-1] if reverse else turned


def _memoryless(layer: Layer, input_shape: Shape) -> Cell:
    """Turn a layer into a cell with the empty state ``()``."""

    def initial_state(params: Params, batch_shape: Shape) -> State:
        return ()

    def step(params: Params, state: State, x: Any) -> tuple[State, Any]:
        return state, layer.apply(params, x)

    def run(params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool):
        return state, zero_padding(mask, layer.apply(params, zero_padding(mask, xs)))

    return Cell(layer.init, initial_state, step, input_shape, run)


def _output_shape_of(index: int, layer: Cell, is_guess: bool) -> Shape:
    """Return the output shape of a layer, whose input shape is a guess where none was given."""
    try:
        return output_shape(layer)
    except jax.errors.JAXTypeError:  # no matter of shapes, such as an `if` on a traced value
        raise
    except (TypeError, ValueError) as error:
        advice = " Give the stack its input_shape, since its first part is a layer."
        raise ArgumentError(
            f"layer {index}: expected it to take inputs of shape {list(layer.input_shape)}, got "
            f"an error: {str(error).rstrip('.')}.{advice if is_guess else ''}"
        ) from error


def _first_shape(parts: tuple[Cell | Layer, ...]) -> Shape:
    """Return the input shape of the first cell; layers before it are taken to keep it."""
    for part in parts:
        if isinstance(part, Cell):
            return part.input_shape
    raise ArgumentError("input_shape: expected a shape for a stack of layers alone, got None.")


def _check_takes(index: int, cell: Cell, given: Shape, giver: str) -> None:
    if cell.input_shape != given:
        raise ArgumentError(
            f"layer {index}: expected a cell that takes inputs of shape {list(given)}, as {giver}, "
            f"got one that takes {list(cell.input_shape)}."
        )


def _side_by_side(a: Shape, b: Shape) -> Shape:
    """Return the shape of two arrays joined along their last axes."""
    if not a or not b or a[:-1] != b[:-1]:
        raise ArgumentError(
            f"cells: expected shapes that differ in their last axes alone, got {list(a)} and "
            f"{list(b)}; these cannot be joined."
        )
    return (*a[:-1], a[-1] + b[-1])


def _join(*arrays: Array) -> Array:
    return jnp.concatenate(arrays, axis=-1)


def _named_leaves(tree: Any) -> dict[str, Array]:
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _is_floating(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
