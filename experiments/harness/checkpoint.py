"""Save and restore the state of a training, on Orbax."""

import contextlib
import errno
import logging
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding, SingleDeviceSharding

from experiments.harness import manifest
from experiments.harness.disk import writing
from experiments.harness.errors import UserError
from experiments.harness.processes import highest, is_first, meet

FORM = 3  # of what a checkpoint holds; another one is refused
UNSEALED = 2  # but for this one, which is the same without a manifest: nothing tells its damages
ANEW = "Choose another --name, or begin anew with --overwrite."


@contextlib.contextmanager
def checkpoints(folder: Path, keep: int = 2, *, read_only: bool = False) -> Iterator[Any]:
    """Open an Orbax manager whose last save has ended when the block does.

    With ``read_only`` it leaves alone what another process is saving.

    Raises:
      UserError: where the folder cannot be written, or a save that went on in the background could
        not be ended.
    """
    import orbax.checkpoint as ocp

    from experiments.harness.commit import SealedPath

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what goes wrong is raised, too
    if not read_only:
        check_is_folder(folder)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        # so that two managers, saving the same step, do not wait at each other's barriers
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=folder.name
        ),
        # in the background a folder that cannot be made is waited for without end
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        temporary_path_class=SealedPath,
        lightweight_initialize=True,  # or it reads files before they are checked
    )
    with saving(folder):
        manager = ocp.CheckpointManager(folder.absolute(), options=options)
    try:
        yield manager
    finally:
        with saving(folder):
            manager.close()


def check_is_folder(folder: Path) -> None:
    """Raise `UserError` where a folder of checkpoints, or what is saved in it, lies elsewhere."""
    inside = [path for path in folder.glob("*") if not path.name.isdecimal()]
    for path in [folder, *inside]:
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise UserError(
                f"{path} is {manifest.kind(path.lstat().st_mode)}, where only folders are written; "
                "remove it."
            )


def save(manager: Any, step: int, tree: Any, notes: dict[str, Any]) -> None:
    """Write the tree and the notes (JSON) as the checkpoint of a step, in the background.

    Raises:
      UserError: where it cannot be written, or the one before could not be.
    """
    import orbax.checkpoint as ocp

    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(_without_keys(tree)),
        notes=ocp.args.JsonSave(notes | {"shapes": _shapes(tree), "form": FORM}),
    )
    with saving(Path(manager.directory)):
        manager.save(step, args=arguments, force=True)


def finish(manager: Any) -> None:
    """Wait until the last save has ended.

    Raises:
      UserError: where it could not be written.
    """
    with saving(Path(manager.directory)):
        manager.wait_until_finished()


def saving(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Raise `UserError`, naming the last checkpoint, for what the file system refuses meanwhile."""

    def there() -> str:
        steps = steps_in(folder)
        last = f"The last one there is of step {steps[-1]}" if steps else "There is none yet"
        return f"{last}; once that is mended, the same command goes on."

    return writing(f"A checkpoint in {folder}", folder, there)


def steps_in(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, whole or damaged, in order."""
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]*", name))


def restore(
    manager: Any,
    like: Any,
    sharding: Sharding | None = None,
    advice: str = ANEW,
    *,
    leave: bool = False,
) -> tuple[Any, dict[str, Any]] | None:
    """Return the newest whole checkpoint as a tree like ``like``, and its notes.

    A damaged checkpoint is set aside, with one line of warning, and the one before it is taken,
    unless that is of step 0. Without any checkpoint, return None.

    Args:
      manager: of `checkpoints`.
      like: a tree of arrays or `jax.ShapeDtypeStruct`.
      sharding: where the arrays are put; None for the first device.
      advice: what to do where the checkpoint holds another tree.
      leave: whether damaged checkpoints stay where they are, since another process may own them.

    Raises:
      UserError: where the checkpoint holds another tree, naming the first difference, or was
        written in another form; where all checkpoints are damaged.
    """
    folder = Path(manager.directory)
    reasons, steps = {}, steps_in(folder)
    for step in reversed(steps):
        if step == 0 and reasons:  # to take the state before any training is to begin anew
            break
        try:
            found = _restore_step(manager, step, like, sharding, advice)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # whatever Orbax meets in a damaged file
            if getattr(error, "errno", None) in _NOT_THE_FILES_FAULT:
                raise
            reasons[step] = _in_words(error)
            continue
        # one that is a link would be deleted, when its turn comes, together with what it leads to
        links = {old for old in steps if old < step and not _is_folder(folder / str(old))}
        for damaged, reason in (reasons | dict.fromkeys(links, "it is no folder")).items():
            say_damaged(manager, damaged, reason, leave)
        return found
    if leave and steps_in(folder) != steps:  # its owner has saved meanwhile
        return restore(manager, like, sharding, advice, leave=leave)
    if reasons:
        step, reason = next(iter(reasons.items()))
        raise UserError(
            f"All checkpoints in {folder} are damaged (step {step}: {reason}). Restore "
            "them, or begin anew with --overwrite."
        )
    return None


