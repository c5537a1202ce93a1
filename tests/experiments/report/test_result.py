"""Every run's page has learning curves, its experiment's own or those that come by themselves."""

import json
import types
from collections.abc import Iterator
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from experiments.harness.program import Exhibit, Figure, Finished, Program, Row, Text
from experiments.report import exhibits, result
from recurrent.training.task import Metric
from tests import toys
from tests.toys import FIT, FitConfig, fit

ROW: Row = {"step": 5, "evaluation": 1, "train_loss": 1.0, "valid_loss": 0.5, "valid_share": 0.25}
OTHER = Metric("share", higher_is_better=True, format="{:.1%}")


def finished(*rows: Row, best_step: int = 5) -> Finished:
    return Finished({"w": np.ones(2)}, {}, list(rows), best_step)


def program(*exhibits: Exhibit) -> Program:
    def yielded(finished: Finished) -> Iterator[Exhibit]:
        yield from exhibits

    return fit(FitConfig())._replace(exhibits=yielded, report=OTHER)


def names(made: Program, *rows: Row) -> list[str]:
    return [each.name for each in result.with_learning_curves(made, finished(*rows))]


def test_learning_curves_come_first_and_of_themselves() -> None:
    assert names(program(), ROW) == ["learning_curves"]
    assert names(program(Text("words", "", "", "x")), ROW) == ["learning_curves", "words"]


def test_an_experiment_s_own_learning_curves_take_their_place() -> None:
    own = Figure("learning_curves", "Mine", "", matplotlib.figure.Figure())
    found = list(
        result.with_learning_curves(program(Text("words", "", "", "x"), own), finished(ROW))
    )
    assert [each.name for each in found] == ["words", "learning_curves"]
    assert found[1] is own


def test_there_is_a_panel_for_what_selects_and_one_for_what_people_read() -> None:
    drawn = result.curves_of(program(), finished(ROW))
    assert [axes.get_title("left") for axes in drawn.figure.axes] == ["loss", "share"]
    same = program()._replace(report=toys.LOSS)
    assert len(result.curves_of(same, finished(ROW)).figure.axes) == 1
    assert "best evaluation, by the validation loss" in drawn.caption
    assert "best" not in result.curves_of(same, finished(ROW, best_step=0)).caption


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [ROW],  # a single evaluation
        [ROW, ROW | {"step": 10, "train_loss": None, "valid_loss": None, "valid_share": None}],
        [{"step": 5, "valid_loss": 0.5, "valid_share": 0.1}],  # no training metrics
        [{"step": 5, "valid_loss": None, "valid_share": None}],
        [{"step": 5, "valid_loss": 0.0, "valid_share": 0.0}],
        [{"step": 5, "valid_loss": 0.5}],  # one of the two alone
    ],
)
def test_they_are_drawn_whatever_was_measured(rows: list[Row]) -> None:
    for best_step in (0, 5):
        drawn = result.curves_of(program(), finished(*rows, best_step=best_step))
        drawn.figure.draw_without_rendering()


def written(folder: Path, made: Program) -> str:
    asked = types.SimpleNamespace(config=FitConfig(), folder=folder, command="./launch.sh toy")
    outcome = {"step": 5, "best_step": 5, "valid_loss": 0.5, "test_loss": 0.4, "test_share": 0.75}
    trained = types.SimpleNamespace(outcome=outcome, finished=finished(ROW), seconds=1.0, devices=1)
    result.finish(toys.experiment(FIT), made, asked, trained)
    return (folder / "report.html").read_text()


def test_the_page_of_a_run_without_exhibits_has_its_learning_curves(tmp_path: Path) -> None:
    page = written(tmp_path, program())
    assert page.count("data:image/png;base64,") == 1
    assert (tmp_path / "figures" / "learning_curves.png").exists()
    assert "test share at its best evaluation" in page
    assert json.loads((tmp_path / "result.json").read_text())["test_share"] == 0.75


@pytest.mark.parametrize("error", [RuntimeError("no ink"), SystemExit("no ink")])
def test_where_an_exhibit_fails_the_page_has_the_learning_curves_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def broken(finished: Finished) -> Iterator[Exhibit]:
        yield Text("words", "Words", "", "fine")
        raise error

    page = written(tmp_path, program()._replace(exhibits=broken))
    assert "no ink" in capsys.readouterr().err
    assert page.count("data:image/png;base64,") == 1
    assert "Learning curves" in page
    assert "fine" not in page


def test_norms_of_gradients_that_were_logged_are_drawn_for_each_network() -> None:
    rows = [
        {"step": k, "train_gradient_norm": 1.0}
        | {f"train_gradient_norm/{name}": 10.0**k for name in ("cell", "$head$")}
        | {"train_discriminator_gradient_norm/_w": None if k == 1 else 0.0}
        for k in range(3)
    ]
    found = list(result.with_learning_curves(program(), finished(ROW, *rows)))
    assert [each.name for each in found] == [
        "learning_curves",
        "gradient_norms",
        "discriminator_gradient_norms",
    ]
    own, other = (each for each in found[1:] if isinstance(each, Figure))
    (axes,) = own.figure.axes
    drawn = [np.asarray(line.get_ydata()) for line in axes.get_lines()]
    drawn = [each for each in drawn if each.size]  # of the legend there are empty ones
    np.testing.assert_array_equal(drawn, [[np.nan, 1, 10, 100]] * 2)
    assert axes.get_yscale() == "log"
    assert "of the discriminator" in other.heading
    for each in (own, other):
        exhibits.figure_bytes(each)


def test_of_many_layers_the_first_the_last_and_the_extremes_are_named() -> None:
    rows = [{"step": 1, **{f"train_gradient_norm/{k}": 1.0 + (k - 20) ** 2 for k in range(70)}}]
    (drawn,) = result.norms_by_layer(rows)
    legend = drawn.figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["69", "0", "20"]
