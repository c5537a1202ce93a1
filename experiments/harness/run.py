"""Train one run in its directory, go on with it, or say that it is finished."""

import dataclasses
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.harness import loop, processes, rundir, stopping
from experiments.harness.catalogue import Experiment
from experiments.harness.checks import checked_program
from experiments.harness.compiled import keep_compiled_programs
from experiments.harness.config import hparams_of, options
from experiments.harness.copies import with_files
from experiments.harness.devices import check_devices, check_fits_memory
from experiments.harness.engine import Status, read_status
from experiments.harness.identity import changes_since, identity_of, origin_of
from experiments.harness.loop import Observer
from experiments.harness.plan import DIVERGED, Outcome, Plan, SweepState, plan_of_run, steps_taken
from experiments.harness.processes import Hardware
from experiments.harness.program import Finished, Program, Row
from experiments.harness.progress import Show, progress
from experiments.harness.tensorboard import event_writer
from experiments.harness.trial import (
    After,
    FasterOnMore,
    begin_again,
    chosen,
    clear,
    most_devices,
    trial,
)
from experiments.report import result
from recurrent.training.population import MOST_FAILURES
from recurrent.training.task import Metrics


class Asked(NamedTuple):
    """Hold what a command line asks of a run.

    Attributes:
      experiment: what is trained.
      config: its Config.
      folder: the run directory.
      overwrite: whether to delete an earlier run there first.
      hardware: processes and devices.
      command: the whole command line.
    """

    experiment: Experiment
    config: Any
    folder: Path
    overwrite: bool
    hardware: Hardware
    command: str


class Trained(NamedTuple):
    """Hold a training that has ended: what became of it, and what exhibits are made from.

    Attributes:
      outcome: what became of it.
      finished: what exhibits are made from.
      seconds: that it took.
      divergence: why it diverged; empty where it did not.
      devices: how many shared its batches.
    """

    outcome: Outcome
    finished: Finished
    seconds: float
    divergence: str
    devices: int


def main(asked: Asked) -> int:
    """Do what is asked; return the exit status, 3 where the training diverged."""
    origin = origin_of(asked.experiment, asked.folder)
    keep_compiled_programs()
    processes.join(asked.hardware, asked.hardware.count)
    where = {"workdir": str(asked.folder.absolute()), "devices": asked.hardware.devices}
    alike = rundir.flat(identity_of(asked.experiment, asked.config)) | where
    processes.check_same_everywhere(alike | {"overwrite": asked.overwrite})
    batch_devices = check_devices(asked.hardware.count, asked.config)
    # what it refuses must touch no earlier run
    program = checked_program(asked.experiment, asked.config)
    identity = identity_of(asked.experiment, asked.config, program)
    check_fits_memory(program, asked.config)
    claim = rundir.claim(asked.folder, identity, asked.overwrite, origin)
    with processes.by_the_first(with_files(claim, [asked.config], asked.folder)):
        say_changes(asked.folder, origin)
        if processes.is_first():
            clear(asked.folder)
        if (asked.folder / "result.json").exists():
            found = rundir.read_json(asked.folder / "result.json")
            if (asked.folder / "report.html").exists():
                print("This run is finished already; --overwrite begins it anew.")
                return say_result(asked.folder, found)
            print("This run is finished, but its report is missing: it is made again.")
        try:
            given = program, asked.config, asked.folder
            trained = (
                train_on_fastest(*given, asked.experiment.name)
                if asked.hardware.may_try
                else train(*given, batch_devices, asked.experiment.name)
            )
        except stopping.Stopped as stop:
            print(stop, file=sys.stderr)
            return 128 + stop.signum
        if trained.divergence:
            print(f"error: {trained.divergence}", file=sys.stderr)
            return 3
        if not processes.is_first():
            return 0
        found = result.finish(asked.experiment, program, asked, trained)
    return say_result(asked.folder, found)


def say_changes(folder: Path, origin: dict[str, Any]) -> None:
    """Say where a run that was begun is gone on with by other code."""
    earlier = rundir.read_json(folder / "config.json").get("origin", {})
    changes = changes_since(earlier, origin)
    if changes and processes.is_first():
        print(f"Since this run began its code has changed: {changes}. --overwrite begins it anew.")


def train_on_fastest(program: Program, config: Any, folder: Path, name: str) -> Trained:
    """Train a program on one device, or on all where a trial finds them faster.

    What is found is kept in the folder, so that the training goes on there to the same bits.

    Raises:
      Stopped: as `train` does.
    """
    most = most_devices(config)
    begun = min(chosen(folder), most)
    if most == 1 or begun > 1:
        return train(program, config, folder, begun, name)
    try:
        return train(program, config, folder, 1, name, try_devices=most)
    except FasterOnMore as found:
        begin_again(folder, found)
    return train(program, config, folder, most, name)


