"""Show what a trained run is: its settings, its params by layer, its figures, its commands."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax

from experiments.harness.config import options
from experiments.harness.files import path_of
from experiments.harness.runs import Run, load_run


def describe(folder: str) -> str:
    """Return the page of text.

    Raises:
      UserError: as `load_run` does.
    """
    run = load_run(path_of(folder, "info: "))
    parts = {
        f"{run.experiment.name}: {run.experiment.question}".strip(": "): [f"in {run.folder}"],
        "Settings (* is not the default)": settings(run),
        "Params": columns(params_by_layer(run.kept)),
        "Result": columns([(name, str(value)) for name, value in run.result.items()]),
        "Figures": [str(path) for path in sorted((run.folder / "figures").glob("*"))],
        "Commands": [
            *(
                f"./launch.sh {word} {folder}: {command.help}"
                for word, command in run.experiment.commands.items()
            ),
            f"./launch.sh {run.experiment.word} --config={run.folder}/config.json: trains it again",
            f"./launch.sh report {folder}: shows it beside others",
        ],
    }
    lines = [line for head, own in parts.items() if own for line in ["", head, *own]]
    return "\n".join(lines[1:])


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
        count = math.prod(leaf.shape)
        total += count
        shape = " x ".join(map(str, leaf.shape)) or "scalar"
        rows.append((name, shape, str(leaf.dtype), f"{count:,}"))
    return [*rows, ("all", "", "", f"{total:,}")]


def columns(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns line up."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
