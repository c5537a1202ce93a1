"""Runs and sweeps side by side, on one page."""

import dataclasses
import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import rundir
from experiments.config import option
from experiments.errors import UserError
from experiments.report import Table, write_report
from experiments.sweep.rows import member_rows


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of a comparison."""

    out: str = option("", "the page; by default runs/report.html")


class Entry(NamedTuple):
    """A finished run, or the winner of a finished sweep.

    Attributes:
      name: of its folder.
      fields: what it was asked to do.
      result: its ``result.json``.
      curves: rows of metrics, of one training each.
    """

    name: str
    fields: dict[str, Any]
    result: dict[str, Any]
    curves: list[list[dict[str, Any]]]


def compare(folders: Sequence[str], out: Path) -> None:
    """Writes the page, with a picture beside it for the learning curves.

    Raises:
      UserError: for fewer than one folder, or one without a finished run or sweep.
    """
    if not folders:
        raise UserError("report: say which run directories, as in ./launch.sh report DIR DIR.")
    entries = [read(Path(folder).expanduser()) for folder in folders]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        picture = out.with_suffix(".png")
        draw(entries).savefig(picture)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}.") from error
    head, *lines = table(entries)
    write_report(
        out,
        title=f"{len(entries)} runs side by side",
        question="Which did best on the validation data, and what was different?",
        headline=[("lowest validation loss", min(entries, key=validation_loss).name)],
        tables=[Table("What differs, and what came of it", head, lines)],
        figures=[
            ("Validation loss", picture, "After each epoch; of a sweep, its winner's members.")
        ],
        result={},
        config={},
        commands={"Compare again": shlex.join(["./launch.sh", "report", *folders])},
    )


def read(folder: Path) -> Entry:
    """What a run or a sweep has left.

    Raises:
      UserError: where it is none, or not finished.
    """
    if not (folder / "result.json").exists():
        raise UserError(f"{folder} holds no finished run or sweep: it has no result.json.")
    identity, result = (rundir.read_json(folder / f"{n}.json") for n in ("config", "result"))
    fields = {"experiment": identity["experiment"], **identity["config"]}
    if "axes" not in identity:
        return Entry(folder.name, fields, result, [rundir.rows_of(folder / "metrics.jsonl")])
    best = {name: result[f"best_{name}"] for name in identity["axes"] if name != "seed"}
    return Entry(folder.name, fields | best | {"seed": "several"}, result, winners(folder, best))


def winners(folder: Path, best: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The metrics of each member of a sweep that has these values."""
    members = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    rows = member_rows(folder)
    return [rows[m["member"]] for m in members if best.items() <= m.items()]


def validation_loss(entry: Entry) -> float:
    """Infinity where it has none."""
    loss = entry.result.get("valid_loss")
    return math.inf if loss is None else loss


def table(entries: Sequence[Entry]) -> list[list[str]]:
    """Fields that differ and numbers that all have, best validation loss first."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.fields))
    differ = [n for n in names if len({str(entry.fields.get(n, "-")) for entry in entries}) > 1]
    measured = [
        name
        for name, value in entries[0].result.items()
        if name.startswith(("valid_", "test_", "train_seconds", "parameters"))
        and isinstance(value, float | int)
        and not name.endswith(("_spread", "gradient_norm"))
    ]
    lines = [
        [
            entry.name,
            *(str(entry.fields.get(name, "-")) for name in differ),
            *(number_text(entry.result.get(name)) for name in measured),
        ]
        for entry in sorted(entries, key=validation_loss)
    ]
    return [["run", *differ, *measured], *lines]


def number_text(value: Any) -> str:
    """A number in a few digits; ``-`` for none."""
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def draw(entries: Sequence[Entry]) -> Any:
    """Validation losses over steps, a colour for each entry."""
    from experiments import figures

    curves = {
        entry.name: [
            ([row["step"] for row in rows], [row.get("valid_loss") for row in rows])
            for rows in entry.curves
        ]
        for entry in entries
    }
    return figures.overlaid(curves, "validation loss")
