"""Define a recurrent cell as three pure functions, and run it over a sequence with `unroll`.

Axis letters: T time, B batch (any number of axes), D input features, H hidden features.
Sequences are time-major, ``[T, ..., D]``.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from recurrent.errors import ArgumentError, ReturnError

Params = Any


State = Any


Shape = tuple[int, ...]


class Sequence(Protocol):
    """Describe the whole-sequence form of a cell; it computes what scanning the step does."""

    def __call__(
        self, params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool
    ) -> tuple[State, Any]:
        """Run the cell over a whole sequence, given the arguments of `unroll` already checked.

        Returns:
          The state after the last input read, and the outputs.
        """
        ...


class _CellFields(NamedTuple):
    init: Callable[[Array], Params]
    initial_state: Callable[[Params, Shape], State]
    step: Callable[[Params, State, Any], tuple[State, Any]]
    input_shape: Shape
    sequence: Sequence | None = None


class Cell(_CellFields):
    """Hold a recurrent cell as a NamedTuple of pure functions.

    Attributes:
      init: ``key -> params``, a nested dict of arrays.
      initial_state: ``(params, batch_shape) -> state``; the state before the first input.
      step: ``(params, state, x) -> (state, y)`` with x of shape ``[..., *input_shape]``. The
        order is that of `jax.lax.scan`, so ``partial(cell.step, params)`` is a scan body.
      input_shape: the shape of one input without batch axes, ``(D,)`` for most cells.
      sequence: ``(params, state, xs, *, mask, reset, reverse) -> (state, ys)``, a faster
        equivalent of scanning ``step``, or None if there is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import Cell, unroll
      >>> running_sum = Cell(
      ...     init=lambda key: {},
      ...     initial_state=lambda params, batch_shape: jnp.zeros((*batch_shape, 1)),
      ...     step=lambda params, state, x: (state + x, state + x),
      ...     input_shape=(1,),
      ... )
      >>> state, ys = unroll(running_sum, {}, jnp.array([[1.0], [2.0], [4.0]]))
      >>> ys[:, 0].tolist()
      [1.0, 3.0, 7.0]
    """

    __slots__ = ()

    def _replace(self, **changes: Any) -> "Cell":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a copy with some fields changed.

        A new ``step`` also sets ``sequence`` to None, unless that is given too, since the faster
        form belongs to the old step.
        """
        if "step" in changes:
            changes = {"sequence": None} | changes
        return super()._replace(**changes)


