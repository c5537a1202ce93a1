"""How fast does a line find its slope? A training of next to nothing, to measure all else.

Command: ./launch.sh sweep docs/many_members.py --slots=1000 \\
             --sweep=learning_rate=log:1e-4:1e-1:10000 --sweep=seed=0:10
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.harness.program import Program
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.losses import masked_average
from recurrent.training import Metric


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the fields of this experiment."""

    epochs: int = 2
    batch_size: int = 8


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""

    def measure(params: Any, batch: Any, hparams: Any) -> Any:
        found = params["slope"] * batch["x"]
        return {"error": masked_average((found - 2 * batch["x"]) ** 2, batch["mask"])}

    draws = [np.random.default_rng(seed).normal(size=16).astype(np.float32) for seed in range(3)]
    data = {name: {"x": x} for name, x in zip(("train", "valid", "test"), draws, strict=True)}
    error = Metric("error", higher_is_better=False)
    return minibatch_program(config, data, lambda key: {"slope": jnp.zeros(())}, measure, error)
