"""Draw problems that only a network that remembers can solve."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent import losses
from recurrent.losses import masked_average
from recurrent.training.task import Metrics

SYMBOLS = 10  # to remember
KINDS = 8  # of symbols: 1 to 8, between the blank and the signal
SIGNAL = KINDS + 1  # says that they are asked for
CLOSE = 0.04  # a sum counts as right within this, as in Hochreiter & Schmidhuber 1997


class Problem(NamedTuple):
    """Hold a problem of memory.

    Attributes:
      inputs: D, numbers at each step.
      outputs: O, numbers asked for at a step.
      steps: T, of a sequence.
      nothing: the loss of the best answer that remembers nothing.
      draw: ``key -> (xs [T, D], target)``, one sequence.
      judge: ``(ys [T, B, O], targets [B, ...], mask [B]) -> metrics``: the ``loss``, and the share
        of sequences that are answered ``right``.
    """

    inputs: int
    outputs: int
    steps: int
    nothing: float
    draw: Callable[[Array], tuple[Array, Array]]
    judge: Callable[[Array, Array, Array], Metrics]


def adding(length: int) -> Problem:
    """Return the adding problem: the sum of the two numbers that are marked.

    At each step there are a number, uniform from 0 to 1, and a mark, 1 at two steps and else 0.
    The last output is the answer; its squared error is 1/6 for the constant 1, the best that can
    be said without having read.

    Args:
      length: T, at least 2.

    References:
      Hochreiter & Schmidhuber 1997, Long short-term memory, as in Arjovsky et al. 2016,
      arXiv:1511.06464. Departure: both marks are drawn from the whole sequence, as in Bai et al.
      2018, arXiv:1803.01271.
    """

    def draw(key: Array) -> tuple[Array, Array]:
        number_key, first_key, second_key = jax.random.split(key, 3)
        numbers = jax.random.uniform(number_key, (length,))
        first = jax.random.randint(first_key, (), 0, length)
        second = jax.random.randint(second_key, (), 0, length - 1)
        second += second >= first  # any other step
        marks = jnp.zeros(length).at[jnp.stack([first, second])].set(1)
        return jnp.stack([numbers, marks], axis=-1), numbers[first] + numbers[second]

    def judge(ys: Array, targets: Array, mask: Array) -> Metrics:
        error = ys[-1, :, 0] - targets
        right = (abs(error) < CLOSE).astype(error.dtype)
        return {"loss": masked_average(error**2, mask), "right": masked_average(right, mask)}

    return Problem(2, 1, length, 1 / 6, draw, judge)


def copy(length: int) -> Problem:
    """Return the copy problem: ten symbols, to be repeated in order many steps later.

    A sequence of ``length + 20`` steps holds ten symbols of eight kinds, ``length - 1`` blanks,
    and the signal to repeat them at each of the last eleven steps. Blanks are the right output
    everywhere but at the last ten steps. The loss is the mean cross-entropy of a step in nats.
    Without memory it is at best ``10 ln 8 / (length + 20)``.

    Args:
      length: T, at least 1.

    References:
      Hochreiter & Schmidhuber 1997, in the layout of Bai et al. 2018, arXiv:1803.01271.
    """
    steps = length + 2 * SYMBOLS

    def draw(key: Array) -> tuple[Array, Array]:
        symbols = jax.random.randint(key, (SYMBOLS,), 1, KINDS + 1)
        blanks = jnp.zeros(length - 1, symbols.dtype)
        signals = jnp.full(SYMBOLS + 1, SIGNAL, symbols.dtype)
        tokens = jnp.concatenate([symbols, blanks, signals])
        return jax.nn.one_hot(tokens, SIGNAL + 1), symbols

    def judge(ys: Array, targets: Array, mask: Array) -> Metrics:
        blanks = jnp.zeros((steps - SYMBOLS, len(targets)), targets.dtype)
        wanted = jnp.concatenate([blanks, targets.T])  # [T, B]
        everywhere = jnp.broadcast_to(mask, wanted.shape)
        right = (ys[-SYMBOLS:].argmax(-1) == targets.T).all(0).astype(ys.dtype)
        return {
            "loss": losses.cross_entropy(ys, wanted, everywhere),
            "right": masked_average(right, mask),
        }

    nothing = SYMBOLS * math.log(KINDS) / steps
    return Problem(SIGNAL + 1, SIGNAL + 1, steps, nothing, draw, judge)


def recall(length: int) -> Problem:
    """Return the problem to name, at the last step, the symbol of the first one.

    The first input is one of eight unit vectors; all others are normal noise of variance 0.01. The
    loss is the cross-entropy in nats at the last step; without memory it is at best ``ln 8``.

    Args:
      length: T, at least 2.

    References:
      Bengio, Simard & Frasconi 1994, Learning long-term dependencies with gradient descent is
      difficult, section III, with eight classes for two.
    """

    def draw(key: Array) -> tuple[Array, Array]:
        symbol_key, noise_key = jax.random.split(key)
        symbol = jax.random.randint(symbol_key, (), 0, KINDS)
        noise = 0.1 * jax.random.normal(noise_key, (length - 1, KINDS))
        return jnp.concatenate([jax.nn.one_hot(symbol, KINDS)[None], noise]), symbol

    def judge(ys: Array, targets: Array, mask: Array) -> Metrics:
        right = (ys[-1].argmax(-1) == targets).astype(ys.dtype)
        return {
            "loss": losses.cross_entropy(ys[-1], targets, mask),
            "right": masked_average(right, mask),
        }

    return Problem(KINDS, KINDS, length, math.log(KINDS), draw, judge)


PROBLEMS = {"adding": adding, "copy": copy, "recall": recall}


def drawn(problem: Problem, keys: Array) -> tuple[Array, Array]:
    """Draw a sequence for each key: ``xs [T, B, D]``, and the targets ``[B, ...]``."""
    xs, targets = jax.vmap(problem.draw)(keys)
    return xs.swapaxes(0, 1), targets


def numbered(problem: Problem, numbers: Array) -> tuple[Array, Array]:
    """Draw the sequences of these numbers ``[B]``, which are always the same."""
    return drawn(problem, jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), numbers))
