"""Draw a sweep: which values win, how every run went, and who diverged or was stopped where."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle

from experiments.figures.curves import (
    Rows,
    column,
    format_value,
    is_percent,
    label_ends,
    percent_ticks,
)
from experiments.figures.style import (
    ACCENT,
    ALARM,
    INK,
    MUTED,
    log_scale,
    panel_title,
    plain,
    quiet,
    step_axis,
    titled_figure,
)
from experiments.harness.plan import DIVERGED, FINISHED, STOPPED
from experiments.harness.program import Figure
from experiments.sweep.ranking import Configuration, Outcome, best_member
from recurrent.training.task import Metric

MOST_LISTED = 16  # values that stand side by side, each with its label
MOST_TEXTS = 80  # tiles of a heat map with their numbers
LONGEST_TEXT = 24  # characters of a value in a figure
LONGEST_NAME = 32  # of all values of a configuration, beside its curve
MOST_NAMED = 8  # configurations whose curves have their values beside them
MOST_CURVES = 500  # runs that are drawn as a line each
SHADES = LinearSegmentedColormap.from_list("blues", ["#e8f1f8", "#86b8dc", ACCENT, "#0c3157"])
DIVERGED_SHADE = "#fbdcc9"

Ranked = Sequence[Configuration]  # best first
MemberRows = Mapping[int, Rows]  # of each member, one per evaluation


def all_of(
    configurations: Ranked, rows: MemberRows, metrics: Sequence[Metric], marks: Sequence[int]
) -> Iterator[Figure]:
    """Draw the figures of a sweep that has ended.

    Args:
      configurations: best first.
      rows: of each member, one per evaluation, with `step` and `valid_NAME`, and with its swept
        fields where they changed during training.
      metrics: those that people compare; the first one ranks the configurations.
      marks: how many evaluations of a member were done when configurations were compared.
    """
    select, fields = metrics[0], list(configurations[0].values)
    configurations = _own_best_first(configurations, rows, select)
    if fields:
        caption = _by_field_caption(configurations)
        drawn = by_field(configurations, fields, metrics)
        yield Figure("by_field", "Which values win", caption, drawn)
    if len(fields) == 2:
        caption = _heat_map_caption(configurations, select)
        drawn = heat_map(configurations, fields, select)
        yield Figure("heat_map", "Two fields together", caption, drawn)
    caption = _curves_caption(configurations, select, marks)
    drawn = curves(configurations, rows, select, marks)
    title = "Learning curves" + ("" if _drawn(configurations) else " of all runs")
    yield Figure("members", title, caption, drawn)
    if changed := changed_fields(fields, rows):
        drawn = values_over_evaluations(configurations, rows, changed)
        yield Figure("values", "How the values changed", _values_caption(configurations), drawn)


def by_field(configurations: Ranked, fields: Sequence[str], metrics: Sequence[Metric]) -> Drawing:
    """Draw the metrics, a panel each, against the values of each field, a row each."""
    best = configurations[0].values
    values = ", ".join(f"{field} {_text(best[field])}" for field in fields)
    figure = titled_figure(
        0.7 + 2.6 * len(fields), _message(f"The winner: {values}", configurations)
    )
    panels = figure.subplots(len(fields), len(metrics), squeeze=False)
    for row, field in zip(panels, fields, strict=True):
        for axes, metric in zip(row, metrics, strict=True):
            _field_panel(axes, configurations, field, metric)
    return figure


def heat_map(configurations: Ranked, fields: Sequence[str], metric: Metric) -> Drawing:
    """Draw the mean of a metric at each pair of values, darker for better.

    Pairs are tiles, or dots where there are too many values to list.
    """
    figure = titled_figure(4.2, f"Validation {metric.name} by {' and '.join(fields)}")
    axes = figure.subplots()
    places = [_places(each.values[field] for each in configurations) for field in fields]
    (across, down), (xs, ys) = fields, places
    best: dict[tuple[float, float], Configuration] = {}
    for each in configurations:  # of several with the same values, where these changed on the way
        best.setdefault((xs[each.values[across]], ys[each.values[down]]), each)
    shade = _shading([_mean(each, metric) for each in configurations], metric)
    tiled, won = max(map(len, places)) <= MOST_LISTED, _has_winner(configurations)
    for at, each in reversed(best.items()):
        mean, winner = _mean(each, metric), won and each is configurations[0]
        darkness = None if mean is None else shade(mean)
        (_tile if tiled else _dot)(axes, at, darkness, winner)
        if tiled and (winner or len(best) <= MOST_TEXTS):
            text = "diverged" if mean is None else format_value(mean, metric)
            _tile_text(axes, at, text, darkness, winner)
    quiet(axes)
    axes.grid(not tiled)
    for axis, field, own in zip((axes.xaxis, axes.yaxis), fields, places, strict=True):
        _value_axis(axis, field, own)
    return figure


def curves(
    configurations: Ranked, rows: MemberRows, metric: Metric, marks: Sequence[int]
) -> Drawing:
    """Draw the validation metric of every member over its steps.

    Args:
      configurations: best first.
      rows: of each member, one per evaluation.
      metric: the one to draw.
      marks: numbers of evaluations at which to draw a dotted line.
    """
    figure = titled_figure(3.8, _curves_message(configurations))
    axes, key = figure.subplots(), f"valid_{metric.name}"
    survived, names, ends = [np.ones(0)], _names(configurations), []
    for member, wins in _worst_first(configurations):
        own = rows.get(member["member"], ())
        steps, values = column(own, "step"), column(own, key)
        color = ALARM if _is_lost(member) else ACCENT if wins else MUTED
        width, alpha = (1.8, 1.0) if wins else (0.8, 0.55)
        axes.plot(steps, values, color=color, linewidth=width, alpha=alpha)
        if _is_lost(member):
            _crosses(axes, steps[-1:], metric)
            continue
        survived.append(values)
        if name := names[member["member"]]:
            ends += [(*end, name, color) for end in zip(steps[-1:], values[-1:], strict=True)]
        if _ended_early(member) or len(values) == 1:
            axes.plot(steps[-1:], values[-1:], ".", color=color, markersize=6)
    for step in _steps_of(marks, rows):
        axes.axvline(step, color=MUTED, linestyle=":", linewidth=0.9)
    _value_scale(axes, metric, np.concatenate(survived), cut=True)
    _name_ends(axes, ends)
    step_axis(axes)
    fields = list(configurations[0].values) if _have_names(configurations) else []
    panel_title(axes, f"validation {metric.name}" + (" by " if fields else "") + ", ".join(fields))
    return figure


def _have_names(configurations: Ranked) -> bool:
    """Return whether the values of all configurations find room beside their curves."""
    few = 1 < len(configurations) <= MOST_NAMED
    return few and all(len(_name_of(each)) <= LONGEST_NAME for each in configurations)


def _name_of(configuration: Configuration) -> str:
    return ", ".join(map(_text, configuration.values.values()))


def _names(configurations: Ranked) -> dict[int, str]:
    """Return what is written beside the end of each member's curve, which often is nothing.

    A few configurations have their values there, at their best member; of many only the winner is
    named.
    """
    names = {each["member"]: "" for each in _members(configurations)}
    for rank, each in enumerate(configurations):
        wins = rank == 0 and _has_winner(configurations)
        parts = ["winner"] * wins + [plain(_name_of(each))] * _have_names(configurations)
        names[best_member(each)["member"]] = ": ".join(parts)
    return names


def _name_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names beside the ends of curves ``(x, y, name, color)`` that are within the scale.

    Those of the longest curves stand in the margin, where they are moved apart.
    """
    low, high = axes.get_ylim()
    within = [end for end in ends if low <= end[1] <= high]
    last = max((x for x, *_ in within), default=0)
    label_ends(axes, [end[1:] for end in within if end[0] == last])
    for x, y, name, color in within:
        if x < last:
            _name_end(axes, (x, y), name, color)


