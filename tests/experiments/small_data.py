"""Make a folder of data: chorales, commands, pronunciations, series, spoken digits."""

import json
import wave
from pathlib import Path

import numpy as np

from experiments.data import scan


def data_folder(folder: Path) -> Path:
    """Write songs that run up and down a scale, SCAN's commands, and words spelt as they sound."""
    rng = np.random.default_rng(0)
    scale = 48 + np.array([0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 17, 19])

    def song() -> list[list[int]]:
        places = np.abs(rng.integers(0, 6) + np.arange(rng.integers(4, 9))) % 8
        return [sorted({int(scale[place + third]) for third in (0, 2, 4)}) for place in places]

    songs = {
        split: [song() for _ in range(n)] for split, n in (("train", 9), ("valid", 3), ("test", 2))
    }
    file = folder / "jsb" / "jsb-chorales-quarter.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(songs))
    every = scan.all_pairs()
    pairs = [every[k] for k in rng.permutation(len(every))]
    lines = [f"IN: {' '.join(pair.command)} OUT: {' '.join(pair.actions)}" for pair in pairs]
    words = ["".join(rng.choice(list("abcdef"), size=4)) for _ in range(200)]
    texts = {
        "scan/tasks_train_simple.txt": lines[4182:],
        "scan/tasks_test_simple.txt": lines[:4182],
        "cmudict/cmudict.dict": [f"{word} {' '.join(word.upper())}" for word in words],
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n".join(text) + "\n")
    for split, count in (("TRAIN", 12), ("TEST", 6)):
        name = f"time_series/JapaneseVowels_{split}.ts"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(cases(count, rng))
    (folder / "time_series" / "m1_yearly_dataset.tsf").write_text(yearly(8, rng))
    write_recordings(folder / "fsdd" / "recordings")
    return folder


def write_recordings(folder: Path) -> Path:
    """Write digits 0 to 2 of six speakers, who hum each at a pitch of its own."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for place, name in enumerate(("ann", "bob", "cid", "dan", "eve", "fay")):
        for digit in range(3):
            for index in (0, 5, 10, 11):
                time = np.arange(rng.integers(1200, 2600)) / 8000
                tone = np.sin(2 * np.pi * (300 + 500 * digit + 20 * place) * time)
                noise = rng.normal(0, 0.02, len(time))
                with wave.open(str(folder / f"{digit}_{name}_{index}.wav"), "wb") as file:
                    file.setnchannels(1)
                    file.setsampwidth(2)
                    file.setframerate(8000)
                    file.writeframes((8000 * (tone + noise)).astype("<i2").tobytes())
    return folder


def cases(count: int, rng: np.random.Generator) -> str:
    """Write series of two channels and unequal lengths: class 1 rises, class 2 falls."""
    lines = ["# rising and falling", "@problemName Slopes", "@classLabel true 1 2", "@data"]
    for k in range(count):
        slope, length = (1, -1)[k % 2], rng.integers(3, 8)
        channels = [
            ",".join(f"{slope * step + rng.normal(0, 0.1):.3f}" for step in range(length))
            for _ in range(2)
        ]
        lines.append(f"{':'.join(channels)}:{k % 2 + 1}")
    return "\n".join(lines) + "\n"


def yearly(count: int, rng: np.random.Generator) -> str:
    """Write series that grow, each by about as much a year."""
    lines = ["@relation small", "@attribute series_name string", "@data"]
    for k in range(count):
        values = 100 + np.cumsum(rng.normal(k, 1, rng.integers(16, 30)))
        lines.append(f"T{k + 1}:" + ",".join(f"{value:.2f}" for value in values))
    return "\n".join(lines) + "\n"
