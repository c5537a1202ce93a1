"""Draw which pitches sound when, and what a model finds unexpected in them."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.style import (
    ACCENT,
    ALARM,
    FAINT,
    INK,
    MUTED,
    panel_title,
    quiet,
    titled_figure,
)

NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FRAMES_A_BAR = 4


def piano_roll(
    message: str, midi: np.ndarray, *, given: int = 0, cost: np.ndarray | None = None
) -> Figure:
    """Return a figure of a song: time to the right, pitch upwards.

    Args:
      message: the title.
      midi: MIDI numbers ``[T, V]``, negative where nothing sounds.
      given: frames at the beginning that a model was given, drawn in gray.
      cost: nats of each frame ``[T]``, drawn below; NaN where there is none.
    """
    figure = titled_figure(3.2 if cost is None else 4.4, message)
    heights = [1] if cost is None else [3, 1]
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False, sharex=True)[
        :, 0
    ]
    draw_notes(panels[0], midi, given)
    if cost is not None:
        panels[1].bar(np.arange(len(cost)) + 0.5, np.nan_to_num(cost), 0.9, color=ALARM)
        panel_title(panels[1], "what each chord cost, in nats")
        quiet(panels[1])
    panels[-1].set_xlabel("quarter notes", color=MUTED)
    panels[-1].set_xticks(np.arange(0, len(midi) + 1, 4 * FRAMES_A_BAR))
    return figure


def draw_notes(axes: Axes, midi: np.ndarray, given: int) -> None:
    """Draw each pitch as a bar, as long as it sounds on."""
    for start, length, pitch in notes_of(midi):
        color = MUTED if start < given else ACCENT
        axes.add_patch(Rectangle((start + 0.04, pitch - 0.4), length - 0.08, 0.8, color=color))
    sounding = midi[midi >= 0]
    low, high = (sounding.min(), sounding.max()) if sounding.size else (48, 72)
    quiet(axes)
    if given:
        axes.axvline(given, color=INK, linewidth=0.8)
        axes.text(given + 0.3, high + 2, "composed from here on", color=INK, fontsize=8)
    axes.set_xlim(0, len(midi))
    axes.set_ylim(low - 2, high + 4)
    octaves = np.arange(12 * (low // 12), high + 1, 12)
    axes.set_yticks(octaves, [f"C{octave // 12 - 1}" for octave in octaves])
    axes.grid(color=FAINT, linewidth=0.5)


def notes_of(midi: np.ndarray) -> list[tuple[int, int, int]]:
    """Return the notes of frames ``[T, V]`` as start, length and pitch.

    A pitch that sounds in several frames on end is one note.

    Example:
      >>> notes_of(np.array([[60, -1], [60, 64], [62, 64]]))
      [(0, 2, 60), (1, 2, 64), (2, 1, 62)]
    """
    notes, open_since = [], {}
    frames = [{int(pitch) for pitch in frame if pitch >= 0} for frame in midi] + [set()]
    for time, frame in enumerate(frames):
        for pitch in sorted(open_since.keys() - frame):
            start = open_since.pop(pitch)
            notes.append((start, time - start, pitch))
        open_since |= dict.fromkeys(frame - open_since.keys(), time)
    return sorted(notes)
