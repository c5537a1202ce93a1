"""Try whether a cell looks ahead: whether an output moves when only later inputs change."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import recurrent
from recurrent import Cell

LEAST, BATCH = 8, 2
ROUNDING = 1e-4  # of the largest output


def looks_ahead(cell: Cell, steps: int = LEAST) -> bool:
    """Return whether an output of the cell depends on the input of a later step.

    It is tried. A random sequence is read as in training, by the cell's own sequence function where
    it has one; then, for several k, with the inputs from step k on replaced, and the outputs before
    step k are compared. A cell without a sequence function is run step by step, and cannot look
    ahead.

    The params are random numbers, not those of ``init``: training may take them anywhere, and
    weights that start at zero would hide what is read through them. Those of ``init`` are taken
    where the random ones give numbers that are not finite.

    One compiled program reads all the sequences, so outputs that depend on nothing later keep their
    bits. Still a movement counts only above 1e-4 of the largest output, and above two units of
    rounding of a narrow type: in a Fourier transform over time, or an iteration until all steps
    have converged, later inputs decide how earlier outputs are rounded.

    Args:
      cell: its inputs are floats, or tokens where they have no axes.
      steps: the longest sequence that it will read at once; at least 8 are tried. What looks ahead
        by so many steps or more cannot be noticed, and reads nothing there either.

    Raises:
      Exception: whatever the cell raises on a sequence.

    Example:
      >>> from recurrent import bidirectional, gru
      >>> looks_ahead(gru(3, 4)), looks_ahead(bidirectional(gru(3, 4), gru(3, 4)))
      (False, True)
    """
    if cell.sequence is None:
        return False

    steps = max(steps, LEAST)
    xs, others = random_sequences(cell.input_shape, steps)
    params = random_params(cell)
    outputs = reader(cell, params, xs)
    if not all(np.isfinite(ys.astype(complex)).all() for ys in outputs(params, xs)):
        params = computed(lambda: cell.init(jax.random.key(0)))
        outputs = reader(cell, params, xs)
    before = outputs(params, xs)

    def moves(k: int) -> bool:
        after = outputs(params, np.concatenate([xs[:k], others[k:]]))
        return any(has_moved(ys[:k], zs[:k], ys) for ys, zs in zip(before, after, strict=True))

    return any(map(moves, cuts(steps)))


def cuts(steps: int) -> list[int]:
    """Return where later inputs are replaced: at every step near the beginning, then at up to 64.

    Example:
      >>> cuts(12), len(cuts(500))
      ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 71)
    """
    later = np.linspace(LEAST, steps - 1, 64).round().astype(int).tolist() if steps > LEAST else []
    return sorted({*range(1, LEAST), *later})


def reader(cell: Cell, params: Any, xs: np.ndarray) -> Callable[[Any, Any], list[np.ndarray]]:
    """Compile ``(params, xs) -> outputs``, numbers even where an outer function is traced."""

    def unrolled(params: Any, xs: Any) -> Any:
        return jax.tree.leaves(recurrent.unroll(cell, params, xs)[1])

    compiled = jax.jit(unrolled).lower(params, xs).compile()
    return lambda params, xs: [np.asarray(ys) for ys in compiled(params, xs)]


def computed(function: Callable[[], Any]) -> Any:
    """Return what a function computes, as numbers even where an outer function is traced."""
    return jax.jit(function).lower().compile()()


def has_moved(before: Any, after: Any, outputs: Any) -> bool:
    """Return whether numbers differ by more than the rounding of outputs like these.

    Infinite and undefined numbers differ from finite ones alone.
    """
    unit = jnp.finfo(outputs.dtype).eps if jnp.issubdtype(outputs.dtype, jnp.inexact) else 0
    before, after, outputs = (np.asarray(each).astype(complex) for each in (before, after, outputs))
    largest = abs(outputs[np.isfinite(outputs)]).max(initial=0)
    finite = np.isfinite(before)
    moved = abs(after[finite] - before[finite]) > max(ROUNDING, 2 * float(unit)) * largest
    return bool(moved.any() or (np.isfinite(after) != finite).any())


def random_sequences(input_shape: tuple[int, ...], steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw two sequences ``[T, B, *input_shape]`` that differ in every input."""
    draws = np.random.default_rng(0)
    if not input_shape:
        tokens = draws.integers(0, 2, (steps, BATCH), np.int32)
        return tokens, 1 - tokens
    xs, others = draws.normal(size=(2, steps, BATCH, *input_shape)).astype(np.float32)
    return xs, others


def random_params(cell: Cell) -> Any:
    """Draw params from normal distributions, kernels by the number of their inputs.

    Leaves that are not floating-point, such as indices, are those of ``init``; the rest of it is
    not computed.
    """
    draws = np.random.default_rng(1)
    shapes, structure = jax.tree.flatten(jax.eval_shape(lambda: cell.init(jax.random.key(0))))
    floats = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in shapes]

    def others() -> list[Any]:
        pairs = zip(jax.tree.leaves(cell.init(jax.random.key(0))), floats, strict=True)
        return [leaf for leaf, is_float in pairs if not is_float]

    def drawn(leaf: Any) -> Any:
        numbers = draws.normal(size=leaf.shape) / math.sqrt(max(1, math.prod(leaf.shape[:-1])))
        return numbers.astype(leaf.dtype)

    kept = iter([] if all(floats) else computed(others))
    pairs = zip(shapes, floats, strict=True)
    leaves = [drawn(leaf) if is_float else next(kept) for leaf, is_float in pairs]
    return jax.tree.unflatten(structure, leaves)
