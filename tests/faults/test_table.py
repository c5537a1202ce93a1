"""The table of what was tried, from the reports of tests that did nothing."""

from types import SimpleNamespace
from typing import Any

from tests.faults.table import PROMISE, table


def report(name: str, seconds: float, *promises: str, **tried: Any) -> SimpleNamespace:
    properties = [*((PROMISE, each) for each in promises), *tried.items()]
    return SimpleNamespace(nodeid=name, duration=seconds, user_properties=properties)


def test_each_promise_has_a_line_of_counts_seconds_and_what_was_tried():
    stats: dict[str, list[Any]] = {
        "": [report("a", 0.5, "R1"), report("b", 1.0)],  # what came before and after
        "passed": [report("a", 2.0, "R1", kills=20, phases="saving 9"), report("c", 1.0, "S9")],
        "failed": [report("b", 3.0, "R10", "R1", kills=3, phases="training 1", seconds_until=1.5)],
        "skipped": [report("d", 0.0, "R10", seconds_until=0.5)],
        "warnings": [object()],
    }
    head, *lines = table(stats)
    assert head.split() == ["passed", "failed", "skipped", "seconds", "tried"]
    assert [line.split()[:5] for line in lines] == [
        ["R1", "1", "1", "0", "6.5"],
        ["R10", "0", "1", "1", "4.0"],
        ["S9", "1", "0", "0", "1.0"],
        ["all", "2", "1", "1", "7.5"],
    ]
    assert "kills: 23; phases: saving 9, training 1; seconds_until: 1.5" in lines[0]
    assert "seconds_until: 1.5" in lines[1], "of seconds the most are shown"
    assert "tests: 4" in lines[3]
