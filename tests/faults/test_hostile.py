"""Files that were made to run code, to write elsewhere or to fill the memory are refused."""

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.harness import manifest
from experiments.harness.checkpoint import checkpoints, restore, save
from experiments.harness.errors import UserError
from experiments.shared.cell_flag import cell_factory
from tests.faults.doors import DOORS, REFUSALS, png, saved
from tests.faults.processes import Record


class Gadget:
    """What makes a folder when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def npy(array: np.ndarray) -> bytes:
    return saved(lambda stream: np.save(stream, array, allow_pickle=True))


def torch_file(content: bytes) -> bytes:
    """As PyTorch writes it: an archive with a pickle in it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
    return stream.getvalue()


def gadgets(marker: Path) -> dict[str, bytes]:
    content, array = pickle.dumps(Gadget(marker)), np.array([Gadget(marker)] * 64, object)
    return {
        "pkl": content,
        "npy": npy(array.reshape(8, 8)),
        "npz": saved(lambda stream: np.savez(stream, a=array.reshape(8, 8))),
        "pt": torch_file(content),
    }


def assert_all_doors_refuse(folder: Path, contents: dict[str, bytes]) -> int:
    """No reader takes anything of a file, under the name that it expects; returns how many."""
    for kind, content in contents.items():
        for name, door in DOORS.items():
            file = folder / "doors" / kind / name / door.name
            file.parent.mkdir(parents=True)
            file.write_bytes(content)
            assert taken(lambda door=door, file=file: door.read(file)) in (None, []), (kind, name)
            assert taken(lambda file=file: cell_factory(f"{file}:f")) is None
    return 2 * len(contents) * len(DOORS)


def taken(read: Callable[[], Any]) -> Any:
    """What is read; nothing where it is refused. A row that was torn off is no row."""
    try:
        return read()
    except REFUSALS:
        return None


@pytest.mark.fault("S4")
def test_no_reader_unpickles_a_gadget(tmp_path: Path, record_property: Record):
    marker = tmp_path / "marker"
    found = gadgets(marker)
    pickle.loads(found["pkl"])
    assert marker.is_dir(), "the gadget works"
    marker.rmdir()
    tried = assert_all_doors_refuse(tmp_path, found)
    assert not marker.exists()
    record_property("gadgets given to readers", tried)
    record_property("of which ran", 0)


# Archives, and sizes that are not there


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(outside: Path) -> bytes:
    """Of a member above the folder, one with an absolute name, and one through a link."""
    stream = io.BytesIO()
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(link)
        for name in ("../escaped", str(outside / "escaped"), "link/escaped"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"\xff"))
    return stream.getvalue()


def huge_npy(shape: tuple[int, ...]) -> bytes:
    head = {"descr": "<f8", "fortran_order": False, "shape": shape}
    return saved(lambda stream: np.lib.format.write_array_header_1_0(stream, head))


def huge_png(side: int) -> bytes:
    """An image whose header alone says how large it is."""
    sound = png(np.zeros((8, 8), np.uint8))
    head = b"IHDR" + struct.pack(">II", side, side) + sound[24:29]
    return sound[:12] + head + struct.pack(">I", zlib.crc32(head)) + sound[33:]


@pytest.mark.fault("S5")
def test_no_reader_writes_outside_or_fills_the_memory(tmp_path: Path, record_property: Record):
    outside = tmp_path / "outside"
    outside.mkdir()
    escaping = {"../escaped": b"\xff", str(outside / "escaped"): b"\xff"}
    contents = {
        "zip": zipped(**escaping),
        "tar": tarred(outside),
        "bomb": zipped(**{"arr_0.npy": npy(np.zeros((10_000, 1250)))}),
        "npy of 8 PiB": huge_npy((2**44, 8, 8)),
        "png of 4 EB": huge_png(2**31 - 1),
    }
    assert len(contents["bomb"]) < 200_000, "100 MB in few bytes"
    tracemalloc.start()
    try:
        tried = assert_all_doors_refuse(tmp_path, contents)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    assert list(outside.iterdir()) == []
    assert {entry.name for entry in tmp_path.iterdir()} == {"outside", "doors"}
    assert not [*tmp_path.rglob("escaped"), *tmp_path.rglob("link")]
    record_property("archives and bombs given to readers", tried)
    record_property("files outside", 0)


