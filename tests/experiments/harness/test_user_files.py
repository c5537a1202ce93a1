"""Files of the user's are loaded from anywhere, with what lies beside them, and as they are now."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.harness.errors import UserError
from experiments.harness.neighbors import neighbors, parts_of_experiment
from experiments.harness.user_files import load_file, load_function, parts_of

ROOT = Path(__file__).resolve().parents[3]


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path = path.with_name(f"{path.name}.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / f"{next(iter(files))}.py"


def test_a_file_imports_what_lies_beside_it(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        mine="import one\nfrom parts.two import TWO\nfrom parts import three\n"
        "SUM = one.ONE + TWO + three.THREE",
        one="ONE = 1",
        parts__two="from . import three\nTWO = 2",
        parts__three="THREE = 3",
    )
    (tmp_path / "parts" / "__init__.py").write_text("")
    assert load_file(file).SUM == 6
    assert not list(tmp_path.rglob("__pycache__"))


def test_an_import_inside_a_function_works_later(tmp_path: Path) -> None:
    file = write(
        tmp_path, later="def get():\n    import own_part\n    return own_part.X", own_part="X=5"
    )
    assert load_file(file).get() == 5


def test_a_file_and_its_neighbors_are_read_anew_when_edited(tmp_path: Path) -> None:
    file = write(tmp_path, main_one="import helper_one\nX = helper_one.X", helper_one="X = 1")
    assert load_file(file).X == 1
    write(tmp_path, helper_one="X = 2")  # the same size, within the same second
    assert load_file(file).X == 2
    write(tmp_path, main_one="import helper_one\nX = -helper_one.X")
    assert load_file(file).X == -2


def test_an_unchanged_file_is_one_module(tmp_path: Path) -> None:
    file = write(tmp_path, same="class A: pass\n")
    assert load_file(file).A is load_file(file).A


def test_two_files_of_a_folder_share_their_neighbor(tmp_path: Path) -> None:
    first = write(tmp_path, first_a="from shared_a import A", shared_a="class A: pass")
    second = write(tmp_path, second_a="from shared_a import A")
    assert load_file(first).A is load_file(second).A


def test_namesakes_of_two_folders_are_told_apart(tmp_path: Path) -> None:
    files = [
        write(tmp_path / name, cell_x="from common_x import X", common_x=f"X = {name!r}")
        for name in ("a", "b")
    ]
    assert [load_file(file).X for file in files] == ["a", "b"]
    assert [load_file(file).X for file in files] == ["a", "b"]


def test_postponed_annotations_and_dataclasses_load(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass Config:\n    size: int = 3\n"
    )
    cls: Any = load_file(write(tmp_path, postponed=text)).Config
    assert dataclasses.asdict(cls()) == {"size": 3}


@pytest.mark.parametrize("name", ["jax", "random", "recurrent", "a-b"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("X = 1")
    before = sys.modules.get(name)
    assert load_file(tmp_path / f"{name}.py").X == 1
    assert sys.modules.get(name) is before


@pytest.mark.parametrize("name", ["statistics", "optax"])
def test_a_neighbor_that_is_hidden_is_refused(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, **{"user": f"import {name}", name: "X = 1"})
    with pytest.raises(UserError, match=f"user.py imports {name}, which is the name of .*rename"):
        load_file(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys\nsys.exit(0)", r"it calls sys.exit\(0\) \(.*bad.py, line 2\)"),
        ("class Own(BaseException): 1\nraise Own('no')", r"Own: no \(.*bad.py, line 2\)"),
        ("def f(:\n", r"SyntaxError: .* \(.*bad.py, line 1\)"),
        ("import nowhere_at_all", "No module named 'nowhere_at_all' .*line 1"),
        ("import broken_part", r"ZeroDivisionError: .*broken_part.py, line 3\)"),
    ],
)
def test_what_a_file_raises_is_said_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = write(tmp_path, bad=text, broken_part="\n\n1 / 0")
    before = sys.modules.get("bad")  # a file of this name elsewhere may have been loaded
    with pytest.raises(UserError, match=words):
        load_file(file)
    assert sys.modules.get("bad") is before


def test_a_function_is_found_in_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, at_home="def f(): return 7")
    assert load_function("~/at_home.py:f", "--cell")() == 7
    with pytest.raises(UserError, match=r"--cell: ~/at_home.py defines no function 'g'"):
        load_function("~/at_home.py:g", "--cell")


def test_neighbors_are_found_without_running_them(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        root="import os\nimport recurrent\ndef f():\n    from p.q import r\n",
        p__q__r="from ..s import t\nfrom . import u\n",
        p__q__u="raise SystemExit",
        p__s="import root",
        unused="",
    )
    found = [str(path.relative_to(tmp_path)) for path in neighbors(file)]
    assert found == ["p/q/r.py", "p/q/u.py", "p/s.py"]


def test_an_experiment_of_ours_consists_of_what_it_shares() -> None:
    found = parts_of_experiment(ROOT / "experiments" / "image_cnn.py")
    assert {"classification.py", "images.py", "idx.py"} <= {path.name for path in found}
    assert {path.parent.name for path in found} == {"shared", "data"}


def test_what_is_imported_by_its_name_at_run_time_is_read_anew_when_edited(tmp_path: Path) -> None:
    text = "import importlib\nX = importlib.import_module('by_' + 'name').X\n"
    file = write(tmp_path, namer=text, by_name="X = 1")
    assert load_file(file).X == 1
    write(tmp_path, by_name="X = 2")
    assert load_file(file).X == 2
    write(tmp_path, namer=text + "# edited\n")
    assert load_file(file).X == 2
    assert [path.name for path in parts_of(file)] == ["by_name.py"]
