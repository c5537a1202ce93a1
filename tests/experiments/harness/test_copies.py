"""The copies that a run keeps of the user's files: it is used by them when those change."""

import contextlib
import dataclasses
from pathlib import Path

import pytest

from experiments.harness import copies
from experiments.harness.config import option
from experiments.harness.copies import keep_copies, with_copies, with_files
from experiments.harness.identity import source_hashes

CELL = "from gates import open_gate\n\n\ndef soft():\n    return open_gate\n"


@dataclasses.dataclass(frozen=True)
class Config:
    """Hold fields that may name files."""

    cell: str = option("gru", "a cell", file=True)
    csv: str = option("", "a table", file=True)
    run: str = option("", "a run", file=True)
    rate: float = option(0.1, "no file")


def used(config: Config, earlier: dict[str, str], folder: Path) -> Config:
    return Config(**with_copies(Config, dataclasses.asdict(config), earlier, folder))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text(CELL)
    (tmp_path / "own" / "gates.py").write_text("open_gate = 1\n")
    (tmp_path / "table.csv").write_text("a\n1\n")
    return Config(cell=f"{tmp_path}/own/mine.py:soft", csv=str(tmp_path / "table.csv"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "sweep").mkdir(parents=True)
    return tmp_path / "runs" / "sweep"


def test_files_that_are_as_they_were_are_read_where_they_are(
    config: Config, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_copies(config, folder)
    assert used(config, source_hashes(config), folder) == config
    assert capsys.readouterr() == ("", "")


def test_a_copy_is_used_where_a_file_or_what_it_imports_has_changed(
    config: Config, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier = source_hashes(config)
    keep_copies(config, folder)
    (tmp_path / "own" / "gates.py").write_text("open_gate = 2\n")
    found = used(config, earlier, folder)
    assert found.csv == config.csv
    file, _, name = found.cell.rpartition(":")
    assert name == "soft"
    assert Path(file).is_relative_to(folder)
    assert Path(file).read_text() == CELL
    assert Path(file).with_name("gates.py").read_text() == "open_gate = 1\n"
    assert capsys.readouterr().err == (
        f"note: --cell: gates.py has changed; what the run in {folder} was trained with is used: "
        "its own copy.\n"
    )
    (tmp_path / "table.csv").unlink()
    assert Path(used(config, earlier, folder).csv).read_text() == "a\n1\n"
    assert "note: --csv: there is no table.csv; what" in capsys.readouterr().err


def test_members_of_a_sweep_have_the_copies_of_the_sweep(
    config: Config, folder: Path, tmp_path: Path
) -> None:
    """Files of one name in two folders are told apart by what they hold."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.py").write_text("def soft():\n    return 3\n")
    other = dataclasses.replace(config, cell=f"{tmp_path}/other/mine.py:soft")
    members = {config: folder / "best", other: folder / "members" / "1"}
    with with_files(contextlib.nullcontext(folder), [*members], folder):
        pass
    earlier = {each: source_hashes(each) for each in members}
    texts = [Path(each.cell.rpartition(":")[0]).read_text() for each in members]
    for each in members:
        Path(each.cell.rpartition(":")[0]).unlink()
    found = [used(each, earlier[each], place) for each, place in members.items()]
    assert [Path(each.cell.rpartition(":")[0]).read_text() for each in found] == texts


def test_nothing_is_used_that_is_no_whole_copy(
    config: Config, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = source_hashes(config)
    monkeypatch.setattr(copies, "LARGEST", 10)  # of which the table has 4
    keep_copies(config, folder)
    (tmp_path / "table.csv").write_text("b\n2\n")
    (tmp_path / "own" / "mine.py").unlink()
    found = used(config, earlier, folder)
    assert found.cell == config.cell
    assert found.csv != config.csv
    Path(found.csv).write_text("a\n3\n")
    assert used(config, earlier, folder) == config


def test_a_copy_that_was_cut_off_is_made_anew(config: Config, folder: Path) -> None:
    keep_copies(config, folder)
    (whole,) = folder.glob("files/csv-*")
    whole.rename(whole.with_name(f".{whole.name}"))
    keep_copies(config, folder)
    assert [each.name for each in whole.iterdir()] == ["table.csv"]
    assert not [*folder.glob("files/.*")]
