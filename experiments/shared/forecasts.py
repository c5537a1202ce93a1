"""Show what a trained forecaster predicts, beside what came and the naive forecasts."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.data.forecast import Panel
from experiments.harness.program import Exhibit, Figure, Finished, Table
from experiments.shared.forecasting import BANDS, MIDDLE, model_for, quantiles
from experiments.shared.windows import RIVALS, Place, Prepared, Settings, Windows, windows_of

AT_ONCE = 1000  # windows
FEWEST = 20  # values behind a share
POINTS = 3  # of a line, at least; else there is one share for all steps
SHOWN = 4  # horizons of history in a figure, at least


class Judged(NamedTuple):
    """Hold forecasts of windows, in values.

    Attributes:
      found: quantiles [N, h, Q].
      truth: [N, h]; NaN where it is not known.
      errors: absolute ones of the median and of `RIVALS`, by name, [N, h], as shares of the unit in
        which MASE counts.
    """

    found: np.ndarray
    truth: np.ndarray
    errors: dict[str, np.ndarray]


def predicted(config: Any, params: Any, windows: Windows) -> np.ndarray:
    """Return the quantiles of windows [N, h, Q], in values."""
    model = model_for(config, windows.arrays)
    names = ("past", "length", "naive")
    compute = jax.jit(lambda params, batch: quantiles(model, params, batch))
    parts = [
        np.asarray(
            compute(params, {name: windows.arrays[name][k : k + AT_ONCE] for name in names}), float
        )
        for k in range(0, len(windows.last), AT_ONCE)
    ]
    return windows.last[:, None, None] + windows.scale[:, None, None] * np.concatenate(parts)


def judged(found: np.ndarray, windows: Windows) -> Judged:
    """Compare forecasts with what came."""
    arrays = windows.arrays
    scale, last = windows.scale[:, None], windows.last[:, None]
    future = np.where(arrays["known"], arrays["future"], np.nan).astype(float)
    medians = {"ours": (found[..., MIDDLE] - last) / scale} | {
        name: arrays["naive"][..., k] for k, name in enumerate(RIVALS)
    }
    ratio = arrays["ratio"][:, None]
    errors = {name: ratio * np.abs(each - future) for name, each in medians.items()}
    return Judged(found, last + scale * future, errors)


def mase_of(errors: np.ndarray) -> np.ndarray:
    """Return the mean of the errors that are known, of each window [N]."""
    known = np.isfinite(errors)
    return np.where(known, errors, 0).sum(1) / known.sum(1)


def forecast_exhibits(config: Any, ready: Prepared, finished: Finished) -> Iterator[Exhibit]:
    """Draw forecasts of the test windows, and compare them with naive ones.

    Args:
      config: of the run.
      ready: the series and their windows.
      finished: the training.
    """
    panel, test = ready.panel, ready.windows["test"]
    found = judged(predicted(config, finished.kept, test), test)
    yield comparison(found)
    yield steps_ahead(found, float(finished.kept["wider"]))
    if len(panel.values) == 1:
        yield backtest(ready, found, next_steps(config, finished.kept, panel, ready.settings)[0])
        yield folds_table(panel, test, found)
    else:
        yield chosen_series(panel, test, found)


def comparison(found: Judged) -> Table:
    """List the errors of all forecasts."""
    ours = mase_of(found.errors["ours"])
    rows = []
    for name, errors in found.errors.items():
        each = mase_of(errors)
        better = "" if name == "ours" else f"{np.mean(ours < each):.0%}"
        rows.append(
            (name, f"{each.mean():.3f}", f"{np.median(each):.3f}", f"{each.max():.2f}", better)
        )
    return Table(
        "against_naive",
        "Against forecasts that need no network",
        f"Errors of {len(ours)} test windows as MASE: below 1 is better than the seasonal naive "
        "forecast, one step ahead, was in the training part. The median of our quantiles is taken; "
        "a drift goes on with the mean change of the whole history, a step or a season; the "
        "seasonal mean has the level of the last season, and the usual deviations from it.",
        ("forecast", "mean MASE", "median", "largest", "windows in which ours is better"),
        rows,
    )


def steps_ahead(found: Judged, wider: float) -> Figure:
    """Draw errors and coverage by the step ahead.

    Args:
      found: forecasts of the test windows.
      wider: by which factor the validation windows stretched the bands.
    """
    from experiments.figures.forecasts import by_step

    known = np.isfinite(found.truth)
    count = np.maximum(known.sum(0), 1)
    errors = {name: np.where(known, each, 0).sum(0) / count for name, each in found.errors.items()}
    coverage = {share: by_steps(*inside_band(found, share)) for share in BANDS}
    return Figure(
        "by_step",
        "Errors and coverage by step ahead",
        "Means over the test windows, of coverage over steps side by side, or all of them, where "
        "windows are few. A band that holds less than it should is too narrow; by the validation "
        f"windows, all were made {wider:.2f} times as wide as the network had them.",
        by_step(errors, coverage),
    )


def inside_band(found: Judged, share: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which values lay in a band, and which are known, [N, h]."""
    low, high = BANDS[share]
    known = np.isfinite(found.truth)
    inside = (found.found[..., low] <= found.truth) & (found.truth <= found.found[..., high])
    return inside & known, known


