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

from absl import flags

from experiments import catalogue, config, processes, supervisor
from experiments.config import Option, option
from experiments.errors import UserError, did_you_mean
from experiments.processes import Group, Hardware

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
    from experiments import comparing

    if asks_for_help(arguments):
        print("\n".join([f"{comparing.__doc__}", "Flags:", *help_lines(comparing.Settings)]))
        return
    folders = [word for word in arguments if not word.startswith("-")]
    flags_only = [word for word in arguments if word.startswith("-")]
    (settings,) = read_flags(flags_only, comparing.Settings)
    out = Path(settings.out or ROOT / "runs" / "report.html").expanduser()
    comparing.compare(folders, out)
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
    command = command_line(experiment, *arguments)
    return train(experiment, module, settings, folder, launch.overwrite, hardware, command)


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
    from experiments import loop, rundir

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
    from experiments import cells

    config, sources = dataclasses.asdict(settings), cells.source_hashes(settings)
    return {"experiment": experiment, "config": config, "sources": sources}


def sweep(arguments: list[str]) -> int:
    """Trains many settings of an experiment together."""
    from experiments.sweep import axes, request

    word, *rest = arguments or [""]
    if asks_for_help([word]):
        word, rest = DEFAULT, arguments
    if not word or word.startswith("-"):
        raise UserError("sweep: say which experiment, as in ./launch.sh sweep sequential_digits.")
    module = catalogue.load(word)
    if asks_for_help(rest):
        print(sweep_help(module, request.Settings))
        return 0
    texts, others = taken_off("--sweep=", rest)
    if {"--sweep", "-sweep"} & set(others):
        raise UserError("--sweep: write it as one word, --sweep=FIELD=VALUES.")
    classes = Launch, Group, request.Settings, module.Config
    launch, group, settings, base = read_flags(others, *classes)
    processes.check(group)
    swept = axes.read_axes(texts, config.options(module.Config))
    for axis in swept:
        if any(re.match(f"--?(no)?{axis.field}(=|$)", other) for other in others):
            raise UserError(f"--{axis.field}: it is swept too; give it once.")
    if processes.are_to_be_started(group):
        return supervisor.supervise(["sweep", *arguments], group.processes)
    command = command_line("sweep", *arguments)
    asked = request.Sweep(word, module, base, swept, settings, command)
    name = default_name(base, settings, sweep=",".join(texts).replace(":", "_"))
    folder = run_directory(f"sweep/{word}", launch, name)
    compile_cache()
    devices_of_cpu(max(1, cores() // processes.on_this_machine(group)))
    processes.join(group)
    from experiments.sweep import command as sweeps

    return sweeps.main(asked, folder, launch.overwrite)


def taken_off(flag: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """What a flag that may be repeated says each time, and the other arguments."""
    bare = flag.lstrip("-")
    own = [re.fullmatch(f"--?{bare}(.*)", word, re.S) for word in arguments]
    others = [word for word, match in zip(arguments, own, strict=True) if not match]
    return [match[1] for match in own if match], others


def devices_of_cpu(count: int) -> None:
    """Makes a CPU so many devices, unless JAX_NUM_CPU_DEVICES or XLA_FLAGS says otherwise."""
    import jax

    told = "JAX_NUM_CPU_DEVICES" in os.environ
    if not told and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", count)


def cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sweep_help(module: Any, settings: type) -> str:
    """The sweep's own flags; then the experiment's, any of which can be swept."""
    from experiments.sweep import axes, command

    lines = [f"{command.__doc__}".strip(), "", "Flags of every sweep:"]
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
    from experiments import loop, results, rundir

    identity = identity_of(experiment, settings)
    question = module.__doc__.partition("\n")[0]
    compile_cache()
    devices_of_cpu(hardware.devices)
    processes.join(hardware, hardware.devices)
    asked = {"workdir": str(folder.absolute()), "devices": hardware.devices, "overwrite": overwrite}
    processes.refuse_differences(rundir.flat(identity) | asked)
    mesh = loop.mesh_of(hardware.devices, settings)
    program = module.program(settings)  # first, since what it refuses must touch no earlier run
    loop.refuse_too_large(program, settings)
    with processes.by_the_first(rundir.claim(folder, identity, overwrite)):
        if (folder / "result.json").exists():
            result = rundir.read_json(folder / "result.json")
            if (folder / "report.html").exists():
                return say_finished(folder, result)
            print("This run is finished, but its report is missing: it is made again.")
        try:
            outcome = loop.train(program, settings, folder, say_started(experiment, folder), mesh)
        except loop.Stopped as stop:
            print(f"{stop}; the same command goes on from there.", file=sys.stderr)
            return 128 + stop.signum
        except loop.Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 3
        if not processes.is_first():
            return 0
        result = results.finish(experiment, question, program, settings, outcome, folder, command)
    return say_result(folder, result)


def read_flags(arguments: list[str], *classes: type) -> list[Any]:
    """One value of each dataclass from the flags, every one typed and checked.

    Raises:
      UserError: for a flag that is unknown, repeated, ill-typed or out of bounds.
    """
    known = {name: field for cls in classes for name, field in config.options(cls).items()}
    values = flags.FlagValues()
    for name, field in known.items():
        define(values, name, field)
    for special in ("flagfile", "undefok"):
        if any(re.match(f"--?{special}(=|$)", word) for word in arguments):
            raise UserError(f"There is no flag --{special}. See --help.")
    try:
        _, *extra = values(["launch.sh", *arguments])
    except flags.UnrecognizedFlagError as error:
        hint = did_you_mean(error.flagname, known)
        raise UserError(f"There is no flag --{error.flagname}.{hint} See --help.") from error
    except flags.Error as error:
        raise UserError(f"{error}") from error
    for name in known:
        if values[name].present > 1:
            raise UserError(f"--{name}: expected one value, got {values[name].present}.")
    if extra:
        raise UserError(f"Unexpected argument {extra[0]!r}: flags are written --name=value.")
    given = {name: values[name].value for name in known if values[name].present}
    return [cls(**{n: given[n] for n in config.options(cls) if n in given}) for cls in classes]


class _Parser(flags.ArgumentParser):
    def __init__(self, name: str, field: Option):
        self.name, self.field = name, field

    def parse(self, argument: Any) -> Any:
        return config.parse(self.name, self.field, argument)


def define(values: flags.FlagValues, name: str, field: Option) -> None:
    """Adds the flag of one option."""
    if field.type is bool:
        flags.DEFINE_boolean(name, None, field.help, flag_values=values)
    else:
        flags.DEFINE(_Parser(name, field), name, None, field.help, flag_values=values)


def help_page(experiment: str, module: Any) -> str:
    """The experiment's fields, each with type, default and meaning; then the launcher's own."""
    lines = [module.__doc__.strip(), "", f"Flags of {experiment} (* sweeps in one program):"]
    lines += [*help_lines(module.Config), "", "Flags of every run:", *help_lines(Launch)]
    lines += help_lines(Hardware)
    if hasattr(module, "Use"):
        lines += ["", "Flags of a trained run:", *help_lines(module.Use)]
    return "\n".join(lines)


def asks_for_help(arguments: list[str]) -> bool:
    """Whether the flags are to be listed."""
    return any(word in ("--help", "-h", "--helpfull") for word in arguments)


def help_lines(cls: type) -> list[str]:
    """The flags of a dataclass."""
    return [help_line(*item) for item in config.options(cls).items()]


def help_line(name: str, field: Option) -> str:
    """One flag's type, default, bounds and meaning."""
    kinds = {int: "whole number", float: "number", bool: "true/false", str: "text"}
    kind = "|".join(field.choices) or kinds[field.type]
    star = "*" if field.traced else " "
    default = f'"{field.default}"' if field.type is str else str(field.default).lower()
    return f" {star} --{name:16} {kind}, default {default}\n{'':22} {field.help}"


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


def compile_cache() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where already."""
    import jax

    from experiments.data.cache import cache_dir

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
