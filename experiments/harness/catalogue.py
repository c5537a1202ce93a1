"""Find the experiments: the files in `experiments/` that define a class called Config."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from experiments.harness.errors import UserError, unknown

_FOLDER = Path(__file__).resolve().parent.parent


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
        yield path.stem, ast.parse(path.read_bytes())


def load(name: str) -> ModuleType:
    """Import the module of an experiment, with its ``Config`` and ``program``.

    Raises:
      UserError: for a name that is none.
    """
    known = experiments()
    if name not in known:
        raise UserError(unknown("experiment", name, known))
    return importlib.import_module(f"experiments.{name}")
