"""Pages that are made from the code are those that the code makes."""

from pathlib import Path

from docs import make_cells

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_of_cells_is_current() -> None:
    page = (ROOT / "docs" / "cells.md").read_text()
    assert page == make_cells.page(), "run .venv/bin/python -m docs.make_cells > docs/cells.md"
