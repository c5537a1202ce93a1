"""Who is compared, and who of them is here."""

import importlib
import importlib.util
from importlib.metadata import version
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.bench.cases import Case
from experiments.bench.program import Program, jax_program
from experiments.bench.weights import Weights

OURS = "recurrent"
SHARDED = "sharded"


class Peer(NamedTuple):
    """A library: what to import and what to install for it, and whether it runs on JAX."""

    title: str
    module: str
    package: str
    on_jax: bool = True


PEERS = {
    OURS: Peer("ours", "recurrent", "recurrent"),
    SHARDED: Peer("ours, sharded", "recurrent", "recurrent"),
    "torch": Peer("torch", "torch", "torch", on_jax=False),
    "linen": Peer("Flax linen", "flax", "flax"),
    "nnx": Peer("Flax nnx", "flax", "flax"),
    "haiku": Peer("Haiku", "haiku", "dm-haiku"),
    "equinox": Peer("Equinox", "equinox", "equinox"),
    "keras": Peer("Keras", "keras", "keras"),
    "scan": Peer("lax.scan", "jax", "jax"),
}


def installed() -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Our file for each library that is here, by its name in `PEERS`; why others are not."""
    found, missing = {}, {}
    for name, peer in PEERS.items():
        if importlib.util.find_spec(peer.module) is None:
            missing[name] = "it is not installed"
            continue
        try:
            found[name] = importlib.import_module(f"experiments.bench.with_{name}")
        except Exception as error:  # an installation that is broken, or too old for this JAX
            missing[name] = f"its import fails with {type(error).__name__}: {error}"
    return found, missing


def versions() -> dict[str, str]:
    """The versions of all libraries here, and of what they run on."""
    packages = {peer.package for peer in PEERS.values() if importlib.util.find_spec(peer.module)}
    return {name: version(name) for name in sorted(packages | {"jaxlib", "numpy", "optax"})}


def has(module: ModuleType, case: Case) -> bool:
    """Whether the library has the cell at all, and can run the case."""
    suits: Any = getattr(module, "suits", None)
    return case.cell in module.CELLS and (suits is None or suits(case))


def reset_of(module: ModuleType) -> Literal["after", "before"]:
    """Which form its GRU has; see `reference.expected`."""
    return getattr(module, "RESET", "after")


def program(
    module: ModuleType, case: Case, weights: Weights, xs: np.ndarray, measure: str
) -> Program:
    """A measurement of the case by the library of that file."""
    made: Any = getattr(module, "program", jax_program)
    return made(module.build(case, weights), xs, measure)
