"""Check that the examples in docstrings of experiments and of docs' scripts print what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    file.relative_to(ROOT)
    for folder in ("experiments", "docs")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if ">>> " in file.read_text()
]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_docstring_examples_print_the_documented_output(file: Path) -> None:
    module = importlib.import_module(".".join(file.with_suffix("").parts))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
