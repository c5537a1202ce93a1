"""Draw sequences of pulses on several lines, of each of which the last pulse is to be held."""

import jax
import jax.numpy as jnp
from jax import Array

from experiments.shared.remembering import Problem
from recurrent.losses import masked_average
from recurrent.training.task import Metrics

PULSES = 0.1  # a step, on each line


def flip_flop(bits: int, length: int) -> Problem:
    """Return the problem to hold, on each line, the sign of the last pulse.

    At each step an input is +1 or -1 with the probability `PULSES`, shared evenly, and else 0; the
    output of a line is that of its last pulse. At the first step all lines have a pulse, so that
    there is always something to hold. The loss is the mean squared error; whoever holds nothing
    answers pulses alone, and 0 elsewhere.

    Args:
      bits: N, lines.
      length: T, at least 2.

    References:
      Sussillo & Barak 2013, section 4.1; pulses at the first step as in Golub & Sussillo 2018,
      FixedPointFinder.
    """

    def draw(key: Array) -> tuple[Array, Array]:
        when, sign = jax.random.split(key)
        pulse = jax.random.bernoulli(when, PULSES, (length, bits)).at[0].set(True)
        signs = jnp.where(jax.random.bernoulli(sign, 0.5, (length, bits)), 1.0, -1.0)
        pulses = jnp.where(pulse, signs, 0.0)
        return pulses, held(pulses)

    def judge(ys: Array, targets: Array, mask: Array) -> Metrics:
        wanted = targets.swapaxes(0, 1)  # [T, B, N]
        right = (ys * wanted > 0).all((0, 2)).astype(ys.dtype)
        errors = jnp.square(ys - wanted).mean((0, 2))
        return {"loss": masked_average(errors, mask), "right": masked_average(right, mask)}

    nothing = (1 - PULSES) * (length - 1) / length
    return Problem(bits, bits, length, nothing, draw, judge)


def held(pulses: Array) -> Array:
    """Return the last pulse up to each step, of ``[T, N]``; 0 before the first.

    Example:
      >>> held(jnp.array([[0.0], [1.0], [0.0], [-1.0], [0.0]])).ravel().tolist()
      [0.0, 1.0, 1.0, -1.0, -1.0]
    """
    steps = jnp.arange(len(pulses))[:, None]
    last = jax.lax.cummax(jnp.where(pulses != 0, steps, 0))
    return jnp.take_along_axis(pulses, last, axis=0)
