"""The launcher: the only reader of flags. Turns a command line into a run directory."""

import dataclasses
import hashlib
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from experiments.harness import catalogue, config, devices, processes, stopping, supervisor
from experiments.harness.config import option
from experiments.harness.devices import (
    compile_cache,
    cores,
    devices_of_cpu,
)
from experiments.harness.errors import UserError
from experiments.harness.flags import (
    asks_for_help,
    help_lines,
    read_flags,
    taken_off,
)
from experiments.harness.processes import Group, Hardware

DEFAULT = "sequential_digits"


ROOT = Path(__file__).resolve().parent.parent


USAGE = """\
./launch.sh                               runs the default experiment, {default}
./launch.sh EXPERIMENT [--flag=value ...] runs an experiment, or goes on with it
./launch.sh EXPERIMENT --help             its flags
./launch.sh sweep EXPERIMENT --sweep=FIELD=VALUES ...  trains many settings together; --help
./launch.sh report DIR ... [--out=FILE]   runs and sweeps side by side on one page
./launch.sh list                          all experiments
./launch.sh download DATASET|all          fetches data sets
./launch.sh bench [--flag=value ...]      times our cells beside other libraries; --help
./launch.sh test [pytest arguments]       lints, checks types and runs the tests
"""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Flags of every run that say where, not what."""

    name: str = option("", "name of the run directory; by default the flags that were changed")
    workdir: str = option("", "the run directory itself, instead of runs/EXPERIMENT/NAME")
    overwrite: bool = option(False, "delete an earlier run in that directory first")


def main(arguments: list[str]) -> int:
    """Does what the command line says; returns the exit status."""
    # JAX's QR on a CPU, which draws orthogonal kernels, is OpenBLAS's, whose threads wait by
    # spinning: beside other work 17 to 35 s for 16 LSTMs, in place of 0.04.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        status = dispatch(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed again at exit
        return 141


def dispatch(arguments: list[str]) -> int:
    """`main` without the handling of errors."""
    word, *rest = arguments or [DEFAULT]
    if word in ("help", "--help", "-h"):
        print(USAGE.format(default=DEFAULT), end="")
    elif word == "list":
        if rest:
            raise UserError(f"list: expected nothing after it, got {rest[0]!r}.")
        for name, question in catalogue.experiments().items():
            print(f"{name:20} {question}")
    elif word == "download":
        download(rest)
    elif word == "bench":
        return bench(rest)
    elif word == "sweep":
        return sweep(rest)
    elif word == "report":
        report(rest)
    elif word.startswith("-"):
        return run(DEFAULT, arguments)
    else:
        return run(word, rest)
    return 0


def download(names: list[str]) -> None:
    """Fetches the data sets named."""
    from experiments.data.download import download_dataset

    if asks_for_help(names) or not names:
        raise UserError("download: say which data set, or all, as in ./launch.sh download mnist.")
    for name in names:
        for path in download_dataset(name):
            print(path)


def report(arguments: list[str]) -> None:
    """Puts runs and sweeps side by side on one page."""
    from experiments.report import side_by_side

    if asks_for_help(arguments):
        print("\n".join([f"{side_by_side.__doc__}", "Flags:", *help_lines(side_by_side.Settings)]))
        return
    folders = [word for word in arguments if not word.startswith("-")]
    flags_only = [word for word in arguments if word.startswith("-")]
    (settings,) = read_flags(flags_only, side_by_side.Settings)
    out = Path(settings.out or ROOT / "runs" / "report.html").expanduser()
    side_by_side.compare(folders, out)
    print(f"report: {out}")


def bench(arguments: list[str]) -> int:
    """Times our cells beside those of other libraries."""
    from experiments.bench import comparison

    if asks_for_help(arguments):
        print("\n".join([f"{comparison.__doc__}", "Flags:", *help_lines(comparison.Settings)]))
        return 0
    (settings,) = read_flags(arguments, comparison.Settings)
    folder = Path(settings.out or ROOT / "runs" / "bench" / default_name(settings)).expanduser()
    return comparison.main(settings, folder, shlex.join(["./launch.sh", "bench", *arguments]))


def run(experiment: str, arguments: list[str]) -> int:
    """Trains an experiment, goes on with it, or says that it is finished."""
    module = catalogue.load(experiment)
    if asks_for_help(arguments):
        print(help_page(experiment, module))
        return 0
    uses = [module.Use] if hasattr(module, "Use") else []
    launch, hardware, settings, *used = read_flags(
        arguments, Launch, Hardware, module.Config, *uses
    )
    folder = run_directory(experiment, launch, default_name(settings))
    if any(value is True for use in used for value in dataclasses.asdict(use).values()):
        if hardware != Hardware():
            raise UserError(
                "A trained run is used by one process on one device; leave the flags out."
            )
        return use_trained(experiment, module, settings, used[0], folder)
    refuse_idle(used)
    processes.check(hardware)
    if processes.are_to_be_started(hardware):
        return supervisor.supervise([experiment, *arguments], hardware.processes)
    run = command_line(experiment, *arguments)
    return train(experiment, module, settings, folder, launch.overwrite, hardware, run)


def command_line(*words: str) -> str:
    """To run the same again; which of several processes this one is, is no part of it."""
    return shlex.join(
        ["./launch.sh", *(w for w in words if not re.match("--?(process|coordinator)=", w))]
    )


def refuse_idle(used: list[Any]) -> None:
    """Raises `UserError` for a flag of a trained run where none is to be used."""
    for use in used:
        fields = config.options(use).items()
        (what,) = (name for name, field in fields if field.type is bool)
        for name, field in fields:
            if getattr(use, name) != field.default:
                raise UserError(f"--{name}: it belongs to --{what}, which is not given.")


def use_trained(experiment: str, module: Any, settings: Any, used: Any, folder: Path) -> int:
    """Writes out, piece by piece, what a trained run makes."""
    from experiments.harness import loop, rundir

    if not (folder / "config.json").exists():
        raise UserError(f"There is no trained run in {folder}: train it first, by the same flags.")
    program = module.program(settings)
    rundir.check_identity(folder / "config.json", identity_of(experiment, settings))
    params = loop.best_params(program, settings, folder)
    for piece in module.use(settings, used, params):
        print(piece, end="", flush=True)
    print()
    return 0


def identity_of(experiment: str, settings: Any) -> dict[str, Any]:
    """What must be the same for a run to be gone on with."""
    from experiments.shared import cell_flag

    config, sources = dataclasses.asdict(settings), cell_flag.source_hashes(settings)
    return {"experiment": experiment, "config": config, "sources": sources}


def sweep(arguments: list[str]) -> int:
    """Trains many settings of an experiment together."""
    from experiments.sweep import axes, flags

    word, *rest = arguments or [""]
    if asks_for_help([word]):
        word, rest = DEFAULT, arguments
    if not word or word.startswith("-"):
        raise UserError("sweep: say which experiment, as in ./launch.sh sweep sequential_digits.")
    module = catalogue.load(word)
    if asks_for_help(rest):
        print(sweep_help(module, flags.Settings))
        return 0
    texts, others = taken_off("--sweep=", rest)
    if {"--sweep", "-sweep"} & set(others):
        raise UserError("--sweep: write it as one word, --sweep=FIELD=VALUES.")
    classes = Launch, Group, flags.Settings, module.Config
    launch, group, settings, base = read_flags(others, *classes)
    processes.check(group)
    swept = axes.read_axes(texts, config.options(module.Config))
    for axis in swept:
        if any(re.match(f"--?(no)?{axis.field}(=|$)", other) for other in others):
            raise UserError(f"--{axis.field}: it is swept too; give it once.")
    if processes.are_to_be_started(group):
        return supervisor.supervise(["sweep", *arguments], group.processes)
    run = command_line("sweep", *arguments)
    asked = flags.Sweep(word, module, base, swept, settings, run)
    name = default_name(base, settings, sweep=",".join(texts).replace(":", "_"))
    folder = run_directory(f"sweep/{word}", launch, name)
    compile_cache()
    devices_of_cpu(max(1, cores() // processes.on_this_machine(group)))
    processes.join(group)
    from experiments.sweep import run as sweeps

    return sweeps.main(asked, folder, launch.overwrite)


def sweep_help(module: Any, settings: type) -> str:
    """The sweep's own flags; then the experiment's, any of which can be swept."""
    from experiments.sweep import axes, run

    lines = [f"{run.__doc__}".strip(), "", "Flags of every sweep:"]
    lines += [f"   --sweep=FIELD=VALUES   may be repeated; VALUES are {axes.FORMS}"]
    lines += [*help_lines(settings), *help_lines(Group)]
    lines += ["", "Flags of every run:", *help_lines(Launch)]
    lines += ["", "Fields (* sweep in one program, others in one for each value):"]
    return "\n".join([*lines, *help_lines(module.Config)])


def train(
    experiment: str,
    module: Any,
    settings: Any,
    folder: Path,
    overwrite: bool,
    hardware: Hardware,
    command: str,
) -> int:
    """`run` after the flags were read."""
    from experiments.harness import loop, rundir
    from experiments.report import result as result_of

    identity = identity_of(experiment, settings)
    question = module.__doc__.partition("\n")[0]
    compile_cache()
    devices_of_cpu(hardware.devices)
    processes.join(hardware, hardware.devices)
    asked = {"workdir": str(folder.absolute()), "devices": hardware.devices, "overwrite": overwrite}
    processes.check_same_everywhere(rundir.flat(identity) | asked)
    mesh = devices.mesh_of(hardware.devices, settings)
    program = module.program(settings)  # first, since what it refuses must touch no earlier run
    devices.check_fits_memory(program, settings)
    with processes.by_the_first(rundir.claim(folder, identity, overwrite)):
        if (folder / "result.json").exists():
            result = rundir.read_json(folder / "result.json")
            if (folder / "report.html").exists():
                return say_finished(folder, result)
            print("This run is finished, but its report is missing: it is made again.")
        try:
            outcome = loop.train(program, settings, folder, say_started(experiment, folder), mesh)
        except stopping.Stopped as stop:
            print(f"{stop}; the same command goes on from there.", file=sys.stderr)
            return 128 + stop.signum
        except stopping.Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 3
        if not processes.is_first():
            return 0
        result = result_of.finish(experiment, question, program, settings, outcome, folder, command)
    return say_result(folder, result)


def help_page(experiment: str, module: Any) -> str:
    """The experiment's fields, each with type, default and meaning; then the launcher's own."""
    lines = [module.__doc__.strip(), "", f"Flags of {experiment} (* sweeps in one program):"]
    lines += [*help_lines(module.Config), "", "Flags of every run:", *help_lines(Launch)]
    lines += help_lines(Hardware)
    if hasattr(module, "Use"):
        lines += ["", "Flags of a trained run:", *help_lines(module.Use)]
    return "\n".join(lines)


def run_directory(experiment: str, launch: Launch, name: str) -> Path:
    """Where the run lives: --workdir, or runs/EXPERIMENT/NAME beside launch.sh."""
    if launch.workdir:
        return Path(launch.workdir).expanduser()
    name = launch.name or name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,119}", name):
        raise UserError(
            f"--name: expected letters, digits and ._=,+- (at most 120), got {name!r}; "
            "use --workdir for a path."
        )
    return ROOT / "runs" / experiment / name


def default_name(*settings: Any, sweep: str = "") -> str:
    """The changed fields, such as ``cell=gru,seed=1``; ``default`` where there are none."""
    changed = [
        f"{name}={getattr(each, name)}"
        for each in settings
        for name, field in config.options(each).items()
        if getattr(each, name) != field.default and name not in ("layout", "places")
    ]
    changed = [*filter(None, [sweep]), *changed]
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "-", ",".join(changed)) or "default"
    if len(name) <= 100:
        return name
    return f"{name[:80]}-{hashlib.sha256(','.join(changed).encode()).hexdigest()[:12]}"


def say_started(experiment: str, folder: Path) -> Any:
    """A function that says where the run goes and how long the start took."""
    text = os.environ.get("RECURRENT_STARTED", "").replace(",", ".")  # bash writes it by locale
    since = float(text or time.time())

    def say(step: int) -> None:
        begins = f"goes on from step {step}" if step else "begins"
        waited = time.time() - since
        print(f"{experiment} {begins} in {folder} ({waited:.1f} s to the first step)", flush=True)

    return say


def say_finished(folder: Path, result: dict[str, Any]) -> int:
    """Says that there is nothing left to do."""
    print("This run is finished already; --overwrite begins it anew.")
    return say_result(folder, result)


def say_result(folder: Path, result: dict[str, Any]) -> int:
    """The numbers that people wait for, and where the rest is."""
    scores = [f"{name} {value:.4g}" for name, value in result.items() if is_score(name, value)]
    print(", ".join([*scores, f"train_seconds {result.get('train_seconds')}"]))
    print(f"report: {folder / 'report.html'}")
    return 0


def is_score(name: str, value: Any) -> bool:
    """Whether a number of the result is a measurement on the test split."""
    return name.startswith("test_") and isinstance(value, float)


if __name__ == "__main__":
    supervisor.end_with_the_supervisor()
    processes.ends_alone(lambda: main(sys.argv[1:]))
