"""The compiled programs of a population."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from experiments.harness.program import Program
from recurrent.training import population
from recurrent.training.population import Layout, Limits, Member, sharding, spread


class Sight(NamedTuple):
    """What the host reads of members, a number for each place."""

    status: Array
    step: Array
    best_step: Array
    best_score: Array


class Compiled(NamedTuple):
    """The programs, each over all places; metrics and sights are whole on every device.

    Attributes:
      begin: ``(numbers, empty) -> members``.
      train: ``steps -> (members, data) -> (members, metrics)``.
      measure: ``((params, due), data) -> metrics``, of those that are due.
      judge: ``(members, metrics, limits) -> members``.
      look: ``members -> Sight``.
      settle: ``(members, over, fresh, numbers) -> members``: those over stop, others begin.
      inherit: ``(members, places, numbers) -> members``: each goes on from the one in that place.
    """

    begin: Callable[..., Any]
    train: Callable[[int], Callable[..., Any]]
    measure: Callable[..., Any]
    judge: Callable[..., Any]
    look: Callable[..., Any]
    settle: Callable[..., Any]
    inherit: Callable[..., Any]


def compiled(program: Program, layout: Layout) -> Compiled:
    """The programs of a population, none of them compiled before its first call."""
    task = program.task
    # Side by side, the weights of several members would be drawn by one QR of a batch, which on a
    # CPU waits for other threads of the pool that it occupies: two devices can wait for ever.
    in_turn = layout._replace(together=1)
    own, whole = sharding(layout), sharding(layout, shared=True)

    def begin(given: tuple[Any, Array]) -> Member:
        return population.ended(population.begin(task, given[0]), given[1])

    def measure(given: tuple[Any, Array], data: Any) -> Any:
        return population.measured(task, *given, data)

    def trainer(steps: int) -> Any:
        def train(member: Member, data: Any) -> Any:
            return population.trained(task, steps, member, data)

        return jax.jit(spread(train, layout), donate_argnums=0, out_shardings=(own, whole))

    def judge(members: Member, valid: Any, limits: Limits) -> Member:
        def of_member(given: tuple[Member, Any]) -> Member:
            return population.judged(task, limits, *given)

        return spread(of_member, layout)((members, valid))

    def settle(members: Member, over: Array, fresh: Array, numbers: Any) -> Member:
        def of_member(given: tuple[Member, Array, Array, Any]) -> Member:
            member, over, fresh, numbers = given
            return population.replaced(task, population.ended(member, over), fresh, numbers)

        return spread(of_member, in_turn)((members, over, fresh, numbers))

    return Compiled(
        jax.jit(spread(begin, in_turn), out_shardings=own),
        functools.cache(trainer),
        jax.jit(spread(measure, layout), out_shardings=whole),
        jax.jit(judge, donate_argnums=0, out_shardings=own),
        jax.jit(look, out_shardings=whole),
        jax.jit(settle, donate_argnums=0, out_shardings=own),
        jax.jit(inherit, donate_argnums=0, out_shardings=own),
    )


def look(members: Member) -> Sight:
    """What the host reads."""
    return Sight(members.status, members.state.step, members.best_step, members.best_score)


def inherit(members: Member, places: Array, numbers: Any) -> Member:
    """Members that go on from those in ``places``, with these numbers and their own keys."""
    taken = jax.tree.map(lambda leaf: leaf[places], members)
    state = taken.state._replace(key=members.state.key)
    return taken._replace(state=state, numbers=numbers)
