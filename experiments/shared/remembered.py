"""Show what a network has learned to remember, beside what can be said without memory."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import recurrent
from experiments.harness.program import Exhibit, Figure, Finished
from experiments.shared.remembering import SYMBOLS, Problem, numbered

SHOWN = 500  # sequences of the test split; their numbers follow those of the validation split


def exhibits(
    problem: Problem, network: recurrent.Cell, name: str, finished: Finished
) -> Iterator[Exhibit]:
    """Draw the loss against that of having learned nothing, and the answers to test sequences."""
    from experiments.figures.memory import answers, positions, progress

    yield Figure(
        "progress",
        "Against having learned nothing",
        "The gray line is the loss of the best answer that remembers nothing.",
        progress(finished.rows, problem.nothing),
    )
    ys, targets = answered(problem, network, finished.kept)
    if name == "adding":
        yield Figure(
            "answers",
            "What it answers",
            f"{SHOWN} test sequences: right answers lie on the line.",
            answers(targets, ys[-1, :, 0]),
        )
    if name != "copy":
        return
    right = ys[-SYMBOLS:].argmax(-1) == targets.T  # [10, B]
    yield Figure(
        "positions",
        "Which symbols it knows",
        f"The share of {SHOWN} test sequences in which the first, second, ... symbol is "
        "repeated rightly; the line is guessing.",
        positions(right.mean(1)),
    )


def answered(problem: Problem, network: recurrent.Cell, params: Any) -> tuple[Any, Any]:
    """Return the outputs ``[T, B, O]`` for test sequences, and their targets ``[B, ...]``."""
    xs, targets = numbered(problem, SHOWN + jnp.arange(SHOWN))
    run = jax.jit(partial(recurrent.unroll, network))
    return np.asarray(run(params, xs)[1]), np.asarray(targets)
