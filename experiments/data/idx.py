"""Read the IDX format of MNIST: two zero bytes, a type code, a rank, the sizes, the values."""

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from experiments.harness.errors import UserError

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_RANK = 32
_MAX_BYTES = 2**32
_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_MAX_RATIO = 1032


class _Header(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def payload_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an IDX file, plain or gzipped (detected from its first bytes, not from its name).

    Args:
      path: the file. It is not trusted: no more is read than its header declares.

    Returns:
      A writable array in native byte order, with the dtype and shape that the header declares.

    Raises:
      UserError: if the file cannot be read, is not an IDX file, or does not hold exactly what its
        header declares.
    """
    try:
        return _read(Path(path))
    except _Malformed as error:
        raise UserError(
            f"{path} is not a valid IDX file: {error}. Put an intact copy there."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path} is a damaged gzip file: {error}. Put an intact copy there."
        ) from error
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "not enough memory"
        raise UserError(f"{path} cannot be read: {reason}.") from error


class _Malformed(Exception):
    """Explain why the bytes are not a valid IDX file."""


def _read(path: Path) -> np.ndarray:
    # Reading a pipe or a device could block or never end.
    if path.exists() and not path.is_file():
        raise _Malformed("it is not a regular file")
    with path.open("rb") as raw:
        file_bytes = os.fstat(raw.fileno()).st_size
        if raw.read(len(_GZIP_MAGIC)) != _GZIP_MAGIC:
            raw.seek(0)
            return _read_stream(raw, file_bytes)
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) as stream:
            return _read_stream(stream, file_bytes * _DEFLATE_MAX_RATIO)


def _read_stream(stream: BinaryIO | gzip.GzipFile, most_bytes: int) -> np.ndarray:
    header = _read_header(stream)
    declared = header.payload_bytes
    if declared > most_bytes:
        raise _Malformed(f"its header declares {header}, more than a file of its size can hold")
    if declared > _MAX_BYTES:
        raise _Malformed(f"its header declares {header}, more than {_MAX_BYTES} bytes")
    # One byte more than declared, so that gzip reaches the end of the file and its checksum.
    payload = stream.read(declared + 1)
    if len(payload) != declared:
        held = "more" if len(payload) > declared else f"only {len(payload)}"
        raise _Malformed(f"its header declares {header}, {declared} bytes, but it holds {held}")
    values = np.frombuffer(payload, header.dtype).reshape(header.shape)
    return values.astype(header.dtype.newbyteorder("="))


def _read_header(stream: BinaryIO | gzip.GzipFile) -> _Header:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise _Malformed(f"expected two zero bytes, a type and a rank, got {list(magic)}")
    code, rank = magic[2:]
    if code not in _DTYPES:
        raise _Malformed(f"unknown type code 0x{code:02x}")
    if not 1 <= rank <= _MAX_RANK:
        raise _Malformed(f"expected a rank of 1 to {_MAX_RANK}, got {rank}")
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise _Malformed(f"it ends inside its header of {rank} sizes")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    if 0 in shape:
        raise _Malformed(f"expected sizes of at least 1, got {list(shape)}")
    return _Header(np.dtype(_DTYPES[code]), shape)
