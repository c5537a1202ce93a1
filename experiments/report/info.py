"""Show what a trained run is: its settings, its params by layer, its figures, its commands."""

import math
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.harness.config import options
from experiments.harness.errors import have_changed
from experiments.harness.files import path_of
from experiments.harness.identity import changed_files, code_hashes
from experiments.harness.runs import Run, load_run, read_identity


def describe(folder: str) -> str:
    """Return the page of text.

    Raises:
      UserError: as `load_run` does.
    """
    run = load_run(path_of(folder, "info: "))
    parts = {
        f"{run.experiment.name}: {run.experiment.question}".strip(": "): where_from(run),
        "Settings (* is not the default)": settings(run),
        "Params": columns(params_by_layer(run.kept)),
        "Result": columns([(name, str(value)) for name, value in run.result.items()]),
        "Figures": [str(path) for path in sorted((run.folder / "figures").glob("*"))],
        "Commands": commands_of(run, folder),
    }
    lines = [line for head, own in parts.items() if own for line in ["", head, *own]]
    return "\n".join(lines[1:])


def where_from(run: Run) -> list[str]:
    """Return the folder of a run, and which files of its experiment were edited since."""
    edited = changed_files(read_identity(run.folder)["sources"], code_hashes(run.experiment))
    since = f"{have_changed(edited)} since it was begun: what is computed now may differ."
    return [f"in {run.folder}", *([since] if edited else [])]


def commands_of(run: Run, folder: str) -> list[str]:
    """Return what can be done with a run, as a shell takes it, each with a comment."""
    again = f"--config={run.folder / 'config.json'}"
    said = [
        *(
            (["./launch.sh", word, folder], command.help)
            for word, command in run.experiment.commands.items()
        ),
        (["./launch.sh", run.experiment.word, again, "--name=again"], "trains it again"),
        (["./launch.sh", "report", folder], "writes a page of it, and of others named beside it"),
    ]
    return [f"{shlex.join(words)}   # {meaning}" for words, meaning in said]


def settings(run: Run) -> list[str]:
    """Return the fields of the Config, those that were changed marked."""
    return columns(
        [
            ("*" if value != field.default else " ", name, str(value))
            for name, field in options(run.config).items()
            for value in [getattr(run.config, name)]
        ]
    )


def params_by_layer(kept: Any) -> list[tuple[str, ...]]:
    """Return each array's path, shape, type and number of params, then their sum.

    Example:
      >>> import jax.numpy as jnp
      >>> for row in params_by_layer({"dense": {"kernel": jnp.ones((3, 4))}}):
      ...     print(row)
      ('dense.kernel', '3 x 4', 'float32', '12')
      ('all', '', '', '12')
    """
    rows, total = [], 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(kept):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "kept"
        count = math.prod(leaf.shape) if is_trained(leaf) else 0
        total += count
        shape = " x ".join(map(str, leaf.shape)) or "scalar"
        rows.append((name, shape, str(leaf.dtype), f"{count:,}"))
    return [*rows, ("all", "", "", f"{total:,}")]


def is_trained(leaf: Any) -> bool:
    """Return whether an array holds params, which are not whole numbers, and no pictures."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns line up."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
