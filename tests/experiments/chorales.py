"""Make a file of songs, in the form of Bach's chorales."""

import json
from pathlib import Path

import numpy as np


def data_folder(folder: Path) -> Path:
    """Write a folder of data with songs that run up and down a scale."""
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
    return folder