_NOT_THE_FILES_FAULT = {errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def _in_words(error: Exception) -> str:
    if isinstance(error, manifest.Damaged):
        return str(error)
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def say_damaged(manager: Any, step: int, reason: str, leave: bool = False) -> None:
    """Warn of a damaged checkpoint, and set it aside unless it is to be left."""
    then = "an older one is taken" if leave else f"it is now {set_aside(manager, step)}"
    print(f"warning: checkpoint {step} is damaged ({reason}); {then}", file=sys.stderr)


def set_aside(manager: Any, step: int) -> Path:
    """Move a checkpoint to where the manager does not see it; return that folder.

    Raises:
      UserError: where it cannot be moved.
    """
    folder = Path(manager.directory)
    aside = folder.parent / f"damaged-{folder.name}-{step}"
    if is_first():
        with saving(folder):
            if aside.is_dir() and not aside.is_symlink():
                shutil.rmtree(aside)
            else:
                aside.unlink(missing_ok=True)
            os.replace(folder / str(step), aside)
    meet("set aside")
    manager.reload()
    return aside


def set_damaged_aside(manager: Any) -> None:
    """Move checkpoints away that are not as they were written, of which the caller has the tree."""
    folder = Path(manager.directory)
    for step in steps_in(folder):
        reason = damage(folder / str(step))
        (any_sees_it,) = highest(bool(reason))
        if any_sees_it:
            say_damaged(manager, step, reason or "another process finds so")


def damage(folder: Path) -> str:
    """Say how a checkpoint differs from its manifest; nothing where it does not, or has none."""
    try:
        if manifest.NAME in manifest.regular_files(folder):
            manifest.check(folder)
    except manifest.Damaged as error:
        return str(error)
    return ""


def _restore_step(
    manager: Any, step: int, like: Any, sharding: Sharding | None, advice: str
) -> tuple[Any, dict[str, Any]]:
    import orbax.checkpoint as ocp

    folder = Path(manager.directory) / str(step)
    notes = _checked_notes(manager, folder)
    _check_shapes(folder, notes.pop("shapes"), _shapes(like), advice)
    sharding = sharding or SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(_without_keys, like),
    )
    found = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
    return _with_keys(found["state"], like), notes


def _checked_notes(manager: Any, folder: Path) -> dict[str, Any]:
    """Return the notes of a checkpoint all of whose files are as they were written.

    Raises:
      Damaged: where one is not.
      UserError: where the checkpoint is of another form.
    """
    import orbax.checkpoint as ocp

    sealed = manifest.NAME in manifest.regular_files(folder)
    if sealed:
        manifest.check(folder)
    notes_only = ocp.args.Composite(notes=ocp.args.JsonRestore())
    notes = manager.restore(int(folder.name), args=notes_only)["notes"]
    form = notes.pop("form", 1)
    if form == FORM and not sealed:
        raise manifest.Damaged(f"{manifest.NAME} is missing")
    if form not in (FORM, UNSEALED):
        raise UserError(
            f"The checkpoint {folder} was written by another version of "
            "this code, in a form that this one does not read. Finish the run with that version, "
            "or begin anew with --overwrite."
        )
    return notes


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
