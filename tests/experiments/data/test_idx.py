"""Test that the IDX reader returns what was written, or raises one sentence."""

import gzip
import math
import os
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.data.idx import read_idx
from experiments.harness.errors import UserError

CODES = {"uint8": 8, "int8": 9, "int16": 11, "int32": 12, "float32": 13, "float64": 14}
VALUES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def header(code: int, shape: tuple[int, ...]) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape)


def encode(array: np.ndarray) -> bytes:
    big_endian = array.astype(array.dtype.newbyteorder(">"))
    return header(CODES[array.dtype.name], array.shape) + big_endian.tobytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_idx(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_file_written_by_hand(tmp_path: Path):
    content = bytes([0, 0, 0x0B, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(
        [0, 1, 0, 2, 1, 0, 255, 255, 128, 0, 127, 255]
    )
    values = read_idx(write(tmp_path / "x", content))
    np.testing.assert_array_equal(values, [[1, 2, 256], [-1, -32768, 32767]])
    assert values.dtype == np.int16
    assert values.dtype.isnative
    assert values.flags.writeable


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (2, 3, 4), (1, 2, 1, 3)])
def test_round_trip(tmp_path: Path, name: str, shape: tuple[int, ...], compressed: bool):
    size = math.prod(shape)
    array = (np.arange(size) * 5 - (0 if name == "uint8" else 7)).astype(name).reshape(shape)
    content = gzip.compress(encode(array)) if compressed else encode(array)
    values = read_idx(write(tmp_path / "x", content))
    np.testing.assert_array_equal(values, array)
    assert values.dtype == array.dtype


def test_gzip_is_detected_by_content_not_by_name(tmp_path: Path):
    plain = write(tmp_path / "plain.gz", encode(VALUES))
    packed = write(tmp_path / "packed", gzip.compress(encode(VALUES)))
    np.testing.assert_array_equal(read_idx(plain), VALUES)
    np.testing.assert_array_equal(read_idx(packed), VALUES)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "expected two zero bytes"),
        (b"\0\0", "expected two zero bytes"),
        (b"<!DOCTYPE html><title>Sign in</title>", "expected two zero bytes"),
        (header(7, (3,)) + bytes(3), "unknown type code 0x07"),
        (header(8, ()) + bytes(1), "rank"),
        (b"\0\0\x08\xff" + bytes(2000), "rank"),
        (b"\0\0\x08\x03" + bytes(5), "ends inside its header"),
        (header(8, (0,)), "at least 1"),
        (header(8, (3, 0, 2)), "at least 1"),
        (encode(VALUES)[:-1], "holds only 59"),
        (encode(VALUES) + b"\0", "holds more"),
        (header(8, (2**27, 2**26)) + bytes(64), "more than a file of its size can hold"),
        (header(14, (2**32 - 1,) * 32) + bytes(64), "more than a file of its size can hold"),
    ],
)
@pytest.mark.fault("S2", "S5")
def test_malformed_content(tmp_path: Path, content: bytes, reason: str):
    assert reason in error_of(write(tmp_path / "plain", content))
    assert reason in error_of(write(tmp_path / "packed", gzip.compress(content)))


@pytest.mark.fault("S5")
def test_a_declared_size_beyond_the_limit_is_rejected_even_if_the_file_is_that_large(
    tmp_path: Path,
):
    path = write(tmp_path / "sparse", header(8, (2**17, 2**16)))
    os.truncate(path, path.stat().st_size + 2**33)
    assert "more than 4294967296 bytes" in error_of(path)


@pytest.mark.parametrize("cut", [3, 12, 30, -9, -8, -4, -1])
@pytest.mark.fault("S2")
def test_truncated_gzip(tmp_path: Path, cut: int):
    error_of(write(tmp_path / "x.gz", gzip.compress(encode(VALUES))[:cut]))


@pytest.mark.parametrize("trailer_byte", [-8, -5, -4, -1])
@pytest.mark.fault("S2")
def test_wrong_gzip_checksum_or_length(tmp_path: Path, trailer_byte: int):
    content = bytearray(gzip.compress(encode(VALUES)))
    content[trailer_byte] ^= 1
    assert "damaged gzip file" in error_of(write(tmp_path / "x.gz", bytes(content)))


@pytest.mark.parametrize("tail", [b"garbage", gzip.compress(b"more", mtime=0), b"\x1f\x8b"])
def test_something_after_the_gzip_stream(tmp_path: Path, tail: bytes):
    error_of(write(tmp_path / "x.gz", gzip.compress(encode(VALUES)) + tail))


@pytest.mark.fault("S5")
def test_a_gzip_bomb_is_not_decompressed_beyond_the_declared_size(tmp_path: Path):
    path = write(tmp_path / "bomb.gz", gzip.compress(header(8, (10,)) + bytes(50_000_000)))
    tracemalloc.start()
    try:
        assert "holds more" in error_of(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_missing_file_folder_and_pipe(tmp_path: Path):
    assert "No such file" in error_of(tmp_path / "missing")
    assert "not a regular file" in error_of(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in error_of(tmp_path / "pipe")


def agrees_with_what_its_header_declares(content: bytes, values: np.ndarray) -> bool:
    body = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return encode(values) == body


@pytest.mark.long
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    compressed=st.booleans(),
    flips=st.lists(
        st.tuples(st.one_of(st.integers(0, 30), st.integers(0, 100)), st.integers(1, 255)),
        min_size=1,
        max_size=3,
    ),
)
@pytest.mark.fault("S9")
def test_flipped_bytes_give_an_error_or_the_declared_array(
    tmp_path: Path, compressed: bool, flips: list[tuple[int, int]]
):
    content = bytearray(gzip.compress(encode(VALUES)) if compressed else encode(VALUES))
    for position, mask in flips:
        content[position % len(content)] ^= mask
    path = write(tmp_path / "x", bytes(content))
    try:
        values = read_idx(path)
    except UserError:
        error_of(path)
    else:
        assert agrees_with_what_its_header_declares(bytes(content), values)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_random_bytes_after_a_gzip_magic_give_an_error(tmp_path: Path, content: bytes):
    error_of(write(tmp_path / "x", b"\x1f\x8b" + content))
