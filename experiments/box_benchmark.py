"""Which explanation of a network of sequences finds what decides, where this is known?

Noise of 50 steps and 50 features; in a box of steps and features lies the class. A map should be
large in the box and nowhere else (Ismail et al. 2020, arXiv:2010.13924).

Command: ./launch.sh box_benchmark [--model=cnn] [--read=mean] [--box=moving_rare_time]
         ./launch.sh evaluate RUN_DIRECTORY
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

from jax import Array

import recurrent
from experiments.harness.config import option
from experiments.harness.program import Exhibit, Figure, Finished, Program
from experiments.harness.runs import Command, Run
from experiments.shared.blocks import deep
from experiments.shared.box_maps import (
    FEATURES,
    STEPS,
    Found,
    drawn,
    found_by,
    scores_of,
    table,
    with_rollout,
)
from experiments.shared.classification import ACCURACY, LOSS, metrics
from experiments.shared.evaluations import leave_evaluation
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent import explain
from recurrent.layers import init_all
from recurrent.training.task import HParams, Metrics

WIDTH, LAYERS = 17, 3  # of the convolutions, which together see 49 steps
ATTENTION = {"heads": 4, "window": STEPS}


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the fields of this experiment."""

    model: str = option(
        "lstm",
        "the network: an LSTM, causal convolutions over time, or causal self-attention",
        choices=("lstm", "cnn", "attention"),
    )
    read: str = option(
        "last", "the outputs that are read: the last, or the mean of all", choices=("last", "mean")
    )
    box: str = option("middle", "where the class lies", choices=tuple(explain.BOXES))
    data_seed: int = option(0, "decides which sequences are drawn", minimum=0, maximum=2**31 - 1)
    hidden_size: int = option(32, "H, a multiple of 4", minimum=4, maximum=10**4)
    epochs: int = 10
    batch_size: int = 50
    learning_rate: float = 3e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    data = drawn(config.box, config.data_seed)
    model = parts_of(config)

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        return metrics(logits_of(config.read, model, params, batch["xs"]), batch)

    def exhibits(finished: Finished) -> Iterator[Exhibit]:
        from experiments.figures.boxes import areas, examples

        found = found_of(config, finished.kept, data["test"])
        scores = scores_of(found)
        title = f"{config.model}, {config.read} output, box {config.box}"
        yield Figure("areas", "Which methods find the box?", AREAS, areas(title, scores))
        yield table(scores)
        yield Figure("maps", "Maps of one test sequence", MAPS, examples(title, found))

    init = partial(init_all, model)
    return minibatch_program(config, data, init, measure, LOSS, report=ACCURACY, exhibits=exhibits)


AREAS = "Areas under precision and recall, weighted by saliency; means over test sequences."
MAPS = "Steps from left to right, features from top to bottom; the box is outlined."


def parts_of(config: Config) -> dict[str, Any]:
    """Return the network: a cell, and a readout of its outputs."""
    size = config.hidden_size
    if config.model == "lstm":
        cell = recurrent.lstm(FEATURES, size)
    elif config.model == "cnn":
        one = recurrent.pre_norm_block(
            recurrent.causal_conv(size, WIDTH), recurrent.mlp(size, size)
        )
        cell = deep(FEATURES, [one] * LAYERS)
    else:
        cell = recurrent.transformer(FEATURES, size, depth=1, **ATTENTION)
    return {"cell": cell, "head": recurrent.dense(size, 2)}


def logits_of(read: str, model: dict[str, Any], params: Any, xs: Array) -> Array:
    """Return logits ``[B, 2]`` of sequences ``[B, T, F]``."""
    _, ys = recurrent.unroll(model["cell"], params["cell"], xs.swapaxes(0, 1))
    return model["head"].apply(params["head"], ys.mean(0) if read == "mean" else ys[-1])


def found_of(config: Config, params: Any, test: Any) -> Found:
    """Return the maps of all methods; of self-attention also where the output looks."""
    found = found_by(partial(logits_of, config.read, parts_of(config), params), test)
    if config.model != "attention":
        return found
    weights = explain.transformer_attention(params["cell"], found.xs, **ATTENTION)
    return with_rollout(found, weights, config.read)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Hold the flags of ``./launch.sh evaluate``, which has none."""


def evaluate(run: Run, flags: Evaluate) -> Iterator[str]:
    """Measure each method, and leave ``evaluation-boxes.json`` in the run's folder."""
    scores = scores_of(found_of(run.config, run.kept, run.program.data["test"]))
    leave_evaluation(run, "evaluation-boxes", {"methods": scores})
    for row in table(scores).rows:
        yield "  ".join(row) + "\n"


commands = {"evaluate": Command(Evaluate, evaluate, "measure how well each method finds the box")}
