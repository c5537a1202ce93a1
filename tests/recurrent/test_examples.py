"""Check that docstring examples print what is documented and that every public function has one."""

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import pytest

import recurrent
from experiments.harness import config
from recurrent import explain, training

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(recurrent.__path__, "recurrent.")
]
WITH_EXAMPLES = [each for each in [*MODULES, config] if ">>> " in inspect.getsource(each)]
# Those whose examples take more than about a second.
LONG = {
    *("adversarial", "attention", "cell", "cells.classic", "combinators", "ctc", "decoding"),
    *("explain.attention_maps", "explain.boxes", "explain.faithfulness", "explain.lime"),
    *("explain.occlusion", "explain.randomization", "explain.saliency", "explain.scores"),
    *("explain.shapley", "fixed_points", "gradients", "images", "losses", "regularization"),
    *("training.minibatch", "training.optimizers", "training.step"),
}


def marks(module: ModuleType) -> list[pytest.MarkDecorator]:
    return [pytest.mark.long] * (module.__name__.removeprefix("recurrent.") in LONG)


@pytest.mark.parametrize(
    "module", [pytest.param(each, id=each.__name__, marks=marks(each)) for each in WITH_EXAMPLES]
)
def test_docstring_examples_print_the_documented_output(module: ModuleType) -> None:
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed


def test_those_that_take_long_are_modules_with_examples() -> None:
    assert {f"recurrent.{name}" for name in LONG} <= {each.__name__ for each in WITH_EXAMPLES}


def public_functions() -> dict[str, Any]:
    named = {name: getattr(recurrent, name) for name in recurrent.__all__}
    named |= {name: getattr(training, name) for name in training.__all__}
    named |= {name: getattr(explain, name) for name in explain.__all__}
    return {name: value for name, value in named.items() if inspect.isfunction(value)}


@pytest.mark.parametrize("name", public_functions())
def test_a_public_function_has_an_example(name: str) -> None:
    assert ">>> " in (public_functions()[name].__doc__ or "")
