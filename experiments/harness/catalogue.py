"""Find experiments: files in `experiments/` that define a class called Config, or one anywhere."""

import ast
import dataclasses
import functools
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import config
from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.files import path_of
from experiments.harness.user_files import load_file

_FOLDER = Path(__file__).resolve().parent.parent
PARTS = (
    "MinibatchConfig (from experiments.shared.tasks import MinibatchConfig), or from RunConfig "
    "(from experiments.harness.config import RunConfig) where nothing is trained on batches"
)
FORMS = (
    f"it needs a function program(config), and a frozen dataclass Config that inherits from {PARTS}"
)


class Experiment(NamedTuple):
    """Hold an experiment.

    Attributes:
      name: that of its file, without the ending.
      word: what stands for it on a command line, its name or the path of its file.
      module: what defines its ``Config`` and ``program``.
      file: a file of the user's own; None for one of this package, or without a file.
    """

    name: str
    word: str
    module: Any
    file: Path | None = None

    @property
    def question(self) -> str:
        """Return the first line of its docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def commands(self) -> dict[str, Any]:
        """Return what can be done with its trained runs, by word."""
        return getattr(self.module, "commands", {})


def experiments() -> dict[str, str]:
    """Return each experiment's name and question, the first line of its docstring.

    Nothing is imported, so it is quick.
    """
    return {
        name: (ast.get_docstring(tree) or "").partition("\n")[0]
        for name, tree in _parsed()
        if any(isinstance(node, ast.ClassDef) and node.name == "Config" for node in tree.body)
    }


def commands() -> dict[str, list[str]]:
    """Return the commands of trained runs, and the experiments that have each.

    They are the keys of the dict called ``commands`` of an experiment. Nothing is imported.
    """
    found: dict[str, list[str]] = {}
    for name, tree in _parsed():
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "commands":
                for key in getattr(node.value, "keys", []):
                    found.setdefault(ast.literal_eval(key), []).append(name)
    return found


def _parsed() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(_FOLDER.glob("*.py")):
        yield path.stem, _tree(path.read_bytes())


@functools.cache  # a command asks several times
def _tree(source: bytes) -> ast.Module:
    return ast.parse(source)


def is_file(word: str) -> bool:
    """Return whether a word of a command line names an experiment by its file."""
    return word.endswith(".py") or ("/" in word and os.path.isfile(os.path.expanduser(word)))


def load(word: str) -> Experiment:
    """Import an experiment by its name, or from a file anywhere.

    Raises:
      UserError: for a name that is none, and for a file that cannot be imported or lacks what an
        experiment needs.
    """
    check_word(word)
    if is_file(word):
        return _checked(load_file(word), word, path_of(word).resolve())
    return Experiment(word, word, importlib.import_module(f"experiments.{word}"))


def check_word(word: str, others: Iterable[str] = ()) -> None:
    """Raise `UserError` for a word that is no experiment; importing nothing, it is quick.

    Args:
      word: a name, or the path of a file.
      others: words that may have been meant.
    """
    known = experiments()
    if not is_file(word) and word not in known:
        guess = did_you_mean(word, [*known, *others])
        of_a_run = f" If it is a command of a run, give its run: ./launch.sh {word} RUN."
        raise UserError(
            f"There is no experiment {word!r}; choose from {', '.join(known)}, or give the path of "
            f"a file of your own, as in ./launch.sh idea.py.{guess or of_a_run}"
        )


def experiment_of(module: Any) -> Experiment:
    """Return the experiment that a module defines; where it has a file, as the file is now.

    Raises:
      UserError: where it lacks what an experiment needs.
    """
    name, file = str(getattr(module, "__name__", "")), getattr(module, "__file__", None)
    if name.startswith("experiments."):
        return load(name.removeprefix("experiments."))
    if file and name != "__main__":
        return load(str(file))
    word = Path(file).stem if file else "notebook"
    return _checked(module, word, Path(file).resolve() if file else None)


def _checked(module: Any, word: str, file: Path | None) -> Experiment:
    for needed in ("Config", "program"):
        if not callable(getattr(module, needed, None)):
            raise UserError(f"{word} defines no {needed}: {FORMS}.")
    check_config_class(module.Config, word)
    return Experiment(file.stem if file else word, word, module, file)


def check_config_class(cls: Any, word: str) -> None:
    """Raise `UserError` where a class cannot be the Config of an experiment."""
    if not isinstance(cls, type) or "__dataclass_fields__" not in vars(cls):
        raise UserError(
            f"{word}: Config is no dataclass; write @dataclasses.dataclass(frozen=True)."
        )
    if not issubclass(cls, config.RunConfig):
        raise UserError(f"{word}: Config must inherit from {PARTS}.")
    try:
        config.options(cls)
    except (TypeError, NameError) as error:
        said = str(error).rstrip(".")
        raise UserError(
            f"{word}: {said}{_place_of_field(cls, getattr(error, 'name', None))}."
        ) from error
    given = {field.name for field in dataclasses.fields(cls)}
    plain = [name for name in vars(cls).get("__annotations__", {}) if name not in given]
    if plain:
        place = _place_of_field(cls, plain[0])
        raise UserError(f"{word}: Config.{plain[0]} is no field of the dataclass{place}.")


def _place_of_field(cls: type, name: str | None) -> str:
    """Return where a class declares a field of this name, or one whose type has this name."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    tree = ast.parse(Path(file).read_bytes()) if file else ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign):
            words = re.findall(r"\w+", f"{ast.unparse(node.target)} {ast.unparse(node.annotation)}")
            if name in words:
                return f" ({file}, line {node.lineno})"
    return ""
