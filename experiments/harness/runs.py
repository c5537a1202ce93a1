"""Use a trained run from its directory: its Config, its program and what it kept at its best."""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments.harness import catalogue, config, rundir
from experiments.harness.catalogue import Experiment
from experiments.harness.checkpoint import checkpoints, restore
from experiments.harness.checks import made_program
from experiments.harness.copies import with_copies
from experiments.harness.errors import UserError, have_changed
from experiments.harness.files import path_of
from experiments.harness.identity import (
    changed_files,
    code_hashes,
    data_hashes,
    named_file,
    source_hashes,
)
from experiments.harness.program import Program
from recurrent.training.task import Kept

WINNER = "best"  # where a sweep leaves its best training, as a run of its own
MEMBERS = "members"  # where it leaves all of them, if it is asked to


class Run(NamedTuple):
    """Hold a run that was trained, or is being trained.

    Attributes:
      folder: its directory.
      experiment: what was trained.
      config: its Config.
      program: what it trains.
      kept: what its task kept at its best evaluation, such as the weights.
      result: the contents of ``result.json``; empty where it has not finished.
    """

    folder: Path
    experiment: Experiment
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


def load_run(folder: str | Path, experiment: Any = None) -> Run:
    """Load a run from its directory, from any script; of a sweep, its best training.

    Where the experiment's code has changed since, a warning is printed.

    Args:
      folder: of a run, or of a sweep.
      experiment: the module or the file of its experiment, where it is not where it was.

    Raises:
      UserError: where the folder holds no run, or one that has not been evaluated yet; where a file
        that its Config names has changed since, and was too large for the run to keep a copy; where
        its weights do not fit its model any more.
    """
    folder = trained_folder(path_of(folder))
    found = read_experiment(folder, experiment)
    asked = read_config(folder, found)
    check_sources(folder, found, asked)
    start = {"init_from": ""} if hasattr(asked, "init_from") else {}  # it is trained already
    program = made_program(found, dataclasses.replace(asked, **start))
    say_other_data(folder, program)
    result = folder / "result.json"
    return Run(
        folder=folder,
        experiment=found,
        config=asked,
        program=program,
        kept=kept_at_best(program, asked, folder),
        result=rundir.read_json(result) if result.exists() else {},
    )


def members_of(run: Run) -> list[Run]:
    """Load all trainings of a sweep that kept them, from its best one, which `load_run` returns.

    Raises:
      UserError: where there are none, or as `load_run` does.
    """
    folders = sorted((run.folder.parent / MEMBERS).glob("*"), key=lambda each: each.name.zfill(9))
    if run.folder.name != WINNER or not folders:
        raise UserError(
            f"{run.folder} does not belong to a sweep that kept the weights of its members: name "
            "one that was trained with --keep_all."
        )
    return [load_run(folder, run.experiment.module) for folder in folders]


def trained_folder(folder: Path) -> Path:
    """Return a run's own folder, or the one in which a sweep has left its best training."""
    file = folder / "config.json"
    if not file.is_file() or "axes" not in rundir.read_json(file):
        return folder
    if not (folder / WINNER / "config.json").exists():
        raise UserError(
            f"The sweep in {folder} has no best training: it has not finished, or all diverged."
        )
    return folder / WINNER


