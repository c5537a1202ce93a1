"""Draw a sweep: which values win, how every run went, and who diverged or was stopped where."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator

from experiments.figures.curves import format_value, is_percent, percent_ticks
from experiments.figures.style import ACCENT, ALARM, FAINT, INK, MUTED, log_scale, titled_figure
from experiments.harness.plan import DIVERGED, FINISHED, STOPPED
from experiments.harness.program import Figure
from experiments.sweep.ranking import Configuration, Outcome
from recurrent.training.task import Metric

MOST_TILES = 24
MOST_LABELS = 10
TITLE_WIDTH = 95  # characters
LABEL_WIDTH = 0.06  # of an axis
SHADES = LinearSegmentedColormap.from_list("blues", ["#e8f1f8", "#86b8dc", ACCENT, "#0c3157"])
DIVERGED_TILE = "#fbdcc9"

Rows = Mapping[int, Sequence[Mapping[str, Any]]]


def all_of(
    configurations: Sequence[Configuration],
    rows: Rows,
    program_metrics: Sequence[Metric],
    marks: Sequence[int],
) -> Iterator[Figure]:
    """Draw the figures of a sweep that has ended.

    Args:
      configurations: best first.
      rows: of each member, one per evaluation, with `step` and `valid_NAME`, and with its swept
        fields where they changed during training.
      program_metrics: those that people compare; the first one ranks the configurations.
      marks: how many evaluations of a member were done when configurations were compared.
    """
    select, fields = program_metrics[0], list(configurations[0].values)
    if fields:
        yield from _best_values(configurations, fields, program_metrics)
    yield Figure(
        "members",
        "Learning curves of all runs",
        _curves_caption(configurations, select, marks),
        curves(configurations, rows, select, marks),
    )
    changed = changed_fields(fields, rows)
    if changed:
        yield Figure(
            "values",
            "How the values changed",
            "The values with which each run was trained. A line jumps where a run went on from a "
            "copy of a better one, with other values."
            + _if_won(configurations, " The winner is blue."),
            values_over_steps(configurations, rows, changed),
        )


def _best_values(
    configurations: Sequence[Configuration], fields: Sequence[str], metrics: Sequence[Metric]
) -> Iterator[Figure]:
    yield Figure(
        "by_field",
        "Which values win",
        _by_field_caption(configurations),
        by_field(configurations, fields, metrics),
    )
    if len(fields) == 2:
        yield Figure(
            "heat_map",
            "Two fields together",
            f"The validation {metrics[0].name} of each configuration, averaged over its runs. "
            "Darker is better." + _if_won(configurations, " The black frame marks the winner."),
            heat_map(configurations, fields, metrics[0]),
        )


def by_field(
    configurations: Sequence[Configuration], fields: Sequence[str], metrics: Sequence[Metric]
) -> Drawing:
    """Draw the metrics, a panel each, against the values of each field, a row each."""
    title = _values_message("The winner:", configurations, fields)
    figure = titled_figure(0.7 + 2.6 * len(fields), title)
    panels = figure.subplots(len(fields), len(metrics), squeeze=False)
    for row, field in zip(panels, fields, strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            _field_panel(axes, configurations, field, metric)
    return figure


def heat_map(
    configurations: Sequence[Configuration], fields: Sequence[str], metric: Metric
) -> Drawing:
    """Draw the mean of a metric at each pair of values, darker for better.

    Pairs are tiles, or dots where there are too many values.
    """
    across, down = fields
    figure = titled_figure(4.2, f"Validation {metric.name} by {across} and {down}")
    axes = figure.subplots()
    means = [_mean(each, metric) for each in configurations]
    shade = _shading(means, metric)
    counts = [len({each.values[field] for each in configurations}) for field in fields]
    if max(counts) > MOST_TILES:
        _dots(axes, configurations, fields, means, shade)
    else:
        _tiles(axes, configurations, fields, means, shade, metric)
    axes.set_xlabel(across, color=MUTED)
    axes.set_ylabel(down, color=MUTED)
    _quiet(axes)
    return figure


def curves(
    configurations: Sequence[Configuration], rows: Rows, metric: Metric, marks: Sequence[int]
) -> Drawing:
    """Draw the validation metric of every member over its steps.

    Args:
      configurations: best first.
      rows: of each member, one per evaluation.
      metric: the one to draw.
      marks: numbers of evaluations at which to draw a dotted line.
    """
    figure = titled_figure(3.8, _curves_message(configurations))
    axes = figure.subplots()
    won = _has_winner(configurations)
    for rank, configuration in reversed(list(enumerate(configurations))):
        for member in configuration.members:
            own = rows.get(member["member"], ())
            _curve(axes, member, own, metric, winner=rank == 0 and won)
    for step in _steps_of(marks, rows):
        axes.axvline(step, color=MUTED, linestyle=":", linewidth=0.9)
    survivors = [each["member"] for each in _members(configurations) if not _is_lost(each)]
    drawn = [_column(rows.get(member, ()), f"valid_{metric.name}") for member in survivors]
    _value_scale(axes, metric, np.concatenate([np.ones(0), *drawn]), cut=True)
    _step_axis(axes)
    axes.set_title(f"validation {metric.name}", loc="left", color=INK, fontsize=10)
    return figure


def values_over_steps(
    configurations: Sequence[Configuration], rows: Rows, fields: Sequence[str]
) -> Drawing:
    """Draw the values of each field with which every member was trained, over its steps."""
    title = _values_message("The winner at its best:", configurations, fields)
    figure = titled_figure(0.7 + 2.4 * len(fields), title)
    panels = figure.subplots(len(fields), 1, sharex=True, squeeze=False)[:, 0]
    for axes, field in zip(panels, fields, strict=True):
        _values_panel(axes, configurations, rows, field)
        _step_axis(axes)
        axes.label_outer()
        axes.set_title(field, loc="left", color=INK, fontsize=10)
    return figure


def changed_fields(fields: Sequence[str], rows: Rows) -> list[str]:
    """Return the numeric fields that some member's rows hold, and that changed between them."""

    def values(field: str) -> list[list[Any]]:
        return [[row.get(field) for row in own] for own in rows.values()]

    return [
        field
        for field in fields
        if any(len(set(own)) > 1 for own in values(field))
        and _is_numeric([value for own in values(field) for value in own if value is not None])
    ]


