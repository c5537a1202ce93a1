"""Each promise of ``docs/reliability.md`` has a test, and each marked test a promise."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.faults.processes import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text()
PROMISES = dict(re.findall(r"^\| ([RNDS]\d+) \| .* \| `(.*)` \|$", PAGE, re.MULTILINE))


def marked(source: str) -> Iterator[tuple[str, str]]:
    """Pairs of an id and a test that is marked with it.

    Example:
      >>> list(marked("@pytest.mark.fault('R1', 'R2')\\ndef test_a(): pass"))
      [('R1', 'test_a'), ('R2', 'test_a')]
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    yield from ((ast.literal_eval(each), node.name) for each in mark.args)


def all_marked() -> set[tuple[str, str]]:
    """Pairs of an id and a test as pytest names it."""
    files = sorted(Path(ROOT / "tests").rglob("test_*.py"))
    return {
        (promise, f"{file.relative_to(ROOT)}::{name}")
        for file in files
        for promise, name in marked(file.read_text())
    }


def test_each_promise_names_a_test_that_is_marked_with_it():
    assert len(PROMISES) > 30
    assert set(PROMISES.items()) <= all_marked()


def test_each_mark_is_of_a_promise():
    assert {promise for promise, _ in all_marked()} == set(PROMISES)


def test_marks_of_any_number_of_promises_are_found():
    source = "@pytest.mark.long\n@pytest.mark.fault('R1', 'R2')\ndef test_a(): pass\n"
    assert list(marked(source)) == [("R1", "test_a"), ("R2", "test_a")]
