"""Seconds of a call, of several programs in turns, so that what the machine does meets them all."""

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

MOST_ROUNDS = 100
ENOUGH = 0.005  # seconds of one program in one round; a shorter one is called several times
# Where one program's threads spun a moment ago, the next one's share a core at first: our own, on
# two devices after torch, needs 10 ms of calls until the system has moved them.
SETTLING = 0.02


class Interval(NamedTuple):
    """An estimate with the 95 % interval of its bootstrap."""

    value: float
    low: float
    high: float


def interleaved(
    runs: Mapping[str, Callable[[], Any]], seconds: float, repeats: int
) -> dict[str, np.ndarray]:
    """Seconds of a call of each program, ``[rounds]``.

    In a round each has its turn, in an order drawn anew: where calls are short, some that are not
    timed, since caches and threads are still the last program's; then one or several that are, of
    which the mean counts.

    Args:
      runs: programs by name.
      seconds: rounds go on until they have taken so long for each program.
      repeats: at least so many rounds; at most `MOST_ROUNDS`.
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
    """Seconds of a call, given those that one took before."""
    if before < 10 * ENOUGH:
        seconds_of(run, calls_of(SETTLING, before))
    return seconds_of(run, calls_of(ENOUGH, before))


def calls_of(seconds: float, each: float) -> int:
    """How many calls take so long."""
    return int(np.clip(np.ceil(seconds / each), 1, 100))


def seconds_of(run: Callable[[], Any], calls: int) -> float:
    """The mean of so many calls."""
    began = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - began) / calls


def median(times: np.ndarray) -> Interval:
    """The median over rounds."""
    return bootstrap(np.median, times)


def ratio(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    """The ratio of two medians; rounds are drawn in pairs, as they were measured."""
    pairs = np.stack([ours, theirs])
    return bootstrap(_ratio_of_medians, pairs)


def bootstrap(
    statistic: Callable[..., Any], samples: np.ndarray, draws: int = 2000, seed: int = 0
) -> Interval:
    """The percentile interval (Efron 1979) of ``statistic(samples, axis=-1)``.

    Args:
      statistic: of samples along the last axis; other axes are its own matter.
      samples: ``[..., n]``.
      draws: how often n of them are drawn with replacement.
      seed: of the draws.
    """
    n = samples.shape[-1]
    indices = np.random.default_rng(seed).integers(n, size=(draws, n))
    drawn = statistic(samples[..., indices], axis=-1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(statistic(samples, axis=-1)), float(low), float(high))


def _ratio_of_medians(pairs: np.ndarray, axis: int) -> np.ndarray:
    ours, theirs = np.median(pairs, axis=axis)
    return ours / theirs
