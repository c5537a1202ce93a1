"""Figures of a sweep, read back: both directions of a metric, and what diverged or was stopped."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.style import ACCENT, ALARM
from experiments.harness.plan import DIVERGED, FINISHED, STOPPED
from experiments.sweep import figures
from experiments.sweep.ranking import Configuration, Outcome, ranked
from recurrent.training.task import Metric

LOSS = Metric("loss", higher_is_better=False)
RETURN = Metric("return", higher_is_better=True)
ACCURACY = Metric("accuracy", higher_is_better=True, format="{:.2%}")
BOTH_DIRECTIONS = [
    pytest.param(LOSS, [0.01, 0.3, 4.0], id="lower is better"),
    pytest.param(RETURN, [-10.0, -90.0, -200.0], id="higher is better"),
]
STEPS = 10  # from evaluation to evaluation


def outcome(member: int, metric: Metric, value: float, status: str, **values: Any) -> Outcome:
    return {
        "member": member,
        **values,
        "status": status,
        "evaluations_done": 2,
        "step": 2 * STEPS,
        "best_step": 2 * STEPS,
        "score": None if status == DIVERGED else metric.score(value),
        f"valid_{metric.name}": value,
    }


def swept(metric: Metric, values: Sequence[float], lost: float) -> list[Configuration]:
    """Return one configuration for each value, with rates 1, 2, ..., and one that diverged."""
    ends = [(value, FINISHED) for value in values] + [(lost, DIVERGED)]
    outcomes = [
        outcome(k, metric, value, status, rate=k + 1, width=8)
        for k, (value, status) in enumerate(ends)
    ]
    return ranked(outcomes, ["rate", "width"])


def rows_of(configurations: Sequence[Configuration], metric: Metric) -> dict[int, list[Any]]:
    key = f"valid_{metric.name}"
    return {
        each["member"]: [
            {"step": STEPS, "evaluation": 1, key: 1.1 * each[key]},
            {"step": 2 * STEPS, "evaluation": 2, key: each[key]},
        ]
        for configuration in configurations
        for each in configuration.members
    }


def crosses(axes: Axes) -> list[tuple[float, float]]:
    return [
        (float(x), float(y))
        for line in axes.lines
        if line.get_marker() == "x" and line.get_color() == ALARM
        for x, y in np.asarray(line.get_data(), float).T
    ]


def drawn_height(axes: Axes, y: float) -> float:
    """Return where a value is drawn in its panel, from 0 at the bottom to 1 at the top."""
    axes.get_ylim()  # update the lazy limits before reading the transformation
    return float((axes.transScale + axes.transLimits).transform((1.0, y))[1])


def tiles(figure: Figure) -> dict[str, float]:
    """Return how bright each tile of a heat map is, by its text, each tile once."""
    axes = figure.axes[0]
    filled = [each for each in axes.patches if isinstance(each, Rectangle) and each.get_fill()]
    brightness = [(each.get_center(), sum(to_rgb(each.get_facecolor()))) for each in filled]
    return {
        text.get_text(): next(
            value
            for center, value in brightness
            if np.allclose(np.array(center, float), text.get_position())
        )
        for text in axes.texts
    }


@pytest.mark.parametrize(("metric", "values"), BOTH_DIRECTIONS)
def test_the_ring_is_at_the_best_value_and_the_cross_at_the_worse_edge(
    metric: Metric, values: list[float]
) -> None:
    configurations = swept(metric, values, lost=1e6 * values[-1])
    axes = figures.by_field(configurations, ["rate"], [metric]).axes[0]
    (ring,) = [line for line in axes.lines if line.get_label() == "winner"]
    assert ring.get_xydata() == pytest.approx(np.array([[1, values[0]]]))
    heights = [drawn_height(axes, value) for value in values]
    assert all(0 < height < 1 for height in heights)
    ((x, y),) = crosses(axes)
    assert x == 4
    if metric.higher_is_better:
        assert y < heights[2] < heights[1] < heights[0]
    else:
        assert heights[0] < heights[1] < heights[2] < y


def test_every_field_has_a_panel_for_each_metric() -> None:
    ends = [(0.5, 0.9), (0.1, 0.8)]
    outcomes = [
        outcome(k, LOSS, loss, FINISHED, rate=k, width=8, valid_accuracy=accuracy)
        for k, (loss, accuracy) in enumerate(ends)
    ]
    figure = figures.by_field(
        ranked(outcomes, ["rate", "width"]), ["rate", "width"], [LOSS, ACCURACY]
    )
    panels = [(axes.get_xlabel(), axes.get_title("left")) for axes in figure.axes]
    metrics = "validation loss", "validation accuracy"
    assert panels == [(field, metric) for field in ("rate", "width") for metric in metrics]
    assert figure.get_suptitle() == "The winner: rate 1, width 8"
    figure.draw_without_rendering()
    labels = [[text.get_text() for text in axes.get_yticklabels()] for axes in figure.axes]
    assert [any("%" in label for label in own) for own in labels] == [False, True] * 2


def test_a_line_joins_values_only_where_it_shows_more_than_noise() -> None:
    drawn = [outcome(k, LOSS, 1.0 + k, FINISHED, rate=0.1 * k, width=k) for k in range(5)]
    grid = [outcome(k, LOSS, 1.0 + k, FINISHED, rate=k % 2, width=k // 2) for k in range(4)]
    for outcomes, is_joined in ((drawn, False), (grid, True)):
        configurations = ranked(outcomes, ["rate", "width"])
        axes = figures.by_field(configurations, ["rate"], [LOSS]).axes[0]
        (by_field, *_) = figures.all_of(configurations, {}, [LOSS], [])
        assert any(len(np.ravel(line.get_xdata())) > 1 for line in axes.lines) == is_joined
        assert ("line" in by_field.caption) == is_joined


@pytest.mark.parametrize(("metric", "values"), BOTH_DIRECTIONS)
def test_the_best_tile_is_darkest_and_framed(metric: Metric, values: list[float]) -> None:
    configurations = swept(metric, values, lost=1e6 * values[-1])
    figure = figures.heat_map(configurations, ["rate", "width"], metric)
    brightness = tiles(figure)
    assert list(brightness)[-1] == "diverged"
    best, middle, worst = list(brightness.values())[:3]
    assert best < middle < worst
    (frame,) = [each for each in figure.axes[0].patches if not each.get_fill()]
    assert isinstance(frame, Rectangle)
    assert np.array(frame.get_center(), float) == pytest.approx([0, 0])
    captions = {
        each.name: each.caption for each in figures.all_of(configurations, {}, [metric], [])
    }
    assert "Darker is better" in captions["heat_map"]


def test_a_tile_whose_values_several_have_shows_the_best_of_them() -> None:
    outcomes = [outcome(k, LOSS, value, FINISHED, a=1, b=2) for k, value in enumerate([3.0, 1.0])]
    alone = ranked(outcomes, ["a", "b"], each_alone=True)
    assert list(tiles(figures.heat_map(alone, ["a", "b"], LOSS))) == ["1.00"]


def test_many_values_are_dots_in_the_heat_map() -> None:
    outcomes = [outcome(k, RETURN, -k, FINISHED, a=k, b=k % 2) for k in range(30)]
    axes = figures.heat_map(ranked(outcomes, ["a", "b"]), ["a", "b"], RETURN).axes[0]
    shades = {
        float(np.ravel(line.get_xdata())[0]): sum(to_rgb(line.get_markerfacecolor()))  # pyright: ignore[reportArgumentType]
        for line in axes.lines
        if line.get_marker() == "o"
    }
    assert min(shades, key=shades.__getitem__) == 0


@pytest.mark.parametrize(("metric", "values"), BOTH_DIRECTIONS)
def test_what_diverged_does_not_flatten_the_curves_of_the_others(
    metric: Metric, values: list[float]
) -> None:
    configurations = swept(metric, values, lost=1e6 * values[-1])
    axes = figures.curves(configurations, rows_of(configurations, metric), metric, []).axes[0]
    best, worst = drawn_height(axes, values[0]), drawn_height(axes, values[-1])
    assert abs(best - worst) > 0.5
    ((x, y),) = crosses(axes)
    assert x == 2 * STEPS
    assert y == pytest.approx(0.03 if metric.higher_is_better else 0.97)
    (winner,) = [line for line in axes.lines if line.get_color() == ACCENT]
    assert np.ravel(winner.get_ydata())[-1] == values[0]


def test_marks_are_drawn_at_the_steps_of_so_many_evaluations_of_a_member() -> None:
    configurations = swept(LOSS, [1.0], lost=2.0)
    rows = rows_of(configurations, LOSS)
    for row in rows[1]:
        row["evaluation"] += 7  # of the population: it began when another had ended
    axes = figures.curves(configurations, rows, LOSS, marks=[2, 5]).axes[0]
    lines = [np.ravel(line.get_xdata()) for line in axes.lines if line.get_linestyle() == ":"]
    assert np.array(lines) == pytest.approx(np.array([[2 * STEPS, 2 * STEPS]]))


def test_captions_name_only_what_is_there() -> None:
    good = [outcome(0, LOSS, 1.0, FINISHED, rate=1), outcome(1, LOSS, 2.0, FINISHED, rate=2)]
    bad = [outcome(2, LOSS, 3.0, STOPPED, rate=3), outcome(3, LOSS, 4.0, DIVERGED, rate=4)]
    few, all_ = (
        list(figures.all_of(ranked(o, ["rate"]), {}, [LOSS], [])) for o in (good, good + bad)
    )
    assert few[1].caption == "Validation loss at each evaluation. The winner is blue."
    assert all_[1].caption.endswith(
        "Red crosses mark where a run diverged. Dots mark where a run ended early."
    )
    assert all_[0].caption.endswith(
        "Red crosses at the edge mark runs that diverged. "
        "Hollow dots mark runs that were stopped early."
    )
    assert "cross" not in few[0].caption
    assert all_[1].figure.get_suptitle() == "4 runs, 1 diverged, 1 ended early"


def test_where_all_diverged_there_is_no_winner() -> None:
    outcomes = [outcome(k, RETURN, -1e9, DIVERGED, rate=k, width=1) for k in range(2)]
    configurations = ranked(outcomes, ["rate", "width"])
    drawn = list(figures.all_of(configurations, rows_of(configurations, RETURN), [RETURN], []))
    assert drawn[0].figure.get_suptitle() == "Every configuration has a run that diverged"
    assert not any("winner" in each.caption for each in drawn)
    for each in drawn:
        each.figure.draw_without_rendering()


def test_values_that_change_are_drawn_over_the_steps() -> None:
    outcomes = [
        outcome(0, RETURN, -1.0, FINISHED, rate=0.2, kind="a"),
        outcome(1, RETURN, -2.0, FINISHED, rate=0.5, kind="b"),
    ]
    configurations = ranked(outcomes, ["rate", "kind"], each_alone=True)
    rows = rows_of(configurations, RETURN)
    assert "values" not in {e.name for e in figures.all_of(configurations, rows, [RETURN], [])}
    for row, rate in zip(rows[0], (0.1, 0.2), strict=True):
        row |= {"rate": rate, "kind": "a"}
    drawn = {each.name: each for each in figures.all_of(configurations, rows, [RETURN], [])}
    (axes,) = drawn["values"].figure.axes
    lines = {line.get_color(): line.get_xydata() for line in axes.lines}
    winner = lines.pop(ACCENT)
    assert winner == pytest.approx(np.array([[0, 0.1], [STEPS, 0.1], [2 * STEPS, 0.2]]))
    (other,) = lines.values()  # its rows have no rate: it never changed
    assert other == pytest.approx(np.array([[0, 0.5], [STEPS, 0.5], [2 * STEPS, 0.5]]))


def test_labels_that_would_meet_are_left_out() -> None:
    values = [0.024, 0.025, 0.03, 0.1, 0.102, 1.0]
    assert figures.spaced(values, {value: value for value in values}) == [0.024, 0.1, 1.0]
