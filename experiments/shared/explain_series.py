"""Explain the class that a network gives a time series: ``./launch.sh explain RUN --index=N``."""

import dataclasses
import functools
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.runs import Run
from experiments.shared.explain_images import check_index
from experiments.shared.explainable import Example, Explainable, Network, leaving_out
from experiments.shared.explaining import ExplainFlags, explain_command
from experiments.shared.series_classes import Namer, init, logits_of, namer_of
from experiments.shared.series_jobs import classified, forecasts

BACKGROUND = 16  # training cases


@dataclasses.dataclass(frozen=True)
class ExplainSeries(ExplainFlags):
    """Hold the flags of ``./launch.sh explain``."""

    index: int = option(0, "which case of the test split", minimum=0)


def outputs(model: Namer, params: Any, xs: Array, lengths: Array) -> Array:
    """Return logits ``[B, C]`` of values and flags of what is missing, ``[B, T, 2 D]``.

    Inputs without flags are ``[B, T, D]``.
    """
    channels = model.reader.input_size // 2
    xs = jnp.pad(xs, ((0, 0), (0, 0), (0, 2 * channels - xs.shape[2])))
    batch = {"values": xs[..., :channels], "missing": xs[..., channels:], "length": lengths}
    return logits_of(model, params, batch)


def explainable(run: Run, flags: ExplainSeries) -> Explainable:
    """Return a case of the test split, and the network.

    Raises:
      UserError: for a run that forecasts, or an index beyond the test split.
    """
    if forecasts(run.config):
        raise UserError("explain: the run forecasts series; only classes of series are explained.")
    data, found = run.program.data, classified(run.config)
    check_index(flags.index, len(data["test"]["label"]))
    channels = data["train"]["values"].shape[-1]
    case = case_of(data["test"], np.array([flags.index]))
    cases = len(data["train"]["label"])
    spread = np.linspace(0, cases - 1, min(BACKGROUND, cases)).astype(int)  # over all classes
    others = fitted(case_of(data["train"], spread), case.shape[1])
    if not case[..., channels:].any():  # nothing is missing
        case, others = (each[..., :channels] for each in (case, others))
    label = found.classes[int(data["test"]["label"][flags.index])]
    return Explainable(
        network=series_network(run.config, channels, len(found.classes)),
        params=run.kept,
        example=Example(
            xs=case,
            lengths=np.asarray(data["test"]["length"])[[flags.index]],
            baselines=np.stack([np.zeros_like(case[0]), others.mean(0)]),
            background=others,
        ),
        answers=found.classes,
        baselines=("mean value", "mean series"),
        axes=("step", "channel"),
        what="series",
        title=f"test case {flags.index} of {run.config.data}, class {label}",
    )


@functools.cache
def series_network(config: Any, channels: int, classes: int) -> Network:
    """Return the network of a Config; the same one each time, so that it compiles once."""
    model = namer_of(config, channels, classes)
    return Network(leaving_out(partial(outputs, model)), partial(init, model), ("head", "reader"))


def case_of(data: Any, rows: np.ndarray) -> np.ndarray:
    """Return values and flags of what is missing of some cases, side by side, ``[N, T, 2 D]``."""
    return np.concatenate([np.asarray(data[name][rows]) for name in ("values", "missing")], -1)


def fitted(series: np.ndarray, steps: int) -> np.ndarray:
    """Cut series ``[N, T, F]`` to so many steps, or fill them up with zeros."""
    missing = max(0, steps - series.shape[1])
    return np.pad(series[:, :steps], ((0, 0), (0, missing), (0, 0)))


explain_series = explain_command(ExplainSeries, explainable)
