"""List the libraries that are compared, and find those that are installed."""

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


class Library(NamedTuple):
    """Describe a library.

    Attributes:
      title: its name in tables and figures.
      module: the module to import.
      package: the package to install.
      on_jax: whether it runs on JAX.
      narrow: whether its cells can compute in bfloat16.
    """

    title: str
    module: str
    package: str
    on_jax: bool = True
    narrow: bool = True


LIBRARIES = {
    OURS: Library("ours", "recurrent", "recurrent"),
    SHARDED: Library("ours, sharded", "recurrent", "recurrent"),
    "torch": Library("torch", "torch", "torch", on_jax=False),
    "linen": Library("Flax linen", "flax", "flax"),
    "nnx": Library("Flax nnx", "flax", "flax", narrow=False),
    "haiku": Library("Haiku", "haiku", "dm-haiku", narrow=False),
    "equinox": Library("Equinox", "equinox", "equinox"),
    "keras": Library("Keras", "keras", "keras", narrow=False),
    "cudnn": Library("cuDNN in JAX", "jax", "jax", narrow=False),
    "scan": Library("lax.scan", "jax", "jax"),
}


def installed() -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Import our file for each installed library.

    Returns:
      The imported files, and the reasons why the others are missing, both by the names in
      `LIBRARIES`.
    """
    found, missing = {}, {}
    for name, library in LIBRARIES.items():
        if importlib.util.find_spec(library.module) is None:
            missing[name] = "it is not installed"
            continue
        try:
            found[name] = importlib.import_module(f"experiments.bench.with_{name}")
        except Exception as error:  # a broken installation, or one too old for this JAX
            missing[name] = f"its import fails with {type(error).__name__}: {error}"
    return found, missing


def versions() -> dict[str, str]:
    """Return the versions of all installed libraries and of the packages that they run on."""
    packages = {
        library.package
        for library in LIBRARIES.values()
        if importlib.util.find_spec(library.module)
    }
    return {name: version(name) for name in sorted(packages | {"jaxlib", "numpy", "optax"})}


def has(module: ModuleType, case: Case, precision: str = "float32") -> bool:
    """Return whether the library has the cell and can run the case in a precision."""
    suits: Any = getattr(module, "suits", None)
    name = module.__name__.rpartition("with_")[2]
    able = LIBRARIES[name].narrow or precision != "bfloat16"
    return able and case.cell in module.CELLS and (suits is None or suits(case))


def reset_of(module: ModuleType) -> Literal["after", "before"]:
    """Return whether the library's GRU resets after or before the product.

    See `reference.expected`.
    """
    return getattr(module, "RESET", "after")


def program(
    module: ModuleType, case: Case, weights: Weights, xs: np.ndarray, measure: str
) -> Program:
    """Build the library's program for one measurement of a case.

    Args:
      module: the library's file, as returned by `installed`.
      case: the network to run.
      weights: its weights, in the form of `experiments.bench.weights`.
      xs: its inputs ``[T, B, I]``.
      measure: a key of `experiments.bench.cases.MEASURES`.
    """
    made: Any = getattr(module, "program", jax_program)
    return made(module.build(case, weights), xs, measure)
