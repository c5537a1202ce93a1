"""Show what a trained network looks at: ``./launch.sh explain RUN`` writes a page.

An experiment says what its input is by a function ``(run, flags) -> Explainable``.
"""

import dataclasses
import functools
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.files import path_of
from experiments.harness.runs import Command, Run
from experiments.shared.explain_page import exhibits_of, headline_of, table_of_methods
from experiments.shared.explain_trust import Explained, explained, probabilities
from experiments.shared.explainable import Explainable


@dataclasses.dataclass(frozen=True)
class ExplainFlags:
    """Hold the flags of ``./launch.sh explain`` that all inputs have."""

    target: int = option(
        -1, "which answer to explain, from 0 on; -1 takes the network's own", minimum=-1
    )
    explain_seed: int = option(0, "decides what is drawn at random", minimum=0, maximum=2**31 - 1)
    out: str = option("", "the page to write; explanation.html in the run directory by default")


def explain_command(flags: type, of: Callable[[Run, Any], Explainable]) -> Command:
    """Return the command, for an experiment that says what its input is.

    Args:
      flags: its flags, a subclass of `ExplainFlags`.
      of: ``(run, flags) -> Explainable``.
    """

    def run_it(run: Run, flags: ExplainFlags) -> Iterator[str]:
        it = of(run, flags)
        target, found = computed(it, flags)
        out = path_of(flags.out, "--out: ") if flags.out else run.folder / "explanation.html"
        write_page(run, it, target, found, out)
        yield from lines_of(it, target, found)
        yield f"explanation: {out}\n"

    return Command(flags, run_it, "show what the network looks at, and whether to trust it")


@functools.cache
def compiled(function: Callable[..., Any]) -> Any:
    """Return a function of a network and arrays, compiled once for each network and shape."""
    return jax.jit(function, static_argnums=0)


def computed(it: Explainable, flags: ExplainFlags) -> tuple[int, Explained]:
    """Return which answer is explained, and the explanations as NumPy arrays.

    Raises:
      UserError: for an answer that the network does not have.
    """
    example = jax.tree.map(jnp.asarray, it.example)
    if flags.target >= len(it.answers):
        raise UserError(
            f"--target: expected at most {len(it.answers) - 1}, got {flags.target}; the answers "
            f"are {', '.join(it.answers)}."
        )
    target = flags.target if flags.target >= 0 else it.target
    if target < 0:
        target = int(compiled(probabilities)(it.network, it.params, example).argmax())
    key = jax.random.key(flags.explain_seed)
    return target, jax.device_get(compiled(explained)(it.network, it.params, example, target, key))


def write_page(run: Run, it: Explainable, target: int, found: Explained, out: Path) -> None:
    """Write the page, and its figures into a folder of its name beside it.

    Raises:
      UserError: where they cannot be written.
    """
    from experiments.report.page import write_report

    try:
        write_report(
            out,
            title=f"Why {it.answers[target]}?",
            question=f"{run.experiment.word}, {it.title}: what did the answer depend on, and which "
            "of the maps can be trusted?",
            headline=headline_of(it, target, found),
            exhibits=exhibits_of(it, target, found),
            folder=out.with_suffix(""),
            result={},
            config={},
            commands={"Explain another": shlex.join(["./launch.sh", "explain", str(run.folder)])},
        )
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}.") from error


def lines_of(it: Explainable, target: int, found: Explained) -> Iterator[str]:
    """Write the answer and the table of the methods as a text."""
    share = float(np.asarray(found.probabilities)[target])
    yield f"{it.title}: {it.answers[target]}, probability {share:.4f}\n"
    table = table_of_methods(it, found)
    rows = [table.columns, *table.rows]
    widths = [max(len(row[k]) for row in rows) for k in range(len(table.columns))]
    for row in rows:
        yield "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() + "\n"