def spaced(values: Sequence[Any], positions: Mapping[Any, float]) -> list[Any]:
    """Return the values, which ascend, whose labels do not overlap those before them."""
    fractions = _fractions([positions[value] for value in values])
    labeled: list[tuple[float, Any]] = []
    for fraction, value in zip(fractions, values, strict=True):
        if not labeled or fraction - labeled[-1][0] > LABEL_WIDTH:
            labeled.append((fraction, value))
    return [value for _, value in labeled]


def _values_message(
    start: str, configurations: Sequence[Configuration], fields: Sequence[str]
) -> str:
    if not _has_winner(configurations):
        return "Every configuration has a run that diverged"
    best = configurations[0].values
    values = ", ".join(f"{field} {_text(best[field])}" for field in fields)
    return textwrap.fill(f"{start} {values}", TITLE_WIDTH)


def _by_field_caption(configurations: Sequence[Configuration]) -> str:
    members = _members(configurations)
    caption = "Each dot is a run at its best evaluation."
    caption += _if_won(configurations, " The ring marks the winner.")
    if any(_is_joined(configurations, field) for field in configurations[0].values):
        caption += " The line joins the means of the best configuration with each value."
    if any(map(_is_lost, members)):
        caption += " Red crosses at the edge mark runs that diverged."
    if any(each["status"] == STOPPED for each in members):
        caption += " Hollow dots mark runs that were stopped early."
    return caption


def _curves_caption(
    configurations: Sequence[Configuration], metric: Metric, marks: Sequence[int]
) -> str:
    members = _members(configurations)
    caption = f"Validation {metric.name} at each evaluation."
    caption += _if_won(configurations, " The winner is blue.")
    if any(map(_is_lost, members)):
        caption += " Red crosses mark where a run diverged."
    if any(map(_ended_early, members)):
        caption += " Dots mark where a run ended early."
    if marks:
        caption += " Dotted lines mark where configurations were compared and the worse stopped."
    return caption


def _curves_message(configurations: Sequence[Configuration]) -> str:
    members = _members(configurations)
    counts = {
        "diverged": sum(map(_is_lost, members)),
        "ended early": sum(map(_ended_early, members)),
    }
    runs = f"{len(members)} run" + ("" if len(members) == 1 else "s")
    return ", ".join([runs, *(f"{count} {text}" for text, count in counts.items() if count)])


