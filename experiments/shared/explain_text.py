"""Explain which character a network expects: ``./launch.sh explain RUN --text=...``.

What is explained is the log of its probability, as a function of one-hot vectors of characters.
"""

import dataclasses
import functools
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.data.text import Text, load_text
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.runs import Run
from experiments.shared.explainable import Example, Explainable, Network, leaving_out
from experiments.shared.explaining import ExplainFlags, explain_command
from experiments.shared.language import model_of, scores_of

BACKGROUND = 8  # passages of the training text
LONGEST = 200  # characters
NAMES = {" ": "a space", "\n": "a new line"}


@dataclasses.dataclass(frozen=True)
class ExplainText(ExplainFlags):
    """Hold the flags of ``./launch.sh explain``."""

    text: str = option("", f"what the network reads, at most {LONGEST} characters")
    character: str = option("", "which next character to explain, in place of --target")


def explainable(run: Run, flags: ExplainText) -> Explainable:
    """Return a text and the network that predicts what follows it.

    Raises:
      UserError: for a text that is empty, too long or has characters that training has not seen,
        and for a character that is not one of the training text, or comes beside a target.
    """
    text = load_text(run.config.data, run.config.text)
    return of_text(run.config, text, run.kept, flags)


def of_text(config: Any, text: Text, params: Any, flags: ExplainText) -> Explainable:
    """Return what is explained, for a network of a training text; raises as `explainable` does."""
    check(text, flags)
    count = len(text.characters)
    letters = np.eye(count, dtype=np.float32)
    shares = np.bincount(text.train, minlength=count) / len(text.train)
    size = len(flags.text)
    xs = letters[[text.characters.index(c) for c in flags.text]][None]
    mean = np.broadcast_to(shares.astype(np.float32), xs.shape[1:])
    return Explainable(
        network=text_network(config, count, layers_of_params(params)),
        params=params,
        example=Example(
            xs=xs,
            lengths=np.array([size]),
            baselines=np.stack([np.zeros_like(xs[0]), mean]),
            background=letters[passages(text.train, size)],
        ),
        answers=[NAMES.get(c, c if c.isprintable() else repr(c)) for c in text.characters],
        baselines=("no character", "mean character"),
        axes=("character", "which"),
        what="text",
        title=f"after {flags.text!r}",
        letters=flags.text,
        target=text.characters.index(flags.character) if flags.character else -1,
    )


@functools.cache
def text_network(config: Any, characters: int, layers: tuple[str, ...]) -> Network:
    """Return the network of a Config; the same one each time, so that it compiles once."""
    return Network(
        leaving_out(partial(scores_of, config, characters)),
        model_of(config, characters).init,
        layers,
        tokens=True,
    )


def check(text: Text, flags: ExplainText) -> None:
    """Raise `UserError` for flags that name nothing to explain."""
    if not flags.text:
        raise UserError('--text: expected a text, got none; give one, such as --text="Once".')
    if len(flags.text) > LONGEST:
        raise UserError(
            f"--text: expected at most {LONGEST} characters, got {len(flags.text)}; give its end."
        )
    unseen = sorted(set(flags.text) - set(text.characters))
    if unseen:
        raise UserError(f"--text: expected characters of the training text, got {unseen}.")
    if flags.character and (len(flags.character) > 1 or flags.character not in text.characters):
        raise UserError(
            f"--character: expected one character of the training text, got {flags.character!r}."
        )
    if flags.character and flags.target >= 0:
        raise UserError("--character: expected no --target beside it; give one of the two.")


def passages(tokens: np.ndarray, size: int) -> np.ndarray:
    """Return passages ``[N, size]`` from all over a text, which begins anew where it is short."""
    starts = np.linspace(0, max(0, len(tokens) - size), BACKGROUND).astype(int)
    return np.take(tokens, starts[:, None] + np.arange(size), mode="wrap")


def layers_of_params(params: Any) -> tuple[str, ...]:
    """Name the parts of a network that have weights, from its output down."""
    named = [name for name in params if jax.tree.leaves(params[name])]
    return tuple(sorted(named, key=lambda name: (len(name), name), reverse=True))


explain_text = explain_command(ExplainText, explainable)