def train(
    program: Program,
    config: Any,
    folder: Path,
    batch_devices: int = 1,
    name: str = "training",
    try_devices: int = 0,
) -> Trained:
    """Train a program in a folder, from its latest checkpoint if there is one.

    Args:
      program: what to train.
      config: its Config.
      folder: the run directory.
      batch_devices: how many devices share each batch.
      name: of the experiment, for people.
      try_devices: how many more are tried on the way; 0 tries none.

    Raises:
      FasterOnMore: where these are faster.
      Stopped: after SIGINT or SIGTERM, when the state has been saved.
    """
    plan = plan_of_run(program, config, batch_devices)
    metrics = [metric.name for metric in program.metrics]
    with (
        stopping.stop_requests() as stops,
        event_writer(folder / "events", dataclasses.asdict(config), metrics) as events,
        progress(program.steps) as show,
    ):
        after = trial(plan, try_devices, stops) if try_devices else lambda state: None
        observer = observer_of(plan, folder, name, show, events.add, after)
        there, state = loop.train(plan, folder, observer, stops)
        (ended,) = state.outcomes
        if processes.is_first():
            events.end(ended)
    best = jax.tree.map(lambda leaf: leaf.addressable_data(0)[0], there.members.best)
    hparams = {name: value[0] for name, value in hparams_of(config).items()}
    kept = jax.jit(program.calibrate)(best, hparams, program.data["valid"])
    rows = rundir.rows_of(folder / "metrics.jsonl")
    finished = Finished(kept, hparams, rows, ended["best_step"])
    failures = int(np.asarray(read_status(program.task, there.members).failures)[0])
    divergence = divergence_of(plan, state, failures, rows)
    return Trained(ended, finished, state.seconds, divergence, batch_devices)


def observer_of(
    plan: Plan,
    folder: Path,
    name: str,
    show: Show,
    write_events: Callable[[Row], None],
    after: After,
) -> Observer:
    """Return what is called on the way of a run: it says how far the run has come."""
    begun = 0  # after how many evaluations

    def started(state: SweepState) -> None:
        nonlocal begun
        step, begun = steps_taken(plan, state), state.evaluation
        begins = f"goes on from step {step}" if step else "begins"
        print(f"{name} {begins} in {folder}{seconds_before()}", flush=True)

    valid: dict[str, float | None] = {}  # the latest, for metrics that training does not have

    def called(state: SweepState, status: Status, metrics: Metrics) -> None:
        (means,) = loop.means_of(metrics) or [{}]
        step = int(np.asarray(status.step)[0])
        show(step, message(plan.program, means, valid), state.evaluation > begun)
        after(state)

    def evaluated(state: SweepState, rows: Sequence[Row]) -> None:
        for row in rows:
            valid.update({m.name: row[f"valid_{m.name}"] for m in plan.program.metrics})
            if processes.is_first():
                write_events(row)

    return Observer(started, called, evaluated, ended=lambda outcomes: None)


def message(program: Program, train: dict[str, float | None], valid: dict[str, Any]) -> str:
    """Return the metrics that people follow, in a few characters.

    Args:
      program: that names them.
      train: means over the steps of the latest call.
      valid: of the latest evaluation, for metrics that training does not have.
    """
    parts = []
    for metric in program.metrics:
        kind, found = ("train", train) if metric.name in train else ("valid", valid)
        if found.get(metric.name) is not None:
            parts.append(f"{kind} {metric.name} {found[metric.name]:.4g}")
    return ", ".join(parts)


def seconds_before() -> str:
    """Say how long it took from the launcher's call to the first step; nothing in a script."""
    began = started_at()
    return "" if began is None else f" ({max(0.0, time.time() - began):.1f} s to the first step)"


def started_at() -> float | None:
    """Return when the launcher was called, in seconds since the epoch; None where it was not."""
    text = os.environ.get("RECURRENT_STARTED", "").replace(",", ".")  # bash writes it by locale
    return float(text) if re.fullmatch(r"\d{1,12}(\.\d*)?", text) else None


def divergence_of(plan: Plan, state: SweepState, failures: int, rows: Sequence[Row]) -> str:
    """Say why a run has diverged; return nothing where it has not."""
    (outcome,) = state.outcomes
    if outcome["status"] != DIVERGED:
        return ""
    known = options(plan.config)
    flags = [f"--{name}" for name in ("learning_rate", "clip_norm") if name in known]
    advice = f"Try a lower {' or a '.join(flags)}." if flags else "Try smaller steps."
    if failures >= MOST_FAILURES:
        return (
            f"Training diverged: the last {failures} steps up to step {outcome['step']} had "
            f"gradients that are not finite. {advice}"
        )
    select = plan.program.select
    value = rows[-1].get(f"valid_{select.name}") if rows else None
    bound = select.score(state.divergence_threshold)
    worse = "below" if select.higher_is_better else "above"
    found = "not finite" if value is None else f"{value:.4g}"
    limit = f", and {worse} {bound:.4g} nothing is learned" if math.isfinite(bound) else ""
    return (
        f"Training diverged: after step {outcome['step']} the validation {select.name} is "
        f"{found}{limit}. {advice}"
    )


def say_result(folder: Path, found: dict[str, Any]) -> int:
    """Print the numbers that people wait for, and where the rest is."""
    scores = [f"{name} {value:.4g}" for name, value in found.items() if is_score(name, value)]
    seconds = f"train_seconds {found.get('train_seconds')} (compiling included)"
    print(", ".join([*scores, seconds]))
    print(f"report: {folder / 'report.html'}")
    return 0


def is_score(name: str, value: Any) -> bool:
    """Return whether a number of the result is a measurement on the test split."""
    return name.startswith("test_") and isinstance(value, float)