def unroll(
    cell: Cell,
    params: Params,
    xs: Any,
    state: State | None = None,
    *,
    lengths: Any = None,
    mask: Any = None,
    reset: Any = None,
    reverse: bool = False,
    remat: int | None = None,
    truncate: int | None = None,
    return_states: bool = False,
    method: Literal["auto", "scan"] = "auto",
) -> tuple[State, Any]:
    """Run a cell over a sequence.

    Without its options it computes the same as this loop::

        state = cell.initial_state(params, batch_shape)
        for t in range(T):
            state, ys[t] = cell.step(params, state, xs[t])

    Args:
      cell: the cell.
      params: its parameters, of the shapes that ``cell.init`` gives them; any further entries are
        the caller's own affair.
      xs: inputs ``[T, ..., *cell.input_shape]``.
      state: the state before the first input read; the cell's initial state by default.
      lengths: integers ``[...]`` from 0 to T, one for each sequence; steps at and beyond the
        length are padding. Traced values cannot be checked against T.
      mask: booleans ``[T, ...]``; False marks a padded step: the state is held, the output is
        zero, and nothing of x (not even NaN) reaches values or gradients.
      reset: booleans ``[T, ...]``; True restores the cell's initial state *before* x_t is read;
        a padded step does not reset.
      reverse: read from the last step to the first; each output keeps the index of its input.
      remat: store the state only every so many steps and recompute the steps between in the
        backward pass (Chen et al. 2016), so memory falls from T to T / remat + remat states.
      truncate: cut the sequence into chunks of so many steps, counted from the first input read,
        and let no gradient pass from one chunk to the previous one (truncated backpropagation
        through time). The state itself is carried on, and the gradient of the first chunk
        reaches ``state`` where it is given.
      return_states: return outputs as pairs ``(ys, states)``, with the state after every step.
      method: ``"auto"`` uses the cell's fast sequence function where it has one; ``"scan"`` is
        the readable reference, and the one that supports forward-mode differentiation
        (`jax.jvp`, `jax.jacfwd`). Hessians can be taken through both.

    Returns:
      The state after the last input read, and the outputs ``[T, ..., H]``.

    Raises:
      ValueError: for a wrong rank, feature size, mask or reset shape, the params of another cell, a
        state unlike the cell's initial one, a length outside 0 to T, inputs that are not
        floating-point numbers (or are float64 while JAX's 64-bit mode is off), a remat or
        truncate below 1, or an unknown method.
      TypeError: for forward-mode differentiation through a sequence function that supports only
        reverse mode.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import lstm, unroll
      >>> cell = lstm(input_size=3, hidden_size=4)
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> state, ys = unroll(cell, params, xs, lengths=jnp.array([5, 3]))
      >>> ys.shape, bool((ys[3:, 1] == 0).all())
      ((5, 2, 4), True)
    """
    xs = as_array("xs", xs)
    batch_shape = _batch_shape(cell, xs)
    if method not in ("auto", "scan"):
        raise ArgumentError(f'method: expected "auto" or "scan", got {method!r}.')
    mask = _flags("mask", mask, (xs.shape[0], *batch_shape))
    reset = _flags("reset", reset, (xs.shape[0], *batch_shape))
    if lengths is not None:
        within = _within(lengths, xs.shape[0], batch_shape)
        mask = within if mask is None else mask & within
    if mask is not None and reset is not None:
        reset = reset & mask
    _check_params(cell, params)
    if state is None:
        state = cell.initial_state(params, batch_shape)
    else:
        _check_state(state, jax.eval_shape(lambda: cell.initial_state(params, batch_shape)))
    params, state, xs = varying_alike((params, state, xs))
    run = scan_sequence if method == "scan" else sequence
    if return_states:
        run = partial(scan_sequence, keep_states=True)
    if remat is not None or truncate is not None:
        # A cell without a step, such as bidirectional, says here why it cannot be cut into chunks.
        jax.eval_shape(cell.step, params, state, jnp.zeros_like(xs, shape=xs.shape[1:]))
    if remat is not None:
        check_sizes(remat=remat)
        run = in_chunks(run, remat, rematerialize)
    if truncate is not None:
        check_sizes(truncate=truncate)
        run = in_chunks(run, truncate, truncate_gradient)
    with _advice_on_forward_mode():
        return run(cell, params, state, xs, mask=mask, reset=reset, reverse=reverse)


@contextlib.contextmanager
def _advice_on_forward_mode() -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise ReturnError(
            "unroll: the derived backward pass of this cell has no forward mode; for jax.jvp, "
            'jax.jacfwd and jax.linearize take method="scan".'
        ) from error


def sequence(
    cell: Cell, params: Params, state: State, xs: Any, *, mask: Any, reset: Any, reverse: bool
) -> tuple[State, Any]:
    """Run a cell over a sequence as `unroll` does, without its checks.

    The cell's own sequence function is used where it has one.
    """
    run = cell.sequence or partial(scan_sequence, cell)
    return run(params, state, xs, mask=mask, reset=reset, reverse=reverse)


