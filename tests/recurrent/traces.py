"""Count what a traced or compiled function does, to guard its speed without a clock."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import jaxpr_as_fun

KINDS = ("batch", "contracting")


class Loop(NamedTuple):
    """Describe one `jax.lax.scan` of a trace.

    Attributes:
      length: number of steps.
      carried: shapes of the carry.
      stacked: shapes of the outputs, stacked over all steps.
      products: number of matrix products in one step, without those of inner loops.
    """

    length: int
    carried: list[tuple[int, ...]]
    stacked: list[tuple[int, ...]]
    products: int


def loops(function: Callable[..., Any], *args: Any) -> list[Loop]:
    """Return all scans in the trace of a function, outer before inner."""
    return [as_loop(equation) for equation in equations(function, *args) if is_scan(equation)]


def products_in_compiled_loops(function: Callable[..., Any], *args: Any) -> list[int]:
    """Count the matrix products in one step of each loop of the program that XLA compiles."""
    return [len(re.findall(r" dot\(", body)) for body in compiled_loops(function, *args)]


def turned_products_in_compiled_loops(function: Callable[..., Any], *args: Any) -> list[int]:
    """Count the matrix products by a transposed second operand in one step of each loop."""

    def is_turned(product: str) -> bool:
        batch, along = (re.search(rf"rhs_{kind}_dims=\{{([\d,]+)", product) for kind in KINDS)
        return along is not None and int(along[1]) > (batch[1].count(",") + 1 if batch else 0)

    bodies = [re.findall(r" dot\([^\n]*", body) for body in compiled_loops(function, *args)]
    return [sum(map(is_turned, products)) for products in bodies]


def copies_in_compiled_loops(length: int, function: Callable[..., Any], *args: Any) -> list[str]:
    """Return the shapes ``[length, ...]`` that a compiled loop copies in each step."""
    copy = rf"= (\w+\[{length},[^ ]*) copy\("
    return [shape for body in compiled_loops(function, *args) for shape in re.findall(copy, body)]


def compiled_loops(function: Callable[..., Any], *args: Any) -> list[str]:
    """Return the text of each compiled loop body, with the computations that it calls."""
    text = jax.jit(function).lower(*args).compile().as_text() or ""
    parts = dict(re.findall(r"^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S))

    def whole(name: str) -> str:
        inner = re.findall(r"\b(?:calls|to_apply|body)=%?([\w.-]+)", parts[name])
        return parts[name] + "".join(map(whole, inner))

    return [whole(name) for name in re.findall(r"\bbody=%?([\w.-]+)", text)]


def operations(function: Callable[..., Any], *args: Any) -> float:
    """Return XLA's count of floating-point operations, with all loops unrolled.

    XLA counts the body of a loop once, whatever the number of steps. A loop over integers alone,
    such as one that puts a solver's pivots in order, has no such operations.
    """
    with jax.disable_jit():  # which runs a scan as a Python loop
        unrolled = jaxpr_as_fun(jax.make_jaxpr(function)(*args))
    program = jax.jit(unrolled).lower(*jax.tree.leaves(args))
    carried = re.findall(r"stablehlo\.while\(.*\) : (.*)", program.as_text())
    assert not [types for types in carried if re.search(r"b?f\d", types)]
    cost: Any = program.cost_analysis()
    return cost["flops"]


def equations(function: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """Return all equations in the trace of a function, nested ones included."""
    return inside(jax.make_jaxpr(function)(*args).jaxpr)


def inside(jaxpr: Any, enter: Callable[[Any], bool] = lambda equation: True) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        if enter(equation):
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=has_equations):
                if has_equations(inner):
                    yield from inside(getattr(inner, "jaxpr", inner), enter)


def has_equations(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def is_scan(equation: Any) -> bool:
    return equation.primitive.name == "scan"


def as_loop(equation: Any) -> Loop:
    jaxpr = equation.params["jaxpr"]
    body = getattr(jaxpr, "jaxpr", jaxpr)
    shapes = [each.aval.shape for each in equation.outvars]
    inner = [each.aval.shape for each in body.outvars]
    own = inside(body, enter=lambda equation: not is_scan(equation))
    return Loop(
        equation.params["length"],
        [whole for whole, step in zip(shapes, inner, strict=True) if whole == step],
        [whole for whole, step in zip(shapes, inner, strict=True) if whole != step],
        sum(each.primitive.name == "dot_general" for each in own),
    )
