"""Word what is wrong with functions of the user's, such as a cell or an environment."""

from typing import Any

import jax

from experiments.harness.mistakes import in_words
from experiments.harness.user_files import place_of


def failed(flag: str, what: str, name: str, error: Exception, given: str = "") -> str:
    """Say that a function has raised an error, with its place in the user's file.

    Args:
      flag: by which it was named.
      what: of it failed, before its name; may be empty.
      name: ``FILE.py:FUNCTION``.
      error: that it has raised.
      given: what it was called with, after its name; may be empty.
    """
    place = place_of(error, name.rpartition(":")[0])
    where = f" ({place})" if place else ""
    who = " ".join(filter(None, [what, name, given]))
    return f"{flag}: {who} raised {in_words(error)}{where}."


def shapes_of(tree: Any) -> str:
    """Write the structure, types and shapes of a state in a line.

    Example:
      >>> import numpy as np
      >>> shapes_of({"h": np.zeros((2, 3), np.float32)})
      '{h: float32[2, 3]}'
    """
    leaves, structure = jax.tree.flatten(tree)
    shapes = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves]
    return str(jax.tree.unflatten(structure, shapes)).replace("'", "")
