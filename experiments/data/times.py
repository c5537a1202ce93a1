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
QUARTER = re.compile(r"(\d{4})[- ]?Q([1-4])")
# Numbers that are taken for seconds since 1970 and for thousandths of them, by how many make a
# second: those of the years 1998 to 2065.
CLOCKS = {1: (9e8, 3e9), 1000: (9e11, 3e12)}
WEEKENDS = 2  # without rows, from which on weekends are left out
MONDAY = 3  # days from a Monday to 1970-01-01
Moments = list[datetime.datetime | None]


class Grid(NamedTuple):
    """Hold evenly spaced times.

    Attributes:
      unit: ``"row"``, ``"number"``, ``"second"`` (since 1970), ``"weekday"`` (Monday to Friday,
        since 1969-12-29) or ``"month"`` (since the year 0).
      start: of step 0, in this unit.
      step: between two steps.
      day: of the month on which each stands; 31 is the last one.
      shown: how many characters of an ISO date are written.
      own_clock: whether times of other zones count as their own clocks show them, not as UTC.
    """

    unit: str
    start: float
    step: float
    day: int = 1
    shown: int = 10
    own_clock: bool = False

    def text(self, step: int) -> str:
        """Write the time of a step."""
        value = self.start + step * self.step
        if self.unit in ("row", "number"):
            return f"{value:.12g}"
        try:
            if self.unit == "second":
                return (EPOCH + datetime.timedelta(seconds=value)).isoformat(" ")[: self.shown]
            if self.unit == "weekday":
                week, day = divmod(round(value), 5)
                return (EPOCH + datetime.timedelta(days=7 * week + day - MONDAY)).date().isoformat()
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
        if self.unit == "weekday":
            return 5
        if self.unit == "month":
            return IN_MONTHS.get(round(self.step), 1)
        if self.unit != "second":
            return 1
        per_day = DAY / self.step
        if self.step < DAY and per_day <= 288 and per_day == round(per_day):
            return round(per_day)
        return IN_SECONDS.get(self.step, 1)


ROWS = Grid("row", 1, 1)


def gridded(
    words: list[str], lines: list[int], where: str, like: Grid | None = None
) -> tuple[Grid, np.ndarray, list[str]]:
    """Return the grid of times, the step of each, and sentences about what is out of order.

    Where times do not stand on a grid, rows count as steps in their order of time.

    Args:
      words: numbers, or dates and times in the form of ISO 8601; without a time zone they are UTC.
        Where all are of the form 20240131, or 202401 for a month, they are dates too, and so are
        quarters, 2024Q1, and numbers that can be seconds since 1970, or thousandths.
      lines: of the file, for messages.
      where: names file and column, for messages.
      like: the grid on which they have to stand, from before its start on; None finds one.

    Raises:
      UserError: for another word, with its line; for a time that comes twice; for a grid most of
        which would be empty; for times that do not stand on the grid that is given.
    """
    moments = [moment_of(word) for word in words]
    own = like.own_clock if like else have_one_time_of_day(moments)
    values, dates = values_of(words, moments, own, lines, where)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    if (twice := np.flatnonzero(np.diff(ordered) == 0)).size:
        first, second = sorted(lines[k] for k in order[twice[0] : twice[0] + 2])
        raise UserError(
            f"{where}: {words[order[twice[0]]]!r} stands in lines {first} and {second}; "
            "give each time once, and one series a file."
        )
    said = conversions(words, moments, own, dates, where)
    if (order != np.arange(len(order))).any():
        said.append(f"{where}: rows are out of order, and were sorted by time.")
    grid = like or grid_of(ordered, dates)._replace(own_clock=own)
    steps = None if grid == ROWS else steps_of(ordered, grid)
    if steps is None:
        if like not in (None, ROWS):
            raise UserError(f"{where}: {another_grid(ordered, dates, like)}")
        why = "rows are steps, as in training" if like else "times are not evenly spaced"
        said.append(f"{where}: {why}; each row counts as one step.")
        return ROWS, np.argsort(order), said
    said += gaps(steps, grid, where)
    found = np.empty(len(words), np.int64)
    found[order] = steps
    return grid, found, said


