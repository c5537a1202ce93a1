"""Make docs/cells.md from the code: `.venv/bin/python -m docs.make_cells > docs/cells.md`."""

import inspect
import itertools
import re
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import recurrent
from experiments.shared.cell_flag import library_cells
from recurrent import Cell

HEAD = """\
# Cells

Made from the code by `docs/make_cells.py`; a test keeps it current. D is the input size, H the
hidden size, and all counts are for the default options. Every cell streams step by step, with the
same numbers as over a whole sequence, and takes masks, resets, either direction, `remat` and
truncation.

*Whole sequences* run as a **gated loop**, whose backward pass is derived from the gate; as a
**linear scan**, serial or parallel over time; in **blocks** of matrix products; or as a **stack**
of such parts. Any of them with a state of real numbers can be evaluated in parallel over time by
[`recurrent.deer`](../recurrent/newton.py), and any by the plain `jax.lax.scan` of its step
(`method="scan"`).

| cell | state | parameters | whole sequences | paper |
|---|---|---|---|---|
"""
Factory = Callable[..., Cell]
SIZES = 20, 48  # D and H, neither of which is the default of an option


def page() -> str:
    """Return the whole page."""
    rows = "".join(row(name, *both) for name, both in cells().items())
    return HEAD + rows + "".join(section(name, both[0]) for name, both in cells().items())


def cells() -> dict[str, tuple[Factory, Factory]]:
    """Return each cell's public function by name, and the same as a function of D and H."""
    vectors = {name: (factory, factory) for name, factory in library_cells().items()}

    def on_pictures(channels: int, features: int) -> Cell:
        return recurrent.convolutional_lstm((7, 9, channels), features)

    pictures = {"convolutional_lstm": (recurrent.convolutional_lstm, on_pictures)}
    return dict(sorted({**vectors, **pictures}.items()))


def row(name: str, factory: Factory, sized: Factory) -> str:
    """Return one line of the table."""
    cell = sized(*SIZES)
    columns = [f"[`{name}`](#{name})", state(cell), parameters(sized), form(cell), paper(factory)]
    return f"| {' | '.join(columns)} |\n"


def section(name: str, factory: Factory) -> str:
    """Return the signature and docstring of one cell."""
    text = inspect.cleandoc(factory.__doc__ or "").replace("``", "`")
    lead, *parts = re.split(
        r"^(Args|Returns|Raises|References|Example):\n", text, flags=re.MULTILINE
    )
    pairs = zip(parts[::2], parts[1::2], strict=True)
    body = lead + "".join(f"**{heading}**\n\n{listed(heading, part)}" for heading, part in pairs)
    return f"\n## {name}\n\n`{name}{signature(factory)}`\n\n{body.rstrip()}\n"


def listed(heading: str, part: str) -> str:
    """Format a section of a docstring: names and their meanings as a list, an example as code."""
    part = textwrap.dedent(part).strip() + "\n\n"
    if heading == "Example":
        return f"```pycon\n{part.rstrip()}\n```\n\n"
    if heading in ("Args", "Raises"):
        part = re.sub(r"^(\*{0,2}\w+): ", r"- `\1`: ", part, flags=re.MULTILINE)
    return part


def signature(factory: Factory) -> str:
    """Return names and defaults, a function by its name and not by its address in memory."""

    def shown(each: inspect.Parameter) -> inspect.Parameter:
        named = callable(each.default) and each.default is not inspect.Parameter.empty
        default = _Named(each.default) if named else each.default
        return each.replace(default=default, annotation=inspect.Parameter.empty)

    return str(inspect.Signature(list(map(shown, inspect.signature(factory).parameters.values()))))


class _Named:
    def __init__(self, function: Any):
        self.name = getattr(function, "__name__", "...")

    def __repr__(self) -> str:
        return self.name


def state(cell: Cell) -> str:
    """Return the state's fields and shapes without batch axes."""

    def initial(key: Any) -> Any:
        return cell.initial_state(cell.init(key), ())

    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(initial, jax.random.key(0)))
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    if "layers" in names[0]:
        return "`StackState`, one state for each part"
    d, h = SIZES
    letters = {d: "D", h: "H", 2 * h: "2 H", h // 2: "H / 2", h // 4: "H / 4"}
    shapes = [", ".join(str(letters.get(n, n)) for n in leaf.shape) for _, leaf in leaves]
    return ", ".join(f"`{name}` [{shape}]" for name, shape in zip(names, shapes, strict=True))


def form(cell: Cell) -> str:
    """Return how a whole sequence runs, as its trace shows."""

    def run(key: Any, xs: Any) -> Any:
        return recurrent.unroll(cell, cell.init(key), xs)

    if "StackState" in state(cell):
        return "stack"
    trace = str(jax.make_jaxpr(run)(jax.random.key(0), jnp.zeros((3, 2, *cell.input_shape))))
    for word, meaning in {"name=gated_loop": "gated loop", "name=_scan": "linear scan"}.items():
        if word in trace:
            return meaning
    return "blocks" if cell.sequence else "scan"


def paper(factory: Factory) -> str:
    """Return the first reference of the docstring."""
    references = inspect.cleandoc(factory.__doc__ or "").partition("References:")[2]
    references = references.partition("Example:")[0]
    pattern = r"(.+?\b(?:19|20)\d\d\b)(?:[^;]*?(arXiv:\d+\.\d+))?"
    found = re.match(pattern, " ".join(references.split()))
    return ", ".join(filter(None, found.groups())) if found else ""


def parameters(factory: Factory) -> str:
    """Return the parameter count as a polynomial of D and H, found by counting at several sizes."""
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
    """Count the numbers in the params."""
    leaves = jax.tree.leaves(jax.eval_shape(cell.init, jax.random.key(0)))
    return sum(int(np.prod(leaf.shape)) for leaf in leaves)


if __name__ == "__main__":
    print(page(), end="")
