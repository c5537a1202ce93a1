"""Say what a run is: what must be the same for it to be gone on with."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.catalogue import Experiment
from experiments.harness.config import options
from experiments.harness.files import digest
from experiments.harness.neighbors import neighbors, parts_of_experiment
from experiments.harness.program import Program
from experiments.harness.rundir import DATA
from experiments.harness.user_files import parts_of
from experiments.harness.version import PACKAGES, code_digest, own_version, versions

WEIGHTS = "**/checkpoints/best/**/*"  # of a run, and of the best training of a sweep


def identity_of(
    experiment: Experiment, config: Any, program: Program | None = None
) -> dict[str, Any]:
    """Return the experiment, all fields of its Config, and hashes of its files and its data."""
    data = data_hashes(program.data) if program else {}
    return {
        "experiment": experiment.name,
        "config": dataclasses.asdict(config),
        "sources": code_hashes(experiment) | source_hashes(config) | data,
    }


def data_hashes(splits: dict[str, Any]) -> dict[str, str]:
    """Return a hash of the arrays of each split, wherever they were read from."""
    return {f"{DATA}{name}": hash_of_arrays(split) for name, split in splits.items()}


def hash_of_arrays(tree: Any) -> str:
    """Return SHA-256 of the names, types, shapes and bytes of a tree's arrays."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.ascontiguousarray(jax.random.key_data(leaf) if is_key else leaf)
        found.update(f"{path} {array.dtype} {array.shape} ".encode())
        found.update(array.reshape(-1).view(np.uint8).data)  # no copy: data sets are large
    return found.hexdigest()


def origin_of(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Return where a run came from, which may be another place when it is gone on with.

    Args:
      experiment: what is trained.
      folder: the run directory, from which a file that lies above it is named.
    """
    file = experiment.file
    if file is not None and folder.resolve().is_relative_to(file.parent):
        file = os.path.relpath(file, folder.resolve())
    return {
        **({"file": str(file)} if file else {}),
        "working_directory": str(Path.cwd()),
        "code": code_digest(),
        **own_version(),
        **versions(),
    }


def changes_since(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """Say which code and packages have changed since a run began; nothing where none has."""
    said = [
        f"{name} was {earlier[name]}, now {now[name]}"
        for name in PACKAGES
        if name in earlier and earlier[name] != now[name]
    ]
    if earlier.get("code", now["code"]) != now["code"]:
        said = [f"recurrent was {_commit(earlier)}, now {_commit(now)}", *said]
    return "; ".join(said)


def _commit(origin: dict[str, Any]) -> str:
    if "commit" not in origin:
        return "of another version"
    return f"at commit {origin['commit'][:7]}" + ("" if origin["clean"] else " with changes")


def code_hashes(experiment: Experiment) -> dict[str, str]:
    """Return the hash of an experiment's file, and of each file beside it that it imports."""
    if experiment.file is not None:
        root, parts = experiment.file.parent, parts_of(experiment.file)
        files = [experiment.file, *parts]
    elif getattr(experiment.module, "__file__", None):
        own = Path(experiment.module.__file__).resolve()
        root, files = own.parent.parent, [own, *parts_of_experiment(own)]
    else:
        return {}
    return {str(file.relative_to(root)): digest(file) for file in files}


def changed_files(earlier: dict[str, Any], now: dict[str, str]) -> list[str]:
    """Return the names of files whose hash is another than it was, of those that have both.

    Example:
      >>> changed_files({"a.py": "1", "b.py": "2"}, {"a.py": "3", "b.py": "2", "c.py": "4"})
      ['a.py']
    """
    return [name for name, digest in now.items() if earlier.get(name, digest) != digest]


def source_hashes(config: Any) -> dict[str, str]:
    """Return the hash of each file of the user's that a Config names, so that an edit is noticed.

    A field declared with ``file=True`` holds ``PATH`` or ``PATH:NAME``; one that names no file
    has no hash. What a Python file imports from beside it belongs to it, and to a run directory
    the weights of its best evaluation.
    """
    return hashes_of_fields(type(config), {name: getattr(config, name) for name in options(config)})


def hashes_of_fields(cls: type, fields: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of `source_hashes` of the fields of a Config, which need not be valid."""
    found: dict[str, str] = {}
    for name, field in options(cls).items():
        value = fields.get(name) if field.file else None
        path = named_file(value) if isinstance(value, str) else None
        if path is not None:
            found |= {f"--{name}: {label}": digest(each) for label, each in with_neighbors(path)}
    return {name: each for name, each in found.items() if each}


def with_neighbors(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield a file and what belongs to it, each with its name."""
    if path.is_dir():
        weights = sorted(each for each in path.glob(WEIGHTS) if each.is_file())
        yield from ((str(each.relative_to(path.parent)), each) for each in weights)
        return
    yield path.name, path
    if path.suffix == ".py":
        file = path.resolve()
        yield from ((str(each.relative_to(file.parent)), each) for each in neighbors(file))


def named_file(value: str, base: Path = Path(), *, whole: bool = False) -> Path | None:
    """Return the file or run directory in ``PATH`` or ``PATH:NAME``; None without one.

    Args:
      value: the text.
      base: the folder from which relative paths start.
      whole: whether ``PATH`` alone is looked for.
    """
    for text in [value] if whole else [value, value.rpartition(":")[0]]:
        try:
            path = base / Path(text).expanduser()
            if text and (path.is_file() or (path / "config.json").is_file()):
                return path
        except (OSError, RuntimeError):
            return None
    return None
