"""Which of three symbols came first in a sequence, whose length is its own?"""

import dataclasses
from typing import Any

import numpy as np

import recurrent
from experiments.harness.config import option
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.losses import accuracy, cross_entropy
from recurrent.training import Metric


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    longest: int = option(12, "T, steps of the longest sequence", minimum=1)
    hidden_size: int = option(32, "H", minimum=1)
    learning_rate: float = 0.01


def program(config: Config) -> Any:
    model = recurrent.stack(
        recurrent.embedding(3, 8),
        recurrent.gru(8, config.hidden_size),
        recurrent.dense(config.hidden_size, 3),
        input_shape=(),
    )

    def measure(params: Any, batch: Any, hparams: Any) -> Any:
        tokens, lengths = batch["tokens"].T, batch["length"]  # [T, B], [B]
        _, ys = recurrent.unroll(model, params, tokens, lengths=lengths)  # 0 past each end
        logits = recurrent.last_output(ys, lengths)  # [B, 3]; ys[-1] is 0 but for the longest
        return {
            "loss": cross_entropy(logits, batch["first"], batch["mask"]),
            "accuracy": accuracy(logits, batch["first"], batch["mask"]),
        }

    data = {name: examples(k, config.longest) for k, name in enumerate(("train", "valid", "test"))}
    loss, share = Metric("loss", False), Metric("accuracy", True, "{:.1%}")
    return minibatch_program(config, data, model.init, measure, loss, report=share)


def examples(seed: int, longest: int) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)
    tokens = source.integers(0, 3, (1000, longest), np.int32)
    lengths = source.integers(1, longest + 1, 1000, np.int32)
    return {"tokens": tokens, "length": lengths, "first": tokens[:, 0]}
