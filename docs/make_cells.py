"""Makes docs/cells.md from the code: `.venv/bin/python docs/make_cells.py > docs/cells.md`."""

import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.cells import library_cells
from recurrent import Cell
from recurrent.gated import gated_sequence, mapped_sequence

HEAD = """\
# Cells

Made from the code by `docs/make_cells.py`; a test keeps it current. D is the input size, H the
hidden size. Every cell streams step by step, with the same numbers as over a whole sequence.
*Forms* says how a whole sequence runs: **gated**, a loop whose backward pass is derived from the gate;
**own**, a form of the cell's own, such as a parallel scan; **scan**, `jax.lax.scan` of the step.
Parameters are counted at the default options.

| cell | state | parameters | forms |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    cells = library_cells()
    rows = "".join(row(name, factory) for name, factory in cells.items())
    return HEAD + rows + "".join(section(name, factory) for name, factory in cells.items())


def row(name: str, factory: Callable[..., Cell]) -> str:
    """One line of the table."""
    cell = factory(8, 16)
    return f"| [`{name}`](#{name}) | {state(cell)} | {parameters(factory)} | {form(cell)} |\n"


def section(name: str, factory: Callable[..., Cell]) -> str:
    """The signature and docstring of one cell."""
    text = inspect.cleandoc(factory.__doc__ or "")
    text = re.sub(r"^(Args|Returns|Raises|References):$", r"**\1**\n", text, flags=re.MULTILINE)
    text = re.sub(r"^  (\*{0,2}\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    text = textwrap.indent(text, "").replace("``", "`")
    return f"\n## {name}\n\n`{name}{inspect.signature(factory)}`\n\n{text}\n"


def state(cell: Cell) -> str:
    """The state's fields and shapes without batch axes."""

    def initial(key: Any) -> Any:
        return cell.initial_state(cell.init(key), ())

    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(initial, jax.random.key(0)))
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    letters = {8: "D", 16: "H"}
    shapes = [", ".join(str(letters.get(n, n)) for n in leaf.shape) for _, leaf in leaves]
    return ", ".join(f"`{name}` [{shape}]" for name, shape in zip(names, shapes, strict=True))


def form(cell: Cell) -> str:
    """How a whole sequence runs."""
    if cell.sequence is None:
        return "scan"
    run = cell.sequence
    derived = isinstance(run, functools.partial) and run.func in (gated_sequence, mapped_sequence)
    return "gated" if derived else "own"


def parameters(factory: Callable[..., Cell]) -> str:
    """The parameter count as a polynomial of D and H, found by counting at several sizes."""
    sizes = list(itertools.product([8, 16, 24], [16, 32, 48, 64]))
    terms = {"DH": lambda d, h: d * h, "H²": lambda d, h: h * h, "D": lambda d, h: d}
    terms |= {"H": lambda d, h: h, "": lambda d, h: 1}
    matrix = np.array([[term(d, h) for term in terms.values()] for d, h in sizes], float)
    counts = np.array([count(factory(d, h)) for d, h in sizes])
    factors = np.linalg.lstsq(matrix, counts.astype(float), rcond=None)[0].round(6)
    if np.abs(matrix @ factors - counts).max() > 1e-3:
        return f"{count(factory(64, 128)):,} at D = 64, H = 128"
    shown = [(f"{factor:g}", name) for factor, name in zip(factors, terms, strict=True) if factor]
    return " + ".join(name if factor == "1" and name else factor + name for factor, name in shown)


def count(cell: Cell) -> int:
    """How many numbers the params hold."""
    leaves = jax.tree.leaves(jax.eval_shape(cell.init, jax.random.key(0)))
    return sum(int(np.prod(leaf.shape)) for leaf in leaves)


if __name__ == "__main__":
    print(page(), end="")
