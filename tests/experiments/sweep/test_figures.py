"""Figures of a sweep, read back: both directions of a metric, and what diverged or was stopped."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text

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
    assert ring.get_xydata() == pytest.approx(np.array([[0, values[0]]]))
    ticks = dict(
        zip(axes.get_xticks(), [t.get_text() for t in axes.get_xticklabels()], strict=True)
    )
    assert ticks == {0: "1", 1: "2", 2: "3", 3: "4"}
    heights = [drawn_height(axes, value) for value in values]
    assert all(0 < height < 1 for height in heights)
    ((x, y),) = crosses(axes)
    assert x == 3
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


@pytest.mark.long
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
    del brightness["diverged"]
    shades = {float(text): shade for text, shade in brightness.items()}
    best, middle, worst = (shades[value] for value in values)
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


@pytest.mark.parametrize("many", [False, True])
def test_a_few_configurations_have_their_values_beside_their_best_curves(many: bool) -> None:
    cells = ["gru", "lstm", *(f"other_{k}" for k in range(10 * many))]
    ends = [
        outcome(2 * k + seed, LOSS, 1.0 + k + seed / 10, FINISHED, cell=cell, seed=seed)
        for k, cell in enumerate(cells)
        for seed in range(2)
    ]
    configurations = ranked(ends, ["cell", "seed"])
    axes = figures.curves(configurations, rows_of(configurations, LOSS), LOSS, []).axes[0]
    texts = {each.get_text() for each in axes.texts}
    assert texts == ({"winner"} if many else {"winner: gru", "lstm"})


def test_ends_outside_the_scale_have_no_name_and_early_ones_are_named_where_they_end() -> None:
    ends = [outcome(k, LOSS, 1.0 + k / 100, FINISHED, rate=k) for k in range(7)]
    ends.append(outcome(7, LOSS, 50.0, STOPPED, rate=7))
    rows = {
        k: [
            {"step": step, "evaluation": step, "valid_loss": ends[k]["valid_loss"]}
            for step in range(1, {3: 20, 7: 2}.get(k, 40) + 1)
        ]
        for k in range(8)
    }
    configurations = ranked(ends, ["rate"])
    figure = figures.curves(configurations, rows, LOSS, [])
    figure.canvas.draw()  # warns, which is an error here, where texts leave no room for the panel
    axes = figure.axes[0]
    assert "7" not in {each.get_text() for each in axes.texts}
    (early,) = [each for each in axes.texts if each.get_text() == "3"]
    assert isinstance(early, Annotation)
    assert early.xy == (20, 1.03)


def test_long_values_are_cut_to_their_ends() -> None:
    texts = ["/a/long/path/to/a/folder/with/one.txt", "/a/long/path/to/a/folder/with/two.txt"]
    ends = [outcome(k, LOSS, 1.0 + k, FINISHED, text=text) for k, text in enumerate(texts)]
    configurations = ranked(ends, ["text"])
    axes = figures.curves(configurations, rows_of(configurations, LOSS), LOSS, []).axes[0]
    names = {each.get_text() for each in axes.texts}
    assert names == {"winner: …o/a/folder/with/one.txt", "…o/a/folder/with/two.txt"}
    ends = [each | {"other": texts[0]} for each in ends]  # for which there is no room beside it
    both = ranked(ends, ["text", "other"])
    axes = figures.curves(both, rows_of(both, LOSS), LOSS, []).axes[0]
    assert [each.get_text() for each in axes.texts] == ["winner"]


def test_of_very_many_runs_some_are_drawn_the_winner_among_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "MOST_CURVES", 5)
    ends = [outcome(k, LOSS, 1.0 + k, FINISHED, rate=k) for k in range(9)]
    configurations = ranked(ends, ["rate"])
    axes = figures.curves(configurations, rows_of(configurations, LOSS), LOSS, []).axes[0]
    drawn = [float(np.ravel(line.get_ydata())[-1]) for line in axes.lines]
    assert drawn == [9, 8, 6, 4, 2, 1]  # the worst first, of the eight others five
    title, caption = next(
        (each.heading, each.caption)
        for each in figures.all_of(configurations, {}, [LOSS], [])
        if each.name == "members"
    )
    assert title == "Learning curves"
    assert "of 6 of 9 runs, evenly by rank" in caption


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


def test_values_that_change_are_drawn_over_the_evaluations_with_the_winner_marked() -> None:
    outcomes = [
        outcome(0, RETURN, -1.0, FINISHED, rate=0.2, kind="a"),
        outcome(1, RETURN, -2.0, FINISHED, rate=0.5, kind="b"),
    ]
    configurations = ranked(outcomes, ["rate", "kind"], each_alone=True)
    rows = rows_of(configurations, RETURN)
    assert "values" not in {e.name for e in figures.all_of(configurations, rows, [RETURN], [])}
    for member, rates in enumerate([(0.1, 0.2), (0.5, 0.5)]):
        for row, rate in zip(rows[member], rates, strict=True):
            row |= {"rate": rate, "kind": "ab"[member]}
    drawn = {each.name: each for each in figures.all_of(configurations, rows, [RETURN], [])}
    (axes,) = drawn["values"].figure.axes
    assert axes.get_xlabel() == "evaluation"
    other, winner, dot = (np.array(line.get_xydata()) for line in axes.lines)
    assert other == pytest.approx(np.array([[0, 0.5], [1, 0.5], [2, 0.5]]))  # it never changed
    assert winner == pytest.approx(np.array([[0, 0.1], [1, 0.1], [2, 0.2]]))
    assert dot == pytest.approx(np.array([[2, 0.2]]))
    (name,) = axes.texts
    assert (name.get_text(), name.get_color()) == ("winner", ACCENT)
    assert axes.lines[1].get_color() == ACCENT != axes.lines[0].get_color()
    message = "The winner at its best evaluation: rate 0.2 (from 0.1)"
    assert drawn["values"].figure.get_suptitle() == message


def test_of_a_run_and_its_copy_the_one_that_reached_the_best_itself_is_the_winner() -> None:
    values = {"rate": 0.3, "valid_loss": 1.0, "score": -1.0, "best_step": STEPS}
    outcomes = [{**outcome(k, LOSS, 1.0, FINISHED), **values} for k in range(2)]
    rows = {
        0: [{"step": STEPS, "valid_loss": 9.0, "rate": 0.1}, {"step": 20, "valid_loss": 2.0}],
        1: [{"step": STEPS, "valid_loss": 1.0, "rate": 0.3}, {"step": 20, "valid_loss": 3.0}],
    }
    for own in rows.values():
        own[1]["rate"] = 0.2
    configurations = ranked(outcomes, ["rate"], each_alone=True)
    drawn = {each.name: each.figure for each in figures.all_of(configurations, rows, [LOSS], [])}
    (curve,) = [line for line in drawn["members"].axes[0].lines if line.get_color() == ACCENT]
    assert list(np.ravel(curve.get_ydata())) == [1.0, 3.0]
    line, dot = drawn["values"].axes[0].lines[1:]
    assert np.array(line.get_xydata()) == pytest.approx(np.array([[0, 0.3], [1, 0.3], [2, 0.2]]))
    assert np.array(dot.get_xydata()) == pytest.approx(np.array([[1, 0.3]]))


def test_every_value_that_changes_has_a_panel() -> None:
    outcomes = [outcome(k, LOSS, 1.0 + k, FINISHED, rate=0.1, decay=0.2) for k in range(2)]
    configurations = ranked(outcomes, ["rate", "decay"], each_alone=True)
    rows = rows_of(configurations, LOSS)
    for own in rows.values():
        for k, row in enumerate(own):
            row |= {"rate": 0.1 / (k + 1), "decay": 0.2 * (k + 1)}
    *_, values = figures.all_of(configurations, rows, [LOSS], [])
    assert [axes.get_title("left") for axes in values.figure.axes] == ["rate", "decay"]


@pytest.mark.long
@pytest.mark.parametrize("count", [3, 40])
def test_names_and_values_are_shown_as_they_are(count: int) -> None:
    odd, metric = "_w$x$", Metric("_l$y$", higher_is_better=False)
    outcomes = [
        outcome(k, metric, 1.0 + k, FINISHED, **{odd: k, "kind": f"_a${k}$"}) for k in range(count)
    ]
    configurations = ranked(outcomes, [odd, "kind"])
    rows = rows_of(configurations, metric)
    for member, own in rows.items():
        for row in own:
            row[odd] = member + row["evaluation"]
    drawn = {each.name: each.figure for each in figures.all_of(configurations, rows, [metric], [])}
    assert set(drawn) == {"by_field", "heat_map", "members", "values"}
    for figure in drawn.values():
        figure.draw_without_rendering()
        own = [text.get_text() for text in figure.findobj(Text)]
        assert not any(is_math_text(text) for text in own if "mathdefault" not in text)
        assert all(text.startswith("\u200b") for text in own if text.lstrip("\u200b")[:1] == "_")
        assert any(r"_w\$x\$" in text or r"_l\$y\$" in text for text in own)
    labels = [text.get_text() for text in drawn["by_field"].axes[1].get_xticklabels()]
    assert labels == [f"\u200b_a\\${k}\\$" for k in range(count)]


def test_many_numbers_lie_on_their_axis_and_few_side_by_side() -> None:
    for count in (4, 40):
        rates = [10.0 ** -(k / 8) for k in range(count)]
        outcomes = [outcome(k, LOSS, 1.0, FINISHED, rate=rate) for k, rate in enumerate(rates)]
        configurations = ranked(outcomes, ["rate"])
        axes = figures.by_field(configurations, ["rate"], [LOSS]).axes[0]
        drawn = sorted({float(x) for line in axes.lines for x in np.ravel(line.get_xdata())})
        assert drawn == pytest.approx([0, 1, 2, 3] if count == 4 else sorted(rates))
        assert axes.get_xscale() == ("linear" if count == 4 else "log")