def scan_sequence(
    cell: Cell,
    params: Params,
    state: State,
    xs: Any,
    *,
    mask: Any,
    reset: Any,
    reverse: bool,
    keep_states: bool = False,
) -> tuple[State, Any]:
    """Scan the cell's step over a sequence: the reference for every sequence function.

    With ``keep_states`` outputs are pairs ``(ys, states)``.
    """
    initial = None
    if reset is not None:
        initial = cell.initial_state(params, _batch_shape(cell, xs))
    if mask is not None:  # NaN times a zero gradient would be NaN
        xs = where_flag(mask, xs, jnp.zeros_like(xs))

    def body(state, inputs):
        x, real, fresh = inputs
        if fresh is not None:
            state = where_flag(fresh, initial, state)
        new_state, y = cell.step(params, state, x)
        if real is not None:
            new_state = where_flag(real, new_state, state)
            y = where_flag(real, y, jax.tree.map(jnp.zeros_like, y))
        return new_state, (y, new_state) if keep_states else y

    return lax.scan(body, state, (xs, mask, reset), reverse=reverse)


Piece = Callable[[Params, State, Any], tuple[State, Any]]


Wrap = Callable[[Piece], Callable[[Params, State, Any, Array], tuple[State, Any]]]


def in_chunks(run: Callable[..., Any], most: int, wrap: Wrap) -> Callable[..., Any]:
    """Make a run process the sequence in chunks of ``most`` steps, each by ``wrap(piece)``.

    Args:
      run: `sequence` or `scan_sequence`.
      most: steps in a chunk; the last chunk read may be shorter.
      wrap: turns ``piece(params, state, inputs)``, which runs one chunk, into a function that
        takes as a fourth argument whether the chunk is the first one read; `rematerialize` or
        `truncate_gradient`.

    Returns:
      A function with the arguments and results of ``run``.
    """

    def run_chunks(cell, params, state, xs, *, mask, reset, reverse):
        time = xs.shape[0]
        size = max(1, min(most, time)) if is_known(time) else most
        count = -(-time // size)
        filler = count * size - time
        if filler != 0 and mask is None:
            mask = jnp.ones((time, *_batch_shape(cell, xs)), bool)
        pad = (filler, 0) if reverse else (0, filler)  # chunks count from the first step read

        def split(leaf: Array) -> Array:
            padded = jnp.pad(leaf, [pad] + [(0, 0)] * (leaf.ndim - 1))
            return padded.reshape(count, size, *leaf.shape[1:])  # [chunks, size, ...]

        def piece(params, state, inputs):
            xs, mask, reset = inputs
            return run(cell, params, state, xs, mask=mask, reset=reset, reverse=reverse)

        def body(state, inputs):
            is_first, *inputs = inputs
            return wrap(piece)(params, state, inputs, is_first)

        pieces = jax.tree.map(split, (xs, mask, reset))
        is_first = jnp.arange(count) == (count - 1 if reverse else 0)
        state, ys = lax.scan(body, state, (is_first, *pieces), reverse=reverse)
        # [chunks, size, ...] -> [T + filler, ...] -> [T, ...]
        whole = jax.tree.map(lambda leaf: leaf.reshape(count * size, *leaf.shape[2:]), ys)
        return state, jax.tree.map(lambda leaf: leaf[pad[0] : pad[0] + time], whole)

    return run_chunks


def rematerialize(piece: Piece) -> Callable[[Params, State, Any, Array], tuple[State, Any]]:
    """Keep only the arguments of the piece for the backward pass, and recompute the rest."""
    return lambda params, state, inputs, is_first: jax.checkpoint(piece)(params, state, inputs)


def truncate_gradient(piece: Piece) -> Callable[[Params, State, Any, Array], tuple[State, Any]]:
    """Let no gradient pass from the piece to the one before it."""

    def run(params: Params, state: State, inputs: Any, is_first: Array) -> tuple[State, Any]:
        return piece(params, where_flag(is_first, state, lax.stop_gradient(state)), inputs)

    return run


def check_sizes(**sizes: Any) -> None:
    """Check that every size is a whole number of at least 1.

    Raises:
      ValueError: for the first that is not, with its name.
    """
    for name, size in sizes.items():
        if not isinstance(size, int | np.integer) or isinstance(size, bool):
            raise ArgumentError(f"{name}: expected a whole number, got {size!r}.")
        if size < 1:
            raise ArgumentError(f"{name}: expected at least 1, got {size}.")


def is_known(size: Any) -> bool:
    """Return whether a size is a number. To `jax.export` it may be a symbol for any number."""
    return isinstance(size, int | np.integer)


def in_one_type(params: Params) -> Params:
    """Cast floating-point params of several types to the one that holds them all.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent.cell import in_one_type
      >>> params = {"kernel": jnp.ones((2, 2), jnp.bfloat16), "bias": jnp.ones(2)}
      >>> str(in_one_type(params)["kernel"].dtype)
      'float32'
    """

    def is_floating(leaf: Any) -> bool:
        return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)

    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params) if is_floating(leaf)}
    if len(dtypes) < 2:
        return params
    dtype = jnp.result_type(*dtypes)
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if is_floating(leaf) else leaf, params)


