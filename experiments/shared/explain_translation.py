"""Explain a word that a network writes: ``./launch.sh explain RUN --text=...``.

What is explained is the log of its probability after the words that the network has written before
it, as a function of one-hot vectors of the words that it reads.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.vocabulary import END
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Exhibit, Figure
from experiments.harness.runs import Command, Run
from experiments.shared.explainable import Example, Explainable, Network, leaving_out
from experiments.shared.explaining import ExplainFlags, explain_command
from experiments.shared.translating import Languages, encoded, network_of
from experiments.shared.translations import STOP, attended, in_one, longest_written, translate

BACKGROUND = 8  # training examples


@dataclasses.dataclass(frozen=True)
class ExplainTranslation(ExplainFlags):
    """Hold the flags of ``./launch.sh explain``."""

    text: str = option("", "what the network reads")
    step: int = option(1, "which word of what it writes, from 1 on; its end is the last", minimum=1)


def explain_translation(
    parts: Callable[[Any], tuple[Languages, dict[str, Any]]], words: Callable[[str], Sequence[str]]
) -> Command:
    """Return the command.

    Args:
      parts: ``config -> (languages, splits)``.
      words: those of a text.
    """

    def explainable(run: Run, flags: ExplainTranslation) -> Explainable:
        languages, data = parts(run.config)
        source = words(flags.text.lower())
        written = translate(run, languages, source, "--text", beam=1)
        check_step(flags.step, written, ended=len(written) < longest_written(languages))
        return of_translation(
            run.config, languages, run.kept, data["train"]["sources"], source, written, flags.step
        )

    return explain_command(ExplainTranslation, explainable)


def check_step(step: int, written: Sequence[str], ended: bool = True) -> None:
    """Raise `UserError` for a step after what was written, whose end counts where it has one."""
    most, what = len(written) + ended, "the end" if ended else "the last word, for it has no end,"
    if step > most:
        raise UserError(
            f"--step: expected at most {most}, {what} of what is written, {' '.join(written)!r}; "
            f"got {step}."
        )


def of_translation(
    config: Any,
    languages: Languages,
    params: Any,
    others: np.ndarray,
    source: Sequence[str],
    written: Sequence[str],
    step: int,
) -> Explainable:
    """Return what is explained: a word of what was written.

    Args:
      config: of the run.
      languages: the vocabularies.
      params: trained.
      others: ids of what else might be read, ``[N, S]``, each with its `END`.
      source: words that are read.
      written: words that the network writes.
      step: which of these is explained, from 1 on.
    """
    one_hot = np.eye(languages.sources.size, dtype=np.float32)
    xs = one_hot[[*languages.sources.ids(source), END]][None]
    before = (END, *languages.targets.ids(written[: step - 1]))
    answer = [*languages.targets.ids(written), END][step - 1]
    shares = one_hot[others[others != END]].mean(0)
    return Explainable(
        network=translation_network(config, languages, before),
        params=params,
        example=Example(
            xs=xs,
            lengths=np.array([xs.shape[1]]),
            baselines=np.stack([np.zeros_like(xs[0]), np.broadcast_to(shares, xs.shape[1:])]),
            background=one_hot[as_long(others, xs.shape[1])],
        ),
        answers=[STOP, "unknown", *languages.targets.words],
        baselines=("no word", "mean word"),
        axes=("word", "which"),
        what="text",
        title=f"word {step} after {in_one(source)!r}",
        more=tuple(attention(config, languages, params, source, written)),
        letters=[*source, STOP],
        target=answer,
    )


@functools.cache
def translation_network(config: Any, languages: Languages, before: tuple[int, ...]) -> Network:
    """Return the network that writes a word; the same one each time, so that it compiles once."""
    return Network(
        leaving_out(partial(next_word, config, languages, before)),
        network_of(config, languages).init,
        ("decoder", "encoder"),
        tokens=True,
    )


def next_word(
    config: Any, languages: Languages, before: Sequence[int], params: Any, xs: Array, lengths: Array
) -> Array:
    """Return log-probabilities ``[B, V]`` of a word that is written.

    Args:
      config: of the run.
      languages: the vocabularies.
      before: tokens that the decoder has read when it writes the word.
      params: trained.
      xs: weights of the words that the encoder reads ``[B, S, U]``, such as one-hot vectors.
      lengths: of what it reads ``[B]``.
    """
    network = network_of(config, languages, weighted=True)
    memory, state = encoded(network, params, xs, lengths)
    tokens = jnp.broadcast_to(jnp.array(before)[:, None], (len(before), len(xs)))
    _, logits = network.sequence(params, memory, state, tokens)
    return jax.nn.log_softmax(logits[-1])


def as_long(ids: np.ndarray, steps: int) -> np.ndarray:
    """Return sources from all over the data ``[N, steps]``, cut or filled up with `END`."""
    spread = np.linspace(0, len(ids) - 1, min(BACKGROUND, len(ids))).astype(int)
    found = np.full((len(spread), steps), END, ids.dtype)
    kept = ids[spread, : steps - 1]
    found[:, : kept.shape[1]] = kept
    return found


def attention(
    config: Any, languages: Languages, params: Any, source: Sequence[str], written: Sequence[str]
) -> list[Exhibit]:
    """Draw where the network looks while it writes, if it has attention."""
    from experiments.figures.attention import attention_map

    if config.attention == "last":
        return []
    weights, words = attended(config, languages, params, source, written)
    message = "Where it looks while it writes"
    figure = attention_map(message, weights, [*source, STOP], words, words)
    said = "A column for each word that is written; dark is where the network looks."
    return [Figure("attention", message, said, figure)]
