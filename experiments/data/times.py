"""Find the regular grid that times stand on, from numbers or dates as texts."""

import calendar
import datetime
import re
from typing import NamedTuple

import numpy as np

from experiments.data.numbers import number_of
from experiments.harness.errors import UserError

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
DAY = 86400.0
SPARSEST = 10  # steps of a grid for each row that stands on it
IN_SECONDS = {7 * DAY: 52, DAY: 7}  # steps of a season, by the seconds of a step
IN_MONTHS = {1: 12, 3: 4}
COMPACT = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(\d\d)?")  # 20240131, or the month 202401


class Grid(NamedTuple):
    """Hold evenly spaced times.

    Attributes:
      unit: ``"row"``, ``"number"``, ``"second"`` (since 1970) or ``"month"`` (since the year 0).
      start: of step 0, in this unit.
      step: between two steps.
      day: of the month on which each stands; 31 is the last one.
      shown: how many characters of an ISO date are written.
    """

    unit: str
    start: float
    step: float
    day: int = 1
    shown: int = 10

    def text(self, step: int) -> str:
        """Write the time of a step."""
        value = self.start + step * self.step
        if self.unit in ("row", "number"):
            return f"{value:.12g}"
        try:
            if self.unit == "second":
                return (EPOCH + datetime.timedelta(seconds=value)).isoformat(" ")[: self.shown]
            year, month = divmod(round(value), 12)
            day = min(self.day, calendar.monthrange(year, month + 1)[1])
            return datetime.date(year, month + 1, day).isoformat()[: self.shown]
        except (OverflowError, ValueError):  # beyond the year 9999
            return f"+{step}"

    @property
    def season(self) -> int:
        """Return the steps of a season that such a spacing suggests; 1 for none.

        Years of months, quarters and weeks, weeks of days, and days of anything shorter down to
        five minutes.
        """
        if self.unit == "month":
            return IN_MONTHS.get(round(self.step), 1)
        if self.unit != "second":
            return 1
        per_day = DAY / self.step
        if self.step < DAY and per_day <= 288 and per_day == round(per_day):
            return round(per_day)
        return IN_SECONDS.get(self.step, 1)


ROWS = Grid("row", 1, 1)


def gridded(words: list[str], lines: list[int], where: str) -> tuple[Grid, np.ndarray, list[str]]:
    """Return the grid of times, the step of each, and sentences about what is out of order.

    Where times do not stand on a grid, rows count as steps in their order of time.

    Args:
      words: numbers, or dates and times in the form of ISO 8601; without a time zone they are UTC.
        Where all are of the form 20240131, or 202401 for a month, they are dates too.
      lines: of the file, for messages.
      where: names file and column, for messages.

    Raises:
      UserError: for another word, with its line; for a time that comes twice; for a grid most of
        which would be empty.
    """
    values, dates = values_of(words, lines, where)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    if (twice := np.flatnonzero(np.diff(ordered) == 0)).size:
        first, second = sorted(lines[k] for k in order[twice[0] : twice[0] + 2])
        raise UserError(
            f"{where}: {words[order[twice[0]]]!r} stands in lines {first} and {second}; "
            "give each time once."
        )
    said = conversions(words, dates, where)
    if (order != np.arange(len(order))).any():
        said.append(f"{where}: rows are out of order, and were sorted by time.")
    grid = grid_of(ordered, dates)
    steps = steps_of(ordered if grid.unit != "month" else months_of(ordered), grid)
    if steps is None:
        said.append(f"{where}: times are not evenly spaced; each row counts as one step.")
        return ROWS, np.argsort(order), said
    if steps[-1] >= SPARSEST * len(words):
        raise UserError(
            f"{where}: {len(words):,} rows on a grid of {steps[-1] + 1:,} steps leave most of it "
            "empty; give rows at even distances."
        )
    if missing := steps[-1] + 1 - len(words):
        gone = "step has no row, and counts" if missing == 1 else "steps have no row, and count"
        said.append(f"{where}: {missing:,} {gone} as missing.")
    found = np.empty(len(words), np.int64)
    found[order] = steps
    return grid, found, said


