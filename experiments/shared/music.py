"""Turn frames of pitches into what can be heard: a MIDI file, or samples of sound."""

from pathlib import Path

import numpy as np

from experiments.figures.piano_roll import notes_of
from experiments.harness.errors import UserError

RATE = 16_000  # samples a second
TICKS = 480  # of a MIDI file, a quarter note
OVERTONES = (1.0, 0.5, 0.25, 0.12, 0.06)
VELOCITY = 80


def write_midi(file: Path, midi: np.ndarray, beats_a_minute: float) -> None:
    """Write frames ``[T, V]`` of MIDI numbers, a quarter note each, as a MIDI file.

    Negative numbers are silence. A pitch that sounds in several frames on end is one note.

    Raises:
      UserError: where the file cannot be written.
    """
    import mido

    track = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(beats_a_minute))])
    events = []
    for start, length, pitch in notes_of(midi):
        events += [(start + length, "note_off", pitch), (start, "note_on", pitch)]
    now = 0
    for time, kind, pitch in sorted(events):  # at a time, what ends comes before what begins
        track.append(mido.Message(kind, note=pitch, velocity=VELOCITY, time=(time - now) * TICKS))
        now = time
    rest = (len(midi) - now) * TICKS
    track.append(mido.MetaMessage("end_of_track", time=rest))
    try:
        mido.MidiFile(tracks=[track], ticks_per_beat=TICKS).save(file)
    except OSError as error:
        raise UserError(f"--midi: {file} cannot be written: {error.strerror}.") from error


def sound_of(midi: np.ndarray, beats_a_minute: float) -> np.ndarray:
    """Return samples ``[N]`` from -1 to 1 of frames ``[T, V]``, like a small organ."""
    beat = 60 / beats_a_minute
    total = np.zeros(int((len(midi) + 1) * beat * RATE))
    for start, length, pitch in notes_of(midi):
        seconds = np.arange(int(length * beat * RATE)) / RATE
        frequency = 440 * 2 ** ((pitch - 69) / 12)
        phase = 2 * np.pi * frequency * seconds
        tone = sum((a * np.sin((k + 1) * phase) for k, a in enumerate(OVERTONES)), 0 * phase)
        fade = np.minimum(1, np.minimum(seconds / 0.02, (seconds[-1] - seconds) / 0.05))
        first = int(start * beat * RATE)
        total[first : first + len(tone)] += tone * fade
    return total / max(np.abs(total).max(), 1e-9) * 0.9
