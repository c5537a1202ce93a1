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
) -> Panel:
    """Return a column of a CSV file as a series, and others beside it as covariates.

    What is changed on the way is printed: rows are sorted by time, and steps that have none are
    missing.

    Args:
      file: see `experiments.data.columns.read_columns`.
      target: the name of the column to forecast.
      time: the column of times; ``""`` takes rows as steps.
      covariates: names of columns, separated by commas.
      horizon: h.
      season: its steps; 0 takes what the spacing of the times suggests.

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
        grid, steps, said = gridded(columns.times, columns.lines, f"--csv: {path}, column {time}")
    for line in said:
        print(line, file=sys.stderr)
    values = np.full((int(steps.max()) + 1, len(names)), np.nan)
    values[steps] = columns.values
    if not np.isfinite(values[:, 0]).any():
        raise UserError(f"{path}, column {target}: expected numbers, got no value at all.")
    return Panel([target], [values], horizon, season or grid.season, grid)
