"""Name run directories after what was changed."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

from experiments.harness import config
from experiments.harness.catalogue import Experiment
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.files import path_of
from experiments.harness.version import ROOT

UNNAMED = ("layout", "slots")  # they change no number


@dataclasses.dataclass(frozen=True)
class Launch:
    """Hold the flags of every run that say where, not what."""

    name: str = option("", "name of the run directory; by default the flags that were changed")
    workdir: str = option("", "the run directory itself, instead of runs/EXPERIMENT/NAME")
    overwrite: bool = option(False, "delete an earlier run in that directory first")
    config: str = option(
        "", "JSON file of fields, such as the config.json of a run; flags come on top of it"
    )


def runs_of(experiment: Experiment) -> Path:
    """Return where an experiment's runs are: beside its file, or beside launch.sh."""
    if experiment.file is not None:
        return experiment.file.parent / "runs"
    return runs_of_ours()


def runs_of_ours() -> Path:
    """Return where runs are that have no file: beside launch.sh; here, where it is installed."""
    return (ROOT if (ROOT / "launch.sh").exists() else Path.cwd()) / "runs"


def run_directory(parent: Path, launch: Launch, name: str) -> Path:
    """Return where the run lives: --workdir, or a folder of that name.

    Raises:
      UserError: for a name or a path that cannot be one.
    """
    if launch.workdir:
        return check_utf8(path_of(launch.workdir, "--workdir: "))
    name = launch.name or name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,119}", name):
        raise UserError(
            f"--name: expected letters, digits and ._=,+- (at most 120), got {name!r}; "
            "use --workdir for a path."
        )
    return check_utf8(parent / name)


def check_utf8(folder: Path) -> Path:
    """Return a folder whose path is UTF-8, as what writes checkpoints expects.

    Raises:
      UserError: where it is not.
    """
    whole = str(folder.absolute())
    if not config.is_utf8(whole):
        raise UserError(
            f"--workdir: the path of a run directory must be UTF-8, and {whole!r} is not; choose "
            "another folder."
        )
    return folder


def default_name(*settings: Any, sweep: str = "") -> str:
    """Return the changed fields, such as ``cell=gru,seed=1``; ``default`` where there are none."""
    changed = [
        f"{name}={getattr(each, name)}"
        for each in settings
        for name, field in config.options(each).items()
        if getattr(each, name) != field.default and name not in UNNAMED
    ]
    changed = [*filter(None, [sweep]), *changed]
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "-", ",".join(changed)) or "default"
    if len(name) <= 100:
        return name
    digest = hashlib.sha256(",".join(changed).encode("utf-8", "backslashreplace")).hexdigest()
    return f"{name[:80]}-{digest[:12]}"
