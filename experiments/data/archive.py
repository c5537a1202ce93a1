"""Read the recordings in an archive whose files are known, but not the bytes around them."""

import hashlib
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from experiments.harness.errors import UserError

RECORDING = re.compile(r"[0-9]_[a-z]{1,20}_[0-9]{1,3}\.wav")
MOST_MEMBERS = 20_000
LARGEST = 2**20  # bytes of a recording


def recordings_in(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and contents of the recordings ``*/recordings/DIGIT_SPEAKER_INDEX.wav``.

    Only regular files of such names are read, so nothing can be written elsewhere by their names.

    Raises:
      UserError: for what is no archive, or one with too many or too large files, or without any
        recording.
    """
    found = 0
    try:
        with tarfile.open(archive) as members:
            for number, member in enumerate(members):
                if number >= MOST_MEMBERS:
                    raise UserError(f"{archive} holds more than {MOST_MEMBERS} files.")
                folder, _, name = member.name.rpartition("/")
                known = RECORDING.fullmatch(name) and folder.endswith("recordings")
                if not known or not member.isreg():
                    continue
                if member.size > LARGEST:
                    raise UserError(f"{archive}: {name} has {member.size} bytes.")
                stream, found = members.extractfile(member), found + 1
                yield name, stream.read() if stream else b""
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{archive} cannot be read as an archive: {error}.") from error
    if not found:
        raise UserError(f"{archive} holds no recordings of the form */recordings/7_name_0.wav.")


def contents_hash(archive: Path) -> str:
    """Return SHA-256 of the names and contents of the recordings, in the order of their names.

    It is 64 zeros for what is no archive of recordings.
    """
    try:
        return hash_of(dict(recordings_in(archive)))
    except UserError:
        return 64 * "0"


def hash_of(files: dict[str, bytes]) -> str:
    """Return SHA-256 of names and contents, in the order of the names."""
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(name.encode())
        whole.update(files[name])
    return whole.hexdigest()
