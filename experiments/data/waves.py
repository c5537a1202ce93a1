"""Read recordings of any rate, number of channels and format that libsndfile knows."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.errors import UserError
from experiments.harness.files import check_regular, path_of

LARGEST_FILE = 2**28  # bytes
LOWEST_RATE, HIGHEST_RATE = 1000, 1_000_000
MOST_CHANNELS = 64
CANCELED = 1e-3  # of the largest sample of the channels, below which their mean is only rounding
BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
DITHER = 2.5  # steps of whole numbers, within which samples are only rounded


class Wave(NamedTuple):
    """Hold a recording: float32 samples ``[N]`` about from -1 to 1, and samples a second."""

    samples: np.ndarray
    rate: int


def read_wave(text: str | Path, flag: str = "", *, longest: float) -> tuple[Wave, list[str]]:
    """Read a recording, its channels averaged; return it with what was done to it.

    Whole numbers that differ by no more than rounding are read as zeros.

    Args:
      text: the path of a WAV file, or another that libsndfile reads.
      flag: what names it, such as ``"--wav: "``.
      longest: seconds.

    Raises:
      UserError: for what cannot be read, has no sample, is too long, or holds NaN.
    """
    import soundfile

    file, notes = path_of(text, flag), []
    check_regular(file, flag, LARGEST_FILE)
    if not file.exists():
        raise UserError(f"{flag}{text} is not there.")
    try:
        chunk = data_chunk(file)
        with soundfile.SoundFile(finished(file, chunk, text, notes)) as sound:
            check_header(sound, text, flag, longest)
            said = sound.frames
            samples = sound.read(said, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).rpartition(": ")[2].split()) or type(error).__name__
        raise UserError(f"{flag}{text} cannot be read as a recording: {reason}") from error
    notes += shortened(file, chunk, sound, len(samples), text)
    if not len(samples):
        raise UserError(f"{flag}{text} holds no sample.")
    if not np.isfinite(samples).all():
        raise UserError(f"{flag}{text} holds samples that are no numbers.")
    if np.ptp(samples, axis=0).max() < DITHER * 2.0 ** (1 - BITS.get(sound.subtype, np.inf)):
        samples = np.zeros_like(samples)
    return Wave(one_channel(samples, text, notes), sound.samplerate), notes


def one_channel(samples: np.ndarray, text: str | Path, notes: list[str]) -> np.ndarray:
    """Return the mean of channels ``[N, C]``, or the first where they cancel, and note which."""
    count = samples.shape[1]
    if count == 1:
        return samples[:, 0]
    mean = samples.mean(axis=1)
    canceled = np.ptp(mean) < CANCELED * np.ptp(samples, axis=0).max()
    which = "they cancel each other, so the first is read" if canceled else "their mean is read"
    notes.append(f"{text} has {count} channels; {which}.")
    return samples[:, 0] if canceled else mean


def check_header(sound: Any, text: str | Path, flag: str, longest: float) -> None:
    """Raise `UserError` for a header that cannot be that of a recording, before it is read."""
    rate, channels = sound.samplerate, sound.channels
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or not 1 <= channels <= MOST_CHANNELS:
        raise UserError(
            f"{flag}{text} says that it has {rate} samples a second in each of {channels} "
            f"channels; expected {LOWEST_RATE} to {HIGHEST_RATE}, in 1 to {MOST_CHANNELS}."
        )
    if sound.frames > longest * rate:
        raise UserError(
            f"{flag}{text} is {sound.frames / rate:.1f} s long; expected at most {longest:g} s: "
            "cut it."
        )


def finished(file: Path, chunk: tuple[int, int], text: str | Path, notes: list[str]) -> Any:
    """Return a file, or the contents of one whose recorder was killed before it wrote their size.

    Such a WAV file says that it has no samples, and that it ends where they begin.
    """
    said, start = chunk
    held = file.stat().st_size - start
    if not start or said or not held or riff_size(file) + 8 == start + held:
        return file
    notes.append(f"{text} says that it has no samples; the {held} bytes that follow are read.")
    contents = bytearray(file.read_bytes())
    contents[4:8] = (len(contents) - 8).to_bytes(4, "little")
    contents[start - 4 : start] = held.to_bytes(4, "little")
    return io.BytesIO(contents)


def riff_size(file: Path) -> int:
    """Return how many bytes a WAV file says that it has after its first eight."""
    with open(file, "rb") as stream:
        return int.from_bytes(stream.read(8)[4:], "little")


def shortened(
    file: Path, chunk: tuple[int, int], sound: Any, found: int, text: str | Path
) -> list[str]:
    """Return a note where a WAV file is shorter than its header says."""
    said, start = chunk
    held = file.stat().st_size - start
    if start == 0 or said <= held or said == 2**32 - 1:
        return []
    return [
        f"{text} is cut off: its header says {said} bytes of samples, {held} are "
        f"there; the {found / sound.samplerate:.2f} s that are left are read."
    ]


def data_chunk(file: Path) -> tuple[int, int]:
    """Return how many bytes of samples a WAV file says it has, and where they begin; 0, 0 if none.

    Its chunks are a name of four bytes, a size, and as many bytes, filled up to an even number.
    """
    with open(file, "rb") as stream:
        if stream.read(12)[:4] != b"RIFF":
            return 0, 0
        while len(head := stream.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                return size, stream.tell()
            stream.seek(size + size % 2, 1)
    return 0, 0


def resampled(wave: Wave, rate: int) -> np.ndarray:
    """Return the samples of a recording at another rate, through a low-pass filter."""
    from scipy.signal import resample_poly

    if wave.rate == rate:
        return wave.samples
    shared = int(np.gcd(wave.rate, rate))
    return resample_poly(wave.samples, rate // shared, wave.rate // shared).astype(np.float32)