def output_shape(cell: Cell) -> Shape:
    """Return the shape of one output of the cell, without batch axes; nothing is computed.

    Example:
      >>> from recurrent import dense, lstm, output_shape, stack
      >>> output_shape(stack(lstm(3, 4), dense(4, 10)))
      (10,)
    """

    def outputs(key: Array) -> Any:
        params = cell.init(key)
        # An input without axes is a token, by convention.
        xs = jnp.zeros((1, *cell.input_shape), None if cell.input_shape else int)
        state = cell.initial_state(params, ())
        return sequence(cell, params, state, xs, mask=None, reset=None, reverse=False)[1]

    return jax.eval_shape(outputs, jax.random.key(0)).shape[1:]


def as_input(x: Any, input_shape: Shape, dtype: Any) -> Array:
    """Check the input of one or many steps, and cast it to the type of a cell's params.

    Raises:
      ValueError: at trace time, for last axes other than ``input_shape``, or numbers that are not
        real floating-point ones, or float64 while JAX's 64-bit mode is off.
    """
    x = as_array("x", x)
    fits = x.shape[x.ndim - len(input_shape) :] == input_shape
    if not fits or not jnp.issubdtype(x.dtype, jnp.floating):
        expected = ", ".join(["...", *map(str, input_shape)])
        raise ArgumentError(
            f"x: expected floating-point numbers of the shape [{expected}], got {x.dtype} of the "
            f"shape {list(x.shape)}."
        )
    return x.astype(dtype)


def length_mask(lengths: Any, time: int) -> Array:
    """Return booleans ``[T, ...]``, True for the steps within the lengths ``[...]``.

    Raises:
      ValueError: for lengths that are not integers or lie outside 0 to T; traced lengths cannot be
        checked against T.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import length_mask
      >>> length_mask(jnp.array([3, 1]), time=3).astype(int).T.tolist()  # transposed to [B, T]
      [[1, 1, 1], [1, 0, 0]]
    """
    if not isinstance(lengths, Tracer):
        lengths = np.asarray(lengths)  # jnp.asarray would trace even a constant inside jit
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise ArgumentError(f"lengths: expected integers, got {lengths.dtype}.")
    if isinstance(lengths, np.ndarray) and is_known(time):
        outside = lengths[(lengths < 0) | (lengths > time)]
        if outside.size:
            raise ArgumentError(f"lengths: expected values from 0 to T={time}, got {outside[0]}.")
    steps = jnp.arange(time).reshape(time, *[1] * lengths.ndim)  # [T, 1, ...]
    return steps < lengths