def another_grid(ordered: np.ndarray, dates: int, like: Grid) -> str:
    """Say by what times differ from a grid that they should stand on."""
    own = grid_of(ordered, dates)
    steps = [f"{each.step:g} {each.unit}" for each in (own, like)]
    if steps[0] == steps[1] or len(ordered) == 1:
        return f"expected times as in training, a whole number of steps from {like.text(0)}."
    return f"a step is {steps[0]}, but was {steps[1]} in training."


def gaps(steps: np.ndarray, grid: Grid, where: str) -> list[str]:
    """Return sentences about steps of a grid without a row.

    Raises:
      UserError: where that is most of them.
    """
    count = int(steps[-1] - steps[0]) + 1
    if count > SPARSEST * len(steps):
        raise UserError(
            f"{where}: {len(steps):,} rows on a grid of {count:,} steps leave most of it empty; "
            "give rows at even distances."
        )
    said = []
    if grid.unit == "weekday":
        said.append(f"{where}: no row is of a weekend; steps lead from Friday to Monday.")
    if missing := count - len(steps):
        gone = "step has no row, and counts" if missing == 1 else "steps have no row, and count"
        said.append(f"{where}: {missing:,} {gone} as missing.")
    return said


def conversions(
    words: list[str], moments: Moments, own_clock: bool, dates: int, where: str
) -> list[str]:
    """Return sentences about times that will be shown in another form than they have."""
    said = []
    if dates and COMPACT.fullmatch(words[0]):
        said.append(f"{where}: {words[0]} and the like are read as dates, not as numbers.")
    elif dates and number_of(words[0]) is not None:
        said.append(f"{where}: {words[0]} and the like are read as seconds since 1970.")
    if dates and any(map(has_zone, moments)):
        how = "shown by their own clocks" if own_clock else "shown in UTC"
        said.append(f"{where}: times of other zones are {how}.")
    return said


def values_of(
    words: list[str], moments: Moments, own_clock: bool, lines: list[int], where: str
) -> tuple[np.ndarray, int]:
    """Return times as numbers, and the characters that a date has; 0 where they are numbers."""
    numbers = [number_of(word) for word in words]
    seconds = [seconds_from(each, own_clock) for each in moments]
    compact = None not in seconds and all(map(COMPACT.fullmatch, words))
    if None not in numbers and not compact:
        found = np.array(numbers, float)
        for parts, (low, high) in CLOCKS.items():
            if low <= found.min() and found.max() <= high:
                return found / parts, 19
        return found, 0
    for word, line, number, second in zip(words, lines, numbers, seconds, strict=True):
        if second is None or (number is not None and not compact):
            raise UserError(
                f"{where}, line {line}: expected a date such as 2024-01-31 or 2024-01-31 12:00, "
                f"or a number in every line, got {word[:40]!r}."
            )
    written = max(map(len, words))
    if compact:
        return np.array(seconds, float), 7 if written == 6 else 10
    return np.array(seconds, float), 7 if QUARTER.fullmatch(words[0]) else min(19, written)


def have_one_time_of_day(moments: Moments) -> bool:
    """Return whether dates have zones and one time of day by their own clocks.

    Such dates are days, also where clocks are put forward and back between them.
    """
    zoned = all(each and each.tzinfo for each in moments)
    return zoned and len({each.time() for each in moments if each}) == 1


def seconds_of(word: str) -> float | None:
    """Return the seconds from 1970 to a date; None for what is none.

    Example:
      >>> seconds_of("1970-01-02"), seconds_of("1970-01-01T01:00:00+01:00"), seconds_of("1970Q2")
      (86400.0, 0.0, 7776000.0)
    """
    return seconds_from(moment_of(word))


def seconds_from(moment: datetime.datetime | None, own_clock: bool = False) -> float | None:
    """Return the seconds from 1970 to a moment, or to what its own clock shows; None for None."""
    if moment is None:
        return None
    if own_clock or moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return (moment - EPOCH).total_seconds()


