"""Measure forward + backward of many networks of one shape: as one program, and one by one."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import libraries, with_recurrent
from experiments.bench.cases import Case, Shape
from experiments.bench.libraries import OURS
from experiments.bench.precision import rounded
from experiments.bench.program import Arrays, Network, Program, jax_program
from experiments.bench.reference import expected
from experiments.bench.weights import draw, named

MEMBERS = (1, 8, 32, 128)
CASES = tuple(Case("lstm", shape) for shape in (Shape(28, 32, 28, 128), Shape(128, 32, 128, 256)))
SLOW = 1.0  # seconds per call; a slower method is not run with more members
ONE_BY_ONE = "torch, one by one"
Made = Callable[[], tuple[Program, Arrays]]
Apply = Callable[[Any, Any], Any]


def methods(modules: dict[str, ModuleType]) -> list[str]:
    """Return the names of the methods that can be measured with the libraries given."""
    ours = ["ours, vmap", "ours, lax.map", "ours, one by one"]
    return ours + ([ONE_BY_ONE] if "torch" in modules else [])


def program(
    name: str, case: Case, members: int, precision: str, modules: dict[str, ModuleType]
) -> tuple[Program, Arrays]:
    """Build a method's program for a number of members, and what it must compute.

    Each member has weights and a batch of its own. The first and the last are compared with the
    reference.
    """
    if name.endswith("one by one"):
        module = modules["torch" if name == ONE_BY_ONE else OURS]
        return _repeated(module, case, members, precision)
    each = [rounded(precision, *draw(case, seed)) for seed in range(members)]
    networks = [with_recurrent.build(case, weights) for weights, _ in each]
    params = jax.tree.map(lambda *leaves: np.stack(leaves), *[n.params for n in networks])
    many = {"ours, vmap": jax.vmap, "ours, lax.map": _mapped}[name]
    network = networks[0]._replace(apply=many(networks[0].apply), params=params)
    made = jax_program(network, np.stack([xs for _, xs in each]), "backward")
    ends = sorted({0, members - 1})
    right = [expected(case, *each[k])["backward"] for k in ends]
    return made._replace(arrays=lambda result: _of_members(network, ends, result)), _joined(right)


def _mapped(apply: Apply) -> Apply:
    return lambda params, xs: jax.lax.map(lambda member: apply(*member), (params, xs))


def _repeated(
    module: ModuleType, case: Case, members: int, precision: str
) -> tuple[Program, Arrays]:
    weights, xs = rounded(precision, *draw(case))
    single = libraries.program(module, case, weights, xs, "backward")

    def run() -> Any:
        for _ in range(members - 1):
            single.run()
        return single.run()

    return single._replace(run=run), expected(case, weights, xs)["backward"]


def _of_members(network: Network, members: list[int], result: Any) -> Arrays:
    """Return the gradients of some members by name; the losses were added up."""
    _, gradients = result

    def of(k: int) -> Arrays:
        d_params, d_xs = jax.tree.map(lambda leaf: jnp.asarray(leaf)[k], gradients)
        return {"inputs": np.asarray(d_xs), **named(network.weights(d_params))}

    return _joined([of(k) for k in members])


def _joined(members: list[Arrays]) -> Arrays:
    inputs = np.stack([arrays["inputs"] for arrays in members])
    rest = {
        f"member {k}, {name}": array
        for k, arrays in enumerate(members)
        for name, array in arrays.items()
        if name not in ("inputs", "loss")
    }
    return {"inputs": inputs, **rest}
