"""Train and sweep from a script or a notebook: what the launcher does, without flags."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.harness import catalogue, config
from experiments.harness.catalogue import Experiment
from experiments.harness.errors import UserError
from experiments.harness.naming import Launch, default_name, run_directory, runs_of
from experiments.harness.processes import Hardware
from experiments.harness.runs import Run, load_run


def run(
    experiment: Any,
    folder: str | Path = "",
    *,
    overwrite: bool = False,
    devices: int | str = "auto",
    **fields: Any,
) -> Run:
    """Train an experiment, go on with it, or find it finished; return the trained run.

    Args:
      experiment: its name, the path of its file, or a module with ``Config`` and ``program``; in a
        notebook ``import __main__`` gives one.
      folder: the run directory, by default that of the launcher.
      overwrite: delete an earlier run there first. Of a notebook, whose code has no file, it must
        be true where there is one, since nothing tells whether the code has changed.
      devices: of this process that share each batch, as ``--devices`` says it; of a CPU
        there are as many as JAX has been given, by default one.
      **fields: of its Config, where they are not the default.

    Raises:
      UserError: for what the launcher refuses, and for a training that diverges.
      KeyboardInterrupt: where it was stopped, after its state was saved.

    Example:
      >>> from experiments import run
      >>> trained = run("sequential_digits", epochs=1, hidden_size=16)  # doctest: +SKIP
      >>> trained.result["test_accuracy"], trained.kept  # doctest: +SKIP
    """
    from experiments.harness import run as single

    found = experiment_named(experiment)
    asked = made(found.module.Config, fields)
    launch = Launch(workdir=str(folder))
    path = run_directory(runs_of(found) / found.name, launch, default_name(asked))
    check_code_is_known(found, path, overwrite)
    hardware = made(Hardware, {"devices": str(devices)})
    status = single.main(
        single.Asked(found, asked, path, overwrite, hardware, f"run({found.word!r}, ...)")
    )
    check_status(status, path)
    return load_run(path, found.module)


def run_sweep(
    experiment: Any,
    axes: Mapping[str, Any],
    folder: str | Path = "",
    *,
    overwrite: bool = False,
    **fields: Any,
) -> Run:
    """Train many configurations of an experiment together; return the best training.

    Its folder, ``best``, lies in that of the sweep, where ``sweep.jsonl`` has all members.

    Args:
      experiment: as `run` takes it.
      axes: the swept fields, each with its values, or with a text as ``--sweep=FIELD=`` takes it.
      folder: of the sweep, by default that of the launcher.
      overwrite: delete an earlier sweep there first.
      **fields: flags of the sweep, such as ``search="halving"``, and fields of the Config.

    Raises:
      UserError: for what the launcher refuses, and where all members diverge.

    Example:
      >>> from experiments import run_sweep
      >>> rates = {"learning_rate": [0.001, 0.003], "seed": range(2)}
      >>> best = run_sweep("sequential_digits", rates, epochs=1)  # doctest: +SKIP
    """
    from experiments.sweep import axes as reader
    from experiments.sweep import flags
    from experiments.sweep import run as sweeps

    found = experiment_named(experiment)
    own = {name: fields.pop(name) for name in config.options(flags.Settings) if name in fields}
    settings, base = made(flags.Settings, own), made(found.module.Config, fields)
    texts = [f"{field}={in_text(values)}" for field, values in axes.items()]
    swept = reader.read_axes(texts, config.options(base))
    name = default_name(base, settings, sweep=",".join(texts).replace(":", "_"))
    path = run_directory(runs_of(found) / "sweep" / found.name, Launch(workdir=str(folder)), name)
    check_code_is_known(found, path, overwrite)
    asked = flags.Sweep(found, base, swept, settings, f"run_sweep({found.word!r}, ...)")
    check_status(sweeps.main(asked, path, overwrite), path)
    return load_run(path, found.module)


def experiment_named(experiment: Any) -> Experiment:
    """Return the experiment that a name, a path or a module stands for."""
    if isinstance(experiment, str | Path):
        return catalogue.load(str(experiment))
    return catalogue.experiment_of(experiment)


def made(cls: type, fields: Mapping[str, Any]) -> Any:
    """Return a dataclass with these fields, checked as flags are."""
    return cls(**config.fields_from_json("fields", cls, dict(fields)))


def in_text(values: Any) -> str:
    """Write the values of an axis as the command line has them."""
    if isinstance(values, str):
        return values
    return ",".join(str(value) for value in values)


def check_code_is_known(found: Experiment, folder: Path, overwrite: bool) -> None:
    """Raise `UserError` where a run of code without a file would be gone on with."""
    is_ours = str(getattr(found.module, "__name__", "")).startswith("experiments.")
    if found.file is None and not is_ours and not overwrite and (folder / "config.json").exists():
        raise UserError(
            f"There is a run in {folder} already, and nothing tells whether the code of this "
            "notebook is still that of the run: give overwrite=True, or another folder."
        )


def check_status(status: int, folder: Path) -> None:
    """Raise where a training has not come to its end."""
    if status >= 128:
        raise KeyboardInterrupt
    if status:
        raise UserError(f"The training in {folder} diverged; see the lines above.")
