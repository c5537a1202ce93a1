"""Explain the digits that a network understands: ``./launch.sh explain RUN --wav=FILE``.

What is explained is the log of the odds of the string that was understood, all paths of CTC
together, against all other strings.
"""

import dataclasses
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.recordings import RATE
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Audio
from experiments.harness.runs import Command, Run
from experiments.shared import spoken, transcribing
from experiments.shared.explain_images import check_index
from experiments.shared.explainable import Example, Explainable, Network, leaving_out
from experiments.shared.explaining import ExplainFlags, explain_command
from experiments.shared.listening import prepared
from experiments.shared.transcribing import Transcriber
from experiments.shared.transcripts import spelt
from recurrent.convnet import COLUMNS_A_FRAME

BACKGROUND = 8  # recordings of the training split
SIZE = 32  # the number of frames is filled up to a multiple, so that few shapes are compiled
SUREST = 1e-6  # odds beyond which float32 has no numbers


@dataclasses.dataclass(frozen=True)
class ExplainSound(ExplainFlags):
    """Hold the flags of ``./launch.sh explain``."""

    index: int = option(0, "which string of the test split, of those that count", minimum=0)
    wav: str = option("", "a recording of spoken digits in its place")


def explain_sound(model_of: Callable[[Any], Transcriber]) -> Command:
    """Return the command, for an experiment whose network is ``model_of(config)``."""

    def of(run: Run, flags: ExplainSound) -> Explainable:
        model = model_of(run.config)
        sound, title = chosen_sound(run, flags)
        strip = features(sound)  # [T, F]
        found = transcribing.read_one(model, run.kept, strip.T, 10)
        if not found.classes:
            raise UserError(f"explain: no digit is understood in {title}; choose another.")
        words = spelt(found.classes)
        length = len(strip)
        size = -(-length // SIZE) * SIZE
        background = others(run, size)
        silence = np.full((size, spoken.BANDS), strip.min(), np.float32)
        return Explainable(
            network=sound_network(model_of, run.config, tuple(found.classes)),
            params=run.kept,
            example=Example(
                xs=np.pad(strip, ((0, size - length), (0, 0)))[None],
                lengths=np.array([length]),
                baselines=np.stack([silence, background.mean(0)]),
                background=background,
            ),
            answers=[words, "anything else"],
            baselines=("silence", "mean recording"),
            axes=("frame of 10 ms", "mel band"),
            what="spectrogram",
            title=title,
            more=(Audio("sound", "The recording", title, sound / abs(sound).max(), RATE),),
        )

    return explain_command(ExplainSound, of)


@functools.cache
def sound_network(
    model_of: Callable[[Any], Transcriber], config: Any, classes: tuple[int, ...]
) -> Network:
    """Return the network that hears a string; the same one each time, so that it compiles once."""
    model = model_of(config)
    return Network(
        leaving_out(partial(odds, model, classes)),
        partial(transcribing.init, model, spoken.BANDS),
        ("readout", "cell", "eyes"),
        together=COLUMNS_A_FRAME,
    )


def odds(
    model: Transcriber, classes: tuple[int, ...], params: Any, xs: Array, lengths: Array
) -> Array:
    """Return logits ``[B, 2]`` of a string, and of all others, for spectrograms ``[B, T, F]``."""
    logits, frames = transcribing.frame_logits(model, params, xs.swapaxes(1, 2), lengths)
    labels = jnp.broadcast_to(jnp.array(classes) + 1, (len(xs), len(classes)))
    counts = jnp.full(len(xs), len(classes))
    log_p = -transcribing.ctc_costs(logits, frames, labels, counts)
    log_p = jnp.clip(log_p, -60.0, -SUREST)
    return jnp.stack([log_p - jnp.log(-jnp.expm1(log_p)), jnp.zeros_like(log_p)], -1)


def chosen_sound(run: Run, flags: ExplainSound) -> tuple[np.ndarray, str]:
    """Return samples ``[W]``, and what they are.

    Raises:
      UserError: for an index beyond the test split, or a file that cannot be read.
    """
    if flags.wav:
        sound, notes = prepared(flags.wav)
        said = [note.replace(f"{flags.wav} has", "It has") for note in notes]
        return sound, " ".join([f"{flags.wav}." if said else flags.wav, *said]).rstrip(".")
    test = run.program.data["test"]
    counted = spoken.rows_that_count(test, run.config.held_out)
    check_index(flags.index, len(counted))
    row = counted[flags.index]
    one = {name: jnp.asarray(each[row : row + 1]) for name, each in test.items()}
    sound = spoken.sounded(one)
    said = spelt(one["classes"][0][: int(one["counts"][0])].tolist())
    samples = np.asarray(sound.samples[0, : int(sound.total[0])])
    return samples, f"test recording {flags.index}, {said!r}"


def features(sound: np.ndarray) -> np.ndarray:
    """Return the spectrogram ``[T, F]`` of samples ``[W]``, as the network reads it."""
    return spoken.heard_alone(sound).T


def others(run: Run, size: int) -> np.ndarray:
    """Return spectrograms of recordings trained on, each repeated up to so many frames."""
    train = run.program.data["train"]
    counted = spoken.rows_that_count(train, run.config.held_out)
    rows = counted[np.linspace(0, len(counted) - 1, BACKGROUND).astype(int)]
    strips, frames = spoken.heard(
        {name: jnp.asarray(each[rows]) for name, each in train.items()}, spoken.MOST_SNR
    )
    pairs = zip(np.asarray(strips), np.asarray(frames), strict=True)
    return np.stack([np.resize(strip[:, :n].T, (size, strip.shape[0])) for strip, n in pairs])
