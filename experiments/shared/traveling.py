"""Show how gradients travel through time, before and after training."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import recurrent
from experiments.harness.program import Exhibit, Figure, Finished
from experiments.shared.remembering import Problem, numbered
from recurrent.gradients import gradient_by_lag, lyapunov_exponents, step_jacobians
from recurrent.saturation import Saturation, saturation

SHOWN = 20  # sequences of the test split; their numbers follow those of the validation split
FIRST = 500
MARGIN = 0.05  # from a bound, within which a gate is saturated
LARGEST = 256  # numbers of a state whose eigenvalues are drawn


def exhibits(
    problem: Problem, cell: recurrent.Cell, start: Callable[[Any], Any], finished: Finished
) -> Iterator[Exhibit]:
    """Draw the size of gradients by lag, saturated gates, and eigenvalues of step Jacobians.

    Args:
      problem: what is asked.
      cell: the recurrent part of the network.
      start: ``hparams -> params`` before training.
      finished: the training.
    """
    from experiments.figures.gradients import by_lag, eigenvalues
    from experiments.figures.memory import progress

    yield Figure(
        "progress",
        "Against having learned nothing",
        "The gray line is the loss of the best answer that remembers nothing.",
        progress(finished.rows, problem.nothing),
    )
    xs, _ = numbered(problem, FIRST + jnp.arange(SHOWN))
    params = {"before": start(finished.hparams), "after training": finished.kept}
    own = {name: each["layer_0"] for name, each in params.items()}
    key = jax.random.key(0)
    lag = jax.jit(lambda params: gradient_by_lag(cell, params, xs, key))
    yield Figure(
        "by_lag",
        "How much of a gradient arrives",
        f"From the last output back to each earlier state, in {SHOWN} test sequences: the median "
        "and, shaded, all of them. A straight line down vanishes, a line up explodes.",
        by_lag({name: np.asarray(lag(each)) for name, each in own.items()}),
    )
    yield from saturated(cell, own, xs)
    state = jax.eval_shape(lambda: cell.initial_state(own["before"], ()))
    if sum(leaf.size for leaf in jax.tree.leaves(state)) > LARGEST:
        return
    middle = len(xs) // 2
    jacobians = jax.jit(lambda params: step_jacobians(cell, params, xs[:, :1])[middle, 0])
    rate = jax.jit(lambda params: lyapunov_exponents(cell, params, xs, key, count=1).mean())
    yield Figure(
        "eigenvalues",
        "What one step does to a small difference",
        f"Eigenvalues of the Jacobian of step {middle} of a test sequence. Inside of the circle a "
        "difference shrinks, outside it grows; a memory needs some near the circle.",
        eigenvalues(
            {name: np.linalg.eigvals(np.asarray(jacobians(each))) for name, each in own.items()},
            {name: float(rate(each)) for name, each in own.items()},
        ),
    )


def saturated(cell: recurrent.Cell, params: dict[str, Any], xs: Any) -> Iterator[Exhibit]:
    """Draw how many entries of each gate and activation lie near their bounds, if there are any.

    Args:
      cell: the recurrent part of the network.
      params: of the cell, by name.
      xs: sequences ``[T, B, D]``.
    """
    from experiments.figures.gradients import near_bounds

    shares = jax.jit(lambda params: saturation(cell, params, xs, margin=MARGIN))
    found = {name: jax.device_get(shares(each)) for name, each in params.items()}
    if not found["before"]:
        return
    yield Figure(
        "saturation",
        "Gates and activations near their bounds",
        f"Which share of the entries lies within {MARGIN} of a bound: 0 and 1 of a sigmoid, -1 and "
        "1 of tanh; of a rectifier, which share is 0. What is near a bound lets hardly any "
        "gradient through; a forget gate near 1 keeps its memory, and the gradient, whole.",
        near_bounds({name: by_gate(each) for name, each in found.items()}),
    )


def by_gate(found: dict[str, Saturation]) -> dict[str, tuple[float, float]]:
    """Return the means over all sequences of the shares near the two bounds."""
    return {gate: (float(each.low.mean()), float(each.high.mean())) for gate, each in found.items()}
