"""Build networks that predict the next character, from a Config, and say what they cost."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import recurrent
from experiments.harness.config import option
from experiments.shared.cell_flag import cell_option
from experiments.shared.stacked import autoregressive_layers
from experiments.shared.tasks import TbpttConfig
from recurrent import losses
from recurrent.training.task import HParams, Metric, Metrics

LOSS = Metric("loss", higher_is_better=False)
BITS = Metric("bits", higher_is_better=False, format="{:.4g} bits a character")


@dataclasses.dataclass(frozen=True)
class LanguageConfig(TbpttConfig):
    """Hold the fields of a network that predicts the next character."""

    cell: str = cell_option("lstm", "; it must not look ahead")
    layers: int = option(1, "number of stacked layers", minimum=1, maximum=100)
    hidden_size: int = option(512, "H, of every layer", minimum=1, maximum=10**5)
    embedding_size: int = option(64, "size of the vector of a character", minimum=1, maximum=10**5)
    tied: bool = option(False, "whether one table of vectors both reads characters and scores them")
    dropout: float = option(
        0.1, "share of features dropped after each layer", traced=True, minimum=0, below=1
    )
    variational: bool = option(
        False, "whether a stream drops the same features at all steps of a window"
    )
    weight_drop: float = option(
        0.0, "share of the recurrent weights dropped in each step of training", minimum=0, below=1
    )


def model_of(
    config: LanguageConfig, vocabulary: int, dropout: Any = 0.0, key: Array | None = None
) -> recurrent.Cell:
    """Return the network, from tokens ``[T, B]`` to logits ``[T, B, V]``; no key in evaluation.

    Raises:
      UserError: as `autoregressive_layers` does.
    """
    width = config.embedding_size
    parts: list[Any] = layers_of(config, dropout, key)
    size = recurrent.output_shape(parts[-1])[-1]
    if config.tied:
        return recurrent.tied_embedding(
            vocabulary, recurrent.stack(*parts, recurrent.dense(size, width))
        )
    read = recurrent.embedding(vocabulary, width, kernel_init=jax.nn.initializers.normal(1.0))
    return recurrent.stack(read, *parts, recurrent.dense(size, vocabulary), input_shape=())


def layers_of(
    config: LanguageConfig, dropout: Any = 0.0, key: Array | None = None
) -> list[recurrent.Cell]:
    """Return the recurrent layers between the vectors of the characters and the readout."""
    drop = recurrent.variational_dropout if config.variational else recurrent.step_dropout
    return autoregressive_layers(
        *(config, config.embedding_size, config.window, dropout, key),
        drop=drop,
        weight_drop=config.weight_drop,
    )


def scores_of(
    config: LanguageConfig, vocabulary: int, params: Any, xs: Array, lengths: Array
) -> Array:
    """Return log-probabilities ``[B, V]`` of what follows a text of weights of characters.

    With one-hot vectors they are those of `model_of`, whose params these are; unlike tokens,
    weights have a gradient.

    Args:
      config: that of the run.
      vocabulary: V.
      params: those of `model_of`.
      xs: weights of the characters ``[B, T, V]``.
      lengths: of the texts ``[B]``; where it is 0, nothing is known, and all V are as likely.
    """
    layers, width = layers_of(config), config.embedding_size
    size = recurrent.output_shape(layers[-1])[-1]
    head = recurrent.dense(size, width if config.tied else vocabulary)
    inner = recurrent.stack(*layers, head)
    if config.tied:
        kernel, own = params["embedding"]["kernel"], params["cell"]
    else:
        kernel = params["layer_0"]["kernel"]
        own = {f"layer_{k}": params[f"layer_{k + 1}"] for k in range(len(layers) + 1)}
    _, ys = recurrent.unroll(inner, own, (xs @ kernel).swapaxes(0, 1), lengths=lengths)
    last = ys[jnp.maximum(lengths - 1, 0), jnp.arange(len(xs))]
    last = last @ kernel.T + params["bias"] if config.tied else last
    return jax.nn.log_softmax(jnp.where(lengths[:, None] > 0, last, 0))


def trained_on(
    config: LanguageConfig,
    vocabulary: int,
    params: Any,
    batch: Any,
    key: Array,
    carry: Any,
    hparams: HParams,
) -> Any:
    """Return the loss of a window in training, and ``(metrics, carry)``."""
    model = model_of(config, vocabulary, hparams["dropout"], key)
    fresh = model.initial_state(params, batch["inputs"].shape[1:])
    carry = recurrent.renewed_masks(carry, fresh)
    carry, logits = recurrent.unroll(model, params, batch["inputs"], carry)
    average = losses.cross_entropy(logits, batch["targets"])
    return average.mean, (metrics(average), carry)


def metrics(loss: losses.Average) -> Metrics:
    """Return the cross-entropy of a character in nats (``loss``) and in bits."""
    return {"loss": loss, "bits": loss._replace(total=loss.total / math.log(2))}
