"""Show what a trained policy does: its returns, its episodes, and what it remembers."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.environments.environment import innermost
from experiments.harness.config import option
from experiments.harness.program import Animation, Exhibit, Figure, Finished, Table, Text
from experiments.harness.runs import Command, Run
from experiments.shared import acting
from experiments.shared.acting import Agent, Episodes, Kept, Step

WATCHED = 40  # episodes by which it is found out what is remembered
MOST_FRAMES = 250  # of the animation
TILES = 12  # of the film strip
ACROSS = 4


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
    film = [*frames_of(found, length)]
    yield film_strip(film[: int(found.lengths[0])], float(episodes.returns[0]))
    yield animation(film)
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
    watch = jax.jit(lambda keys: acting.watched(agent, kept, keys, greedy=greedy))
    states, steps = watch(keys)
    hidden = jax.vmap(jax.vmap(agent.environment.hidden))(states)
    lengths = np.asarray(steps.transition.ended).argmax(0) + 1
    states, hidden = jax.tree.map(np.asarray, (innermost(states), hidden))
    return Watched(states, jax.tree.map(np.asarray, steps), lengths, hidden)


def frames_of(found: Watched, length: int) -> Iterator[np.ndarray]:
    """Draw the steps of one episode after the other, until there are enough for an animation."""
    from experiments.figures.scenes import scene

    drawn = 0
    for n, steps in enumerate(found.lengths):
        for t in range(steps):
            state = jax.tree.map(lambda leaf, t=t, n=n: leaf[t, n], found.states)
            yield scene(state, int(found.steps.action[t, n]), length)
        drawn += int(steps)
        if drawn >= MOST_FRAMES:
            return


def film_strip(film: list[np.ndarray], total: float) -> Figure:
    """Draw some steps of an episode."""
    from experiments.figures.style import tiled_images

    chosen = np.unique(np.linspace(0, len(film) - 1, TILES).round().astype(int))
    return Figure(
        "film_strip",
        "An episode",
        "Steps of the first episode of the test, each with the action taken in it as an arrow.",
        tiled_images(
            f"An episode of {len(film)} steps, with a return of {total:.4g}",
            [film[t] for t in chosen],
            [f"step {t}" for t in chosen],
            ACROSS,
            "gray",
            (0, 255),
        ),
    )


def animation(film: list[np.ndarray]) -> Animation:
    """Return the film as a moving picture, long ones with some frames left out."""
    stride = -(-len(film) // MOST_FRAMES)
    frames = np.stack(film[::stride])
    rate = 25.0 if len(frames) > 100 else 4.0
    return Animation(
        "animation", "The policy acts", "The first episodes of the test, one after another.",
        frames, rate,
    )  # fmt: skip


def remembered(found: Watched) -> Table:
    """Say how well what is hidden can be read off the memory, and off what is seen."""
    real = np.arange(len(found.steps.start))[:, None] < found.lengths  # [T, N]
    seen = as_numbers(np.asarray(found.steps.inputs)[real])
    carried = [as_numbers(leaf[real]) for leaf in jax.tree.leaves(found.steps.carry)]
    memory = np.concatenate([seen, *carried], axis=-1)
    fitted = np.broadcast_to(np.arange(len(found.lengths)) % 2 == 0, real.shape)[real]
    rows = [
        [name, *(f"{explained(xs, ys[real].astype(float), fitted):.2f}" for xs in (seen, memory))]
        for name, ys in found.hidden.items()
    ]
    return Table(
        "memory",
        "What it remembers",
        "The share of the variance of what one observation does not show that a linear map finds "
        "in what the network sees at a step, and in that together with its memory. The map is "
        "fitted to every other episode and measured on the rest; 1 is all, 0 nothing.",
        ["hidden", "from what it sees", "with its memory"],
        rows,
    )


def as_numbers(leaf: np.ndarray) -> np.ndarray:
    """Return a state ``[M, ...]`` as real numbers ``[M, F]``."""
    flat = leaf.reshape(len(leaf), -1)
    parts = [np.real(flat), np.imag(flat)] if np.iscomplexobj(flat) else [flat]
    return np.concatenate(parts, axis=-1).astype(float)


def explained(xs: np.ndarray, ys: np.ndarray, fitted: np.ndarray) -> float:
    """Return the share of the variance of ``ys`` that a ridge regression on ``xs`` explains.

    Args:
      xs: ``[M, F]``.
      ys: ``[M]``.
      fitted: booleans ``[M]``, true for what the map is fitted to; it is measured on the rest.

    Returns:
      The share, at least 0; 0 too where nothing varies.
    """
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
