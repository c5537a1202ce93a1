"""Show what a trained policy does: its returns, its episodes, and what it remembers."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.environments.environment import Environment, innermost
from experiments.harness.config import option
from experiments.harness.program import Animation, Exhibit, Figure, Finished, Table, Text
from experiments.harness.runs import Command, Run
from experiments.shared import acting
from experiments.shared.acting import Agent, Episodes, Kept, Step

WATCHED, LONGEST = 40, 1024  # episodes, and steps of each, that are looked at one by one
MOST_FRAMES = 250  # of the animation
TILES = 12  # of the film strip
ACROSS = 4
Painter = Callable[[Any, int], Any]


class Watched(NamedTuple):
    """Hold episodes step by step: states ``[T, N, ...]``, steps, and the lengths ``[N]``."""

    states: Any
    steps: Step
    lengths: np.ndarray
    hidden: dict[str, np.ndarray]


def keys_of(seeds: np.ndarray) -> jax.Array:
    """Return the keys of episodes."""
    return jax.vmap(jax.random.key)(seeds)


def exhibits(
    agent: Agent, seeds: np.ndarray, rollout: int, length: int, greedy: bool, finished: Finished
) -> Iterator[Exhibit]:
    """Draw the returns, a film, and what the memory holds.

    Args:
      agent: that was trained.
      seeds: of the episodes of the test.
      rollout: steps in all environments of one step of the training.
      length: of the chain or corridor.
      greedy: whether it takes the likeliest actions.
      finished: the training.
    """
    yield curve(finished, rollout)
    play = jax.jit(lambda kept, keys: acting.played(agent, kept, keys, greedy=greedy))
    keys, kept = keys_of(seeds), finished.kept
    episodes = jax.tree.map(np.asarray, play(kept, keys))
    yield distribution(episodes)
    found = watched(agent, kept, keys_of(seeds[:WATCHED]), greedy)
    if draw := painter(agent.environment, found.states, length):
        yield film_strip(found, draw, float(episodes.returns[0]))
        yield animation(found, draw)
    if found.hidden:
        yield remembered(found)
    yield speed(lambda: play(kept, keys), int(episodes.lengths.sum()))


def curve(finished: Finished, rollout: int) -> Figure:
    """Draw the return over the steps in all environments."""
    from experiments.figures.returns import return_curve

    best = [row for row in finished.rows if row["step"] == finished.best_step]
    reached = f": {best[0]['valid_return']:.4g}" if best else ""
    title = f"Kept after {finished.best_step * rollout:,} steps{reached}"
    return Figure(
        "returns",
        "What it has learned, and when",
        "Mean return of the episodes of each evaluation, and of those that ended in training "
        "between two of them, over the steps in all environments.",
        return_curve(finished.rows, rollout, finished.best_step, title),
    )


def distribution(episodes: Episodes) -> Figure:
    """Draw the returns of the test."""
    from experiments.figures.returns import return_histogram

    returns = np.asarray(episodes.returns)
    title = f"{len(returns)} episodes: mean {returns.mean():.4g}, lowest {returns.min():.4g}"
    return Figure(
        "distribution",
        "Episodes of the test",
        f"How often each return came; an episode took {episodes.lengths.mean():.4g} steps on "
        f"average, {episodes.lengths.min()} to {episodes.lengths.max()}.",
        return_histogram(returns, title),
    )


def watched(agent: Agent, kept: Kept, keys: jax.Array, greedy: bool) -> Watched:
    """Play episodes and hold every step of them."""
    count = min(agent.environment.limit, LONGEST)
    watch = jax.jit(lambda keys: acting.watched(agent, kept, keys, count, greedy=greedy))
    states, steps = watch(keys)
    hidden = jax.vmap(jax.vmap(agent.environment.hidden))(states)
    ended = np.asarray(steps.transition.ended)
    lengths = np.where(ended.any(0), ended.argmax(0) + 1, count)
    states, hidden = jax.tree.map(np.asarray, (innermost(states), hidden))
    return Watched(states, jax.tree.map(np.asarray, steps), lengths, hidden)


def painter(environment: Environment, states: Any, length: int) -> Painter | None:
    """Return what draws a state and an action; None for an environment without pictures."""
    from experiments.figures.scenes import is_drawn, scene

    if environment.picture or not is_drawn(states):
        return environment.picture
    return partial(scene, length=length)


def film_strip(found: Watched, draw: Painter, total: float) -> Figure:
    """Draw some steps of the first episode."""
    from experiments.figures.scenes import legend
    from experiments.figures.style import tiled_images

    steps = int(found.lengths[0])
    chosen = np.unique(np.linspace(0, steps - 1, TILES).round().astype(int))
    return Figure(
        "film_strip",
        "An episode",
        f"Steps of the first episode of the test. {legend(found.states)}".strip(),
        tiled_images(
            f"An episode of {steps} steps, with a return of {total:.4g}",
            [frame(found, t, 0, draw) for t in chosen],
            [f"step {t}" for t in chosen],
            ACROSS,
            "gray",
            (0, 255),
        ),
    )


def animation(found: Watched, draw: Painter) -> Animation:
    """Return a moving picture of the first episodes, some steps left out where they are many."""
    from experiments.figures.scenes import legend

    ends = found.lengths.cumsum()
    episodes = 1 + int((ends < MOST_FRAMES).sum())  # so many that there are enough frames
    steps = [(t, n) for n, count in enumerate(found.lengths[:episodes]) for t in range(count)]
    steps = steps[:: -(-len(steps) // MOST_FRAMES)]
    return Animation(
        "animation",
        "The policy acts",
        f"The first episodes of the test, one after another. {legend(found.states)}".strip(),
        np.stack([frame(found, t, n, draw) for t, n in steps]),
        25.0 if found.lengths[0] > MOST_FRAMES // 5 else 4.0,
    )


def frame(found: Watched, t: int, n: int, draw: Painter) -> np.ndarray:
    """Draw step t of episode n."""
    state = jax.tree.map(lambda leaf: leaf[t, n], found.states)
    return np.asarray(draw(state, int(found.steps.action[t, n])))


def remembered(found: Watched) -> Table:
    """Say how well what is hidden can be read off what is seen, and off the network's features."""
    real = np.arange(len(found.steps.start))[:, None] < found.lengths  # [T, N]
    seen, output = (np.asarray(xs)[real] for xs in (found.steps.inputs, found.steps.output))
    fitted = np.broadcast_to(np.arange(len(found.lengths)) % 2 == 0, real.shape)[real]
    rows = [
        [name, *(f"{explained(xs, ys[real], fitted):.2f}" for xs in (seen, output))]
        for name, ys in found.hidden.items()
    ]
    return Table(
        "memory",
        "What it remembers",
        "The share of the variance of what one observation does not show that a linear map finds "
        "in what the network sees at a step, and in the features by which it acts. The map is "
        "fitted to every other episode and measured on the rest; 1 is all, 0 nothing.",
        ["hidden", "in what it sees", "in its features"],
        rows,
    )


