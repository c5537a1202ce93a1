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
    assert raised(file.read_text(encoding="utf-8")) <= FAMILY


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


def shrunk(params: Any, index: int) -> Any:
    """Return params in which one leaf has a last axis of length 1, which would be broadcast."""
    leaves, tree = jax.tree.flatten(params)
    leaves[index] = leaves[index][..., :1]
    return jax.tree.unflatten(tree, leaves)


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_refuses_the_params_of_another(name: str) -> None:
    cell, params = zeros_for(name)
    xs = jnp.zeros((5, 2, INPUT))
    larger = jax.eval_shape(CELLS[name](INPUT, 2 * HIDDEN).init, jax.random.key(0))
    others = [{}, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), larger)]
    wide = [i for i, leaf in enumerate(jax.tree.leaves(params)) if leaf.shape[-1:] > (1,)]
    others += [shrunk(params, index) for index in wide]
    for other in others:
        with pytest.raises(ArgumentError, match="params: expected those of this cell's init, with"):
            recurrent.unroll(cell, other, xs)


def test_params_of_another_size_are_named_with_both_shapes() -> None:
    params = recurrent.indrnn(2, 1).init(jax.random.key(0))
    with pytest.raises(ArgumentError, match=r"input\.bias of the shape \[3\], got \[1\]"):
        recurrent.unroll(recurrent.indrnn(2, 3), params, jnp.ones((4, 1, 2)))
    with pytest.raises(ArgumentError, match=r"input\.bias of the shape \[9\], got none"):
        recurrent.unroll(recurrent.gru(2, 3), {}, jnp.ones((4, 1, 2)))


def test_params_of_another_type_and_with_further_entries_are_taken() -> None:
    cell = recurrent.indrnn(2, 3)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), cell.init(jax.random.key(0)))
    _, ys = recurrent.unroll(cell, params | {"readout": jnp.ones(7)}, jnp.ones((4, 1, 2)))
    assert ys.shape == (4, 1, 3)


def test_an_init_that_cannot_be_traced_leaves_params_unchecked() -> None:
    def init(key: Any) -> Any:
        return {"start": jnp.float32(int(jax.random.key_data(key)[0]))}

    total = recurrent.Cell(
        init, lambda params, batch: params["start"], lambda params, s, x: (s + x, s + x), ()
    )
    assert recurrent.unroll(total, {"start": jnp.float32(1)}, jnp.array([2.0, 3.0]))[0] == 6
