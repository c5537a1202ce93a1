"""Start what a command line asks for: a run, a sweep, a report, a download, a comparison."""

import dataclasses
import hashlib
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from experiments.harness import catalogue, config, processes, supervisor
from experiments.harness.config import option
from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.flags import asks_for_help, help_lines, read_flags, take_repeated
from experiments.harness.processes import Group, Hardware

DEFAULT = "sequential_digits"
ROOT = Path(__file__).resolve().parent.parent

USAGE = """\
./launch.sh                               trains the default experiment, {default}
./launch.sh EXPERIMENT [--flag=value ...] trains an experiment, or goes on with it
./launch.sh EXPERIMENT --help             lists its flags
./launch.sh sweep EXPERIMENT --sweep=FIELD=VALUES ...  trains many configurations together; --help
./launch.sh report DIR ... [--out=FILE]   puts runs and sweeps side by side on one page
./launch.sh COMMAND DIR [--flag=value ...] uses a trained run: {commands}
./launch.sh list                          lists all experiments
./launch.sh download DATASET|all          fetches data sets
./launch.sh bench [--flag=value ...]      times our cells beside other libraries; --help
./launch.sh test [pytest arguments]       lints, checks types and runs the tests
"""


@dataclasses.dataclass(frozen=True)
class Launch:
    """Hold the flags of every run that say where, not what."""

    name: str = option("", "name of the run directory; by default the flags that were changed")
    workdir: str = option("", "the run directory itself, instead of runs/EXPERIMENT/NAME")
    overwrite: bool = option(False, "delete an earlier run in that directory first")


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status."""
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
    """Do what the command line says, without handling errors."""
    word, *rest = arguments or [DEFAULT]
    words = {"bench": bench, "sweep": sweep, "report": report, "download": download, "list": names}
    if word in ("help", "--help", "-h"):
        known = ", ".join(catalogue.commands())
        print(USAGE.format(default=DEFAULT, commands=known), end="")
        return 0
    if word in words:
        return words[word](rest)
    if word in catalogue.commands():
        return use(word, rest)
    if word.startswith("-"):
        return run(DEFAULT, arguments)
    return run(word, rest)


def names(rest: list[str]) -> int:
    """List all experiments with their questions."""
    if rest:
        raise UserError(f"list: expected nothing after it, got {rest[0]!r}.")
    for name, question in catalogue.experiments().items():
        print(f"{name:20} {question}")
    return 0


def download(datasets: list[str]) -> int:
    """Fetch the data sets named."""
    from experiments.data.download import download_dataset

    if asks_for_help(datasets) or not datasets:
        raise UserError("download: say which data set, or all, as in ./launch.sh download mnist.")
    for name in datasets:
        for path in download_dataset(name):
            print(path)
    return 0


def report(arguments: list[str]) -> int:
    """Put runs and sweeps side by side on one page."""
    from experiments.report import side_by_side

    if asks_for_help(arguments):
        print("\n".join([f"{side_by_side.__doc__}", "Flags:", *help_lines(side_by_side.Settings)]))
        return 0
    folders = [word for word in arguments if not word.startswith("-")]
    flags_only = [word for word in arguments if word.startswith("-")]
    (settings,) = read_flags(flags_only, side_by_side.Settings)
    out = Path(settings.out or ROOT / "runs" / "report.html").expanduser()
    side_by_side.compare(folders, out)
    print(f"report: {out}")
    return 0


def bench(arguments: list[str]) -> int:
    """Time our cells beside those of other libraries."""
    from experiments.bench import comparison

    if asks_for_help(arguments):
        print("\n".join([f"{comparison.__doc__}", "Flags:", *help_lines(comparison.Settings)]))
        return 0
    (settings,) = read_flags(arguments, comparison.Settings)
    folder = Path(settings.out or ROOT / "runs" / "bench" / default_name(settings)).expanduser()
    return comparison.main(settings, folder, shlex.join(["./launch.sh", "bench", *arguments]))


def use(word: str, arguments: list[str]) -> int:
    """Do with a trained run what one of its experiment's commands does."""
    having = catalogue.commands()[word]
    folders = [each for each in arguments if not each.startswith("-")]
    if arguments and folders[:1] == arguments[:1]:
        folders = arguments[:1]  # what stands after it may be the value of a flag
    if asks_for_help(arguments):
        (command, *_) = (catalogue.load(name).commands[word] for name in having)
        print("\n".join([f"{command.help}: ./launch.sh {word} DIR", *help_lines(command.flags)]))
        return 0
    if len(folders) != 1:
        raise UserError(
            f"{word}: expected one run directory, as in ./launch.sh {word} "
            f"runs/{having[0]}/default, got {len(folders)}."
        )
    at = arguments.index(folders[0])
    return use_run(word, folders[0], arguments[:at] + arguments[at + 1 :])


def use_run(word: str, folder: str, arguments: list[str]) -> int:
    """Write out, piece by piece, what a command makes of a trained run."""
    from experiments.harness.runs import load_run, read_experiment

    known = getattr(read_experiment(Path(folder).expanduser()), "commands", {})
    if word not in known:
        raise UserError(f"{word}: the experiment of the run in {folder} has no such command.")
    (flags,) = read_flags(arguments, known[word].flags)
    for piece in known[word].run(load_run(folder), flags):
        print(piece, end="", flush=True)
    print()
    return 0