def explained(xs: np.ndarray, ys: np.ndarray, fitted: np.ndarray) -> float:
    """Return the share of the variance of ``ys`` that a ridge regression on ``xs`` explains.

    Args:
      xs: ``[M, F]``.
      ys: ``[M]``.
      fitted: booleans ``[M]``, true for what the map is fitted to; it is measured on the rest.

    Returns:
      The share, at least 0; 0 too where nothing varies.
    """
    xs, ys = xs.astype(float), ys.astype(float)
    mean, scale = xs[fitted].mean(0), xs[fitted].std(0) + 1e-6
    xs = np.clip((xs - mean) / scale, -10, 10)
    offset = ys[fitted].mean()
    square = xs[fitted].T @ xs[fitted] + 1e-3 * fitted.sum() * np.eye(xs.shape[1])
    slope = np.linalg.solve(square, xs[fitted].T @ (ys[fitted] - offset))
    errors = ys[~fitted] - offset - xs[~fitted] @ slope
    spread = ys[~fitted].var() if (~fitted).any() else 0.0
    return max(0.0, 1 - (errors**2).mean() / spread) if spread > 0 else 0.0


def speed(play: Callable[[], Any], steps: int) -> Text:
    """Say how many steps a second the policy takes in its environments, all at once."""
    seconds = timed(play)
    text = f"{steps:,} steps in {seconds:.2f} s: {steps / seconds:,.0f} frames a second"
    return Text("speed", "Speed", "The episodes of the test played again, without compiling.", text)


def timed(play: Callable[[], Any]) -> float:
    """Return the seconds of a call."""
    began = time.perf_counter()
    jax.block_until_ready(play())
    return time.perf_counter() - began


@dataclasses.dataclass(frozen=True)
class Play:
    """Hold the flags of ``./launch.sh play``."""

    episodes: int = option(100, "how many to play", minimum=1, maximum=10**6)
    seed: int = option(0, "decides the episodes, none of the training's", minimum=0, maximum=2**31)
    sampled: bool = option(False, "draw actions from the policy, not the likeliest ones")


def play_command(agent_of: Callable[[Any], Agent]) -> Command:
    """Return the command, for an experiment whose agent is ``agent_of(config)``."""

    def play(run: Run, flags: Play) -> Iterator[str]:
        agent = agent_of(run.config)
        greedy = run.config.evaluated == "greedy" and not flags.sampled
        keys = jax.random.split(jax.random.fold_in(jax.random.key(flags.seed), 1), flags.episodes)
        call = jax.jit(lambda keys: acting.played(agent, run.kept, keys, greedy=greedy))
        episodes = jax.tree.map(np.asarray, call(keys))
        for k, (total, steps) in enumerate(zip(*episodes, strict=True), start=1):
            yield f"episode {k}: return {total:.6g}, {steps} steps\n"
        steps, seconds = int(episodes.lengths.sum()), timed(lambda: call(keys))
        returns = episodes.returns
        yield (
            f"mean {returns.mean():.6g}, lowest {returns.min():.6g}, highest {returns.max():.6g} "
            f"in {len(returns)} episodes; {steps / seconds:,.0f} frames a second"
        )

    return Command(Play, play, "play episodes with a trained policy")
