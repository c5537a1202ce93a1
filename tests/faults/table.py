"""A plugin of pytest: prints, for each promise, how its tests ended and what they have tried.

A test names the promises that it holds the code to, by ``@pytest.mark.fault("R1")``, and records
what it tries by pytest's own ``record_property("kills", 20)``. Numbers of one name are added up.
"""

import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

PROMISE = "promise"  # the property by which a report knows its promises, in other processes too
ENDS = ("passed", "failed", "error", "skipped")


class Line(NamedTuple):
    """What is printed of one promise."""

    ends: Counter[str]
    seconds: float
    tried: dict[str, Any]


def pytest_itemcollected(item: pytest.Item) -> None:
    ids = {name for mark in item.iter_markers("fault") for name in mark.args}
    item.user_properties += [(PROMISE, name) for name in sorted(ids)]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("what was tried, and what held")
    for text in table(terminalreporter.stats):
        terminalreporter.write_line(text)


def table(stats: dict[str, list[Any]]) -> list[str]:
    """The lines of the table, from the reports of all tests by how they ended."""
    lines = {name: line_of(name, stats) for name in promises_in(stats)}
    head = f"{'':4}{'passed':>7}{'failed':>7}{'skipped':>8}{'seconds':>9}  tried"
    tests = {report.nodeid for end in ENDS for report in reports(stats, end)}
    ends = Counter({end: len(stats.get(end, ())) for end in ENDS})
    total = Line(ends, seconds_of(tests, stats), {"tests": len(tests)})
    return [
        head,
        *(text for name in lines for text in texts_of(name, lines[name])),
        *(texts_of("all", total)),
    ]


def promises_in(stats: dict[str, list[Any]]) -> list[str]:
    """Their ids in order: R1, R2, ..., R14, N1, ..."""
    found = {
        value
        for end in ENDS
        for report in reports(stats, end)
        for name, value in report.user_properties
        if name == PROMISE
    }
    return sorted(found, key=lambda name: ("RNDS".find(name[0]), int(name[1:])))


def reports(stats: dict[str, list[Any]], end: str) -> Iterable[Any]:
    return (each for each in stats.get(end, ()) if hasattr(each, "user_properties"))


def line_of(promise: str, stats: dict[str, list[Any]]) -> Line:
    ends: Counter[str] = Counter()
    tried: dict[str, Any] = {}
    tests = set()
    for end in ENDS:
        for report in reports(stats, end):
            if (PROMISE, promise) in report.user_properties:
                ends[end] += 1
                tests.add(report.nodeid)
                tried = together(tried, report.user_properties)
    return Line(ends, seconds_of(tests, stats), tried)


def together(tried: dict[str, Any], properties: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What was tried before and now: numbers are added, the largest of seconds is taken."""
    found = dict(tried)
    for name, value in properties:
        if name == PROMISE:
            continue
        if isinstance(value, str):
            found[name] = ", ".join(filter(None, [found.get(name, ""), value]))
        elif name.startswith("seconds"):
            found[name] = max(found.get(name, 0), value)
        else:
            found[name] = found.get(name, 0) + value
    return found


def seconds_of(tests: set[str], stats: dict[str, list[Any]]) -> float:
    """The time of tests with what came before and after them."""
    every = [report for end in ("", *ENDS) for report in reports(stats, end)]
    return sum(report.duration for report in every if report.nodeid in tests)


def texts_of(name: str, line: Line) -> list[str]:
    failed = line.ends["failed"] + line.ends["error"]
    counts = f"{line.ends['passed']:>7}{failed:>7}{line.ends['skipped']:>8}{line.seconds:>9.1f}"
    tried = "; ".join(f"{what}: {shown(value)}" for what, value in line.tried.items())
    first, *rest = textwrap.wrap(tried, 100) or [""]
    return [f"{name:4}{counts}  {first}".rstrip(), *(" " * 37 + more for more in rest)]


def shown(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
