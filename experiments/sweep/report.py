"""What a sweep leaves: the ranked table, result.json, figures and the page."""

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.harness import rundir
from experiments.harness.config import options
from experiments.report.page import Table, write_report
from experiments.report.result import metric_text, when_and_where
from experiments.sweep import figures
from experiments.sweep.flags import Sweep
from experiments.sweep.plan import Plan
from experiments.sweep.ranking import (
    DIVERGED,
    FINISHED,
    RUNG,
    Setting,
    best_member,
    mean_and_spread,
)

MOST_LINES = 40
MOST_BOXES = 3


def write(
    sweep: Sweep,
    plan: Plan,
    settings: Sequence[Setting],
    rows: figures.Rows,
    seconds: float,
    folder: Path,
) -> None:
    """Writes figures, ``report.html`` and, last, ``result.json``.

    Args:
      sweep: what was asked for.
      plan: of the first program.
      settings: best first.
      rows: the metrics of each member, epoch by epoch.
      seconds: that the training took.
      folder: of the sweep.
    """
    metric, drawn = plan.program.metric, []
    result = final_numbers(sweep, settings, metric, seconds)
    rungs = [rung * plan.program.steps_per_epoch for rung in plan.rungs]
    (folder / "figures").mkdir(exist_ok=True)
    for picture in figures.all_of(settings, rows, metric, rungs):
        file = folder / "figures" / f"{picture.name}.png"
        picture.figure.savefig(file)
        drawn.append((picture.heading, file, picture.caption))
    head, *lines = table(settings, metric)
    heading = "Ranking, by validation score"
    if max(len(setting.members) for setting in settings) > 1:
        heading += "; mean \u00b1 spread over seeds"
    write_report(
        folder / "report.html",
        title=f"sweep of {sweep.experiment}",
        question=sweep.module.__doc__.partition("\n")[0],
        headline=headline(settings, metric, result),
        tables=[Table(heading, head, lines)],
        figures=drawn,
        result=result,
        config={
            name: (value, field.default, field.help) for name, field, value in settings_of(sweep)
        },
        commands={
            best_words(sweep).capitalize(): best_command(sweep, settings[0]),
            "Sweep again": sweep.command,
        },
    )
    rundir.write_json(folder / "result.json", result)


def settings_of(sweep: Sweep) -> list[tuple[str, Any, Any]]:
    """Name, option and value of every field, swept ones with their values."""
    swept = {axis.field: axis for axis in sweep.swept}
    named = [(name, field, sweep.base) for name, field in options(sweep.base).items()]
    named += [(name, field, sweep.settings) for name, field in options(sweep.settings).items()]
    return [
        (name, field, swept[name].told() if name in swept else getattr(owner, name))
        for name, field, owner in named
    ]


def table(settings: Sequence[Setting], metric: str) -> list[list[str]]:
    """The ranking, its heading first.

    Numbers of seeds and epochs are told where they differ, endings where not all have finished.
    """
    several = any(len(setting.members) > 1 for setting in settings)
    columns = {"rank": [str(rank) for rank in range(1, len(settings) + 1)]}
    for field in settings[0].values:
        columns[field] = [value_text(setting.values[field]) for setting in settings]
    for name in dict.fromkeys(["loss", metric]):
        means = [mean_and_spread(setting.of(f"valid_{name}")) for setting in settings]
        columns[f"validation {name}"] = [shown(mean, several) for mean in means]
    counts = {
        "seeds": [str(len(setting.members)) for setting in settings],
        "epochs trained": [epochs_text(setting) for setting in settings],
    }
    columns |= {name: texts for name, texts in counts.items() if len(set(texts)) > 1}
    endings = [ending(setting) for setting in settings]
    columns |= {"ended": endings} if set(endings) != {FINISHED} else {}
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def epochs_text(setting: Setting) -> str:
    """How many its members trained, as ``9`` or ``3-9``."""
    epochs = [each["epochs_trained"] for each in setting.members]
    return "-".join(str(epoch) for epoch in dict.fromkeys([min(epochs), max(epochs)]))


