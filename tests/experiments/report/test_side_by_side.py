"""Runs and sweeps on one page."""

from pathlib import Path

import pytest

from experiments import __main__
from experiments.report import side_by_side

FLAGS = ("--hidden_size=4", "--epochs=2", "--batch_size=256", "--cell=elman")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", "0.0001"), ("quick", "0.03")):
        flags = [f"--learning_rate={rate}", f"--workdir={base / name}"]
        assert __main__.main(["sequential_digits", *FLAGS, *flags]) == 0
    sweep = ["--sweep=learning_rate=0.01,0.0002", "--sweep=seed=0:2", f"--workdir={base / 'many'}"]
    assert __main__.main(["sweep", "sequential_digits", *FLAGS, *sweep]) == 0
    return [str(base / name) for name in ("slow", "many", "quick")]


def test_the_best_comes_first_with_what_differs(folders: list[str], tmp_path: Path) -> None:
    assert __main__.main(["report", *folders, f"--out={tmp_path}/page/all.html"]) == 0
    page = (tmp_path / "page/all.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    entries = [side_by_side.read(Path(folder), Path(folder).name) for folder in folders]
    head, *lines = side_by_side.table(entries)
    assert head[:3] == ["run", "seed", "learning_rate"]
    losses = [float(line[head.index("valid_loss")]) for line in lines]
    assert losses == sorted(losses)
    assert lines[-1][0] == "slow"
    rates = {line[0]: line[2] for line in lines}
    assert rates == {"slow": "0.0001", "quick": "0.03", "many": "0.01"}
    for line in lines:
        for cell in line:
            assert f'<td class="value">{cell}</td>' in page


def test_a_sweep_is_drawn_by_its_winners(folders: list[str]) -> None:
    entry = side_by_side.read(Path(folders[1]), "many")
    assert [len(rows) for rows in entry.curves] == [2, 2]
    assert {row["member"] for rows in entry.curves for row in rows} == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "report: say which run directories"),
        (["nowhere"], "nowhere holds no finished run or sweep"),
        (["--ot=x"], "There is no flag --ot"),
    ],
)
def test_what_cannot_be_compared(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["report", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_page_that_cannot_be_written(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert __main__.main(["report", folders[0], f"--out={tmp_path}/file/x.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_names_tell_apart_what_stands_in_folders_of_one_name() -> None:
    paths = [Path("a/default"), Path("b/default"), Path("b/other")]
    assert side_by_side.names_of(paths) == ["a/default", "b/default", "b/other"]
    assert side_by_side.names_of([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert side_by_side.names_of([Path("a/x"), Path("a/x")]) == ["1 x", "2 x"]


def test_a_page_takes_the_place_of_an_earlier_comparison_alone(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path(folders[0]) / "report.html"
    notes = tmp_path / "notes.html"
    notes.write_text("precious")
    for out in (own, notes, tmp_path / "notes.md"):
        before = out.read_bytes() if out.exists() else None
        assert __main__.main(["report", folders[0], f"--out={out}"]) == 2
        assert "--out: " in capsys.readouterr().err
        assert (out.read_bytes() if out.exists() else None) == before
    for _ in range(2):
        assert __main__.main(["report", *folders[:2], f"--out={tmp_path}/all.html"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.html", "notes.html"]


def test_a_sweep_without_a_seed_axis_has_the_seed_it_was_given(tmp_path: Path) -> None:
    flags = [*FLAGS, "--seed=7", "--sweep=learning_rate=0.01,0.001", f"--workdir={tmp_path / 's'}"]
    assert __main__.main(["sweep", "sequential_digits", *flags]) == 0
    assert side_by_side.read(tmp_path / "s", "s").fields["seed"] == 7


def test_its_help_names_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["report", "--help"]) == 0
    assert "--out" in capsys.readouterr().out
