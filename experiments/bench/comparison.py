"""How fast are our cells beside those of other libraries, on this machine's processor?

Side by side in one process, in turns: ours, PyTorch (oneDNN), Flax linen and nnx, Haiku, Equinox,
Keras on JAX, and a plain jax.lax.scan; LSTM, GRU and Elman; forward, forward + backward, a whole
step of Adam. From the same weights, a library must first agree with a float64 reference. Then an
ablation, which gives each factor its cause, and long sequences: time and memory against T.

Writes bench.json, bench.md and pictures; what an earlier run left in the same folder is replaced.
On two cores a full run takes about 20 minutes, --quick about one. Leave the machine alone
meanwhile. Everything runs on the CPU.
"""

import dataclasses
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.bench import selection
from experiments.bench.cases import MEASURES, Case, cases, flop, quick_cases
from experiments.bench.peers import OURS, PEERS, SHARDED
from experiments.bench.selection import Selection, has
from experiments.harness.config import option
from experiments.harness.errors import UserError

Result = dict[str, Any]
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of the comparison."""

    quick: bool = option(
        False, "a few small cases, and less time for each; without --only the table alone"
    )
    only: str = option(
        "",
        "words with commas between, such as lstm,backward,28x32x28x128; a row needs one of the "
        "words of each kind given\n"
        + "\n".join(
            f"{'':24}{kind}: {', '.join(words)}" for kind, words in selection.WORDS.items()
        ),
        check=selection.read,
    )
    seconds: float = option(
        0.5, "rounds go on until they took so long for each program", minimum=0, maximum=3600
    )
    repeats: int = option(7, "at least so many rounds", minimum=2, maximum=10**6)
    out: str = option("", "the folder of the results, instead of runs/bench/NAME")


def main(settings: Settings, folder: Path, command: str) -> int:
    """Measures, prints the tables, and returns the exit status."""
    from experiments.bench import tables

    try:
        result = run(settings, folder, command)
    except KeyboardInterrupt:
        print(f"Interrupted; what was measured is in {folder}.", file=sys.stderr)
        return 130
    print(tables.page(result))
    print(f"results: {folder / 'bench.md'}")
    return 0


def run(settings: Settings, folder: Path, command: str) -> Result:
    """Measures what the settings say; writes after each case what there is.

    Raises:
      UserError: where ``--only`` leaves nothing to measure.
    """
    from experiments.bench import ceiling, peers

    modules, missing = peers.installed()
    result = beginning(settings, command, missing)
    if settings.quick:
        settings = dataclasses.replace(settings, seconds=settings.seconds / 5, repeats=5)
    todo = list(jobs(settings, selected(settings), modules))
    if not todo:
        few = ", of the few that --quick measures," if settings.quick else ""
        raise UserError(f"--only={settings.only}: expected words that some case{few} has all of.")
    for name, why in missing.items():
        print(f"{PEERS[name].title} is left out: {why}.")
    make_folder(folder)
    prepare("torch" in modules)
    rates = partial(ceiling.measure, "torch" in modules, settings.repeats)
    result["ceiling"].append(rates())
    began = time.monotonic()
    try:
        for number, (part, title, job) in enumerate(todo, start=1):
            result[part] += job()
            write(result, folder)
            seconds = time.monotonic() - began
            print(f"[{number}/{len(todo)}] {title} ({seconds:.0f} s)", flush=True)
        result["ceiling"].append(rates())
    finally:
        gc.unfreeze()
        write(result, folder)
        draw(result, folder)
    return result


def make_folder(folder: Path) -> None:
    """The folder of the results, before anything is measured.

    Raises:
      UserError: where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={folder}: expected a folder to write to; {error}.") from error


def prepare(with_torch: bool) -> None:
    """The same ground for all: the CPU, all of its cores, nothing compiled beforehand.

    And a device of JAX for each core, of which all but `with_sharded` use the first. Where JAX has
    run before in this process the devices are those that it had.
    """
    import jax

    from experiments.bench import machine, memory

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", machine.cores())
    memory.settle_allocator()
    if with_torch:
        import torch  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(machine.cores())
    gc.freeze()  # the libraries themselves, which each collection would go through


def beginning(settings: Settings, command: str, missing: dict[str, str]) -> Result:
    """A result without a measurement."""
    from experiments.bench import machine, peers

    return {
        "command": command,
        "settings": dataclasses.asdict(settings),
        "machine": machine.describe(),
        "versions": peers.versions(),
        "missing": missing,
        "ceiling": [],
        "table": [],
        "ablation": [],
        "long": [],
    }


