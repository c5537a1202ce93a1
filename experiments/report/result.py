"""Leave what a finished run leaves: figures, the report page and ``result.json``."""

import functools
import platform
import time
from typing import Any

import jax

from experiments.harness import rundir
from experiments.harness.config import options
from experiments.harness.program import Program
from experiments.report.page import write_report


def finish(
    experiment: str, question: str, program: Program, asked: Any, trained: Any
) -> dict[str, Any]:
    """Draw, report and return the result of a run that has ended.

    ``result.json`` is written last: where it is, the run is complete.
    """
    found = final_numbers(experiment, program, asked.config, trained)
    write = functools.partial(
        write_report,
        asked.folder / "report.html",
        title=experiment,
        question=question,
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
        write(exhibits=program.exhibits(trained.finished))
    except OSError:
        raise
    except Exception as error:  # whatever the experiment's own drawing raises
        reason = f"{type(error).__name__}: {error}"
        print(f"warning: the exhibits cannot be drawn ({reason}); the page is without them.")
        write(exhibits=[])
    rundir.write_json(asked.folder / "result.json", found)
    return found


def final_numbers(experiment: str, program: Program, config: Any, trained: Any) -> dict[str, Any]:
    """Return the flat object of ``result.json``."""
    outcome, leaves = trained.outcome, jax.tree.leaves(trained.finished.kept)
    measured = {
        name: value for name, value in outcome.items() if name.startswith(("test_", "valid_"))
    }
    return {
        "experiment": experiment,
        "seed": config.seed,
        "steps": outcome["step"],
        "evaluations": len(trained.finished.rows),
        "best_step": outcome["best_step"],
        **dict(sorted(measured.items())),
        **selected_by(program),
        "parameters": sum(leaf.size for leaf in leaves),
        "train_seconds": round(trained.seconds, 3),
        **when_and_where(),
    }


def selected_by(program: Program) -> dict[str, Any]:
    """Return what tells readers of ``result.json`` which metric counts, and in which direction."""
    return {
        "select": program.select.name,
        "higher_is_better": program.select.higher_is_better,
        "report": program.report.name,
    }


def when_and_where() -> dict[str, str]:
    """Return what stands at the end of every ``result.json``."""
    return {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def headline(program: Program, found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the few numbers that the report shows large."""
    report = program.report
    return [
        (f"test {report.name}", report.text(found.get(f"test_{report.name}"))),
        ("training", f"{found['train_seconds']:.1f} s"),
        ("steps", f"{found['steps']:,}"),
        ("parameters", f"{found['parameters']:,}"),
    ]
