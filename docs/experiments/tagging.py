"""Can a bidirectional LSTM tell which brackets of a sequence have no partner?"""

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
    longest: int = option(20, "T, steps of the longest sequence", minimum=1)
    hidden_size: int = option(32, "H, of each direction", minimum=1)
    learning_rate: float = 0.01


def program(config: Config) -> Any:
    size = config.hidden_size
    model = recurrent.stack(
        recurrent.embedding(2, 8),
        recurrent.bidirectional(recurrent.lstm(8, size), recurrent.lstm(8, size)),
        recurrent.dense(2 * size, 2),
        input_shape=(),
    )

    def measure(params: Any, batch: Any, hparams: Any) -> Any:
        tokens, lengths = batch["tokens"].T, batch["length"]  # [T, B]
        _, logits = recurrent.unroll(model, params, tokens, lengths=lengths)
        is_real = recurrent.length_mask(lengths, len(tokens)) & batch["mask"]
        tags = batch["tags"].T
        return {
            "loss": cross_entropy(logits, tags, is_real),
            "accuracy": accuracy(logits, tags, is_real),
        }

    data = {name: examples(k, config.longest) for k, name in enumerate(("train", "valid", "test"))}
    loss, share = Metric("loss", False), Metric("accuracy", True, "{:.1%}")
    return minibatch_program(config, data, model.init, measure, loss, report=share)


def examples(seed: int, longest: int) -> dict[str, np.ndarray]:
    source = np.random.default_rng(seed)
    tokens = source.integers(0, 2, (1000, longest), np.int32)  # 0 opens, 1 closes
    lengths = source.integers(1, longest + 1, 1000, np.int32)
    tags = [unmatched(row[:n], longest) for row, n in zip(tokens, lengths, strict=True)]
    return {"tokens": tokens, "length": lengths, "tags": np.stack(tags)}


def unmatched(row: np.ndarray, longest: int) -> np.ndarray:
    tags, waiting = np.zeros(longest, np.int32), []
    for place, closes in enumerate(row):
        if closes and waiting:
            waiting.pop()
        elif closes:
            tags[place] = 1
        else:
            waiting.append(place)
    tags[waiting] = 1
    return tags
