"""Load the Free Spoken Digit Dataset: six people, each of whom says each digit fifty times."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.archive import RECORDING, recordings_in
from experiments.data.cache import data_dir
from experiments.data.download import REMOTE_FILES, fetch
from experiments.data.waves import read_wave
from experiments.harness.errors import UserError

RATE = 8000  # samples a second
LONGEST = 5.0  # seconds
SCALE = 2**15
PEOPLE, EACH = 6, 500  # as distributed
TEST, VALID = 5, 10  # the official test split has the indices below 5; ours for validation below 10


class Recordings(NamedTuple):
    """Hold recordings of single digits.

    Attributes:
      samples: int16 each, of different lengths.
      classes: the digits, ``[N]``.
      speakers: of each, a place in ``names``, ``[N]``.
      indices: how often the speaker had said the digit before, ``[N]``.
      names: of the speakers, in alphabetical order.
    """

    samples: list[np.ndarray]
    classes: np.ndarray
    speakers: np.ndarray
    indices: np.ndarray
    names: tuple[str, ...]

    def some(self, chosen: np.ndarray) -> "Recordings":
        """Return those at the places ``chosen``, or where it is true."""
        places = np.arange(len(self.samples))[chosen]
        return self._replace(
            samples=[self.samples[k] for k in places],
            classes=self.classes[places],
            speakers=self.speakers[places],
            indices=self.indices[places],
        )


def load_recordings() -> Recordings:
    """Return the recordings of the data folder, downloading them if they are missing.

    Raises:
      UserError: where they are neither there nor can be downloaded, or one cannot be read.
    """
    folder = recordings_folder()
    files = sorted(file for file in folder.iterdir() if RECORDING.fullmatch(file.name))
    if not files:
        raise UserError(f"{folder} holds no recording such as 7_jackson_32.wav.")
    found = recordings_of(files)
    if len(found.names) != PEOPLE or len(files) != PEOPLE * EACH:
        print(
            f"{folder} holds {len(files):,} recordings of {', '.join(found.names)}; as distributed "
            f"there are {PEOPLE * EACH:,} of {PEOPLE} people.",
            file=sys.stderr,
        )
    return found


def recordings_folder() -> Path:
    """Return the folder of the WAV files, into which they are unpacked where it is missing."""
    folder = data_dir() / "fsdd" / "recordings"
    if folder.is_dir():
        return folder
    (file,) = REMOTE_FILES["fsdd"]
    archive = fetch(file)
    partial = folder.with_name(f".recordings.{os.getpid()}")
    partial.mkdir(parents=True, exist_ok=True)
    for name, contents in recordings_in(archive):  # names of the form of RECORDING alone
        (partial / name).write_bytes(contents)
    partial.rename(folder)
    return folder


def recordings_of(files: list[Path]) -> Recordings:
    """Read files called ``DIGIT_SPEAKER_INDEX.wav``.

    Raises:
      UserError: for a file that cannot be read, or has another rate.
    """
    parts = [file.stem.split("_") for file in files]
    names = tuple(sorted({speaker for _, speaker, _ in parts}))
    return Recordings(
        samples=[samples_of(file) for file in files],
        classes=np.array([int(digit) for digit, _, _ in parts], np.int32),
        speakers=np.array([names.index(speaker) for _, speaker, _ in parts], np.int32),
        indices=np.array([int(index) for _, _, index in parts], np.int32),
        names=names,
    )


def samples_of(file: Path) -> np.ndarray:
    """Return the samples of a file, int16.

    Raises:
      UserError: where it cannot be read, was cut off, or has another rate.
    """
    wave, notes = read_wave(file, longest=LONGEST)
    if wave.rate != RATE or notes:
        said = notes[0] if notes else f"{file} has {wave.rate} samples a second"
        raise UserError(f"{said} Expected a whole file of one channel and {RATE} a second.")
    return np.clip(np.rint(wave.samples * SCALE), -SCALE, SCALE - 1).astype(np.int16)
