"""Let a network that predicts chords compose: as MIDI, as sound, and in a report."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.data.chorales import LOWEST, NONE, VOICES, Songs, buckets_of, load_chorales
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.files import path_of
from experiments.harness.program import Audio, Exhibit, Figure, Finished, Table
from experiments.harness.runs import Command, Run
from experiments.shared import chords
from experiments.shared.data_tables import data_table, padding_table
from recurrent.training.task import Metric

GIVEN, COMPOSED = 16, 64  # frames
TEMPO = 90.0  # frames a minute
LOSS = Metric("loss", higher_is_better=False, format="{:.3f} nats a frame")


class Network(NamedTuple):
    """Hold a network from rolls ``[T, B, KEYS]`` to features, and what draws chords from these."""

    model: recurrent.Cell
    head: chords.Head


@dataclasses.dataclass(frozen=True)
class Compose:
    """Hold the flags of ``./launch.sh compose``."""

    midi: str = option("chorale.mid", "the MIDI file to write")
    song: int = option(0, "which song of the test split begins it", minimum=0)
    given: int = option(GIVEN, "quarter notes of that song", minimum=1)
    frames: int = option(COMPOSED, "quarter notes to compose", minimum=1, maximum=10**4)
    temperature: float = option(0.8, "below 1 more likely chords, above 1 less", above=0)
    sample_seed: int = option(0, "decides what is composed", minimum=0, maximum=2**31 - 1)
    tempo: float = option(TEMPO, "quarter notes a minute", minimum=20, maximum=300)


def compose_command(network: Callable[[Any], Network]) -> Command:
    """Return the command that continues a chorale with a trained network.

    Args:
      network: ``config -> Network``.
    """

    def compose(run: Run, flags: Compose) -> Iterator[str]:
        from experiments.shared.music import write_midi

        if not flags.midi.lower().endswith((".mid", ".midi")):
            raise UserError(f"--midi: expected a name that ends in .mid, got {flags.midi}.")
        songs = load_chorales()["test"]
        if flags.song >= len(songs.lengths):
            raise UserError(f"--song: expected at most {len(songs.lengths) - 1}, got {flags.song}.")
        begun = songs.pitches[flags.song, : min(flags.given, songs.lengths[flags.song])]
        midi = continued(
            network(run.config),
            *(run.kept, begun, flags.frames),
            temperature=flags.temperature,
            seed=flags.sample_seed,
        )
        write_midi(path_of(flags.midi, "--midi: "), midi, flags.tempo)
        yield f"{flags.midi}: {len(begun)} quarter notes by Bach, then {flags.frames} of its own"

    return Command(Compose, compose, "continue a chorale as a MIDI file")


def continued(
    network: Network,
    params: Any,
    begun: np.ndarray,
    frames: int,
    *,
    temperature: float,
    seed: int,
) -> np.ndarray:
    """Return MIDI numbers ``[T + frames, V]`` of a song that begins with pitches ``[T, V]``."""
    model, head = network

    @jax.jit
    def compose(params: Any, begun: Array, key: Array) -> Array:
        state, features = recurrent.unroll(model, params["model"], chords.roll(begun))

        def step(carry: Any, key: Array) -> Any:
            state, features = carry
            pitches = head.draw(params["head"], features, key, temperature)
            return model.step(params["model"], state, chords.roll(pitches)), pitches

        return jax.lax.scan(step, (state, features[-1]), jax.random.split(key, frames))[1]

    drawn = compose(params, jnp.asarray(begun), jax.random.key(seed))
    return midi_of(np.concatenate([begun, np.asarray(drawn)]))


def midi_of(pitches: np.ndarray) -> np.ndarray:
    """Return MIDI numbers, -1 where nothing sounds."""
    return np.where(pitches == NONE, -1, pitches + LOWEST)


def exhibits(
    network: Network, nats: Callable[..., Array], splits: dict[str, Songs], finished: Finished
) -> Iterator[Exhibit]:
    """Draw and play a continuation, show where a real chorale surprised it, and count the data.

    Args:
      network: without dropout.
      nats: ``(params, pitches [T, B, V], hparams, key) -> [T - 1, B]``.
      splits: the songs.
      finished: the training.
    """
    from experiments.figures.curves import learning_curves
    from experiments.figures.piano_roll import piano_roll
    from experiments.shared.music import RATE, sound_of

    yield Figure(
        "learning_curves",
        "Learning curves",
        "Nats a frame after each epoch. Training is measured with dropout on.",
        learning_curves(finished.rows, [LOSS], finished.best_step),
    )
    test = splits["test"]
    song = test.pitches[0, : int(test.lengths[0])]
    cost = nats(finished.kept, jnp.asarray(song)[:, None], finished.hparams, None)[:, 0]
    yield Figure(
        "surprise",
        "What surprised it",
        "The first chorale of the test split. The higher a bar, the less its chord was expected.",
        piano_roll(
            "A chorale by Bach, and what each chord cost",
            midi_of(song),
            cost=np.concatenate([[np.nan], np.asarray(cost)]),
        ),
    )
    midi = continued(network, finished.kept, song[:GIVEN], COMPOSED, temperature=0.8, seed=0)
    said = "The same chorale, continued by the network"
    kept = f"{said}. Of the keys that it draws for a frame, the {VOICES} likeliest sound."
    yield Figure("continuation", "What it composes", kept, piano_roll(said, midi, given=GIVEN))
    yield Audio("continuation_played", "Listen", said, sound_of(midi, TEMPO), RATE)
    yield counted(splits)
    yield padding_table(splits["train"]._asdict(), buckets_of(splits))


def counted(splits: dict[str, Songs]) -> Table:
    """List how many songs, frames and pitches each split has."""
    return data_table(
        "All songs of the file are in one of the splits, as it has them. A frame is a quarter "
        "note; the first one of each song is only read.",
        ("songs", "frames", "sounding pitches"),
        {
            name: (len(own.lengths), int(own.lengths.sum()), int((own.pitches != NONE).sum()))
            for name, own in splits.items()
        },
    )
