"""Read what a run leaves in its directory, for the tests of whole trainings."""

import json
import struct
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


def events_of(folder: Path) -> dict[tuple[str, int], float]:
    """Return values by tag and step, as TensorBoard shows them: a new start purges later steps."""
    from tensorboardX.proto import event_pb2

    proto: Any = event_pb2  # generated, so without types
    found: dict[tuple[str, int], float] = {}
    for file in sorted((folder / "events").iterdir()):
        assert "tfevents" in file.name, "TensorBoard looks for this word"
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack_from("<Q", data)
            event = proto.Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]
            if event.session_log.status == proto.SessionLog.START:
                found = {key: value for key, value in found.items() if key[1] < event.step}
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def assert_events(folder: Path) -> None:
    """Assert that TensorBoard shows every number of ``metrics.jsonl``, and no other."""
    wanted = {
        (name.replace("_", "/", 1), row["step"]): value
        for row in rows_of(folder)
        for name, value in row.items()
        if name not in ("step", "evaluation")
    }
    assert events_of(folder) == wanted


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Return times and bytes of all files but the lock, whose text names its last owner."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "lock"]
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
