"""How well does an LSTM predict the next values of a column of a CSV file?"""

import dataclasses
from typing import Any

import jax
import numpy as np

import recurrent
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.losses import masked_average
from recurrent.training import Metric


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    csv: str = option("", "the file; its first line names the columns", file=True)
    column: str = option("value", "the column to predict")
    window: int = option(24, "T, values that are read", minimum=1)
    horizon: int = option(6, "values that are predicted", minimum=1)
    hidden_size: int = option(32, "H", minimum=1)
    learning_rate: float = 0.01


def program(config: Config) -> Any:
    cell = recurrent.lstm(1, config.hidden_size)
    head = recurrent.dense(config.hidden_size, config.horizon)

    def init(key: Any) -> Any:
        keys = jax.random.split(key)
        return {"cell": cell.init(keys[0]), "head": head.init(keys[1])}

    def measure(params: Any, batch: Any, hparams: Any) -> Any:
        past, future = batch["values"].T[: config.window], batch["values"][:, config.window :]
        _, ys = recurrent.unroll(cell, params["cell"], past[:, :, None])  # [T, B, H]
        errors = (head.apply(params["head"], ys[-1]) - future) ** 2
        return {"error": masked_average(errors.mean(axis=-1), batch["mask"])}

    data = windows(read(config), config.window + config.horizon)
    return minibatch_program(config, data, init, measure, Metric("error", higher_is_better=False))


def read(config: Config) -> np.ndarray:
    if not config.csv:
        raise UserError("--csv: say which file, as in --csv=prices.csv --column=price.")
    try:
        table = np.genfromtxt(config.csv, delimiter=",", names=True, encoding="utf-8")
        return table[config.column].astype(np.float32)
    except (OSError, ValueError) as error:
        raise UserError(f"--csv, --column: {config.csv!r} cannot be read: {error}.") from error


def windows(series: np.ndarray, length: int) -> dict[str, dict[str, np.ndarray]]:
    parts = np.split(series, [int(0.7 * len(series)), int(0.85 * len(series))])  # in order of time
    if min(map(len, parts)) < length or np.isnan(series).any():
        raise UserError(f"--csv: expected at least {7 * length} numbers, got {len(series)}.")
    scaled = [(part - parts[0].mean()) / (parts[0].std() + 1e-8) for part in parts]
    views = [np.lib.stride_tricks.sliding_window_view(part, length) for part in scaled]
    return {name: {"values": views[k]} for k, name in enumerate(("train", "valid", "test"))}
