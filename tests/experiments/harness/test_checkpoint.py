"""Checkpoints: the same bits come back, of the newest step, into the same model or none."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness import manifest
from experiments.harness.checkpoint import (
    FORM,
    UNSEALED,
    checkpoints,
    finish,
    restore,
    save,
    set_damaged_aside,
    steps_in,
)
from experiments.harness.errors import UserError


class Tree(NamedTuple):
    weights: dict[str, Any]
    key: Any
    step: Any


def arrays(seed: int = 0) -> Tree:
    key = jax.random.key(seed)
    kernel = jax.random.normal(key, (4, 3))
    odd = jnp.array([jnp.nan, -0.0, jnp.inf, 1e-40], jnp.float32)
    weights = {"kernel": kernel, "half": kernel.astype(jnp.bfloat16), "odd": odd}
    return Tree(weights, key, jnp.int32(7 + seed))


def bits(value: Any) -> list[tuple[Any, ...]]:
    """Every leaf's path, dtype, shape and bytes."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        found.append((jax.tree_util.keystr(path), str(leaf.dtype), data.shape, data.tobytes()))
    return found


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(folder: Path, *steps: int, keep: int = 2) -> None:
    with checkpoints(folder, keep) as manager:
        for step in steps:
            save(manager, step, arrays(step), {"seconds": step / 4})


def test_nothing_is_restored_from_an_empty_folder(tmp_path: Path):
    with checkpoints(tmp_path / "new" / "folder") as manager:
        assert restore(manager, arrays()) is None


def test_the_newest_checkpoint_comes_back_bit_for_bit_with_its_notes(tmp_path: Path):
    written(tmp_path, 10, 30)
    with checkpoints(tmp_path) as manager:
        found = restore(manager, arrays(1))
    assert found is not None
    assert bits(found[0]) == bits(arrays(30))
    assert found[1] == {"seconds": 7.5}


def test_a_checkpoint_is_restored_by_shapes_alone(tmp_path: Path):
    written(tmp_path, 5)
    with checkpoints(tmp_path) as manager:
        found = restore(manager, jax.eval_shape(arrays))
    assert found is not None
    assert bits(found[0]) == bits(arrays(5))


def test_a_restored_key_draws_the_same_numbers(tmp_path: Path):
    written(tmp_path, 5)
    with checkpoints(tmp_path) as manager:
        found = restore(manager, arrays())
    assert found is not None
    expected = jax.random.normal(jax.random.key(5), (8,))
    np.testing.assert_array_equal(jax.random.normal(found[0].key, (8,)), expected)


@pytest.mark.parametrize("keep", [1, 2])
def test_only_the_last_checkpoints_are_kept(tmp_path: Path, keep: int):
    written(tmp_path, 1, 2, 3, 4, keep=keep)
    steps = sorted(int(entry.name) for entry in tmp_path.iterdir())
    assert steps == [1, 2, 3, 4][-keep:]


def test_a_save_holds_the_values_from_when_it_began(tmp_path: Path):
    """The training donates its state to the next step while a save is under way."""

    @partial(jax.jit, donate_argnums=0)
    def next_state(values):
        return jax.tree.map(lambda leaf: leaf + 1, values)

    state = {"large": jnp.zeros((512, 512)), "small": jnp.zeros(())}
    with checkpoints(tmp_path, keep=9) as manager:
        for step in range(1, 6):
            state = next_state(state)
            save(manager, step, state, {})
            state = next_state(state)
        for step in range(1, 6):
            manager.wait_until_finished()
            found = manager.restore(step)["state"]
            for leaf in jax.tree.leaves(found):
                np.testing.assert_array_equal(leaf, 2 * step - 1)


def without(name: str) -> Callable[[Tree], Tree]:
    return lambda t: t._replace(weights={k: v for k, v in t.weights.items() if k != name})


