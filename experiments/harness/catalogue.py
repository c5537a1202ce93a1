"""Which experiments there are: the files beside this one that define a class called Config."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

from experiments.harness.errors import UserError, unknown

_FOLDER = Path(__file__).parent.parent


def experiments() -> dict[str, str]:
    """Name to the first line of its docstring. Nothing is imported, so it is quick."""
    trees = {path.stem: ast.parse(path.read_bytes()) for path in sorted(_FOLDER.glob("*.py"))}
    return {
        name: (ast.get_docstring(tree) or "").partition("\n")[0]
        for name, tree in trees.items()
        if any(isinstance(node, ast.ClassDef) and node.name == "Config" for node in tree.body)
    }


def load(name: str) -> ModuleType:
    """The experiment's module, with its ``Config`` and ``program``.

    Raises:
      UserError: for a name that is none.
    """
    known = experiments()
    if name not in known:
        raise UserError(unknown("experiment", name, known))
    return importlib.import_module(f"experiments.{name}")
