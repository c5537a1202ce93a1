"""Compare several programs in one measurement: verify their results, then time, then memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench import machine, memory, timing, verify
from experiments.bench.program import Program

Row = dict[str, Any]
Made = Callable[[], tuple[Program, Mapping[str, np.ndarray]]]


def compare(
    about: Row,
    made: Mapping[str, Made],
    seconds: float,
    repeats: int,
    against: Sequence[str],
    largest_error: float,
) -> list[Row]:
    """Verify and time all programs, and return a row for each.

    A program that raises or that differs from the reference is not timed; its row says so in
    ``failed``.

    Args:
      about: the fields that describe the case, which all rows share.
      made: by library, a function that compiles its program and returns it with the arrays that it
        must compute.
      seconds: see `timing.interleaved`.
      repeats: see `timing.interleaved`.
      against: the libraries whose median times are divided by that of each row in ``ratios``.
      largest_error: what a program may differ by, see `verify.error`.
    """
    programs, rows = {}, []
    for name, make in made.items():
        program, passed = _passed(make, largest_error)
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


def _passed(make: Made, largest_error: float) -> tuple[Program | None, Row]:
    """Return the program, or None if it fails, and its error against the reference."""
    try:
        program, expected = make()
        error = verify.error(program.arrays(program.run()), expected)
    except Exception as problem:  # one library's failure must not stop the others
        return None, {"failed": f"{type(problem).__name__}: {problem}".partition("\n")[0]}
    if error > largest_error:
        return None, {"error": error, "failed": f"differs from the reference by {error:.1e}"}
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
