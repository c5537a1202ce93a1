"""Find the cell that a flag names: one of the library's, or one from a user's file."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import recurrent
from experiments.harness.config import option
from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.user_files import load_function
from experiments.shared import causality
from experiments.shared.own_functions import failed, shapes_of
from recurrent import Cell
from recurrent.errors import ArgumentError, ReturnError

FARTHEST = 65  # from a size that a cell cannot have, where one that it can is looked for


def library_cells() -> dict[str, Callable[..., Cell]]:
    """Return the library's public functions from (input_size, hidden_size) to a cell."""
    public = {name: getattr(recurrent, name) for name in recurrent.__all__}
    return {
        name: value
        for name, value in public.items()
        if inspect.isfunction(value)
        and list(inspect.signature(value).parameters)[:2] == ["input_size", "hidden_size"]
        and inspect.signature(value).return_annotation is Cell
    }


def help_text() -> str:
    """Return the meaning of ``--cell``, for its help."""
    return f"the cell: {', '.join(library_cells())}, or one of your own as FILE.py:FUNCTION"


def cell_option(default: str, also: str = "") -> Any:
    """Declare the field ``cell`` of a Config.

    Args:
      default: the name of the cell.
      also: what its help says besides the names.
    """
    return option(default, help_text() + also, check=cell_factory, file=True)


def make_cell(
    name: str, input_size: int, hidden_size: int, *, causal: int = 0, **options: Any
) -> Cell:
    """Build the cell of these sizes that ``--cell=name`` stands for.

    Args:
      name: of the cell.
      input_size: D.
      hidden_size: H.
      causal: the longest sequence in which the cell must predict its next input: there it must
        not look ahead, and it must have a step; 0 where it may look ahead.
      **options: of the function that builds it.

    Raises:
      UserError: as `cell_factory` does, and where the function refuses the sizes (with those near
        by that it takes, for one of the library's) or returns something else, or a cell that is
        not causal though it must be.
    """
    try:
        cell = cell_factory(name)(input_size, hidden_size, **options)
    except Exception as error:  # whatever the user's own function raises
        if near := near_sizes(name, input_size, hidden_size, options):
            raise UserError(
                f"--hidden_size: {name} cannot have {hidden_size}; take {' or '.join(near)}."
            ) from error
        sizes = f"with input_size={input_size}, hidden_size={hidden_size}"
        raise UserError(failed("--cell", "", name, error, sizes)) from error
    if not isinstance(cell, Cell):
        raise UserError(
            f"--cell: expected {name} to return a recurrent.Cell, got {type(cell).__name__}."
        )
    if cell.input_shape != (input_size,):
        raise UserError(
            f"--cell: expected a cell that reads vectors of {input_size} numbers; {name} reads "
            f"inputs of shape {cell.input_shape}."
        )
    if ":" in name:
        check_step(name, cell)
    if causal:
        check_causal(name, cell, causal)
    return cell


def near_sizes(name: str, input_size: int, hidden_size: int, options: dict[str, Any]) -> list[str]:
    """Return the sizes next below and above that one of the library's cells can have, if any."""
    if ":" in name or name not in library_cells():
        return []

    def fits(size: int) -> bool:
        with contextlib.suppress(ArgumentError, TypeError):
            return isinstance(library_cells()[name](input_size, size, **options), Cell)
        return False

    below = filter(fits, range(hidden_size - 1, max(0, hidden_size - FARTHEST), -1))
    above = filter(fits, range(hidden_size + 1, hidden_size + FARTHEST))
    return [str(found) for sizes in (below, above) if (found := next(sizes, None))]


def check_causal(name: str, cell: Cell, steps: int) -> None:
    """Raise `UserError` where a cell cannot predict its next input, because it reads that too."""
    if looks_ahead(name, cell, steps):
        raise UserError(
            f"--cell: {name} looks ahead: its output at a step moves when only later inputs "
            "change, and this experiment has it predict those. Take a cell that reads forwards "
            "alone, such as one of the two in recurrent.bidirectional."
        )
    if ":" in name:
        check_step(name, cell, needed=True)


def looks_ahead(name: str, cell: Cell, steps: int) -> bool:
    """Return whether the cell of ``--cell=name`` looks ahead in sequences of that many steps.

    The user's own is tried; of the library's, which are tried by a test, none does.

    Raises:
      UserError: where the user's own cell cannot read a sequence.
    """
    if ":" not in name:
        return False
    try:
        return causality.looks_ahead(cell, steps)
    except Exception as error:  # whatever the user's own function raises
        raise UserError(failed("--cell", "a sequence read by", name, error)) from error


def check_step(name: str, cell: Cell, *, needed: bool = False) -> None:
    """Raise `UserError` where a step of the user's own cell fails, or changes its state's form.

    A cell that has none, but reads whole sequences, passes where no step is ``needed``.
    """
    x = jax.ShapeDtypeStruct((2, *cell.input_shape), jnp.float32)
    try:
        before, (after, ys) = jax.eval_shape(lambda x: step_of(cell, x), x)
    except Exception as error:  # whatever the user's own function raises
        if not needed and runs_as_a_whole(cell, x):
            return
        raise UserError(failed("--cell", "a step of", name, error)) from error
    if shapes_of(before) != shapes_of(after):
        raise UserError(
            f"--cell: a step of {name} must return a state like the one it is given, "
            f"{shapes_of(before)}, but returns {shapes_of(after)}."
        )
    if not isinstance(ys, jax.ShapeDtypeStruct) or ys.shape[:1] != (2,):
        raise UserError(
            f"--cell: a step of {name} must return one output array [B, ...] beside the state, "
            f"got {ys}."
        )


def step_of(cell: Cell, x: Array) -> Any:
    """Return the initial state, and what a step makes of it."""
    params = cell.init(jax.random.key(0))
    state = cell.initial_state(params, x.shape[:1])
    found = cell.step(params, state, x)
    if not isinstance(found, tuple) or len(found) != 2:
        raise ReturnError(f"expected it to return (state, output), got {type(found).__name__}")
    return state, found


def runs_as_a_whole(cell: Cell, x: Any) -> bool:
    """Return whether a cell without a step reads sequences, as a bidirectional one does."""

    def whole(x: Array) -> Any:
        return recurrent.unroll(cell, cell.init(jax.random.key(0)), jnp.stack([x, x]))

    try:
        jax.eval_shape(whole, x)
    except Exception:
        return False
    return cell.sequence is not None


def cell_factory(name: str) -> Callable[..., Cell]:
    """Return the function that ``--cell=name`` stands for.

    Raises:
      UserError: for a name that is none, a file that is not there or is not Python, or a
        function that the file does not define.
    """
    if ":" in name:
        return load_function(name, "--cell")
    known = library_cells()
    if name not in known:
        raise UserError(
            f"--cell: expected one of {', '.join(known)}, or FILE.py:FUNCTION, got {name!r}."
            + did_you_mean(name, known)
        )
    return known[name]
