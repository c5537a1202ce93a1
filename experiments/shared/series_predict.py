"""Use a trained run on new series: write forecasts as CSV, or the classes of cases."""

import contextlib
import csv
import dataclasses
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from experiments.data.classified import Classified, padded
from experiments.data.forecast import continued
from experiments.data.ts_files import read_ts
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.files import path_of, write_atomically
from experiments.harness.runs import Run
from experiments.shared.forecasting import MIDDLE, QUANTILES
from experiments.shared.forecasts import next_steps
from experiments.shared.series_classes import class_probabilities, inputs_of, namer_of
from experiments.shared.series_jobs import classified, forecasts, loaded, panel_of, settings_for

ORDER = (MIDDLE, *(k for k in range(len(QUANTILES)) if k != MIDDLE))  # the median first


@dataclasses.dataclass(frozen=True)
class Predict:
    """Hold the flags of ``./launch.sh predict``."""

    csv: str = option(
        "",
        "for forecasts: a file of the same columns, with rows that follow those of training, or "
        "all rows up to the forecast, of this series or of another",
    )
    ts: str = option("", "for classes: a .ts file of cases, with or without classes")
    out: str = option("", "the CSV file to write; by default it is printed")


def predict(run: Run, flags: Predict) -> Iterator[str]:
    """Write forecasts or classes as CSV."""
    if forecasts(run.config):
        if flags.ts:
            raise UserError("--ts: the run predicts series; give --csv=FILE, or nothing.")
        rows = forecast_rows(run, flags.csv)
    else:
        if flags.csv or not flags.ts:
            raise UserError("--ts: the run names classes of cases; give --ts=FILE alone.")
        rows = class_rows(run, flags.ts, classified(run.config))
    yield from written(rows, flags.out)


def forecast_rows(run: Run, file: str) -> Iterator[Sequence[str]]:
    """Return the rows of a forecast: series or none, time, median and quantiles.

    Raises:
      UserError: for a file whose steps are others than those of training.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # what it says was said when the run was loaded
        trained = panel = panel_of(run.config)
    settings = settings_for(run.config, trained)
    if file:
        if not run.config.csv:
            raise UserError(f"--csv: the run in {run.folder} was trained on {run.config.data}.")
        config = dataclasses.replace(run.config, csv=file, season=trained.season)
        panel = continued(trained, loaded(config, trained.grid))
        if (there := len(panel.values[0])) < settings.context:
            print(
                f"--csv: {file}: {there:,} of the {settings.context:,} steps that the run reads "
                "before a forecast are there.",
                file=sys.stderr,
            )
    found = next_steps(run.config, run.kept, panel, settings)
    named = len(panel.values) > 1
    levels = [f"q{round(100 * QUANTILES[k]):02}" for k in ORDER[1:]]
    yield [*["series"] * named, "time", "median", *levels]
    for name, values, each in zip(panel.names, panel.values, found, strict=True):
        for ahead, row in enumerate(each):
            time = panel.grid.text(len(values) + ahead)
            yield [*[name] * named, time, *(f"{row[k]:.6g}" for k in ORDER)]


def class_rows(run: Run, file: str, found: Classified) -> Iterator[Sequence[str]]:
    """Return a row for each case: its number, the answer and the probability of each class.

    Raises:
      UserError: for cases of another number of channels.
    """
    train = found.splits["train"]
    cases = read_ts(path_of(file, "--ts: "))
    channels = train.values.shape[-1]
    if cases.values[0].shape[1] != channels:
        got = cases.values[0].shape[1]
        raise UserError(f"--ts: expected {channels} channels, as in training, got {got}.")
    arrays = padded(cases.values, np.zeros(len(cases.values), np.int32))
    model = namer_of(run.config, channels, len(found.classes))
    probabilities = class_probabilities(model, run.kept, inputs_of(arrays, train))
    yield ["case", "class", *(f"p({name})" for name in found.classes)]
    for number, row in enumerate(probabilities, start=1):
        yield [str(number), found.classes[row.argmax()], *(f"{each:.4f}" for each in row)]


def written(rows: Iterable[Sequence[str]], file: str) -> Iterator[str]:
    """Write rows to a file, or return them as a text.

    Raises:
      UserError: for a file that cannot be written.
    """
    stream = io.StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows(rows)
    if not file:
        yield stream.getvalue().rstrip("\n")
        return
    path: Path = path_of(file, "--out: ")
    try:
        write_atomically(path, stream.getvalue())
    except OSError as error:
        raise UserError(f"--out: {path} cannot be written: {error.strerror}.") from error
    yield f"written to {path}"