def selected(settings: Settings) -> Selection:
    """What --only says; --quick by itself means the table alone."""
    return selection.read(settings.only or ("table" if settings.quick else ""))


def jobs(
    settings: Settings, wanted: Selection, modules: dict[str, ModuleType]
) -> Iterator[tuple[str, str, Callable[[], Rows]]]:
    """What is to be measured: the part, the case's name, and a function for its rows."""
    from experiments.bench import ablation, long

    few = slice(1 if settings.quick else None)
    if has(wanted, part="table"):
        for case in quick_cases() if settings.quick else cases():
            if has(wanted, cell=case.cell, shape=str(case.shape), form=case.form):
                yield "table", str(case), partial(table_rows, settings, wanted, modules, case)
    if has(wanted, part="ablation"):
        for case in ablation.CASES[few]:
            yield "ablation", f"ablation {case.shape}", partial(ablation_rows, settings, case)
    if has(wanted, part="long"):
        names = list(long.methods())
        for steps in long.TIMES[few]:
            yield "long", f"long {steps}", partial(long_rows, settings, names, steps)


def table_rows(
    settings: Settings, wanted: Selection, modules: dict[str, ModuleType], case: Case
) -> Rows:
    """All libraries that have the cell, in all measurements."""
    from experiments.bench import peers
    from experiments.bench.compare import compare
    from experiments.bench.reference import expected
    from experiments.bench.weights import draw

    weights, xs = draw(case)
    right = cache(partial(expected, case, weights, xs))

    def made(module: ModuleType, measure: str) -> Any:
        program = peers.program(module, case, weights, xs, measure)
        return program, right(peers.reset_of(module))[measure]

    here = {
        name: module
        for name, module in modules.items()
        if has(wanted, library=name) and peers.has(module, case)
    }
    rows = []
    for measure in MEASURES:
        if has(wanted, measure=measure):
            each = {name: partial(made, module, measure) for name, module in here.items()}
            rows += compare(
                about(case, measure), each, settings.seconds, settings.repeats, (OURS, SHARDED)
            )
    return rows


def ablation_rows(settings: Settings, case: Case) -> Rows:
    """All variants, forward + backward."""
    from experiments.bench import ablation
    from experiments.bench.compare import compare
    from experiments.bench.program import jax_program
    from experiments.bench.reference import expected
    from experiments.bench.weights import draw

    weights, xs = draw(case)
    right = expected(case, weights, xs)["backward"]

    def made(build: Any) -> Any:
        return jax_program(build(case, weights), xs, "backward"), right

    each = {name: partial(made, build) for name, build in ablation.variants().items()}
    names = about(case, "backward")
    return compare(names, each, settings.seconds, settings.repeats, [ablation.PLAIN])


def long_rows(settings: Settings, names: list[str], steps: int) -> Rows:
    """All methods on one sequence; names of those too slow for longer ones are taken out."""
    from experiments.bench import long
    from experiments.bench.compare import compare

    each = {name: partial(long.program, name, steps) for name in names}
    rows = compare({"time": steps}, each, settings.seconds, min(3, settings.repeats), [long.LSTM])
    names[:] = [row["name"] for row in rows if "seconds" in row and row["seconds"][0] < long.SLOW]
    return rows


def about(case: Case, measure: str) -> dict[str, Any]:
    """What a row says of its case."""
    shape = case.shape._asdict()
    return {
        "cell": case.cell,
        **shape,
        "form": case.form,
        "measure": measure,
        "flop": flop(case, measure),
    }


def write(result: Result, folder: Path) -> None:
    """bench.json and bench.md."""
    from experiments.bench import tables
    from experiments.harness.files import write_atomically

    highest = max((rate for rates in result["ceiling"] for rate in rates.values()), default=None)
    for row in [*result["table"], *result["ablation"]]:
        if highest and "seconds" in row:
            row["share"] = row["flop"] / row["seconds"][0] / 1e9 / highest
    write_atomically(folder / "bench.json", json.dumps(result, indent=1) + "\n")
    write_atomically(folder / "bench.md", tables.page(result))


def draw(result: Result, folder: Path) -> None:
    """The pictures of what was measured."""
    from experiments.bench import pictures

    for name, figure in pictures.all_of(result).items():
        figure.savefig(folder / f"{name}.png")
