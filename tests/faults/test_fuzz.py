"""Whatever bytes a file holds and whatever a flag says: a result, or the project's own error."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments import sequential_digits
from experiments.harness.config import options
from tests.faults.doors import DOORS, REFUSALS, read_swept, read_words
from tests.faults.processes import Record

VALUES: list[Any] = [
    *(None, True, 0, -1, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), ""),
    *("x" * 3000, "../../x", "/dev/zero", "~nobody-of-this-name/x", "a\0b", "\ud800", "%s{}"),
    *([], {}, [[]], {"a": {}}, [0.5, "1"], {"": None}, {"step": 1, "evaluation": 1}),
]
OF_JSON = ("fields", "config.json", "result.json", "ended.json", "rows")
TOKENS = (b"\0", b"\xff", b"\n", b"{", b"[" * 30_000, b"9" * 5000, b'"', b"NaN", b"-", b"PK\3\4")


def changed_bytes(draw: random.Random, sound: bytes) -> bytes:
    """Flips, cuts, doubles or adds some bytes."""
    data = bytearray(sound)
    for _ in range(draw.choice((1, 1, 2, 5))):
        place = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0 | 1 if place < len(data):
                data[place] ^= 1 << draw.randrange(8)
            case 2:
                del data[place : place + draw.choice((1, 4, len(data)))]
            case 3:
                data[place:place] = draw.choice(TOKENS)
            case _:
                data[place:place] = data[place : place + 9]
    return bytes(data)


def changed_value(draw: random.Random, value: Any) -> Any:
    """Puts something else into the place of one part of a JSON value, or takes it away."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.1:
        return draw.choice(VALUES)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, found = draw.choice(keys), value.copy()
    if draw.random() < 0.2:
        del found[key]
    else:
        found[key] = changed_value(draw, value[key])
    return found


def changed_file(draw: random.Random, name: str, sound: bytes) -> bytes:
    if name not in OF_JSON or draw.random() < 0.4:
        return changed_bytes(draw, sound)
    lines = sound.splitlines() if name == "rows" else [sound]
    place = draw.randrange(len(lines))
    lines[place] = json.dumps(changed_value(draw, json.loads(lines[place]))).encode()
    return b"\n".join(lines)


def changed_words(draw: random.Random) -> list[str]:
    """Flags of which some are misspelt or have odd values."""
    names = sorted(options(sequential_digits.Config))
    words = []
    for _ in range(draw.randrange(1, 4)):
        name, value = draw.choice(names), str(draw.choice([*VALUES, "0.1", "gru", "3"]))[:300]
        word = f"--{name}={value}"
        if draw.random() < 0.4:
            place = draw.randrange(len(word))
            word = word[:place] + draw.choice("=-:,\0\n ü*0") + word[place + draw.randrange(2) :]
        words.append(word)
    return words


def changed_axes(draw: random.Random) -> list[str]:
    """Axes of a sweep of which some are no such thing."""
    name = draw.choice(sorted(options(sequential_digits.Config)))
    parts = [draw.choice(("", "log:", "linear:", "-", "1e-3", "1e9", "nan", "0")) for _ in "abcd"]
    return [f"{name}{draw.choice('=:,')}{draw.choice(':,').join(parts)}"[: draw.randrange(60)]]


def outcome_of(read: Callable[[Any], Any], given: Any) -> str:
    """How a reader took something: ``read``, ``refused``, or the name of another's exception."""
    try:
        read(given)
    except REFUSALS:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return "read"


def fuzz_files(folder: Path, count: int) -> dict[str, list[tuple[str, Any]]]:
    """Outcome and content of all inputs of each reader of files."""
    found = {}
    for name, door in DOORS.items():
        (folder / name).mkdir()
        file, draw, tried = folder / name / door.name, random.Random(name), []
        file.write_bytes(door.sound)
        assert outcome_of(door.read, file) == ("refused" if name == "npz" else "read"), name
        for _ in range(count):
            content = changed_file(draw, name, door.sound)
            file.write_bytes(content)
            tried.append((outcome_of(door.read, file), content[:500]))
        found[name] = tried
    return found


def fuzz_words(count: int) -> dict[str, list[tuple[str, Any]]]:
    draw = random.Random("flags")
    made = [changed_words(draw) for _ in range(count)], [changed_axes(draw) for _ in range(count)]
    readers = {"flags": read_words, "axes": read_swept}
    return {
        name: [(outcome_of(read, words), words) for words in each]
        for (name, read), each in zip(readers.items(), made, strict=True)
    }


def assert_nothing_foreign(found: dict[str, list[tuple[str, Any]]], record: Record) -> None:
    foreign = {
        name: next(((how, what) for how, what in tried if how not in ("read", "refused")), None)
        for name, tried in found.items()
    }
    assert not any(foreign.values()), {name: each for name, each in foreign.items() if each}
    refused = {name: sum(how == "refused" for how, _ in tried) for name, tried in found.items()}
    assert all(refused.values()), "otherwise nothing was changed that matters"
    record("fuzzed inputs", sum(map(len, found.values())))
    record("of them refused", sum(refused.values()))
    record("foreign exceptions", 0)


@pytest.mark.long
@pytest.mark.fault("S9")
def test_no_reader_raises_what_is_not_the_projects_own(tmp_path: Path, record_property: Record):
    assert_nothing_foreign(fuzz_files(tmp_path, 60) | fuzz_words(60), record_property)


@pytest.mark.slow
@pytest.mark.fault("S9")
def test_no_reader_raises_what_is_not_the_projects_own_by_many_more_inputs(
    tmp_path: Path, record_property: Record
):
    assert_nothing_foreign(fuzz_files(tmp_path, 2500) | fuzz_words(2500), record_property)
