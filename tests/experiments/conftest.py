"""What tests of trainings share: programs that are compiled once."""

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from experiments.data import cache
from experiments.harness import loop
from experiments.harness.engine import Engine
from experiments.harness.program import Program


@pytest.fixture(autouse=True, scope="session")
def computed_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets what is computed once, such as a classifier, stay in a folder of the tests."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "computed_dir", lambda: shared / "computed")
        yield


@pytest.fixture(scope="module")
def compiled_once() -> Iterator[dict[Any, Engine]]:
    """Lets the trainings of one program share what is compiled; clear it to compile anew."""
    engines: dict[Any, Engine] = {}
    engine_of = loop.engine_of

    def remembered(program: Program, layout: Any) -> Engine:
        key = program.task, program.select, layout
        if key not in engines:
            engine = engine_of(program, layout)
            engines[key] = engine._replace(train=remembering(engine.train))
        return engines[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "engine_of", remembered)
        yield engines


def remembering(train: Any) -> Any:
    """``steps -> jitted`` whose lowering and compiling are done once for each form of arguments."""
    compiled: dict[Any, Any] = {}

    def lower(steps: int, *given: Any) -> Any:
        leaves, structure = jax.tree.flatten(given)
        key = steps, structure, *((x.shape, x.dtype, getattr(x, "sharding", None)) for x in leaves)
        if key not in compiled:
            compiled[key] = train(steps).lower(*given).compile()
        return SimpleNamespace(compile=lambda: compiled[key])

    class Jitted:
        def __init__(self, steps: int):
            self.steps = steps

        def __call__(self, *given: Any) -> Any:
            return train(self.steps)(*given)

        def lower(self, *given: Any) -> Any:
            return lower(self.steps, *given)

    return Jitted