def _curve(
    axes: Axes, member: Outcome, rows: Sequence[Mapping[str, Any]], metric: Metric, winner: bool
) -> None:
    if not rows:
        return
    steps, values = _column(rows, "step"), _column(rows, f"valid_{metric.name}")
    color = ALARM if _is_lost(member) else ACCENT if winner else MUTED
    width, alpha = (1.8, 1.0) if winner else (0.8, 0.55)
    axes.plot(steps, values, color=color, linewidth=width, alpha=alpha)
    if _is_lost(member):
        _crosses(axes, steps[-1:], metric)
    elif _ended_early(member):
        axes.plot(steps[-1:], values[-1:], ".", color=color, markersize=6)


def _crosses(axes: Axes, xs: Sequence[float] | np.ndarray, metric: Metric) -> None:
    """Mark what diverged at the edge of the panel where values are worse."""
    edge = 0.03 if metric.higher_is_better else 0.97
    axes.plot(xs, [edge] * len(xs), "x", color=ALARM, transform=axes.get_xaxis_transform())


def _steps_of(evaluations: Sequence[int], rows: Rows) -> list[float]:
    """Return the steps after so many evaluations of a member, where one has come so far."""
    steps = {count: row["step"] for own in rows.values() for count, row in enumerate(own, start=1)}
    return [steps[count] for count in evaluations if count in steps]


def _field_panel(
    axes: Axes, configurations: Sequence[Configuration], field: str, metric: Metric
) -> None:
    key = f"valid_{metric.name}"
    values = _sorted(each.values[field] for each in configurations)
    survived = {each.values[field] for each in configurations if each.of(key)}
    positions = _pull_in(values, _positions(values), survived)
    lost: list[float] = []
    for configuration in configurations:
        x, ys = positions[configuration.values[field]], configuration.of(key)
        face = "none" if _was_stopped(configuration) else MUTED
        axes.plot([x] * len(ys), ys, "o", color=MUTED, mfc=face, alpha=0.45, markersize=4)
        lost += [x for each in configuration.members if _is_lost(each)]
    if _is_joined(configurations, field):
        _best_line(axes, configurations, field, positions, metric)
    _ring(axes, positions[configurations[0].values[field]], _mean(configurations[0], metric))
    drawn = [value for each in configurations for value in each.of(key)]
    _value_scale(axes, metric, np.array(drawn, float))
    _crosses(axes, lost, metric)
    _field_axis(axes, values, positions)
    axes.set_title(f"validation {metric.name}", loc="left", color=INK, fontsize=10)
    axes.set_xlabel(field, color=MUTED)
    _quiet(axes)


def _best_line(
    axes: Axes,
    configurations: Sequence[Configuration],
    field: str,
    positions: Mapping[Any, float],
    metric: Metric,
) -> None:
    """Join the means of the best configuration with each value."""
    best = [
        next(each for each in configurations if each.values[field] == value) for value in positions
    ]
    means = [(positions[each.values[field]], _mean(each, metric), each) for each in best]
    means = [(x, mean, each) for x, mean, each in means if mean is not None]
    axes.plot([x for x, *_ in means], [mean for _, mean, _ in means], color=ACCENT)
    for x, mean, each in means:
        face = "white" if _was_stopped(each) else ACCENT
        axes.plot([x], [mean], "o", color=ACCENT, mfc=face, markersize=4)


def _ring(axes: Axes, x: float, mean: float | None) -> None:
    if mean is not None:
        axes.plot([x], [mean], "o", markersize=13, mfc="none", mec=ACCENT, mew=2.2, label="winner")


def _is_joined(configurations: Sequence[Configuration], field: str) -> bool:
    """Return whether a line through the values of a field would show more than noise.

    It would not where other fields change from each value to the next, as they do when drawn.
    """
    alone = len(configurations[0].values) == 1
    return alone or len({each.values[field] for each in configurations}) < len(configurations)


def _positions(values: Sequence[Any]) -> dict[Any, float]:
    """Return where each value lies on its axis: numbers as they are, all else at 0, 1, 2, ..."""
    if _is_numeric(values):
        return {value: float(value) for value in values}
    return {value: float(k) for k, value in enumerate(values)}


