"""Word what went wrong in a file of the user's: one line, with the place in that file."""

import jax

from experiments.harness.user_files import place_of

LONGEST = 300  # characters of an error's own words
HINTS: dict[type[Exception], str] = {
    jax.errors.TracerBoolConversionError: (
        "a Python `if`, `while`, `and` or `or` cannot look at a value that JAX traces; use "
        "jnp.where, jax.lax.cond, & or |"
    ),
    jax.errors.TracerArrayConversionError: (
        "NumPy cannot compute with a value that JAX traces; use jax.numpy"
    ),
    jax.errors.TracerIntegerConversionError: (
        "a value that JAX traces cannot be an index or a size of Python's; use jnp indexing, or "
        "a number that is known before"
    ),
    jax.errors.NonConcreteBooleanIndexError: (
        "a mask that JAX traces cannot select, since the size would not be known; use jnp.where"
    ),
    jax.errors.ConcretizationTypeError: (
        "a value that JAX traces cannot become a Python number; keep it an array"
    ),
    jax.errors.UnexpectedTracerError: (
        "a value that JAX traces was kept outside of the function that made it; return it"
    ),
}


def explained(error: BaseException) -> str:
    """Return a sentence about an error that came up in a file of the user's; else nothing.

    What is wrong stands first, then the file and the line, and how to see the rest.
    """
    place = place_of(error)
    if not place:
        return ""
    return f"{in_words(error)} ({place}). --traceback shows the rest."


def in_words(error: BaseException) -> str:
    """Return an error's type and words in one line, in our words where JAX's are long."""
    for kind, hint in HINTS.items():
        if isinstance(error, kind):
            return f"{type(error).__name__}: {hint}"
    said = " ".join(str(error).split())
    short = said if len(said) <= LONGEST else said[:LONGEST] + "..."
    return f"{type(error).__name__}: {short}".rstrip(":. ")