def last_output(ys: Any, lengths: Any) -> Array:
    """Return each sequence's output at its own last step, from outputs that end in padding.

    ``ys[-1]`` is the output at the last step of the longest sequence; `unroll` with lengths has
    set it to zero for all that are shorter.

    Equation: ``last[b] = ys[lengths[b] - 1, b]``, and zero where ``lengths[b]`` is 0.

    A direction that reads backwards has seen the whole sequence at the first step, so of a
    bidirectional cell ``ys[0]`` is wanted beside it.

    Args:
      ys: outputs ``[T, ..., H]`` of `unroll`, with any number of axes after those of ``lengths``.
      lengths: integers ``[...]`` from 0 to T, one for each sequence, as `unroll` takes them. Traced
        ones cannot be checked against T; as in `unroll`, more than T counts as T.

    Returns:
      ``[..., H]``.

    Raises:
      ValueError: for lengths that are not integers or lie outside 0 to T, or are not as many as
        the sequences.

    Example:
      >>> import jax.numpy as jnp
      >>> from recurrent import last_output
      >>> ys = jnp.array([[1.0, 4.0], [2.0, 0.0], [3.0, 0.0]])  # [T, B]
      >>> last_output(ys, jnp.array([3, 1])).tolist(), ys[-1].tolist()
      ([3.0, 4.0], [3.0, 0.0])
    """
    ys = as_array("ys", ys)
    within = length_mask(lengths, ys.shape[0])
    if within.shape != ys.shape[: within.ndim]:
        raise ArgumentError(
            "lengths: expected one for each sequence, so the first axes of ys after time, "
            f"{list(ys.shape[1:])}, got {list(within.shape[1:])}."
        )
    count = within.sum(axis=0, dtype=jnp.int32)  # at most T
    index = jnp.maximum(count - 1, 0).reshape(1, *count.shape, *[1] * (ys.ndim - within.ndim))
    last = jnp.take_along_axis(ys, index, axis=0)[0]
    return where_flag(count > 0, last, jnp.zeros_like(last))


def where_flag(flag: Array, chosen: Any, other: Any) -> Any:
    """Apply `jnp.where` to trees whose leaves have more trailing axes than the flag."""

    def select(a: Array, b: Array) -> Array:
        # [T, B] -> [T, B, 1, ...]
        return jnp.where(flag.reshape(flag.shape + (1,) * (jnp.ndim(b) - flag.ndim)), a, b)

    return jax.tree.map(select, chosen, other)


def weighted(weight: Any, value: Any) -> Array:
    """Multiply by a weight, where a weight of 0 gives 0 even of what is infinite or NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> weighted(jnp.array([0.0, 0.5]), jnp.array([jnp.inf, 3.0])).tolist()
      [0.0, 1.5]
    """
    return weight * jnp.where(jnp.asarray(weight) == 0, 0, value)


def as_tokens(tokens: Any) -> Array:
    """Widen integers of less than 32 bits to int32, and return all other arrays as they are.

    A Python number beside a narrow array takes the array's type, so that 256 classes beside labels
    of uint8 would be 0 of them.

    Example:
      >>> import jax.numpy as jnp
      >>> labels = jnp.array([255], jnp.uint8)
      >>> (labels < 256).tolist(), (as_tokens(labels) < 256).tolist()
      ([False], [True])
    """
    tokens = jnp.asarray(tokens)
    narrow = jnp.issubdtype(tokens.dtype, jnp.integer) and tokens.dtype.itemsize < 4
    return tokens.astype(jnp.int32) if narrow else tokens


def as_array(name: str, x: Any) -> Array:
    """Convert to a JAX array, refusing float64 that JAX would silently narrow to float32.

    Raises:
      ValueError: for float64 while JAX's 64-bit mode is off, and for what is no array of numbers;
        the message begins with ``name``.
    """
    if getattr(x, "dtype", None) == np.float64 and not jax.config.read("jax_enable_x64"):
        raise ArgumentError(
            f"{name}: expected float32 or narrower, got float64, of which JAX would drop half the "
            'digits; cast it, or set jax.config.update("jax_enable_x64", True).'
        )
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name}: expected an array of numbers, got {type(x).__name__}.") from (
            error
        )


