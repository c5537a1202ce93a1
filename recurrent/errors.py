"""Define the family of errors that are raised in words of our own.

Each is a sentence: what was expected, what came, what to do. Whoever calls can catch them all as
`RecurrentError`, or as the error of Python's that they are, too. The launcher's own
(`experiments.harness.errors.UserError`) is apart, since it must be there where JAX is not.
"""


class RecurrentError(Exception):
    """Stand for any error that this package explains."""


class ArgumentError(RecurrentError, ValueError):
    """Say which argument is none that a function can take, by its value, shape or type.

    Example:
      >>> from recurrent import gru, unroll
      >>> import jax, jax.numpy as jnp
      >>> cell = gru(3, 4)
      >>> try:
      ...     unroll(cell, cell.init(jax.random.key(0)), jnp.ones((5, 2, 7)))
      ... except RecurrentError as error:
      ...     print(isinstance(error, ValueError))
      True
    """


class ReturnError(RecurrentError, TypeError):
    """Say that a function which was passed in returns something else than it should."""
