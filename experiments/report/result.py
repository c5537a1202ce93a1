"""Leave what a finished run leaves: figures, the report page and ``result.json``."""

import functools
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from experiments.harness import rundir
from experiments.harness.catalogue import Experiment
from experiments.harness.config import options
from experiments.harness.program import Exhibit, Figure, Finished, Program, Row
from experiments.harness.version import code_version
from experiments.report.info import is_trained
from experiments.report.page import write_report

NORM = "gradient_norm/"  # and a layer, in the name of a metric
CURVES = "learning_curves"  # an experiment's own exhibit of this name takes the place of ours


def finish(experiment: Experiment, program: Program, asked: Any, trained: Any) -> dict[str, Any]:
    """Draw, report and return the result of a run that has ended.

    ``result.json`` is written last: where it is, the run is complete.
    """
    found = final_numbers(experiment, program, asked.config, trained)
    write = functools.partial(
        write_report,
        asked.folder / "report.html",
        title=experiment.name,
        question=experiment.question,
        headline=headline(program, found),
        folder=asked.folder / "figures",
        result=found,
        config={
            name: (getattr(asked.config, name), field.default, field.help)
            for name, field in options(asked.config).items()
        },
        commands={"Run it again": asked.command},
    )
    try:
        write(exhibits=with_learning_curves(program, trained.finished))
    except OSError:
        raise
    except (Exception, SystemExit) as error:  # whatever the experiment's own drawing raises
        reason = f"{type(error).__name__}: {error}"
        print(
            f"warning: the exhibits cannot be drawn ({reason}); the page is without them.",
            file=sys.stderr,
        )
        write(exhibits=[curves_of(program, trained.finished)])
    rundir.write_json(asked.folder / "result.json", found)
    return found


def with_learning_curves(program: Program, finished: Finished) -> Iterator[Exhibit]:
    """Yield the experiment's own exhibits, after learning curves if these are not among them.

    The norms of layers' gradients come last, where they were logged.
    """
    own = list(program.exhibits(finished))
    if all(each.name != CURVES for each in own):
        yield curves_of(program, finished)
    yield from own
    yield from norms_by_layer(finished.rows)


def norms_by_layer(rows: Sequence[Row]) -> Iterator[Figure]:
    """Draw the norms that `log_layers` has logged; one figure for each network that has such."""
    from experiments.figures.layers import layer_curves

    names = list(dict.fromkeys(name for row in rows for name in row if NORM in name))
    for start in dict.fromkeys(name.partition(NORM)[0] for name in names):
        own = {name: name.partition(NORM)[2] for name in names if name.partition(NORM)[0] == start}
        network = start.removeprefix("train_").strip("_")
        yield Figure(
            f"{network}_gradient_norms".strip("_"),
            f"Gradients of each layer {network and f'of the {network}'}".strip(),
            "The norm of each layer's gradient before any clipping, mean over the steps since the "
            "evaluation before. Lines far apart: some layers learn much faster than others.",
            layer_curves(rows, own),
        )


def curves_of(program: Program, finished: Finished) -> Figure:
    """Draw the metrics that people compare, evaluation by evaluation."""
    from experiments.figures.curves import learning_curves

    caption = "Training metrics are means over the steps since the evaluation before."
    if finished.best_step:
        caption += (
            " The dashed line marks the best evaluation, by the validation "
            f"{program.select.name}, whose weights were kept."
        )
    drawn = learning_curves(finished.rows, program.metrics, finished.best_step)
    return Figure(CURVES, "Learning curves", caption, drawn)


def final_numbers(
    experiment: Experiment, program: Program, config: Any, trained: Any
) -> dict[str, Any]:
    """Return the flat object of ``result.json``."""
    outcome, leaves = trained.outcome, jax.tree.leaves(trained.finished.kept)
    measured = {
        name: value for name, value in outcome.items() if name.startswith(("test_", "valid_"))
    }
    return {
        "experiment": experiment.name,
        "seed": config.seed,
        "steps": outcome["step"],
        "evaluations": len(trained.finished.rows),
        "best_step": outcome["best_step"],
        **dict(sorted(measured.items())),
        **selected_by(program),
        "parameters": sum(leaf.size for leaf in leaves if is_trained(leaf)),
        "train_seconds": round(trained.seconds, 3),
        **when_and_where(experiment, trained.devices),
    }


def selected_by(program: Program) -> dict[str, Any]:
    """Return what tells readers of ``result.json`` which metric counts, and in which direction."""
    return {
        "select": program.select.name,
        "higher_is_better": program.select.higher_is_better,
        "report": program.report.name,
    }


def when_and_where(experiment: Experiment, devices: int = 0) -> dict[str, Any]:
    """Return what stands at the end of every ``result.json``.

    Args:
      experiment: what was trained.
      devices: how many of them trained it; 0 for all.
    """
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **code_version(experiment.file),
        "python": platform.python_version(),
        "device": f"{devices or jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def headline(program: Program, found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the few numbers that the report shows large."""
    report = program.report
    return [
        (
            f"test {report.name} at its best evaluation",
            report.text(found.get(f"test_{report.name}")),
        ),
        ("training, compiling included", f"{found['train_seconds']:.1f} s"),
        ("steps", f"{found['steps']:,}"),
        ("parameters", f"{found['parameters']:,}"),
    ]
