"""See how far the gates and activations of a cell are saturated, each by its name.

A saturated gate is as good as open or shut, and lets hardly any gradient through. Nothing has to
be prepared in a cell: its step is traced, and the results of its sigmoids, hyperbolic tangents and
rectifiers are read off. `jax.named_scope`, which changes no program, names them.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

from recurrent.cell import Cell, Params, State, unroll
from recurrent.errors import ArgumentError

KINDS = {  # by primitive or function
    "logistic": "sigmoid",
    "hard_sigmoid": "sigmoid",
    "tanh": "tanh",
    "hard_tanh": "tanh",
    "relu": "relu",
}
UNBOUNDED = ("silu", "mish")  # functions made of a sigmoid or tanh that gates nothing
BOUNDS = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "relu": (0.0, jnp.inf)}
CALLS = ("jit", "pjit", "closed_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")


class Saturation(NamedTuple):
    """Hold which share of the entries of an activation lies near its bounds, ``[...]`` each.

    Attributes:
      low: near the lower bound: a sigmoid near 0, tanh near -1; of a rectifier, exactly 0.
      high: near the upper bound, 1; of a rectifier 0.
    """

    low: Array
    high: Array


def activations(
    cell: Cell, params: Params, xs: Any, state: State | None = None
) -> dict[str, dict[str, Array]]:
    """Return the values of all sigmoids, hyperbolic tangents and rectifiers of a cell's steps.

    They are found in what one step computes, functions that it calls included, but not in loops
    and branches inside of the step. The hard forms of `jax.nn` count, and ``max(z, 0)`` is a
    rectifier. A function written out by other operations is not seen, and the tanh in `jax.nn.gelu`
    is seen as one.

    Args:
      cell: any cell with a step.
      params: of the cell.
      xs: inputs ``[T, ..., *cell.input_shape]``.
      state: before the first step; the cell's initial state by default.

    Returns:
      By kind, ``"sigmoid"``, ``"tanh"`` and ``"relu"`` as far as there are such, and by name,
      values ``[T, ..., H]``. The name is that of the `jax.named_scope` in which one is computed,
      such as ``"forget"``, else its kind. Where a name comes twice, the second has a number:
      ``"forget 2"``.

    Raises:
      ValueError: as `unroll` does, such as for a cell without a step.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import lstm
      >>> from recurrent.saturation import activations
      >>> cell = lstm(2, 3)
      >>> found = activations(cell, cell.init(jax.random.key(0)), jnp.ones((5, 4, 2)))
      >>> {kind: list(values) for kind, values in found.items()}
      {'sigmoid': ['forget', 'input', 'output'], 'tanh': ['candidate', 'cell']}
      >>> found["sigmoid"]["forget"].shape
      (5, 4, 3)
    """
    xs = jnp.asarray(xs)
    jax.eval_shape(lambda: unroll(cell, params, xs, state, method="scan"))
    if state is None:
        batch = xs.shape[1 : xs.ndim - len(cell.input_shape)]
        state = cell.initial_state(params, batch)
    x = jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype)
    closed, shapes = jax.make_jaxpr(cell.step, return_shape=True)(params, state, x)

    def body(state: State, x: Array) -> tuple[State, dict[str, dict[str, Array]]]:
        found: list[tuple[str, str, Array]] = []
        given = jax.tree.leaves((params, state, x))
        outs = _evaluate(closed.jaxpr, closed.consts, given, "", found)
        state, _ = jax.tree.unflatten(jax.tree.structure(shapes), outs)
        return state, _by_name(found)

    return lax.scan(body, state, xs)[1]


def saturation(
    cell: Cell, params: Params, xs: Any, state: State | None = None, *, margin: float = 0.05
) -> dict[str, Saturation]:
    """Return which share of the entries of each gate and activation is near one of its bounds.

    Equation: over all steps and units, the mean of ``g <= margin`` and of ``g >= 1 - margin`` for
    a sigmoid g, of ``a <= margin - 1`` and ``a >= 1 - margin`` for a hyperbolic tangent a.

    Args:
      cell: any cell with a step.
      params: of the cell.
      xs: inputs ``[T, ..., *cell.input_shape]``.
      state: before the first step; the cell's initial state by default.
      margin: how near counts as saturated, above 0 and at most 0.5.

    Returns:
      By name, as in `activations`, the shares for each sequence, ``[...]``.

    Raises:
      ValueError: for another margin, and as `activations` does.

    References:
      Karpathy et al. 2015, Visualizing and understanding recurrent networks, arXiv:1506.02078,
      with a margin of 0.1. Departure: shares of all entries, where the paper has one for each unit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import lstm
      >>> from recurrent.saturation import saturation
      >>> cell = lstm(2, 3, forget_bias=30.0)
      >>> found = saturation(cell, cell.init(jax.random.key(0)), jnp.ones((5, 4, 2)))
      >>> found["forget"].high.tolist(), found["forget"].low.tolist()
      ([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
    """
    if not 0 < margin <= 0.5:
        raise ArgumentError(f"margin: expected above 0 and at most 0.5, got {margin}.")
    xs = jnp.asarray(xs)
    batch = xs.ndim - 1 - len(cell.input_shape)

    def shares(kind: str, values: Array) -> Saturation:
        low, high = BOUNDS[kind]
        near = 0.0 if kind == "relu" else margin
        rest = (0, *range(1 + batch, values.ndim))
        return Saturation((values <= low + near).mean(rest), (values >= high - near).mean(rest))

    found = activations(cell, params, xs, state)
    return {
        name: shares(kind, values)
        for kind, named in found.items()
        for name, values in named.items()
    }


def _by_name(found: list[tuple[str, str, Array]]) -> dict[str, dict[str, Array]]:
    """Sort values by kind and name; of one name, all but the first get a number."""
    seen: Counter[str] = Counter()
    sorted_: dict[str, dict[str, Array]] = {}
    for kind, name, value in found:
        seen[name] += 1
        numbered = name if seen[name] == 1 else f"{name} {seen[name]}"
        sorted_.setdefault(kind, {})[numbered] = value
    return sorted_


def _evaluate(
    jaxpr: Jaxpr, consts: Any, given: Any, scope: str, found: list[tuple[str, str, Array]]
) -> list[Array]:
    """Compute what a trace computes; append kind, name and value of each activation to a list."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *given], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        name = "/".join(part for part in (scope, str(equation.source_info.name_stack)) if part)
        kind = _kind(equation)
        inner = None if kind else _inner(equation)
        if inner is None:
            outs = _applied(jaxpr, equation, inputs)
        else:
            outs = _evaluate(inner.jaxpr, inner.consts, inputs, name, found)
        if kind:
            found.append((kind, name or kind, outs[0]))
        known.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _applied(jaxpr: Jaxpr, equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    """Compute one equation of a trace from other inputs."""
    atoms = zip(equation.invars, inputs, strict=True)
    given = {atom: value for atom, value in atoms if not isinstance(atom, Literal)}
    alone = jaxpr.replace(constvars=[], invars=[*given], eqns=[equation], outvars=equation.outvars)
    return jaxpr_as_fun(ClosedJaxpr(alone, ()))(*given.values())


def _kind(equation: JaxprEqn) -> str | None:
    """Return the kind of activation that an equation computes; None for any other equation."""
    name = equation.primitive.name
    if name == "max" and any(isinstance(a, Literal) and a.val == 0 for a in equation.invars):
        return "relu"
    return KINDS.get(_function(equation) or name)


def _function(equation: JaxprEqn) -> str | None:
    """Return the name of the compiled function that an equation calls; None where there is none."""
    is_call = equation.primitive.name in ("jit", "pjit")
    return str(equation.params.get("name")) if is_call else None


def _inner(equation: JaxprEqn) -> Any:
    """Return the trace of the function that an equation calls once; None where there is none."""
    if equation.primitive.name not in CALLS or _function(equation) in UNBOUNDED:
        return None
    return next(_traces(equation), None)


def _traces(equation: JaxprEqn) -> Iterator[Any]:
    for name in ("jaxpr", "call_jaxpr"):
        trace = equation.params.get(name)
        if hasattr(trace, "jaxpr"):
            yield trace
        elif isinstance(trace, Jaxpr):
            yield ClosedJaxpr(trace, ())
