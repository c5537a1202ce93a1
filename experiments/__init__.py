"""Experiments on the library `recurrent`: ``from experiments import run, run_sweep, load_run``."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.harness.runs import load_run
    from experiments.harness.scripts import run, run_sweep

__all__ = ["load_run", "run", "run_sweep"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from experiments.harness import runs, scripts  # here, so that help needs no package

    return runs.load_run if name == "load_run" else getattr(scripts, name)