def values_over_evaluations(
    configurations: Ranked, rows: MemberRows, fields: Sequence[str]
) -> Drawing:
    """Draw the values of each field with which every member was trained."""
    winner = best_member(configurations[0])
    began = next(iter(rows.get(winner["member"], ())), winner)
    values = ", ".join(
        f"{field} {_text(winner[field])} (from {_text(began[field])})" for field in fields
    )
    message = _message(f"The winner at its best evaluation: {values}", configurations)
    figure = titled_figure(0.7 + 2.4 * len(fields), message)
    panels = figure.subplots(len(fields), 1, sharex=True, squeeze=False)[:, 0]
    for axes, field in zip(panels, fields, strict=True):
        _values_panel(axes, configurations, rows, field)
        step_axis(axes, "evaluation")
        axes.label_outer()
        panel_title(axes, field)
    return figure


def changed_fields(fields: Sequence[str], rows: MemberRows) -> list[str]:
    """Return the numeric fields that some member's rows hold, and that changed between them."""

    def changed(field: str) -> bool:
        held = [{row[field] for row in own if field in row} for own in rows.values()]
        return any(len(own) > 1 for own in held) and _is_numeric(set().union(*held))

    return [field for field in fields if changed(field)]


# Captions and messages name only what is there.


def _message(text: str, configurations: Ranked) -> str:
    won = _has_winner(configurations)
    return text if won else "Every configuration has a run that diverged"


