"""Word what went wrong in a file of the user's: one line, with the place in that file."""

import os
import re
import traceback

import jax

from experiments.harness.user_files import exit_in_words, place_of

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

    A call of ``sys.exit`` is one, too: nothing else calls it, and the work is not done.

    What is wrong stands first, then the file and the line, and how to see the rest.
    """
    if is_of_backend(error):
        asked = os.environ.get("JAX_PLATFORMS", "")
        said = " ".join(str(error).split()) or "there is no such device here"
        return f"JAX cannot start with JAX_PLATFORMS={asked!r}: {said}."
    if is_out_of_memory(error):
        asked = re.search(r"allocating (\d+) bytes", str(error))
        much = f" for {int(asked[1]) / 2**30:.1f} GiB at once" if asked else ""
        return f"There is not enough memory{much}; choose a smaller --batch_size or smaller sizes."
    place = place_of(error)
    if not place and not isinstance(error, SystemExit):
        return ""
    where = f" ({place})" if place else ""
    return f"{in_words(error)}{where}. --traceback shows the rest."


def is_of_backend(error: BaseException) -> bool:
    """Return whether JAX has found no device that it was asked for."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.endswith(("xla_bridge.py", "xla_client.py"))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python, NumPy or a device has not had as much memory as it was asked for."""
    of_device = isinstance(error, jax.errors.JaxRuntimeError) and re.search(
        "out of memory|RESOURCE_EXHAUSTED", str(error), re.IGNORECASE
    )
    return isinstance(error, MemoryError) or bool(of_device)


def in_words(error: BaseException) -> str:
    """Return an error's type and words in one line, in our words where JAX's are long."""
    for kind, hint in HINTS.items():
        if isinstance(error, kind):
            return f"{type(error).__name__}: {hint}"
    if isinstance(error, SystemExit):
        return exit_in_words(error)
    said = " ".join(str(error).split())
    if len(said) > LONGEST:  # no word is cut
        said = (said[: LONGEST + 1].rpartition(" ")[0] or said[:LONGEST]) + " [...]"
    return f"{type(error).__name__}: {said}".rstrip(":. ")
