"""Runs and sweeps on one page."""

from pathlib import Path

import pytest

from experiments import comparing, run

FLAGS = ("--hidden_size=4", "--epochs=2", "--batch_size=256", "--cell=elman")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", "0.0001"), ("quick", "0.03")):
        flags = [f"--learning_rate={rate}", f"--workdir={base / name}"]
        assert run.main(["sequential_digits", *FLAGS, *flags]) == 0
    sweep = ["--sweep=learning_rate=0.01,0.0002", "--sweep=seed=0:2", f"--workdir={base / 'many'}"]
    assert run.main(["sweep", "sequential_digits", *FLAGS, *sweep]) == 0
    return [str(base / name) for name in ("slow", "many", "quick")]


def test_the_best_comes_first_with_what_differs(folders: list[str], tmp_path: Path) -> None:
    assert run.main(["report", *folders, f"--out={tmp_path}/page/all.html"]) == 0
    page = (tmp_path / "page/all.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    head, *lines = comparing.table([comparing.read(Path(folder)) for folder in folders])
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
    entry = comparing.read(Path(folders[1]))
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
    assert run.main(["report", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_page_that_cannot_be_written(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run.main(["report", folders[0], f"--out={tmp_path}/file/x.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err