def conversions(words: list[str], dates: int, where: str) -> list[str]:
    """Return sentences about times that will be shown in another form than they have."""
    said = []
    if dates and COMPACT.fullmatch(words[0]):
        said.append(f"{where}: {words[0]} and the like are read as dates, not as numbers.")
    if dates and any(map(has_zone, words)):
        said.append(f"{where}: times of other zones are shown in UTC.")
    return said


def values_of(words: list[str], lines: list[int], where: str) -> tuple[np.ndarray, int]:
    """Return times as numbers, and the characters that a date has; 0 where they are numbers."""
    numbers = [number_of(word) for word in words]
    seconds = [seconds_of(word) for word in words]
    compact = None not in seconds and all(map(COMPACT.fullmatch, words))
    if None not in numbers and not compact:
        return np.array(numbers, float), 0
    for word, line, number, second in zip(words, lines, numbers, seconds, strict=True):
        if second is None or (number is not None and not compact):
            raise UserError(
                f"{where}, line {line}: expected a date such as 2024-01-31 or 2024-01-31 12:00, "
                f"or a number in every line, got {word[:40]!r}."
            )
    written = max(map(len, words))
    return np.array(seconds, float), (7 if written == 6 else 10) if compact else min(19, written)


def seconds_of(word: str) -> float | None:
    """Return the seconds from 1970 to a date; None for what is none.

    Example:
      >>> seconds_of("1970-01-02"), seconds_of("1970-01-01T01:00:00+01:00"), seconds_of("1970-02")
      (86400.0, 0.0, 2678400.0)
    """
    found = moment_of(word)
    if found is None:
        return None
    zoned = found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
    return (zoned - EPOCH).total_seconds()


def moment_of(word: str) -> datetime.datetime | None:
    """Return a date, with its zone if it has one; None for what is none."""
    if len(word) == 6 and COMPACT.fullmatch(word):
        word = f"{word[:4]}-{word[4:]}"
    whole = f"{word}-01" if len(word) == 7 and word[4:5] == "-" else word
    try:
        return datetime.datetime.fromisoformat(whole)
    except ValueError:
        return None


def has_zone(word: str) -> bool:
    """Return whether a date has a zone that is not UTC."""
    found = moment_of(word)
    return bool(found and found.utcoffset())


def grid_of(ordered: np.ndarray, dates: int) -> Grid:
    """Return the grid whose step is the distance that comes most often, about."""
    distances = np.diff(ordered)
    if not dates:
        return Grid("number", ordered[0], middle(distances))
    if distances.size and np.median(distances) >= 28 * DAY and (day := day_of(ordered)):
        months = months_of(ordered)
        return Grid("month", months[0], middle(np.diff(months)), day, min(10, dates))
    return Grid("second", ordered[0], middle(distances), shown=max(10, dates))


def middle(distances: np.ndarray) -> float:
    """Return the median of the distances, one that is there."""
    return float(np.sort(distances)[(len(distances) - 1) // 2]) if distances.size else 1.0


def day_of(seconds: np.ndarray) -> int:
    """Return the day of the month on which all times stand, 31 for the last one; 0 for none."""
    moments = [EPOCH + datetime.timedelta(seconds=value) for value in seconds.tolist()]
    days = {moment.day for moment in moments}
    if any(value % DAY for value in seconds.tolist()):
        return 0
    if all(each.day == calendar.monthrange(each.year, each.month)[1] for each in moments):
        return 31
    return days.pop() if len(days) == 1 else 0


def months_of(seconds: np.ndarray) -> np.ndarray:
    """Return times as months since the year 0."""
    moments = [EPOCH + datetime.timedelta(seconds=value) for value in seconds.tolist()]
    return np.array([12 * each.year + each.month - 1 for each in moments], float)


def steps_of(ordered: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Return the step of each time; None where they do not stand on the grid."""
    places = (ordered - grid.start) / grid.step
    if not np.isfinite(places).all() or places[-1] > 2**53:
        return None
    steps = np.round(places).astype(np.int64)
    even = (np.abs(places - steps) < 0.01).all() and (np.diff(steps) > 0).all()
    return steps if even else None
