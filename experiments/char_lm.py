"""How well does a recurrent network guess the next character of a text?

Command: ./launch.sh char_lm [--data=shakespeare] [--text=FILE] [--cell=gru] [--layers=2]
         ./launch.sh char_lm [the same flags] --sample --prompt="Once"
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.data.text import TEXTS, Text, load_text
from experiments.harness.config import TrainingConfig, option
from experiments.harness.errors import UserError
from experiments.harness.program import Numbers, Picture, Program, best_step, lowest_loss
from experiments.shared import cell_flag
from experiments.shared.optimizer_flags import optimizer_of
from recurrent import losses
from recurrent.training import tbptt
from recurrent.training.step import Metrics, TrainState, init_state
from recurrent.training.task import Task

EVALUATION_STREAMS = 32
SHOWN = 480  # characters of the picture


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """The fields of this experiment."""

    data: str = option("pydoc", "the text: Python's own help, or tiny Shakespeare", choices=TEXTS)
    text: str = option("", "a UTF-8 file to read instead")
    cell: str = option("lstm", cell_flag.help_text(), check=cell_flag.cell_factory)
    layers: int = option(1, "how many cells stand on one another", minimum=1, maximum=100)
    hidden_size: int = option(512, "H, of every layer", minimum=1, maximum=10**5)
    embedding_size: int = option(64, "numbers that stand for a character", minimum=1, maximum=10**5)
    window: int = option(64, "T, characters that gradients go back through", minimum=1)
    batch_size: int = option(32, "parallel streams", minimum=1, maximum=10**7)
    dropout: float = option(
        0.1, "share of features dropped after each layer", traced=True, minimum=0, below=1
    )
    epochs: int = option(5, "passes over the training text", minimum=1, maximum=10**6)
    learning_rate: float = 3e-3
    warmup_epochs: float = 0.2
    steps_per_call: int = 50


@dataclasses.dataclass(frozen=True)
class Use:
    """What a trained run can do: write."""

    sample: bool = option(False, "write text with the trained run instead of training it")
    prompt: str = option(
        "",
        "the beginning, which is not of its own making; by default a new line, or the text's first "
        "character where it has none",
    )
    characters: int = option(500, "how many to write", minimum=1, maximum=10**7)
    temperature: float = option(0.8, "below 1 more likely, above 1 less", minimum=0)
    sample_seed: int = option(0, "decides what is written", minimum=0, maximum=2**31 - 1)


class Model(NamedTuple):
    """A character language model of stacked cells.

    Attributes:
      characters: its vocabulary.
      layers: the cells.
      head: the readout.
      embedding_size: numbers for each character.
    """

    characters: str
    layers: list[recurrent.Cell]
    head: recurrent.Layer
    embedding_size: int

    def init(self, key: Array) -> Any:
        """Its params."""
        embedding_key, head_key, *keys = jax.random.split(key, 2 + len(self.layers))
        size = len(self.characters), self.embedding_size
        return {
            "embedding": jax.random.normal(embedding_key, size),
            "cells": [cell.init(k) for cell, k in zip(self.layers, keys, strict=True)],
            "head": self.head.init(head_key),
        }

    def start(self, params: Any, batch: int) -> list[Any]:
        """The state of each layer before the first character."""
        pairs = zip(self.layers, params["cells"], strict=True)
        return [cell.initial_state(own, (batch,)) for cell, own in pairs]

    def logits(
        self, params: Any, states: Sequence[Any], tokens: Array, rate: Any, key: Array | None
    ) -> tuple[list[Any], Array]:
        """The states after tokens ``[T, B]``, and logits ``[T, B, V]``."""
        xs, after = params["embedding"][tokens], []
        keys = [None] * len(self.layers) if key is None else jax.random.split(key, len(self.layers))
        for cell, own, state, k in zip(self.layers, params["cells"], states, keys, strict=True):
            state, ys = recurrent.unroll(cell, own, xs, state)
            xs = recurrent.dropout(ys, rate, k)
            after.append(state)
        return after, self.head.apply(params["head"], xs)


def program(config: Config) -> Program:
    """The training run that ``config`` describes."""
    text = load_text(config.data, config.text)
    size, width, window = len(text.train), config.batch_size, config.window
    steps_per_epoch = tbptt.steps_per_epoch(size, width, window)
    shortest = min(map(len, (text.valid, text.test)))
    if not steps_per_epoch or shortest < 2:
        raise UserError(
            f"The text has {size} characters to train on, fewer than {width} streams of {window}: "
            "choose a longer one, or a smaller --batch_size or --window."
        )
    model = model_of(config, text.characters)
    parts = {"train": text.train, "valid": text.valid, "test": text.test}
    return Program(
        task=task_of(config, model, steps_per_epoch, min(EVALUATION_STREAMS, shortest - 1)),
        data={name: {"tokens": jnp.asarray(part)} for name, part in parts.items()},
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        metric="bits",
        pictures=lambda params, rows: pictures(model, text, params, rows),
    )


def task_of(config: Config, model: Model, steps_per_epoch: int, in_evaluation: int) -> Task:
    """The training of the model; ``in_evaluation`` streams are evaluated side by side."""
    optimizer = optimizer_of(config, config.epochs, steps_per_epoch)

    def start(params: Any) -> Any:
        return model.start(params, config.batch_size)

    def init(numbers: Numbers) -> TrainState:
        key = jax.random.key(numbers["seed"])
        kept: Any = {"keep_average": config.average > 0, "loss_scale": config.loss_scale}
        return init_state(model.init, optimizer(numbers), key, start, **kept)

    def train_steps(state: Any, numbers: Numbers, data: Any, steps: int) -> Any:
        def loss(params: Any, carry: Any, batch: Any, key: Array) -> Any:
            carry, logits = model.logits(params, carry, batch["inputs"], numbers["dropout"], key)
            average = losses.cross_entropy(logits, batch["targets"])
            return average.mean, (metrics(average), carry)

        return tbptt.train_streams(
            *(loss, optimizer(numbers), state, data["tokens"], start),
            **{"streams": config.batch_size, "window": config.window, "steps": steps},
            average_decay=config.average,
        )

    def evaluate(params: Any, data: Any) -> Metrics:
        return evaluated(model, params, data["tokens"], in_evaluation, config.window)

    return Task(init, train_steps, evaluate, lowest_loss)


def evaluated(model: Model, params: Any, tokens: Array, width: int, window: int) -> Metrics:
    """The metrics over a text, read by so many streams."""

    def measure(params: Any, carry: Any, batch: Any) -> Any:
        carry, logits = model.logits(params, carry, batch["inputs"], 0.0, None)
        return metrics(losses.cross_entropy(logits, batch["targets"], batch["mask"])), carry

    return tbptt.evaluate_streams(
        *(measure, params, tokens, lambda params: model.start(params, width)),
        **{"streams": width, "window": window},
    )


def model_of(config: Config, characters: str) -> Model:
    """The model of these sizes."""
    layers: list[recurrent.Cell] = []
    width = config.embedding_size
    for _ in range(config.layers):
        layers.append(cell_flag.make_cell(config.cell, width, config.hidden_size))
        width = recurrent.output_shape(layers[-1])[-1]
    head = recurrent.dense(width, len(characters))
    return Model(characters, layers, head, config.embedding_size)


def metrics(loss: losses.Average) -> Metrics:
    """Cross-entropy of a character, in nats (``loss``) and in bits."""
    return {"loss": loss, "bits": loss._replace(total=loss.total / math.log(2))}


def use(config: Config, wanted: Use, params: Any) -> Iterator[str]:
    """The prompt, then characters drawn one by one from what the model expects.

    Raises:
      UserError: for a prompt with a character that the training text has not.
    """
    text = load_text(config.data, config.text)
    model = model_of(config, text.characters)
    first = "\n" if "\n" in model.characters else model.characters[text.train[0]]
    prompt = wanted.prompt or first
    unseen = sorted(set(prompt) - set(model.characters))
    if unseen:
        raise UserError(f"--prompt: expected characters of the training text, got {unseen}.")
    yield prompt
    tokens = jnp.asarray([[model.characters.index(c)] for c in prompt], jnp.int32)
    write = jax.jit(lambda states, tokens: model.logits(params, states, tokens, 0.0, None))
    states, logits = write(model.start(params, 1), tokens)
    for key in jax.random.split(jax.random.key(wanted.sample_seed), wanted.characters):
        expected = recurrent.decoding.filter_logits(logits[-1, 0], wanted.temperature)
        token = jax.random.categorical(key, expected)
        yield model.characters[int(token)]
        states, logits = write(states, token.reshape(1, 1))


def pictures(
    model: Model, text: Text, params: Any, rows: list[dict[str, Any]]
) -> Iterator[Picture]:
    """Learning curves, and the beginning of the test text by how much each character surprised."""
    from experiments.figures.curves import learning_curves
    from experiments.figures.text import coloured_text

    yield Picture(
        "learning_curves",
        "Learning curves",
        "Loss (nats) and bits of a character after each epoch. Training windows are thinned by "
        "dropout, so their curve may lie above that of the validation text.",
        learning_curves(rows, "bits", best_step(rows)),
    )
    tokens = jnp.asarray(text.test[: SHOWN + 1])[:, None]
    _, logits = model.logits(params, model.start(params, 1), tokens[:-1], 0.0, None)
    chances = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), 0, tokens[1:, 0]]
    yield Picture(
        "surprise",
        "What surprised it",
        "The beginning of the test text. The redder a character, the less the model expected it.",
        coloured_text(
            "".join(model.characters[k] for k in text.test[1 : len(logits) + 1]),
            -np.asarray(chances) / math.log(2),
        ),
    )
