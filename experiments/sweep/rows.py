"""The metrics of a sweep's members, as its programs have written them."""

from pathlib import Path
from typing import Any

from experiments import rundir


def program_folder(folder: Path, number: int) -> Path:
    """Where a program's checkpoints and metrics are."""
    return folder / "programs" / str(number)


def member_rows(folder: Path) -> dict[int, list[dict[str, Any]]]:
    """The metrics of each member, epoch by epoch."""
    rows: dict[int, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("programs/*/metrics.jsonl")):
        for tick in rundir.rows_of(file):
            for row in tick["members"]:
                rows.setdefault(row["member"], []).append(row)
    return rows
