"""Train a network on sequences that are drawn anew in each step, and tested on fixed ones."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import recurrent
from experiments.harness.config import option
from experiments.harness.program import Exhibit, Finished, Program
from experiments.shared.remembering import Problem, drawn, numbered
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.training.task import HParams, Metric, Metrics

LOSS = Metric("loss", higher_is_better=False)
RIGHT = Metric("right", higher_is_better=True, format="{:.2%}")
HELD_OUT = {"valid": 500, "test": 2000}  # sequences


@dataclasses.dataclass(frozen=True)
class MemoryConfig(MinibatchConfig):
    """Hold the fields of trainings on sequences that are drawn."""

    length: int = option(200, "T, steps from the first to the last", minimum=3, maximum=10**6)
    examples: int = option(5000, "sequences an epoch, each drawn anew", minimum=1, maximum=10**8)
    hidden_size: int = option(64, "H, the size of the hidden state", minimum=1, maximum=10**5)
    chrono: bool = option(
        True,
        "whether the memory spans T steps before training, by the gates' biases (Tallec & Ollivier "
        "2018), radii, step sizes or the window, where the cell has such",
    )
    epochs: int = 50
    batch_size: int = 50
    learning_rate: float = 3e-3


def memory_program(
    config: MemoryConfig,
    problem: Problem,
    network: recurrent.Cell,
    exhibits: Callable[[Finished], Iterator[Exhibit]],
    also: Callable[[Any, Array, Array], Metrics] = lambda params, xs, mask: {},
) -> Program:
    """Return the Program that trains a network to answer.

    Args:
      config: sizes, and the optimizer.
      problem: what is asked.
      network: from sequences ``[T, B, D]`` to outputs ``[T, B, O]``.
      exhibits: of the report.
      also: ``(params, xs, mask) -> metrics``, what else an evaluation measures.
    """

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        fresh = jax.random.split(key, len(batch["number"]))
        xs, targets = drawn(problem, fresh)
        found = problem.judge(recurrent.unroll(network, params, xs)[1], targets, batch["mask"])
        return found["loss"].mean, found

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        xs, targets = numbered(problem, batch["number"])
        ys = recurrent.unroll(network, params, xs)[1]
        found = problem.judge(ys, targets, batch["mask"])
        return found | also(params, xs, batch["mask"])

    return minibatch_program(
        config,
        numbers(config.examples),
        network.init,
        measure,
        LOSS,
        report=RIGHT,
        loss=loss,
        exhibits=exhibits,
    )


def numbers(examples: int) -> dict[str, Any]:
    """Return the numbers of sequences by split; those of training only count them."""
    counts = {"train": examples} | HELD_OUT
    starts = {"train": 0, "valid": 0, "test": HELD_OUT["valid"]}
    return {
        name: {"number": jnp.arange(starts[name], starts[name] + count)}
        for name, count in counts.items()
    }
