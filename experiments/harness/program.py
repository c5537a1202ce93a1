"""Say what an experiment hands to the harness, and what a finished run hands back to it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from recurrent.training.task import Data, HParams, Kept, Metric, Task

if TYPE_CHECKING:
    import matplotlib.figure
    import numpy as np

Row = dict[str, Any]  # of metrics.jsonl


class Figure(NamedTuple):
    """Hold a matplotlib figure of the report, with its file's name, heading and caption."""

    name: str
    heading: str
    caption: str
    figure: "matplotlib.figure.Figure"


class Table(NamedTuple):
    """Hold a table of the report: the names of its columns, and rows of texts."""

    name: str
    heading: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Text(NamedTuple):
    """Hold a text of the report, shown line by line as it is."""

    name: str
    heading: str
    caption: str
    text: str


class Audio(NamedTuple):
    """Hold a recording of the report: samples ``[N]`` from -1 to 1, and samples a second."""

    name: str
    heading: str
    caption: str
    samples: "np.ndarray"
    rate: int


class Animation(NamedTuple):
    """Hold a moving picture: frames uint8 ``[F, H, W]`` or ``[F, H, W, 3]``, frames a second."""

    name: str
    heading: str
    caption: str
    frames: "np.ndarray"
    rate: float


Exhibit = Figure | Table | Text | Audio | Animation


class Finished(NamedTuple):
    """Hold what exhibits are made from.

    Attributes:
      kept: what the task kept at its best evaluation, such as the weights.
      hparams: the traced hyperparameters.
      rows: the metrics of each evaluation.
      best_step: the step of the best one; 0 where there is none.
    """

    kept: Kept
    hparams: HParams
    rows: list[Row]
    best_step: int


def no_exhibits(finished: Finished) -> Iterator[Exhibit]:
    """Return nothing, for an experiment whose numbers say all."""
    return iter(())


def keeps_best(hparams: HParams) -> bool:
    """Return False: what is kept of a training is what its best evaluation saw."""
    return False


def as_kept(kept: Kept, hparams: HParams, valid: Data) -> Kept:
    """Return what was kept as it is."""
    return kept


class Program(NamedTuple):
    """Hold a training run as pure functions, which the harness compiles.

    Attributes:
      task: the training; its state is opaque to the harness.
      data: the splits ``"train"``, ``"valid"`` and ``"test"``, each a tree of arrays, or ``()``
        where the task makes its own. The test split is read once, at the end.
      evaluations: how often the training is evaluated on the validation split.
      steps_per_evaluation: steps between two evaluations.
      select: the metric by which an evaluation on the validation split is better than another.
      report: the metric that people read.
      exhibits: ``finished -> exhibits`` of the report, none by default.
      against: names of further metrics of evaluations, against each of which the page of a sweep
        draws the one that people read, a dot for each member.
      keeps_last: ``hparams -> bool``, which may be traced: whether what is kept of a training is
        what its last evaluation saw, with no regard to the best one.
      calibrate: ``(kept, hparams, valid) -> kept``: what the validation split changes in what was
        kept, before it is tested, shown or used, such as how sure it is. The files of a run hold
        what comes before that, so it can be any tree.
    """

    task: Task
    data: dict[str, Data]
    evaluations: int
    steps_per_evaluation: int
    select: Metric
    report: Metric
    exhibits: Callable[[Finished], Iterator[Exhibit]] = no_exhibits
    against: Sequence[str] = ()
    keeps_last: Callable[[HParams], Any] = keeps_best
    calibrate: Callable[[Kept, HParams, Data], Kept] = as_kept

    @property
    def steps(self) -> int:
        """Return the steps of the whole training."""
        return self.evaluations * self.steps_per_evaluation

    @property
    def metrics(self) -> list[Metric]:
        """Return the metrics that people compare: the one that selects, and the one they read."""
        return list({metric.name: metric for metric in (self.select, self.report)}.values())
