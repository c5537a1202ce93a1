"""Can a GRU add up the numbers of a sequence that are marked?"""

import dataclasses
from typing import Any

import jax
import numpy as np

import recurrent
from experiments.harness.config import option
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.losses import masked_average
from recurrent.training import Metric


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    length: int = option(12, "T, steps of a sequence", minimum=2)
    hidden_size: int = option(24, "H", minimum=1)
    learning_rate: float = 0.01


def program(config: Config) -> Any:
    cell, head = recurrent.gru(2, config.hidden_size), recurrent.dense(config.hidden_size, 1)

    def init(key: Any) -> Any:
        keys = jax.random.split(key)
        return {"cell": cell.init(keys[0]), "head": head.init(keys[1])}

    def measure(params: Any, batch: Any, hparams: Any) -> Any:
        _, ys = recurrent.unroll(cell, params["cell"], batch["xs"].swapaxes(0, 1))  # [T, B, H]
        sums = head.apply(params["head"], ys[-1])[:, 0]
        return {"error": masked_average((sums - batch["sum"]) ** 2, batch["mask"])}

    data = {name: examples(seed, config.length) for seed, name in enumerate(SPLITS)}
    return minibatch_program(config, data, init, measure, Metric("error", higher_is_better=False))


SPLITS = ("train", "valid", "test")


def examples(seed: int, length: int) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)
    numbers, marks = source.uniform(size=(2000, length)), source.random((2000, length)) < 0.3
    xs = np.stack([numbers, marks], axis=-1).astype(np.float32)  # [N, T, 2]
    return {"xs": xs, "sum": xs.prod(axis=-1).sum(axis=1)}
