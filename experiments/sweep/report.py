"""Leave what a sweep leaves: the ranked table, figures, the page and ``result.json``."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.harness import rundir
from experiments.harness.config import options
from experiments.harness.plan import DIVERGED, FINISHED, STOPPED, Plan
from experiments.harness.program import Program, Row, Table
from experiments.report.page import write_report
from experiments.report.result import selected_by, when_and_where
from experiments.sweep import alone, figures, pairs
from experiments.sweep.edges import edge_notes
from experiments.sweep.flags import Sweep
from experiments.sweep.ranking import Configuration, best_member, mean_and_spread
from recurrent.training.task import Metric

MOST_LINES = 40
MOST_BOXES = 3


def write(
    sweep: Sweep,
    plan: Plan,
    configurations: Sequence[Configuration],
    rows: Mapping[int, Sequence[Row]],
    seconds: float,
    folder: Path,
) -> None:
    """Write figures, ``report.html`` and, last, ``result.json``.

    Args:
      sweep: what was asked for.
      plan: of the first program.
      configurations: best first.
      rows: the metrics of each member, evaluation by evaluation.
      seconds: that the training took.
      folder: of the sweep.
    """
    program = plan.program
    found = final_numbers(sweep, configurations, program, seconds)
    against = pairs.all_of(configurations, program.report, program.against)
    if sweep.settings.search == "alone":
        versus = alone.compared(configurations, dataclasses.asdict(sweep.base), program.report)
        found |= alone.numbers(versus, program.metrics)
        shown = [*against, *alone.exhibits(versus, rows, sweep.base, program, folder)]
    else:
        drawn = figures.all_of(configurations, rows, program.metrics, plan.marks)
        shown = [*against, ranking_table(configurations, program), *drawn]
    write_report(
        folder / "report.html",
        title=f"sweep of {sweep.experiment.name}",
        question=sweep.experiment.question,
        headline=headline(configurations, program, found),
        notes=edge_notes(sweep, configurations[0]),
        exhibits=shown,
        folder=folder / "figures",
        result=found,
        config={
            name: (value, field.default, field.help) for name, field, value in settings_of(sweep)
        },
        commands={
            best_words(sweep).capitalize(): best_command(sweep, configurations[0]),
            "Sweep again": sweep.command,
        },
    )
    rundir.write_json(folder / "result.json", found)


def ranking_table(configurations: Sequence[Configuration], program: Program) -> Table:
    """Return the ranking as an exhibit."""
    head, *lines = table(configurations, program)
    select = program.select
    better = "higher" if select.higher_is_better else "lower"
    caption = "Metrics of the validation split, of each member at its best evaluation."
    return Table(
        "ranking",
        f"Ranking, by validation {select.name} ({better} is better)",
        f"{caption} {spread_note(configurations)}".strip(),
        head,
        lines,
    )


def spread_note(configurations: Sequence[Configuration]) -> str:
    """Say what the numbers after \u00b1 are; return nothing where there are none."""
    counts = [len(each.members) for each in configurations]
    if max(counts) == 1:
        return ""
    seeds = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    return f"A value is a mean, \u00b1 is the sample standard deviation over {seeds} seeds."


def settings_of(sweep: Sweep) -> list[tuple[str, Any, Any]]:
    """Return name, option and value of every field, of swept ones all values."""
    swept = {axis.field: axis for axis in sweep.swept}
    named = [(name, field, sweep.base) for name, field in options(sweep.base).items()]
    named += [(name, field, sweep.settings) for name, field in options(sweep.settings).items()]
    return [
        (name, field, swept[name].describe() if name in swept else getattr(owner, name))
        for name, field, owner in named
    ]


def table(configurations: Sequence[Configuration], program: Program) -> list[list[str]]:
    """Return the ranking as rows of texts, its column names first.

    Numbers of seeds and evaluations are listed where they differ, endings where not all finished.
    """
    several = any(len(each.members) > 1 for each in configurations)
    columns = {"rank": [str(rank) for rank in range(1, len(configurations) + 1)]}
    for field in configurations[0].values:
        columns[field] = [value_text(each.values[field]) for each in configurations]
    for name in [*(metric.name for metric in program.metrics), *program.against]:
        means = [mean_and_spread(each.of(f"valid_{name}")) for each in configurations]
        columns[f"validation {name}"] = [format_mean(mean, several) for mean in means]
    counts = {
        "seeds": [str(len(each.members)) for each in configurations],
        "evaluations": [evaluations_text(each) for each in configurations],
    }
    columns |= {name: texts for name, texts in counts.items() if len(set(texts)) > 1}
    endings = [ending(each) for each in configurations]
    columns |= {"ended": endings} if set(endings) != {FINISHED} else {}
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def evaluations_text(configuration: Configuration) -> str:
    """Return how often its members were evaluated, as ``9`` or ``3-9``."""
    counts = [each["evaluations_done"] for each in configuration.members]
    return "-".join(str(count) for count in dict.fromkeys([min(counts), max(counts)]))


def format_mean(mean: tuple[float, float] | None, several: bool) -> str:
    """Write a mean, with its standard deviation where there are several seeds."""
    if mean is None:
        return "-"
    form = ".4f" if 1e-3 <= abs(mean[0]) < 1e4 else ".4g"  # so that small and large ones differ
    return f"{mean[0]:{form}} \u00b1 {mean[1]:{form}}" if several else f"{mean[0]:{form}}"


def value_text(value: Any) -> str:
    """Write a swept value as a command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def ending(configuration: Configuration) -> str:
    """Say how its members ended."""
    lost = [each for each in configuration.members if each["status"] == DIVERGED]
    if lost:
        where = ", ".join(str(each["step"]) for each in lost)
        some = "" if len(lost) == len(configuration.members) else f"{len(lost)} "
        return f"{some}diverged at step {where}"
    found = dict.fromkeys(each["status"] for each in configuration.members)
    return ", ".join("stopped at a rung" if each == STOPPED else each for each in found)