def _pull_in(
    values: Sequence[Any], positions: dict[Any, float], survived: set[Any]
) -> dict[Any, float]:
    """Move values far above all that survived closer to the largest of these."""
    if not _is_numeric(values) or not survived or max(survived) <= 0:
        return positions
    edge = positions[max(survived)]
    beyond = [value for value in values if positions[value] > 20 * edge]
    return positions | {value: edge * 4 ** (k + 1) for k, value in enumerate(beyond)}


def _field_axis(axes: Axes, values: Sequence[Any], positions: Mapping[Any, float]) -> None:
    if _is_log(list(positions.values())):
        axes.set_xscale("log")
    if not _is_numeric(values) or len(values) <= MOST_LABELS:
        labeled = spaced(values, positions) if _is_numeric(values) else values
        axes.set_xticks(
            [positions[value] for value in labeled], list(map(_text, labeled)), rotation=30
        )
        axes.xaxis.set_minor_locator(NullLocator())
    if not _is_numeric(values):
        axes.set_xlim(-0.5, len(values) - 0.5)


def _tiles(
    axes: Axes,
    configurations: Sequence[Configuration],
    fields: Sequence[str],
    means: Sequence[float | None],
    shade: Callable[[float], float],
    metric: Metric,
) -> None:
    across, down = (_sorted(each.values[field] for each in configurations) for field in fields)
    small = len(across) * len(down) > 80
    drawn: set[tuple[int, int]] = set()
    for configuration, mean in zip(configurations, means, strict=True):
        values = [configuration.values[field] for field in fields]
        at = across.index(values[0]), down.index(values[1])
        if at not in drawn:  # several have the same values where these changed during training
            winner = not drawn and mean is not None
            _tile(axes, at, None if mean is None else shade(mean), winner)
            text = "diverged" if mean is None else format_value(mean, metric)
            if winner or not small:
                dark = mean is not None and shade(mean) > 0.5
                _tile_text(axes, at, text, "white" if dark else INK, winner)
            drawn.add(at)
    for axis, own in ((axes.xaxis, across), (axes.yaxis, down)):
        axis.set_ticks(range(len(own)), [_text(value) for value in own])
    axes.tick_params(axis="x", rotation=30)
    axes.set_xlim(-0.55, len(across) - 0.45)
    axes.set_ylim(-0.55, len(down) - 0.45)


def _tile(axes: Axes, at: tuple[int, int], shade: float | None, winner: bool) -> None:
    corner = at[0] - 0.46, at[1] - 0.46
    color = DIVERGED_TILE if shade is None else SHADES(shade)
    axes.add_patch(Rectangle(corner, 0.92, 0.92, color=color, linewidth=0))
    if winner:
        corner = at[0] - 0.5, at[1] - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="black", lw=2.5, zorder=3))


def _tile_text(axes: Axes, at: tuple[int, int], text: str, color: str, winner: bool) -> None:
    weight = "bold" if winner else "normal"
    axes.text(*at, text, ha="center", va="center", fontsize=8, color=color, fontweight=weight)


def _dots(
    axes: Axes,
    configurations: Sequence[Configuration],
    fields: Sequence[str],
    means: Sequence[float | None],
    shade: Callable[[float], float],
) -> None:
    axis_positions = [
        _positions(_sorted(each.values[field] for each in configurations)) for field in fields
    ]
    for rank, (each, mean) in reversed(list(enumerate(zip(configurations, means, strict=True)))):
        x, y = (own[each.values[f]] for own, f in zip(axis_positions, fields, strict=True))
        if mean is None:
            axes.plot([x], [y], "x", color=ALARM, markersize=7)
        else:
            axes.plot([x], [y], "o", mfc=SHADES(shade(mean)), mec=MUTED, mew=0.5, markersize=8)
        if rank == 0 and mean is not None:
            axes.plot([x], [y], "s", mfc="none", mec="black", mew=2.0, markersize=14)
    for field, scale in zip(fields, (axes.set_xscale, axes.set_yscale), strict=True):
        if _is_log([each.values[field] for each in configurations]):
            scale("log")


