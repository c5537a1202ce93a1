"""Test which folder holds the data, and what is computed once."""

from pathlib import Path

import numpy as np
import pytest

from experiments.data import cache
from experiments.data.cache import computed_once, data_dir
from experiments.harness.errors import UserError


def test_the_environment_variable_decides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RECURRENT_DATA_DIR", "/somewhere/else")
    assert data_dir() == Path("/somewhere/else")
    monkeypatch.setenv("HOME", "/somewhere/ada")
    monkeypatch.setenv("RECURRENT_DATA_DIR", "~/data")
    assert data_dir() == Path("/somewhere/ada/data")


@pytest.mark.parametrize(
    ("platform", "xdg", "expected"),
    [
        ("linux", None, "/somewhere/ada/.cache/recurrent/data"),
        ("linux", "", "/somewhere/ada/.cache/recurrent/data"),
        ("linux", "relative", "/somewhere/ada/.cache/recurrent/data"),
        ("linux", "/fast/cache", "/fast/cache/recurrent/data"),
        ("darwin", None, "/somewhere/ada/Library/Caches/recurrent/data"),
    ],
)
@pytest.mark.parametrize("unset", [True, False])
def test_the_users_cache_otherwise(
    monkeypatch: pytest.MonkeyPatch, platform: str, xdg: str | None, expected: str, unset: bool
):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("HOME", "/somewhere/ada")
    monkeypatch.setenv("RECURRENT_DATA_DIR", "")
    if unset:
        monkeypatch.delenv("RECURRENT_DATA_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    assert data_dir() == Path(expected)


def test_an_unknown_home_directory_is_a_user_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RECURRENT_DATA_DIR", "~nobody-of-this-name/data")
    with pytest.raises(UserError, match="set RECURRENT_DATA_DIR"):
        data_dir()


def test_what_is_computed_once_is_kept_and_computed_anew_where_it_was_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache, "computed_dir", lambda: tmp_path / "computed")
    times = []

    def compute() -> list[np.ndarray]:
        times.append(1)
        return [np.arange(6.0).reshape(2, 3), np.array(7, np.int32)]

    for _ in range(2):
        first, second = computed_once("numbers", "k", compute)
        assert first.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert second.shape == ()
        assert second.dtype == np.int32
    assert len(times) == 1
    (file,) = (tmp_path / "computed").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:70], whole[:200] + b"x" + whole[201:], b"x" * 300):
        file.write_bytes(damaged)
        assert computed_once("numbers", "k", compute)[0].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert file.read_bytes() == whole
    assert len(times) == 6
    computed_once("numbers", "other", compute)
    assert len(times) == 7


def test_what_cannot_be_kept_is_computed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def homeless() -> Path:
        raise RuntimeError

    (tmp_path / "file").write_text("no folder")
    for folder in (homeless, lambda: tmp_path / "file" / "computed"):
        monkeypatch.setattr(cache, "computed_dir", folder)
        assert computed_once("numbers", "k", lambda: [np.ones(2)])[0].tolist() == [1, 1]