def shown(mean: tuple[float, float] | None, several: bool) -> str:
    """A mean, with its spread where there are several seeds."""
    if mean is None:
        return "-"
    return f"{mean[0]:.4f} \u00b1 {mean[1]:.4f}" if several else f"{mean[0]:.4f}"


def value_text(value: Any) -> str:
    """A swept value, as a command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)


def ending(setting: Setting) -> str:
    """How its members ended, where not all saw the whole training."""
    lost = [each for each in setting.members if each["status"] == DIVERGED]
    if lost:
        where = ", ".join(str(each["step"]) for each in lost)
        some = "" if len(lost) == len(setting.members) else f"{len(lost)} "
        return f"{some}diverged at step {where}"
    words = dict.fromkeys(each["status"] for each in setting.members)
    return ", ".join("stopped at a rung" if word == RUNG else word for word in words)


def table_text(settings: Sequence[Setting], metric: str) -> str:
    """The ranking in columns, for a terminal; of a long one the ends."""
    head, *lines = table(settings, metric)
    if len(lines) > MOST_LINES:
        left = len(lines) - MOST_LINES
        middle = ["..."] + [""] * (len(head) - 2) + [f"({left} more in sweep.jsonl)"]
        lines = [*lines[: MOST_LINES - 5], middle, *lines[-5:]]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [head, *lines]
    ]
    return "\n".join(padded)


def best_words(sweep: Sweep) -> str:
    """What `best_command` does."""
    if sweep.settings.search == "pbt":
        return "the values at the best, from the start (they had changed on the way)"
    return "the best alone"


def best_command(sweep: Sweep, setting: Setting) -> str:
    """The command line that trains the best member of a setting alone."""
    member = best_member(setting)
    swept = {axis.field: member[axis.field] for axis in sweep.swept}
    values = dataclasses.asdict(sweep.base) | swept
    changed = [
        f"--{name}={value_text(values[name])}"
        for name, field in options(sweep.base).items()
        if values[name] != field.default
    ]
    return shlex.join(["./launch.sh", sweep.experiment, *changed])


def headline(
    settings: Sequence[Setting], metric: str, result: dict[str, Any]
) -> list[tuple[str, str]]:
    """The few numbers that the page shows large."""
    winner = [
        (f"best {name}", f"{value:.4g}" if isinstance(value, float) else value_text(value))
        for name, value in settings[0].values.items()
    ]
    return [
        *winner[:MOST_BOXES],
        (f"test {metric} of the winner", metric_text(metric, result.get(f"test_{metric}"))),
        ("members", str(result["members"])),
        ("training", f"{seconds_text(result['train_seconds'])}"),
    ]


def seconds_text(seconds: float) -> str:
    """Seconds, or minutes where they are many."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def final_numbers(
    sweep: Sweep, settings: Sequence[Setting], metric: str, seconds: float
) -> dict[str, Any]:
    """``result.json``: the winner, its means over seeds on both splits, and what it took."""
    winner, members = settings[0], [each for setting in settings for each in setting.members]
    measured = [name for name in members[0] if name.startswith(("valid_", "test_"))]
    means = {name: mean_and_spread(winner.of(name)) for name in measured}
    return {
        "experiment": sweep.experiment,
        **{f"best_{name}": value for name, value in winner.values.items()},
        **{name: mean[0] for name, mean in means.items() if mean},
        **{f"{name}_spread": mean[1] for name, mean in means.items() if mean},
        "settings": len(settings),
        "members": len(members),
        "finished_members": sum(each["status"] == FINISHED for each in members),
        "diverged_members": sum(each["status"] == DIVERGED for each in members),
        "epochs_trained": sum(each["epochs_trained"] for each in members),
        "train_seconds": round(seconds, 3),
        **when_and_where(),
    }