def run(experiment: str, arguments: list[str]) -> int:
    """Train an experiment, go on with it, or say that it is finished."""
    if experiment not in catalogue.experiments():
        hint = did_you_mean(experiment, [*catalogue.experiments(), *catalogue.commands()])
        known = ", ".join(catalogue.experiments())
        raise UserError(f"There is no experiment {experiment!r}; choose from {known}.{hint}")
    prepare_devices(early_flags(arguments, Hardware).devices)
    module = catalogue.load(experiment)
    if asks_for_help(arguments):
        print(help_page(experiment, module))
        return 0
    launch, hardware, asked = read_flags(arguments, Launch, Hardware, module.Config)
    processes.check(hardware)
    if processes.are_to_be_started(hardware):
        return supervisor.supervise([experiment, *arguments], hardware.processes)
    from experiments.harness import run as runs

    return runs.main(
        runs.Asked(
            experiment=experiment,
            module=module,
            config=asked,
            folder=run_directory(experiment, launch, default_name(asked)),
            overwrite=launch.overwrite,
            hardware=hardware,
            command=command_line(experiment, *arguments),
        )
    )


def command_line(*words: str) -> str:
    """Return the command that runs the same again, whichever of several processes this one is."""
    return shlex.join(
        ["./launch.sh", *(w for w in words if not re.match("--?(process|coordinator)=", w))]
    )


def sweep(arguments: list[str]) -> int:
    """Train many configurations of an experiment together."""
    from experiments.sweep import axes, flags

    word, *rest = arguments or [""]
    if asks_for_help([word]):
        word, rest = DEFAULT, arguments
    if not word or word.startswith("-"):
        raise UserError("sweep: say which experiment, as in ./launch.sh sweep sequential_digits.")
    sharing = processes.on_this_machine(early_flags(rest, Group))
    prepare_devices(max(1, cores() // sharing))
    module = catalogue.load(word)
    if asks_for_help(rest):
        print(sweep_help(module))
        return 0
    texts, others = take_repeated("--sweep=", rest)
    if {"--sweep", "-sweep"} & set(others):
        raise UserError("--sweep: write it as one word, --sweep=FIELD=VALUES.")
    launch, group, settings, base = read_flags(others, Launch, Group, flags.Settings, module.Config)
    processes.check(group)
    swept = axes.read_axes(texts, config.options(module.Config))
    for axis in swept:
        if any(re.match(f"--?(no)?{axis.field}(=|$)", other) for other in others):
            raise UserError(f"--{axis.field}: it is swept too; give it once.")
    if processes.are_to_be_started(group):
        return supervisor.supervise(["sweep", *arguments], group.processes)
    asked = flags.Sweep(word, module, base, swept, settings, command_line("sweep", *arguments))
    name = default_name(base, settings, sweep=",".join(texts).replace(":", "_"))
    return run_sweep(asked, run_directory(f"sweep/{word}", launch, name), group, launch.overwrite)


def early_flags(arguments: list[str], cls: Any) -> Any:
    """Return what the command line says of one dataclass, before the experiment is imported."""
    own = "|".join(config.options(cls))
    (found,) = read_flags([w for w in arguments if re.match(f"--?({own})=", w)], cls)
    return found


def prepare_devices(count: int) -> None:
    """Give the CPU its devices, which must come before an experiment makes its first array."""
    from experiments.harness.devices import set_cpu_devices

    set_cpu_devices(count)


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_sweep(asked: Any, folder: Path, group: Group, overwrite: bool) -> int:
    """Train a sweep on all cores or devices of this process."""
    from experiments.harness.devices import keep_compiled_programs

    keep_compiled_programs()
    processes.join(group)
    from experiments.sweep import run as sweeps

    return sweeps.main(asked, folder, overwrite)


def sweep_help(module: Any) -> str:
    """Return the sweep's own flags; then the experiment's, any of which can be swept."""
    from experiments.sweep import axes, flags, run

    lines = [f"{run.__doc__}".strip(), "", "Flags of every sweep:"]
    lines += [f"   --sweep=FIELD=VALUES   may be repeated; VALUES are {axes.FORMS}"]
    lines += [*help_lines(flags.Settings), *help_lines(Group)]
    lines += ["", "Flags of every run:", *help_lines(Launch)]
    lines += ["", "Fields (* sweep in one program, others in one for each value):"]
    return "\n".join([*lines, *help_lines(module.Config)])


def help_page(experiment: str, module: Any) -> str:
    """Return the experiment's fields, each with type, default and meaning; then the launcher's."""
    lines = [module.__doc__.strip(), "", f"Flags of {experiment} (* sweeps in one program):"]
    lines += [*help_lines(module.Config), "", "Flags of every run:", *help_lines(Launch)]
    lines += help_lines(Hardware)
    for word, command in getattr(module, "commands", {}).items():
        lines += ["", f"./launch.sh {word} DIR: {command.help}", *help_lines(command.flags)]
    return "\n".join(lines)


def run_directory(experiment: str, launch: Launch, name: str) -> Path:
    """Return where the run lives: --workdir, or runs/EXPERIMENT/NAME beside launch.sh."""
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
    """Return the changed fields, such as ``cell=gru,seed=1``; ``default`` where there are none."""
    changed = [
        f"{name}={getattr(each, name)}"
        for each in settings
        for name, field in config.options(each).items()
        if getattr(each, name) != field.default and name not in ("layout", "slots")
    ]
    changed = [*filter(None, [sweep]), *changed]
    name = re.sub(r"[^A-Za-z0-9._=,+-]", "-", ",".join(changed)) or "default"
    if len(name) <= 100:
        return name
    return f"{name[:80]}-{hashlib.sha256(','.join(changed).encode()).hexdigest()[:12]}"


if __name__ == "__main__":
    supervisor.end_with_the_supervisor()
    processes.ends_alone(lambda: main(sys.argv[1:]))
