"""Pages that are made from the code are those that the code makes, and what they show runs."""

import re
from pathlib import Path
from typing import Any

import jax

from docs import make_cells
from recurrent import unroll

ROOT = Path(__file__).resolve().parents[1]


def test_the_page_of_cells_is_current() -> None:
    page = (ROOT / "docs" / "cells.md").read_text()
    assert page == make_cells.page(), "run .venv/bin/python -m docs.make_cells > docs/cells.md"


def test_the_python_of_the_readme_runs() -> None:
    names: dict[str, Any] = {"key": jax.random.key(0)}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        exec(block, names)
    assert names["ys"].shape == (50, 16, 32)
    tagger = names["tagger"]
    _, ys = unroll(tagger, tagger.init(jax.random.key(2)), names["xs"], lengths=[50] * 15 + [7])
    assert ys.shape == (50, 16, 32)
    assert (ys[7:, 15] == 0).all()
    softsign_gru = names["softsign_gru"](4, 5)
    assert softsign_gru.input_shape == (4,)
