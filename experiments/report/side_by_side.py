"""Runs and sweeps side by side, on one page."""

import dataclasses
import json
import math
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import rundir
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.report.page import Table, write_report
from experiments.sweep.plan import member_rows

TITLE = "side by side"  # the end of the title, by which an earlier page is known
CAPTION = "After each epoch; of a sweep, its winner's members."


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of a comparison."""

    out: str = option("", "the page; by default runs/report.html")


class Entry(NamedTuple):
    """A finished run, or the winner of a finished sweep.

    Attributes:
      name: the end of its folder's path.
      fields: what it was asked to do.
      result: its ``result.json``.
      curves: rows of metrics, of one training each.
    """

    name: str
    fields: dict[str, Any]
    result: dict[str, Any]
    curves: list[list[dict[str, Any]]]


def compare(folders: Sequence[str], out: Path) -> None:
    """Writes the page.

    Raises:
      UserError: for fewer than one folder, one without a finished run or sweep, or a page that
        would take the place of anything but an earlier comparison.
    """
    if not folders:
        raise UserError("report: say which run directories, as in ./launch.sh report DIR DIR.")
    paths = [Path(folder).expanduser() for folder in folders]
    entries = [read(path, name) for path, name in zip(paths, names_of(paths), strict=True)]
    refuse_other_page(out)
    head, *lines = table(entries)
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "loss.png"
        draw(entries).savefig(picture)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_report(
                out,
                title=f"{len(entries)} runs {TITLE}",
                question="Which did best on the validation data, and what was different?",
                headline=[("lowest validation loss", min(entries, key=validation_loss).name)],
                tables=[Table("What differs, and what came of it", head, lines)],
                figures=[("Validation loss", picture, CAPTION)],
                result={},
                config={},
                commands={"Compare again": shlex.join(["./launch.sh", "report", *folders])},
            )
        except OSError as error:
            raise UserError(f"--out: {out} cannot be written: {error.strerror}.") from error


def refuse_other_page(out: Path) -> None:
    """Raises `UserError` where the page would take the place of something else."""
    if out.suffix != ".html":
        raise UserError(f"--out: expected a name that ends in .html, got {out}.")
    if out.is_file() and f"{TITLE}</title>" not in out.read_text(errors="replace"):
        raise UserError(f"--out: {out} is there and no earlier comparison; choose another name.")


def names_of(folders: Sequence[Path]) -> list[str]:
    """The end of each path, as long as it takes to tell them apart; a number where nothing does."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{k} {folder.name}" for k, folder in enumerate(folders, start=1)]


def read(folder: Path, name: str) -> Entry:
    """What a run or a sweep has left.

    Raises:
      UserError: where it is none, or not finished.
    """
    if not (folder / "result.json").exists():
        raise UserError(f"{folder} holds no finished run or sweep: it has no result.json.")
    identity, result = (rundir.read_json(folder / f"{n}.json") for n in ("config", "result"))
    fields = {"experiment": identity["experiment"], **identity["config"]}
    if "axes" not in identity:
        return Entry(name, fields, result, [rundir.rows_of(folder / "metrics.jsonl")])
    best = {field: result[f"best_{field}"] for field in identity["axes"] if field != "seed"}
    seeds = {"seed": "several"} if "seed" in identity["axes"] else {}
    return Entry(name, fields | best | seeds, result, winners(folder, best))


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
        for name, value in {k: v for entry in entries for k, v in entry.result.items()}.items()
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
    from experiments.figures.curves import overlaid

    curves = {
        entry.name: [
            ([row["step"] for row in rows], [row.get("valid_loss") for row in rows])
            for rows in entry.curves
        ]
        for entry in entries
    }
    return overlaid(curves, "validation loss")
