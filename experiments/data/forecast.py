"""Load series to forecast: those of the M1 competition, or the columns of a CSV file."""

import sys
from typing import NamedTuple

import numpy as np

from experiments.data.columns import read_columns
from experiments.data.download import REMOTE_FILES, fetch
from experiments.data.times import ROWS, Grid, gridded
from experiments.data.ts_files import read_tsf
from experiments.harness.errors import UserError
from experiments.harness.files import path_of

M1_YEARLY = "m1_yearly"
M1_HORIZON = 6


class Panel(NamedTuple):
    """Hold series that are forecast by one network.

    Attributes:
      names: of the series.
      values: of each, float64 [T, C], the target first, then covariates; NaN is missing.
      horizon: h, how many steps are forecast.
      season: steps of a season; 1 for none.
      grid: the times of the steps.
    """

    names: list[str]
    values: list[np.ndarray]
    horizon: int
    season: int = 1
    grid: Grid = ROWS


def load_m1_yearly(horizon: int = 0, season: int = 0) -> Panel:
    """Return the 181 yearly series of the M1 competition, horizon 6.

    References:
      Makridakis et al. 1982, The accuracy of extrapolation (time series) methods.

    Raises:
      UserError: where the file is missing or damaged.
    """
    (file,) = REMOTE_FILES[M1_YEARLY]
    series = read_tsf(fetch(file))
    values = [each.values[:, None] for each in series]
    return Panel([each.name for each in series], values, horizon or M1_HORIZON, season or 1)


def load_csv(
    file: str,
    target: str,
    time: str = "",
    covariates: str = "",
    *,
    horizon: int,
    season: int = 0,
    like: Grid | None = None,
) -> Panel:
    """Return a column of a CSV file as a series, and others beside it as covariates.

    What is changed on the way is printed: rows are sorted by time, steps that have none are
    missing, and those at the end without a value of the target are left out, so that forecasts
    begin where it ends.

    Args:
      file: see `experiments.data.columns.read_columns`.
      target: the name of the column to forecast.
      time: the column of times; ``""`` takes rows as steps.
      covariates: names of columns, separated by commas.
      horizon: h.
      season: its steps; 0 takes what the spacing of the times suggests.
      like: the grid on which the times have to stand; None finds one.

    Raises:
      UserError: as the readers do, and where no value of the target is known.
    """
    names = [target, *filter(None, map(str.strip, covariates.split(",")))]
    if not target:
        raise UserError("--target: say which column of the file is to be forecast.")
    if len({*names, time}) < len(names) + 1:
        raise UserError("--target, --covariates, --time: expected different columns.")
    path = path_of(file, "--csv: ")
    columns = read_columns(path, names, time)
    grid, steps, said = ROWS, np.arange(len(columns.lines)), []
    if time:
        where = f"--csv: {path}, column {time}"
        grid, steps, said = gridded(columns.times, columns.lines, where, like)
    first = int(steps.min())
    values = np.full((int(steps.max()) - first + 1, len(names)), np.nan)
    values[steps - first] = columns.values
    grid = grid._replace(start=grid.start + first * grid.step)
    known = np.flatnonzero(np.isfinite(values[:, 0]))
    if not known.size:
        raise UserError(f"{path}, column {target}: expected numbers, got no value at all.")
    if without := len(values) - 1 - known[-1]:
        left = "1 step at the end has" if without == 1 else f"{without:,} steps at the end have"
        said.append(
            f"--csv: {path}: {left} no value of {target}; forecasts begin after "
            f"{grid.text(int(known[-1]))}."
        )
    for line in said:
        print(line, file=sys.stderr)
    series = values[: known[-1] + 1]
    return Panel([target], [series], horizon, season or grid.season, grid)


def continued(before: Panel, after: Panel) -> Panel:
    """Return a series with what another panel has of it from before its first step; say so.

    They are of one series where their times stand on one grid, and no value of the one contradicts
    the other. Rows that have no times are taken as they are.
    """
    offset = round((after.grid.start - before.grid.start) / before.grid.step)
    if before.grid.unit == "row" or offset <= 0:
        return after
    old, new = before.values[0], after.values[0]
    both = max(0, min(len(old) - offset, len(new)))
    one, other = old[offset : offset + both], new[:both]
    if (np.isfinite(one) & np.isfinite(other) & (one != other)).any():
        return after
    values = np.full((offset + len(new), new.shape[1]), np.nan)
    values[: min(offset, len(old))] = old[:offset]
    values[offset:] = new
    print(
        f"the {min(offset, len(old)):,} steps of training before {after.grid.text(0)} are read as "
        "well.",
        file=sys.stderr,
    )
    return after._replace(values=[values], grid=before.grid)
