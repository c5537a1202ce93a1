"""Read what a run leaves in its directory, for the tests of whole trainings."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.harness.checkpoint import checkpoints


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def best_weights(folder: Path) -> Any:
    """Return the arrays in ``checkpoints/best``, which is that of the result's best step."""
    with checkpoints(folder / "checkpoints" / "best", keep=1, read_only=True) as manager:
        assert manager.all_steps() == [read(folder, "result.json")["best_step"]]
        return manager.restore(manager.latest_step())["state"]["kept"]


def events_in(folder: Path) -> Iterator[Any]:
    """Read the events of a run, process by process."""
    from tensorboardX.proto import event_pb2

    proto: Any = event_pb2  # generated, so without types
    for file in sorted((folder / "events").iterdir()):
        assert "tfevents" in file.name, "TensorBoard looks for this word"
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack_from("<Q", data)
            yield proto.Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]


def events_of(folder: Path) -> dict[tuple[str, int], float]:
    """Return values by tag and step, as TensorBoard shows them: a new start purges later steps."""
    found: dict[tuple[str, int], float] = {}
    for event in events_in(folder):
        if event.session_log.status == event.session_log.START:
            found = {key: value for key, value in found.items() if key[1] < event.step}
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found[value.tag, event.step] = value.simple_value
    return found


def assert_events(folder: Path, outcome: dict[str, Any] | None = None) -> None:
    """Assert that TensorBoard shows each number of ``metrics.jsonl`` and of the end, and no other.

    Args:
      folder: of the run.
      outcome: the numbers of the end; by default those of ``result.json``.
    """
    wanted = {
        (name.replace("_", "/", 1), row["step"]): value
        for row in rows_of(folder)
        for name, value in row.items()
        if name not in ("step", "evaluation")
    }
    end = read(folder, "result.json") if outcome is None else outcome
    for split, name in ("valid", "best"), ("test", "test"):
        wanted |= {
            (f"{name}/{key.removeprefix(split + '_')}", end["best_step"]): value
            for key, value in end.items()
            if key.startswith(f"{split}_")
        }
    assert events_of(folder) == wanted


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Return times and bytes of all files but the lock, whose text names its last owner."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "lock"]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
