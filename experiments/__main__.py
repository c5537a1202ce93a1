"""Start what a command line asks for: a run, a sweep, a report, a download, a comparison."""

import os
import re
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from experiments.harness import catalogue, config, help, processes, progress, streams, supervisor
from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.files import check_regular, path_of
from experiments.harness.flags import asks_for_help, read_flags, take_repeated
from experiments.harness.naming import (
    Launch,
    default_name,
    run_directory,
    runs_of,
    runs_of_ours,
)
from experiments.harness.processes import Group, Hardware

DEFAULT = "sequential_digits"
MOST_TRIED = 16  # devices of a CPU, each of which has the data
LARGEST = 2**24  # bytes of a file of --config


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    # JAX's QR on a CPU, which draws orthogonal kernels, is OpenBLAS's, whose threads wait by
    # spinning: beside other work 17 to 35 s for 16 LSTMs, in place of 0.04.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("RECURRENT_STARTED", str(time.time()))  # where launch.sh has not
    arguments, shows_all = without(arguments, "--traceback")
    try:
        check_working_directory()
        status = dispatch(arguments)
        sys.stdout.flush()
        return say_lost_output() or status
    except UserError as error:
        return refused(error, " ".join(str(error).split()), shows_all)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed again at exit
        return 141
    except BaseException as error:  # a file of the user's may raise its own kind
        from experiments.harness.mistakes import explained

        said = explained(error)
        if not said:
            raise
        return refused(error, said, shows_all)
    finally:
        progress.stop_clock()


def check_working_directory() -> None:
    """Raise `UserError` where relative paths lead nowhere."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise UserError("The working directory was deleted; change to another one.") from error


def say_lost_output() -> int:
    """Say that lines of stdout are lost, and return the exit status of that; 0 where none is."""
    reason = streams.refusal_of(sys.stdout)
    if reason:
        print(f"error: stdout cannot be written: {reason}.", file=sys.stderr)
    return 1 if reason else 0


def refused(error: BaseException, said: str, shows_all: bool) -> int:
    """Print an error in one line, after its traceback where that was asked for."""
    if shows_all:
        traceback.print_exception(error)
    print("error:", said, file=sys.stderr)
    return 2


def without(arguments: list[str], flag: str) -> tuple[list[str], bool]:
    """Return the arguments without a flag, and whether it was among them."""
    others = [word for word in arguments if word != flag]
    return others, len(others) < len(arguments)


def dispatch(arguments: list[str]) -> int:
    """Do what the command line says, without handling errors."""
    word, *rest = arguments or [DEFAULT]
    if word in ("help", "--help", "-h"):
        print(help.usage(DEFAULT, [*catalogue.commands()]))
        return 0
    if word in WORDS:
        return WORDS[word](rest)
    if word in catalogue.commands() or is_command_of_run(word, rest):
        return use(word, rest)
    if word.startswith("-"):
        return run(DEFAULT, arguments)
    return run(word, rest)


def is_command_of_run(word: str, rest: list[str]) -> bool:
    """Return whether a word that is no experiment stands before a run directory."""
    if catalogue.is_file(word) or word in catalogue.experiments():
        return False
    paths = [Path(os.path.expanduser(each), "config.json") for each in rest[:1]]
    return any(map(os.path.exists, paths))


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
        print(help.page_of_module(side_by_side))
        return 0
    folders = [word for word in arguments if not word.startswith("-")]
    flags_only = [word for word in arguments if word.startswith("-")]
    (settings,) = read_flags(flags_only, side_by_side.Settings)
    out = path_of(settings.out, "--out: ") if settings.out else side_by_side.beside(folders)
    side_by_side.compare(folders, out)
    print(f"report: {out}")
    return 0


def bench(arguments: list[str]) -> int:
    """Time our cells beside those of other libraries."""
    from experiments.bench import comparison

    if asks_for_help(arguments):
        print(help.page_of_module(comparison))
        return 0
    arguments, only_checks = without(arguments, "--check")  # as launch.sh does before it installs
    (settings,) = read_flags(arguments, comparison.Settings)
    if only_checks:
        comparison.check(settings)
        return 0
    folder = runs_of_ours() / "bench" / default_name(settings)
    if settings.out:
        folder = path_of(settings.out, "--out: ")
    return comparison.main(settings, folder, shlex.join(["./launch.sh", "bench", *arguments]))


def use(word: str, arguments: list[str]) -> int:
    """Do with a trained run what one of its experiment's commands does."""
    having = catalogue.commands().get(word, [])
    folders = [each for each in arguments if not each.startswith("-")]
    if arguments and folders[:1] == arguments[:1]:
        folders = arguments[:1]  # what stands after it may be the value of a flag
    if asks_for_help(arguments):
        print(help.page_of_command(word, folders, having))
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

    path = path_of(folder, f"{word}: ")
    known = read_experiment(path).commands
    if word not in known:
        having = f"it has {', '.join(known)}" if known else "it has none"
        raise UserError(
            f"{word}: the experiment of {folder} has no such command; {having}."
            + did_you_mean(word, known)
        )
    (flags,) = read_flags(arguments, known[word].flags)
    for piece in known[word].run(load_run(path), flags):
        print(piece, end="", flush=True)
    print()
    return 0


def info(arguments: list[str]) -> int:
    """Show what a run is, and what it came to."""
    from experiments.report.info import describe

    if asks_for_help(arguments) or len(arguments) != 1:
        raise UserError("info: expected one run directory, as in ./launch.sh info RUN_DIRECTORY.")
    print(describe(arguments[0]))
    return 0


def new(arguments: list[str]) -> int:
    """Write a file with an experiment of the user's own."""
    from experiments.harness.new import write_experiment

    if asks_for_help(arguments) or len(arguments) != 1:
        raise UserError("new: expected the path of a file, as in ./launch.sh new idea.py.")
    print(write_experiment(arguments[0]))
    return 0


