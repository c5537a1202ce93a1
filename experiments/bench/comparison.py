"""Compare the speed of our cells with that of other libraries, on what JAX finds here.

All take turns in one process: ours, PyTorch (oneDNN on a CPU, cuDNN on a GPU), Flax linen and nnx,
Haiku, Equinox, Keras on JAX, a plain jax.lax.scan and, on a GPU, jax.experimental.rnn. The cells
are LSTM, GRU and Elman. The measurements are forward, forward + backward, and a whole step of Adam.
All start from the same weights, and a library is timed only if it agrees with a float64 reference.
An ablation then explains the speed of our LSTM change by change, a third part measures time and
memory of long sequences against T, and a fourth many networks at once, as in a sweep.

Writes bench.json, bench.md and figures, replacing those of an earlier run in the same folder. On
two cores a full run takes about 20 minutes, --quick about one. Leave the machine idle meanwhile.
JAX_PLATFORMS=cpu measures the processor of a machine that has a GPU.
"""

import dataclasses
import gc
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.bench import selection
from experiments.bench.cases import MEASURES, Case, cases, flop, quick_cases
from experiments.bench.libraries import LIBRARIES, OURS, SHARDED
from experiments.bench.precision import LARGEST_ERRORS, PRECISIONS, measures
from experiments.bench.selection import Selection, has
from experiments.harness.config import option
from experiments.harness.errors import UserError

Result = dict[str, Any]
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hold the flags of the comparison."""

    quick: bool = option(
        False, "measure a few small cases for less time; without --only, only the table"
    )
    only: str = option(
        "",
        "words separated by commas, such as lstm,backward,28x32x28x128; a row is measured if it "
        "matches a word of every kind that is given\n"
        + "\n".join(
            f"{'':24}{kind}: {', '.join(words)}{', or others' * (kind == 'shape')}"
            for kind, words in selection.WORDS.items()
        ),
        check=selection.read,
    )
    seconds: float = option(0.5, "how long rounds continue, per program", minimum=0, maximum=3600)
    repeats: int = option(7, "minimum number of rounds", minimum=2, maximum=10**6)
    drawn: int = option(
        0,
        "shapes drawn at random for each cell, on which our own choices are compared with others",
        minimum=0,
        maximum=10**4,
    )
    drawn_seed: int = option(0, "decides which shapes are drawn", minimum=0)
    precision: str = option(
        "float32", "of numbers and of products on a GPU", choices=tuple(PRECISIONS)
    )
    out: str = option("", "folder for the results, instead of runs/bench/NAME")


def main(settings: Settings, folder: Path, command: str) -> int:
    """Run the comparison, print its tables, and return the exit status."""
    from experiments.bench import tables

    try:
        result = run(settings, folder, command)
    except KeyboardInterrupt:
        print(f"Interrupted; the results so far are in {folder}.", file=sys.stderr)
        return 130
    print(tables.page(result))
    print(f"results: {folder / 'bench.md'}")
    return 0


def run(settings: Settings, folder: Path, command: str) -> Result:
    """Measure what the settings select, writing the results so far after each case.

    Raises:
      UserError: if ``--only`` leaves nothing to measure, or the folder cannot be created.
    """
    from experiments.bench import libraries, peak

    prepare(settings.precision)
    modules, missing = libraries.installed()
    result = beginning(settings, command, missing)
    if settings.quick:
        settings = dataclasses.replace(settings, seconds=settings.seconds / 5, repeats=5)
    todo = check(settings, modules)
    for name, why in missing.items():
        print(f"{LIBRARIES[name].title} is skipped: {why}.")
    make_folder(folder)
    rates = partial(peak.measure, "torch" in modules, settings.precision, settings.repeats)
    result["peak_gflops"].append(rates())
    began = time.monotonic()
    try:
        for number, (part, title, job) in enumerate(todo, start=1):
            result[part] += job()
            write(result, folder)
            seconds = time.monotonic() - began
            print(f"[{number}/{len(todo)}] {title} ({seconds:.0f} s)", flush=True)
        result["peak_gflops"].append(rates())
    finally:
        gc.unfreeze()
        write(result, folder)
        draw(result, folder)
    return result


def check(settings: Settings, modules: dict[str, Any] | None = None) -> list[Any]:
    """Return the jobs that the settings select, of all libraries or of those installed.

    Raises:
      UserError: where there are none.
    """
    todo = list(
        jobs(settings, selected(settings), dict.fromkeys(LIBRARIES) if modules is None else modules)
    )
    if not todo and selected(settings).get("part") == {"drawn"}:
        raise UserError("--only=drawn: say how many shapes to draw for each cell: --drawn=60.")
    if not todo:
        measured = " of --quick" if settings.quick else ""
        raise UserError(f"--only={settings.only}: expected words that match a case{measured}.")
    return todo


def make_folder(folder: Path) -> None:
    """Create the folder of the results, before anything is measured.

    Raises:
      UserError: if the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={folder}: expected a folder to write to; {error}.") from error


