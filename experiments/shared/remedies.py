"""Read a sequence with any of the remedies against overfitting, each of a traced strength."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

import recurrent
from experiments.harness.errors import UserError
from experiments.shared.few_examples import Job
from recurrent.errors import ArgumentError
from recurrent.losses import Average
from recurrent.training.task import HParams

SMALL = 1e-3  # below which a weight counts as none


class Network(NamedTuple):
    """Hold the parts of a network: words have vectors, images are read as they are."""

    vectors: recurrent.Layer | None
    cell: recurrent.Cell
    readout: recurrent.Layer


def init(network: Network, key: Array) -> Any:
    """Draw the params."""
    keys = jax.random.split(key, 3)
    parts = zip(network._fields, network, keys, strict=True)
    return {name: part.init(own) for name, part, own in parts if part is not None}


def answers(
    network: Network, job: Job, params: Any, batch: Any, hparams: HParams, key: Array | None
) -> Array:
    """Return the logits ``[..., C]`` of a batch.

    Args:
      network: its parts.
      job: what is read.
      params: of the network.
      batch: of the job.
      hparams: with the strengths.
      key: of all masks; None in evaluation, in which nothing is dropped.
    """
    keys = iter([None] * 7 if key is None else jax.random.split(key, 7))
    xs = job.read(batch)
    if network.vectors is not None:
        tokens = xs
        xs = network.vectors.apply(params["vectors"], tokens)
        seen = jnp.ones((job.classes, 1))
        seen = recurrent.dropout(seen, hparams["embedding_drop"], next(keys))[tokens]
    else:
        seen = recurrent.dropout(jnp.ones(xs.shape[-1]), hparams["embedding_drop"], next(keys))
    xs = dropped(xs * seen, hparams, keys)
    cell = thinned(network.cell, hparams, keys)
    _, ys = recurrent.unroll(cell, params["cell"], xs)
    return network.readout.apply(params["readout"], job.answers(dropped(ys, hparams, keys)))


def dropped(xs: Array, hparams: HParams, keys: Iterator[Array | None]) -> Array:
    """Drop features ``[T, B, D]``: anew at each step, and the same ones at all steps."""
    same = jnp.ones(xs.shape[1:], xs.dtype)
    xs = recurrent.dropout(xs, hparams["dropout"], next(keys))
    return xs * recurrent.dropout(same, hparams["variational"], next(keys))


def thinned(cell: recurrent.Cell, hparams: HParams, keys: Iterator[Array | None]) -> recurrent.Cell:
    """Drop recurrent weights: single ones, and all of a unit."""
    single = recurrent.weight_drop(cell, hparams["weight_drop"], next(keys))
    return recurrent.weight_drop(single, hparams["recurrent_dropout"], next(keys), unit="row")


def check_recurrent(name: str, cell: recurrent.Cell) -> None:
    """Raise `UserError` for a cell that has no recurrent weights to drop."""
    try:
        recurrent.weight_drop(cell, 0.0, None)
    except ArgumentError as error:
        raise UserError(
            f"--cell: {name} has no weights of the name recurrent/kernel, some of which are to be "
            "dropped; choose a cell such as lstm."
        ) from error


def small_weights(params: Any) -> Average:
    """Return the share of the weights of kernels that are as good as none."""
    leaves = jax.tree.leaves_with_path(params)
    kernels = [leaf for path, leaf in leaves if jax.tree_util.keystr(path).endswith("'kernel']")]
    few = sum((abs(leaf) < SMALL).sum() for leaf in kernels)
    return Average(jnp.float32(few), jnp.float32(sum(leaf.size for leaf in kernels)))
