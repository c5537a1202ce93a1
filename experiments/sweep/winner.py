"""Keep the weights of a sweep's best training, or of all, to be used without training again."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.harness import rundir
from experiments.harness.checkpoint import checkpoints, damage, save, steps_in
from experiments.harness.identity import identity_of, origin_of
from experiments.harness.loop import Leaving
from experiments.harness.plan import DIVERGED, Outcome, Plan
from experiments.harness.processes import is_first, meet
from experiments.harness.program import Row
from experiments.harness.runs import MEMBERS, WINNER
from experiments.report.result import selected_by, when_and_where
from experiments.sweep.flags import Sweep
from experiments.sweep.ranking import Configuration, best_member, ranked


def keeper(plan: Plan, folder: Path, each_alone: bool, keep_all: bool) -> Leaving:
    """Return what saves the weights of members that end while they may be the best.

    Args:
      plan: of a program.
      folder: of the program.
      each_alone: whether a member is no repetition of another; see `ranking.ranked`.
      keep_all: whether those of all members are kept that have not diverged.
    """

    def leaving(
        outcomes: Sequence[Outcome], slots: Sequence[int], kept_of: Callable[[int], Any]
    ) -> None:
        needed = sound(outcomes) if keep_all else candidates(plan, outcomes, each_alone)
        latest = outcomes[len(outcomes) - len(slots) :]
        for each, slot in zip(latest, slots, strict=True):
            if each["member"] in needed:
                save_weights(weights_of(folder, each["member"]), kept_of(slot))
        if is_first():
            for path in (folder / "weights").glob("*"):
                if path.name.isdecimal() and int(path.name) not in needed:
                    shutil.rmtree(path)

    return leaving


def candidates(plan: Plan, outcomes: Sequence[Outcome], each_alone: bool) -> set[int]:
    """Return the members that may be a sweep's best, by their number in the sweep.

    Of the configurations whose members have all ended it is the best member of the best one; of
    each other configuration the best member so far.
    """
    ended = {each["member"]: each for each in outcomes}
    known = [[plan.names[member] for member in members] for members in plan.configurations]
    if each_alone:
        known = [[name] for name in plan.names]
    groups = [[ended[name] for name in names if name in ended] for names in known]
    pairs = list(zip(groups, known, strict=True))
    complete = [each for group, names in pairs if len(group) == len(names) for each in group]
    begun = [group for group, names in pairs if 0 < len(group) < len(names)]
    found: list[Any] = [max(group, key=_score) for group in begun]
    if complete:
        found.append(best_member(ranked(complete, [*plan.values[0]], each_alone=each_alone)[0]))
    return sound(found)


def sound(outcomes: Sequence[Outcome]) -> set[int]:
    """Return the members that have not diverged, by their number in the sweep."""
    return {each["member"] for each in outcomes if each["status"] != DIVERGED}


def _score(outcome: Outcome) -> float:
    return -float("inf") if outcome["score"] is None else outcome["score"]


def weights_of(folder: Path, member: int) -> Path:
    """Return where the weights of a member are, in the folder of its program."""
    return folder / "weights" / str(member)


def save_weights(folder: Path, kept: Any) -> None:
    """Save what a task kept, unless it is there, whole, from before a crash."""
    if is_first() and any(damage(folder / str(step)) for step in steps_in(folder)):
        shutil.rmtree(folder)
    meet("weights")
    with checkpoints(folder, keep=1) as manager:
        if not manager.all_steps():
            save(manager, 1, {"kept": kept}, {})


def publish(
    sweep: Sweep,
    plan: Plan,
    data: Sequence[Mapping[str, str]],
    winner: Configuration,
    outcomes: Sequence[Outcome],
    rows: Mapping[int, Sequence[Row]],
    folder: Path,
) -> None:
    """Leave the best training of a sweep as a run of its own, in the sweep's folder.

    Where all are kept, each of them has such a run too.

    Args:
      sweep: what was asked for.
      plan: of the first program.
      data: hashes of what the members of each program were trained on.
      winner: the best configuration.
      outcomes: what became of all members.
      rows: their rows of metrics.
      folder: of the sweep.
    """

    def leave(member: Mapping[str, Any], target: Path, move: Callable[..., Any]) -> None:
        there = next(folder.glob(f"programs/*/weights/{member['member']}"), None)
        if there is None or (target / "result.json").exists():
            return
        shutil.rmtree(target, ignore_errors=True)
        (target / "checkpoints").mkdir(parents=True)
        (target / "lock").touch()
        values = {axis.field: member[axis.field] for axis in sweep.swept}
        config = dataclasses.replace(sweep.base, **values)
        origin = origin_of(sweep.experiment, target)
        identity = identity_of(sweep.experiment, config) | {"origin": origin}
        identity["sources"] |= data[int(there.parent.parent.name)]
        rundir.write_json(target / "config.json", identity)
        rundir.append_rows(target / "metrics.jsonl", rows.get(member["member"], []))
        move(there, target / "checkpoints" / "best")
        rundir.write_json(target / "result.json", numbers(sweep, plan, member))

    keep_all = sweep.settings.keep_all
    leave(best_member(winner), folder / WINNER, shutil.copytree if keep_all else Path.rename)
    for each in outcomes if keep_all else ():
        leave(each, folder / MEMBERS / str(each["member"]), Path.rename)


def numbers(sweep: Sweep, plan: Plan, member: Any) -> dict[str, Any]:
    """Return the ``result.json`` of the best training."""
    measured = {name: x for name, x in member.items() if name.startswith(("test_", "valid_"))}
    return {
        "experiment": sweep.experiment.name,
        "seed": member.get("seed", getattr(sweep.base, "seed", 0)),
        "steps": member["step"],
        "evaluations": member["evaluations_done"],
        "best_step": member["best_step"],
        **dict(sorted(measured.items())),
        **selected_by(plan.program),
        **when_and_where(sweep.experiment),
    }
