"""Load what a Config of `experiments.time_series` asks for, and refuse flags that contradict."""

import sys
from typing import Any

from experiments.data.classified import CLASSIFIED, Classified, load_classified
from experiments.data.forecast import M1_YEARLY, Panel, load_csv, load_m1_yearly
from experiments.data.times import Grid
from experiments.harness.errors import UserError
from experiments.shared.idle_flags import check_idle
from experiments.shared.windows import Settings, check_lengths, settings_of

OF_CLASSES = ("resample", "valid_share", "mixup")
OF_FORECASTS = ("horizon", "season", "folds", "context")
OF_CSV = ("target", "time", "covariates")
CSV_FOLDS = 4


def forecasts(config: Any) -> bool:
    """Return whether series are forecast; else they are classified."""
    return bool(config.csv) or config.data == M1_YEARLY


def check_fields(config: Any) -> None:
    """Raise `UserError` for a flag that has no meaning with the data of the others."""
    idle = OF_CLASSES if forecasts(config) else OF_FORECASTS
    idle += ("data",) if config.csv else OF_CSV
    check_idle(config, {name: partner_of(name) for name in idle})


def partner_of(name: str) -> str:
    """Return what gives a flag a meaning."""
    if name in OF_CLASSES:
        return f"--data={CLASSIFIED[0]} and the like"
    if name == "data":
        return "no --csv"
    return "--csv=FILE" if name in OF_CSV else f"--csv=FILE or --data={M1_YEARLY}"


def classified(config: Any) -> Classified:
    """Return the cases to classify."""
    return load_classified(config.data, config.resample, config.valid_share)


def panel_of(config: Any) -> Panel:
    """Return the series to forecast, without a season that does not fit.

    Raises:
      UserError: as `loaded` does, and for series that are too short.
    """
    panel, folds = loaded(config), folds_of(config)
    check_lengths(panel, folds)
    return with_fitting_season(panel, folds)


def loaded(config: Any, like: Grid | None = None) -> Panel:
    """Return the series of a Config as they are.

    Args:
      config: of the run.
      like: the grid on which the times of a file have to stand.

    Raises:
      UserError: as the readers do, and where a horizon is missing.
    """
    if not config.csv:
        return load_m1_yearly(config.horizon, config.season)
    if not config.horizon:
        raise UserError("--horizon: say how many steps are to be forecast, as in --horizon=12.")
    columns = (config.target, config.time, config.covariates)
    sizes = {"horizon": config.horizon, "season": config.season}
    return load_csv(config.csv, *columns, **sizes, like=like)


def with_fitting_season(panel: Panel, folds: int) -> Panel:
    """Return series without a season where one does not fit before their test windows; say so."""
    before = min(map(len, panel.values)) - folds * panel.horizon
    if panel.season < max(2, before):
        return panel
    said = f"a season of {panel.season} steps does not fit into the {max(0, before)} before the "
    print(f"{panel.names[0]}: {said}test windows; none is assumed.", file=sys.stderr)
    return panel._replace(season=1)


def folds_of(config: Any) -> int:
    """Return how many horizons the test windows have."""
    return config.folds or (CSV_FOLDS if config.csv else 1)


def settings_for(config: Any, panel: Panel) -> Settings:
    """Return how windows of the series are cut."""
    return settings_of(panel, folds_of(config), config.context)
