"""Let a trained model go on learning from a sequence while it is being evaluated on it.

Each window of the sequence is scored first, and only then learned from, so no score has seen its
own answers. Krause et al. 2018, Dynamic evaluation of neural sequence models, arXiv:1709.07432.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from recurrent.errors import ArgumentError
from recurrent.training.task import Metrics
from recurrent.training.tbptt import evaluate_streams

Start = Callable[[Any, int], Any]


def dynamic_evaluation(
    loss: Callable[[Any, Any, Any], tuple[Array, tuple[Metrics, Any]]],
    params: Any,
    tokens: Array,
    start: Start,
    optimizer: optax.GradientTransformation,
    *,
    window: int,
    streams: int = 1,
) -> Metrics:
    """Add up metrics over all tokens but the first, with an update after each window.

    Args:
      loss: ``(params, batch, carry) -> (scalar, (metrics, carry))``, the batch as in
        `evaluate_streams`. No gradient enters the carry.
      params: of the trained model.
      tokens: ``[N]``.
      start: ``(params, streams) -> carry``, the recurrent state before the first token.
      optimizer: of the updates, such as `towards`.
      window: tokens between two updates.
      streams: how many parts of the sequence are read side by side. With 1 each token is scored
        after all before it were learned from.

    Raises:
      ValueError: as `evaluate_streams` does.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from recurrent.losses import Average
      >>> def loss(params, batch, carry):  # predicts one number for all tokens
      ...     error = jnp.square(params - batch["targets"]).sum()
      ...     return error, ({"error": Average(error, jnp.float32(1))}, carry)
      >>> found = dynamic_evaluation(
      ...     loss, jnp.float32(0), jnp.full(5, 8), lambda params, streams: (), optax.sgd(0.25),
      ...     window=1,
      ... )  # the distance halves with every token: 64 + 16 + 4 + 1
      >>> float(found["error"].total)
      85.0
    """

    def measure(trained: Any, batch: Any, carry: Any) -> tuple[Metrics, Any]:
        params, opt_state, carry = carry
        slopes, (metrics, carry) = jax.grad(loss, has_aux=True)(params, batch, carry)
        slopes = jax.tree.map(jnp.conj, slopes)
        updates, opt_state = optimizer.update(slopes, opt_state, params)
        return metrics, (optax.apply_updates(params, updates), opt_state, carry)

    def begin(params: Any, streams: int) -> Any:
        return params, optimizer.init(params), start(params, streams)

    return evaluate_streams(measure, params, tokens, begin, streams=streams, window=window)


def mean_squares(
    loss: Callable[[Any, Any, Any], tuple[Array, tuple[Metrics, Any]]],
    params: Any,
    tokens: Array,
    start: Start,
    *,
    window: int,
    streams: int,
) -> Any:
    """Return the mean of the squared gradients of the windows of a sequence, as a tree of params.

    Args:
      loss: as in `dynamic_evaluation`.
      params: at which the gradients are taken.
      tokens: ``[N]``, of the training data.
      start: ``(params, streams) -> carry``.
      window: of each gradient.
      streams: of each gradient.

    Raises:
      ValueError: as `evaluate_streams` does.
    """

    def measure(params: Any, batch: Any, carry: Any) -> tuple[Any, Any]:
        slopes, (_, carry) = jax.grad(loss, has_aux=True)(params, batch, carry)
        squares = jax.tree.map(lambda slope: jnp.square(jnp.abs(slope)), slopes)
        return {"squares": squares, "windows": jnp.int32(1)}, carry

    found: Any = evaluate_streams(measure, params, tokens, start, streams=streams, window=window)
    return jax.tree.map(lambda leaf: leaf / found["windows"], found["squares"])


def towards(
    trained: Any, squares: Any, learning_rate: Any, decay: Any, *, epsilon: float = 1e-5
) -> optax.GradientTransformation:
    """Build the updates of dynamic evaluation, which pull the params back to the trained ones.

    Equation, with the gradient g, R = sqrt(squares) and M the mean of R over all params:
    ``update = min(decay R / M, 1) (trained - params) - learning_rate g / (R + epsilon)``, so that a
    parameter that training seldom moved is moved more, and pulled back less.

    Args:
      trained: the params before the sequence.
      squares: of `mean_squares`.
      learning_rate: of the gradients; may be traced.
      decay: share of the way back, a step, of a parameter with the mean R; may be traced.
      epsilon: added to R.

    Returns:
      An optimizer without state; its updates need the params.

    Raises:
      ValueError: by its update, where it is not given the params.

    References:
      Krause et al. 2018, arXiv:1709.07432, equations 5 and 6.

    Example:
      >>> import jax.numpy as jnp
      >>> rule = towards(jnp.array([1.0, 1.0]), jnp.array([4.0, 4.0]), 0.2, 0.5, epsilon=0.0)
      >>> params = jnp.array([1.0, 3.0])
      >>> rule.update(jnp.array([10.0, 0.0]), rule.init(params), params)[0].tolist()
      [-1.0, -1.0]
    """
    sizes = jax.tree.map(jnp.sqrt, squares)
    leaves = jax.tree.leaves(sizes)
    mean = sum(leaf.sum() for leaf in leaves) / sum(leaf.size for leaf in leaves)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ArgumentError("params: expected those to be pulled back, got None.")

        def of_leaf(slope: Array, size: Array, here: Array, there: Array) -> Array:
            back = jnp.minimum(decay * size / mean, 1.0)
            return (back * (there - here) - learning_rate * slope / (size + epsilon)).astype(
                here.dtype
            )

        return jax.tree.map(of_leaf, updates, sizes, params, trained), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
