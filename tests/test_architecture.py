"""Check which module may import which, which calls are forbidden, and what no file may contain."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLAX_AT_THE_TOP = {
    "recurrent.convnet",
    "recurrent.image_gan",
    "experiments.bench.with_linen",
    "experiments.bench.with_nnx",
}
FLAX_INSIDE_FUNCTIONS = {"recurrent.convert"}

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
UNSAFE_CALLS = {"eval", "exec", "yaml.load", "torch.load", "os.system"}
UNSAFE_METHODS = {"extractall"}
UNSAFE_UNLESS_FALSE = {"allow_pickle", "shell"}

HARNESS = ("experiments/harness", "experiments/sweep", "experiments/report")

# Written so that this file does not match itself.
OUT_OF_PLACE = {
    "a path of one machine": r"(?<![\w.$~}-])/(work|tmp|root|home/\w+|Users/\w+)/",
    "the address of a package index": r"index[-]url|find[-]links|https?://\S*/simple\b",
    "a folder outside the project": r"(?<!\bexperiments/)shared/(?!data\b)[A-Za-z]",
    "a ticket's number": r"(?i)\bissues? #?\d{1,2}\b",
}


class Import(NamedTuple):
    """Hold an imported module, and whether importing the file is enough to import it."""

    module: str
    at_the_top: bool


def imports(source: str, module: str, is_package: bool = False) -> list[Import]:
    """Return all imports of a module; `from a import b` counts as `a` and as `a.b`."""
    tree = ast.parse(source)
    lazy = {node for function in functions(tree) for node in ast.walk(function)}
    return [
        Import(name, node not in lazy)
        for node in ast.walk(tree)
        for name in imported_names(
            node, module.split(".") if is_package else module.split(".")[:-1]
        )
    ]


def functions(tree: ast.AST) -> Iterator[ast.AST]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    return (node for node in ast.walk(tree) if isinstance(node, kinds))


def imported_names(node: ast.AST, package: list[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = package[: len(package) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def is_experiment(source: str) -> bool:
    tree = ast.parse(source)
    return any(isinstance(node, ast.ClassDef) and node.name == "Config" for node in tree.body)


def cross_imports(experiments: dict[str, str]) -> list[str]:
    """Return imports of one experiment by another, from sources by module name."""
    return [
        f"{module} imports {other}"
        for module, source in experiments.items()
        for other in experiments
        if other != module
        and any(is_within(found.module, other) for found in imports(source, module))
    ]


def flax_imports(module: str, source: str) -> list[str]:
    if module in FLAX_AT_THE_TOP:
        return []
    return [
        f"{module} imports {found.module}"
        for found in imports(source, module)
        if is_within(found.module, "flax")
        and (found.at_the_top or module not in FLAX_INSIDE_FUNCTIONS)
    ]


def unsafe(source: str) -> list[str]:
    """Return calls and imports that could run code or write anywhere, given a hostile file."""
    tree = ast.parse(source)
    modules = {found.module.split(".")[0] for found in imports(source, "module")}
    calls = [call for node in ast.walk(tree) if isinstance(node, ast.Call) for call in risks(node)]
    return sorted(modules & UNSAFE_MODULES) + calls


def risks(call: ast.Call) -> list[str]:
    name = ast.unparse(call.func)
    keywords = [
        f"{keyword.arg}={ast.unparse(keyword.value)}"
        for keyword in call.keywords
        if keyword.arg in UNSAFE_UNLESS_FALSE and ast.unparse(keyword.value) != "False"
    ]
    is_unsafe = name in UNSAFE_CALLS or name.rpartition(".")[2] in UNSAFE_METHODS
    return ([name] if is_unsafe else []) + keywords


def imports_of_tests(tests: dict[str, str]) -> list[str]:
    """Return imports of a test file by any other file of the tests."""
    files = [module for module in tests if module.rpartition(".")[2].startswith("test_")]
    found = {
        module: {each.module for each in imports(source, module)}
        for module, source in tests.items()
    }
    return [
        f"{module} imports {file}"
        for module in tests
        for file in files
        if file != module and any(is_within(name, file) for name in found[module])
    ]


def shadowed_modules(package: str, source: str, siblings: set[str]) -> list[str]:
    """Return the names that a package binds to something other than its module of that name."""
    bound = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            base = imported_names(node, package.split("."))[0]
            bound |= {each.asname or each.name: f"{base}.{each.name}" for each in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound[node.name] = f"a definition of {node.name}"
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            bound |= {name: f"a value of {name}" for name in names}
    return [
        f"{package}.{name} is {found}, not the module"
        for name, found in bound.items()
        if name in siblings and found != f"{package}.{name}"
    ]


def private_imports(module: str, source: str, modules: set[str]) -> list[str]:
    """Return imports of a name with an underscore from a file without one."""
    return [
        f"{module} imports {found.module}"
        for found in imports(source, module, is_package(module))
        if is_private(found.module) and found.module not in modules
        for file in [found.module.rpartition(".")[0]]
        if file in modules and not is_private(file)
    ]


def is_private(module: str) -> bool:
    name = module.rpartition(".")[2]
    return name.startswith("_") and not name.startswith("__")


def lines_with_loss(text: str) -> list[str]:
    """Return the lines with the word "loss"; `loss_scale` and `losses` are other words."""
    return [line.strip() for line in text.splitlines() if re.search(r"(?i)\bloss\b", line)]


def out_of_place(text: str) -> list[str]:
    return [
        f"line {number}: {what}: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for what, pattern in OUT_OF_PLACE.items()
        if re.search(pattern, line)
    ]


def sources(package: str) -> dict[str, str]:
    """Return the sources of a package of this repository by module name."""
    files = sorted((ROOT / package).rglob("*.py"))
    return {module_name(path): path.read_text(encoding="utf-8") for path in files}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_package(module: str) -> bool:
    return (ROOT / module.replace(".", "/") / "__init__.py").exists()


LIBRARY = sources("recurrent")
EDGE = sources("experiments")
TESTS = sources("tests")
SHARED = [path for folder in HARNESS for path in (ROOT / folder).rglob("*")]


@pytest.mark.parametrize("module", LIBRARY)
def test_the_library_does_not_import_the_experiments(module: str) -> None:
    found = imports(LIBRARY[module], module, is_package(module))
    assert not [name for name, _ in found if is_within(name, "experiments")]


def test_an_experiment_imports_no_other_experiment() -> None:
    experiments = {module: source for module, source in EDGE.items() if is_experiment(source)}
    assert not cross_imports(experiments)


def test_the_cell_module_imports_only_errors_from_the_library_and_is_imported() -> None:
    found = [name for name, _ in imports(LIBRARY["recurrent.cell"], "recurrent.cell")]
    ours = {name for name in found if is_within(name, "recurrent")}
    assert all(is_within(name, "recurrent.errors") for name in ours)
    others = [imports(source, module) for module, source in LIBRARY.items()]
    assert any(name == "recurrent.cell" for found in others for name, _ in found)


@pytest.mark.parametrize("module", [*LIBRARY, *EDGE])
def test_flax_is_imported_only_where_allowed(module: str) -> None:
    assert not flax_imports(module, {**LIBRARY, **EDGE}[module])


def test_no_test_file_is_imported_by_another_file() -> None:
    assert not imports_of_tests(TESTS)


@pytest.mark.parametrize("package", [module for module in LIBRARY if is_package(module)])
def test_no_export_of_a_package_has_the_name_of_another_module_in_it(package: str) -> None:
    folder = ROOT / package.replace(".", "/")
    siblings = {path.stem for path in folder.glob("*.py")}
    siblings |= {path.parent.name for path in folder.glob("*/__init__.py")}
    assert not shadowed_modules(package, LIBRARY[package], siblings)


@pytest.mark.parametrize("module", [*LIBRARY, *EDGE])
def test_a_name_with_an_underscore_is_used_in_one_file_only(module: str) -> None:
    modules = {**LIBRARY, **EDGE}
    assert not private_imports(module, modules[module], set(modules))


@pytest.mark.parametrize(
    "path",
    [path for path in SHARED if path.suffix in (".py", ".j2")],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_shared_files_of_the_harness_do_not_mention_a_loss(path: Path) -> None:
    assert not lines_with_loss(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("module", [*LIBRARY, *EDGE])
@pytest.mark.fault("S8")
def test_no_module_makes_unsafe_calls(module: str) -> None:
    assert not unsafe({**LIBRARY, **EDGE}[module])


def test_tracked_files_name_nothing_outside_the_project() -> None:
    complaints = [
        f"{path} {complaint}"
        for path in tracked_files()
        for complaint in out_of_place(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert not complaints


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout, so which files belong to the project is not known")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


# The checks themselves, on samples that break the rules.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import a.b as c", ["a.b"]),
        ("from a import b", ["a", "a.b"]),
        ("from . import b", ["p", "p.b"]),
        ("from .a import b", ["p.a", "p.a.b"]),
        ("from ..a import b", ["a", "a.b"]),
        ("if x:\n    import a", ["a"]),
    ],
)
def test_imports_are_found(line: str, expected: list[str]) -> None:
    module = "q.p.m" if ".." in line else "p.m"
    found = [name.removeprefix("q.") for name, _ in imports(line, module)]
    assert found == expected


def test_relative_imports_of_a_package_start_at_the_package() -> None:
    assert imports("from .a import b", "p", is_package=True)[0].module == "p.a"


def test_imports_inside_functions_are_lazy() -> None:
    source = "import a\ndef f():\n  import b\nclass C:\n  import c\n  def g(self):\n    import d"
    found = dict(imports(source, "m"))
    assert found == {"a": True, "b": False, "c": True, "d": False}


@pytest.mark.parametrize(
    "line",
    [
        "from experiments import two",
        "from experiments.two import Config",
        "import experiments.two as t",
        "from . import two",
        "from .two import Config",
        "def f():\n    from experiments import two",
    ],
)
def test_cross_imports_are_caught(line: str) -> None:
    config = "class Config: ...\n"
    samples = {"experiments.one": config + line, "experiments.two": config}
    assert is_experiment(samples["experiments.one"])
    assert cross_imports(samples) == ["experiments.one imports experiments.two"]


def test_a_shared_module_or_a_similar_name_is_no_cross_import() -> None:
    one = "from experiments import harness, two_more\nfrom experiments.data import images"
    assert not cross_imports({"experiments.one": one, "experiments.two": ""})
    assert not is_experiment("def f():\n    class Config: ...")


def test_flax_is_caught_where_it_is_not_allowed() -> None:
    line = "from flax import linen as nn"
    assert flax_imports("recurrent.cells", line)
    assert flax_imports("recurrent.cells", f"def f():\n    {line}")
    assert flax_imports("recurrent.convert", line)
    assert not flax_imports("recurrent.convert", f"def f():\n    {line}")
    assert not flax_imports("recurrent.convnet", line)
    assert not flax_imports("recurrent.cells", "import flaxen")


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "def f():\n    import cloudpickle",
        "eval('1')",
        "exec(code)",
        "yaml.load(text)",
        "torch.load(path)",
        "tarfile.open(path).extractall()",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
    ],
)
@pytest.mark.fault("S8")
def test_unsafe_lines_are_caught(line: str) -> None:
    assert unsafe(line)


@pytest.mark.parametrize(
    "line",
    ["np.load(path, allow_pickle=False)", "jax.eval_shape(f)", "model.eval()", "yaml.safe_load(s)"],
)
def test_safe_lines_are_no_unsafe_calls(line: str) -> None:
    assert not unsafe(line)


@pytest.mark.parametrize(
    "line",
    [
        "see |work|main",
        "'|tmp|x'",
        "cd |root|project",
        "|home|ada|thesis",
        "|Users|ada|thesis",
        "pip install --index~url x",
        "--find~links=here",
        "https://example.org|pypi|simple",
        "..|shared|tools|thing",
        "as issue~2 says".replace("~", " "),
        "Issue #|14".replace("|", ""),
    ],
)
def test_lines_out_of_place_are_caught(line: str) -> None:
    # Masked above, so that this file itself passes.
    assert out_of_place(line.replace("|", "/").replace("~", "-"))


@pytest.mark.parametrize(
    "line",
    [
        "$HOME/tmp/x",
        "docs/work/x",
        "../shared/data",
        "tests/experiments/shared/x",
        "jax issue 40101",
        "https://x.org/a/b",
        "a/root/b",
    ],
)
def test_ordinary_lines_are_not_out_of_place(line: str) -> None:
    assert not out_of_place(line)


@pytest.mark.parametrize(
    "line",
    [
        "from tests.test_one import helper",
        "from tests import test_one",
        "import tests.test_one",
        "from .test_one import helper",
        "def f():\n    from tests.test_one import helper",
    ],
)
def test_imports_of_a_test_file_are_caught(line: str) -> None:
    samples = {"tests.test_one": "", "tests.test_two": line, "tests.toys": ""}
    assert imports_of_tests(samples) == ["tests.test_two imports tests.test_one"]
    assert imports_of_tests({"tests.test_one": "", "tests.toys": line})


def test_imports_of_test_helpers_are_allowed() -> None:
    line = "from tests.toys import test_data\nfrom jax.test_util import check_grads"
    assert not imports_of_tests({"tests.test_one": line, "tests.toys": ""})


@pytest.mark.parametrize(
    "line",
    [
        "from p.step import step",
        "from .step import step",
        "from p.other import run as step",
        "def step(): ...",
        "class step: ...",
        "step = 1",
    ],
)
def test_exports_with_the_name_of_a_module_are_caught(line: str) -> None:
    assert shadowed_modules("p", line, {"step", "other"})


@pytest.mark.parametrize("line", ["from p import step", "from . import step", "from q import run"])
def test_exports_of_modules_and_of_other_names_are_allowed(line: str) -> None:
    assert not shadowed_modules("p", line, {"step", "other"})


@pytest.mark.parametrize(
    ("line", "is_caught"),
    [
        ("from p.a import _name", True),
        ("from .a import _name", True),
        ("def f():\n    from p.a import _name", True),
        ("from p.a import name", False),
        ("from p._b import _name", False),
        ("from p import _b", False),
        ("from p.a import __doc__", False),
        ("from elsewhere import _name", False),
    ],
)
def test_imports_of_names_with_an_underscore_are_caught(line: str, is_caught: bool) -> None:
    assert bool(private_imports("p.m", line, {"p", "p.a", "p._b", "p.m"})) == is_caught


@pytest.mark.parametrize(
    ("line", "is_caught"),
    [
        ('row["loss"]', True),
        ("the Loss.", True),
        ("valid-loss", True),
        ("loss_scale", False),
        ("valid_loss", False),
        ("losses", False),
        ("glossary", False),
    ],
)
def test_only_the_whole_word_loss_is_caught(line: str, is_caught: bool) -> None:
    assert bool(lines_with_loss(line)) == is_caught