def version(rest: list[str]) -> int:
    """Print the versions of the code and of what it stands on."""
    from experiments.harness.version import describe

    if rest:
        raise UserError(f"--version: expected nothing after it, got {rest[0]!r}.")
    print(describe())
    return 0


def completion(rest: list[str]) -> int:
    """Print a script for the shell that completes words and flags."""
    from experiments.harness.completion import script

    print(script(rest, [*WORDS, *catalogue.commands()]))
    return 0


def run(word: str, arguments: list[str]) -> int:
    """Train an experiment, go on with it, or say that it is finished."""
    catalogue.check_word(word, [*catalogue.commands(), *WORDS])
    hardware = early_flags(arguments, Hardware)
    prepare_devices(min(cores(), MOST_TRIED) if hardware.may_try else hardware.count)
    if not asks_for_help(arguments):
        progress.start_clock(hardware)
    experiment = catalogue.load(word)
    if asks_for_help(arguments):
        print(help.page_of(experiment))
        return 0
    cls = experiment.module.Config
    base = fields_of(early_flags(arguments, Launch).config, experiment)
    launch, hardware, asked = read_flags(arguments, Launch, Hardware, cls, base=base)
    processes.check(hardware)
    if processes.are_to_be_started(hardware):
        return supervisor.supervise([word, *arguments], hardware.processes)
    folder = run_directory(runs_of(experiment) / experiment.name, launch, default_name(asked))
    progress.say_preparing(experiment.name, hardware)
    from experiments.harness import run as runs

    return runs.main(
        runs.Asked(
            experiment=experiment,
            config=asked,
            folder=folder,
            overwrite=launch.overwrite,
            hardware=hardware,
            command=command_line(word, *arguments),
        )
    )


def fields_of(file: str, experiment: catalogue.Experiment) -> dict[str, Any]:
    """Return the fields of a JSON file, or of the ``config.json`` of a run; none without a file.

    Raises:
      UserError: where it cannot be read, is of another experiment, or has other fields.
    """
    if not file:
        return {}
    from experiments.harness import rundir
    from experiments.harness.runs import say_changes_of

    path = path_of(file, "--config: ")
    if not path.is_file():
        raise UserError(f"--config: there is no file {file!r}.")
    check_regular(path, "--config: ", LARGEST)
    found = rundir.read_json(path)
    if "experiment" in found and isinstance(found.get("config"), dict):
        if found["experiment"] != experiment.name:
            raise UserError(
                f"--config: {file} is of the experiment {found['experiment']!r}, not of "
                f"{experiment.name!r}."
            )
        say_changes_of(path, found, experiment)
        found = found["config"]
    return config.fields_from_json(f"--config: {file}", experiment.module.Config, found)


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
    group = early_flags(rest, Group)
    prepare_devices(max(1, cores() // processes.on_this_machine(group)))
    if not asks_for_help(rest):
        progress.start_clock(group)
    experiment = catalogue.load(word)
    if asks_for_help(rest):
        print(help.page_of_sweep(experiment))
        return 0
    cls = experiment.module.Config
    texts, others = take_repeated("--sweep=", rest)
    if {"--sweep", "-sweep"} & set(others):
        raise UserError("--sweep: write it as one word, --sweep=FIELD=VALUES.")
    fields = fields_of(early_flags(others, Launch).config, experiment)
    classes = (Launch, Group, flags.Settings, cls)
    launch, group, settings, base = read_flags(others, *classes, base=fields)
    processes.check(group)
    swept = axes.read_axes(texts, config.options(cls))
    for axis in swept:
        if any(re.match(f"--?(no)?{axis.field}(=|$)", other) for other in others):
            raise UserError(f"--{axis.field}: it is swept too; give it once.")
    if processes.are_to_be_started(group):
        return supervisor.supervise(["sweep", *arguments], group.processes)
    asked = flags.Sweep(experiment, base, swept, settings, command_line("sweep", *arguments))
    name = default_name(base, settings, sweep=",".join(texts).replace(":", "_"))
    folder = run_directory(runs_of(experiment) / "sweep" / experiment.name, launch, name)
    return run_sweep(asked, folder, group, launch.overwrite)


def early_flags(arguments: list[str], cls: Any) -> Any:
    """Return what the command line says of one dataclass, before the experiment is imported."""
    own = "|".join(config.options(cls))
    (found,) = read_flags([w for w in arguments if re.match(f"--?({own})=", w)], cls)
    return found


def prepare_devices(count: int) -> None:
    """Give the CPU its devices, which must come before an experiment makes its first array.

    Raises:
      UserError: where JAX cannot be imported with these environment variables.
    """
    try:
        from experiments.harness.devices import set_cpu_devices
    except ValueError as error:
        raise UserError(f"JAX refuses one of the variables JAX_...: {error}.") from error

    set_cpu_devices(count)


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_sweep(asked: Any, folder: Path, group: Group, overwrite: bool) -> int:
    """Train a sweep on all cores or devices of this process."""
    progress.say_preparing(f"sweep of {asked.experiment.name}", group)
    from experiments.harness.compiled import keep_compiled_programs

    keep_compiled_programs()
    processes.join(group)
    from experiments.sweep import run as sweeps

    return sweeps.main(asked, folder, overwrite)


WORDS = {
    "bench": bench,
    "completion": completion,
    "download": download,
    "info": info,
    "list": names,
    "new": new,
    "report": report,
    "sweep": sweep,
    "--version": version,
}


def start() -> None:
    """Run the command line of this process, and end it."""
    streams.open_streams()
    supervisor.end_with_the_supervisor()
    processes.ends_alone(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    start()
