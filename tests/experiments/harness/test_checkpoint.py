"""Checkpoints: the same bits come back, of the newest step, into the same model or none."""

import errno
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.harness.checkpoint import FORM, checkpoints, restore, save
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


@pytest.mark.parametrize("form", [None, FORM - 1, FORM + 1])
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
