"""No flag stands in ``--help`` that nothing reads."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.harness import catalogue
from experiments.harness.config import RunConfig, option, options
from experiments.harness.program import Program
from tests import toys
from tests.experiments.small_data import data_folder

READ_BY_THE_LOOP = {"patience", "steps_per_call"}
EXPERIMENTS = {name: catalogue.load(name).module for name in catalogue.experiments()}
LONG = {
    *("box_benchmark", "digit_gan", "digit_strings", "pronunciations", "scan_commands"),
    *("spoken_digits", "time_series"),
}


class Reading(dict):
    """A dict that remembers which of its names were read."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.seen: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.seen.add(name)
        return super().__getitem__(name)


def reading(config: Any) -> tuple[Any, set[str]]:
    """The same Config, and the set of the static fields that are read from it."""
    seen: set[str] = set()
    traced = {name for name, field in options(config).items() if field.traced}

    def get(self: Any, name: str) -> Any:
        if name not in traced:
            seen.add(name)
        return object.__getattribute__(self, name)

    cls = type(type(config).__name__, (type(config),), {"__getattribute__": get})
    made = cls(**{field.name: getattr(config, field.name) for field in dataclasses.fields(config)})
    seen.clear()  # of what making it has read
    return made, seen


def unread(module: Any, config: Any) -> set[str]:
    """The fields of a Config that neither the program nor a step of its task reads."""
    watched, seen = reading(config)
    hparams = Reading(
        {
            name: jnp.asarray(getattr(config, name))
            for name, field in options(config).items()
            if field.traced
        }
    )
    build = getattr(module.program, "__wrapped__", module.program)  # past the toys' cache
    program: Program = build(watched)
    program.keeps_last(hparams)
    state = jax.eval_shape(lambda: program.task.init(hparams))
    jax.eval_shape(
        lambda state: program.task.train(state, hparams, program.data["train"], 1), state
    )
    kept = jax.eval_shape(program.task.keep, state)
    jax.eval_shape(lambda kept: program.task.evaluate(kept, hparams, program.data["valid"]), kept)
    return set(options(config)) - seen - hparams.seen - READ_BY_THE_LOOP


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_folder(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in EXPERIMENTS]
)
def test_every_flag_of_an_experiment_is_read(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(data))
    config = EXPERIMENTS[name].Config()
    if getattr(config, "data", "") == "mnist":
        config = dataclasses.replace(config, data="digits")  # which come with a package
    assert not unread(EXPERIMENTS[name], config)


@pytest.mark.parametrize("name", toys.ALL)
def test_every_flag_of_another_kind_of_task_is_read(name: str) -> None:
    assert not unread(toys.ALL[name], toys.ALL[name].Config())


def test_a_flag_that_nothing_reads_is_found() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config(toys.FitConfig):
        idle: int = option(3, "nothing reads it")
        forgotten: float = option(0.5, "nothing reads it either", traced=True)

    assert unread(toys.FIT, Config()) == {"idle", "forgotten"}
    assert set(options(RunConfig)) >= READ_BY_THE_LOOP