def by_steps(inside: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return steps ahead, and the share of values inside there, of `FEWEST` values or more each.

    Where that makes fewer than `POINTS`, there is one share, of all values.
    """
    horizon = known.shape[1]
    width = -(-FEWEST // len(known))
    width = width if horizon >= POINTS * width else horizon
    starts = np.arange(0, horizon - width + 1, width)
    count = np.add.reduceat(known.sum(0), starts)
    share = np.add.reduceat(inside.sum(0), starts) / np.maximum(count, 1)
    ends = np.append(starts[1:], horizon)
    return (starts + ends + 1) / 2, share


def chosen_series(panel: Panel, test: Windows, found: Judged) -> Figure:
    """Draw the best, the median and the worst forecast."""
    from experiments.figures.forecasts import forecasts

    mase = mase_of(found.errors["ours"])
    order = np.argsort(mase, kind="stable")
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    panels = [
        shown_window(
            panel,
            test.places[row],
            found.found[row],
            f"{name}: series "
            f"{panel.names[test.places[row].series]}, MASE {mase[row]:.2f}, "
            f"naive {mase_of(found.errors['naive'])[row]:.2f}",
        )
        for name, row in chosen.items()
    ]
    return Figure(
        "forecasts",
        "Forecasts: best, median and worst",
        f"Of {len(mase)} test windows by MASE. Bands of 90, 80 and 50 %.",
        forecasts(f"Half of the forecasts have a MASE below {np.median(mase):.2f}", panels),
    )


def shown_window(panel: Panel, place: Place, found: np.ndarray, title: str) -> Any:
    """Return a panel of a figure: a window's history and forecast."""
    from experiments.figures.forecasts import Shown

    first = max(0, place.origin - max(30, SHOWN * panel.horizon))
    values = panel.values[place.series][first : place.origin + panel.horizon, 0]
    return Shown(title, first, values, [as_forecast(place.origin, found)])


def as_forecast(origin: int, found: np.ndarray) -> Any:
    """Return what a figure draws of quantiles [h, Q]."""
    from experiments.figures.forecasts import Forecast

    bands = [(found[:, low], found[:, high]) for low, high in BANDS.values()]
    return Forecast(origin, found[:, MIDDLE], bands)


def backtest(ready: Prepared, found: Judged, coming: np.ndarray) -> Figure:
    """Draw the forecasts of all test windows of one series, and of what comes next [h, Q]."""
    from experiments.figures.forecasts import Shown, forecasts

    panel, test = ready.panel, ready.windows["test"]
    total = len(panel.values[0])
    ahead = [
        as_forecast(place.origin, each)
        for place, each in zip(test.places, found.found, strict=True)
    ]
    ahead.append(as_forecast(total, coming))
    first = max(0, test.places[0].origin - SHOWN * panel.horizon)
    values = panel.values[0][first:, 0]
    mase = mase_of(found.errors["ours"]).mean()
    title = f"{panel.names[0]}: steps from {panel.grid.text(first)} to {panel.grid.text(total - 1)}"
    return Figure(
        "forecasts",
        "Backtest, and the next steps",
        f"At each dotted line the network predicts {panel.horizon} steps from what came before; "
        "its weights are the same throughout. The last forecast is of what nobody knows yet. Bands "
        "of 90, 80 and 50 %.",
        forecasts(
            f"Mean MASE {mase:.2f} in {len(test.places)} test windows",
            [Shown(title, first, values, ahead)],
            panel.grid.text,
        ),
    )


def folds_table(panel: Panel, test: Windows, found: Judged) -> Table:
    """List the errors of each test window of one series."""
    errors = {name: mase_of(each) for name, each in found.errors.items()}
    inside, known = inside_band(found, 90)
    rows = [
        (
            panel.grid.text(place.origin),
            *(f"{each[k]:.3f}" for each in errors.values()),
            f"{inside[k].sum()} of {known[k].sum()}",
        )
        for k, place in enumerate(test.places)
    ]
    return Table(
        "folds",
        "Backtest, window by window",
        "MASE of each test window, and how many of its values lay in the band of 90 %.",
        ("from", *errors, "in the 90 % band"),
        rows,
    )


def next_steps(config: Any, params: Any, panel: Panel, settings: Settings) -> np.ndarray:
    """Return quantiles [S, h, Q] of the steps after the end of each series."""
    ends = [len(values) for values in panel.values]
    places = [Place(k, end, end) for k, end in enumerate(ends)]
    return predicted(config, params, windows_of(panel, settings, places, "the end"))
