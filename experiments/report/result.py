"""What a finished run leaves: result.json, pictures and the report page."""

import platform
import time
from pathlib import Path
from typing import Any

import jax

from experiments.harness import rundir
from experiments.harness.config import TrainingConfig, options
from experiments.harness.loop import Outcome, means
from experiments.harness.program import Program
from experiments.report.page import write_report


def finish(
    experiment: str,
    question: str,
    program: Program,
    config: TrainingConfig,
    outcome: Outcome,
    folder: Path,
    command: str,
) -> dict[str, Any]:
    """Reads the test split, once, with the best params; draws, reports and returns the result.

    ``result.json`` is written last: where it is, the run is complete.
    """
    test = means(jax.jit(program.task.evaluate)(outcome.state.best_params, program.data["test"]))
    result = final_numbers(experiment, program, config, outcome, test)
    pictures = []
    (folder / "figures").mkdir(exist_ok=True)
    for picture in program.pictures(outcome.state.best_params, outcome.rows):
        file = folder / "figures" / f"{picture.name}.png"
        picture.figure.savefig(file)
        pictures.append((picture.heading, file, picture.caption))
    write_report(
        folder / "report.html",
        title=experiment,
        question=question,
        headline=headline(program, result),
        figures=pictures,
        result=result,
        config={
            name: (getattr(config, name), option.default, option.help)
            for name, option in options(config).items()
        },
        commands={"Run it again": command},
    )
    rundir.write_json(folder / "result.json", result)
    return result


def final_numbers(
    experiment: str,
    program: Program,
    config: TrainingConfig,
    outcome: Outcome,
    test: dict[str, float | None],
) -> dict[str, Any]:
    """The flat object of ``result.json``."""
    best = int(outcome.state.best_step)
    at_best = next((row for row in outcome.rows if row["step"] == best), {})
    leaves = jax.tree.leaves(outcome.state.best_params)
    return {
        "experiment": experiment,
        "seed": config.seed,
        "steps": int(outcome.state.train.step),
        "epochs": len(outcome.rows),
        "best_step": best,
        **{f"test_{name}": value for name, value in test.items()},
        **{name: value for name, value in at_best.items() if name.startswith("valid_")},
        "parameters": sum(leaf.size for leaf in leaves),
        "train_seconds": round(outcome.seconds, 3),
        **when_and_where(),
    }


def when_and_where() -> dict[str, str]:
    """What stands at the end of every ``result.json``."""
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def metric_text(metric: str, value: float | None) -> str:
    """A metric in few digits, an accuracy in per cent."""
    if value is None:
        return "not finite"
    return f"{value:.2%}" if metric == "accuracy" else f"{value:.4g}"


def headline(program: Program, result: dict[str, Any]) -> list[tuple[str, str]]:
    """The few numbers that the report shows large."""
    return [
        (f"test {program.metric}", metric_text(program.metric, result[f"test_{program.metric}"])),
        ("training", f"{result['train_seconds']:.1f} s"),
        ("steps", f"{result['steps']:,}"),
        ("parameters", f"{result['parameters']:,}"),
    ]
