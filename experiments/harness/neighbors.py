"""Find which files a file of the user's imports from beside it, by reading them."""

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

OURS = ("recurrent", "experiments")  # never the name of a file of the user's


def neighbors(file: Path) -> list[Path]:
    """Return the files that a file imports from its own folder, and what those import in turn.

    Imports inside functions count, and nothing is run.
    """
    return closure(file, lambda each: _imported(each, file.parent, OURS))


def closure(file: Path, imported: Callable[[Path], Iterable[Path]]) -> list[Path]:
    """Return the files that a file imports, those that they import, and so on."""
    found: dict[Path, None] = {}
    waiting = [file]
    while waiting:
        for path in imported(waiting.pop()):
            if path not in found and path != file:
                found[path] = None
                waiting.append(path)
    return sorted(found)


def parts_of_experiment(file: Path) -> list[Path]:
    """Return what an experiment of this package imports from its parts, directly or not.

    What all experiments pass through, the library and the harness, is not among them.
    """
    root = file.parent.parent
    own = [file.parent / folder for folder in ("shared", "data", "environments")]

    def imported(each: Path) -> Iterator[Path]:
        return (path for path in _imported(each, root, ()) if path.parent in own)

    return closure(file, imported)


def _imported(file: Path, root: Path, without: Iterable[str]) -> Iterator[Path]:
    for name in imported_names(file, root):
        parts = name.split(".")
        if parts[0] in without:
            continue
        for end in range(1, len(parts) + 1):
            stem = root.joinpath(*parts[:end])
            yield from (p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file())


def imported_names(file: Path, root: Path) -> list[str]:
    """Return the dotted names of everything that a file may import, as seen from a folder.

    Of ``from a import b`` it is ``a.b``, which may be a module or something inside ``a``.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):  # said better by whoever imports it
        return []
    package = file.parent.relative_to(root).parts
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names += [".".join(filter(None, [module, alias.name])) for alias in node.names]
    return names
