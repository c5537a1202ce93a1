"""Spoken digits on disk: the archive they come in, and recordings of users in any format."""

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from experiments.data import download, recordings
from experiments.data.archive import contents_hash, hash_of, recordings_in
from experiments.data.recordings import load_recordings
from experiments.data.waves import Wave, read_wave, resampled
from experiments.harness.errors import UserError
from tests.experiments.small_data import write_recordings

TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8000)


def archive_of(files: dict[str, bytes], path: Path, links: tuple[str, ...] = ()) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, contents in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            archive.addfile(member, io.BytesIO(contents))
        for name in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    return path


FILES = {"0_ann_0.wav": b"zero", "7_bob_12.wav": b"seven"}
WITHIN = {f"digits-1.0/recordings/{name}": contents for name, contents in FILES.items()}


def test_only_recordings_of_an_archive_are_read(tmp_path: Path) -> None:
    others = {
        "digits-1.0/README.md": b"text",
        "digits-1.0/recordings/../../evil.wav": b"x",
        "digits-1.0/elsewhere/1_ann_0.wav": b"x",
        "/recordings/0_ann_0.wav.sh": b"x",
    }
    whole = archive_of(WITHIN | others, tmp_path / "a.tar.gz", ("d/recordings/2_ann_0.wav",))
    assert dict(recordings_in(whole)) == FILES
    again = archive_of(dict(reversed(WITHIN.items())), tmp_path / "b.tar.gz")
    assert again.read_bytes() != whole.read_bytes()
    assert contents_hash(again) == contents_hash(whole) == hash_of(FILES)
    other = archive_of(WITHIN | {"d/recordings/7_bob_12.wav": b"eight"}, tmp_path / "c.tar.gz")
    assert contents_hash(other) != contents_hash(whole)


def test_what_is_no_archive_has_no_hash_and_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    file.write_bytes(archive_of(WITHIN, tmp_path / "b.tar.gz").read_bytes()[:-40])
    assert contents_hash(file) == "0" * 64
    with pytest.raises(UserError, match="cannot be read as an archive"):
        dict(recordings_in(file))
    big = archive_of({"d/recordings/1_ann_0.wav": bytes(2**20 + 1)}, tmp_path / "c.tar.gz")
    with pytest.raises(UserError, match="1048577 bytes"):
        dict(recordings_in(big))


def test_a_missing_folder_is_unpacked_from_its_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(tmp_path))
    made = write_recordings(tmp_path / "made")
    files = {file.name: file.read_bytes() for file in made.iterdir()}
    archive = archive_of({f"d/recordings/{name}": x for name, x in files.items()}, tmp_path / "a")
    monkeypatch.setattr(recordings, "fetch", lambda file: archive)
    found = load_recordings()
    assert {file.name for file in (tmp_path / "fsdd" / "recordings").iterdir()} == files.keys()
    assert len(found.samples) == len(files)
    assert found.names == ("ann", "bob", "cid", "dan", "eve", "fay")
    samples, _ = soundfile.read(made / "1_bob_5.wav", dtype="int16")
    (k,) = np.flatnonzero((found.classes == 1) & (found.speakers == 1) & (found.indices == 5))
    np.testing.assert_array_equal(found.samples[k], samples)
    chosen = found.some(found.speakers == 2)
    assert {*chosen.speakers.tolist()} == {2}
    assert len(chosen.samples) == len(files) // 6


def test_a_folder_that_is_not_whole_is_used_and_spoken_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(tmp_path))
    made = write_recordings(tmp_path / "fsdd" / "recordings")
    count = len([*made.iterdir()])
    assert len(load_recordings().samples) == count
    said = f"{made} holds {count} recordings of ann, bob, cid, dan, eve, fay; as distributed there"
    assert said in capsys.readouterr().err
    monkeypatch.setattr(recordings, "EACH", count // 6)
    load_recordings()
    assert capsys.readouterr().err == ""


def test_the_archive_is_known_by_its_contents() -> None:
    (file,) = download.REMOTE_FILES["fsdd"]
    assert file.hashed is contents_hash


def write(path: Path, samples: Any, rate: int = 8000, subtype: str = "PCM_16") -> str:
    soundfile.write(path, samples, rate, subtype=subtype)
    return str(path)


@pytest.mark.parametrize(
    ("subtype", "error"),
    [("PCM_U8", 1e-2), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-6), ("FLOAT", 1e-7),
     ("DOUBLE", 1e-7)],
)  # fmt: skip
def test_each_format_gives_the_same_samples(tmp_path: Path, subtype: str, error: float) -> None:
    wave, notes = read_wave(write(tmp_path / "a.wav", TONE, 8000, subtype), longest=1)
    assert (wave.rate, notes) == (8000, [])
    np.testing.assert_allclose(wave.samples, TONE, atol=error)


