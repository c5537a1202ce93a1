"""Read what is swept, ``--sweep=FIELD=VALUES``, and list the members that this asks for."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.harness import config
from experiments.harness.config import Option
from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.plan import Values

SPACES = {"log": np.geomspace, "linear": np.linspace}
FORMS = "a,b,c or FROM:BELOW (whole numbers) or log:LOW:HIGH:COUNT or linear:LOW:HIGH:COUNT"
MOST_MEMBERS = 100_000
OF_ROWS = {"member", "status", "evaluation", "evaluations_done", "step", "best_step", "score"}


class Axis(NamedTuple):
    """Hold one swept field.

    Attributes:
      field: its name in the Config.
      values: those of a grid, in order; empty for a range without a count.
      bounds: of a range, which a random search draws from; None where values were listed.
    """

    field: str
    values: Sequence[Any]
    bounds: "Bounds | None" = None

    def describe(self) -> str:
        """Return what it runs over, as on the command line."""
        if self.bounds:
            return f"{self.bounds}" + (f":{len(self.values)}" if self.values else "")
        if isinstance(self.values, range):
            return f"{self.values.start}:{self.values.stop}"
        return ",".join(str(value) for value in self.values)


class Bounds(NamedTuple):
    """Hold a range of numbers, evenly spread on its scale, ``"log"`` or ``"linear"``."""

    scale: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.scale}:{self.low:g}:{self.high:g}"


def read_axes(texts: Sequence[str], options: Mapping[str, Option]) -> list[Axis]:
    """Return the axis of each ``FIELD=VALUES``.

    Raises:
      UserError: for none, a field that there is not or that comes twice, a value that it does not
        take, a range that is empty, reversed or of no numbers.
    """
    if not texts:
        raise UserError(f"sweep: expected at least one --sweep=FIELD=VALUES, with VALUES {FORMS}.")
    axes = [read_axis(text, options) for text in texts]
    fields = [axis.field for axis in axes]
    for field in fields:
        if fields.count(field) > 1:
            raise UserError(f"--sweep={field}: expected once, got {fields.count(field)} times.")
    return axes


def read_axis(text: str, options: Mapping[str, Option]) -> Axis:
    """Return the axis that ``FIELD=VALUES`` stands for."""
    field, _, values = text.partition("=")
    if field not in options:
        raise UserError(
            f"--sweep={text}: there is no field {field!r} to sweep.{did_you_mean(field, options)}"
        )
    if field in OF_ROWS or field.startswith(("train_", "valid_", "test_")):
        raise UserError(f"--sweep={text}: a sweep's own rows have a {field!r}; rename the field.")
    if not values:
        raise UserError(f"--sweep={text}: expected {field}=VALUES, with VALUES {FORMS}.")
    option, (first, *rest) = options[field], values.split(":")
    if first in SPACES:
        return _range(text, field, option, first, rest)
    if rest and option.type in (int, float):
        return Axis(field, _whole_numbers(text, field, option, [first, *rest]))
    listed = [config.parse(field, option, word) for word in values.split(",")]
    if len(set(listed)) < len(listed):
        raise UserError(f"--sweep={text}: expected each value once.")
    return Axis(field, listed)


def _range(text: str, field: str, option: Option, scale: str, parts: Sequence[str]) -> Axis:
    if option.type not in (int, float):
        raise UserError(f"--sweep={text}: {field} is no number; list its values as a,b,c.")
    if len(parts) not in (2, 3):
        raise UserError(f"--sweep={text}: expected {scale}:LOW:HIGH or {scale}:LOW:HIGH:COUNT.")
    low, high = (config.parse(field, option, part) for part in parts[:2])
    if not low < high or (scale == "log" and low <= 0):
        positive = "above 0 and " if scale == "log" else ""
        raise UserError(f"--sweep={text}: expected LOW {positive}below HIGH, got {low}, {high}.")
    bounds = Bounds(scale, low, high)
    if len(parts) == 2:
        return Axis(field, (), bounds)
    if not parts[2].isdecimal() or not 1 <= int(parts[2]) <= MOST_MEMBERS:
        raise UserError(f"--sweep={text}: expected a COUNT of 1 to {MOST_MEMBERS}, got {parts[2]}.")
    points = SPACES[scale](low, high, int(parts[2]))
    return Axis(field, list(dict.fromkeys(rounded(option, float(x)) for x in points)), bounds)


def rounded(option: Option, value: float) -> Any:
    """Round a number to six digits, which a command line and a table show whole."""
    return round(value) if option.type is int else float(f"{value:.6g}")


def _whole_numbers(text: str, field: str, option: Option, parts: Sequence[str]) -> range:
    if option.type is not int or len(parts) != 2:
        raise UserError(f"--sweep={text}: expected {FORMS}.")
    first, last = config.parse(field, option, parts[0]), config.parse(field, option, parts[1]) - 1
    if last < first:
        raise UserError(f"--sweep={text}: expected FROM below BELOW, got {parts[0]}:{parts[1]}.")
    if last - first >= MOST_MEMBERS:
        raise UserError(
            f"--sweep={text}: expected at most {MOST_MEMBERS} values, got {last - first + 1}; "
            "--search=random draws from linear:LOW:HIGH."
        )
    return range(first, last + 1)


def check_counts(axes: Sequence[Axis]) -> None:
    """Raise `UserError` for a range without a count, which has no values."""
    for field, values, bounds in axes:
        if not values and bounds:
            raise UserError(
                f"--sweep={field}: a grid needs a count, as in "
                f"{bounds.scale}:{bounds.low:g}:{bounds.high:g}:8; --search=random draws from a "
                "range."
            )


def grid(axes: Sequence[Axis]) -> list[Values]:
    """Return every combination of values, the last axis running fastest.

    Raises:
      UserError: for a range without a count, or more members than `MOST_MEMBERS`.
    """
    check_counts(axes)
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_MEMBERS:
        raise UserError(f"sweep: expected at most {MOST_MEMBERS} members, got {count}.")
    names = [axis.field for axis in axes]
    every = itertools.product(*(axis.values for axis in axes))
    return [dict(zip(names, values, strict=True)) for values in every]


def alone(axes: Sequence[Axis], base: Values) -> list[Values]:
    """Return the base, each value alone in it, and the first values of all fields together.

    Each with all values of the swept seed.

    Args:
      axes: of which each other than the seed differs from the base in every value.
      base: the values without the sweep, by field.

    Raises:
      UserError: for fewer than two fields beside the seed, a range without a count, or a value
        that is that of the base.
    """
    check_counts(axes)
    seeds = [axis for axis in axes if axis.field == "seed"]
    fields = [axis for axis in axes if axis.field != "seed"]
    if len(fields) < 2:
        raise UserError("--search=alone: expected two fields or more beside the seed.")
    for field, values, _ in fields:
        if base[field] in values:
            raise UserError(
                f"--sweep={field}: {base[field]} is its value without the sweep, with which the "
                "others are compared; leave it out."
            )
    none = {axis.field: base[axis.field] for axis in fields}
    single = [none | {axis.field: value} for axis in fields for value in axis.values]
    together = {axis.field: axis.values[0] for axis in fields}
    return [point | seed for point in [none, *single, together] for seed in grid(seeds)]


def at_random(
    axes: Sequence[Axis], options: Mapping[str, Option], count: int, seed: int
) -> list[Values]:
    """Draw ``count`` configurations, each with all values of the swept seed.

    Ranges are drawn from evenly on their scale. Seeds are not drawn, since every configuration
    needs the same. What is drawn twice counts once.
    """
    source = np.random.default_rng(seed)
    seeds = [axis for axis in axes if axis.field == "seed"]
    drawn = [axis for axis in axes if axis.field != "seed"]
    points = [{a.field: _drawn(a, options[a.field], source) for a in drawn} for _ in range(count)]
    distinct = [dict(items) for items in dict.fromkeys(tuple(point.items()) for point in points)]
    own = grid(seeds)
    if len(distinct) * len(own) > MOST_MEMBERS:
        raise UserError(f"sweep: expected at most {MOST_MEMBERS} members.")
    return [point | seed for point in distinct for seed in own]


def _drawn(axis: Axis, option: Option, source: np.random.Generator) -> Any:
    if axis.bounds is None:
        return axis.values[int(source.integers(len(axis.values)))]
    scale, low, high = axis.bounds
    if scale == "linear":
        return rounded(option, source.uniform(low, high))
    return rounded(option, math.exp(source.uniform(math.log(low), math.log(high))))


def programs(
    members: Sequence[Values], options: Mapping[str, Option]
) -> list[tuple[Values, list[int]]]:
    """Return the members by their static fields, each set of which needs a program of its own."""
    found: dict[tuple[Any, ...], tuple[Values, list[int]]] = {}
    for member, values in enumerate(members):
        static = {name: value for name, value in values.items() if not options[name].traced}
        found.setdefault(tuple(static.items()), (static, []))[1].append(member)
    return list(found.values())


def configurations(members: Sequence[Values]) -> list[list[int]]:
    """Return the members by configuration: those that differ in the seed alone together."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for member, values in enumerate(members):
        own = tuple((name, value) for name, value in values.items() if name != "seed")
        found.setdefault(own, []).append(member)
    return list(found.values())
