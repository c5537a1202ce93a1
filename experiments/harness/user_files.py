"""Load Python files of the user's from anywhere, with what they import from beside them."""

import functools
import hashlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.files import check_regular, digest, path_of
from experiments.harness.neighbors import imported_names, neighbors

LARGEST = 2**24  # bytes of a Python file


class _Loaded(NamedTuple):
    module: ModuleType
    contents: list[str]  # hashes of the file and its parts
    read: set[Path]  # other files that it has imported, in whatever way


_loaded: dict[Path, _Loaded] = {}
_folders: list[Path] = []  # of these files, the latest first
_beside: set[str] = set()  # names of modules and packages found in such a folder
_read: dict[Path, str] = {}  # hashes of files as they were when they were run


class _SourceAlone(importlib.machinery.SourceFileLoader):
    """Read a source file and leave no bytecode, which might be that of an earlier edit."""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        _read[Path(self.path)] = hashlib.sha256(source).hexdigest()
        return self.source_to_code(source, self.path)


class _Beside:
    """Find modules beside the user's files, where nothing else has their names."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        top = name.partition(".")[0]
        if top not in _beside and (path is not None or is_found_elsewhere(name)):
            return None
        for folder in _folders if path is None else path:
            finder = importlib.machinery.FileFinder(str(folder), (_SourceAlone, [".py"]))
            spec = finder.find_spec(name)
            if spec is not None:
                _beside.add(top)
                return spec
        return None


def is_found_elsewhere(name: str) -> bool:
    """Return whether a top-level name is Python's or of an installed package."""
    if name in sys.stdlib_module_names:
        return True
    spec = importlib.machinery.PathFinder.find_spec(name)
    return spec is not None and spec.origin is not None


def is_installed(name: str, file: Path) -> bool:
    """Return whether a top-level name means this file to everybody."""
    spec = importlib.machinery.PathFinder.find_spec(name)
    return spec is not None and Path(spec.origin or "").resolve() == file


def load_file(path: str | Path, flag: str = "") -> ModuleType:
    """Import a file, which may import what lies beside it; read it anew where it was edited.

    Args:
      path: the file; ``~`` stands for the home directory.
      flag: what names it, such as ``"--cell: "``, for the sentences of errors.

    Raises:
      UserError: for a file that is not there, is not Python, cannot be imported or exits; for a
        file beside it whose name another module has.
    """
    file = existing_file(path, flag)
    parts = parts_of(file)
    if file in _loaded and _loaded[file].contents == [digest(each) for each in [file, *parts]]:
        return _loaded[file].module
    check_names(file, flag)
    forget(parts, file.parent)
    if file.parent in _folders:
        _folders.remove(file.parent)
    _folders.insert(0, file.parent)
    if _Beside not in sys.meta_path:
        sys.meta_path.insert(0, _Beside)  # pyright: ignore[reportArgumentType]
    before = set(_read)
    module = executed(file, path, flag)
    earlier = _loaded[file].read if file in _loaded else set()
    _loaded[file] = _Loaded(module, [], earlier | set(_read) - before - {file})
    for each in [file, *parts_of(file)]:  # as they were when they were run
        _loaded[file].contents.append(_read.get(each) or digest(each))
    return module


def parts_of(file: Path) -> list[Path]:
    """Return what a file imports from beside it: all that it names, and all that it has read."""
    read = _loaded[file].read if file in _loaded else set()
    here = {path for path in read if path.is_relative_to(file.parent) and path.is_file()}
    return sorted({*neighbors(file)} | here)


def existing_file(path: str | Path, flag: str = "") -> Path:
    """Return the absolute path of a Python file.

    Raises:
      UserError: where there is none.
    """
    file = path_of(path, flag)
    if not file.is_file():
        raise UserError(f"{flag}there is no file {str(path)!r}.")
    check_regular(file, flag, LARGEST)
    if file.suffix != ".py":
        raise UserError(f"{flag}{str(path)!r} is not a Python file; its name must end in .py.")
    return file.resolve()


