"""Read what the notes of a checkpoint say of a training, of which anything may be wrong.

Its manifest tells what has changed by accident. Whoever changes the notes on purpose changes the
manifest too, and what the loop counts by must not lead it out of a list, or never to the end.
"""

import math
from pathlib import Path
from typing import Any

from experiments.harness.errors import UserError
from experiments.harness.numbers import is_number
from experiments.harness.plan import (
    DIVERGED,
    FINISHED,
    PATIENCE,
    STOPPED,
    Plan,
    SweepState,
    from_json,
)

STATUSES = (FINISHED, PATIENCE, STOPPED, DIVERGED)


def state_of(folder: Path, notes: dict[str, Any], plan: Plan) -> SweepState:
    """Return the state of a training that goes on.

    Args:
      folder: of the checkpoints, for the sentence.
      notes: of the one that was restored.
      plan: of the training.

    Raises:
      UserError: where it cannot be a state of this plan.
    """
    try:
        state = from_json(notes["state"])
        wrong = wrong_field(state, plan)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        wrong = f"{type(error).__name__}: {error}"
    else:
        if not wrong:
            return state
    raise UserError(
        f"The notes of the newest checkpoint in {folder} are of no state of this training "
        f"({wrong}). Restore it, or begin anew with --overwrite."
    )


def wrong_field(state: SweepState, plan: Plan) -> str:
    """Name the first field that cannot be of this plan; nothing where all can be."""
    members, program = range(len(plan.values)), plan.program
    of_members = state.best_metrics, state.best_values, state.values
    sound = {
        "started": is_count(state.started, len(plan.configurations)),
        "slots": len(state.slots) == plan.slots and are_slots(state, plan, members),
        "evaluation": is_count(state.evaluation, program.evaluations * len(members)),
        "step_in_evaluation": is_count(state.step_in_evaluation, program.steps_per_evaluation - 1),
        "divergence_threshold": type(state.divergence_threshold) in (int, float),
        "outcomes": all(map(is_outcome, state.outcomes)),
        "best_metrics, best_values or values": all(is_by(each, members) for each in of_members),
        "memory": isinstance(state.memory, dict),
        "seconds": is_number(state.seconds) and 0 <= state.seconds < math.inf,
    }
    return next((name for name, holds in sound.items() if not holds), "")


def are_slots(state: SweepState, plan: Plan, members: range) -> bool:
    """Return whether the members that have started and not ended are in slots, each in one."""
    filled = [member for member in state.slots if member is not None]
    started = sum(map(len, plan.configurations[: state.started]))
    return (
        all(is_count(each, members.stop - 1) for each in filled)
        and len(set(filled)) == len(filled)
        and len(filled) + len(state.outcomes) == started
    )


def is_count(value: Any, most: float) -> bool:
    """Return whether a value is a whole number from 0 to ``most``."""
    return type(value) is int and 0 <= value <= most


def is_outcome(value: Any) -> bool:
    """Return whether a value says what became of a member."""
    counts = [value[name] for name in ("evaluations_done", "step", "best_step")]
    has_score = value["score"] is None or is_number(value["score"])
    return has_score and value["status"] in STATUSES and all(is_count(n, math.inf) for n in counts)


def is_by(value: dict[int, Any], members: range) -> bool:
    """Return whether a dict has an inner dict for some of the members."""
    return all(member in members and isinstance(each, dict) for member, each in value.items())
