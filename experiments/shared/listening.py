"""Show what a network understands of spoken digits, and let it listen to a file of the user's."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.recordings import RATE
from experiments.data.waves import read_wave, resampled
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Audio, Exhibit, Finished, Table
from experiments.harness.runs import Command, Run
from experiments.shared import spoken, transcribing
from experiments.shared.error_rates import error_rate
from experiments.shared.transcribing import Reading, Transcriber
from experiments.shared.transcripts import Strips, spelt, transcript_exhibits

CLASSES = 10
NOTE = "Spectrograms: 10 ms a column, from 0 Hz at the bottom to 4 kHz in mel; dark is loud."
HEARD = 5  # recordings that can be played
LONGEST = 60.0  # seconds of a user's recording
FRAME = RATE // 50  # samples in which the power of a recording is measured, 20 ms
LOUD, FAINT = 1e-2, 1e-5  # of the power of the loudest frame: surely speech, surely none
OVER_NOISE = 4.0  # times the power of the quietest frames, above which a frame is speech


def exhibits(
    model: Transcriber,
    test: dict[str, np.ndarray],
    speakers: np.ndarray,
    names: Sequence[str],
    finished: Finished,
) -> Iterator[Exhibit]:
    """Draw where digits fire in spectrograms, play what was misheard, and compare the speakers.

    Args:
      model: the network.
      test: the test split.
      speakers: of its strings, places in ``names``.
      names: of the speakers.
      finished: the training.
    """
    chosen = spoken.rows_that_count(test, finished.hparams["held_out"])
    images, widths = features(test, chosen, finished.hparams["snr"])
    own = {name: test[name][chosen] for name in test}
    truths = [row[:n].tolist() for row, n in zip(own["classes"], own["counts"], strict=True)]
    read = partial(transcribing.read, model, finished.kept, images, widths)
    strips = Strips(images, widths, truths, "test recordings", "Greys", upwards=True, note=NOTE)
    yield from transcript_exhibits(strips, read, CLASSES, finished)
    readings = read(1)
    yield by_speaker(readings, truths, [str(names[int(k)]) for k in speakers[chosen]])
    yield from misheard(own, readings, truths)


def features(test: dict[str, np.ndarray], chosen: np.ndarray, snr: Any) -> Any:
    """Return the features of chosen test strings, and the frames of each, a few at a time."""
    hear = jax.jit(spoken.heard)
    parts = []
    for start in range(0, len(chosen), 50):
        rows = np.resize(chosen[start : start + 50], 50)  # one shape, one compilation
        parts.append(hear({name: test[name][rows] for name in test}, snr))
    images, widths = (np.concatenate([*map(np.asarray, each)]) for each in zip(*parts, strict=True))
    widths = widths[: len(chosen)]
    longest = -(-int(widths.max()) // 4) * 4
    return images[: len(chosen), :, :longest], widths


def by_speaker(
    readings: Sequence[Reading], truths: Sequence[Sequence[int]], names: Sequence[str]
) -> Table:
    """Compare the speakers."""
    pairs = [(each.classes, list(true)) for each, true in zip(readings, truths, strict=True)]
    rows = []
    for name in sorted({*names}):
        own = [pair for pair, speaker in zip(pairs, names, strict=True) if speaker == name]
        right = sum(found == true for found, true in own)
        rate = error_rate(own)
        rows.append([name, str(len(own)), f"{right / len(own):.2%}", f"{rate:.2%}"])
    return Table(
        "speakers",
        "Speaker by speaker",
        "Test recordings by who speaks.",
        ["speaker", "recordings", "right", "digits wrong"],
        rows,
    )


def misheard(
    test: dict[str, np.ndarray], readings: Sequence[Reading], truths: Sequence[Sequence[int]]
) -> Iterator[Audio]:
    """Play some recordings that were misunderstood, those first of which the network was surest."""
    wrong = [k for k, each in enumerate(readings) if each.classes != list(truths[k])]
    for k in sorted(wrong, key=lambda k: -readings[k].probability)[:HEARD]:
        one = {name: jnp.asarray(test[name][k : k + 1]) for name in test}
        sound = spoken.sounded(one)
        samples = np.asarray(sound.samples[0, : int(sound.total[0])])
        there, found = spelt(truths[k]), spelt(readings[k].classes)
        yield Audio(
            f"misheard_{there}_{k}",
            f"{there}, understood as {found or 'nothing'}",
            "As it was recorded, without the noise that is added.",
            samples / max(float(np.abs(samples).max()), 1e-6),
            RATE,
        )


@dataclasses.dataclass(frozen=True)
class Listen:
    """Hold the flags of ``./launch.sh predict``."""

    wav: str = option("", "a recording of spoken digits: WAV, or another that libsndfile reads")
    beam: int = option(1, "prefixes kept at each frame; 1 is greedy", minimum=1, maximum=1000)


def listen_command(model_of: Callable[[Any], Transcriber]) -> Command:
    """Return the command, for an experiment whose network is ``model_of(config)``."""

    def listen(run: Run, flags: Listen) -> Iterator[str]:
        if not flags.wav:
            raise UserError("predict: expected --wav=FILE.")
        sound, notes = prepared(flags.wav)
        yield from (f"{note}\n" for note in notes)
        strip = spoken.heard_alone(sound)
        found = transcribing.read_one(model_of(run.config), run.kept, strip, flags.beam)
        yield f"{spelt(found.classes) or 'no digit'}  (probability {found.probability:.4f})"

    return Command(Listen, listen, "understand the digits in a recording")


def prepared(text: str) -> tuple[np.ndarray, list[str]]:
    """Return a user's recording as the network knows them, and what was done to it.

    Raises:
      UserError: where it cannot be read, or nothing is to be heard.
    """
    wave, notes = read_wave(text, "--wav: ", longest=LONGEST)
    samples = resampled(wave._replace(samples=leveled(wave.samples)), RATE)
    if wave.rate != RATE:
        notes.append(f"{text} has {wave.rate} samples a second; resampled to {RATE}.")
    if not samples.any():
        raise UserError(f"--wav: nothing is to be heard in {text}.")
    if len(samples) < spoken.WINDOW:
        raise UserError(
            f"--wav: {text} is too short: {1000 * len(samples) / RATE:.0f} ms; expected at least "
            f"{1000 * spoken.WINDOW // RATE} ms."
        )
    left = samples[speech_in(samples)]
    if len(left) < len(samples):
        notes.append(
            f"The silence around the speech was cut off; {len(left) / RATE:.2f} s are left."
        )
    return np.pad(left, spoken.EDGE + spoken.WINDOW).astype(np.float32), notes


def speech_in(samples: np.ndarray) -> slice:
    """Return where speech is, with as much silence on either side as in training, if there is.

    Consonants such as the ``s`` and the ``x`` of six can be 50 dB below the vowel, so a frame is
    speech where it is louder than the quietest ones, which are taken for noise.

    Args:
      samples: some of them not 0, ``[N]``.

    Example:
      >>> speech_in(np.pad(np.ones(2000), 8000))
      slice(6800, 11280, None)
    """
    frames = np.pad(samples, (0, -len(samples) % FRAME)).reshape(-1, FRAME)
    power = np.square(frames, dtype=np.float64).mean(1)
    noise = OVER_NOISE * np.quantile(power, 0.05)
    speech = np.flatnonzero(power > np.clip(noise, FAINT * power.max(), LOUD * power.max()))
    first, end = FRAME * speech[0], FRAME * (speech[-1] + 1)
    return slice(max(0, int(first) - spoken.MOST_SILENCE), int(end) + spoken.MOST_SILENCE)


def leveled(samples: np.ndarray) -> np.ndarray:
    """Return samples whose mean is 0 and the loudest of which is 1, or all 0, in float32.

    Example:
      >>> leveled(np.array([3e30, 1e30])).tolist()
      [1.0, -1.0]
    """
    highest = np.abs(samples).max()
    wide = samples.astype(np.float64) / (highest or 1)  # its own size first: 1e-40 squared is none
    wide -= wide.mean()
    loudest = np.abs(wide).max()
    return (wide / loudest if loudest > 1e-6 else 0 * wide).astype(np.float32)
