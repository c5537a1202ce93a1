"""Keep a run directory: who owns it, what was asked, what was measured."""

import contextlib
import fcntl
import json
import math
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.harness.disk import writing
from experiments.harness.errors import UserError, have_changed
from experiments.harness.files import write_atomically
from experiments.harness.manifest import kind

FILES = "files"  # the folder of copies of the user's files, in that of a run or of its sweep
DATA = "the data of "  # begins the name of a split's hash in an identity


@contextlib.contextmanager
def claim(
    path: Path, identity: dict[str, Any], overwrite: bool, origin: dict[str, Any] | None = None
) -> Iterator[Path]:
    """Make or reopen the run directory for ``identity``, locked against other processes.

    Args:
      path: the directory.
      identity: what ``config.json`` records: the experiment, its Config and the hashes of the
        user's own files. A run is only continued under the same identity.
      overwrite: delete an earlier run in the directory first.
      origin: what ``config.json`` records besides, which may be another when it is gone on with.

    Raises:
      UserError: where the path cannot be written, holds something that is not a run, holds a
        run of another identity, or is in use by another process; where something in it is neither
        a file nor a folder. Nothing is changed then.
    """
    with contextlib.ExitStack() as held:
        try:
            _check_is_run_directory(path)
            path.mkdir(parents=True, exist_ok=True)
            _check_entries([path / "lock"] if overwrite else path.iterdir())
            _lock(held.enter_context(open(path / "lock", "a+")), path)
            if overwrite:
                _clear(path)
            check_identity(path / "config.json", identity, origin or {})
        except OSError as error:
            raise UserError(
                f"The run directory {path} cannot be written: {error.strerror}."
            ) from error
        yield path


def _check_is_run_directory(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"The run directory {path} is a file; choose another --workdir or --name.")
    # not config.json: other programs have one too, and --overwrite would delete their files
    if path.is_dir() and any(path.iterdir()) and not (path / "lock").exists():
        raise UserError(
            f"The directory {path} holds files but no run; choose another --workdir or --name."
        )


def _check_entries(paths: Iterable[Path]) -> None:
    """Raise `UserError` for a symbolic link, through which a run would write, and for a pipe.

    What lies in ``checkpoints`` is left to `checkpoint`, which can take another one instead.
    """
    for path in paths:
        mode = path.lstat().st_mode if os.path.lexists(path) else stat.S_IFREG
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(
                f"{path} is {kind(mode)}; a run writes into files and folders of its own alone. "
                "Remove it, or choose another --workdir or --name."
            )
        if stat.S_ISDIR(mode) and path.name != "checkpoints":
            _check_entries(path.iterdir())


def _lock(lock: Any, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        raise UserError(f"The run directory {path} is in use by {owner}.") from None
    lock.seek(0)
    lock.truncate()
    lock.write(f"process {os.getpid()} on {os.uname().nodename}\n")
    lock.flush()


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == "lock":
            continue
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def check_identity(file: Path, identity: dict[str, Any], origin: dict[str, Any]) -> None:
    """Write what a run is, or raise `UserError` where the file says that it is another one."""
    if not file.exists():
        return write_json(file, {**identity, "origin": origin})
    found = read_json(file)
    found.pop("origin", None)
    earlier, now = flat(found), flat(json.loads(json.dumps(identity)))
    different = [name for name in {**earlier, **now} if earlier.get(name) != now.get(name)]
    if not any(name.startswith(f"sources.{DATA}") for name in earlier):  # it had none yet
        different = [name for name in different if not name.startswith(f"sources.{DATA}")]
    if not different:
        return None
    edited = [name for name in different if name.startswith("sources.")]
    if edited == different:
        files = [name.removeprefix("sources.") for name in edited if DATA not in name]
        changed = have_changed(files[:3] or ["What the experiment reads as its data"])
        copies = file.parent / FILES
        kept = f" What it was is in {copies}." if files and copies.exists() else ""
        raise UserError(
            f"{changed} since the run in {file.parent} was begun.{kept} Begin it anew with "
            "--overwrite, or keep both by another --name or --workdir."
        )
    others = [name for name in different if name not in edited][:3]
    shown = "; ".join(f"{n} was {earlier.get(n)!r}, now {now.get(n)!r}" for n in others)
    raise UserError(
        f"{file.parent} holds a run of another configuration ({shown}). "
        "Choose another --name or --workdir, or begin it anew with --overwrite."
    )


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Return the leaves of nested dicts by name, or by ``outer.inner`` for inner dicts."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        leaves |= {f"{name}.{key}" if key else name: leaf for key, leaf in inner.items()}
    return leaves


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
      UserError: where the file holds something else.
    """
    try:
        value = json.loads(bytes_of(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}. Restore it, or use --overwrite.") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} is damaged: expected an object. Restore it, or use --overwrite.")
    return value


def bytes_of(file: Path) -> bytes:
    """Read a file of a run.

    Raises:
      UserError: where it is no file: a named pipe would be waited for without end, and a link
        could lead anywhere.
    """
    mode = file.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise UserError(f"{file} is {kind(mode)}, not a file. Restore it, or use --overwrite.")
    return file.read_bytes()


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Write a JSON object to a file, whole or not at all."""
    with writing(str(file), file.parent):
        write_atomically(file, json.dumps(value, indent=2) + "\n")


def rows_until(file: Path, evaluation: int) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl`` up to an evaluation; cut later ones from the file."""
    rows = rows_of(file, evaluation)
    with writing(str(file), file.parent):
        write_atomically(file, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def rows_of(file: Path, until: float = math.inf) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl`` up to an evaluation, without a torn last one.

    Raises:
      UserError: where another line than the last is no row.
    """
    rows: list[dict[str, Any]] = []
    lines = bytes_of(file).splitlines() if file.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            keep = row["evaluation"] <= until
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if number < len(lines):
                raise UserError(
                    f"{file} is damaged: line {number} is no row of metrics. Restore it, or use "
                    "--overwrite."
                ) from error
            break
        if not keep:
            break
        rows.append(row)
    return rows


def append_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Add a line to ``metrics.jsonl`` for each row."""
    with writing(str(file), file.parent), open(file, "a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
