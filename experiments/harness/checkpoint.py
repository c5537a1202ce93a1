"""Save and restore the state of a training, on Orbax."""

import contextlib
import errno
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding, SingleDeviceSharding

from experiments.harness.errors import UserError
from experiments.harness.processes import is_first, meet

FORM = 2  # of what a checkpoint holds; another one is refused
ANEW = "Choose another --name, or begin anew with --overwrite."


@contextlib.contextmanager
def checkpoints(folder: Path, keep: int = 2, *, read_only: bool = False) -> Iterator[Any]:
    """Open an Orbax manager whose last save has ended when the block does.

    With ``read_only`` it leaves alone what another process is saving.
    """
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        # so that two managers, saving the same step, do not wait at each other's barriers
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=folder.name
        ),
    )
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        yield manager


def save(manager: Any, step: int, tree: Any, notes: dict[str, Any]) -> None:
    """Write the tree and the notes (JSON) as the checkpoint of a step, in the background."""
    import orbax.checkpoint as ocp

    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(_without_keys(tree)),
        notes=ocp.args.JsonSave(notes | {"shapes": _shapes(tree), "form": FORM}),
    )
    manager.save(step, args=arguments, force=True)


def restore(
    manager: Any, like: Any, sharding: Sharding | None = None, advice: str = ANEW
) -> tuple[Any, dict[str, Any]] | None:
    """Return the newest readable checkpoint as a tree like ``like``, and its notes.

    A damaged checkpoint is set aside, with one line of warning, and the one before it is taken.
    Without any checkpoint, return None.

    Args:
      manager: of `checkpoints`.
      like: a tree of arrays or `jax.ShapeDtypeStruct`.
      sharding: where the arrays are put; None for the first device.
      advice: what to do where the checkpoint holds another tree.

    Raises:
      UserError: where the checkpoint holds another tree, naming the first difference, or was
        written in another form; where all checkpoints are damaged.
    """
    reasons = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            found = _restore_step(manager, step, like, sharding, advice)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # whatever Orbax meets in a damaged file
            if getattr(error, "errno", None) in _NOT_THE_FILES_FAULT:
                raise
            reasons[step] = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
            continue
        for damaged, reason in reasons.items():
            aside = set_aside(manager, damaged)
            print(
                f"warning: checkpoint {damaged} is damaged ({reason}); it is now {aside}",
                file=sys.stderr,
            )
        return found
    if reasons:
        step, reason = next(iter(reasons.items()))
        raise UserError(
            f"All checkpoints in {manager.directory} are damaged (step {step}: {reason}). Restore "
            "them, or begin anew with --overwrite."
        )
    return None


_NOT_THE_FILES_FAULT = {errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def set_aside(manager: Any, step: int) -> Path:
    """Move a checkpoint to where the manager does not see it; return that folder."""
    folder = Path(manager.directory)
    aside = folder.parent / f"damaged-{folder.name}-{step}"
    if is_first():
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder / str(step), aside)
    meet("set aside")
    manager.reload()
    return aside


def _restore_step(
    manager: Any, step: int, like: Any, sharding: Sharding | None, advice: str
) -> tuple[Any, dict[str, Any]]:
    import orbax.checkpoint as ocp

    notes_only = ocp.args.Composite(notes=ocp.args.JsonRestore())
    notes = manager.restore(step, args=notes_only)["notes"]
    if notes.pop("form", 1) != FORM:
        raise UserError(
            f"The checkpoint {manager.directory / str(step)} was written by another version of "
            "this code, in a form that this one does not read. Finish the run with that version, "
            "or begin anew with --overwrite."
        )
    _check_shapes(manager.directory / str(step), notes.pop("shapes"), _shapes(like), advice)
    sharding = sharding or SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(_without_keys, like),
    )
    found = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
    return _with_keys(found["state"], like), notes


def _check_shapes(
    folder: Any, found: dict[str, str], expected: dict[str, str], advice: str
) -> None:
    for path in {**expected, **found}:
        if found.get(path) != expected.get(path):
            raise UserError(
                f"The checkpoint {folder} is of another model: {path} is "
                f"{found.get(path, 'absent')} there and {expected.get(path, 'absent')} here. "
                f"{advice}"
            )


def _shapes(tree: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _with_keys(tree: Any, like: Any) -> Any:
    return jax.tree.map(
        lambda leaf, model: jax.random.wrap_key_data(leaf) if _is_key(model) else leaf, tree, like
    )
