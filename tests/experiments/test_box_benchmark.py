"""The study of boxes: data, scores of maps that are known, networks, a training."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__
from experiments.box_benchmark import Config, logits_of, parts_of
from experiments.shared.box_maps import Found, drawn, methods_of, scores_of, table, with_rollout
from recurrent.layers import init_all


@pytest.mark.long
def test_splits_differ_and_are_the_same_for_a_seed() -> None:
    first, again = drawn("rare_time", 1), drawn("rare_time", 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first["valid"]["xs"], first["test"]["xs"])
    assert first["train"]["xs"].shape == (1000, 50, 50)
    assert (first["test"]["inside"].sum((1, 2)) == 6 * 40).all()


@pytest.mark.long
def test_a_map_of_the_box_is_perfect_and_comes_first() -> None:
    inside = np.zeros((2, 4, 4), bool)
    inside[:, 1:3, 1:3] = True
    noise = np.random.default_rng(0).random(inside.shape)
    scores = scores_of(Found({"gradient": noise, "box": inside * 1.0}, inside, noise))
    assert scores["box"]["precision_area"] == 1
    assert scores["gradient"]["times_gradient"] == pytest.approx(1)
    ratio = scores["box"]["recall_area"] / (
        scores["gradient"]["precision_area"] * scores["gradient"]["recall_area"]
    )
    assert scores["box"]["times_gradient"] == pytest.approx(ratio)
    rows = table(scores).rows
    assert [row[0] for row in rows] == ["box", "gradient"]
    assert all(len(row) == len(table(scores).columns) for row in rows)


@pytest.mark.parametrize(("read", "expected"), [("last", [0.5, 0.5]), ("mean", [0.75, 0.25])])
def test_rollout_follows_the_output_that_is_read(read: str, expected: list[float]) -> None:
    xs = np.zeros((1, 2, 3))
    weights = jnp.array([[[1.0, 0.0], [1.0, 0.0]]])  # both steps attend to the first
    found = with_rollout(Found({}, xs > 0, xs), [weights], read).maps["attention rollout"]
    np.testing.assert_allclose(found[0], np.tile(np.array(expected)[:, None], 3))


@pytest.mark.parametrize("name", ["gradient x input", "integrated gradients"])
def test_maps_are_those_of_a_linear_function(name: str) -> None:
    xs = jax.random.normal(jax.random.key(0), (2, 5, 5))
    methods = methods_of(lambda xs: xs[:, 2].sum(1), xs, jax.random.key(1))
    expected = jnp.where(jnp.arange(5)[:, None] == 2, xs, 0)
    np.testing.assert_allclose(methods[name](xs), expected, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("model", ["lstm", "cnn", "attention"])
def test_networks_read_the_first_step(model: str) -> None:
    parts = parts_of(Config(model=model, hidden_size=8))
    params = init_all(parts, jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (1, 49, 50))
    logits = jax.jit(lambda xs: logits_of("last", parts, params, xs))
    assert logits(xs).shape == (1, 2)
    assert not np.allclose(logits(xs), logits(xs.at[:, 0].add(10)), atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("model", ["lstm", "attention"])
def test_it_trains_and_is_evaluated(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], model: str
) -> None:
    run = tmp_path / "run"
    sizes = ["--hidden_size=8", "--epochs=2", "--box=moving_middle", f"--model={model}"]
    assert __main__.main(["box_benchmark", *sizes, f"--workdir={run}"]) == 0
    assert {file.name for file in (run / "figures").iterdir()} >= {"areas.png", "maps.png"}
    capfd.readouterr()
    assert __main__.main(["evaluate", str(run)]) == 0
    found = json.loads((run / "evaluation-boxes.json").read_text())["methods"]
    assert found["gradient"]["times_gradient"] == pytest.approx(1)
    assert ("attention rollout" in found) == (model == "attention")
    assert len(capfd.readouterr().out.strip().splitlines()) == len(found)


@pytest.mark.long
def test_the_mean_of_outputs_is_read() -> None:
    parts = parts_of(Config(model="lstm"))
    params = {name: part.init(jax.random.key(k)) for k, (name, part) in enumerate(parts.items())}
    xs = jax.random.normal(jax.random.key(9), (2, 50, 50))
    ys = jnp.stack([logits_of("last", parts, params, xs[:, : t + 1]) for t in range(50)])
    # a dense readout of a mean is the mean of readouts
    np.testing.assert_allclose(logits_of("mean", parts, params, xs), ys.mean(0), atol=1e-5)
