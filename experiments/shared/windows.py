"""Cut series into examples of a forecast: what was seen, and what came, in units of their own."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data.forecast import Panel
from experiments.harness.errors import UserError

NAIVE = ("naive", "seasonal naive", "drift", "seasonal drift", "seasonal mean", "recent drift")
RIVALS = NAIVE[:5]  # which a report shows
RECENT = 4  # steps of the recent drift
SEASONS = 8  # of the seasonal mean, at most
LEAST = 3  # steps of a series before its validation windows
MOST = 10_000  # training windows
LONGEST_SEASONS, SHORTEST = 3, 64  # of what is read, by default
LARGEST = 1e30  # number of units
ROUNDING = 1e-12  # of the largest value, within which values are the same


class Settings(NamedTuple):
    """Say how windows are cut.

    Attributes:
      context: most steps that are read.
      season: steps of a season; 1 for none.
      horizon: h, how many steps are forecast.
      mean: of each covariate, [C - 1].
      spread: of each covariate, [C - 1].
      units: in which errors of each series count as MASE, [S].
      steps: the mean step of each series, in which they count as loss, [S].
    """

    context: int
    season: int
    horizon: int
    mean: np.ndarray
    spread: np.ndarray
    units: np.ndarray
    steps: np.ndarray


class Place(NamedTuple):
    """Name a window: its series, its first step to forecast, and the step where targets end."""

    series: int
    origin: int
    end: int


class Windows(NamedTuple):
    """Hold examples, and what leads from their units back to values: ``last + scale * x``.

    Attributes:
      arrays: of `example`, stacked, ``[N, ...]``.
      last: the last value before each forecast, float64 [N].
      scale: the unit of each, float64 [N].
      places: where they were cut.
    """

    arrays: dict[str, np.ndarray]
    last: np.ndarray
    scale: np.ndarray
    places: list[Place]


class Prepared(NamedTuple):
    """Hold series, how windows are cut, and the windows of each split."""

    panel: Panel
    settings: Settings
    windows: dict[str, Windows]


def prepared(panel: Panel, folds: int, context: int) -> Prepared:
    """Cut series into the windows of the splits.

    Raises:
      UserError: for series that are too short, or have no known values in a split.
    """
    places = places_of(panel, folds)
    say_units(panel, folds)
    settings = settings_of(panel, folds, context)
    windows = {
        split: windows_of(panel, settings, each, f"the {split} windows")
        for split, each in places.items()
    }
    return Prepared(panel, settings, windows)


def places_of(panel: Panel, folds: int) -> dict[str, list[Place]]:
    """Return the windows of the splits.

    The test windows are the last ``folds`` horizons of each series, one after the other; the
    validation windows have their targets in as many horizons before these; those of training, in
    all that comes before.

    Raises:
      UserError: for a series that is too short.
    """
    check_lengths(panel, folds)
    found: dict[str, list[Place]] = {"train": [], "valid": [], "test": []}
    h, reach = panel.horizon, folds * panel.horizon
    for number, values in enumerate(panel.values):
        total = len(values)
        test, first = total - reach, total - 2 * reach
        found["train"] += [Place(number, origin, first) for origin in range(2, first)]
        found["valid"] += [Place(number, origin, test) for origin in range(first, test - h + 1)]
        found["test"] += [Place(number, origin, total) for origin in range(test, total, h)]
    return found | {"train": thinned(found["train"])}


def check_lengths(panel: Panel, folds: int) -> None:
    """Raise `UserError` for a series too short for its test and validation windows."""
    h, least = panel.horizon, 2 * folds * panel.horizon + LEAST
    for name, values in zip(panel.names, panel.values, strict=True):
        if len(values) < least:
            raise UserError(
                f"{name}: expected at least {least} steps, for test windows of {folds} x {h} "
                f"steps, as many for validation and some to learn from, got {len(values)}; "
                "take a smaller --horizon or --folds, or a longer series."
            )


def thinned(places: list[Place]) -> list[Place]:
    """Return training windows, evenly spread where there are more than `MOST`."""
    stride = -(-len(places) // MOST)
    if stride > 1:
        print(f"one in {stride} of {len(places):,} training windows is used.", file=sys.stderr)
    return places[::stride]


def settings_of(panel: Panel, folds: int, context: int) -> Settings:
    """Return how windows are cut, with statistics of inputs from before the validation windows.

    Args:
      panel: the series.
      folds: of `places_of`.
      context: most steps that are read; 0 for three seasons, and at least 64.
    """
    before = [each[: len(each) - 2 * folds * panel.horizon, 1:] for each in panel.values]
    mean, spread = statistics(np.concatenate(before))
    wanted = context or max(SHORTEST, LONGEST_SEASONS * panel.season)
    longest = max(map(len, panel.values))
    units, steps = (
        np.where(found, found, 1.0)
        for found in (units_of(panel, folds), units_of(panel._replace(season=1), folds))
    )
    size = min(wanted, longest)
    return Settings(size, panel.season, panel.horizon, mean, spread, units, steps)


def statistics(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and spread of columns [T, C], NaN left out; the spread of a constant is 1."""
    known = np.isfinite(steps)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, steps, 0).sum(0) / count
    spread = np.sqrt(np.where(known, (steps - mean) ** 2, 0).sum(0) / count)
    return mean, np.where(spread > 1e-8 * (1 + np.abs(mean)), spread, 1.0)


