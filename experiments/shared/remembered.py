"""Show what a network has learned to remember, beside what can be said without memory."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.harness.program import Exhibit, Figure, Finished
from experiments.shared.remembering import SYMBOLS, Problem, numbered

SHOWN = 500  # sequences of the test split; their numbers follow those of the validation split


def exhibits(
    problem: Problem, network: recurrent.Cell, name: str, together: int, finished: Finished
) -> Iterator[Exhibit]:
    """Draw the loss against that of having learned nothing, and the answers to test sequences.

    Args:
      problem: what is asked.
      network: what answers.
      name: of the problem.
      together: sequences that fit into memory.
      finished: the training.
    """
    from experiments.figures.memory import answers, positions, progress

    yield Figure(
        "progress",
        "Against having learned nothing",
        "The gray line is the loss of the best answer that remembers nothing.",
        progress(finished.rows, problem.nothing),
    )
    ys, targets = answered(problem, network, finished.kept, together)
    if name == "adding":
        yield Figure(
            "answers",
            "What it answers",
            f"{SHOWN} test sequences: right answers lie on the line.",
            answers(targets, ys[-1, :, 0]),
        )
    if name != "copy":
        return
    right = ys.argmax(-1) == targets.T  # [10, B]
    yield Figure(
        "positions",
        "Which symbols it knows",
        f"The share of {SHOWN} test sequences in which the first, second, ... symbol is "
        "repeated rightly; the line is guessing.",
        positions(right.mean(1)),
    )


def answered(
    problem: Problem, network: recurrent.Cell, params: Any, together: int
) -> tuple[Any, Any]:
    """Answer test sequences, so many together.

    Returns:
      The last outputs ``[SYMBOLS, B, O]``, and the targets ``[B, ...]``.
    """

    @jax.jit
    def some(params: Any, numbers: Array) -> tuple[Array, Array]:
        xs, targets = numbered(problem, numbers)
        return recurrent.unroll(network, params, xs)[1][-SYMBOLS:], targets

    together = min(together, SHOWN)
    starts = range(0, SHOWN, together)
    # The last ones begin anew with the first, so that all parts have one shape.
    parts = [some(params, SHOWN + (k + jnp.arange(together)) % SHOWN) for k in starts]
    ys, targets = (
        np.concatenate(each, axis)
        for each, axis in zip(zip(*parts, strict=True), (1, 0), strict=True)
    )
    return ys[:, :SHOWN], targets[:SHOWN]
