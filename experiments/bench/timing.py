"""Time several programs in turns, so that disturbances of the machine affect all of them alike."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

MOST_ROUNDS = 100
ENOUGH = 0.005  # seconds per program and round; a shorter call is repeated
# While the previous program's threads still spin, those of the next one share a core: ours, on two
# devices after torch, needs 10 ms of calls until the system has moved its threads.
SETTLING = 0.02


class Interval(NamedTuple):
    """Hold an estimate with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def interleaved(
    runs: Mapping[str, Callable[[], Any]], seconds: float, repeats: int
) -> dict[str, np.ndarray]:
    """Time all programs in interleaved rounds.

    In each round every program has a turn, in a random order. If its calls are short, a turn starts
    with calls that are not timed, because caches and threads still belong to the previous program.
    Then one or more calls are timed, and their mean is the time of the round.

    Args:
      runs: programs by name.
      seconds: rounds continue until they have taken this long per program.
      repeats: the minimum number of rounds; the maximum is `MOST_ROUNDS`.

    Returns:
      Seconds per call by program, ``[rounds]``.
    """
    source = np.random.default_rng(0)
    last = {name: seconds_of(run, 1) for name, run in runs.items()}  # a call to warm up
    rounds: list[dict[str, float]] = []
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        while len(rounds) < repeats or (
            time.perf_counter() - began < seconds * len(runs) and len(rounds) < MOST_ROUNDS
        ):
            order = [list(runs)[k] for k in source.permutation(len(runs))]
            last = {name: turn(runs[name], last[name]) for name in order}
            rounds.append(last)
    finally:
        gc.enable()
    return {name: np.array([each[name] for each in rounds]) for name in runs}


def turn(run: Callable[[], Any], before: float) -> float:
    """Return the seconds per call in one turn, given those of an earlier call."""
    if before < 10 * ENOUGH:
        seconds_of(run, calls_of(SETTLING, before))
    return seconds_of(run, calls_of(ENOUGH, before))


def calls_of(seconds: float, each: float) -> int:
    """Return how many calls of `each` seconds take `seconds`, from 1 to 100."""
    return int(np.clip(np.ceil(seconds / each), 1, 100))


def seconds_of(run: Callable[[], Any], calls: int) -> float:
    """Return the mean time of a number of calls."""
    began = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - began) / calls


def median(times: np.ndarray) -> Interval:
    """Return the median over rounds with its interval."""
    return bootstrap(np.median, times)


def ratio(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """Return the ratio of two medians; the bootstrap draws rounds in pairs, as measured."""
    pairs = np.stack([ours, theirs])
    return bootstrap(_ratio_of_medians, pairs)


def bootstrap(
    statistic: Callable[..., Any], samples: np.ndarray, draws: int = 2000, seed: int = 0
) -> Interval:
    """Return the bootstrap percentile interval (Efron 1979) of a statistic.

    Args:
      statistic: called as ``statistic(samples, axis=-1)``; it may combine other axes as it likes.
      samples: ``[..., n]``.
      draws: how often n samples are drawn with replacement.
      seed: the seed of the draws.
    """
    n = samples.shape[-1]
    indices = np.random.default_rng(seed).integers(n, size=(draws, n))
    drawn = statistic(samples[..., indices], axis=-1)  # [draws]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(statistic(samples, axis=-1)), float(low), float(high))


def _ratio_of_medians(pairs: np.ndarray, axis: int) -> np.ndarray:
    ours, theirs = np.median(pairs, axis=axis)
    return ours / theirs