def _sentences(first: str, *others: tuple[bool, str]) -> str:
    """Join the first sentence and those of the others that hold."""
    return " ".join([first, *(text for holds, text in others if holds)])


def _by_field_caption(configurations: Ranked) -> str:
    joined = any(_is_joined(configurations, field) for field in configurations[0].values)
    stopped = any(map(_was_stopped, configurations))
    return _sentences(
        "Each dot is a run at its best evaluation.",
        (_has_winner(configurations), "The ring marks the winner."),
        (joined, "The line joins the means of the best configuration with each value."),
        (_any_lost(configurations), "Red crosses at the edge mark runs that diverged."),
        (stopped, "Hollow dots mark runs that were stopped early."),
    )


def _heat_map_caption(configurations: Ranked, metric: Metric) -> str:
    return _sentences(
        f"The validation {metric.name} of each configuration, averaged over its runs at their best "
        "evaluations. Darker is better.",
        (_has_winner(configurations), "The black frame marks the winner."),
        (_any_lost(configurations), "Pale red means that a run diverged."),
    )


def _curves_caption(configurations: Ranked, metric: Metric, marks: Sequence[int]) -> str:
    early = any(map(_ended_early, _members(configurations)))
    compared = "Dotted lines mark where configurations were compared and the worse stopped."
    return _sentences(
        f"Validation {metric.name} at each evaluation{_drawn(configurations)}.",
        (_has_winner(configurations), "The winner is blue."),
        (_any_lost(configurations), "Red crosses mark where a run diverged."),
        (early, "Dots mark where a run ended early."),
        (bool(marks), compared),
    )


def _drawn(configurations: Ranked) -> str:
    """Say which runs are drawn, where it is not all."""
    count = len(_worst_first(configurations))
    many = len(_members(configurations))
    return "" if count == many else f", of {count} of {many} runs, evenly by rank"


def _values_caption(configurations: Ranked) -> str:
    return _sentences(
        f"The values with which each run was trained{_drawn(configurations)}. A line jumps where a "
        "run went on from a copy of a better one, with other values.",
        (_has_winner(configurations), "The winner is blue, with a dot at its best evaluation."),
    )


def _curves_message(configurations: Ranked) -> str:
    members = _members(configurations)
    lost, early = sum(map(_is_lost, members)), sum(map(_ended_early, members))
    counts = f"{len(members)} run" + ("" if len(members) == 1 else "s")
    counts += f", {lost} diverged" if lost else ""
    return counts + (f", {early} ended early" if early else "")


# What is drawn of one field.


def _field_panel(axes: Axes, configurations: Ranked, field: str, metric: Metric) -> None:
    places = _places(each.values[field] for each in configurations)
    for each in configurations:
        x, ys = places[each.values[field]], each.of(f"valid_{metric.name}")
        face = "none" if _was_stopped(each) else MUTED
        axes.plot([x] * len(ys), ys, "o", color=MUTED, mfc=face, alpha=0.45, markersize=4)
    if _is_joined(configurations, field):
        _best_line(axes, configurations, field, places, metric)
    winner, mean = configurations[0], _mean(configurations[0], metric)
    if mean is not None:
        axes.plot(
            [places[winner.values[field]]], [mean], "o", label="winner",
            markersize=13, mfc="none", mec=ACCENT, mew=2.2,
        )  # fmt: skip
    drawn = [value for each in configurations for value in each.of(f"valid_{metric.name}")]
    _value_scale(axes, metric, np.array(drawn, float))
    lost = [places[m[field]] for m in _members(configurations) if _is_lost(m)]
    _crosses(axes, lost, metric)
    panel_title(axes, f"validation {metric.name}")
    quiet(axes)
    _value_axis(axes.xaxis, field, places)