def changed(**weights: Any) -> Callable[[Tree], Tree]:
    return lambda t: t._replace(weights=t.weights | weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            changed(kernel=jnp.zeros((4, 5))),
            "weights.kernel is float32[4, 3] there and float32[4, 5] here",
        ),
        (
            changed(half=jnp.zeros((4, 3), jnp.float16)),
            "weights.half is bfloat16[4, 3] there and float16[4, 3] here",
        ),
        (without("odd"), "weights.odd is float32[4] there and absent here"),
        (changed(extra=jnp.zeros(2)), "weights.extra is absent there and float32[2] here"),
        (lambda t: t._replace(step=jnp.zeros(3)), "step is int32[] there and float32[3] here"),
    ],
)
@pytest.mark.fault("R11")
def test_a_checkpoint_of_another_model_is_refused_naming_the_first_difference(
    tmp_path: Path, change: Callable[[Tree], Tree], words: str
):
    written(tmp_path, 8)
    with (
        checkpoints(tmp_path) as manager,
        pytest.raises(UserError, match="is of another model") as caught,
    ):
        restore(manager, change(arrays()))
    assert words in str(caught.value)
    assert str(tmp_path / "8") in str(caught.value)
    with checkpoints(tmp_path) as manager:
        found = restore(manager, arrays())
    assert found is not None
    assert bits(found[0]) == bits(arrays(8))


@pytest.mark.parametrize("form", [None, UNSEALED - 1, FORM + 1])
def test_a_checkpoint_of_another_form_is_refused_in_a_sentence_and_left_alone(
    tmp_path: Path, form: int | None
):
    """The old code wrote no form, and a tree of other names."""
    import orbax.checkpoint as ocp

    notes = {"shapes": {"train.step": "int32[]"}, "train_seconds": 2.5}
    notes |= {} if form is None else {"form": form}
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave({"train": {"step": jnp.int32(7)}}),
        notes=ocp.args.JsonSave(notes),
    )
    with checkpoints(tmp_path / "latest") as manager:
        manager.save(7, args=arguments, force=True)
    before = files(tmp_path)
    with (
        checkpoints(tmp_path / "latest") as manager,
        pytest.raises(UserError, match="was written by another version of this code") as caught,
    ):
        restore(manager, arrays())
    assert str(tmp_path / "latest" / "7") in str(caught.value)
    assert "Finish the run with that version, or begin anew with --overwrite." in str(caught.value)
    assert files(tmp_path) == before


def test_an_old_form_is_refused_even_where_a_newer_checkpoint_is_damaged(tmp_path: Path):
    import orbax.checkpoint as ocp

    old = ocp.args.Composite(
        state=ocp.args.StandardSave({"step": jnp.int32(7)}),
        notes=ocp.args.JsonSave({"shapes": {}}),
    )
    with checkpoints(tmp_path) as manager:
        manager.save(7, args=old, force=True)
        save(manager, 8, arrays(8), {})
    (tmp_path / "8" / "notes" / "metadata").write_bytes(b"")
    with (
        checkpoints(tmp_path) as manager,
        pytest.raises(UserError, match="was written by another version of this code"),
    ):
        restore(manager, arrays())
    assert {"7", "8"} <= {entry.name for entry in tmp_path.iterdir()}, "nothing is set aside"


