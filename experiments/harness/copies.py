"""Keep the user's own files that a run was trained with, so that it is whole without them."""

import contextlib
import hashlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.harness.config import options
from experiments.harness.disk import writing
from experiments.harness.errors import have_changed
from experiments.harness.identity import (
    changed_files,
    hashes_of_fields,
    named_file,
    with_neighbors,
)
from experiments.harness.rundir import FILES

LARGEST = 2**26  # bytes of a file, with what belongs to it, of which a copy is kept


@contextlib.contextmanager
def with_files(
    claim: contextlib.AbstractContextManager[Path], configs: Sequence[Any], folder: Path
) -> Iterator[Path]:
    """Claim the folder of a run, and keep copies there of all files that its Configs name."""
    with claim:
        for config in configs:
            keep_copies(config, folder)
        yield folder


def keep_copies(config: Any, folder: Path) -> None:
    """Copy each file that a Config names into a run's folder, unless it is there or is too large.

    What a Python file imports from beside it is copied with it. Weights of other runs are not.

    Args:
      config: of the run.
      folder: of the run, or of a sweep.
    """
    for name, path in named_files(config):
        parts = dict(with_neighbors(path))
        if sum(each.stat().st_size for each in parts.values()) > LARGEST:
            continue
        hashes = hashes_of_fields(type(config), {name: getattr(config, name)})
        target = folder / FILES / key_of(name, hashes)
        if target.exists() or len(hashes) < len(parts):  # one of them cannot be read
            continue
        partial = target.with_name(f".{target.name}")
        with writing(str(target), folder):
            shutil.rmtree(partial, ignore_errors=True)
            for label, each in parts.items():
                (partial / label).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(each, partial / label)
            partial.rename(target)


def with_copies(
    cls: type, fields: dict[str, Any], earlier: dict[str, str], folder: Path
) -> dict[str, Any]:
    """Return fields that name a run's copies in place of files that have changed or are gone.

    Each is said on standard error. A file of which there is no copy stays as it is.

    Args:
      cls: the Config.
      fields: of it, whose paths are found from here; none of them has been checked or imported.
      earlier: the hashes of the run's files when it was trained, of its ``config.json``.
      folder: of the run, which may lie in that of its sweep.
    """
    now, copies = hashes_of_fields(cls, fields), {}
    for name, field in options(cls).items():
        mine = of_field(name, earlier)
        if not field.file or not mine or mine == of_field(name, now):
            continue
        copy = copy_of(cls, name, fields.get(name), mine, folder)
        if copy is not None:
            changed = changed_files(mine, now)
            why = have_changed(changed) if changed else f"--{name}: there is no {main_of(mine)}"
            said = f"note: {why}; what the run in {folder} was trained with is used: its own copy."
            print(said, file=sys.stderr)
            copies[name] = copy
    return fields | copies


def copy_of(cls: type, name: str, value: Any, mine: dict[str, str], folder: Path) -> str | None:
    """Return the value of a field by which a run's copy is read; None without a whole copy."""
    main, value = main_of(mine), str(value)
    rest = value[value.rindex(main) + len(main) :] if main in value else ""  # such as ":NAME"
    for place in (folder, folder.parent, folder.parent.parent):  # of a sweep: best, members/3
        copy = f"{place.absolute() / FILES / key_of(name, mine) / main}{rest}"
        if hashes_of_fields(cls, {name: copy}) == mine:
            return copy
    return None


def main_of(mine: dict[str, str]) -> str:
    """Return the name of the file that a field names, which comes before what belongs to it.

    Example:
      >>> main_of({"--cell: mine.py": "1f0a", "--cell: gates.py": "77c2"})
      'mine.py'
    """
    return next(iter(mine)).partition(": ")[2]


def named_files(config: Any) -> Iterator[tuple[str, Path]]:
    """Yield the fields of a Config that name a file of the user's, and the file."""
    for name, field in options(type(config)).items():
        path = named_file(getattr(config, name)) if field.file else None
        if path is not None and path.is_file():
            yield name, path


def of_field(name: str, hashes: dict[str, str]) -> dict[str, str]:
    """Return the hashes of the files that belong to a field."""
    return {label: each for label, each in hashes.items() if label.startswith(f"--{name}: ")}


def key_of(name: str, hashes: dict[str, str]) -> str:
    """Return the name of a copy's folder, which tells apart files of other contents."""
    found = sorted(of_field(name, hashes).items())
    return f"{name}-{hashlib.sha256(repr(found).encode()).hexdigest()[:12]}"
