"""The run directory: one owner, one configuration, and files that survive a crash."""

import fcntl
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.harness import rundir
from experiments.harness.errors import UserError

IDENTITY: dict[str, Any] = {"experiment": "toy", "config": {"seed": 0, "rate": 0.1}, "sources": {}}


def claimed(path: Path, identity: dict[str, Any] = IDENTITY, overwrite: bool = False) -> None:
    with rundir.claim(path, identity, overwrite):
        pass


def contents(path: Path) -> dict[str, bytes]:
    """Every file but the lock, whose text is that of its last owner."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def with_config(**changes: Any) -> dict[str, Any]:
    return IDENTITY | {"config": IDENTITY["config"] | changes}


def test_a_new_directory_records_what_was_asked(tmp_path: Path):
    path = tmp_path / "a" / "b"
    with rundir.claim(path, IDENTITY, overwrite=False) as folder:
        assert folder == path
        assert json.loads((path / "config.json").read_text()) == IDENTITY | {"origin": {}}
    claimed(path)
    assert set(contents(path)) == {"config.json"}


def test_a_run_may_begin_in_an_empty_directory(tmp_path: Path):
    claimed(tmp_path)
    assert (tmp_path / "config.json").exists()


@pytest.mark.fault("R12")
def test_another_configuration_is_refused_naming_the_field_and_both_values(tmp_path: Path):
    claimed(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(UserError) as caught:
        claimed(tmp_path, with_config(rate=0.2))
    assert "config.rate was 0.1, now 0.2" in str(caught.value)
    assert "seed" not in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (IDENTITY | {"experiment": "other"}, "experiment was 'toy', now 'other'"),
        (IDENTITY | {"sources": {"a.py": "ff"}}, "a.py has changed since the run"),
        (with_config(width=3), "config.width was None, now 3"),
        (IDENTITY | {"config": {"seed": 0}}, "config.rate was 0.1, now None"),
    ],
)
@pytest.mark.fault("R12")
def test_a_difference_in_any_part_of_the_identity_is_refused(
    tmp_path: Path, identity: dict[str, Any], words: str
):
    claimed(tmp_path)
    with pytest.raises(UserError) as caught:
        claimed(tmp_path, identity)
    assert words in str(caught.value)


def test_overwrite_begins_anew_and_spares_what_links_point_to(tmp_path: Path):
    path, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    claimed(path)
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("kept")
    (path / "link").symlink_to(elsewhere)
    (path / "checkpoints" / "latest").mkdir(parents=True)
    (path / "metrics.jsonl").write_text("{}\n")
    claimed(path, with_config(rate=0.2), overwrite=True)
    assert set(contents(path)) == {"config.json"}
    assert json.loads((path / "config.json").read_text())["config"]["rate"] == 0.2
    assert (elsewhere / "precious").read_text() == "kept"
    assert {entry.name for entry in path.iterdir()} == {"config.json", "lock"}


ENTRIES = ["config.json", "metrics.jsonl", "result.json", "report.html", "events", "checkpoints"]


@pytest.mark.parametrize("make", ["file", "folder", "pipe"])
@pytest.mark.parametrize("name", [*ENTRIES, "lock", "figures/loss.png", "programs/0/ended.json"])
def test_nothing_is_written_through_a_link_or_into_a_pipe(tmp_path: Path, make: str, name: str):
    path, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    claimed(path)
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).unlink(missing_ok=True)
    if make == "pipe":
        os.mkfifo(path / name)
    elif make == "file":
        elsewhere.write_text("precious")
        (path / name).symlink_to(elsewhere)
    else:
        elsewhere.mkdir()
        (path / name).symlink_to(elsewhere)
    before = contents(tmp_path)
    what = "a named pipe" if make == "pipe" else "a symbolic link"
    signal.alarm(20)  # which ends a test that waits for a pipe
    with pytest.raises(UserError, match=f"{name} is {what}; a run writes into"):
        claimed(path)
    signal.alarm(0)
    assert contents(tmp_path) == before
    if name != "lock":
        claimed(path, overwrite=True)
        assert {entry.name for entry in path.iterdir()} == {"config.json", "lock"}
        assert {k: v for k, v in before.items() if "elsewhere" in k}.items() <= contents(
            tmp_path
        ).items()


@pytest.mark.parametrize("read", [rundir.read_json, rundir.rows_of])
def test_a_pipe_is_not_read(tmp_path: Path, read: Callable[[Path], Any]):
    os.mkfifo(tmp_path / "pipe")
    signal.alarm(20)
    with pytest.raises(UserError, match="pipe is a named pipe, not a file"):
        read(tmp_path / "pipe")
    signal.alarm(0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
@pytest.mark.fault("R4")
def test_a_full_disk_is_a_sentence_for_rows_too():
    with pytest.raises(UserError, match="/dev/full cannot be written: No space left on device"):
        rundir.append_rows(Path("/dev/full"), [{"evaluation": 1}])


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["notes.txt", "config.json", "result.json"])
def test_a_directory_of_other_things_is_left_alone(tmp_path: Path, name: str, overwrite: bool):
    (tmp_path / name).write_text('{"model_type": "somebody else\'s"}')
    before = contents(tmp_path)
    with pytest.raises(UserError, match="holds files but no run"):
        claimed(tmp_path, overwrite=overwrite)
    assert contents(tmp_path) == before
    assert not (tmp_path / "lock").exists()


@pytest.mark.fault("R5")
def test_a_file_in_place_of_the_directory_is_refused_and_kept(tmp_path: Path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="is a file"):
        claimed(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        claimed(tmp_path / "file" / "below" / "it")
    assert (tmp_path / "file").read_text() == "text"


def test_a_name_that_is_too_long_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be written"):
        claimed(tmp_path / ("x" * 300))


@pytest.mark.fault("R5")
def test_a_link_to_nothing_is_refused(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be written"):
        claimed(tmp_path / "link")


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="there is no sysfs")
@pytest.mark.fault("R5")
def test_a_place_where_nobody_may_write_is_refused(tmp_path: Path):
    path = Path("/sys/kernel/recurrent")  # not even root may make a directory there
    with pytest.raises(UserError, match="cannot be written"):
        claimed(path)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.fault("R5")
def test_a_read_only_directory_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        claimed(tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        claimed(tmp_path / "below")


@pytest.mark.parametrize("text", ["{", "", "[1]", '"text"', "nul\0", "[" * 10_000, b"\xff\xfe"])
@pytest.mark.fault("S2")
def test_a_damaged_config_is_refused_in_a_sentence(tmp_path: Path, text: str | bytes):
    claimed(tmp_path)
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"config\.json is damaged.*--overwrite"):
        claimed(tmp_path)
    assert contents(tmp_path) == before
    claimed(tmp_path, overwrite=True)
    assert json.loads((tmp_path / "config.json").read_text()) == IDENTITY | {"origin": {}}


@pytest.mark.fault("R13")
def test_another_start_names_the_owner_and_does_not_disturb_it(tmp_path: Path):
    with rundir.claim(tmp_path, IDENTITY, overwrite=False):
        (tmp_path / "metrics.jsonl").write_text("{}\n")
        before = contents(tmp_path), (tmp_path / "lock").read_bytes()
        for overwrite in (False, True):
            with pytest.raises(UserError, match=rf"in use by process {os.getpid()} on "):
                claimed(tmp_path, overwrite=overwrite)
        assert (contents(tmp_path), (tmp_path / "lock").read_bytes()) == before
    claimed(tmp_path)


@pytest.mark.fault("R13")
def test_the_lock_of_a_dead_process_is_recovered(tmp_path: Path):
    claimed(tmp_path)
    (tmp_path / "lock").write_text("process 1 on a host that is long gone, with a long name\n")
    with rundir.claim(tmp_path, IDENTITY, overwrite=False):
        assert (
            tmp_path / "lock"
        ).read_text() == f"process {os.getpid()} on {os.uname().nodename}\n"


def test_a_first_start_that_died_early_may_be_repeated(tmp_path: Path):
    (tmp_path / "lock").write_text("process 1 on host\n")
    claimed(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == IDENTITY | {"origin": {}}


def test_the_directory_is_free_again_after_an_error(tmp_path: Path):
    with pytest.raises(OSError, match="from within"), rundir.claim(tmp_path, IDENTITY, False):
        raise OSError("from within")
    with open(tmp_path / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


ROWS = [{"step": 7 * k, "evaluation": k, "valid_loss": 1 / k} for k in (1, 2, 3)]
LINES = [json.dumps(row) + "\n" for row in ROWS]


@pytest.mark.parametrize(("evaluation", "kept"), [(0, 0), (1, 1), (2, 2), (3, 3), (99, 3)])
def test_rows_after_the_checkpoint_are_cut(tmp_path: Path, evaluation: int, kept: int):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(LINES))
    assert rundir.rows_until(file, evaluation) == ROWS[:kept]
    assert file.read_text() == "".join(LINES[:kept])


def test_rows_of_all_members_of_an_evaluation_are_kept_or_cut_together(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    rows = [{"member": m, "step": 7 * k, "evaluation": k} for k in (1, 2) for m in range(3)]
    rundir.append_rows(file, rows)
    assert rundir.rows_of(file) == rows
    assert rundir.rows_of(file, 1) == rundir.rows_until(file, 1) == rows[:3]
    assert rundir.rows_of(file) == rows[:3]


def test_a_reader_of_rows_leaves_the_file_as_it_is(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(LINES) + '{"step": 28')
    before = file.read_bytes()
    assert rundir.rows_of(file) == ROWS
    assert rundir.rows_of(file, 2) == ROWS[:2]
    assert file.read_bytes() == before


@given(st.integers(0, len("".join(LINES))))
@pytest.mark.fault("R14")
def test_a_torn_line_is_cut_wherever_it_broke(tmp_path_factory: pytest.TempPathFactory, size: int):
    file = tmp_path_factory.mktemp("torn") / "metrics.jsonl"
    text = "".join(LINES)[:size]
    file.write_text(text)
    whole = [row for row, line in zip(ROWS, LINES, strict=True) if line.rstrip() in text]
    assert rundir.rows_until(file, 3) == whole
    more = [{"evaluation": 4, "member": 0}, {"evaluation": 4, "member": 1}]
    rundir.append_rows(file, more)
    assert [json.loads(line) for line in file.read_text().splitlines()] == [*whole, *more]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xfe\n",
        b"\0\0\0\0",
        b"null\n",
        b"{}\n",
        b"[]\n",
        b"3\n",
        b'{"evaluation": "4"}\n',
        b"[" * 99999,
    ],
)
@pytest.mark.fault("R14")
def test_garbage_at_the_end_is_cut(tmp_path: Path, garbage: bytes):
    file = tmp_path / "metrics.jsonl"
    file.write_bytes("".join(LINES).encode() + garbage)
    assert rundir.rows_until(file, 3) == ROWS
    assert file.read_text() == "".join(LINES)


@pytest.mark.fault("S2")
@pytest.mark.parametrize("damaged", ['{"step": garb', "[" * 100_000])
def test_a_damaged_row_between_others_is_refused_and_kept(tmp_path: Path, damaged: str):
    file = tmp_path / "metrics.jsonl"
    file.write_text(f"{LINES[0]}{damaged}\n{LINES[2]}")
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged: line 2 is no row"):
        rundir.rows_until(file, 3)
    assert file.read_bytes() == before


def test_a_run_without_metrics_has_no_rows(tmp_path: Path):
    assert rundir.rows_until(tmp_path / "metrics.jsonl", 100) == []
    assert rundir.rows_of(tmp_path / "elsewhere.jsonl") == []


def test_flat_names_leaves_by_their_path():
    tree = {"a": 1, "b": {"c": 2, "d": {"e": None}}, "f": {}}
    assert rundir.flat(tree) == {"a": 1, "b.c": 2, "b.d.e": None}


def test_json_is_written_whole_or_not_at_all(tmp_path: Path):
    file = tmp_path / "value.json"
    rundir.write_json(file, {"a": 1})
    with pytest.raises(TypeError):
        rundir.write_json(file, {"a": object()})
    assert rundir.read_json(file) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]