def prepare(name: str) -> None:
    """Set equal conditions for all libraries: one precision, all cores, no compilation cache.

    On a CPU, JAX gets one device per core, of which all programs but `with_sharded` use the first.
    If JAX has already run in this process, its devices stay as they are.

    Args:
      name: a key of `experiments.bench.precision.PRECISIONS`.
    """
    import jax

    from experiments.bench import machine, memory, precision

    with_torch = importlib.util.find_spec("torch") is not None
    precision.choose(name, with_torch)
    jax.config.update("jax_enable_compilation_cache", False)
    with suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", machine.cores())
    memory.configure_allocator()
    if with_torch:
        import torch  # pyright: ignore[reportMissingImports]

        torch.set_num_threads(machine.cores())
    gc.freeze()  # so that no collection scans the objects of the libraries themselves


def beginning(settings: Settings, command: str, missing: dict[str, str]) -> Result:
    """Return the result before the first measurement."""
    from experiments.bench import libraries, machine

    return {
        "command": command,
        "settings": dataclasses.asdict(settings),
        "machine": machine.describe(),
        "versions": libraries.versions(),
        "missing": missing,
        "peak_gflops": [],
        "table": [],
        "ablation": [],
        "long": [],
        "populations": [],
        "drawn": [],
    }


def selected(settings: Settings) -> Selection:
    """Return what ``--only`` selects; ``--quick`` without ``--only`` selects the table."""
    return selection.read(settings.only or ("table" if settings.quick else ""))


def jobs(
    settings: Settings, wanted: Selection, modules: dict[str, Any]
) -> Iterator[tuple[str, str, Callable[[], Rows]]]:
    """Yield what to measure: the part, the title of the case, and a function that measures it."""
    from experiments.bench import ablation, drawn, long, populations

    few = slice(1 if settings.quick else None)
    if has(wanted, part="table"):
        for case in quick_cases() if settings.quick else cases(selection.shapes(wanted)):
            if has(wanted, cell=case.cell, shape=str(case.shape), form=case.form):
                yield "table", str(case), partial(table_rows, settings, wanted, modules, case)
    if has(wanted, part="ablation"):
        for case in ablation.CASES[few]:
            yield "ablation", f"ablation {case.shape}", partial(ablation_rows, settings, case)
    if has(wanted, part="long"):
        names = list(long.methods())
        for steps in long.TIMES[few]:
            yield "long", f"long {steps}", partial(long_rows, settings, names, steps)
    if has(wanted, part="populations"):
        for case in populations.CASES[few]:
            names = populations.methods(modules)
            for members in populations.MEMBERS[: 2 if settings.quick else None]:
                job = partial(population_rows, settings, names, modules, case, members)
                yield "populations", f"{members} of {case.shape}", job
    if has(wanted, part="drawn"):
        for case in drawn.drawn_cases(settings.drawn, settings.drawn_seed):
            yield "drawn", f"drawn {case.cell} {case.shape}", partial(drawn_rows, settings, case)


def table_rows(settings: Settings, wanted: Selection, modules: dict[str, Any], case: Case) -> Rows:
    """Measure a case with all selected libraries that have its cell, in all measurements."""
    from experiments.bench import libraries
    from experiments.bench.precision import rounded
    from experiments.bench.reference import expected
    from experiments.bench.weights import draw

    weights, xs = rounded(settings.precision, *draw(case))
    right = cache(partial(expected, case, weights, xs))

    def made(module: ModuleType, measure: str) -> Any:
        program = libraries.program(module, case, weights, xs, measure)
        return program, right(libraries.reset_of(module))[measure]

    here = {
        name: module
        for name, module in modules.items()
        if has(wanted, library=name) and libraries.has(module, case, settings.precision)
    }
    rows = []
    for measure in measures(settings.precision, MEASURES):
        if has(wanted, measure=measure):
            each = {name: partial(made, module, measure) for name, module in here.items()}
            rows += measured(settings, about(case, measure), each, (OURS, SHARDED))
    return rows


