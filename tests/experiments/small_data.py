"""Make a folder of data: songs in the form of Bach's chorales, commands, pronunciations."""

import json
from pathlib import Path

import numpy as np


def data_folder(folder: Path) -> Path:
    """Write songs that run up and down a scale, a few commands, and words spelt as they sound."""
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
    lines = [f"IN: {'walk ' * n}and run OUT: {'I_WALK ' * n}I_RUN" for n in range(1, 31)]
    words = ["".join(rng.choice(list("abcdef"), size=4)) for _ in range(200)]
    texts = {
        "scan/tasks_train_simple.txt": lines,
        "scan/tasks_test_simple.txt": lines[:3],
        "cmudict/cmudict.dict": [f"{word} {' '.join(word.upper())}" for word in words],
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("\n".join(text) + "\n")
    return folder
