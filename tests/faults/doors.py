"""Every reader of what others may have written, each with a file that is as it should be."""

import dataclasses
import functools
import gzip
import io
import json
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import sequential_digits
from experiments.data.archive import recordings_in
from experiments.data.chorales import read_songs
from experiments.data.forecast import load_csv
from experiments.data.idx import read_idx
from experiments.data.pronunciations import read_entries
from experiments.data.scan import read_pairs
from experiments.data.text import load_text, read_text
from experiments.data.ts_files import read_ts, read_tsf
from experiments.data.waves import read_wave
from experiments.harness import catalogue, flags, manifest, rundir, runs
from experiments.harness.config import fields_from_json, options
from experiments.harness.errors import UserError
from experiments.harness.plan import Plan, fresh_state, plan_of_run, to_json
from experiments.report.side_by_side import read
from experiments.shared.photos import read_photo
from experiments.shared.predict import as_bytes, read_array, read_image
from experiments.sweep import run as sweep
from experiments.sweep.axes import read_axes
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.planning import planned
from tests import toys
from tests.toys import FIT, FitConfig, fit

REFUSALS = (UserError, manifest.Damaged)  # the project's own
EXPERIMENT = "sequential_digits"


class Door(NamedTuple):
    """A reader of one file.

    Attributes:
      name: of the file, in a folder of its own.
      read: ``file -> anything``, or an error that is one of `REFUSALS`.
      sound: what it reads without an error.
    """

    name: str
    read: Callable[[Path], Any]
    sound: bytes


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def saved(write: Callable[[Any], Any]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    return saved(lambda stream: Image.fromarray(pixels).save(stream, "PNG"))


def wav(samples: np.ndarray) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with wave.open(stream, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(samples.tobytes())

    return saved(write)


def archive(name: str, contents: bytes) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode="w:gz") as members:
            member = tarfile.TarInfo(name)
            member.size = len(contents)
            members.addfile(member, io.BytesIO(contents))

    return saved(write)


def photo_of(file: Path) -> Any:
    return read_photo(str(file), "--image: ", height=32, ink_height=21, margin=4)


PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)
IDX = bytes([0, 0, 8, 2, 0, 0, 0, 8, 0, 0, 0, 8]) + PIXELS.tobytes()
SPLITS = ("train", "valid", "test")
SONG = [[60, 64], [], [62]]
COMMANDS = "IN: walk left OUT: I_TURN_LEFT I_WALK\nIN: run OUT: I_RUN\n"
WORDS = "read R EH1 D\nread(2) R IY1 D # a verb\n"
ROWS = [
    {"step": 5 * k, "evaluation": k, "member": k % 2, "train_loss": 1 / k, "valid_loss": None}
    for k in (1, 2, 3)
]
CONFIG = dataclasses.asdict(sequential_digits.Config())
IDENTITY = {"experiment": EXPERIMENT, "config": CONFIG, "sources": {}, "origin": {}}
RESULT = {"select": "loss", "higher_is_better": False, "report": "loss", "valid_loss": 0.5}


def manifest_of_one_file() -> bytes:
    import hashlib

    return f"{hashlib.sha256(b'12345').hexdigest()} 5 weights\n".encode()


def check_manifest(file: Path) -> None:
    (file.parent / "weights").write_bytes(b"12345")
    manifest.check(file.parent)


def beside(others: dict[str, Any], function: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A reader of a folder, of whose files all but one are sound."""

    def reader(file: Path) -> Any:
        for name, value in others.items():
            (file.parent / name).write_bytes(as_json(value))
        return function(file.parent)

    return reader


@functools.cache
def plan_of_two() -> Plan:
    axes = read_axes(["learning_rate=0.3,0.1"], options(FitConfig))
    (found,) = planned(Sweep(toys.experiment(FIT), FitConfig(), axes, Settings(), ""))
    return found


def read_end(file: Path) -> Any:
    """What a sweep that goes on makes of ``ended.json``."""
    known = rundir.read_json(file)
    sweep.check_form(file, known.keys() != set(sweep.Ended._fields))
    return sweep.checked_end(file, sweep.Ended(**known), plan_of_two())


def array_of(file: Path) -> np.ndarray:
    return as_bytes(read_array(str(file), (8, 8)), str(file))


experiment = functools.cache(catalogue.load)


def config_of_run(folder: Path) -> Any:
    return runs.read_config(folder, experiment(EXPERIMENT))


END = {"evaluations_done": 1, "step": 2, "best_step": 2, "status": "finished", "score": 0.5}
ENDED = {
    "outcomes": [{**END, "member": k, "learning_rate": rate} for k, rate in enumerate((0.3, 0.1))],
    "seconds": 1.5,
    "memory": {},
    "data": {"data of train": "0a"},
}
STATE = to_json(fresh_state(plan_of_run(fit(FitConfig()), FitConfig()), {}))


def csv_of(file: Path) -> Any:
    return load_csv(str(file), "a", "when", "b", horizon=1)


DOORS = {
    "idx": Door("a", read_idx, IDX),
    "gz": Door("a.gz", read_idx, gzip.compress(IDX, mtime=0)),
    "text": Door("a.txt", lambda file: load_text("", str(file)), "abc, déf\n".encode() * 9),
    "chorales": Door("a.json", read_songs, as_json({split: [SONG] for split in SPLITS})),
    "scan": Door("a.txt", lambda file: read_pairs(read_text(file), "a"), COMMANDS.encode()),
    "cmudict": Door("a.dict", lambda file: read_entries(read_text(file), True), WORDS.encode()),
    "ts": Door("a.ts", read_ts, b"# two\n@classLabel true a b\n@data\n1,2:3,?:a\n1:-2.5e1:b\n"),
    "tsf": Door("a.tsf", read_tsf, b"@relation r\n@data\nT1:1970-01-01 00-00-00:1,2.5,3\n"),
    "csv": Door("a.csv", csv_of, b"when;a;b\n2024-01-02;1,5;2\n2024-01-01;;NA\n"),
    "npy": Door("a.npy", array_of, saved(lambda stream: np.save(stream, PIXELS))),
    "npz": Door("a.npz", array_of, saved(lambda stream: np.savez(stream, PIXELS))),
    "png": Door("a.png", lambda file: read_image(str(file), (8, 8)), png(PIXELS)),
    "photo": Door("a.png", photo_of, png(np.eye(24, dtype=np.uint8) * 255)),
    "wav": Door("a.wav", lambda file: read_wave(file, longest=60), wav(np.arange(99, dtype="<i2"))),
    "archive": Door(
        "a.tar.gz",
        lambda file: dict(recordings_in(file)),
        archive("d/recordings/0_ann_0.wav", wav(np.arange(9, dtype="<i2"))),
    ),
    "rows": Door("metrics.jsonl", rundir.rows_of, b"\n".join(map(as_json, ROWS)) + b"\n"),
    "fields": Door(
        "fields.json",
        lambda file: fields_from_json("it", sequential_digits.Config, rundir.read_json(file)),
        as_json(CONFIG),
    ),
    "config.json": Door("config.json", beside({}, config_of_run), as_json(IDENTITY)),
    "result.json": Door(
        "result.json",
        beside({"config.json": IDENTITY}, lambda folder: read(folder, "a")),
        as_json(RESULT),
    ),
    "ended.json": Door("ended.json", read_end, as_json(ENDED)),
    "manifest": Door("manifest", check_manifest, manifest_of_one_file()),
}


def read_words(words: list[str]) -> None:
    flags.read_flags(words, sequential_digits.Config)


def read_swept(words: list[str]) -> None:
    read_axes(words, options(sequential_digits.Config))