@pytest.mark.fault("R2")
def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleaned_up(tmp_path: Path):
    written(tmp_path, 8)
    torn = tmp_path / "9.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "8", torn)
    (torn / "state" / "manifest.ocdbt").write_bytes(b"half")
    with checkpoints(tmp_path) as manager:
        found = restore(manager, arrays())
        save(manager, 9, arrays(9), {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["8", "9"]
    assert found is not None
    assert bits(found[0]) == bits(arrays(8))
    with checkpoints(tmp_path) as manager:
        again = restore(manager, arrays())
    assert again is not None
    assert bits(again[0]) == bits(arrays(9))


def test_a_reader_leaves_alone_what_another_process_is_saving(tmp_path: Path):
    written(tmp_path, 8)
    torn = tmp_path / "9.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "8", torn)
    before = files(tmp_path)
    with checkpoints(tmp_path, read_only=True) as manager:
        found = restore(manager, arrays())
    assert found is not None
    assert bits(found[0]) == bits(arrays(8))
    assert files(tmp_path) == before


def truncate_arrays(folder: Path) -> None:
    file = max(folder.rglob("d/*"), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty_arrays(folder: Path) -> None:
    max(folder.rglob("d/*"), key=lambda file: file.stat().st_size).write_bytes(b"")


def delete_arrays(folder: Path) -> None:
    shutil.rmtree(folder / "state")


def truncate_notes(folder: Path) -> None:
    file = folder / "notes" / "metadata"
    file.write_bytes(file.read_bytes()[:20])


def garbage_notes(folder: Path) -> None:
    (folder / "notes" / "metadata").write_bytes(b"\xff\xfe{")


def delete_notes(folder: Path) -> None:
    shutil.rmtree(folder / "notes")


@pytest.mark.parametrize(
    "damage",
    [truncate_arrays, empty_arrays, delete_arrays, truncate_notes, garbage_notes, delete_notes],
)
@pytest.mark.fault("R3")
def test_a_damaged_checkpoint_falls_back_to_the_one_before_with_one_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    trees = {step: {"weights": jnp.arange(1000.0) * step} for step in (3, 7)}
    with checkpoints(tmp_path / "latest") as manager:
        for step, tree in trees.items():
            save(manager, step, tree, {"step": step})
    damage(tmp_path / "latest" / "7")
    with checkpoints(tmp_path / "latest") as manager:
        found = restore(manager, trees[3])
        assert found is not None
        np.testing.assert_array_equal(found[0]["weights"], trees[3]["weights"])
        assert found[1] == {"step": 3}
        save(manager, 7, trees[7], {"step": 7})
    warnings = [line for line in capfd.readouterr().err.splitlines() if "warning:" in line]
    assert len(warnings) == 1
    assert "checkpoint 7 is damaged" in warnings[0]
    assert (tmp_path / "damaged-latest-7").is_dir(), "it may be worth a look"
    with checkpoints(tmp_path / "latest") as manager:
        again = restore(manager, trees[3])
    assert again is not None
    assert again[1] == {"step": 7}


@pytest.mark.fault("R3")
def test_all_checkpoints_damaged_is_an_error_and_deletes_nothing(tmp_path: Path) -> None:
    tree = {"weights": jnp.arange(1000.0)}
    with checkpoints(tmp_path / "latest") as manager:
        save(manager, 3, tree, {})
    empty_arrays(tmp_path / "latest" / "3")
    before = files(tmp_path)
    with (
        checkpoints(tmp_path / "latest") as manager,
        pytest.raises(UserError, match=r"All checkpoints in .* are damaged"),
    ):
        restore(manager, tree)
    assert files(tmp_path) == before


def test_an_error_that_is_not_the_files_fault_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {"weights": jnp.arange(3.0)}
    with checkpoints(tmp_path / "latest") as manager:
        for step in (1, 2):
            save(manager, step, tree, {})

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    with checkpoints(tmp_path / "latest") as manager:
        monkeypatch.setattr(manager, "restore", fail)
        with pytest.raises(OSError, match="too many open files"):
            restore(manager, tree)
        assert sorted(manager.all_steps()) == [1, 2]


# Manifests


def gru(hidden_size: int, seed: int) -> dict[str, np.ndarray]:
    """Arrays that are too large to lie in one file with others."""
    draw = np.random.default_rng(seed)
    shapes = {
        "kernel": (28, 3 * hidden_size),
        "recurrent": (hidden_size, 3 * hidden_size),
        "bias": (3 * hidden_size,),
    }
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(params=[64, 128])
def two(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with the checkpoints 3 and 7 of a GRU, whose seed is the step."""
    folder = tmp_path / "latest"
    with checkpoints(folder) as manager:
        for step in (3, 7):
            save(manager, step, gru(request.param, step), {"step": step})
    return folder


def hidden_size_of(folder: Path) -> int:
    with checkpoints(folder, read_only=True) as manager:
        return len(manager.restore(3)["state"]["recurrent"])


def step_restored(folder: Path, hidden_size: int) -> int:
    """The step that is restored, whose arrays are those that were saved."""
    signal.alarm(60)  # which ends a test that waits for a pipe
    with checkpoints(folder) as manager:
        found = restore(manager, gru(hidden_size, 0))
    signal.alarm(0)
    assert found is not None
    step = found[1]["step"]
    for name, value in gru(hidden_size, step).items():
        np.testing.assert_array_equal(found[0][name], value)
    return step


def files_by_size(folder: Path) -> list[Path]:
    found = [file for file in folder.rglob("*") if file.is_file()]
    return sorted(found, key=lambda file: -file.stat().st_size)


def assert_falls_back(
    folder: Path, hidden_size: int, damage: Callable[[], Any], capfd: Any, *words: str
) -> None:
    """The checkpoint 7 is damaged, which one line says; then it is put back as it was."""
    whole = folder.parent / "whole"
    if not whole.exists():
        shutil.copytree(folder / "7", whole)
    damage()
    capfd.readouterr()
    assert step_restored(folder, hidden_size) == 3
    (line,) = capfd.readouterr().err.splitlines()
    for word in ("warning: checkpoint 7 is damaged", "damaged-latest-7", *words):
        assert word in line
    shutil.copytree(whole, folder / "7", symlinks=True)


def flip(file: Path, place: int, bit: int) -> None:
    with open(file, "r+b") as stream:
        stream.seek(place)
        (value,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([value ^ 1 << bit]))


def assert_finds_flips(
    folder: Path, count: int, capfd: Any, record: Callable[[str, Any], None]
) -> None:
    """In the data of arrays, where Orbax itself finds 3 of 45."""
    hidden_size, draw = hidden_size_of(folder), random.Random(count)
    data = [file for file in files_by_size(folder / "7") if file.stat().st_size > 10_000]
    assert data, "otherwise no array has a file of its own"
    for _ in range(count):
        file = draw.choice(data)
        place, bit = draw.randrange(file.stat().st_size), draw.randrange(8)
        name = str(file.relative_to(folder / "7"))
        damage = partial(flip, file, place, bit)
        assert_falls_back(folder, hidden_size, damage, capfd, f"{name} has other bytes than")
    record("bits flipped in data files", count)
    record("of them restored wrong", 0)


@pytest.mark.fault("R3")
def test_a_flipped_bit_in_an_array_is_found(
    two: Path, capfd: pytest.CaptureFixture[str], record_property: Callable[[str, Any], None]
):
    assert_finds_flips(two, 8, capfd, record_property)


@pytest.mark.slow
@pytest.mark.fault("R3")
def test_any_of_many_flipped_bits_in_arrays_is_found(
    two: Path, capfd: pytest.CaptureFixture[str], record_property: Callable[[str, Any], None]
):
    assert_finds_flips(two, 300, capfd, record_property)


def damages(file: Path) -> Iterator[Callable[[], Any]]:
    size = file.stat().st_size
    yield partial(flip, file, size // 2, 0)
    yield lambda: os.truncate(file, size // 2)
    yield lambda: os.truncate(file, 0)
    yield file.unlink
    yield lambda: file.write_bytes(file.read_bytes() + b" ")


@pytest.mark.parametrize("kind", range(5), ids=["flipped", "cut", "emptied", "missing", "longer"])
@pytest.mark.parametrize("two", [64], indirect=True)
@pytest.mark.fault("R3")
def test_every_file_of_a_checkpoint_counts(
    two: Path,
    capfd: pytest.CaptureFixture[str],
    kind: int,
    record_property: Callable[[str, Any], None],
):
    """Its notes, its metadata and its manifest as well as its arrays."""
    names = [file.relative_to(two / "7") for file in files_by_size(two / "7")]
    assert {"manifest", "_CHECKPOINT_METADATA", "notes/metadata"} <= set(map(str, names))
    for name in names:
        damage = list(damages(two / "7" / name))[kind]
        words = [str(name)] if name.name != manifest.NAME else []
        assert_falls_back(two, 64, damage, capfd, *words)
    record_property("kinds of damage", 1)
    record_property("files damaged", len(names))


def pipe_in(folder: Path) -> None:
    (folder / "notes" / "metadata").unlink()
    os.mkfifo(folder / "notes" / "metadata")


def pipe_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    os.mkfifo(folder)


def link_in(folder: Path) -> None:
    file = folder / "state" / "_METADATA"
    file.rename(folder.parent.parent / "elsewhere")
    file.symlink_to(folder.parent.parent / "elsewhere")


def link_instead(folder: Path) -> None:
    folder.rename(folder.parent.parent / "elsewhere")
    folder.symlink_to(folder.parent.parent / "elsewhere")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (pipe_in, "notes/metadata is a named pipe"),
        (pipe_instead, "it is a named pipe, not a folder"),
        (link_in, "state/_METADATA is a symbolic link"),
        (link_instead, "it is a symbolic link, not a folder"),
        (lambda folder: (folder / "more").write_text("{"), "more has been added"),
    ],
)
@pytest.mark.parametrize("two", [64], indirect=True)
@pytest.mark.fault("R3")
def test_a_checkpoint_that_is_a_link_or_a_pipe_falls_back_and_nothing_else_is_touched(
    two: Path,
    capfd: pytest.CaptureFixture[str],
    damage: Callable[[Path], Any],
    words: str,
    record_property: Callable[[str, Any], None],
):
    damage(two / "7")
    record_property("kinds of damage", 1)
    elsewhere = two.parent / "elsewhere"
    before = (
        files(elsewhere) if elsewhere.is_dir() else elsewhere.exists() and elsewhere.read_bytes()
    )
    assert step_restored(two, 64) == 3
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line
    with checkpoints(two) as manager:  # whose older ones are deleted
        for step in (9, 11, 13):
            save(manager, step, gru(64, step), {"step": step})
    assert step_restored(two, 64) == 13
    after = (
        files(elsewhere) if elsewhere.is_dir() else elsewhere.exists() and elsewhere.read_bytes()
    )
    assert after == before


@pytest.mark.parametrize("two", [64], indirect=True)
def test_an_older_checkpoint_that_is_a_link_is_set_aside_before_it_is_deleted(
    two: Path, capfd: pytest.CaptureFixture[str]
):
    link_instead(two / "3")
    before = files(two.parent / "elsewhere")
    assert step_restored(two, 64) == 7
    assert "warning: checkpoint 3 is damaged" in capfd.readouterr().err
    with checkpoints(two) as manager:
        for step in (9, 11):
            save(manager, step, gru(64, step), {"step": step})
    assert steps_in(two) == [9, 11]
    assert files(two.parent / "elsewhere") == before


@pytest.mark.parametrize("name", ["latest", "latest/9.orbax-checkpoint-tmp"])
def test_nothing_is_saved_through_a_link(tmp_path: Path, name: str):
    (tmp_path / "elsewhere").mkdir()
    if "/" in name:
        (tmp_path / "latest").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(UserError, match=f"{name} is a symbolic link, where only folders"),
        checkpoints(tmp_path / "latest"),
    ):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("two", [64], indirect=True)
def test_all_damaged_is_an_error_that_names_the_file_and_moves_nothing(two: Path):
    for step in (3, 7):
        flip(max((two / str(step)).rglob("d/*"), key=lambda file: file.stat().st_size), 10_001, 3)
    before = files(two)
    with (
        checkpoints(two) as manager,
        pytest.raises(UserError, match=r"All .* damaged \(step 7: state/.* has other bytes than"),
    ):
        restore(manager, gru(64, 0))
    assert files(two) == before


@pytest.mark.parametrize("two", [64], indirect=True)
def test_a_reader_takes_an_older_one_and_moves_nothing(
    two: Path, capfd: pytest.CaptureFixture[str]
):
    flip(two / "7" / "notes" / "metadata", 5, 0)
    before = files(two)
    with checkpoints(two, read_only=True) as manager:
        found = restore(manager, gru(64, 0), leave=True)
    assert found is not None
    assert found[1] == {"step": 3}
    (line,) = capfd.readouterr().err.splitlines()
    assert "checkpoint 7 is damaged (notes/metadata has other bytes" in line
    assert files(two) == before


@pytest.mark.parametrize("two", [64], indirect=True)
def test_what_can_be_saved_again_is_set_aside_where_it_is_damaged(
    two: Path, capfd: pytest.CaptureFixture[str]
):
    flip(two / "7" / "notes" / "metadata", 5, 0)
    with checkpoints(two) as manager:
        set_damaged_aside(manager)
        assert manager.all_steps() == [3]
    assert "checkpoint 7 is damaged (notes/metadata has" in capfd.readouterr().err


def write_unsealed(folder: Path, form: int) -> None:
    """A checkpoint as it was written before there were manifests, but for its form."""
    import orbax.checkpoint as ocp

    shapes = {name: f"float32{list(leaf.shape)}" for name, leaf in gru(64, 5).items()}
    arguments = ocp.args.Composite(
        state=ocp.args.StandardSave(gru(64, 5)),
        notes=ocp.args.JsonSave({"step": 5, "shapes": shapes, "form": form}),
    )
    with ocp.CheckpointManager(folder) as manager:
        manager.save(5, args=arguments)


def test_a_checkpoint_of_the_form_before_needs_no_manifest(tmp_path: Path):
    write_unsealed(tmp_path / "latest", UNSEALED)
    assert step_restored(tmp_path / "latest", 64) == 5


def test_a_checkpoint_of_this_form_needs_its_manifest(tmp_path: Path):
    write_unsealed(tmp_path / "latest", FORM)
    with (
        checkpoints(tmp_path / "latest") as manager,
        pytest.raises(UserError, match="manifest is missing"),
    ):
        restore(manager, gru(64, 0))


# What the file system refuses

AS_NOBODY = """
import os, sys
from pathlib import Path
import numpy as np
import orbax.checkpoint
from experiments.harness.checkpoint import checkpoints, finish, save
from experiments.harness.errors import UserError
folder = Path(sys.argv[1])
try:
    with checkpoints(folder) as manager:
        save(manager, 3, {"w": np.zeros(5)}, {})
        finish(manager)
        folder.chmod(0o500)
        if os.geteuid() == 0:
            os.setuid(65534)
        save(manager, 7, {"w": np.zeros(5)}, {})
        finish(manager)
except UserError as error:
    sys.exit(f"error: {error}")
"""


@pytest.mark.long
@pytest.mark.fault("R6")
def test_a_save_that_cannot_make_its_folder_ends_with_a_sentence():
    with tempfile.TemporaryDirectory() as base:  # which others may enter, other than tmp_path
        Path(base).chmod(0o755)
        folder = Path(base) / "latest"
        folder.mkdir()
        command = [sys.executable, "-c", AS_NOBODY.replace("0o500", "0o555"), str(folder)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert f"A checkpoint in {folder} cannot be written: Permission denied" in line
    assert "The last one there is of step 3; once that is mended, the same command goes on" in line


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with room for 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def save_large(folder: Path) -> None:
    with checkpoints(folder) as manager:
        save(manager, 7, {"w": np.random.default_rng(0).normal(size=500_000)}, {})
        finish(manager)


@pytest.mark.fault("R4")
def test_a_full_disk_is_a_sentence_that_names_it_and_the_checkpoint_that_is_left(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
):
    latest = small_disk / "latest"
    with checkpoints(latest) as manager:
        save(manager, 3, gru(64, 3), {"step": 3})
    with pytest.raises(UserError) as caught:
        save_large(latest)
    said = str(caught.value)
    assert f"A checkpoint in {latest} cannot be written: No space left on device" in said
    assert f"(the file system at {small_disk} has " in said
    assert "The last one there is of step 3" in said
    assert capfd.readouterr() == ("", ""), "Orbax says nothing"
    assert step_restored(latest, 64) == 3
    with checkpoints(latest) as manager:
        save(manager, 7, gru(64, 7), {"step": 7})
    assert sorted(entry.name for entry in latest.iterdir()) == ["3", "7"]