@pytest.mark.parametrize("riff", [0, 36])
def test_a_recording_whose_recorder_was_killed_is_read_and_it_is_said(
    tmp_path: Path, riff: int
) -> None:
    """It writes the size of its data when it is closed, and 0 before."""
    whole, _ = read_wave(write(tmp_path / "whole.wav", TONE), longest=1)
    contents = bytearray((tmp_path / "whole.wav").read_bytes())
    assert contents[36:40] == b"data"
    contents[4:8], contents[40:44] = riff.to_bytes(4, "little"), bytes(4)
    (tmp_path / "killed.wav").write_bytes(contents)
    wave, notes = read_wave(tmp_path / "killed.wav", longest=1)
    np.testing.assert_array_equal(wave.samples, whole.samples)
    assert notes == [
        f"{tmp_path / 'killed.wav'} says that it has no samples; the {2 * len(TONE)} bytes that "
        "follow are read."
    ]


def test_a_chunk_after_no_samples_is_none(tmp_path: Path) -> None:
    write(tmp_path / "empty.wav", TONE[:0])
    contents = bytearray((tmp_path / "empty.wav").read_bytes()[:44]) + b"LIST" + bytes([4, 0, 0, 0])
    contents += b"INFO"
    contents[4:8] = (len(contents) - 8).to_bytes(4, "little")
    (tmp_path / "empty.wav").write_bytes(contents)
    with pytest.raises(UserError, match="holds no sample"):
        read_wave(tmp_path / "empty.wav", longest=1)


def test_channels_are_averaged_and_it_is_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.stack([TONE, 0 * TONE], 1))
    wave, notes = read_wave(path, longest=1)
    np.testing.assert_allclose(wave.samples, TONE / 2, atol=1e-4)
    assert notes == [f"{path} has 2 channels; their mean is read."]


def test_what_is_left_of_a_truncated_file_is_read_and_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write(path, TONE)
    path.write_bytes(path.read_bytes()[: 44 + 2000])
    wave, notes = read_wave(path, longest=1)
    np.testing.assert_allclose(wave.samples, TONE[:1000], atol=1e-4)
    assert len(notes) == 1
    assert "8000 bytes of samples, 2000 are there; the 0.12 s that are left" in notes[0]


@pytest.mark.parametrize("size", [12, 70_001])
def test_what_a_comment_says_is_not_taken_for_samples(tmp_path: Path, size: int) -> None:
    """A chunk before the samples may hold the word data, or be longer than is read at once."""
    path = tmp_path / "a.wav"
    write(path, TONE)
    whole = path.read_bytes()
    words = b"data\xff\xff\xff\x00".ljust(size, b"x")
    chunk = b"JUNK" + size.to_bytes(4, "little") + words + b"\0" * (size % 2)
    riff = (len(whole) + len(chunk) - 8).to_bytes(4, "little")
    path.write_bytes(whole[:4] + riff + whole[8:36] + chunk + whole[36:])
    wave, notes = read_wave(path, longest=1)
    assert notes == []
    np.testing.assert_allclose(wave.samples, TONE, atol=1e-4)
    path.write_bytes(path.read_bytes()[: -len(TONE)])  # half of its samples, of two bytes each
    assert "8000 bytes of samples, 4000 are there" in read_wave(path, longest=1)[1][0]


def test_recordings_that_cannot_be_read_are_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path / "empty.wav", np.zeros(0))
    write(tmp_path / "long.wav", np.zeros(8001))
    write(tmp_path / "slow.wav", np.zeros(100), 100)
    write(tmp_path / "nan.wav", np.full(100, np.nan), subtype="FLOAT")
    whole = bytearray((tmp_path / "long.wav").read_bytes())
    (tmp_path / "cut.wav").write_bytes(whole[:30])
    (tmp_path / "nothing.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("seven")
    whole[20:22] = b"\xff\xee"  # a format that there is not
    (tmp_path / "odd.wav").write_bytes(whole)
    (tmp_path / "folder.wav").mkdir()
    expected = {
        "empty.wav": "holds no sample",
        "long.wav": r"is 1\.0 s long; expected at most 1 s",
        "slow.wav": "100 samples a second",
        "nan.wav": "are no numbers",
        "cut.wav": "cannot be read as a recording",
        "nothing.wav": "cannot be read as a recording",
        "text.wav": "cannot be read as a recording",
        "odd.wav": "cannot be read as a recording",
        "folder.wav": "no regular file",
        "missing.wav": "is not there",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as error:
            read_wave(str(tmp_path / name), "--wav: ", longest=1)
        assert re.fullmatch(r"--wav: [^\n]+", str(error.value))


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_a_tone_of_another_rate_is_the_same_tone(rate: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)
    found = resampled(Wave(tone.astype(np.float32), rate), 8000)
    assert len(found) == 4000
    np.testing.assert_allclose(found[200:-200], TONE[200:-200], atol=5e-3)


def test_an_archive_without_recordings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.tar"
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("project/recordings/readme.txt"))
    with pytest.raises(UserError, match="holds no recordings"):
        dict(recordings_in(file))
    assert contents_hash(file) == 64 * "0"