def moment_of(word: str) -> datetime.datetime | None:
    """Return a date, with its zone if it has one; None for what is none."""
    if len(word) == 6 and COMPACT.fullmatch(word):
        word = f"{word[:4]}-{word[4:]}"
    if quarter := QUARTER.fullmatch(word):
        word = f"{quarter[1]}-{3 * int(quarter[2]) - 2:02}"
    whole = f"{word}-01" if len(word) == 7 and word[4:5] == "-" else word
    try:
        return datetime.datetime.fromisoformat(whole)
    except ValueError:
        return None


def has_zone(moment: datetime.datetime | None) -> bool:
    """Return whether a date has a zone that is not UTC."""
    return bool(moment and moment.utcoffset())


def grid_of(ordered: np.ndarray, dates: int) -> Grid:
    """Return the grid whose step is the distance that comes most often, about."""
    distances = np.diff(ordered)
    if not dates:
        return Grid("number", ordered[0], middle(distances))
    if distances.size and np.median(distances) >= 28 * DAY and (day := day_of(ordered)):
        months = months_of(ordered)
        shown = min(10, dates) if day > 0 else 7
        return Grid("month", months[0], middle(np.diff(months)), max(1, day), shown)
    if distances.size and are_weekdays(ordered):
        return Grid("weekday", weekdays_of(ordered)[0], middle(np.diff(weekdays_of(ordered))))
    return Grid("second", ordered[0], middle(distances), shown=max(10, dates))


def are_weekdays(seconds: np.ndarray) -> bool:
    """Return whether times are dates one day apart, of which none is of a weekend."""
    weekends = (seconds[-1] - seconds[0]) / (7 * DAY)
    is_daily = middle(np.diff(seconds)) == DAY and not (seconds % DAY).any()
    return is_daily and weekends >= WEEKENDS and bool(np.isfinite(weekdays_of(seconds)).all())


def middle(distances: np.ndarray) -> float:
    """Return the median of the distances, one that is there."""
    return float(np.sort(distances)[(len(distances) - 1) // 2]) if distances.size else 1.0


def day_of(seconds: np.ndarray) -> int:
    """Return the day of the month on which all times stand, 31 for the last one; 0 for none.

    It is -1 for dates of every month, or every so many, that lie within a week of it, such as its
    last weekday.
    """
    moments = [EPOCH + datetime.timedelta(seconds=value) for value in seconds.tolist()]
    days = {moment.day for moment in moments}
    if any(value % DAY for value in seconds.tolist()):
        return 0
    if all(each.day == calendar.monthrange(each.year, each.month)[1] for each in moments):
        return 31
    if len(days) == 1:
        return days.pop()
    apart = np.diff(months_of(seconds))
    return -1 if max(days) - min(days) < 7 and (apart == apart[0]).all() else 0


def weekdays_of(seconds: np.ndarray) -> np.ndarray:
    """Return times as weekdays since 1969-12-29, a Monday; NaN for those of a weekend."""
    weeks, days = np.divmod(seconds / DAY + MONDAY, 7)
    return np.where(days < 5, 5 * weeks + days, np.nan)


def months_of(seconds: np.ndarray) -> np.ndarray:
    """Return times as months since the year 0."""
    moments = [EPOCH + datetime.timedelta(seconds=value) for value in seconds.tolist()]
    return np.array([12 * each.year + each.month - 1 for each in moments], float)


def steps_of(ordered: np.ndarray, grid: Grid) -> np.ndarray | None:
    """Return the step of each time; None where they do not stand on the grid."""
    in_units = {"month": months_of, "weekday": weekdays_of}
    places = (in_units.get(grid.unit, np.asarray)(ordered) - grid.start) / grid.step
    if not np.isfinite(places).all() or np.abs(places).max() > 2**53:
        return None
    steps = np.round(places).astype(np.int64)
    even = (np.abs(places - steps) < 0.01).all() and (np.diff(steps) > 0).all()
    return steps if even else None
