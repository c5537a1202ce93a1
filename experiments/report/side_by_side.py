"""Put runs and sweeps side by side, on one page."""

import dataclasses
import json
import math
import os
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import rundir
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.files import path_of
from experiments.harness.numbers import checked_row, damaged
from experiments.harness.plan import Outcome
from experiments.harness.program import Exhibit, Figure, Row, Table
from experiments.harness.runs import read_identity
from experiments.report.page import write_report
from recurrent.training.task import Metric

TITLE = "side by side"  # the end of the title, by which an earlier page is recognized
CAPTION = "One point per evaluation. A sweep shows the members of its best configuration."


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hold the flags of a comparison."""

    out: str = option("", "the page; by default report.html in the folder that holds the runs")


class Entry(NamedTuple):
    """Hold a finished run, or the winner of a finished sweep.

    Attributes:
      name: the end of its folder's path.
      fields: what it was asked to do.
      result: its ``result.json``.
      select: the metric by which its best evaluation was selected.
      curves: rows of metrics, of one training each.
    """

    name: str
    fields: dict[str, Any]
    result: dict[str, Any]
    select: Metric
    curves: list[list[Row]]

    @property
    def score(self) -> float:
        """Return the validation score, higher for better; minus infinity where there is none."""
        value = self.result.get(f"valid_{self.select.name}")
        return -math.inf if value is None else self.select.score(value)


def compare(folders: Sequence[str], out: Path) -> None:
    """Write the page.

    Raises:
      UserError: for fewer than one folder, one without a finished run or sweep, or a page that
        would take the place of anything but an earlier comparison.
    """
    if not folders:
        raise UserError("report: say which run directories, as in ./launch.sh report DIR DIR.")
    paths = [path_of(folder, "report: ") for folder in folders]
    entries = [read(path, name) for path, name in zip(paths, names_of(paths), strict=True)]
    check_earlier_page(out)
    metrics = list(dict.fromkeys(entry.select for entry in entries))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            write_report(
                out,
                title=f"{len(entries)} runs {TITLE}",
                question=question_of(metrics),
                headline=headline_of(entries, metrics),
                notes=notes_of(metrics),
                exhibits=exhibits_of(entries, metrics),
                folder=Path(scratch) / "figures",
                result={},
                config={},
                commands={"Compare again": shlex.join(["./launch.sh", "report", *folders])},
            )
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}.") from error


def beside(folders: Sequence[str]) -> Path:
    """Return where the page of runs is by default: in the folder that holds all of them.

    That of a sweep has a page of its own, so a training in it counts as the sweep. Where runs have
    no more in common than the root, it is the working directory.
    """
    parents = [path_of(folder, "report: ").absolute().parent for folder in folders]
    parent = Path(os.path.commonpath(parents)) if parents else Path()
    while (parent / "config.json").exists():
        parent = parent.parent
    return (Path() if parent == Path(parent.anchor) else parent) / "report.html"


def question_of(metrics: Sequence[Metric]) -> str:
    """Say what the page answers."""
    first = "Which did best on the validation data" if len(metrics) == 1 else "What did each reach"
    return f"{first}, and what was different?"


def notes_of(metrics: Sequence[Metric]) -> list[str]:
    """Say that runs cannot be ranked together, where they cannot."""
    if len(metrics) == 1:
        return []
    goals = ", ".join(f"{extreme(metric)} {metric.name}" for metric in metrics)
    return [
        "These runs cannot be ranked together: their best evaluations were selected by different "
        f"metrics ({goals})."
    ]


def extreme(metric: Metric) -> str:
    """Return the word for the best value of a metric."""
    return "highest" if metric.higher_is_better else "lowest"


def headline_of(entries: Sequence[Entry], metrics: Sequence[Metric]) -> list[tuple[str, str]]:
    """Return the name of the best entry, where there is one."""
    best = best_of(entries) if len(metrics) == 1 else None
    return [(f"{best_words(best)} at its best evaluation", best.name)] if best else []


def best_of(entries: Sequence[Entry]) -> Entry | None:
    """Return the best of entries that were selected by the same metric, where any has a score."""
    best = max(entries, key=lambda entry: entry.score)
    return None if best.score == -math.inf else best


def best_words(best: Entry) -> str:
    """Say what the best entry reached, as in ``lowest validation error, 0.25,``."""
    name = f"valid_{best.select.name}"
    value = format_number(best.result[name])
    return f"{extreme(best.select)} validation {best.select.name}, {value},"


def check_earlier_page(out: Path) -> None:
    """Raise `UserError` where the page would take the place of something else."""
    if out.suffix != ".html":
        raise UserError(f"--out: expected a name that ends in .html, got {out}.")
    if out.is_file() and f"{TITLE}</title>" not in out.read_text(errors="replace"):
        raise UserError(f"--out: {out} is there and no earlier comparison; choose another name.")


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return the ends of paths, as long as it takes to tell them apart, or else numbered names."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{k} {folder.name}" for k, folder in enumerate(folders, start=1)]


def read(folder: Path, name: str) -> Entry:
    """Read what a run or a sweep has left.

    Raises:
      UserError: where it is none, not finished, or of an earlier version.
    """
    if not (folder / "result.json").exists():
        raise UserError(f"{folder} holds no finished run or sweep: it has no result.json.")
    identity, file = read_identity(folder), folder / "result.json"
    result = checked_row(file, rundir.read_json(file))
    if not isinstance(result.get("select"), str):
        raise UserError(
            f"The result in {folder} does not say which metric counts, since an earlier version "
            "wrote it; make it again by this one."
        )
    select = Metric(result["select"], bool(result.get("higher_is_better")))
    fields = {"experiment": identity["experiment"], **identity["config"]}
    if "axes" not in identity:
        return Entry(name, fields, result, select, [rows_in(folder / "metrics.jsonl", ["step"])])
    if not isinstance(identity["axes"], dict):
        raise damaged(folder / "config.json", f"axes is {identity['axes']!r}")
    swept = [field for field in identity["axes"] if field != "seed"]
    if missing := [field for field in swept if f"best_{field}" not in result]:
        raise damaged(file, f"it does not say the best {missing[0]}")
    best = {field: result[f"best_{field}"] for field in swept}
    seeds = {"seed": "several"} if "seed" in identity["axes"] else {}
    return Entry(name, fields | best | seeds, result, select, winners(folder, best))


def winners(folder: Path, best: dict[str, Any]) -> list[list[Row]]:
    """Return the metrics of each member of a sweep that has these values."""
    rows, members = member_rows(folder), outcomes_in(folder / "sweep.jsonl")
    return [rows.get(each["member"], []) for each in members if best.items() <= each.items()]


def outcomes_in(file: Path) -> list[Outcome]:
    """Return what ``sweep.jsonl`` says of the members of a sweep.

    Raises:
      UserError: where it holds something else.
    """
    try:
        read = [json.loads(line) for line in rundir.bytes_of(file).splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(file, f"{error}") from error
    return [checked_row(file, each, ["member"]) for each in read]


def member_rows(folder: Path) -> dict[int, list[Row]]:
    """Return the metrics of each member of a sweep, evaluation by evaluation."""
    rows: dict[int, list[Row]] = {}
    for file in sorted(folder.glob("programs/*/metrics.jsonl")):
        for row in rows_in(file, ["step", "member"]):
            rows.setdefault(row["member"], []).append(row)
    return rows


def rows_in(file: Path, whole: Sequence[str]) -> list[Row]:
    """Return the rows of a file of metrics, checked; see `checked_row`."""
    return [checked_row(file, row, whole) for row in rundir.rows_of(file)]


def exhibits_of(entries: Sequence[Entry], metrics: Sequence[Metric]) -> Iterator[Exhibit]:
    """Return results, curves and the settings that differ, the best first where there is one."""
    ranked = sorted(entries, key=lambda entry: -entry.score) if len(metrics) == 1 else entries
    yield results_of(ranked, metrics)
    differ = settings_of(ranked)
    if differ.rows:
        yield differ
    yield from figures_of(entries, metrics)


def results_of(entries: Sequence[Entry], metrics: Sequence[Metric]) -> Table:
    """Return what was measured, a row for each entry, what they were selected by first."""
    first = [f"valid_{metric.name}" for metric in metrics]

    def place(name: str) -> tuple[bool, ...]:
        return name not in first, not name.startswith("valid_"), not name.startswith("test_")

    measured = sorted(measurements(entries), key=place)
    caption = "Validation and test metrics are those of a run at its best evaluation."
    if any("configurations" in entry.result for entry in entries):
        caption += " Of a sweep they are means over the members of its best configuration."
    return Table(
        "ranking" if len(metrics) == 1 else "runs",
        "Results, the best first" if len(metrics) == 1 else "Results",
        caption,
        ["run", *measured],
        [
            [entry.name, *(format_number(entry.result.get(name)) for name in measured)]
            for entry in entries
        ],
    )


def settings_of(entries: Sequence[Entry]) -> Table:
    """Return the settings that differ, a row for each, in a column for each entry."""
    names = dict.fromkeys(name for entry in entries for name in entry.fields)
    rows = [[name, *(str(entry.fields.get(name, "-")) for entry in entries)] for name in names]
    return Table(
        "settings",
        "Settings that differ",
        "All others are the same.",
        ["setting", *(entry.name for entry in entries)],
        [row for row in rows if len(set(row[1:])) > 1],
    )


def measurements(entries: Sequence[Entry]) -> list[str]:
    """Return the names of what was measured in any of the entries."""
    found = {
        name: value
        for entry in entries
        for name, value in entry.result.items()
        if value is not None
    }
    return [
        name
        for name, value in found.items()
        if name.startswith(("valid_", "test_", "train_seconds", "parameters"))
        and isinstance(value, float | int)
        and not name.endswith(("_spread", "gradient_norm"))
    ]


def format_number(value: Any) -> str:
    """Write a number in a few digits; ``-`` for none."""
    if not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def figures_of(entries: Sequence[Entry], metrics: Sequence[Metric]) -> list[Figure]:
    """Draw one figure for each name among the metrics."""
    names = list(dict.fromkeys(metric.name for metric in metrics))
    return [draw(entries, name, f"curves_{k}") for k, name in enumerate(names, start=1)]


def draw(entries: Sequence[Entry], metric: str, file: str) -> Figure:
    """Draw a validation metric over the steps of the entries that were selected by it."""
    from experiments.figures.curves import overlaid

    curves = {
        entry.name: [
            ([row["step"] for row in rows], [row.get(f"valid_{metric}") for row in rows])
            for rows in entry.curves
        ]
        for entry in entries
        if entry.select.name == metric
    }
    best = best_of([entry for entry in entries if entry.select.name == metric])
    message = f"{best.name}: {best_words(best)} at its best evaluation" if best else "No score"
    heading = f"Validation {metric} after each evaluation"
    return Figure(file, heading, CAPTION, overlaid(curves, message))
