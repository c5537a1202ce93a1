"""What the library refuses, it refuses with an error of its own family, whoever calls it."""

import ast
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import recurrent
from recurrent.errors import ArgumentError, RecurrentError, ReturnError
from tests.recurrent.cases import CELLS, HIDDEN, INPUT

ROOT = Path(recurrent.__file__).parent
FAMILY = {"RecurrentError", "ArgumentError", "ReturnError"}
ELSEWHERE = {"NotImplementedError", "AttributeError"}  # of Python's protocols


def raised(source: str) -> set[str]:
    """Return the names of the errors that a module raises itself."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and node.exc is not None:
            called = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            found.add(ast.unparse(called))
    return found


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda file: file.stem)
def test_no_module_raises_an_error_of_another_family(file: Path) -> None:
    assert raised(file.read_text(encoding="utf-8")) <= FAMILY | ELSEWHERE


def test_errors_of_another_family_are_found() -> None:
    assert raised("raise ValueError('x')\nraise error\nraise") == {"ValueError", "error"}


def test_the_family_can_be_caught_as_errors_of_python() -> None:
    assert issubclass(ArgumentError, RecurrentError | ValueError)
    assert issubclass(ReturnError, RecurrentError | TypeError)


SEQUENCES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "another number of features": lambda xs: {"xs": xs[..., :-1]},
    "whole numbers": lambda xs: {"xs": xs.astype(jnp.int32)},
    "no array": lambda xs: {"xs": "speech.wav"},
    "nothing": lambda xs: {"xs": None},
    "lists of unequal length": lambda xs: {"xs": [[1.0], [1.0, 2.0]]},
    "lengths that are words": lambda xs: {"xs": xs, "lengths": ["one", "two"]},
    "lengths beyond the end": lambda xs: {"xs": xs, "lengths": jnp.array([1, 9])},
    "negative lengths": lambda xs: {"xs": xs, "lengths": jnp.array([1, -1])},
    "fractional lengths": lambda xs: {"xs": xs, "lengths": jnp.array([1.0, 2.5])},
    "lengths of more sequences": lambda xs: {"xs": xs, "lengths": jnp.array([1, 2, 3])},
    "a mask of numbers": lambda xs: {"xs": xs, "mask": jnp.ones(xs.shape[:2])},
    "a mask of another shape": lambda xs: {"xs": xs, "mask": jnp.ones((2, 2), bool)},
    "another method": lambda xs: {"xs": xs, "method": "quickly"},
}


@functools.cache
def zeros_for(name: str) -> tuple[recurrent.Cell, Any]:
    """Return a cell with params of zeros."""
    cell = CELLS[name](INPUT, HIDDEN)
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    return cell, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.parametrize("wrong", SEQUENCES)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_refuses_sequences_that_it_cannot_read(name: str, wrong: str) -> None:
    cell, params = zeros_for(name)
    with pytest.raises(RecurrentError):
        recurrent.unroll(cell, params, **SEQUENCES[wrong](jnp.zeros((5, 2, INPUT))))


SIZES = [0, -1, 2.5, "8", None, True]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", CELLS)
def test_every_cell_refuses_sizes_that_are_none(name: str, size: Any) -> None:
    for sizes in ((size, HIDDEN), (INPUT, size)):
        with pytest.raises(RecurrentError):
            CELLS[name](*sizes)
