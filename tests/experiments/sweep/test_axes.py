"""What may be swept, and which members it makes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import sequential_digits
from experiments.harness.config import options
from experiments.harness.errors import UserError
from experiments.sweep import axes, ranking
from experiments.sweep.axes import at_random, configurations, grid, programs, read_axes
from experiments.sweep.ranking import ranked
from experiments.sweep.search import successive_halving

OPTIONS = options(sequential_digits.Config)


def values(text: str) -> list[object]:
    return list(read_axes([text], OPTIONS)[0].values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=0.1,0.01", [0.1, 0.01]),
        ("learning_rate=log:1e-4:1e-1:4", [1e-4, 1e-3, 1e-2, 1e-1]),
        ("dropout=linear:0:0.5:3", [0.0, 0.25, 0.5]),
        ("seed=0:4", [0, 1, 2, 3]),
        ("seed=3,1", [3, 1]),
        ("hidden_size=log:8:128:5", [8, 16, 32, 64, 128]),
        ("hidden_size=linear:1:3:9", [1, 2, 3]),
        ("cell=lstm,gru", ["lstm", "gru"]),
        ("seed=7", [7]),
    ],
)
def test_the_values_of_an_axis(text: str, expected: list[object]) -> None:
    assert values(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat=1", ["no field 'learning_rat'", 'Did you mean "learning_rate"']),
        ("learning_rate", ["expected learning_rate=VALUES"]),
        ("learning_rate=", ["expected learning_rate=VALUES"]),
        ("learning_rate=fast", ["--learning_rate: expected a number, got 'fast'"]),
        ("learning_rate=0.1,", ["--learning_rate: expected a number, got ''"]),
        ("learning_rate=0.1,0.10", ["each value once"]),
        ("learning_rate=log:1e-1:1e-4:8", ["expected LOW above 0 and below HIGH, got 0.1, 0.0001"]),
        ("learning_rate=log:1:1:8", ["expected LOW above 0 and below HIGH"]),
        ("weight_decay=log:0:1:8", ["expected LOW above 0 and below HIGH, got 0.0, 1.0"]),
        ("learning_rate=log:1e-4:1e-1:0", ["COUNT of 1 to", "got 0"]),
        ("learning_rate=log:1e-4:1e-1:-3", ["COUNT of 1 to", "got -3"]),
        ("learning_rate=log:1e-4:1e-1:2.5", ["COUNT of 1 to", "got 2.5"]),
        ("learning_rate=log:1e-4", ["expected log:LOW:HIGH or log:LOW:HIGH:COUNT"]),
        ("learning_rate=log:nan:1:3", ["--learning_rate: expected a finite number"]),
        ("learning_rate=1:4", ["--sweep=learning_rate=1:4: expected a,b,c"]),
        ("seed=4:4", ["expected FROM below BELOW, got 4:4"]),
        ("seed=4:2", ["expected FROM below BELOW, got 4:2"]),
        ("seed=-1:2", ["--seed: expected at least 0, got -1"]),
        ("seed=0:1000000000", ["at most 100000 values, got 1000000000", "linear:LOW:HIGH"]),
        ("seed=0:1000000000000", ["--seed: expected at most 2147483647"]),
        ("learning_rate=1e-46,1", ["--learning_rate: expected 0 or a number that float32"]),
        ("learning_rate=log:1e-46:1:5", ["--learning_rate: expected 0 or a number that float32"]),
        ("cell=log:1:2:3", ["cell is no number"]),
        ("cell=lstn", ["--cell: expected one of", 'Did you mean "lstm"']),
        ("epochs=1_0", ["--epochs: expected a whole number"]),
    ],
)
def test_what_cannot_be_swept(text: str, words: list[str]) -> None:
    with pytest.raises(UserError) as refusal:
        read_axes([text], OPTIONS)
    for word in words:
        assert word in str(refusal.value)


def test_axes_that_do_not_go_together() -> None:
    with pytest.raises(UserError, match="at least one --sweep"):
        read_axes([], OPTIONS)
    with pytest.raises(UserError, match="seed: expected once, got 2 times"):
        read_axes(["seed=0:4", "seed=1"], OPTIONS)
    with pytest.raises(UserError, match="a grid needs a count, as in log"):
        grid(read_axes(["learning_rate=log:1e-4:1e-1"], OPTIONS))
    with pytest.raises(UserError, match="at most 100000 members, got 160000"):
        grid(read_axes(["seed=0:400", "epochs=0:400"], OPTIONS))


def test_a_grid_has_every_combination_once() -> None:
    axes = read_axes(["learning_rate=0.1,0.2", "cell=lstm,gru", "seed=0:3"], OPTIONS)
    points = grid(axes)
    assert len(points) == len({tuple(point.items()) for point in points}) == 12
    assert points[1] == {"learning_rate": 0.1, "cell": "lstm", "seed": 1}


@pytest.mark.long
@given(st.integers(0, 1000))
def test_draws_stay_within_their_range_and_share_their_seeds(seed: int) -> None:
    texts = ["learning_rate=log:1e-4:1e-1", "hidden_size=linear:3:9", "cell=lstm,gru", "seed=0:2"]
    points = at_random(read_axes(texts, OPTIONS), OPTIONS, 20, seed)
    assert points == at_random(read_axes(texts, OPTIONS), OPTIONS, 20, seed)
    assert len(points) <= 40
    assert [point["seed"] for point in points] == [0, 1] * (len(points) // 2)
    for point in points:
        assert 1e-4 <= point["learning_rate"] <= 1e-1
        assert point["hidden_size"] in range(3, 10)
    assert all(len(members) == 2 for members in configurations(points))


def test_draws_on_a_log_scale_are_even_on_it() -> None:
    axes = read_axes(["learning_rate=log:1e-4:1e-2"], OPTIONS)
    rates = [point["learning_rate"] for point in at_random(axes, OPTIONS, 4000, 0)]
    shares, _ = np.histogram(np.log10(rates), bins=4, range=(-4, -2))
    np.testing.assert_allclose(shares / len(rates), 0.25, atol=0.03)


def test_static_fields_make_programs() -> None:
    axes = read_axes(["cell=lstm,gru", "learning_rate=0.1,0.2", "hidden_size=8"], OPTIONS)
    found = programs(grid(axes), OPTIONS)
    assert found == [
        ({"cell": "lstm", "hidden_size": 8}, [0, 1]),
        ({"cell": "gru", "hidden_size": 8}, [2, 3]),
    ]


# Halving


@pytest.mark.parametrize(
    ("epochs", "reduction", "first", "expected"),
    [
        (27, 3, 1, [1, 3, 9]),
        (100, 3, 1, [1, 2, 4, 12, 34]),
        (100, 3, 4, [4, 12, 34]),
        (1, 3, 1, []),
        (2, 2, 1, [1]),
        (16, 2, 5, [8]),
    ],
)
def test_rungs(epochs: int, reduction: int, first: int, expected: list[int]) -> None:
    assert successive_halving.rungs_of(epochs, reduction, first) == expected


def test_the_better_third_goes_on() -> None:
    scores = [-0.5, -0.1, -0.9, -0.3, None, -0.2]
    assert successive_halving.stopped([], scores, 3) == [True, False, True, True, True, False]


def test_one_that_comes_later_is_measured_against_those_before() -> None:
    assert successive_halving.stopped([-0.5, -0.1, -0.9], [-0.2], 3) == [False]
    assert successive_halving.stopped([-0.5, -0.1, -0.9], [-0.6], 3) == [True]
    assert successive_halving.stopped([None], [None], 2) == [True]


@given(st.lists(st.one_of(st.none(), st.floats(-9, 9)), min_size=1), st.integers(2, 5))
def test_of_distinct_scores_one_in_so_many_goes_on(scores: list[float | None], by: int) -> None:
    finite = [score for score in scores if score is not None]
    stops = successive_halving.stopped([], scores, by)
    let_on = [score for score, stop in zip(scores, stops, strict=True) if not stop]
    kept = [score for score in let_on if score is not None]
    assert len(kept) == len(let_on)
    if len(set(finite)) == len(finite):
        assert len(kept) == min(math.ceil(len(scores) / by), len(finite))
    assert all(score <= min(kept) for score in finite if score not in kept) or not kept


# Ranking


def row(member: int, rate: float, seed: int, score: float | None, **more: object) -> dict:
    status = "diverged" if score is None else "finished"
    base = {"member": member, "learning_rate": rate, "seed": seed, "score": score}
    return base | {"status": status, "evaluations_done": 9, "step": 90, "valid_loss": score} | more


def test_settings_are_ranked_by_the_mean_over_their_seeds() -> None:
    outcomes = [row(0, 0.1, 0, -1.0), row(1, 0.1, 1, -3.0), row(2, 0.2, 0, -1.9)]
    outcomes += [row(3, 0.2, 1, -1.9), row(4, 0.3, 0, None), row(5, 0.3, 1, -0.1)]
    outcomes += [row(6, 9.0, 0, None), row(7, 9.0, 1, None)]
    found = ranked(outcomes[::-1], ["learning_rate", "seed"])
    assert [setting.values["learning_rate"] for setting in found] == [0.2, 0.1, 0.3, 9.0]
    assert found[1].score == -2.0
    assert ranking.best_member(found[1])["member"] == 0
    assert found[2].of("valid_loss") == [-0.1]


def test_who_was_stopped_early_stands_behind_who_was_not() -> None:
    early = {"status": "rung", "evaluations_done": 3}
    later = {"status": "rung", "evaluations_done": 5}
    outcomes = [row(0, 0.1, 0, -0.1, **early), row(1, 0.2, 0, -9.0), row(2, 0.3, 0, -0.5, **later)]
    found = ranked(outcomes, ["learning_rate", "seed"])
    assert [setting.values["learning_rate"] for setting in found] == [0.2, 0.3, 0.1]


def test_mean_and_spread() -> None:
    assert ranking.mean_and_spread([]) is None
    assert ranking.mean_and_spread([2.0]) == (2.0, 0.0)
    mean, spread = ranking.mean_and_spread([1.0, 2.0, 4.0]) or (0, 0)
    assert mean == pytest.approx(np.mean([1, 2, 4]))
    assert spread == pytest.approx(np.std([1, 2, 4], ddof=1))


def test_what_a_table_and_a_command_line_show_is_the_number_itself() -> None:
    for value in values("learning_rate=log:1e-4:1e-1:8"):
        assert values(f"learning_rate={value}") == [value]
    assert axes.read_axis("seed=0:4", OPTIONS).describe() == "0:4"
