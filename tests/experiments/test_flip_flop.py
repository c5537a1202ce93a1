"""Bits held by a cell: pulses against a loop, points of a known system, a training."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from experiments import __main__
from experiments.figures.fixed_points import angle, principal
from experiments.flip_flop import Config, program
from experiments.harness.errors import UserError
from experiments.shared.fixed_points import (
    Study,
    check_state,
    message,
    numbers,
    real_span,
    searched,
    starts,
    unstable_directions,
)
from experiments.shared.flipping import PULSES, flip_flop, held
from experiments.shared.remembering import numbered


def last_pulses(pulses: np.ndarray) -> np.ndarray:
    """The definition, in a loop over steps and lines of ``[T, N]``."""
    answers = np.zeros_like(pulses)
    for step in range(len(pulses)):
        for line in range(pulses.shape[1]):
            before = answers[step - 1, line] if step else 0
            answers[step, line] = pulses[step, line] or before
    return answers


def test_what_is_held_is_the_last_pulse() -> None:
    rng = np.random.default_rng(0)
    for shape in [(1, 1), (7, 3), (40, 2)]:
        pulses = rng.choice([-1.0, 0.0, 1.0], shape, p=[0.1, 0.8, 0.1]).astype(np.float32)
        np.testing.assert_array_equal(held(jnp.asarray(pulses)), last_pulses(pulses))


@pytest.mark.long
def test_pulses_come_at_the_first_step_and_then_as_often_as_they_should() -> None:
    problem = flip_flop(3, 50)
    xs, targets = numbered(problem, jnp.arange(2000))
    assert xs.shape == (50, 2000, 3)
    assert (abs(np.asarray(xs[0])) == 1).all()
    later = np.asarray(xs[1:])
    assert abs(later).mean() == pytest.approx(PULSES, abs=0.003)
    assert later.mean() == pytest.approx(0, abs=0.003)
    for k in (0, 1, 1999):
        np.testing.assert_array_equal(targets[k], last_pulses(np.asarray(xs[:, k])))
    # who answers with the pulses themselves is wrong by 1 wherever there is none
    errors = problem.judge(xs, targets, jnp.ones(2000, bool))
    assert float(errors["loss"].mean) == pytest.approx(problem.nothing, abs=0.003)
    perfect = problem.judge(targets.swapaxes(0, 1), targets, jnp.arange(2000) < 5)
    assert float(perfect["loss"].mean) == 0
    assert float(perfect["right"].total) == 5


def latches(bits: int) -> tuple[Study, Any]:
    """Lines that hold by themselves: ``h' = tanh(2 h + 4 x)``, with a readout of h."""
    cell = recurrent.elman(bits, bits)
    network = recurrent.stack(cell, recurrent.dense(bits, bits))
    params = network.init(jax.random.key(0))
    eye = np.eye(bits, dtype=np.float32)
    params["layer_0"]["recurrent"] = {**params["layer_0"]["recurrent"], "kernel": 2 * eye}
    params["layer_0"]["input"] = {**params["layer_0"]["input"], "kernel": 4 * eye}
    params["layer_1"]["kernel"] = eye
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if "bias" in jax.tree_util.keystr(path) else leaf, params
    )
    return Study(flip_flop(bits, 20), cell, network), params


@pytest.mark.long
def test_all_points_of_a_system_of_known_ones_are_found() -> None:
    """Each line rests at 0 or at either root of h = tanh(2 h): 3^2 points of two lines."""
    study, params = latches(2)
    found = searched(study, params)
    root = 0.9575040240772687  # of h = tanh(2 h)
    expected = {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    assert {(*np.sign(np.round(point, 6)),) for point in found.flat} == expected
    np.testing.assert_allclose(abs(found.flat[abs(found.flat) > 0.1]), root, atol=1e-12)
    np.testing.assert_array_equal(found.unstable, (abs(found.flat) < 0.1).sum(1))
    said = numbers(found)
    assert said.pop("seconds") > 0
    # d tanh(2 h) / dh = 2 (1 - h^2) at the root
    slowest = 1 / abs(np.log(2 * (1 - root**2)))
    assert said.pop("slowest_time_constant") == pytest.approx(slowest, rel=1e-6)
    assert said.pop("largest_q") < 1e-24
    counts = {"stable": 4, "patterns": 4, "saddles": 5, "saddles_1": 4, "saddles_2": 1}
    assert said == counts | {"slow_points": 0}
    assert "one for each of the 4 patterns" in message(found, 2)
    directions = unstable_directions(found, found.unstable == 1)
    moves = np.abs(np.concatenate(directions))  # along the line that rests at 0
    np.testing.assert_allclose(moves, abs(found.flat[found.unstable == 1]) < 0.1, atol=1e-6)


def test_directions_of_complex_eigenvectors_are_a_real_plane() -> None:
    turn = np.array([[0.0, -1.2, 0.0], [1.2, 0.0, 0.0], [0.0, 0.0, 0.5]])
    values, vectors = np.linalg.eig(turn)
    plane = real_span(vectors[:, abs(values) > 1])
    np.testing.assert_allclose(plane @ plane.T, np.diag([1, 1, 0]), atol=1e-12)


def test_starts_are_visited_states_or_lie_between_them() -> None:
    visited = {"h": jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 3)))}
    found = starts(visited, 40)["h"]
    flat = np.asarray(visited["h"]).reshape(-1, 3)
    apart = np.abs(np.asarray(found)[:20, None] - flat).max(-1).min(-1)
    np.testing.assert_allclose(apart, 0, atol=1e-6)
    assert (np.asarray(found) <= flat.max(0) + 1e-6).all()
    assert (np.asarray(found) >= flat.min(0) - 1e-6).all()


def test_the_picture_looks_along_the_directions_of_most_variance() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    states = rng.normal(size=(4000, 6)) * [9, 5, 3, 0.1, 0.1, 0.1] @ axes.T + 7
    mean, components, shares = principal(states)
    np.testing.assert_allclose(mean, 7, atol=0.5)
    np.testing.assert_allclose(abs(components.T @ axes[:, :3]), np.eye(3), atol=0.05)
    assert shares[:3].sum() > 0.99
    cube = np.stack(np.meshgrid(*[[-1, 1]] * 3), -1).reshape(-1, 3)
    view = cube @ angle(cube)
    apart = np.linalg.norm(view[:, None] - view[None], axis=-1)[np.triu_indices(8, 1)]
    assert apart.min() > 0.4
    assert angle(cube[:1]).shape == (3, 2)


def test_cells_without_a_state_of_floats_are_refused() -> None:
    with pytest.raises(UserError, match="counts its steps"):
        check_state("mine", recurrent.step_dropout(3, 0.1, None))
    with pytest.raises(UserError, match=r"at most 512 numbers, .* that of lstm has 600"):
        program(Config(cell="lstm", hidden_size=300))


@pytest.mark.long
@pytest.mark.parametrize("cell", ["elman", "lstm"])
def test_it_trains_and_finds_a_point_for_each_pattern(cell: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sizes = ["--bits=2", "--hidden_size=12", "--examples=3200", f"--cell={cell}"]
    assert __main__.main(["flip_flop", *sizes, f"--workdir={run}"]) == 0
    names = {file.name for file in (run / "figures").iterdir()}
    assert names >= {"progress.png", "held.png", "landscape.png", "speeds.png", "points.csv"}
    assert __main__.main(["fixed_points", str(run)]) == 0
    found = json.loads((run / "evaluation-fixed_points.json").read_text())
    assert (found["stable"], found["patterns"]) == (4, 4)
    assert found["largest_q"] < 1e-12