def table_text(configurations: Sequence[Configuration], program: Program) -> str:
    """Write the ranking in columns for a terminal, the middle of a long one left out.

    Below it stands what the numbers after \u00b1 are, where there are such.
    """
    note = spread_note(configurations)
    return "\n".join([in_columns(table(configurations, program)), *([note] if note else [])])


def in_columns(table: Sequence[Sequence[str]]) -> str:
    """Write rows of texts in columns, the head first and the middle of a long table left out."""
    head, *lines = table
    if len(lines) > MOST_LINES:
        left = len(lines) - MOST_LINES
        middle = ["..."] + [""] * (len(head) - 2) + [f"({left} more in sweep.jsonl)"]
        lines = [*lines[: MOST_LINES - 5], middle, *lines[-5:]]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *lines]
    )


def comparison_text(sweep: Sweep, configurations: Sequence[Configuration], program: Program) -> str:
    """Write the ranking for a terminal; of each alone, every seed beside what it is."""
    if sweep.settings.search != "alone":
        return table_text(configurations, program)
    base = dataclasses.asdict(sweep.base)
    shown = alone.table(alone.compared(configurations, base, program.report), program)
    return f"{in_columns([shown.columns, *shown.rows])}\n{shown.caption}"


def best_words(sweep: Sweep) -> str:
    """Say what `best_command` does."""
    if sweep.settings.search == "pbt":
        return "the values at the best, from the start (they had changed on the way)"
    return "the best alone"


def best_command(sweep: Sweep, configuration: Configuration) -> str:
    """Return the command line that trains the best member of a configuration alone."""
    member = best_member(configuration)
    swept = {axis.field: member[axis.field] for axis in sweep.swept}
    values = dataclasses.asdict(sweep.base) | swept
    changed = [
        f"--{name}={value_text(values[name])}"
        for name, field in options(sweep.base).items()
        if values[name] != field.default
    ]
    return shlex.join(["./launch.sh", sweep.experiment.word, *changed])


def headline(
    configurations: Sequence[Configuration], program: Program, found: dict[str, Any]
) -> list[tuple[str, str]]:
    """Return the few numbers that the page shows large."""
    report = program.report
    if "gain_in_spreads" in found:
        return alone.headline(found, report, test_label(configurations[0], report))
    winner = [
        (f"best {name}", f"{value:.4g}" if isinstance(value, float) else value_text(value))
        for name, value in configurations[0].values.items()
    ]
    return [
        *winner[:MOST_BOXES],
        (test_label(configurations[0], report), report.text(found.get(f"test_{report.name}"))),
        ("members", str(found["members"])),
        ("training, compiling included", f"{seconds_text(found['train_seconds'])}"),
    ]


def test_label(winner: Configuration, metric: Metric) -> str:
    """Say which number the winner's on the test split is."""
    label = f"test {metric.name} of the winner at its best evaluation"
    seeds = len(winner.members)
    return f"{label}, mean of {seeds} seeds" if seeds > 1 else label


def seconds_text(seconds: float) -> str:
    """Write seconds, or minutes where they are many."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def final_numbers(
    sweep: Sweep, configurations: Sequence[Configuration], program: Program, seconds: float
) -> dict[str, Any]:
    """Return ``result.json``: the winner, its means over seeds on both splits, and what it took."""
    winner, members = configurations[0], [m for each in configurations for m in each.members]
    measured = [name for name in members[0] if name.startswith(("valid_", "test_"))]
    means = {name: mean_and_spread(winner.of(name)) for name in measured}
    return {
        "experiment": sweep.experiment.name,
        **{f"best_{name}": value for name, value in winner.values.items()},
        **{name: mean[0] for name, mean in means.items() if mean},
        **{f"{name}_spread": mean[1] for name, mean in means.items() if mean},
        **selected_by(program),
        "configurations": len(configurations),
        "members": len(members),
        "finished_members": sum(each["status"] == FINISHED for each in members),
        "diverged_members": sum(each["status"] == DIVERGED for each in members),
        "evaluations_done": sum(each["evaluations_done"] for each in members),
        "train_seconds": round(seconds, 3),
        **when_and_where(sweep.experiment),
    }
