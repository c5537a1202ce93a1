"""Compare each swept value alone, and all together, with the configuration without any of them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.harness.errors import UserError
from experiments.harness.plan import DIVERGED
from experiments.harness.program import Exhibit, Figure, Program, Row, Table
from experiments.harness.runs import MEMBERS, kept_at_best
from experiments.sweep.ranking import Configuration, mean_and_spread
from recurrent.training.task import Metric

NONE, TOGETHER = "none", "all together"


class Compared(NamedTuple):
    """Hold a configuration with its name.

    Attributes:
      name: what it has of what is swept.
      configuration: its values and members.
      gain: by how much the mean of its test metric is better than that of the one with none.
      spreads: the gain as a multiple of the spread over seeds, the root of the mean of both
        variances; None where there is one seed, or some member diverged.
    """

    name: str
    configuration: Configuration
    gain: float | None
    spreads: float | None


def compared(
    configurations: Sequence[Configuration], base: Mapping[str, Any], metric: Metric
) -> list[Compared]:
    """Return the configurations in their order, each compared with the one that has none.

    Args:
      configurations: best first.
      base: the values without the sweep, by field.
      metric: of the test split, by which they are compared.
    """
    names = {id(each): name_of(each.values, base) for each in configurations}
    none = next(each for each in configurations if names[id(each)] == NONE)
    key = f"test_{metric.name}"
    return [
        Compared(names[id(each)], each, *gain_over(none.of(key), each.of(key), metric))
        for each in configurations
    ]


def name_of(values: Mapping[str, Any], base: Mapping[str, Any]) -> str:
    """Name a configuration by what differs from the base.

    Example:
      >>> base = {"dropout": 0.0, "tied": False, "layers": 1}
      >>> [name_of(base | own, base) for own in ({}, {"dropout": 0.5}, {"tied": True})]
      ['none', 'dropout 0.5', 'tied']
      >>> name_of({"dropout": 0.5, "tied": True, "layers": 2}, base)
      'all together'
    """
    own = {field: value for field, value in values.items() if value != base[field]}
    if not own:
        return NONE
    if len(own) == len(values):
        return TOGETHER
    return ", ".join(
        field if value is True else f"{field} {value:g}" if isinstance(value, float)
        else f"{field} {value}"
        for field, value in own.items()
    )  # fmt: skip


def gain_over(
    none: Sequence[float], own: Sequence[float], metric: Metric
) -> tuple[float | None, float | None]:
    """Return by how much the mean of some numbers is better, also as a multiple of their spread.

    Example:
      >>> gain_over([1.0, 3.0], [4.0, 6.0], Metric("accuracy", True))
      (3.0, 2.1213203435596424)
    """
    first, second = mean_and_spread(none), mean_and_spread(own)
    if first is None or second is None:
        return None, None
    gain = metric.score(second[0]) - metric.score(first[0])
    spread = math.sqrt((first[1] ** 2 + second[1] ** 2) / 2)
    return gain, gain / spread if spread else None


def exhibits(
    found: Sequence[Compared],
    rows: Mapping[int, Sequence[Row]],
    base: Any,
    program: Program,
    folder: Path,
) -> Iterator[Exhibit]:
    """Yield the table of every seed, and the figures.

    Args:
      found: of `compared`, best first.
      rows: the metrics of each member.
      base: the Config without the sweep.
      program: of the first members.
      folder: of the sweep, in which the weights of its members are if all were kept.
    """
    from experiments.figures import alone

    yield table(found, program)
    report, select = program.report, program.select
    key = f"test_{report.name}"
    yield Figure(
        "alone",
        "Each alone, and all together",
        f"The {report.name} on the test split of every seed, in the order of the validation "
        f"{select.name}; bars are means. Shaded is the mean of {NONE} with its standard deviation "
        "on either side.",
        alone.strips(
            message(found, report),
            {each.name: each.configuration.of(key) for each in found},
            report,
        ),
    )
    yield Figure(
        "training_and_validation",
        "How far training and validation part",
        f"The {select.name} after each evaluation, of every seed. That of training is measured "
        "with the noise that is added there.",
        alone.curves(
            {each.name: [rows.get(m["member"], ()) for m in sound(each)] for each in found}, select
        ),
    )
    weights = {each.name: member_weights(folder, base, program, sound(each)) for each in found}
    if all(len(own) for own in weights.values()):
        yield Figure(
            "weights",
            "How large the weights are",
            "All weights of kernels of one seed of each. To the left are those as good as zero.",
            alone.sizes(weights),
        )


def sound(each: Compared) -> list[Any]:
    """Return the members that did not diverge."""
    return [member for member in each.configuration.members if member["status"] != DIVERGED]


def member_weights(folder: Path, base: Any, program: Program, members: Sequence[Any]) -> np.ndarray:
    """Return all weights of kernels of the first of some members ``[N]``; none if not kept.

    Nor are they of members whose weights have other shapes than those of the program.
    """
    own = folder / MEMBERS / str(members[0]["member"]) if members else folder / MEMBERS
    if not (own / "checkpoints").is_dir():
        return np.zeros(0)
    try:
        leaves = jax.tree.leaves_with_path(kept_at_best(program, base, own))
    except UserError:
        return np.zeros(0)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    kernels = [np.ravel(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)
               if name.endswith("kernel")]  # fmt: skip
    return np.concatenate([np.zeros(0), *kernels])


def message(found: Sequence[Compared], metric: Metric) -> str:
    """Say what the best one has gained."""
    best, none = found[0], next(each for each in found if each.name == NONE)
    means = [mean_and_spread(each.configuration.of(f"test_{metric.name}")) for each in (best, none)]
    if best is none or None in means:
        return "None of them helps, by the validation split"
    said, other = (metric.text(mean[0]) for mean in means if mean)
    spreads = "" if best.spreads is None else f", {best.spreads:.1f} spreads of the seeds"
    return f"Best by validation: {best.name}, {said} against {other}{spreads}"


def table(found: Sequence[Compared], program: Program) -> Table:
    """Return every seed of every configuration: of the best, of none, and of all others."""
    select, report = program.select, program.report
    seeds = [member.get("seed", "") for member in found[0].configuration.members]
    first = [found[0], *(each for each in found[1:] if each.name == NONE)]
    shown = [*first, *(each for each in found if each not in first)]
    return Table(
        "ranking",
        "Every seed of each",
        f"The {report.name}{f' in {report.unit}' * bool(report.unit)} on the test split of every "
        f"seed: of the best, of {NONE}, with which all are compared, and of the others, best "
        f"first. The order is that of the validation {select.name}, given by its mean and sample "
        f"standard deviation over seeds. The gain is that of the mean test {report.name} over "
        f"{NONE}; beside it as a multiple of the spread "
        "over seeds, the root of the mean variance of both.",
        [
            "what is swept",
            f"validation {select.name}",
            *(f"seed {seed}" for seed in seeds),
            "gain",
            "gain / spread",
        ],
        [row_of(each, select, report) for each in shown],
    )


def row_of(each: Compared, select: Metric, report: Metric) -> list[str]:
    """Return a row of the table."""
    mean = mean_and_spread(each.configuration.of(f"valid_{select.name}"))
    tested = [member.get(f"test_{report.name}") for member in each.configuration.members]
    return [
        each.name,
        "diverged" if mean is None else f"{mean[0]:.4f} \u00b1 {mean[1]:.4f}",
        *map(report.number, tested),
        "-" if each.gain is None else f"{each.gain:+.4f}",
        "-" if each.spreads is None else f"{each.spreads:+.1f}",
    ]


def numbers(found: Sequence[Compared], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Return what ``result.json`` has of the comparison."""
    none = next(each for each in found if each.name == NONE)
    means = {
        f"none_test_{metric.name}": mean_and_spread(none.configuration.of(f"test_{metric.name}"))
        for metric in metrics
    }
    return {
        "best_alone": found[0].name,
        **{name: mean[0] for name, mean in means.items() if mean},
        **{f"{name}_spread": mean[1] for name, mean in means.items() if mean},
        "gain": found[0].gain,
        "gain_in_spreads": found[0].spreads,
    }


def headline(found: Mapping[str, Any], report: Metric, label: str) -> list[tuple[str, str]]:
    """Return the few numbers that the page shows large, from those of ``result.json``."""
    spreads, key = found["gain_in_spreads"], f"test_{report.name}"
    return [
        (f"best by validation {found['select']}", found["best_alone"]),
        (label, report.text(found.get(key))),
        (f"test {report.name} of {NONE}", report.text(found.get(f"none_{key}"))),
        ("gain, in spreads over seeds", "-" if spreads is None else f"{spreads:+.1f}"),
        ("members", str(found["members"])),
        ("training, compiling included", f"{found['train_seconds']:.0f} s"),
    ]
