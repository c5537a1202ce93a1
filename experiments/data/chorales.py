"""Read Bach's chorales, as the pitches that sound in each quarter note."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data.download import REMOTE_FILES, fetch
from experiments.harness.errors import UserError
from experiments.harness.files import check_regular
from recurrent.training.bucketing import Buckets, bucket_sizes

LOWEST = 21  # the MIDI number of the lowest key of a piano
KEYS = 88
NONE = KEYS  # stands where a frame has no further pitch
VOICES = 4  # at most, in a frame
LONGEST = 160  # frames of a song
LARGEST = 2**24  # bytes
SPLITS = ("train", "valid", "test")
SIZES = 4  # of batches


class Songs(NamedTuple):
    """Hold songs of different lengths.

    Attributes:
      pitches: int32 [N, T, VOICES], keys from 0 to 87 in rising order, then `NONE`.
      lengths: int32 [N], frames of each song.
    """

    pitches: np.ndarray
    lengths: np.ndarray


def load_chorales() -> dict[str, Songs]:
    """Return the 229, 76 and 77 songs of the splits train, valid and test.

    They are those of Boulanger-Lewandowski et al. 2012, arXiv:1206.6392, a frame a quarter note.

    Raises:
      UserError: where the file is missing or holds something else.
    """
    (file,) = REMOTE_FILES["jsb"]
    return read_songs(fetch(file))


def read_songs(file: Path) -> dict[str, Songs]:
    """Read the splits of a JSON file: songs, lists of frames, lists of MIDI numbers.

    Raises:
      UserError: where it holds something else, with the song and the frame.
    """
    check_regular(file, most_bytes=LARGEST)
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}.") from error
    for split in SPLITS:
        if not isinstance(found, dict) or not isinstance(found.get(split), list):
            raise UserError(f"{file}: expected lists of songs train, valid and test.")
    splits = {split: songs(found[split], f"{file}: {split}") for split in SPLITS}
    longest = max(each.pitches.shape[1] for each in splits.values())
    return {split: longer(each, longest) for split, each in splits.items()}


def longer(songs: Songs, steps: int) -> Songs:
    """Return songs as arrays of so many steps."""
    missing = steps - songs.pitches.shape[1]
    padded = np.pad(songs.pitches, ((0, 0), (0, missing), (0, 0)), constant_values=NONE)
    return songs._replace(pitches=padded)


def buckets_of(splits: Mapping[str, Songs]) -> Buckets:
    """Choose to which lengths batches of songs are cut, so that the least is padding."""
    limits = bucket_sizes(np.concatenate([songs.lengths for songs in splits.values()]), SIZES)
    return Buckets("lengths", limits, {"pitches": limits})


def songs(listed: list[Any], where: str) -> Songs:
    """Return songs as arrays, each frame sorted.

    Raises:
      UserError: for what is no song of at least two frames.
    """
    frames = [checked(song, f"{where}, song {number}") for number, song in enumerate(listed)]
    if not frames:
        raise UserError(f"{where}: expected at least one song.")
    lengths = np.array([len(song) for song in frames], np.int32)
    pitches = np.full((len(frames), lengths.max(), VOICES), NONE, np.int32)
    for song, row in zip(frames, pitches, strict=True):
        for frame, keys in zip(song, row, strict=False):
            keys[: len(frame)] = np.array(sorted(frame)) - LOWEST if frame else []
    return Songs(pitches, lengths)


def checked(song: Any, where: str) -> list[list[int]]:
    """Return a song.

    Raises:
      UserError: where it is none.
    """
    if not isinstance(song, list) or len(song) < 2:
        raise UserError(f"{where}: expected a list of two frames or more.")
    for number, frame in enumerate(song):
        known = isinstance(frame, list) and all(type(pitch) is int for pitch in frame)
        if not known or len({*frame}) < len(frame) or len(frame) > VOICES:
            raise UserError(
                f"{where}, frame {number}: expected up to {VOICES} different MIDI numbers, "
                f"got {str(frame)[:80]}."
            )
        if frame and not LOWEST <= min(frame) <= max(frame) < LOWEST + KEYS:
            raise UserError(f"{where}, frame {number}: expected keys of a piano, got {frame}.")
    return song