def unit_of(values: np.ndarray, season: int) -> float:
    """Return the denominator of MASE: the mean error of the seasonal naive forecast; 0 for none.

    Equation: ``mean |y_t - y_(t - season)|`` over the training part, where both are known. Errors
    that are only rounding, as of a sine whose season fits, count as none.

    References:
      Hyndman & Koehler 2006, Another look at measures of forecast accuracy.

    Example:
      >>> unit_of(np.array([1.0, 2.0, np.nan, 5.0, 9.0]), season=1)
      2.5
    """
    changes = np.abs(values[season:] - values[:-season])
    mean = changes[np.isfinite(changes)].mean() if np.isfinite(changes).any() else 0.0
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    return float(mean) if mean > ROUNDING * largest else 0.0


def mean_step(values: np.ndarray) -> float:
    """Return the mean change from one known value to the next; 0 for none.

    Example:
      >>> mean_step(np.array([1.0, np.nan, np.nan, 5.0, np.nan, 7.0]))
      3.0
    """
    return unit_of(values[np.isfinite(values)], season=1)


def units_of(panel: Panel, folds: int) -> np.ndarray:
    """Return the unit in which errors of each series count, from before its test windows.

    It is `unit_of`; `mean_step` where that is none, because no two known values are a season apart
    or each season repeats the one before; 0 where a series never changes, and errors count in the
    unit of the values.
    """
    parts = learned(panel, folds)
    return np.array([unit_of(each, panel.season) or mean_step(each) for each in parts])


def learned(panel: Panel, folds: int) -> list[np.ndarray]:
    """Return the target of each series before its test windows."""
    reach = folds * panel.horizon
    return [each[: len(each) - reach, 0] for each in panel.values]


def say_units(panel: Panel, folds: int) -> None:
    """Print which series have no unit of MASE, why, and what their errors count in instead."""
    found: dict[str, list[str]] = {}
    for name, values in zip(panel.names, learned(panel, folds), strict=True):
        if not unit_of(values, panel.season):
            found.setdefault(why_no_unit(values, panel.season), []).append(name)
    for reason, names in found.items():
        more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
        print(f"{', '.join(names[:5])}{more}: before the test windows, {reason}", file=sys.stderr)


def why_no_unit(values: np.ndarray, season: int) -> str:
    """Say why a series has no unit of MASE, and in what its errors count instead."""
    if not mean_step(values):
        return (
            "no known value differs from another, so MASE is not defined; errors count in the unit "
            "of the values."
        )
    instead = "MASE counts in mean steps from one known value to the next."
    if np.isfinite(values[season:] - values[:-season]).any():
        return f"each season repeats the one before, which the naive forecast gets right; {instead}"
    apart = "one step" if season == 1 else f"a season of {season} steps"
    return f"no two known values are {apart} apart; {instead}"


