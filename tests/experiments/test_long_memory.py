"""The adding and copy problems against their definitions, and networks that begin to solve them."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from experiments import __main__
from experiments.harness.errors import UserError
from experiments.long_memory import Config, network_of
from experiments.shared.cell_flag import library_cells, make_cell
from experiments.shared.memory import numbers
from experiments.shared.remembered import SHOWN, answered
from experiments.shared.remembering import PROBLEMS, adding, copy, numbered, recall
from experiments.shared.time_scales import time_scales


@pytest.mark.long
def test_the_sum_is_that_of_the_two_marked_numbers() -> None:
    xs, targets = map(np.asarray, numbered(adding(7), jnp.arange(3000)))
    values, marks = xs[..., 0], xs[..., 1]
    assert xs.shape == (7, 3000, 2)
    assert set(np.unique(marks)) == {0, 1}
    assert (marks.sum(0) == 2).all()
    np.testing.assert_allclose((values * marks).sum(0), targets, rtol=1e-6)
    np.testing.assert_allclose(marks.mean(1), 2 / 7, atol=0.03)  # any step, equally often
    assert 0 <= values.min() < 0.001
    assert 0.999 < values.max() < 1
    np.testing.assert_allclose(values.mean(), 0.5, atol=0.01)


@pytest.mark.long
def test_without_memory_the_squared_error_of_a_sum_is_a_sixth() -> None:
    problem = adding(5)
    _, targets = numbered(problem, jnp.arange(20_000))
    ones = jnp.ones((5, len(targets), 1))
    found = problem.judge(ones, targets, jnp.ones(len(targets), bool))
    assert float(found["loss"].mean) == pytest.approx(problem.nothing, abs=0.004)
    # |a + b - 1| < .04 for two uniform numbers: 1 - (1 - .04)^2
    assert float(found["right"].mean) == pytest.approx(1 - 0.96**2, abs=0.01)


def test_copies_have_the_published_layout() -> None:
    xs, symbols = map(np.asarray, numbered(copy(4), jnp.arange(500)))
    tokens = xs.argmax(-1)  # [T, B]
    assert xs.shape == (24, 500, 10)
    np.testing.assert_array_equal(xs.sum(-1), 1)
    np.testing.assert_array_equal(tokens[:10], symbols.T)
    np.testing.assert_array_equal(tokens[10:13], 0)
    np.testing.assert_array_equal(tokens[13:], 9)
    np.testing.assert_array_equal(np.unique(symbols), np.arange(1, 9))


@pytest.mark.long
def test_without_memory_a_copy_costs_ten_logarithms_of_eight() -> None:
    problem = copy(1000)
    _, symbols = numbered(problem, jnp.arange(50))
    blanks = jnp.where(jnp.arange(10) == 0, 0.0, -50.0)
    guesses = jnp.where((jnp.arange(10) == 0) | (jnp.arange(10) == 9), -50.0, 0.0)
    logits = jnp.concatenate([jnp.tile(blanks, (1010, 1)), jnp.tile(guesses, (10, 1))])
    ys = jnp.broadcast_to(logits[:, None], (1020, 50, 10))
    found = problem.judge(ys, symbols, jnp.ones(50, bool))
    assert problem.nothing == pytest.approx(0.0204, abs=5e-5)  # as Bai et al. print it
    assert float(found["loss"].mean) == pytest.approx(10 * math.log(8) / 1020, rel=1e-4)
    assert float(found["right"].mean) == 0


@pytest.mark.long
def test_only_the_first_step_shows_what_is_to_be_recalled() -> None:
    problem = recall(4)
    xs, symbols = map(np.asarray, numbered(problem, jnp.arange(4000)))
    np.testing.assert_array_equal(xs[0], np.eye(8)[symbols])
    np.testing.assert_allclose(xs[1:].std(), 0.1, rtol=0.02)
    others = np.array([xs[1:, symbols == k].mean((0, 1)) for k in range(8)])
    np.testing.assert_allclose(others, 0, atol=0.02)  # the noise knows nothing of it
    np.testing.assert_allclose(np.bincount(symbols) / 4000, 1 / 8, atol=0.03)
    found = problem.judge(jnp.zeros((4, 4000, 8)), jnp.asarray(symbols), jnp.ones(4000, bool))
    assert float(found["loss"].mean) == pytest.approx(math.log(8), rel=1e-5) == problem.nothing


@pytest.mark.long
@pytest.mark.parametrize("name", PROBLEMS)
def test_right_answers_cost_nothing_and_padding_is_left_out(name: str) -> None:
    problem = PROBLEMS[name](6)
    _, targets = numbered(problem, jnp.arange(4))
    ys = jnp.zeros((problem.steps, 4, problem.outputs))
    if name == "adding":
        ys = ys.at[-1, :, 0].set(targets)
    elif name == "recall":
        ys = ys.at[-1].set(100 * jax.nn.one_hot(targets, 8))
    else:
        wanted = jnp.concatenate([jnp.zeros((16, 4), int), targets.T])
        ys = 100 * jax.nn.one_hot(wanted, 10)
    ys = ys.at[:, 3].set(7.0)  # a wrong one, masked
    found = problem.judge(ys, targets, jnp.array([True, True, True, False]))
    assert float(found["loss"].mean) == pytest.approx(0, abs=1e-6)
    assert float(found["right"].mean) == 1


@pytest.mark.long
def test_no_sequence_is_in_two_splits_of_those_that_are_held_out() -> None:
    data = numbers(10)
    assert not set(data["valid"]["number"].tolist()) & set(data["test"]["number"].tolist())
    xs, _ = numbered(adding(3), data["valid"]["number"])
    assert len(np.unique(np.asarray(xs[..., 0]), axis=1).T) == 500


@pytest.mark.long
@pytest.mark.parametrize("name", library_cells())
def test_every_cell_takes_its_time_scales(name: str) -> None:
    cell = make_cell(name, 8, 8, **time_scales(name, 50))
    jax.eval_shape(cell.init, jax.random.key(0))


@pytest.mark.long
@pytest.mark.parametrize("name", ["gru", "lstm", "lru"])
def test_what_is_read_first_lasts_longer_with_time_scales(name: str) -> None:
    """The states of two sequences that differ at the first step alone still differ."""
    steps = 300

    def apart(options: dict[str, Any]) -> float:
        cell = make_cell(name, 2, 32, **options)
        params = cell.init(jax.random.key(0))
        one = 0.1 * jax.random.normal(jax.random.key(1), (steps, 1, 2))
        other = one.at[0].add(1.0)
        states = [recurrent.unroll(cell, params, xs)[1] for xs in (one, other)]
        first, last = (float(jnp.linalg.norm(states[0][t] - states[1][t])) for t in (0, -1))
        return last / first

    assert apart(time_scales(name, steps)) > 3 * apart({})
    assert apart(time_scales(name, steps)) > 0.02


def test_blocks_need_a_cell_that_keeps_the_size(tmp_path: Path) -> None:
    file = tmp_path / "wide.py"
    file.write_text(
        "import recurrent\ndef wide(input_size, hidden_size):\n"
        "    return recurrent.gru(input_size, 2 * hidden_size)\n"
    )
    with pytest.raises(UserError, match=r"as many numbers as it reads; .*wide reads 64"):
        network_of(Config(cell=f"{file}:wide", blocks=2), adding(9))


@pytest.mark.long
def test_a_cell_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "both.py"
    file.write_text(
        "import recurrent\ndef both(input_size, hidden_size):\n"
        "    return recurrent.bidirectional(\n"
        "        recurrent.gru(input_size, hidden_size), recurrent.gru(input_size, hidden_size))\n"
    )
    with pytest.raises(UserError, match="looks ahead"):
        network_of(Config(cell=f"{file}:both"), adding(9))


@pytest.mark.long
@pytest.mark.parametrize("flags", [["--problem=adding"], ["--problem=copy", "--cell=lru"]])
def test_it_trains_and_draws_what_it_remembers(tmp_path: Path, flags: list[str]) -> None:
    run = tmp_path / "run"
    sizes = ["--length=6", "--hidden_size=16", "--examples=1000", "--epochs=5", "--blocks=1"]
    assert __main__.main(["long_memory", *flags, *sizes, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    problem = PROBLEMS[flags[0].rpartition("=")[2]](6)
    assert result["test_loss"] < problem.nothing + 0.01
    assert (run / "figures" / "progress.png").exists()


@pytest.mark.parametrize("together", [7, 500, 3000])
def test_answers_are_the_same_however_many_are_given_together(together: int) -> None:
    problem = copy(4)
    network = network_of(Config(problem="copy", length=4, hidden_size=3), problem)
    params = network.init(jax.random.key(0))
    xs, expected = numbered(problem, SHOWN + jnp.arange(SHOWN))
    ys, targets = answered(problem, network, params, together)
    np.testing.assert_array_equal(targets, expected)
    whole = recurrent.unroll(network, params, xs)[1]
    np.testing.assert_allclose(ys, whole[-10:], atol=1e-6)