def _values_panel(
    axes: Axes, configurations: Sequence[Configuration], rows: Rows, field: str
) -> None:
    drawn = [np.ones(0)]
    for rank, configuration in reversed(list(enumerate(configurations))):
        for member in configuration.members:
            own = rows.get(member["member"], ())
            held = any(field in row for row in own)
            values = _column(own, field) if held else np.full(len(own), float(member[field]))
            steps = _column(own, "step")
            winner = rank == 0 and _has_winner(configurations)
            color, width, alpha = (ACCENT, 2.0, 1.0) if winner else (MUTED, 0.9, 0.5)
            # A row holds the values of the steps before it.
            axes.plot(
                [0, *steps], [*values[:1], *values], drawstyle="steps-pre",
                color=color, linewidth=width, alpha=alpha,
            )  # fmt: skip
            drawn.append(values)
    finite = _finite(np.concatenate(drawn))
    if finite.size and _is_log(finite.tolist()):
        log_scale(axes)


def _members(configurations: Sequence[Configuration]) -> list[Outcome]:
    return [member for each in configurations for member in each.members]


def _has_winner(configurations: Sequence[Configuration]) -> bool:
    return not any(map(_is_lost, configurations[0].members))


def _if_won(configurations: Sequence[Configuration], text: str) -> str:
    return text if _has_winner(configurations) else ""


def _is_lost(member: Outcome) -> bool:
    return member["status"] == DIVERGED


def _ended_early(member: Outcome) -> bool:
    return member["status"] not in (FINISHED, DIVERGED)


def _was_stopped(configuration: Configuration) -> bool:
    """Return whether a member was stopped, so that its metrics are of a shorter training."""
    return any(member["status"] == STOPPED for member in configuration.members)


def _mean(configuration: Configuration, metric: Metric) -> float | None:
    """Return the mean over members; None where one diverged or has no finite value."""
    values = configuration.of(f"valid_{metric.name}")
    return float(np.mean(values)) if len(values) == len(configuration.members) else None


def _shading(means: Sequence[float | None], metric: Metric) -> Callable[[float], float]:
    """Return a function from a mean to its shade: 1, the darkest, for the best, 0 for the worst."""
    finite = [mean for mean in means if mean is not None] or [1.0]
    low, high = min(finite), max(finite)
    log = not metric.higher_is_better and 0 < 10 * low <= high
    norm = LogNorm(low, high) if log else Normalize(low, high if high > low else low + 1)

    def shade(mean: float) -> float:
        fraction = float(norm(mean))
        return fraction if metric.higher_is_better else 1 - fraction

    return shade


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """Return one value per row, [len(rows)]; NaN where it is missing."""
    return np.array([row.get(key) for row in rows], float)


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _sorted(values: Any) -> list[Any]:
    distinct = list(dict.fromkeys(values))
    return sorted(distinct) if _is_numeric(distinct) else distinct


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _is_log(values: Sequence[Any]) -> bool:
    return _is_numeric(values) and min(values) > 0 and max(values) >= 20 * min(values)


def _fractions(values: Sequence[float]) -> list[float]:
    """Return where numbers lie along their axis, from 0 to 1."""
    at = np.log(values) if _is_log(values) else np.array(values, float)
    return list((at - at.min()) / (np.ptp(at) or 1.0))


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _value_scale(axes: Axes, metric: Metric, values: np.ndarray, cut: bool = False) -> None:
    """Scale the vertical axis to these values: what diverged would flatten all else.

    Args:
      axes: the panel.
      metric: what its vertical axis shows.
      values: of what did not diverge.
      cut: whether the worst 2 % may lie outside if they are far from the others.
    """
    finite = _finite(values)
    if finite.size:
        log = not metric.higher_is_better and 0 < 4 * finite.min() < finite.max()
        if log:
            log_scale(axes)
        low, high = _limits(np.log(finite) if log else finite, metric, cut)
        axes.set_ylim(*(np.exp([low, high]) if log else (low, high)))
    if is_percent(metric):
        percent_ticks(axes)


def _limits(values: np.ndarray, metric: Metric, cut: bool) -> tuple[float, float]:
    scores = metric.score(values)
    worst, best, nearly_worst = scores.min(), scores.max(), np.quantile(scores, 0.02)
    if cut and best - worst > 2 * (best - nearly_worst) > 0:
        worst = nearly_worst
    room = 0.06 * (best - worst or abs(best) or 1.0)
    ends = worst - 2 * room, best + room  # crosses need some room at the worse end
    low, high = sorted(float(metric.score(score)) for score in ends)
    return low, high


def _step_axis(axes: Axes) -> None:
    axes.set_xlabel("training step", color=MUTED)
    axes.set_xlim(left=0)
    _quiet(axes)


def _quiet(axes: Axes) -> None:
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=MUTED, labelsize=8, which="both", length=0)
