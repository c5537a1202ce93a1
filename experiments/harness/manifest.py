"""Seal a folder by the sizes and hashes of its files, and find what has changed in it since."""

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

NAME = "manifest"
LONGEST = 2**26  # bytes of a manifest


class Damaged(Exception):
    """Say which file of a folder is not as it was written, and in what."""


class Entry(NamedTuple):
    """Hold what a manifest says of a file: its SHA-256 as hex digits, and its size in bytes."""

    digest: str
    size: int


def seal(folder: Path) -> None:
    """Write the manifest of all files in a folder into it, as its last file.

    Example:
      >>> import tempfile
      >>> folder = Path(tempfile.mkdtemp())
      >>> _ = (folder / "weights").write_bytes(b"12345")
      >>> seal(folder)
      >>> check(folder)
      >>> _ = (folder / "weights").write_bytes(b"12845")
      >>> check(folder)
      Traceback (most recent call last):
      ...
      experiments.harness.manifest.Damaged: weights has other bytes than were written
    """
    entries = {
        name: Entry(_digest(folder / name), size) for name, size in regular_files(folder).items()
    }
    with open(folder / NAME, "x") as stream:
        stream.write(_text(entries))
        stream.flush()
        os.fsync(stream.fileno())


def check(folder: Path) -> None:
    """Compare every file of a folder with its manifest.

    Raises:
      Damaged: for the first file that is missing, has been added, or has another size or other
        bytes; where the manifest itself is damaged.
      OSError: where a file cannot be read, which says nothing of what it holds.
    """
    sizes = regular_files(folder)
    if sizes.pop(NAME, LONGEST + 1) > LONGEST:
        raise Damaged(f"{NAME} is missing or too long")
    entries = _read(folder / NAME)
    for name in {**entries, **sizes}:
        if name not in sizes:
            raise Damaged(f"{name} is missing")
        if name not in entries:
            raise Damaged(f"{name} has been added")
        if sizes[name] != entries[name].size:
            raise Damaged(f"{name} has {sizes[name]} bytes, not {entries[name].size}")
    for name, entry in entries.items():  # the sizes first: a file that has grown may be endless
        if _digest(folder / name) != entry.digest:
            raise Damaged(f"{name} has other bytes than were written")


def regular_files(folder: Path) -> dict[str, int]:
    """Return the size of each file below a folder, by its path from there, in order.

    Raises:
      Damaged: for what is no file: opening a named pipe never returns, and a symbolic link may lead
        anywhere.
    """
    mode = folder.lstat().st_mode
    if not stat.S_ISDIR(mode):
        raise Damaged(f"it is {kind(mode)}, not a folder")
    sizes = {}
    for path in sorted(folder.rglob("*")):
        found, name = path.lstat(), str(path.relative_to(folder))
        if stat.S_ISREG(found.st_mode):
            sizes[name] = found.st_size
        elif not stat.S_ISDIR(found.st_mode):
            raise Damaged(f"{name} is {kind(found.st_mode)}, not a file")
    return sizes


def kind(mode: int) -> str:
    """Return in words what a mode of `os.lstat` is of."""
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a named pipe", stat.S_IFREG: "a file"}
    kinds |= {stat.S_IFDIR: "a folder"}
    return kinds.get(stat.S_IFMT(mode), "a socket or a device")


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _text(entries: dict[str, Entry]) -> str:
    return "".join(f"{entry.digest} {entry.size} {name}\n" for name, entry in entries.items())


def _read(file: Path) -> dict[str, Entry]:
    try:
        text = file.read_text()
        rows = [line.split(" ", 2) for line in text.splitlines()]
        entries = {name: Entry(digest, int(size)) for digest, size, name in rows}
    except ValueError as error:
        raise Damaged(f"{NAME} is not one") from error
    if text != _text(entries):  # such as a size of 0012
        raise Damaged(f"{NAME} has other bytes than were written")
    return entries