def windows_of(panel: Panel, settings: Settings, places: Sequence[Place], what: str) -> Windows:
    """Cut windows; those are left out before which, or after which, no value is known.

    Args:
      panel: the series.
      settings: how they are cut.
      places: of the windows.
      what: they are, for the message.

    Raises:
      UserError: where none is left.
    """
    rows, kept = [], []
    carried = [filled(each[:, 0]) for each in panel.values]
    for place in places:
        values = panel.values[place.series]
        first = max(0, place.origin - settings.context)
        ahead = values[place.origin : min(place.end, place.origin + settings.horizon), 0]
        asked = place.origin >= place.end  # a forecast of what nobody knows yet
        if np.isfinite(values[first : place.origin, 0]).any() and (
            asked or np.isfinite(ahead).any()
        ):
            naive = naive_forecasts(
                carried[place.series][: place.origin], settings.horizon, settings.season
            )
            rows.append(example(values[first : place.origin], ahead, naive, settings, place.series))
            kept.append(place)
    if not rows:
        names = ", ".join(panel.names[:5])
        raise UserError(
            f"{names}: expected known values in and before {what}, got none; choose another "
            "--horizon or --folds, or fill what is missing."
        )
    if len(kept) < len(places):
        print(
            f"{what}: {len(places) - len(kept):,} of {len(places):,} have no known value in them, "
            "or before them, and are left out.",
            file=sys.stderr,
        )
    arrays, last, scale = zip(*rows, strict=True)
    stacks = {name: np.stack([row[name] for row in arrays]) for name in arrays[0]}
    return Windows(stacks, np.array(last), np.array(scale), kept)


def example(
    past: np.ndarray, ahead: np.ndarray, naive: np.ndarray, settings: Settings, series: int
) -> tuple[dict[str, Any], float, float]:
    """Return one example, in units of the mean step of its past, from its last value on.

    Args:
      past: the steps before the forecast that are read, [up to the context, C].
      ahead: what came after them, as far as it counts, [up to h].
      naive: `naive_forecasts`, [h, K].
      settings: how windows are cut.
      series: which one it is.

    Returns:
      The last value and the unit of the window, after these arrays: ``past`` [context, F], what
      the network reads, filled up with zeros; ``length``, how much of it is real; ``naive``
      [h, K], the forecasts `NAIVE`; ``future`` [h] and ``known`` [h], what came; ``ratio``, the
      window's unit in that of MASE; ``steps``, the same in mean steps of the series.
    """
    unit, target = settings.units[series], filled(past[:, 0])
    steps = np.abs(np.diff(target))
    scale = float(steps.mean()) if steps.size else 0.0
    scale = scale if scale > ROUNDING * np.abs(target).max() else unit
    future = np.full(settings.horizon, np.nan)
    future[: len(ahead)] = (ahead - target[-1]) / scale
    features = inputs(past, target, scale, settings)
    rows = np.zeros((settings.context, features.shape[1]), np.float32)
    rows[: len(features)] = features
    arrays = {
        "past": rows,
        "length": np.int32(len(past)),
        "naive": single((naive - target[-1]) / scale),
        "future": single(np.nan_to_num(future)),
        "known": np.isfinite(future),
        "ratio": single(scale / unit),
        "steps": single(scale / settings.steps[series]),
    }
    return arrays, float(target[-1]), float(scale)


def single(values: Any) -> Any:
    """Return numbers as float32, the largest of which are cut off long before they overflow."""
    return np.clip(values, -LARGEST, LARGEST).astype(np.float32)


