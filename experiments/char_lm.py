"""How well does a recurrent network guess the next character of a text?

Command: ./launch.sh char_lm [--data=shakespeare] [--text=FILE] [--cell=gru] [--layers=2]
         ./launch.sh sample RUN_DIRECTORY --prompt="Once"
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.data.text import TEXTS, Text, load_text
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Exhibit, Figure, Finished, Program
from experiments.harness.runs import Command, Run
from experiments.shared.cell_flag import cell_option
from experiments.shared.stacked import foretelling_layers
from experiments.shared.tasks import TbpttConfig, tbptt_task
from recurrent import decoding, losses
from recurrent.training import tbptt
from recurrent.training.task import HParams, Metric, Metrics

EVALUATION_STREAMS = 32
SHOWN = 480  # characters of the test text in the figure
PIECE = 50  # characters sampled in one compiled call
LOSS = Metric("loss", higher_is_better=False)
BITS = Metric("bits", higher_is_better=False, format="{:.4g} bits a character")


@dataclasses.dataclass(frozen=True)
class Config(TbpttConfig):
    """Hold the fields of this experiment."""

    data: str = option("pydoc", "the text: Python's own help, or tiny Shakespeare", choices=TEXTS)
    text: str = option("", "a UTF-8 file to read instead", file=True)
    cell: str = cell_option("lstm", "; it must not look ahead")
    layers: int = option(1, "number of stacked layers", minimum=1, maximum=100)
    hidden_size: int = option(512, "H, of every layer", minimum=1, maximum=10**5)
    embedding_size: int = option(64, "size of the vector of a character", minimum=1, maximum=10**5)
    dropout: float = option(
        0.1, "share of features dropped after each layer", traced=True, minimum=0, below=1
    )
    epochs: int = 5
    learning_rate: float = 3e-3
    warmup_epochs: float = 0.2
    steps_per_call: int = 50


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    text = load_text(config.data, config.text)
    steps_per_epoch = tbptt.steps_per_epoch(len(text.train), config.batch_size, config.window)
    shortest = min(len(text.valid), len(text.test))
    if not steps_per_epoch or shortest < 2:
        raise UserError(
            f"The text has {len(text.train)} characters to train on, fewer than "
            f"{config.batch_size} streams of {config.window}: choose a longer one, or a smaller "
            "--batch_size or --window."
        )
    model = model_of(config, len(text.characters))

    def loss(params: Any, batch: Any, key: Array, carry: Any, hparams: HParams) -> Any:
        trained = model_of(config, len(text.characters), hparams["dropout"], key)
        carry, logits = recurrent.unroll(trained, params, batch["inputs"], carry)
        average = losses.cross_entropy(logits, batch["targets"])
        return average.mean, (metrics(average), carry)

    def measure(params: Any, batch: Any, carry: Any, hparams: HParams) -> Any:
        carry, logits = recurrent.unroll(model, params, batch["inputs"], carry)
        return metrics(losses.cross_entropy(logits, batch["targets"], batch["mask"])), carry

    task = tbptt_task(
        config,
        model.init,
        lambda params, streams: model.initial_state(params, (streams,)),
        loss,
        measure,
        tokens=len(text.train),
        evaluation_streams=min(EVALUATION_STREAMS, shortest - 1),
    )
    parts = {"train": text.train, "valid": text.valid, "test": text.test}
    return Program(
        task=task,
        data={name: {"tokens": jnp.asarray(part)} for name, part in parts.items()},
        evaluations=config.epochs,
        steps_per_evaluation=steps_per_epoch,
        select=LOSS,
        report=BITS,
        exhibits=lambda finished: exhibits(model, text, finished),
    )


def model_of(
    config: Config, vocabulary: int, dropout: Any = 0.0, key: Array | None = None
) -> recurrent.Cell:
    """Return the network, from tokens ``[T, B]`` to logits ``[T, B, V]``; no key in evaluation.

    Raises:
      UserError: as `foretelling_layers` does.
    """
    parts = foretelling_layers(config, config.embedding_size, config.window, dropout, key)
    size = recurrent.output_shape(parts[-1])[-1]
    read = recurrent.embedding(
        vocabulary, config.embedding_size, kernel_init=jax.nn.initializers.normal(1.0)
    )
    return recurrent.stack(read, *parts, recurrent.dense(size, vocabulary), input_shape=())


def metrics(loss: losses.Average) -> Metrics:
    """Return the cross-entropy of a character in nats (``loss``) and in bits."""
    return {"loss": loss, "bits": loss._replace(total=loss.total / math.log(2))}


@dataclasses.dataclass(frozen=True)
class Sample:
    """Hold the flags of ``./launch.sh sample``."""

    prompt: str = option(
        "",
        "text to continue; by default a new line, or the text's first character where it has none",
    )
    characters: int = option(500, "how many to write", minimum=1, maximum=10**7)
    temperature: float = option(0.8, "below 1 more likely text, above 1 less", minimum=0)
    sample_seed: int = option(0, "decides what is written", minimum=0, maximum=2**31 - 1)


def sample(run: Run, flags: Sample) -> Iterator[str]:
    """Write the prompt, then characters drawn one by one from what the model expects.

    Raises:
      UserError: for a prompt with a character that the training text does not have.
    """
    text = load_text(run.config.data, run.config.text)
    first = "\n" if "\n" in text.characters else text.characters[text.train[0]]
    prompt = flags.prompt or first
    unseen = sorted(set(prompt) - set(text.characters))
    if unseen:
        raise UserError(f"--prompt: expected characters of the training text, got {unseen}.")
    yield prompt
    model, params = model_of(run.config, len(text.characters)), run.kept
    tokens = jnp.asarray([[text.characters.index(c)] for c in prompt], jnp.int32)  # [T, 1]

    def advance(state: Any, tokens: Array) -> Any:
        return recurrent.unroll(model, params, tokens, state)[0]

    @jax.jit
    def piece(state: Any, token: Array, key: Array) -> tuple[Any, Array]:
        def step(state: Any, token: Array) -> Any:
            return model.step(params, state, token)

        drawn = decoding.sample(
            step, state, token, key, PIECE, temperature=flags.temperature
        ).tokens
        return advance(state, jnp.concatenate([token[None], drawn[:-1]])), drawn

    state = model.initial_state(params, (1,))
    state = advance(state, tokens[:-1]) if len(tokens) > 1 else state
    token, key = tokens[-1], jax.random.key(flags.sample_seed)
    for start in range(0, flags.characters, PIECE):
        state, drawn = piece(state, token, jax.random.fold_in(key, start))
        token = drawn[-1]
        yield "".join(text.characters[k] for k in drawn[: flags.characters - start, 0])


commands = {"sample": Command(Sample, sample, "write text with a trained run")}


def exhibits(model: recurrent.Cell, text: Text, finished: Finished) -> Iterator[Exhibit]:
    """Draw learning curves, and the beginning of the test text by how much each character cost."""
    from experiments.figures.curves import learning_curves
    from experiments.figures.text import colored_text

    yield Figure(
        "learning_curves",
        "Learning curves",
        "Loss in nats, and bits a character, after each epoch. Training metrics are computed with "
        "dropout on, so they can be higher than those of the validation text.",
        learning_curves(finished.rows, [LOSS, BITS], finished.best_step),
    )
    tokens = jnp.asarray(text.test[: SHOWN + 1])[:, None]  # [T + 1, 1]
    _, logits = recurrent.unroll(model, finished.kept, tokens[:-1])
    log_probs = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), 0, tokens[1:, 0]]
    yield Figure(
        "surprise",
        "What surprised it",
        "The beginning of the test text. The redder a character, the less the model expected it.",
        colored_text(
            "".join(text.characters[k] for k in text.test[1 : len(logits) + 1]),
            -np.asarray(log_probs) / math.log(2),
        ),
    )
