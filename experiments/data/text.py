"""Load a text as integers: Python's own documentation, tiny Shakespeare, or a file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.download import REMOTE_FILES, fetch
from experiments.harness.errors import UserError, unknown
from experiments.harness.files import check_regular, path_of

TEXTS = ("pydoc", "shakespeare")
LARGEST = 2**28  # bytes
SHARE_OF_TRAIN, SHARE_OF_VALID = 0.9, 0.05


class Text(NamedTuple):
    """Hold three consecutive parts of a text, as indices into its sorted characters.

    Attributes:
      characters: all distinct characters, sorted.
      train: int32 [N], the first 90 %.
      valid: int32, the next 5 %.
      test: int32, the rest.
    """

    characters: str
    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def load_text(name: str, file: str = "") -> Text:
    """Load a text by name, or from a UTF-8 file if one is given.

    Args:
      name: one of `TEXTS`; ignored if there is a file.
      file: the path of a UTF-8 text of at most `LARGEST` bytes.

    Returns:
      The text, split in order into train, valid and test.

    Raises:
      UserError: if the name is unknown, or if the file cannot be read, is too large, is not UTF-8,
        or has fewer than two distinct characters.
    """
    text = whole_text(name, file)
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    characters, tokens = np.unique(points, return_inverse=True)
    if len(characters) < 2:
        raise UserError(f"--text: expected different characters in {file}, got {len(characters)}.")
    cuts = [int(len(tokens) * share) for share in (SHARE_OF_TRAIN, SHARE_OF_TRAIN + SHARE_OF_VALID)]
    train, valid, test = np.split(tokens.astype(np.int32), cuts)
    return Text("".join(map(chr, characters)), train, valid, test)


def whole_text(name: str, file: str = "") -> str:
    """Return a text by name, or that of a UTF-8 file if one is given.

    Raises:
      UserError: if the name is unknown, or as `read_text` does.
    """
    return read_text(path_of(file, "--text: ")) if file else _of_name(name)


def _of_name(name: str) -> str:
    if name == "pydoc":
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
    if name == "shakespeare":
        (path,) = map(fetch, REMOTE_FILES["shakespeare"])
        return read_text(path)
    raise UserError(unknown("text", name, TEXTS))


def read_text(path: Path) -> str:
    r"""Return what a UTF-8 file holds, without a byte-order mark; lines end in ``\n`` alone.

    Raises:
      UserError: for one that cannot be read, is too large or is not UTF-8.
    """
    check_regular(path, most_bytes=LARGEST)
    try:
        return path.read_text("utf-8").removeprefix("\ufeff")  # a byte-order mark is no character
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: byte {error.start} cannot be read.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