def _best_line(
    axes: Axes,
    configurations: Ranked,
    field: str,
    places: Mapping[Any, float],
    metric: Metric,
) -> None:
    """Join the means of the best configuration with each value."""
    best: dict[Any, Configuration] = {}
    for each in configurations:
        best.setdefault(each.values[field], each)
    means = [(places[value], _mean(best[value], metric), best[value]) for value in places]
    known = [(x, mean, each) for x, mean, each in means if mean is not None]
    axes.plot([x for x, *_ in known], [mean for _, mean, _ in known], color=ACCENT)
    for x, mean, each in known:
        face = "white" if _was_stopped(each) else ACCENT
        axes.plot([x], [mean], "o", color=ACCENT, mfc=face, markersize=4)


def _is_joined(configurations: Ranked, field: str) -> bool:
    """Return whether a line through the values of a field would show more than noise.

    It would not where other fields change from each value to the next, as they do when drawn.
    """
    alone = len(configurations[0].values) == 1
    return alone or len({each.values[field] for each in configurations}) < len(configurations)


def _values_panel(axes: Axes, configurations: Ranked, rows: MemberRows, field: str) -> None:
    drawn = [np.ones(0)]
    for member, wins in _worst_first(configurations):
        own = rows.get(member["member"], ())
        values = column(own, field)
        color, width, alpha = (ACCENT, 2.0, 1.0) if wins else (MUTED, 0.9, 0.5)
        # A row holds the values of the steps before it.
        axes.plot(
            range(len(values) + 1), [*values[:1], *values], drawstyle="steps-pre",
            color=color, linewidth=width, alpha=alpha,
        )  # fmt: skip
        drawn.append(values)
        if wins:
            best = 1 + np.flatnonzero(column(own, "step") == member["best_step"])
            axes.plot(best, [member[field]] * len(best), "o", color=ACCENT, markersize=6)
            for value in values[-1:]:
                _name_end(axes, (len(values), value), "winner", ACCENT)
    finite = _finite(np.concatenate(drawn))
    if _is_log(finite.tolist()):
        log_scale(axes)


def _name_end(axes: Axes, end: tuple[float, float], name: str, color: str) -> None:
    """Write a name beside the end of a line."""
    axes.annotate(
        name, end, (6, 0), textcoords="offset points", color=color,
        fontsize=8.5, va="center", annotation_clip=False,
    )  # fmt: skip


# What is drawn of a pair of values.


def _tile(axes: Axes, at: tuple[float, float], darkness: float | None, winner: bool) -> None:
    color = DIVERGED_SHADE if darkness is None else SHADES(darkness)
    corner = at[0] - 0.46, at[1] - 0.46
    axes.add_patch(Rectangle(corner, 0.92, 0.92, color=color, linewidth=0))
    if winner:
        corner = at[0] - 0.5, at[1] - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, ec="black", lw=2.5, zorder=3))


def _tile_text(
    axes: Axes, at: tuple[float, float], text: str, darkness: float | None, winner: bool
) -> None:
    color, weight = "white" if (darkness or 0) > 0.5 else INK, "bold" if winner else "normal"
    axes.text(*at, text, ha="center", va="center", fontsize=8, color=color, fontweight=weight)


def _dot(axes: Axes, at: tuple[float, float], darkness: float | None, winner: bool) -> None:
    x, y = at
    color = DIVERGED_SHADE if darkness is None else SHADES(darkness)
    axes.plot([x], [y], "o", mfc=color, mec=MUTED, mew=0.5, markersize=8)
    if winner:
        axes.plot([x], [y], "s", mfc="none", mec="black", mew=2.0, markersize=14)


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


# What is known of the members.


def _members(configurations: Ranked) -> list[Outcome]:
    return [member for each in configurations for member in each.members]