def filled(values: np.ndarray) -> np.ndarray:
    """Carry the last known value forward; before the first one, that one; zeros where none is.

    Example:
      >>> filled(np.array([np.nan, 1.0, np.nan, 3.0])).tolist()
      [1.0, 1.0, 1.0, 3.0]
    """
    known = np.isfinite(values)
    if not known.any():
        return np.zeros_like(values)
    place = np.maximum.accumulate(np.where(known, np.arange(len(values)), -1))
    return values[np.where(place < 0, known.argmax(), place)]


def inputs(past: np.ndarray, target: np.ndarray, scale: float, settings: Settings) -> np.ndarray:
    """Return what the network reads of each step, [t, F].

    That is the change from the step before, the distance to the last value, the change from a
    season before, whether the value was missing; then each covariate, and whether it was. Large
    numbers are squeezed by the inverse hyperbolic sine.
    """
    season = min(settings.season, len(target))
    change = np.diff(target, prepend=target[:1])
    seasonal = target - np.concatenate([target[:season], target[:-season]])
    moves = np.stack([change, target - target[-1], seasonal], axis=1) / scale
    others = np.zeros((len(past), past.shape[1] - 1))
    for column, values in enumerate(past.T[1:]):
        if np.isfinite(values).any():
            others[:, column] = filled(values) - settings.mean[column]
    missing = np.isnan(past).astype(float)
    return np.concatenate([np.arcsinh(moves), missing, np.arcsinh(others / settings.spread)], 1)


def naive_forecasts(values: np.ndarray, horizon: int, season: int) -> np.ndarray:
    """Return forecasts that need no network, [h, K] in the order of `NAIVE`.

    These are the last value; the value a season before; the last value and the mean change of the
    whole history; the value a season before and, for each season since, the mean change over one;
    `seasonal_mean`; the last value and the mean change of the last steps.

    Args:
      values: all steps before the forecast, none missing, [T].
      horizon: h.
      season: its steps.

    Example:
      >>> values = np.array([0.0, 5.0, 1.0, 6.0])
      >>> for each in naive_forecasts(values, horizon=3, season=2).T.tolist():
      ...     print(each)
      [6.0, 6.0, 6.0]
      [1.0, 6.0, 1.0]
      [8.0, 10.0, 12.0]
      [2.0, 7.0, 3.0]
      [1.0, 6.0, 1.0]
      [8.0, 10.0, 12.0]
    """
    ahead = np.arange(1, horizon + 1)
    last = np.full(horizon, values[-1])
    seasonal, change = last, 0.0
    if season <= len(values):
        seasonal = values[len(values) - season :][(ahead - 1) % season]
    if season < len(values):
        # the mean of all changes over a season, in which all but the ends cancel
        change = (values[-season:].sum() - values[:season].sum()) / (len(values) - season)
    seasonal_drift = seasonal + change * -(-ahead // season)
    mean = seasonal_mean(values, season)[(ahead - 1) % season]
    whole, recent = (last + ahead * slope(values, n) for n in (len(values) - 1, RECENT))
    return np.stack([last, seasonal, whole, seasonal_drift, mean, recent], axis=1)


def seasonal_mean(values: np.ndarray, season: int) -> np.ndarray:
    """Return a forecast of one season: the level of the last one, and what is usual about it.

    That is the mean of the last season and, at each place, how far values lie from the mean of
    their season there, on average over the last `SEASONS`. The last value, where no season fits.

    Example:
      >>> seasonal_mean(np.array([9.0, 0.0, 4.0, 10.0, 18.0]), season=2).tolist()
      [11.0, 17.0]
    """
    count = min(SEASONS, len(values) // season)
    if not count:
        return np.full(season, values[-1])
    seasons = values[len(values) - count * season :].reshape(count, season)
    level = seasons.mean(1, keepdims=True)
    return level[-1] + (seasons - level).mean(0)


def slope(values: np.ndarray, steps: int) -> float:
    """Return the mean change of the last steps, of fewer where there are not so many."""
    steps = min(steps, len(values) - 1)
    return (values[-1] - values[-1 - steps]) / max(1, steps)