def measured(settings: Settings, about: Result, made: Any, against: Sequence[str]) -> Rows:
    """Compare programs as the settings say; see `experiments.bench.compare.compare`."""
    from experiments.bench.compare import compare

    allowed = LARGEST_ERRORS[settings.precision]
    return compare(about, made, settings.seconds, settings.repeats, against, allowed)


def ablation_rows(settings: Settings, case: Case) -> Rows:
    """Measure all variants of the ablation, forward + backward."""
    from experiments.bench import ablation
    from experiments.bench.precision import rounded
    from experiments.bench.program import jax_program
    from experiments.bench.reference import expected
    from experiments.bench.weights import draw

    weights, xs = rounded(settings.precision, *draw(case))
    right = expected(case, weights, xs)["backward"]

    def made(build: Any) -> Any:
        return jax_program(build(case, weights), xs, "backward"), right

    each = {name: partial(made, build) for name, build in ablation.variants().items()}
    return measured(settings, about(case, "backward"), each, [ablation.PLAIN])


def long_rows(settings: Settings, names: list[str], steps: int) -> Rows:
    """Measure all methods on one sequence, and remove from ``names`` those too slow to go on."""
    from experiments.bench import long

    each = {name: partial(long.program, name, steps) for name in names}
    few = dataclasses.replace(settings, repeats=min(3, settings.repeats))
    rows = measured(few, {"time": steps}, each, [long.LSTM])
    names[:] = fast_enough(rows, long.SLOW)
    return rows


def population_rows(
    settings: Settings, names: list[str], modules: dict[str, Any], case: Case, members: int
) -> Rows:
    """Measure all methods on a number of members, and remove those too slow to go on."""
    from experiments.bench import populations

    precision = settings.precision
    each = {
        name: partial(populations.program, name, case, members, precision, modules)
        for name in names
    }
    few = dataclasses.replace(settings, repeats=min(3, settings.repeats))
    fields = about(case, "backward") | {"members": members}
    rows = measured(few, fields, each, [populations.ONE_BY_ONE])
    names[:] = fast_enough(rows, populations.SLOW)
    return rows


def drawn_rows(settings: Settings, case: Case) -> Rows:
    """Measure all ways of a case, and note which of them the library chooses."""
    from experiments.bench import drawn
    from experiments.bench.reference import expected
    from experiments.bench.weights import draw

    weights, xs = draw(case)
    right = cache(partial(expected, case, weights, xs))
    rows: Rows = []
    for measure in drawn.MEASURES:

        def made(way: str, measure: str = measure) -> Any:
            return drawn.program(case, weights, xs, measure, way), right()[measure]

        each = {way: partial(made, way) for way in drawn.ways_of(case, measure)}
        chosen = drawn.chosen_way(case, weights, xs, measure)
        rows += measured(settings, about(case, measure) | {"chosen": chosen}, each, [chosen])
    return rows


def fast_enough(rows: Rows, seconds: float) -> list[str]:
    """Return the names of the rows that were measured and took less than so many seconds."""
    return [row["name"] for row in rows if "seconds" in row and row["seconds"][0] < seconds]


def about(case: Case, measure: str) -> dict[str, Any]:
    """Return the fields by which a row describes its case."""
    shape = case.shape._asdict()
    return {
        "cell": case.cell,
        **shape,
        "form": case.form,
        "measure": measure,
        "flop": flop(case, measure),
    }


def write(result: Result, folder: Path) -> None:
    """Write bench.json and bench.md, with each row's share of peak FLOP/s."""
    from experiments.bench import tables
    from experiments.harness.files import write_atomically

    highest = max(
        (rate for rates in result["peak_gflops"] for rate in rates.values()), default=None
    )
    for row in [*result["table"], *result["ablation"]]:
        if highest and "seconds" in row:
            row["share"] = row["flop"] / row["seconds"][0] / 1e9 / highest
    write_atomically(folder / "bench.json", json.dumps(result, indent=1) + "\n")
    write_atomically(folder / "bench.md", tables.page(result))


def draw(result: Result, folder: Path) -> None:
    """Draw the figures of the result into the folder."""
    from experiments.bench import figures

    for name, figure in figures.all_of(result).items():
        figure.savefig(folder / f"{name}.png")
