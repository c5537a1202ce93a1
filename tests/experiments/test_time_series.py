"""Series named and forecast from the command line, and their trained runs used."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import __main__
from experiments.harness.config import hparams_of
from experiments.time_series import Config, program
from tests.experiments.small_data import data_folder

SMALL = ["--epochs=2", "--hidden_size=4", "--layers=1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def of_small_data(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(data))


def monthly(file: Path, months: int) -> list[str]:
    values = [f"{100 + k + 10 * (k % 12)}" for k in range(months)]
    rows = [f"{2000 + k // 12}-{k % 12 + 1:02}-01,{each},{k % 5}" for k, each in enumerate(values)]
    file.write_text("month,sales,x\n" + "\n".join(rows) + "\n")
    return ["--target=sales", "--time=month", "--covariates=x", "--horizon=3", f"--csv={file}"]


def refusal(capfd: pytest.CaptureFixture[str], *flags: str) -> str:
    assert __main__.main(["time_series", *flags]) == 2
    return capfd.readouterr().err.splitlines()[-1]


@pytest.mark.long
def test_flags_that_do_not_go_together_are_refused(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = monthly(tmp_path / "a.csv", 60)
    assert "--horizon: it goes with --csv=FILE or --data=m1_yearly" in refusal(capfd, "--horizon=3")
    assert "--target: it goes with --csv=FILE;" in refusal(capfd, "--data=m1_yearly", "--target=a")
    assert "--data: it goes with no --csv" in refusal(capfd, *flags, "--data=GunPoint")
    assert "--resample: it goes with --data=" in refusal(capfd, *flags, "--resample=1")
    assert "--target: say which column" in refusal(capfd, *flags[1:])
    assert "--horizon: say how many steps" in refusal(capfd, *flags[:3], flags[-1])
    assert 'Did you mean "sales"' in refusal(capfd, *flags[1:], "--target=sale")
    assert "sales: expected at least 75 steps" in refusal(
        capfd, *flags[:3], flags[-1], "--horizon=9"
    )


@pytest.mark.long
def test_a_csv_file_is_forecast(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, flags = tmp_path / "run", monthly(tmp_path / "a.csv", 60)
    assert __main__.main(["time_series", *flags, *SMALL, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    # every value is that of a year before and 12
    assert result["test_mase_seasonal_naive"] == pytest.approx(1, rel=1e-5)
    assert {"test_mase", "test_mase_naive", "test_mase_drift", "test_coverage_90"} <= {*result}
    assert {file.name for file in (run / "figures").iterdir()} >= {
        *("forecasts.png", "by_step.png", "against_naive.csv", "folds.csv")
    }
    capfd.readouterr()
    assert __main__.main(["predict", str(run)]) == 0
    rows = [*csv.DictReader(io.StringIO(capfd.readouterr().out))]
    assert [row["time"] for row in rows] == ["2005-01-01", "2005-02-01", "2005-03-01"]
    levels = [float(rows[0][name]) for name in ("q05", "q25", "median", "q75", "q95")]
    assert levels == sorted(levels)
    monthly(tmp_path / "newer.csv", 62)
    out = tmp_path / "out.csv"
    newer = [f"--csv={tmp_path / 'newer.csv'}", f"--out={out}"]
    assert __main__.main(["predict", str(run), *newer]) == 0
    assert out.read_text().splitlines()[1].startswith("2005-03-01,")
    monthly(tmp_path / "a.csv", 62)  # the file itself has grown
    out.unlink()
    assert __main__.main(["predict", str(run), f"--csv={tmp_path / 'a.csv'}", newer[1]]) == 0
    assert out.read_text().splitlines()[1].startswith("2005-03-01,")
    (tmp_path / "a.csv").unlink()
    capfd.readouterr()
    assert __main__.main(["predict", str(run)]) == 0
    printed = capfd.readouterr()
    assert [*csv.DictReader(io.StringIO(printed.out))] == rows
    assert "note: --csv: there is no a.csv;" in printed.err
    (tmp_path / "weekly.csv").write_text("month,sales,x\n2024-01-01,1,2\n2024-01-08,1,2\n")
    assert __main__.main(["predict", str(run), f"--csv={tmp_path / 'weekly.csv'}"]) == 2
    assert "a step is 604800 second, but was 1 month in training" in capfd.readouterr().err
    (tmp_path / "few.csv").write_text("month,sales,x\n2005-02-01,800,1\n2005-03-01,,2\n")
    newest = [f"--csv={tmp_path / 'few.csv'}", f"--out={out}"]
    assert __main__.main(["predict", str(run), *newest]) == 0
    assert out.read_text().splitlines()[1].startswith("2005-03-01,")
    said = capfd.readouterr().err
    assert "1 step at the end has no value of sales; forecasts begin after 2005-02-01" in said
    assert "the 60 steps of training before 2005-02-01 are read as well" in said


def test_a_few_steps_of_a_forecast_make_its_loss_smaller() -> None:
    config = Config(data="m1_yearly", horizon=2, hidden_size=4, layers=1, learning_rate=0.01)
    found, given = program(config), {name: x[0] for name, x in hparams_of(config).items()}
    first = found.task.init(given)
    after, _ = jax.jit(lambda state: found.task.train(state, given, found.data["train"], 5))(first)

    @jax.jit
    def loss(state: Any) -> Any:
        data = found.data["train"]
        return found.task.evaluate(found.task.keep(state), given, data)["loss"].mean

    assert 0 < float(loss(after)) < float(loss(first))


@pytest.mark.long
def test_yearly_series_are_forecast_by_one_network(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = ["--data=m1_yearly", "--horizon=2", *SMALL, f"--workdir={run}"]
    assert __main__.main(["time_series", *flags]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["test_mase_drift"] < result["test_mase_naive"]
    capfd.readouterr()
    assert __main__.main(["predict", str(run)]) == 0
    rows = [*csv.DictReader(io.StringIO(capfd.readouterr().out))]
    assert len(rows) == 8 * 2
    assert {row["series"] for row in rows} == {f"T{k}" for k in range(1, 9)}


@pytest.mark.long
def test_cases_are_named(tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    flags = ["--valid_share=0.3", *SMALL[1:], "--epochs=60", f"--workdir={run}"]
    assert __main__.main(["time_series", *flags]) == 0
    assert json.loads((run / "result.json").read_text())["test_accuracy"] == 1
    assert {file.name for file in (run / "figures").iterdir()} >= {
        *("confusion_matrix.png", "mistakes.png", "by_length.csv")
    }
    capfd.readouterr()
    file = data / "time_series" / "JapaneseVowels_TEST.ts"
    assert __main__.main(["predict", str(run), f"--ts={file}"]) == 0
    rows = [*csv.DictReader(io.StringIO(capfd.readouterr().out))]
    true = [line[-1] for line in file.read_text().splitlines() if not line.startswith(("#", "@"))]
    assert [row["class"] for row in rows] == true
    assert np.allclose([float(row["p(1)"]) + float(row["p(2)"]) for row in rows], 1, atol=2e-4)
    assert __main__.main(["predict", str(run)]) == 2
    assert "--ts: the run names classes" in capfd.readouterr().err