def read_identity(folder: Path) -> dict[str, Any]:
    """Return what ``config.json`` says of a run.

    Raises:
      UserError: where the folder holds no run, or the file does not say what it is.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"There is no trained run in {folder}: it has no config.json.")
    identity = rundir.read_json(folder / "config.json")
    expected = {"experiment": str, "config": dict, "sources": dict, "origin": dict}
    for name, kind in expected.items():
        found = identity.setdefault(name, {}) if name == "origin" else identity.get(name)
        if not isinstance(found, kind):
            raise UserError(f"{folder / 'config.json'} is damaged: {name} is {found!r}.")
    return identity


def read_experiment(folder: Path, experiment: Any = None) -> Experiment:
    """Return a run's experiment.

    Raises:
      UserError: where its file is no longer where it was.
    """
    if experiment is not None and not isinstance(experiment, str | Path):
        return catalogue.experiment_of(experiment)
    if experiment is not None:
        return catalogue.load(str(Path(experiment).absolute()))
    folder = trained_folder(folder)
    identity = read_identity(folder)
    file = identity["origin"].get("file")
    if not isinstance(file, str):
        return catalogue.load(identity["experiment"])
    path = (folder.resolve() / file).resolve()
    if not path.is_file():
        raise UserError(
            f"The experiment of the run in {folder} was {path}, which is not there. Put it back, "
            "or say where it is: load_run(folder, experiment=FILE)."
        )
    return catalogue.load(str(path))


def read_config(folder: Path, found: Experiment) -> Any:
    """Return the Config of a run, which names the run's copies of files that have changed.

    Raises:
      UserError: where ``config.json`` has fields that the experiment does not have, or lacks one.
    """
    identity = read_identity(folder)
    fields = identity["config"]
    cls = found.module.Config
    known = config.options(cls)
    missing = [name for name in known if name not in fields]
    if missing:
        raise UserError(
            f"The run in {folder} is of another version: it does not say {', '.join(missing)}. Use "
            f"the code that it was trained with{of_commit(identity['origin'])}."
        )
    base = Path(identity["origin"].get("working_directory", ""))
    fields = with_absolute_paths(cls, fields, base)
    fields = with_copies(cls, fields, identity["sources"], folder)
    return cls(**config.fields_from_json(f"{folder / 'config.json'}", cls, fields))


def of_commit(origin: dict[str, Any]) -> str:
    """Return which code that was, for a sentence; nothing where it is not known.

    Example:
      >>> of_commit({"commit": "0ad262b53"})
      ', commit 0ad262b53'
    """
    return f", commit {origin['commit']}" if isinstance(origin.get("commit"), str) else ""


def check_sources(folder: Path, found: Experiment, asked: Any) -> None:
    """Warn where the code of a run has changed; refuse where a file that its Config names has.

    Files of which the run keeps a copy are named by that copy here.

    Raises:
      UserError: for such a file.
    """
    earlier = read_identity(folder)["sources"]
    if named := changed_files(earlier, source_hashes(asked)):
        raise UserError(
            f"{have_changed(named)} since the run in {folder} was trained with it; restore it, "
            "or train anew."
        )
    if code := changed_files(earlier, code_hashes(found)):
        said = f"{have_changed(code)} since the run in {folder} was trained by it"
        print(f"warning: {said}; what it computes now may differ.", file=sys.stderr)


def say_other_data(folder: Path, program: Program) -> None:
    """Warn where the experiment reads other data than the run was trained on.

    It is no error: data that is computed may differ in its last digits on another machine.
    """
    other = changed_files(read_identity(folder)["sources"], data_hashes(program.data))
    if other:
        print(
            f"warning: {', '.join(other)} is not what the run in {folder} was trained on; unless "
            "it differs in last digits alone, what comes may be wrong.",
            file=sys.stderr,
        )


def say_changes_of(file: Path, identity: dict[str, Any], found: Experiment) -> None:
    """Warn that the fields of another run do not bring its results back, its files being edited.

    Args:
      file: the ``config.json`` of the run.
      identity: what it says.
      found: the experiment as it is now.
    """
    earlier = identity.get("sources", {})
    if isinstance(earlier, dict) and (code := changed_files(earlier, code_hashes(found))):
        said = f"{have_changed(code)} since the run of {file} was begun"
        print(f"warning: {said}; with the same fields, other code is trained now.", file=sys.stderr)


def with_absolute_paths(cls: type, fields: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return fields whose files are found from any working directory.

    Args:
      cls: the Config.
      fields: of it, by name.
      base: the working directory in which they were given.
    """
    changed = {}
    for name, field in config.options(cls).items():
        value = fields.get(name)
        if field.file and isinstance(value, str) and named_file(value, base):
            path = named_file(value, base, whole=True)
            rest = "" if path else ":" + value.rpartition(":")[2]
            changed[name] = f"{named_file(value, base)}{rest}"
    return fields | changed


def kept_at_best(program: Program, asked: Any, folder: Path) -> Kept:
    """Return what a run kept at its best evaluation, calibrated.

    Raises:
      UserError: where there is none yet, or it does not fit the model.
    """
    hparams = {name: value[0] for name, value in config.hparams_of(asked).items()}
    task = program.task
    like = jax.eval_shape(lambda hparams: task.keep(task.init(hparams)), hparams)
    best = restored_best(folder, like, "The experiment has changed since; restore it.")
    return jax.jit(program.calibrate)(best, hparams, program.data["valid"])


def restored_best(folder: Path, like: Kept, advice: str) -> Kept:
    """Return what a run kept at its best evaluation, as a tree like ``like``.

    Raises:
      UserError: where there is none yet, or a tree of other shapes.
    """
    best = folder / "checkpoints" / "best"
    if best.is_dir():
        with checkpoints(best, keep=1, read_only=True) as manager:
            found = restore(manager, {"kept": like}, advice=advice, leave=True)
        if found:
            return found[0]["kept"]
    raise UserError(
        f"The run in {folder} has not been evaluated yet: train it further; or anew, at a smaller "
        "learning rate, if it diverged."
    )


def config_of(folder: str, flag: str = "--init_from") -> dict[str, Any]:
    """Return the fields of the Config of another run, or of a sweep's best training.

    Args:
      folder: of the run, or of a sweep.
      flag: that names the folder, for the sentences of errors.

    Raises:
      UserError: where there are none.
    """
    try:
        return read_identity(trained_folder(path_of(folder)))["config"]
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error


def weights_of(folder: str, like: Any, flag: str = "--init_from") -> Any:
    """Return the weights of another run, to start a training from or to use in one.

    Args:
      folder: of the run, or of a sweep.
      like: the tree of weights that is to be filled.
      flag: that names the folder, for the sentences of errors.

    Raises:
      UserError: where there are none, or some of another shape.
    """
    try:
        path = trained_folder(path_of(folder))
        read_identity(path)
        return restored_best(path, like, "Give this model the sizes of that one.")
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error