def _own_best_first(configurations: Ranked, rows: MemberRows, metric: Metric) -> Ranked:
    """Let the winner be, of several equal ones, one that reached its best evaluation itself.

    In population-based training a copy has the best evaluation of whom it was copied from.
    """

    def reached(each: Configuration) -> bool:
        member, key = best_member(each), f"valid_{metric.name}"
        own = rows.get(member["member"], ())
        return (member["best_step"], member.get(key)) in [
            (row["step"], row.get(key)) for row in own
        ]

    equal = [each for each in configurations if each.score == configurations[0].score]
    winner = next(filter(reached, equal), configurations[0])
    return [winner, *(each for each in configurations if each is not winner)]


def _worst_first(configurations: Ranked) -> list[tuple[Outcome, bool]]:
    """Return members and whether each is the winner's, which is drawn above all others.

    Of more than `MOST_CURVES` others, so many are taken, evenly by rank.
    """
    won = _has_winner(configurations)
    ranks = reversed(list(enumerate(configurations)))
    members = [(member, won and rank == 0) for rank, each in ranks for member in each.members]
    others = [each for each in members if not each[1]]
    if len(others) > MOST_CURVES:
        others = [others[k] for k in np.linspace(0, len(others) - 1, MOST_CURVES).astype(int)]
    return others + [each for each in members if each[1]]


def _has_winner(configurations: Ranked) -> bool:
    return not any(map(_is_lost, configurations[0].members))


def _is_lost(member: Outcome) -> bool:
    return member["status"] == DIVERGED


def _any_lost(configurations: Ranked) -> bool:
    return any(map(_is_lost, _members(configurations)))


def _ended_early(member: Outcome) -> bool:
    return member["status"] not in (FINISHED, DIVERGED)


def _was_stopped(configuration: Configuration) -> bool:
    """Return whether a member was stopped, so that its metrics are of a shorter training."""
    return any(member["status"] == STOPPED for member in configuration.members)


def _mean(configuration: Configuration, metric: Metric) -> float | None:
    """Return the mean over members; None where one diverged or has no finite value."""
    values = configuration.of(f"valid_{metric.name}")
    return float(np.mean(values)) if len(values) == len(configuration.members) else None


def _steps_of(evaluations: Sequence[int], rows: MemberRows) -> list[float]:
    """Return the steps after so many evaluations of a member, where one has come so far."""
    steps = column(max(rows.values(), key=len, default=()), "step")
    return [steps[count - 1] for count in evaluations if count <= len(steps)]


# Axes.


def _places(values: Iterable[Any]) -> dict[Any, float]:
    """Return where each value lies on its axis: side by side, or as they are if many numbers."""
    distinct = list(dict.fromkeys(values))
    if not _is_numeric(distinct):
        return {value: float(k) for k, value in enumerate(distinct)}
    as_they_are = len(distinct) > MOST_LISTED
    return {value: float(value if as_they_are else k) for k, value in enumerate(sorted(distinct))}


def _value_axis(axis: Axis, field: str, places: Mapping[Any, float]) -> None:
    """Name a field on its axis, and its values where they stand side by side."""
    axes, across = axis.axes, axis is axis.axes.xaxis
    axis.set_label_text(plain(field), color=MUTED)
    if len(places) <= MOST_LISTED or not _is_numeric(places):
        axis.set_ticks(list(places.values()), [plain(_text(value)) for value in places])
        (axes.set_xlim if across else axes.set_ylim)(-0.6, len(places) - 0.4)
        if across:
            axes.tick_params(axis="x", rotation=30)
    elif _is_log(list(places)):
        (axes.set_xscale if across else axes.set_yscale)("log")


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


def _crosses(axes: Axes, xs: Sequence[float] | np.ndarray, metric: Metric) -> None:
    """Mark what diverged at the edge of the panel where values are worse."""
    edge = 0.03 if metric.higher_is_better else 0.97
    axes.plot(xs, [edge] * len(xs), "x", color=ALARM, transform=axes.get_xaxis_transform())


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _is_numeric(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _is_log(values: Sequence[Any]) -> bool:
    return len(values) > 0 and min(values) > 0 and max(values) >= 20 * min(values)


def _text(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    # of a long path, the end; the table has it whole
    return text if len(text) <= LONGEST_TEXT else "…" + text[1 - LONGEST_TEXT :]
