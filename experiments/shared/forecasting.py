"""Forecast series by one network, with quantiles: the network, its loss and its measures."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.harness.program import Exhibit, Finished, Program
from experiments.shared.reading_series import Reader, epochs_of, read
from experiments.shared.tasks import minibatch_program
from experiments.shared.windows import NAIVE, RIVALS
from recurrent.layers import init_all
from recurrent.losses import Average, masked_average
from recurrent.training.bucketing import Buckets, bucket_sizes
from recurrent.training.task import HParams, Metric, Metrics

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
MIDDLE = 3
BANDS = {90: (0, 6), 80: (1, 5), 50: (2, 4)}  # per cent, and the quantiles at both ends
CALIBRATED = 80  # the band whose coverage of the validation windows decides how wide all are
TOGETHER = 256  # windows, of which quantiles are found at once to calibrate them
LOSS = Metric("loss", higher_is_better=False)
MASE = Metric("mase", higher_is_better=False, format="{:.3f} MASE")
SIZES = 2  # of batches; each is compiled


class Forecaster(NamedTuple):
    """Hold a network that reads the past, and a layer from its features to quantiles."""

    reader: Reader
    head: recurrent.Layer
    horizon: int


def forecaster(config: Any, inputs: int, horizon: int) -> Forecaster:
    """Return the network of a Config, for windows of so many inputs a step."""
    reader = Reader(config.cell, inputs, config.hidden_size, config.layers)
    outputs = len(NAIVE) + horizon * len(QUANTILES)
    head = recurrent.dense(reader.size, outputs, kernel_init=jax.nn.initializers.zeros)
    return Forecaster(reader, head, horizon)


def init(model: Forecaster, key: Array) -> Any:
    """Draw the params of a network, which first predicts the mean of the naive forecasts."""
    return init_all({"reader": model.reader.model(), "head": model.head}, key)


def quantiles(
    model: Forecaster, params: Any, batch: Any, rate: Any = 0.0, key: Array | None = None
) -> Array:
    """Return the quantiles of each step to come, ``[B, h, Q]``, rising, in units of the window.

    The median is a mean of the naive forecasts, with weights that the network chooses, and a
    correction; from it the others are steps of the softplus away, so they never cross. Correction
    and steps grow with the root of the distance, as the errors of a random walk do. Params that
    were calibrated by `widened` make the steps longer.
    """
    past = batch["past"].swapaxes(0, 1)
    features = read(model.reader, params["reader"], past, batch["length"], rate, key)
    weights, rest = jnp.split(model.head.apply(params["head"], features), [len(NAIVE)], axis=-1)
    rest = rest.reshape(len(rest), model.horizon, len(QUANTILES))
    mixed = (batch["naive"] * jax.nn.softmax(weights)[:, None]).sum(-1)  # [B, h]
    far = jnp.sqrt(jnp.arange(1.0, model.horizon + 1))[:, None]
    below, middle, above = jnp.split(rest, [MIDDLE, MIDDLE + 1], axis=-1)
    wider = params.get("wider", 1.0)
    low = middle - wider * jnp.cumsum(jax.nn.softplus(below[..., ::-1]), axis=-1)[..., ::-1]
    high = middle + wider * jnp.cumsum(jax.nn.softplus(above), axis=-1)
    return mixed[..., None] + far * jnp.concatenate([low, middle, high], axis=-1)


def widened(model: Forecaster, params: Any, hparams: HParams, valid: Any) -> Any:
    """Return params whose bands hold as much of the validation windows as they should, or more.

    A network that has read few series is surer of what follows than it can be. So all bands are
    stretched around the median by one factor, such that the one of 80 % holds 80 % of the values in
    the validation windows; where it holds more, it stays as it is.

    Equation: the factor is the quantile at 0.8, at least 1, of ``(y - median) / (end - median)``,
    where ``end`` is the end of the band on the side of y.

    References:
      Romano et al. 2019, Conformalized quantile regression, arXiv:1905.03222. Departures: one
      factor stretches all bands, where they add a margin to both ends of one; no band is made
      narrower; and windows of one series overlap, so that nothing is guaranteed.
    """

    def of_window(window: Any) -> Array:
        return quantiles(model, params, jax.tree.map(lambda leaf: leaf[None], window))[0]

    names = ("past", "length", "naive")
    found = jax.lax.map(of_window, {k: valid[k] for k in names}, batch_size=TOGETHER)
    low, high = (found[..., end] for end in BANDS[CALIBRATED])
    median, future = found[..., MIDDLE], valid["future"]
    error = future - median
    reached = jnp.maximum(error / (low - median), error / (high - median))
    reached = jnp.where(valid["known"], reached, jnp.nan)
    factor = jnp.nanquantile(reached, CALIBRATED / 100)  # NaN or infinite for bands of no width
    return params | {"wider": jnp.where(jnp.isfinite(factor), jnp.maximum(1.0, factor), 1.0)}


def pinball(found: Array, future: Array) -> Array:
    """Return the quantile loss of each step, ``[B, h]``.

    Equation: the mean over quantiles of ``2 max(q e, (q - 1) e)``, with e = truth - forecast; at
    the median that is ``|e|``.
    """
    error = future[..., None] - found
    levels = jnp.asarray(QUANTILES)
    return 2 * jnp.maximum(levels * error, (levels - 1) * error).mean(-1)


def metrics(found: Array, batch: Any) -> Metrics:
    """Return the quantile loss and MASE, the MASE of naive forecasts, and coverages.

    The loss counts in mean steps of each series, which no choice of a season changes, so that
    trainings with different seasons can be ranked by it. Coverage is the share of what came that
    lies within a band; in evaluations on the validation windows, within those before `widened`.
    """
    future, known = batch["future"], batch["known"] & batch["mask"][:, None]
    medians = {"mase": found[..., MIDDLE]} | {
        f"mase_{name.replace(' ', '_')}": batch["naive"][..., NAIVE.index(name)] for name in RIVALS
    }
    errors = {name: jnp.abs(median - future) for name, median in medians.items()}
    inside = {
        f"coverage_{share}": (found[..., low] <= future) & (future <= found[..., high])
        for share, (low, high) in BANDS.items()
    }
    loss = of_windows(pinball(found, future), known, batch["steps"])
    mase = {name: of_windows(each, known, batch["ratio"]) for name, each in errors.items()}
    return (
        {"loss": loss}
        | mase
        | {name: masked_average(each.astype(jnp.float32), known) for name, each in inside.items()}
    )


def of_windows(errors: Array, known: Array, weight: Array) -> Average:
    """Average errors ``[B, h]`` over the known steps of each window, then over windows.

    Args:
      errors: in units of each window.
      known: ``[B, h]``.
      weight: ``[B]``, by which the mean of each window is multiplied.
    """
    mean = jnp.where(known, errors, 0).sum(-1) / jnp.maximum(known.sum(-1), 1)
    return masked_average(mean * weight, known.any(-1))


def training_loss(
    model: Forecaster, params: Any, batch: Any, key: Array, hparams: HParams
) -> tuple[Array, Metrics]:
    """Return the quantile loss with noise on what is read and dropout, and the metrics.

    Each window weighs as the root of its unit in that of errors, between its own unit, in which all
    weigh alike, and theirs.
    """
    keys = jax.random.split(key)
    noise = hparams["noise"] * jax.random.normal(keys[0], batch["past"].shape)
    heard = batch | {"past": batch["past"] + noise}
    found = quantiles(model, params, heard, hparams["dropout"], keys[1])
    known = batch["known"] & batch["mask"][:, None]
    cost = of_windows(pinball(found, batch["future"]), known, jnp.sqrt(batch["ratio"]))
    return cost.mean, metrics(found, batch)


def forecasting_program(
    config: Any,
    data: dict[str, dict[str, np.ndarray]],
    exhibits: Callable[[Finished], Iterator[Exhibit]],
) -> Program:
    """Return the Program that trains one network on the windows of all series.

    Args:
      config: of the run.
      data: the arrays of the windows of each split.
      exhibits: of the report.
    """
    model = model_for(config, data["train"])

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        return metrics(quantiles(model, params, batch), batch)

    return minibatch_program(
        config,
        data,
        partial(init, model),
        measure,
        LOSS,
        loss=partial(training_loss, model),
        report=MASE,
        exhibits=exhibits,
        buckets=buckets_of(data),
        epochs=epochs_of(config, len(data["train"]["length"])),
    )._replace(calibrate=partial(widened, model))


def model_for(config: Any, arrays: dict[str, np.ndarray]) -> Forecaster:
    """Return the network of a Config for such windows."""
    return forecaster(config, arrays["past"].shape[-1], arrays["future"].shape[-1])


def buckets_of(data: dict[str, dict[str, np.ndarray]]) -> Buckets:
    """Choose to which lengths batches are cut; the last is all that a window may have."""
    lengths = np.concatenate([each["length"] for each in data.values()])
    longest = data["train"]["past"].shape[1]
    limits = (*bucket_sizes(lengths, SIZES)[:-1], longest)
    return Buckets("length", limits, {"past": limits})