# Checkpoints by hand: whoever can change a file can make the manifest fit


def tree(step: int) -> dict[str, np.ndarray]:
    return {"kernel": np.random.default_rng(step).normal(size=(64, 192)).astype(np.float32)}


def write_two(folder: Path) -> list[str]:
    """Writes checkpoints of the steps 3 and 7; returns the names of the files of the second."""
    shutil.rmtree(folder, ignore_errors=True)
    with checkpoints(folder) as manager:
        for step in (3, 7):
            save(manager, step, tree(step), {"step": step})
    return [name for name in manifest.regular_files(folder / "7") if name != manifest.NAME]


def write_sealed(file: Path, content: bytes, folder: Path) -> None:
    file.write_bytes(content)
    (folder / manifest.NAME).unlink()
    manifest.seal(folder)


def step_restored(folder: Path) -> int | None:
    """The step whose arrays are restored, bit for bit; None where all are refused."""
    try:
        with checkpoints(folder, read_only=True) as manager:
            found = restore(manager, tree(0), leave=True)
    except UserError:
        return None
    assert found is not None
    (step,) = [k for k in (3, 7) if (found[0]["kernel"] == tree(k)["kernel"]).all()]
    return step


@pytest.mark.long
@pytest.mark.fault("S4", "S6")
def test_a_gadget_in_place_of_a_file_of_a_checkpoint_does_not_run(
    tmp_path: Path, record_property: Record
):
    marker, whole, folder = tmp_path / "marker", tmp_path / "whole", tmp_path / "latest"
    names = write_two(whole)
    for kind, content in gadgets(marker).items():
        for name in names:
            shutil.copytree(whole, folder)
            write_sealed(folder / "7" / name, content, folder / "7")
            step_restored(folder)
            assert not marker.exists(), (kind, name)
            shutil.rmtree(folder)
    record_property("files of a checkpoint replaced by gadgets", 4 * len(names))


NOTES: list[Any] = [
    *([], "x", 3, None, {}, {"form": 10**300}, {"form": []}, {"shapes": []}, {"shapes": {"a": 1}}),
    {"shapes": {"kernel": "float32[1125899906842624, 8]"}},
    {"shapes": {"../../escaped": "float32[64, 192]"}},
    {"form": "3; import os"},
]
METADATA: list[Any] = [
    *([], {}, "x", {"tree_metadata": {}}, {"use_ocdbt": False}, {"use_zarr3": "yes"}),
    {"tree_metadata": {"('../../../escaped',)": {}}},
    {"custom_metadata": {"__reduce__": "os.system"}},
]


def changed_json(file: Path, change: Any) -> bytes:
    """An object with some of its values exchanged, or another value in its place."""
    found = json.loads(file.read_bytes())
    return json.dumps(found | change if isinstance(change, dict) and change else change).encode()


@pytest.mark.long
@pytest.mark.fault("S6")
def test_hostile_metadata_of_a_checkpoint_are_refused_and_write_nothing(
    tmp_path: Path, record_property: Record
):
    whole, folder = tmp_path / "whole", tmp_path / "latest"
    write_two(whole)
    places = {"notes/metadata": NOTES, "state/_METADATA": METADATA}
    places |= {"_CHECKPOINT_METADATA": METADATA}
    found = []
    for name, changes in places.items():
        for change in changes:
            shutil.copytree(whole, folder)
            content = changed_json(folder / "7" / name, change)
            write_sealed(folder / "7" / name, content, folder / "7")
            found.append(step_restored(folder))
            assert {entry.name for entry in tmp_path.iterdir()} == {"whole", "latest"}
            shutil.rmtree(folder)
    assert not [step for step in found[: len(NOTES)] if step == 7], "notes are checked"
    record_property("hostile metadata", len(found))
