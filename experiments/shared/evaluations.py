"""Leave what an evaluation found in the folder of a run, with the weights and the code it is of."""

import json
from typing import Any

from experiments.harness.files import write_atomically
from experiments.harness.runs import Run
from experiments.harness.version import code_version


def leave_evaluation(run: Run, name: str, found: dict[str, Any]) -> None:
    """Write ``NAME.json``, unless the run goes on and will have other weights."""
    if run.result:
        known = {"best_step": run.result.get("best_step"), **code_version(run.experiment.file)}
        text = json.dumps(found | known, indent=2) + "\n"
        write_atomically(run.folder / f"{name}.json", text)
