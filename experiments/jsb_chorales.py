"""How well does a recurrent network predict the next chord of a chorale by Bach?

Command: ./launch.sh jsb_chorales [--cell=gru] [--head=joint] [--view=key] [--transpose=6]
         ./launch.sh compose RUN_DIRECTORY --midi=chorale.mid
"""

import dataclasses
from typing import Any

import jax
from jax import Array

import recurrent
from experiments.data.chorales import KEYS, LONGEST, buckets_of, load_chorales
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.shared import chords
from experiments.shared.cell_flag import cell_option
from experiments.shared.composing import LOSS, Network, compose_command, exhibits
from experiments.shared.stacked import autoregressive_layers
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.training.task import HParams, Metrics


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the fields of this experiment."""

    cell: str = cell_option("lstm", "; it must not look ahead")
    layers: int = option(1, "number of stacked layers", minimum=1, maximum=100)
    hidden_size: int = option(200, "H, of every layer", minimum=1, maximum=10**5)
    head: str = option(
        "independent",
        "how a chord has its probability: each key by itself, as in most published figures, or "
        "jointly, pitch by pitch",
        choices=("independent", "joint"),
    )
    view: str = option(
        "chord",
        "what the layers read: the whole chord, or what each key sees around it, by one network",
        choices=("chord", "key"),
    )
    dropout: float = option(
        0.3, "share of features dropped after each layer", traced=True, minimum=0, below=1
    )
    input_dropout: float = option(
        0.0, "share of the sounding keys not heard in training", traced=True, minimum=0, below=1
    )
    transpose: int = option(
        0, "most semitones by which a training song is shifted, up or down", minimum=0, maximum=12
    )
    epochs: int = 100
    batch_size: int = 16
    learning_rate: float = 3e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    splits = load_chorales()
    head = head_of(config)

    def nats(params: Any, pitches: Array, hparams: HParams, key: Array | None) -> Array:
        """Return what each frame but the first costs ``[T - 1, B]``, from pitches ``[T, B, V]``."""
        heard = chords.roll(pitches[:-1])
        keys = [None] * 2 if key is None else jax.random.split(key)
        rate = 0.0
        if key is not None:
            rate = hparams["dropout"]
            heard = recurrent.dropout(heard, hparams["input_dropout"], keys[0])
        _, features = recurrent.unroll(model_of(config, rate, keys[1]), params["model"], heard)
        return head.nats(params["head"], features, pitches[1:])

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        shift_key, key = jax.random.split(key)
        pitches = chords.transposed(shift_key, batch["pitches"], config.transpose).swapaxes(0, 1)
        average = chords.metrics(nats(params, pitches, hparams, key), batch)
        return average["loss"].mean, average

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        return chords.metrics(nats(params, batch["pitches"].swapaxes(0, 1), hparams, None), batch)

    def init(key: Array) -> Any:
        keys = jax.random.split(key)
        return {"model": model_of(config).init(keys[0]), "head": head.init(keys[1])}

    return minibatch_program(
        config,
        {name: songs._asdict() for name, songs in splits.items()},
        init,
        measure,
        LOSS,
        loss=loss,
        buckets=buckets_of(splits),
        exhibits=lambda finished: exhibits(network(config), nats, splits, finished),
    )


def model_of(config: Config, dropout: Any = 0.0, key: Array | None = None) -> recurrent.Cell:
    """Return the network, from rolls ``[T, B, KEYS]`` to features ``[T, B, F]``."""
    size = KEYS if config.view == "chord" else chords.SEEN
    parts = autoregressive_layers(config, size, LONGEST, dropout, key)
    if config.view == "key":
        return chords.for_each_key(parts)
    return recurrent.stack(*parts, input_shape=(KEYS,))


def head_of(config: Config) -> chords.Head:
    """Return what gives a chord its probability, from the network's features."""
    size = recurrent.output_shape(model_of(config))[-1]
    if config.head == "independent":
        return chords.independent(size, as_they_are=config.view == "key")
    return chords.joint(size, config.hidden_size)


def network(config: Config) -> Network:
    """Return the network without dropout, and its head."""
    return Network(model_of(config), head_of(config))


commands = {"compose": compose_command(network)}