def _batch_shape(cell: Cell, xs: Any) -> Shape:
    features = len(cell.input_shape)
    if xs.ndim < 1 + features or xs.shape[xs.ndim - features :] != cell.input_shape:
        expected = ", ".join(["T", "...", *map(str, cell.input_shape)])
        raise ArgumentError(
            f"xs: expected the shape [{expected}] (time first), got {list(xs.shape)}."
        )
    if features and not jnp.issubdtype(xs.dtype, jnp.floating):
        raise ArgumentError(
            f"xs: expected floating-point numbers, got {xs.dtype}; cast them first."
        )
    return xs.shape[1 : xs.ndim - features]


def varying_alike(trees: Any) -> Any:
    """Cast all leaves so that they vary over the same mesh axes inside `jax.shard_map`.

    `jax.shard_map` checks which values vary over which mesh axes, and there a loop's carry must
    not start to vary inside the loop. The transpose of this cast adds up, over the devices, the
    gradient of params that are the same on all of them, as it must be.
    """
    axes = frozenset[str]().union(*map(_varies_over, jax.tree.leaves(trees)))
    if not axes:
        return trees

    def cast(leaf: Any) -> Any:
        missing = tuple(axes - _varies_over(leaf))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, trees)


def _varies_over(leaf: Any) -> frozenset[str]:
    kind = getattr(jax.typeof(leaf), "manual_axis_type", None)
    return kind.varying if kind else frozenset()


def _within(lengths: Any, time: int, batch_shape: Shape) -> Array:
    within = length_mask(lengths, time)
    if within.shape[1:] != batch_shape:
        raise ArgumentError(
            f"lengths: expected the shape {list(batch_shape)}, one for each sequence, "
            f"got {list(within.shape[1:])}."
        )
    return within


def _check_params(cell: Cell, params: Params) -> None:
    """Check the shapes of params against those of the cell's ``init``, of which nothing is drawn.

    A leaf of length 1 would be broadcast, and so train a smaller model in silence.
    """
    try:
        expected = jax.eval_shape(cell.init, jax.random.key(0))
    except Exception:
        return  # an init that JAX cannot trace, such as one that reads a file, has no known shapes
    found = {_name(path): np.shape(leaf) for path, leaf in jax.tree.leaves_with_path(params)}
    for path, like in jax.tree.leaves_with_path(expected):
        shape = found.get(_name(path))
        if shape != like.shape:
            raise ArgumentError(
                f"params: expected those of this cell's init, with {_name(path)} of the shape "
                f"{list(like.shape)}, got {'none' if shape is None else list(shape)}; they are "
                "another cell's, or of another size."
            )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _check_state(state: State, expected: State) -> None:
    if jax.tree.structure(state) != jax.tree.structure(expected):
        raise ArgumentError(
            "state: expected one like the cell's initial_state, "
            f"{jax.tree.structure(expected)}, got {jax.tree.structure(state)}."
        )
    pairs = zip(jax.tree.leaves_with_path(state), jax.tree.leaves(expected), strict=True)
    for (path, leaf), like in pairs:
        dtype = getattr(leaf, "dtype", type(leaf).__name__)
        if jnp.shape(leaf) != like.shape or dtype != like.dtype:
            raise ArgumentError(
                f"state{jax.tree_util.keystr(path)}: expected {like.dtype}{list(like.shape)}, "
                f"got {dtype}{list(jnp.shape(leaf))}."
            )


def _flags(name: str, flags: Any, shape: Shape) -> Array | None:
    if flags is None:
        return None
    flags = jnp.asarray(flags)
    if flags.shape != shape:
        raise ArgumentError(
            f"{name}: expected the shape {list(shape)}, as the first axes of xs, "
            f"got {list(flags.shape)}."
        )
    if flags.dtype != jnp.bool_:
        raise ArgumentError(
            f"{name}: expected booleans, got {flags.dtype}; compare it with 0 first."
        )
    return flags


def zero_padding(mask: Array | None, xs: Array) -> Array:
    """Set the inputs to zero where the mask is False."""
    return xs if mask is None else where_flag(mask, xs, jnp.zeros_like(xs))
