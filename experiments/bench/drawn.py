"""Measure by how much the choices of a gated loop miss the best ones, on shapes drawn at random.

A CPU can multiply x outside the loop, inside it, or together with h. The library chooses by rules
that were fitted to measurements, and here the choice is compared with all of them on shapes that
nobody looked at. The regret of a choice is its time over that of the fastest.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np

from experiments.bench import with_recurrent
from experiments.bench.cases import CELLS, Case, Shape, flop
from experiments.bench.program import Program, jax_program
from experiments.bench.weights import Weights
from recurrent.cells import _gated_loop

RANGES = {"time": (8, 1000), "batch": (1, 256), "inputs": (1, 512), "hidden": (16, 1024)}
MOST_FLOP = 2 * 10**10  # forward + backward, about a tenth of a second; larger shapes are redrawn
MEASURES = ("forward", "backward")


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

    def noted(*given: Any) -> str:
        found.append(rules(*given))
        return found[-1]

    network = with_recurrent.build(case, weights)

    def run(params: Any, xs: Any) -> Any:
        apply = network.apply
        if measure == "forward":
            return apply(params, xs)
        return jax.grad(lambda params: apply(params, xs).sum())(params)

    with mock.patch.object(_gated_loop, "way_on_cpu", noted):
        jax.eval_shape(run, network.params, xs)
    return found[-1]


def ways_of(case: Case) -> Sequence[str]:
    """Return the ways that differ: the candidate of a GRU needs the product of h by itself."""
    ways = _gated_loop.WAYS
    return [way for way in ways if way != _gated_loop.TOGETHER] if case.cell == "gru" else ways


def program(case: Case, weights: Weights, xs: np.ndarray, measure: str, way: str) -> Program:
    """Build the program of one measurement in which x is multiplied in one of the ways."""
    with mock.patch.object(_gated_loop, "way_on_cpu", return_value=way):
        return jax_program(with_recurrent.build(case, weights), xs, measure)
