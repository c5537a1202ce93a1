"""Manifests: whatever of a sealed folder has changed is found, and the file is named."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.harness.manifest import NAME, Damaged, check, kind, seal

# SHA-256 of "abc" and of nothing, from FIPS 180-2 and its test vectors
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
NOTHING = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "abc").write_text("abc")
    (folder / "below" / "nothing").write_text("")
    (folder / "below" / "letters").write_bytes(bytes(range(256)))
    seal(folder)
    check(folder)
    return folder


def test_a_manifest_says_hash_size_and_name_of_each_file(sealed: Path):
    rows = [line.split() for line in (sealed / NAME).read_text().splitlines()]
    assert [row[2] for row in rows] == ["abc", "below/letters", "below/nothing"]
    assert [row[1] for row in rows] == ["3", "256", "0"]
    assert (rows[0][0], rows[2][0]) == (ABC, NOTHING)


def test_every_bit_of_every_file_counts(sealed: Path):
    """Of the manifest, too."""
    for file in [path for path in sealed.rglob("*") if path.is_file()]:
        data = file.read_bytes()
        for place in range(len(data)):
            flipped = bytearray(data)
            flipped[place] ^= 1 << place % 8
            file.write_bytes(flipped)
            with pytest.raises(Damaged) as caught:
                check(sealed)
            assert file.name == NAME or str(file.relative_to(sealed)) in str(caught.value)
        file.write_bytes(data)
    check(sealed)


def test_a_manifest_of_one_file_is_not_good_for_another_of_the_same_size(tmp_path: Path):
    (tmp_path / "abc").write_text("abc")
    seal(tmp_path)
    (tmp_path / "abc").write_text("acb")
    with pytest.raises(Damaged, match="abc has other bytes than were written"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "abc").write_text(""), "abc has 0 bytes, not 3"),
        (lambda f: (f / "abc").write_text("abcd"), "abc has 4 bytes, not 3"),
        (lambda f: os.truncate(f / "abc", 2**40), f"abc has {2**40} bytes, not 3"),
        (lambda f: (f / "abc").unlink(), "abc is missing"),
        (lambda f: (f / "below" / "more").write_text(""), "below/more has been added"),
        (lambda f: (f / NAME).unlink(), "manifest is missing"),
        (lambda f: (f / NAME).write_text(""), "abc has been added"),
        (lambda f: (f / NAME).write_bytes(b"\xff\xfe{"), "manifest is not one"),
        (lambda f: (f / NAME).write_text(f"{ABC} 0003 abc\n"), "manifest has other bytes"),
        (lambda f: os.truncate(f / NAME, 2**40), "manifest is missing or too long"),
    ],
)
def test_what_has_changed_is_named(sealed: Path, damage: Callable[[Path], None], words: str):
    damage(sealed)
    with pytest.raises(Damaged, match=words):
        check(sealed)


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "what"), [(link, "a symbolic link"), (os.mkfifo, "a named pipe")], ids=["link", "pipe"]
)
@pytest.mark.parametrize("name", ["abc", NAME, "more", "below/more"])
def test_what_is_no_file_is_never_opened(
    sealed: Path, name: str, make: Callable[[Path], None], what: str
):
    (sealed / name).unlink(missing_ok=True)
    make(sealed / name)
    signal.alarm(20)  # which ends a test that waits for a pipe
    try:
        with pytest.raises(Damaged, match=f"{name} is {what}, not a file"):
            check(sealed)
    finally:
        signal.alarm(0)


def test_a_link_in_place_of_the_folder_is_not_followed(sealed: Path):
    sealed.rename(sealed.parent / "elsewhere")
    sealed.symlink_to(sealed.parent / "elsewhere")
    with pytest.raises(Damaged, match="it is a symbolic link, not a folder"):
        check(sealed)


def test_a_folder_is_sealed_once(sealed: Path):
    with pytest.raises(FileExistsError):
        seal(sealed)


def test_the_kinds_have_names(tmp_path: Path):
    assert kind(tmp_path.lstat().st_mode) == "a folder"
    assert kind(Path("/dev/zero").lstat().st_mode) == "a socket or a device"
