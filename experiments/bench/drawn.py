"""Measure by how much the choices of a gated loop miss the best ones, on shapes drawn at random.

A CPU can multiply x outside the loop, inside it, or together with h; on the way back it can read
the recurrent kernel as it is stored, or transposed before the loop. The library chooses by rules
that were fitted to measurements, and here the choice is compared with all others on shapes that
nobody looked at. The regret of a choice is its time over that of the fastest.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from experiments.bench import with_recurrent
from experiments.bench.cases import CELLS, Case, Shape, flop
from experiments.bench.program import Program, jax_program
from experiments.bench.weights import Weights
from recurrent import linear_map
from recurrent.cells import _gated_loop

RANGES = {"time": (8, 1000), "batch": (1, 256), "inputs": (1, 512), "hidden": (16, 1024)}
MOST_FLOP = 2 * 10**10  # forward + backward, about a tenth of a second; larger shapes are redrawn
MEASURES = ("forward", "backward")
AS_STORED = ", kernel as stored"


def drawn_cases(count: int, seed: int) -> Iterator[Case]:
    """Yield each cell in so many shapes, whose sizes are uniform on a logarithmic scale."""
    source = np.random.default_rng(seed)
    for cell in CELLS:
        for _ in range(count):
            yield one_case(source, cell)


def one_case(source: np.random.Generator, cell: str) -> Case:
    """Draw shapes until one is small enough to be measured."""
    while True:
        logs = [source.uniform(np.log(low), np.log(high)) for low, high in RANGES.values()]
        case = Case(cell, Shape(*(round(float(np.exp(each))) for each in logs)))
        if flop(case, "backward") <= MOST_FLOP:
            return case


def chosen_way(case: Case, weights: Weights, xs: np.ndarray, measure: str) -> str:
    """Return what the library's rules choose."""
    import jax

    rules, found = _gated_loop.way_on_cpu, []
    reading, read = linear_map.is_read_as_stored, []

    def noted(*given: Any) -> str:
        found.append(rules(*given))
        return found[-1]

    def noted_reading(d_z: Any, kernel: Any) -> bool:
        as_stored = reading(d_z, kernel)
        if is_one_step(d_z):
            read.append(as_stored)
        return as_stored

    network = with_recurrent.build(case, weights)

    def run(params: Any, xs: Any) -> Any:
        apply = network.apply
        if measure == "forward":
            return apply(params, xs)
        return jax.grad(lambda params: apply(params, xs).sum())(params)

    with chosen_by(noted, noted_reading):
        jax.eval_shape(run, network.params, xs)
    return found[-1] + (AS_STORED if read and read[-1] else "")


def ways_of(case: Case, measure: str) -> list[str]:
    """Return the ways that differ: the candidate of a GRU needs the product of h by itself."""
    ways = [way for way in _gated_loop.WAYS if (case.cell, way) != ("gru", _gated_loop.TOGETHER)]
    return ways if measure == "forward" else [way + end for end in ("", AS_STORED) for way in ways]


def program(case: Case, weights: Weights, xs: np.ndarray, measure: str, way: str) -> Program:
    """Build the program of one measurement in which one of the ways is taken."""

    def reading(d_z: Any, kernel: Any) -> bool:
        return way.endswith(AS_STORED) if is_one_step(d_z) else by_rule(d_z, kernel)

    by_rule = linear_map.is_read_as_stored
    with chosen_by(lambda *_: way.removesuffix(AS_STORED), reading):
        return jax_program(with_recurrent.build(case, weights), xs, measure)


def chosen_by(way: Any, reading: Any) -> contextlib.ExitStack:
    """Return a context in which the library chooses by these functions in place of its rules."""
    both = contextlib.ExitStack()
    both.enter_context(mock.patch.object(_gated_loop, "way_on_cpu", way))
    both.enter_context(mock.patch.object(linear_map, "is_read_as_stored", reading))
    return both


def is_one_step(d_z: Any) -> bool:
    """Return whether a product is one of the loop's, ``[B, D]``, and not one of all steps."""
    return d_z.ndim == 2
