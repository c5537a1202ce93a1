"""What the validation split changes in what was kept: in tests and use, not in the files."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import run, run_sweep
from experiments.harness.program import Program
from experiments.harness.runs import restored_best
from tests import toys

CONFIG = toys.FitConfig(evaluations=1, steps_per_call=2)
MODULE = toys.module(toys.FitConfig, lambda config: centered(config))


def centered(config: Any) -> Program:
    """Fits a line, and then moves it so that errors on the validation split have a mean of 0."""

    def calibrate(kept: Any, hparams: Any, valid: Any) -> Any:
        error = valid["y"] - jnp.polyval(kept["w"], valid["x"])
        return {"w": kept["w"].at[-1].add(error.mean())}

    return toys.fit(config)._replace(calibrate=calibrate)


def errors(kept: Any, split: str) -> np.ndarray:
    data = toys.fit(CONFIG).data[split]
    return np.asarray(data["y"], float) - np.polyval(np.asarray(kept["w"]), np.asarray(data["x"]))


@pytest.mark.long
@pytest.mark.parametrize("members", [1, 3])
def test_the_validation_split_calibrates_what_is_tested_and_used(
    members: int, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {"evaluations": 1, "steps_per_call": 2}
    if members == 1:
        trained = run(MODULE, tmp_path, **fields)
    else:
        trained = run_sweep(MODULE, {"seed": "0:3"}, tmp_path, **fields)
    assert errors(trained.kept, "valid").mean() == pytest.approx(0, abs=1e-6)
    loss = np.square(errors(trained.kept, "test")).mean()
    assert trained.result["test_loss"] == pytest.approx(loss, rel=1e-5)

    raw = restored_best(trained.folder, jax.eval_shape(lambda: {"w": jnp.zeros(2)}), "")
    assert abs(errors(raw, "valid").mean()) > 1e-3
    loss = np.square(errors(raw, "valid")).mean()
    assert trained.result["valid_loss"] == pytest.approx(loss, rel=1e-5)
