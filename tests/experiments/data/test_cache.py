"""Test which folder holds the data."""

from pathlib import Path

import pytest

from experiments.data.cache import data_dir
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
