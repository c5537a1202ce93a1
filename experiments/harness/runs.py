"""Use a trained run from its directory: its Config, its program and what it kept at its best."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax

from experiments.harness import catalogue, config, rundir
from experiments.harness.checkpoint import checkpoints, restore
from experiments.harness.errors import UserError
from experiments.harness.identity import source_hashes
from experiments.harness.program import Program
from recurrent.training.task import Kept


class Run(NamedTuple):
    """Hold a run that was trained, or is being trained.

    Attributes:
      folder: its directory.
      experiment: the name of its experiment.
      module: the experiment's module.
      config: its Config.
      program: what it trains.
      kept: what its task kept at its best evaluation, such as the weights.
      result: the contents of ``result.json``; empty where it has not finished.
    """

    folder: Path
    experiment: str
    module: ModuleType
    config: Any
    program: Program
    kept: Kept
    result: dict[str, Any]


class Command(NamedTuple):
    """Say what ``./launch.sh WORD RUN_DIRECTORY --flags`` does with a trained run.

    Attributes:
      flags: a dataclass of `option` fields.
      run: ``(run, flags) -> pieces of text``, which are printed as they come.
      help: what it does, in a few words.
    """

    flags: type
    run: Callable[[Run, Any], Iterable[str]]
    help: str


def load_run(folder: str | Path) -> Run:
    """Load a run from its directory, from any script.

    Raises:
      UserError: where the folder holds no run, or one that has not been evaluated yet; where a file
        that its Config names has changed since.
    """
    folder = Path(folder).expanduser()
    module, asked = read_experiment(folder), read_config(folder)
    check_sources(folder, asked)
    program = module.program(asked)
    result = folder / "result.json"
    return Run(
        folder=folder,
        experiment=module.__name__.rpartition(".")[2],
        module=module,
        config=asked,
        program=program,
        kept=kept_at_best(program, asked, folder),
        result=rundir.read_json(result) if result.exists() else {},
    )


def read_identity(folder: Path) -> dict[str, Any]:
    """Return what ``config.json`` says of a run.

    Raises:
      UserError: where the folder holds no run, or the file does not say what it is.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"There is no trained run in {folder}: it has no config.json.")
    identity = rundir.read_json(folder / "config.json")
    if "axes" in identity:
        raise UserError(f"{folder} holds a sweep: train its best configuration alone, then use it.")
    expected = {"experiment": str, "config": dict, "sources": dict}
    for name, kind in expected.items():
        if not isinstance(identity.get(name), kind):
            raise UserError(
                f"{folder / 'config.json'} is damaged: {name} is {identity.get(name)!r}."
            )
    return identity


def read_experiment(folder: Path) -> ModuleType:
    """Return the module of a run's experiment."""
    return catalogue.load(read_identity(folder)["experiment"])


def read_config(folder: Path) -> Any:
    """Return the Config of a run.

    Raises:
      UserError: where ``config.json`` has fields that the experiment does not have, or lacks one.
    """
    identity = read_identity(folder)
    experiment, fields = identity["experiment"], identity["config"]
    cls = read_experiment(folder).Config
    known = config.options(cls)
    missing = [name for name in known if name not in fields]
    if missing:
        raise UserError(
            f"The run in {folder} is of another version: it does not say {', '.join(missing)}."
        )
    for name, value in fields.items():
        if name not in known:
            raise UserError(
                f"The run in {folder} is of another version: {experiment} has no field {name!r}."
            )
        is_whole = known[name].type is float and type(value) is int
        if type(value) is not known[name].type and not is_whole:
            raise UserError(f"{folder / 'config.json'} is damaged: {name} is {value!r}.")
        config.check_value(name, known[name], value)
    return cls(**fields)


def check_sources(folder: Path, asked: Any) -> None:
    """Raise `UserError` where a file that a Config names is no longer what the run has read."""
    earlier = read_identity(folder)["sources"]
    for name, digest in source_hashes(asked).items():
        if earlier.get(name, digest) != digest:
            raise UserError(
                f"--{name}: {getattr(asked, name)} has changed since the run in {folder} was "
                "trained with it; restore it, or train anew."
            )


def kept_at_best(program: Program, asked: Any, folder: Path) -> Kept:
    """Return what a run kept at its best evaluation.

    Raises:
      UserError: where there is none yet.
    """
    hparams = {name: value[0] for name, value in config.hparams_of(asked).items()}
    task = program.task
    like = jax.eval_shape(lambda hparams: task.keep(task.init(hparams)), hparams)
    best = folder / "checkpoints" / "best"
    if best.is_dir():
        with checkpoints(best, keep=1, read_only=True) as manager:
            found = restore(manager, {"kept": like})
        if found:
            return found[0]["kept"]
    raise UserError(f"The run in {folder} has not been evaluated yet: train it further.")
