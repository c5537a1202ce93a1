"""Weights of another cell whose shapes are alike are taken, with a warning."""

import dataclasses
import json
from pathlib import Path

import pytest

from experiments.char_lm import Config
from experiments.shared.tasks import say_other_cell


@pytest.mark.parametrize(
    ("trained", "says"), [("elman", "--cell=elman, here it is irnn"), ("irnn", "")]
)
def test_weights_of_another_cell_are_named(
    trained: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fields = dataclasses.asdict(Config(cell=trained))
    identity = {"experiment": "char_lm", "config": fields, "sources": {}, "origin": {}}
    (tmp_path / "config.json").write_text(json.dumps(identity))
    say_other_cell(Config(cell="irnn", init_from=str(tmp_path)))
    assert says in capfd.readouterr().err
