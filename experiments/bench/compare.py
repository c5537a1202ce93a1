"""One measurement of several programs: the gate, then the clock, then memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench import gate, machine, memory, timing
from experiments.bench.program import Program

Row = dict[str, Any]
Made = Callable[[], tuple[Program, Mapping[str, np.ndarray]]]


def compare(
    about: Row, made: Mapping[str, Made], seconds: float, repeats: int, against: Sequence[str]
) -> list[Row]:
    """A row for each library.

    Args:
      about: what all rows say of the case.
      made: by name, a function that compiles the library's program and gives with it what it must
        compute.
      seconds: see `timing.interleaved`.
      repeats: see `timing.interleaved`.
      against: whose medians are divided by that of each in ``ratios``.
    """
    programs, rows = {}, []
    for name, make in made.items():
        program, passed = _passed(make)
        rows.append({"name": name, **about, **passed})
        if program is not None:
            programs[name] = program
    with machine.watched() as others:
        times = timing.interleaved({name: p.run for name, p in programs.items()}, seconds, repeats)
    for row in rows:
        row["others"] = max(others, default=None)
        if row["name"] in programs:
            row |= _measured(programs[row["name"]], times, row["name"], against)
    return rows


def _passed(make: Made) -> tuple[Program | None, Row]:
    """The program, if it computes what it must, and how far off it was."""
    try:
        program, expected = make()
        error = gate.error(program.arrays(program.run()), expected)
    except Exception as problem:  # whatever a library raises is its row, and the others go on
        return None, {"failed": f"{type(problem).__name__}: {problem}".partition("\n")[0]}
    if error > gate.LARGEST_ERROR:
        return None, {"error": error, "failed": f"off the reference by {error:.1e}"}
    return program, {"error": error}


def _measured(
    program: Program, times: Mapping[str, np.ndarray], name: str, against: Sequence[str]
) -> Row:
    ratios = {other: timing.ratio(times[other], times[name]) for other in against if other in times}
    return {
        "seconds": timing.median(times[name]),
        "rounds": len(times[name]),
        "ratios": ratios,
        "compile_seconds": program.compile_seconds,
        "planned_bytes": program.planned_bytes,
        "grown_bytes": memory.growth(program.run),
    }