def executed(file: Path, path: str | Path, flag: str) -> ModuleType:
    """Run a file as a module, in which dataclasses and postponed annotations work."""
    name = file.stem if file.stem.isidentifier() and is_free(file.stem, file) else str(file)
    loader = _SourceAlone(name, str(file))
    spec: Any = importlib.util.spec_from_loader(name, loader)
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException as error:  # whatever the user's own file raises
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        if isinstance(error, (UserError, KeyboardInterrupt)):
            raise
        reason = describe_error(error, path)
        raise UserError(f"{flag}{path} cannot be imported: {reason}.") from error
    return module


def is_free(name: str, file: Path) -> bool:
    """Return whether a file may be imported under its own name."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None) == str(file)
    return not is_found_elsewhere(name)


def check_names(file: Path, flag: str) -> None:
    """Raise `UserError` where an import of a file beside would find another module."""
    for name in {each.partition(".")[0] for each in imported_names(file, file.parent)}:
        own = [file.parent / f"{name}.py", file.parent / name / "__init__.py"]
        beside = [path for path in own if path.is_file() and path != file]
        if beside and is_found_elsewhere(name) and not is_installed(name, beside[0]):
            raise UserError(
                f"{flag}{file.name} imports {name}, which is the name of {beside[0]} and of "
                "another module: rename the file."
            )


def forget(files: Sequence[Path], folder: Path) -> None:
    """Let modules be imported anew: these files if one was edited, and namesakes elsewhere."""
    tops = {path.relative_to(folder).parts[0].removesuffix(".py") for path in files}
    edited = any(path in _read and _read[path] != digest(path) for path in files)
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] in tops & _beside and (edited or not lies_in(module, folder)):
            del sys.modules[name]


def lies_in(module: ModuleType, folder: Path) -> bool:
    """Return whether a module or package is of a folder."""
    paths = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(Path(path).is_relative_to(folder) for path in paths if path)


def load_function(value: str, flag: str) -> Any:
    """Return the function that ``FILE.py:FUNCTION`` stands for.

    Raises:
      UserError: as `load_file` does, and for a function that the file does not define.
    """
    path, _, name = value.rpartition(":")
    module = load_file(path, f"{flag}: ")
    if not callable(getattr(module, name, None)):
        names = [key for key, each in vars(module).items() if isinstance(each, FunctionType)]
        raise UserError(f"{flag}: {path} defines no function {name!r}.{did_you_mean(name, names)}")
    return getattr(module, name)


def describe_error(error: BaseException, path: str | Path) -> str:
    """Describe an error in a line, with the line of the user's files where it came up."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename or path}, line {error.lineno})"
    if isinstance(error, SystemExit):
        said = exit_in_words(error)
    place = place_of(error, path)
    return f"{said} ({place})" if place else said


def exit_in_words(error: SystemExit) -> str:
    """Say in which words a file has asked to exit.

    Example:
      >>> exit_in_words(SystemExit(3))
      'it calls sys.exit(3)'
    """
    return f"it calls sys.exit({'' if error.code is None else repr(error.code)})"


def place_of(error: BaseException, path: str | Path = "") -> str:
    """Return file and line of the user's own code where an error came up, if anywhere.

    Where the library words an error that came up in a part of a model, it is that part's place.

    Args:
      error: with its traceback, and with that of the error that it was raised from.
      path: a file of the user's beside those that were loaded, which is named as it is written.
    """
    named = Path(os.path.expanduser(path)).resolve()
    main = [named, *_loaded] if path else [*_loaded]
    own = {each for file in main if file.is_file() for each in [file, *neighbors(file)]}
    frames = deepest_frames(error)
    ours = [frame for frame in frames if Path(frame.filename) in own]
    if not ours:
        return ""
    where, line = Path(ours[-1].filename), ours[-1].lineno
    return f"{path if path and where == named else where}, line {line}"


def place_of_function(function: Any) -> str:
    """Return file and line where a function is defined; nothing where Python does not know.

    Example:
      >>> place_of_function(place_of_function).rpartition("/")[2].partition(",")[0]
      'user_files.py'
      >>> place_of_function(len)
      ''
    """
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}, line {code.co_firstlineno}" if code else ""


def deepest_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of an error, followed by those of what it was raised from."""
    frames: list[traceback.FrameSummary] = []
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        frames += traceback.extract_tb(cause.__traceback__)
        cause = cause.__cause__
    return frames
