"""A real sweep, killed: the same command again trains no ended member and ends at the same rows."""

import json
from pathlib import Path

import pytest

from tests.faults.processes import COMMAND, Launch, Process

FLAGS = (
    *("--cell=elman", "--hidden_size=8", "--epochs=9", "--layout=1x1", "--search=halving"),
    *("--sweep=learning_rate=log:1e-3:1e-1:4", "--sweep=order=row,pixel", "--slots=4"),
)
SWEEP = (*COMMAND, "sweep")


def ended(run: Path) -> list[str]:
    file = run / "sweep.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def evaluations_in(run: Path) -> dict[int, int]:
    """How often each member has been evaluated, by all rows of metrics."""
    counts: dict[int, int] = {}
    for number in (0, 1):
        lines = (run / f"programs/{number}/metrics.jsonl").read_text().splitlines()
        for member in (json.loads(line)["member"] for line in lines):
            counts[member] = counts.get(member, 0) + 1
    return counts


def killed_after(process: Process, count: int) -> list[str]:
    """Its rows when so many members have ended; then it is killed."""
    process.wait_until(lambda: len(ended(process.run)) >= count)
    process.popen.kill()
    process.end()
    return ended(process.run)


def table_in(lines: list[str]) -> list[str]:
    """The ranking among what a sweep prints."""
    first = next(k for k, line in enumerate(lines) if line.startswith("rank "))
    return lines[first : next(k for k, line in enumerate(lines) if line.startswith("report: "))]


@pytest.mark.long
@pytest.mark.fault("R1")
def test_a_sweep_that_is_killed_twice_ends_at_the_same_rows(
    launch: Launch, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "whole").mkdir()
    whole = Process(SWEEP, tmp_path / "whole" / "run", cache, FLAGS)
    whole.succeed()
    found = []
    for count in (1, 5):  # in the first program, and in the second
        with launch(SWEEP, flags=FLAGS) as process:
            found.append(killed_after(process, count))
    done = (process.run / "programs/0/ended.json").stat().st_mtime_ns
    with launch(SWEEP, flags=FLAGS) as process:
        process.succeed()
    assert len(found[0]) < len(found[1]) < len(ended(whole.run)) == 8
    for rows in found:
        assert ended(process.run)[: len(rows)] == rows
    assert ended(process.run) == ended(whole.run)
    assert evaluations_in(process.run) == evaluations_in(whole.run)
    assert (process.run / "programs/0/ended.json").stat().st_mtime_ns == done
    tables = [table_in(text.splitlines()) for text in (process.succeed(), whole.succeed())]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_what_an_ended_sweep_has_lost_is_written_again(launch: Launch) -> None:
    few = (*FLAGS[:2], "--epochs=1", "--sweep=learning_rate=0.01,0.1")
    with launch(SWEEP, flags=few) as process:
        process.succeed()
    names = ("sweep.jsonl", "report.html", "result.json")
    before = [len((process.run / name).read_text()) for name in names]
    for name in names:
        (process.run / name).unlink()
    with launch(SWEEP, flags=few) as process:
        process.succeed()
    after = [len((process.run / name).read_text()) for name in names]
    assert after == pytest.approx(before, rel=0.02)
