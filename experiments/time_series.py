"""Which class does a time series belong to, or how does it continue?

Command: ./launch.sh time_series [--data=JapaneseVowels] [--resample=1]
         ./launch.sh time_series --data=m1_yearly
         ./launch.sh time_series --csv=FILE --target=COLUMN --horizon=12 [--time=COLUMN]
             [--covariates=A,B] [--season=12]
         ./launch.sh predict RUN_DIRECTORY [--csv=NEWER.csv | --ts=FILE.ts] [--out=FILE]
         ./launch.sh explain RUN_DIRECTORY --index=N
"""

import dataclasses
from functools import partial

from experiments.data.classified import CLASSIFIED
from experiments.data.forecast import M1_YEARLY
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.harness.runs import Command
from experiments.shared.cell_flag import cell_option
from experiments.shared.explain_series import explain_series
from experiments.shared.forecasting import forecasting_program
from experiments.shared.forecasts import forecast_exhibits
from experiments.shared.series_classes import classification_program
from experiments.shared.series_jobs import check_fields, classified, folds_of, forecasts, panel_of
from experiments.shared.series_predict import Predict, predict
from experiments.shared.tasks import MinibatchConfig
from experiments.shared.windows import prepared


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the fields of this experiment."""

    data: str = option(
        "JapaneseVowels",
        f"the data of an archive: cases to classify, or, with {M1_YEARLY}, series to forecast",
        choices=(*CLASSIFIED, M1_YEARLY),
    )
    resample: int = option(
        0,
        "which split of cases: 0 for the official one; another number draws one of the same size",
        minimum=0,
        maximum=2**32 - 1,
    )
    valid_share: float = option(
        0.1, "share of the training cases that is held back to choose by", above=0, below=1
    )
    csv: str = option(
        "", "a CSV file of your own to forecast; its first line names columns", file=True
    )
    target: str = option("", "the column to forecast")
    time: str = option("", "the column of times: dates as in 2024-01-31 12:00, or numbers")
    covariates: str = option("", "columns that are read as well, up to the forecast: A,B")
    horizon: int = option(
        0, f"steps to forecast; 0 takes the 6 of {M1_YEARLY}", minimum=0, maximum=10**4
    )
    season: int = option(
        0, "steps of a season; 0 takes what the times suggest, 1 is none", minimum=0
    )
    folds: int = option(
        0,
        f"horizons at the end to test on, one after the other; 0 takes 1 for {M1_YEARLY}, else 4",
        minimum=0,
    )
    context: int = option(
        0, "most steps that are read; 0 takes three seasons, and at least 64", minimum=0
    )
    cell: str = cell_option("gru", ", of which one reads forwards and one backwards")
    hidden_size: int = option(64, "H, of each direction", minimum=1, maximum=10**5)
    layers: int = option(2, "number of stacked layers", minimum=1, maximum=100)
    dropout: float = option(
        0.5, "share of features dropped after each layer", traced=True, minimum=0, below=1
    )
    noise: float = option(
        0.6, "spread of the noise on training inputs, whose own is 1", traced=True, minimum=0
    )
    mixup: float = option(
        0.4,
        "how much training cases are mixed with others, the concentration of the shares; 0 is none",
        traced=True,
        minimum=0,
    )
    average: float = 0.98
    epochs: int = option(
        0,
        "passes over the training data; 0 takes as many as make 1500 steps",
        minimum=0,
        maximum=10**6,
    )
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.01


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    check_fields(config)
    if not forecasts(config):
        return classification_program(config, classified(config))
    ready = prepared(panel_of(config), folds_of(config), config.context)
    data = {split: windows.arrays for split, windows in ready.windows.items()}
    return forecasting_program(config, data, partial(forecast_exhibits, config, ready))


commands = {
    "predict": Command(Predict, predict, "forecast the next steps, or name the classes of series"),
    "explain": explain_series,
}
