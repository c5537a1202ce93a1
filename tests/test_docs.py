"""Pages that are made from the code are those that the code makes, and what they show runs."""

import re
from pathlib import Path
from typing import Any

import jax
import pytest

from docs import make_cells
from recurrent import unroll

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.long
def test_the_page_of_cells_is_current() -> None:
    page = (ROOT / "docs" / "cells.md").read_text()
    assert page == make_cells.page(), "run .venv/bin/python -m docs.make_cells > docs/cells.md"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_each_block_of_python_in_the_readme_runs_as_pasted() -> None:
    found: dict[str, Any] = {}
    for block in blocks("README.md"):
        names: dict[str, Any] = {}
        exec(block, names)
        found |= names
    assert found["ys"].shape == (50, 16, 32)
    tagger = found["tagger"]
    _, ys = unroll(tagger, tagger.init(jax.random.key(2)), found["xs"], lengths=[50] * 15 + [7])
    assert ys.shape == (50, 16, 32)
    assert (ys[7:, 15] == 0).all()
    softsign_gru = found["softsign_gru"](4, 5)
    assert softsign_gru.input_shape == (4,)


@pytest.mark.parametrize("page", ["docs/experiment.md", "docs/architecture.md"])
def test_python_on_other_pages_is_python(page: str) -> None:
    for block in blocks(page):
        compile(block, page, "exec")
