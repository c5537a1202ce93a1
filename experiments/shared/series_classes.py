"""Name the class of time series of unequal lengths: inputs, network, Program."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

import recurrent
from experiments.data.classified import Arrays, Classified
from experiments.harness.program import Exhibit, Finished, Program
from experiments.shared.reading_series import Reader, epochs_of, read
from experiments.shared.series_mistakes import mistake_exhibits
from experiments.shared.tasks import minibatch_program
from experiments.shared.windows import statistics
from recurrent import losses
from recurrent.layers import init_all
from recurrent.losses import masked_average
from recurrent.training.bucketing import Buckets, bucket_sizes
from recurrent.training.task import HParams, Metric, Metrics

LOSS = Metric("loss", higher_is_better=False)
ACCURACY = Metric("accuracy", higher_is_better=True, format="{:.2%}")
SIZES = 2  # of batches; each is compiled
AT_ONCE = 500  # cases


class Namer(NamedTuple):
    """Hold a network that reads series, and a layer from its features to a logit for each class."""

    reader: Reader
    head: recurrent.Layer


def namer_of(config: Any, channels: int, classes: int) -> Namer:
    """Return the network of a Config, which reads values and flags of what is missing."""
    reader = Reader(config.cell, 2 * channels, config.hidden_size, config.layers)
    return Namer(reader, recurrent.dense(reader.size, classes))


def init(model: Namer, key: Array) -> Any:
    """Draw the params of a network."""
    return init_all({"reader": model.reader.model(), "head": model.head}, key)


def logits_of(
    model: Namer, params: Any, batch: Any, rate: Any = 0.0, key: Array | None = None
) -> Array:
    """Return logits ``[B, C]`` of cases from `inputs_of`."""
    xs = jnp.concatenate([batch["values"], batch["missing"]], axis=-1).swapaxes(0, 1)
    features = read(model.reader, params["reader"], xs, batch["length"], rate, key)
    return model.head.apply(params["head"], features)


def inputs_of(cases: Arrays, train: Arrays) -> dict[str, np.ndarray]:
    """Return what a network reads: values of mean 0 and spread 1, and flags of what is missing.

    Mean and spread of each channel are those of the real steps of the training cases, and a value
    that is missing is 0.
    """
    mean, spread = statistics(train.values.reshape(-1, train.values.shape[-1]).astype(float))
    inside = np.arange(cases.values.shape[1]) < cases.lengths[:, None]
    return {
        "values": np.nan_to_num((cases.values - mean) / spread).astype(np.float32),
        "missing": (np.isnan(cases.values) & inside[..., None]).astype(np.float32),
        "length": cases.lengths,
        "label": cases.labels,
    }


def classification_program(config: Any, found: Classified) -> Program:
    """Return the Program that trains a network to name the class of each case."""
    train = found.splits["train"]
    data = {name: inputs_of(cases, train) for name, cases in found.splits.items()}
    model = namer_of(config, train.values.shape[-1], len(found.classes))

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        keys = jax.random.split(key, 3)
        heard, partner, share = mixed(keys[0], batch, hparams["mixup"])
        noise = hparams["noise"] * jax.random.normal(keys[1], batch["values"].shape)
        heard |= {"values": heard["values"] + (1 - batch["missing"]) * noise}
        logits = logits_of(model, params, heard, hparams["dropout"], keys[2])
        own, other = (
            optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"][rows])
            for rows in (jnp.arange(len(partner)), partner)
        )
        cost = masked_average((1 - share) * own + share * other, batch["mask"])
        return cost.mean, metrics(logits, batch)

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        return metrics(logits_of(model, params, batch), batch)

    def exhibits(finished: Finished) -> Iterator[Exhibit]:
        probabilities = class_probabilities(model, finished.kept, data["test"])
        return mistake_exhibits(found.splits["test"], found.classes, probabilities)

    return minibatch_program(
        config,
        data,
        partial(init, model),
        measure,
        LOSS,
        loss=loss,
        report=ACCURACY,
        exhibits=exhibits,
        buckets=buckets_of(data),
        epochs=epochs_of(config, len(train.labels)),
    )


def mixed(key: Array, batch: Any, concentration: Any) -> tuple[Any, Array, Array]:
    """Mix each case with another one of its batch, step by step; it keeps its own length.

    Equation: ``(1 - s) x_i + s x_j``, with j from a random permutation of the batch, and s or
    1 - s, the smaller, from Beta(a, a). Nothing is mixed with what fills up the batch.

    References:
      Zhang et al. 2018, mixup: Beyond empirical risk minimization, arXiv:1710.09412.

    Args:
      key: a random key.
      batch: of cases.
      concentration: a; 0 mixes nothing. May be traced.

    Returns:
      The batch, the partners j ``[B]``, and their shares s ``[B]``, of which the loss has as much.
    """
    keys = jax.random.split(key)
    size = len(batch["label"])
    partner = jax.random.permutation(keys[0], size)
    a = jnp.where(concentration > 0, concentration, 1.0)
    drawn = jax.random.beta(keys[1], a, a, (size,))
    mixes = (concentration > 0) & batch["mask"] & batch["mask"][partner]
    share = jnp.where(mixes, jnp.minimum(drawn, 1 - drawn), 0.0)
    part = share[:, None, None]
    values = (1 - part) * batch["values"] + part * batch["values"][partner]
    return batch | {"values": values}, partner, share


def buckets_of(data: dict[str, dict[str, np.ndarray]]) -> Buckets:
    """Choose to which lengths batches are cut, so that the least is padding."""
    limits = bucket_sizes(np.concatenate([each["length"] for each in data.values()]), SIZES)
    return Buckets("length", limits, {"values": limits, "missing": limits})


def metrics(logits: Array, batch: Any) -> Metrics:
    """Return cross-entropy in nats and accuracy."""
    return {
        "loss": losses.cross_entropy(logits, batch["label"], batch["mask"]),
        "accuracy": losses.accuracy(logits, batch["label"], batch["mask"]),
    }


def class_probabilities(model: Namer, params: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the probability of each class, [N, C], of cases from `inputs_of`."""
    compute = jax.jit(lambda params, batch: jax.nn.softmax(logits_of(model, params, batch)))
    read = {name: inputs[name] for name in ("values", "missing", "length")}
    starts = range(0, len(read["length"]), AT_ONCE)
    parts = [
        compute(params, {name: each[k : k + AT_ONCE] for name, each in read.items()})
        for k in starts
    ]
    return np.concatenate(parts)
