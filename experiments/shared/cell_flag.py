"""Find the cell that a flag names: one of the library's, or one from a user's file."""

import importlib.machinery
import importlib.util
import inspect
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import cast

import recurrent
from experiments.harness.errors import UserError, did_you_mean
from recurrent import Cell


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


def make_cell(name: str, input_size: int, hidden_size: int) -> Cell:
    """Build the cell of these sizes that ``--cell=name`` stands for.

    Raises:
      UserError: as `cell_factory` does, and where the function refuses the sizes or returns
        something else.
    """
    try:
        cell = cell_factory(name)(input_size, hidden_size)
    except Exception as error:  # whatever the user's own function raises
        reason = describe_error(error, name.rpartition(":")[0])
        sizes = f"input_size={input_size}, hidden_size={hidden_size}"
        raise UserError(f"--cell: {name} with {sizes} raised {reason}.") from error
    if not isinstance(cell, Cell):
        raise UserError(
            f"--cell: expected {name} to return a recurrent.Cell, got {type(cell).__name__}."
        )
    if cell.input_shape != (input_size,):
        raise UserError(
            f"--cell: expected a cell that reads vectors of {input_size} numbers; {name} reads "
            f"inputs of shape {cell.input_shape}."
        )
    return cell


def cell_factory(name: str) -> Callable[..., Cell]:
    """Return the function that ``--cell=name`` stands for.

    Raises:
      UserError: for a name that is none, a file that is not there or is not Python, or a
        function that the file does not define.
    """
    file, colon, function = name.rpartition(":")
    if colon:
        return _function_in(Path(file), function)
    known = library_cells()
    if name not in known:
        raise UserError(
            f"--cell: expected one of {', '.join(known)}, or FILE.py:FUNCTION, got {name!r}."
            + did_you_mean(name, known)
        )
    return known[name]


class _SourceAlone(importlib.machinery.SourceFileLoader):
    """Read a source file and leave no bytecode, which might be that of an earlier edit."""

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _function_in(file: Path, function: str) -> Callable[..., Cell]:
    if not file.is_file():
        raise UserError(f"--cell: there is no file {str(file)!r}.")
    if file.suffix != ".py":
        raise UserError(f"--cell: {str(file)!r} is not a Python file; its name must end in .py.")
    loader = _SourceAlone(file.stem, str(file.absolute()))
    spec = importlib.util.spec_from_loader(file.stem, loader)
    module = importlib.util.module_from_spec(cast(importlib.machinery.ModuleSpec, spec))
    try:
        loader.exec_module(module)
    except Exception as error:  # whatever the user's own file raises
        reason = describe_error(error, str(file))
        raise UserError(f"--cell: {file} cannot be read: {reason}.") from error
    if not callable(getattr(module, function, None)):
        names = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise UserError(
            f"--cell: {file} defines no function {function!r}.{did_you_mean(function, names)}"
        )
    return getattr(module, function)


def describe_error(error: Exception, file: str) -> str:
    """Describe an error in a line, with the line of the user's file where it came up."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == Path(file).absolute()]
    if isinstance(error, SyntaxError):
        lines, error = [error.lineno], SyntaxError(error.msg)
    place = f" ({file}, line {lines[-1]})" if lines and lines[-1] else ""
    return f"{type(error).__name__}: {error}{place}"
