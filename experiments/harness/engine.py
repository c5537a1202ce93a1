"""Compile what a population needs: train, measure, judge and what fills its slots."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from experiments.harness.program import Program
from recurrent.training import population
from recurrent.training.population import Layout, Limits, Member, sharding, spread
from recurrent.training.task import HParams, Metrics, Task


class Status(NamedTuple):
    """Hold what the host reads of members, a number for each slot."""

    status: Array
    step: Array
    best_step: Array
    best_score: Array
    failures: Array


class Engine(NamedTuple):
    """Hold the compiled functions, each over all slots; metrics are whole on every device.

    Attributes:
      begin: ``(hparams, empty) -> members``.
      train: ``steps -> (members, data) -> (members, metrics)``.
      measure: ``((members, due), data) -> metrics`` of the states of those that are due.
      measure_best: ``((members, due), data, valid) -> metrics`` of what they kept at their best
        evaluation, once the validation split has calibrated it.
      judge: ``(members, metrics, limits) -> members``.
      read: ``members -> Status``.
      restart: ``(members, over, fresh, hparams) -> members``: those over end, others begin.
      copy: ``(members, sources, hparams) -> members``: each goes on from the one in that slot.
      kept: ``(members, slot) -> kept`` of that member at its best evaluation.
    """

    begin: Callable[..., Any]
    train: Callable[[int], Callable[..., Any]]
    measure: Callable[..., Any]
    measure_best: Callable[..., Any]
    judge: Callable[..., Any]
    read: Callable[..., Any]
    restart: Callable[..., Any]
    copy: Callable[..., Any]
    kept: Callable[..., Any]


def engine_of(program: Program, layout: Layout) -> Engine:
    """Return the functions of a population, none of them compiled before its first call."""
    task = program.task
    # Side by side, the weights of several members would be drawn by one QR of a batch, which on a
    # CPU waits for other threads of the pool that it occupies: two devices can wait for ever.
    in_turn = layout._replace(together=1)
    own, whole = sharding(layout), sharding(layout, shared=True)

    def begin(given: tuple[Any, Array]) -> Member:
        return population.ended(population.begin(task, given[0]), given[1])

    def measure(given: tuple[Member, Array], data: Any) -> Any:
        member, due = given
        return population.measured(task, task.keep(member.state), member.hparams, due, data)

    def measure_best(given: tuple[Member, Array], data: Any, valid: Any) -> Any:
        def evaluate(kept: Any, hparams: HParams, data: Any) -> Metrics:
            return task.evaluate(program.calibrate(kept, hparams, valid), hparams, data)

        member, due = given
        final = task._replace(evaluate=evaluate)
        return population.measured(final, member.best, member.hparams, due, data)

    def judge(members: Member, valid: Metrics, limits: Limits) -> Member:
        def of_member(given: tuple[Member, Metrics]) -> Member:
            last = program.keeps_last(given[0].hparams)
            return population.judged(task, program.select, limits, *given, keep_last=last)

        return spread(of_member, layout)((members, valid))

    def restart(members: Member, over: Array, fresh: Array, hparams: HParams) -> Member:
        def of_member(given: tuple[Member, Array, Array, HParams]) -> Member:
            member, over, fresh, hparams = given
            return population.restarted(task, population.ended(member, over), fresh, hparams)

        return spread(of_member, in_turn)((members, over, fresh, hparams))

    def read(members: Member) -> Status:
        return read_status(task, members)

    def kept(members: Member, slot: Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[slot], members.best)

    return Engine(
        begin=jax.jit(spread(begin, in_turn), out_shardings=own),
        train=functools.cache(functools.partial(_trainer, task, layout)),
        measure=jax.jit(spread(measure, layout), out_shardings=whole),
        measure_best=jax.jit(spread(measure_best, layout), out_shardings=whole),
        judge=jax.jit(judge, donate_argnums=0, out_shardings=own),
        read=jax.jit(read, out_shardings=whole),
        restart=jax.jit(restart, donate_argnums=0, out_shardings=own),
        copy=jax.jit(population.copied, donate_argnums=0, out_shardings=own),
        kept=jax.jit(kept, out_shardings=whole),
    )


def _trainer(task: Task, layout: Layout, steps: int) -> Any:
    def train(member: Member, data: Any) -> Any:
        return population.trained(task, steps, member, data)

    shardings = sharding(layout), sharding(layout, shared=True)
    return jax.jit(spread(train, layout), donate_argnums=0, out_shardings=shardings)


def read_status(task: Task, members: Member) -> Status:
    """Return what the host reads of members."""
    return Status(
        status=members.status,
        step=members.step,
        best_step=members.best_step,
        best_score=members.best_score,
        failures=jax.vmap(task.failures)(members.state),
    )
