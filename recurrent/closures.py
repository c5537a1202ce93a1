"""Turn the traced numbers that a function closes over into an argument, to differentiate by them.

`jax.custom_vjp` gives no gradient of what its function closes over: it must be an argument.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array


def closed_over(
    function: Callable[..., Any], given: Any, *each: Any
) -> tuple[Callable[..., Any], list[Array]]:
    """Find the traced floating-point arrays that a function closes over.

    Args:
      function: ``(given, *each) -> result``, which treats each element of a batch alone.
      given: what all steps share, such as params; arrays or their shapes.
      *each: what belongs to one step; arrays or their shapes.

    Returns:
      The same function with these arrays as its last argument,
      ``(given, *each, values) -> result``, and the arrays themselves. Each of its arguments after
      the first may also have an axis T in front, of as many steps. There are no arrays, and the
      function is of no use, where nothing was closed over that may be differentiated: a Python
      number, an array, and whatever the function makes of these, are constants.

    Example:
      >>> import jax
      >>> from recurrent.closures import closed_over
      >>> def square(number):
      ...     scaled, values = closed_over(lambda params, x: params * number * x, 5.0, 1.0)
      ...     return scaled(5.0, 2.0, [number * value for value in values])
      >>> jax.grad(square)(3.0).item()  # d/dn 10 n^2
      60.0
    """
    converted, values = jax.closure_convert(function, given, *each)
    rank = jnp.ndim(jax.tree.leaves(each)[0])

    def call(given: Any, *rest: Any) -> Any:
        *each, values = rest

        def of_step(*each: Any) -> Any:
            return converted(given, *each, *values)

        of_all = jnp.ndim(jax.tree.leaves(each)[0]) > rank
        return jax.vmap(of_step)(*each) if of_all else of_step(*each)

    return call, values
