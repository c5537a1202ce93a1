"""Write text with a trained language model, and show what surprised it."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.data.text import Text, load_text
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Exhibit, Figure, Finished
from experiments.harness.program import Text as TextExhibit
from experiments.harness.runs import Command, Run
from experiments.shared.data_tables import data_table
from experiments.shared.language import BITS, LOSS, model_of
from recurrent import decoding

SHOWN = 480  # characters of the test text in the figure
PIECE = 50  # characters sampled in one compiled call


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
    prompt = flags.prompt or beginning_of(text)
    unseen = sorted(set(prompt) - set(text.characters))
    if unseen:
        raise UserError(f"--prompt: expected characters of the training text, got {unseen}.")
    model = model_of(run.config, len(text.characters))
    yield from written(model, run.kept, text.characters, prompt, flags)


def beginning_of(text: Text) -> str:
    """Return after what a text is begun: a new line, or its first character where it has none."""
    return "\n" if "\n" in text.characters else text.characters[text.train[0]]


def written(
    model: recurrent.Cell, params: Any, characters: str, prompt: str, flags: Sample
) -> Iterator[str]:
    """Yield the prompt, then what a model writes after it, piece by piece."""
    yield prompt
    tokens = jnp.asarray([[characters.index(c)] for c in prompt], jnp.int32)  # [T, 1]

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
        yield "".join(characters[k] for k in drawn[: flags.characters - start, 0])


sample_command = Command(Sample, sample, "write text with a trained run")


def exhibits(model: recurrent.Cell, text: Text, finished: Finished) -> Iterator[Exhibit]:
    """Draw learning curves and what each character cost, write a text, and count the data."""
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
    flags = Sample()
    first = beginning_of(text)
    pieces = written(model, finished.kept, text.characters, first, flags)
    yield TextExhibit(
        "sample",
        "What it writes",
        f"Drawn from what it expects, at a temperature of {flags.temperature:g}.",
        "".join(pieces).removeprefix(first),
    )
    parts = {"train": text.train, "valid": text.valid, "test": text.test}
    yield data_table(
        f"The text has {sum(map(len, parts.values())):,} characters, {len(text.characters)} "
        "different ones; its three parts follow one another, and nothing is left out, but for a "
        "carriage return at the end of a line. The first "
        "character of each part is only read.",
        ("characters", "different characters"),
        {name: (len(part), len(np.unique(part))) for name, part in parts.items()},
    )
