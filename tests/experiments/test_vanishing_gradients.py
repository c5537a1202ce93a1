"""How gradients travel: rates in closed form, the first weights by a traced gain, a training."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from experiments import __main__
from experiments.figures.memory import progress_message
from experiments.harness.errors import UserError
from experiments.shared.rates import has_spectrum, rates, spectrum
from experiments.shared.remembering import numbered, recall
from experiments.shared.scaled_start import scaled
from experiments.vanishing_gradients import Config, cell_of, program


@pytest.mark.long
@pytest.mark.parametrize("gain", [0.5, 1.0, 1.3])
@pytest.mark.parametrize("start", ["orthogonal", "identity"])
def test_a_linear_network_has_the_rates_of_its_gain(start: str, gain: float) -> None:
    config = Config(activation="linear", start=start, length=30)
    problem = recall(config.length)
    cell = cell_of(config, problem)
    network = recurrent.stack(cell, recurrent.dense(config.hidden_size, 8))
    params = scaled(network.init(jax.random.key(0)), gain)
    xs, _ = numbered(problem, jnp.arange(3))
    found = rates(cell, params, xs, jnp.array([True, True, False]))
    assert float(found["slope"].mean) == pytest.approx(math.log(gain), abs=1e-4)
    assert float(found["exponent"].mean) == pytest.approx(math.log(gain), abs=1e-4)
    assert float(found["slope"].total) == pytest.approx(2 * math.log(gain), abs=1e-3)
    assert float(found["exponent_median"].mean) == pytest.approx(math.log(gain), abs=1e-4)


@pytest.mark.long
def test_what_is_remembered_is_counted_over_the_whole_spectrum() -> None:
    """Of a diagonal network the exponents are the logarithms of its factors."""
    cell = recurrent.elman(2, 4, activation=lambda z: z)
    params = cell.init(jax.random.key(0))
    params["recurrent"]["kernel"] = jnp.eye(4).at[3, 3].set(0.0)
    xs = jnp.ones((20, 2))
    found = spectrum(cell, params, xs, jnp.bool_(True))
    assert float(found["remembered"].mean) == 0.75
    for factor, share in ((0.9, 0.0), (0.96, 1.0)):  # a difference fades to 0.9^20, 0.96^20
        params["recurrent"]["kernel"] = factor * jnp.eye(4)
        found = spectrum(cell, params, xs, jnp.bool_(True))
        assert float(found["remembered"].mean) == share
        assert float(found["exponent_median"].mean) == pytest.approx(math.log(factor), abs=1e-5)
    assert float(spectrum(cell, params, xs, jnp.bool_(False))["remembered"].weight) == 0
    assert not has_spectrum(recurrent.lstm(2, 33))
    assert has_spectrum(recurrent.lstm(2, 32))


def test_a_gain_multiplies_the_first_recurrent_weights_alone() -> None:
    made = program(Config(length=5, cell="lstm"))
    hparams = {"seed": 0, "learning_rate": 1e-3, "gain": 1.0}
    hparams |= dict.fromkeys(("momentum", "beta1", "beta2", "epsilon", "weight_decay"), 0.1)
    hparams |= dict.fromkeys(("l1", "clip_norm", "clip_value"), 0.0)
    one, other = (made.task.init(hparams | {"gain": gain}).params for gain in (1.0, 0.25))
    kernel = one["layer_0"]["recurrent"].pop("kernel")
    np.testing.assert_allclose(other["layer_0"]["recurrent"].pop("kernel"), 0.25 * kernel)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_flags_that_a_cell_does_not_know_are_refused() -> None:
    with pytest.raises(UserError, match="--gain: the cell min_gru has no weights"):
        program(Config(cell="min_gru", gain=1.1))
    with pytest.raises(UserError, match=r"--cell: gru .* 'activation'"):
        program(Config(cell="gru", activation="relu"))


def test_the_message_says_how_much_is_remembered() -> None:
    steps = np.array([10, 20])
    assert "in part: its loss is 50%" in progress_message(steps, np.array([2.0, 1.0]), 2.0)
    assert "not learned" in progress_message(steps, np.array([2.0, np.nan]), 2.0)
    assert "from step 20 on" in progress_message(steps, np.array([2.0, 0.1]), 2.0)


@pytest.mark.long
def test_it_trains_and_draws_how_gradients_travel(tmp_path: Path) -> None:
    run = tmp_path / "run"
    sizes = ["--length=8", "--hidden_size=16", "--examples=1000", "--epochs=4"]
    assert __main__.main(["vanishing_gradients", *sizes, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["test_loss"] < math.log(8)
    assert np.isfinite([result["test_slope"], result["test_exponent"]]).all()
    names = {file.name for file in (run / "figures").iterdir()}
    assert names >= {"progress.png", "by_lag.png", "saturation.png", "eigenvalues.png"}


@pytest.mark.long
def test_one_program_trains_all_gains(tmp_path: Path) -> None:
    sizes = ["--length=8", "--hidden_size=16", "--examples=200", "--epochs=2"]
    command = ["sweep", "vanishing_gradients", "--sweep=gain=0.2,1.0", *sizes]
    assert __main__.main([*command, f"--workdir={tmp_path / 'sweep'}"]) == 0
    rows = (tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()
    small, large = (json.loads(row)["valid_slope"] for row in rows)
    assert small < large - 1
    figures = {file.name for file in (tmp_path / "sweep" / "figures").iterdir()}
    assert figures >= {"right_by_exponent.png", "right_by_slope.png"}
    head = (tmp_path / "sweep" / "figures" / "ranking.csv").read_text().splitlines()[0]
    measured = ("loss", "right", "exponent", "slope", "remembered")
    assert head == ",".join(["rank", "gain", *(f"validation {name}" for name in measured)])
