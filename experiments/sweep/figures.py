"""Pictures of a sweep: which values win, what every member did, and who was stopped where."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator, PercentFormatter

from experiments.figures.style import ACCENT, ALARM, DOTS_PER_INCH, FAINT, INK, MUTED, log_scale
from experiments.harness.program import Picture
from experiments.sweep.ranking import DIVERGED, RUNG, Outcome, Setting

MOST_TILES = 24
MOST_LABELS = 10
ROOM = 0.06  # that a label needs of its axis
SHADES = colormaps["viridis"]
Rows = Mapping[int, Sequence[Mapping[str, Any]]]


def all_of(
    settings: Sequence[Setting], rows: Rows, metric: str, rungs: Sequence[int]
) -> Iterator[Picture]:
    """The pictures of a sweep that has ended.

    Args:
      settings: best first.
      rows: of ``metrics.jsonl``, by member.
      metric: the name of what people read.
      rungs: the steps after which settings were compared.
    """
    fields = list(settings[0].values)
    if fields:
        yield Picture(
            "by_field",
            "Which values win",
            "Each dot is a member: its validation metrics at its lowest score. The line joins, for "
            "each value, the mean of the best setting that has it; the ring is the winner. "
            "Crosses at the edge are members that diverged"
            + ("; hollow dots were stopped at a rung." if rungs else "."),
            by_field(settings, fields, metric),
        )
    if len(fields) == 2:
        yield Picture(
            "heat_map",
            "Two fields together",
            "The mean validation loss of each setting; darker is lower, the frame is the winner.",
            heat_map(settings, fields),
        )
    if len(fields) > 2:
        yield Picture(
            "parallel",
            "All fields together",
            "Each line is a setting, from value to value to its mean validation loss; the winner "
            "is blue.",
            parallel(settings, fields),
        )
    yield Picture(
        "members",
        "Learning curves of all members",
        "Validation loss after each epoch. Blue are the winner's members, red those that "
        "diverged, at the step where they did"
        + ("; dotted lines are rungs, dots the ends of who was stopped." if rungs else "."),
        curves(settings, rows, rungs),
    )


def by_field(settings: Sequence[Setting], fields: Sequence[str], metric: str) -> Figure:
    """Loss and metric against the values of each field."""
    names = list(dict.fromkeys(["loss", metric]))
    best = settings[0].values
    words = ", ".join(f"{field} {_text(best[field])}" for field in fields)
    figure = _figure(0.7 + 2.6 * len(fields), f"The winner: {words}")
    panels = figure.subplots(len(fields), len(names), squeeze=False)
    for row, field in zip(panels, fields, strict=True):
        for axes, name in zip(row, names, strict=True):
            _field_panel(axes, settings, field, name)
    return figure


def heat_map(settings: Sequence[Setting], fields: Sequence[str]) -> Figure:
    """Mean loss of each pair of values, as tiles; as dots where there are too many values."""
    across, down = fields
    values = [_sorted(setting.values[field] for setting in settings) for field in fields]
    figure = _figure(4.2, f"Validation loss by {across} and {down}")
    axes, losses = figure.subplots(), [_mean(setting, "valid_loss") for setting in settings]
    norm = _norm(losses)
    if max(map(len, values)) > MOST_TILES:
        _dots(axes, settings, fields, losses, norm)
    else:
        _tiles(axes, settings, fields, values, losses, norm)
    axes.set_xlabel(across, color=MUTED)
    axes.set_ylabel(down, color=MUTED)
    _quiet(axes)
    return figure


def parallel(settings: Sequence[Setting], fields: Sequence[str]) -> Figure:
    """One vertical axis for each field and one for the loss."""
    figure = _figure(3.6, "From the values to the loss")
    axes = figure.subplots()
    heights = [_heights([setting.values[field] for setting in settings]) for field in fields]
    losses = [_mean(setting, "valid_loss") for setting in settings]
    norm = _norm(losses)
    at = [1 - norm(loss) if loss is not None else 0.0 for loss in losses]
    for k in reversed(range(len(settings))):  # so that the best are drawn last
        line = [*(height[k] for height in heights), at[k]]
        colour = ACCENT if k == 0 else ALARM if losses[k] is None else MUTED
        width, alpha = (2.5, 1.0) if k == 0 else (0.9, 0.4)
        axes.plot(range(len(line)), line, color=colour, linewidth=width, alpha=alpha)
    for k, field in enumerate(fields):
        _values_along(axes, k, [setting.values[field] for setting in settings], heights[k])
    finite = [loss for loss in losses if loss is not None]
    if finite:
        for text, height in ((f"{min(finite):.3g}", 1.0), (f"{max(finite):.3g}", 0.0)):
            axes.text(len(fields) + 0.04, height, text, color=INK, fontsize=8, va="center")
    axes.set_xticks(range(len(fields) + 1), [*fields, "loss"], color=INK)
    axes.set_yticks([])
    axes.set_xlim(-0.3, len(fields) + 0.3)
    axes.grid(axis="x", color=FAINT)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def curves(settings: Sequence[Setting], rows: Rows, rungs: Sequence[int]) -> Figure:
    """Validation loss of every member over its steps."""
    members = sum(len(setting.members) for setting in settings)
    lost = sum(each["status"] == DIVERGED for setting in settings for each in setting.members)
    message = f"{members} members" + (f", {lost} diverged" if lost else "")
    figure = _figure(3.8, message)
    axes = figure.subplots()
    for rank, setting in reversed(list(enumerate(settings))):
        for member in setting.members:
            _curve(axes, member, rows.get(member["member"], ()), winner=rank == 0)
    for rung in rungs:
        axes.axvline(rung, color=MUTED, linestyle=":", linewidth=0.9)
    _loss_scale(axes)
    axes.set_xlabel("training step", color=MUTED)
    axes.set_title("validation loss", loc="left", color=INK, fontsize=10)
    axes.set_xlim(left=0)
    _quiet(axes)
    return figure


def _curve(axes: Axes, member: Outcome, rows: Sequence[Mapping[str, Any]], winner: bool) -> None:
    steps = [row["step"] for row in rows]
    losses = [np.nan if row["valid_loss"] is None else row["valid_loss"] for row in rows]
    lost = member["status"] == DIVERGED
    colour = ACCENT if winner else ALARM if lost else MUTED
    axes.plot(
        steps, losses, color=colour, linewidth=1.8 if winner else 0.8, alpha=1.0 if winner else 0.55
    )
    if steps and lost:
        axes.plot(steps[-1:], [0.97], "x", color=ALARM, transform=axes.get_xaxis_transform())
    elif steps and member["status"] != "finished":
        axes.plot(steps[-1:], losses[-1:], ".", color=colour, markersize=6)


def _field_panel(axes: Axes, settings: Sequence[Setting], field: str, name: str) -> None:
    key = f"valid_{name}"
    values = _sorted(setting.values[field] for setting in settings)
    survived = {setting.values[field] for setting in settings if setting.of(key)}
    place = _near(values, _places(values), survived)
    lost: list[float] = []
    for setting in settings:
        x = place[setting.values[field]]
        ys = setting.of(key)
        (dots,) = axes.plot([x] * len(ys), ys, "o", color=MUTED, alpha=0.45, markersize=4)
        if _stopped(setting):
            dots.set_markerfacecolor("none")
        lost += [x] * (len(setting.members) - len(ys))
    best = [next(s for s in settings if s.values[field] == value) for value in values]
    means = [(place[s.values[field]], _mean(s, key), _stopped(s)) for s in best]
    means = [(x, y, stopped) for x, y, stopped in means if y is not None]
    axes.plot([x for x, *_ in means], [y for _, y, _ in means], color=ACCENT)
    for x, y, stopped in means:
        axes.plot([x], [y], "o", color=ACCENT, mfc="white" if stopped else ACCENT, markersize=4)
    top = _mean(settings[0], key)
    if top is not None:
        x = place[settings[0].values[field]]
        axes.plot([x], [top], "o", markersize=13, mfc="none", mec=ACCENT, mew=2.2)
    if name == "loss":
        _loss_scale(axes)
    elif name.endswith("accuracy"):
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))
    edge = 0.97 if name == "loss" else 0.03
    axes.plot(lost, [edge] * len(lost), "x", color=ALARM, transform=axes.get_xaxis_transform())
    _value_axis(axes, values, place)
    axes.set_title(f"validation {name}", loc="left", color=INK, fontsize=10)
    axes.set_xlabel(field, color=MUTED)
    _quiet(axes)


def _stopped(setting: Setting) -> bool:
    """Whether it was stopped at a rung, so that its losses are those of a shorter training."""
    return any(member["status"] == RUNG for member in setting.members)


def _places(values: Sequence[Any]) -> dict[Any, float]:
    """Where each value stands on its axis: numbers as they are, all else at 0, 1, 2, ..."""
    if _is_numeric(values):
        return {value: float(value) for value in values}
    return {value: float(k) for k, value in enumerate(values)}


def _near(values: Sequence[Any], place: dict[Any, float], survived: set[Any]) -> dict[Any, float]:
    """The places, with values far above all that survived beside the largest of these."""
    if not _is_numeric(values) or not survived or max(survived) <= 0:
        return place
    edge = place[max(survived)]
    beyond = [value for value in values if place[value] > 20 * edge]
    return place | {value: edge * 4 ** (k + 1) for k, value in enumerate(beyond)}


def _value_axis(axes: Axes, values: Sequence[Any], place: Mapping[Any, float]) -> None:
    if _is_log(list(place.values())):
        axes.set_xscale("log")
    if not _is_numeric(values) or len(values) <= MOST_LABELS:
        told = apart(values, place) if _is_numeric(values) else values
        axes.set_xticks([place[v] for v in told], [_text(v) for v in told], rotation=30)
        axes.xaxis.set_minor_locator(NullLocator())
    if not _is_numeric(values):
        axes.set_xlim(-0.5, len(values) - 0.5)


def apart(values: Sequence[Any], place: Mapping[Any, float]) -> list[Any]:
    """The values whose labels have room beside those before them."""
    heights = _heights([place[value] for value in values])
    told: list[tuple[float, Any]] = []
    for height, value in zip(heights, values, strict=True):
        if not told or height - told[-1][0] > ROOM:
            told.append((height, value))
    return [value for _, value in told]


def _tiles(
    axes: Axes,
    settings: Sequence[Setting],
    fields: Sequence[str],
    values: Sequence[Sequence[Any]],
    losses: Sequence[float | None],
    norm: Normalize,
) -> None:
    across, down = values
    small = len(across) * len(down) > 80
    for rank, (setting, loss) in enumerate(zip(settings, losses, strict=True)):
        x, y = across.index(setting.values[fields[0]]), down.index(setting.values[fields[1]])
        colour = "#fbdcc9" if loss is None else SHADES(norm(loss))
        axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=colour, linewidth=0))
        if rank == 0:
            axes.add_patch(
                Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fill=False, ec=ALARM, lw=2.5, zorder=3)
            )
        text = "lost" if loss is None else f"{loss:.3g}"
        light = loss is not None and norm(loss) < 0.55
        axes.text(
            *(x, y, "" if small and rank else text),
            **{"ha": "center", "va": "center", "fontsize": 8, "color": "white" if light else INK},
        )
    for axis, own in ((axes.xaxis, across), (axes.yaxis, down)):
        axis.set_ticks(range(len(own)), [_text(value) for value in own])
    axes.tick_params(axis="x", rotation=30)
    axes.set_xlim(-0.5, len(across) - 0.5)
    axes.set_ylim(-0.5, len(down) - 0.5)


def _dots(
    axes: Axes,
    settings: Sequence[Setting],
    fields: Sequence[str],
    losses: Sequence[float | None],
    norm: Normalize,
) -> None:
    places = [_places(_sorted(s.values[field] for s in settings)) for field in fields]
    for rank, (setting, loss) in reversed(list(enumerate(zip(settings, losses, strict=True)))):
        x, y = (p[setting.values[f]] for p, f in zip(places, fields, strict=True))
        colour = ALARM if loss is None else SHADES(norm(loss))
        axes.plot([x], [y], "x" if loss is None else "o", color=colour, markersize=7)
        if rank == 0:
            axes.plot([x], [y], "o", mfc="none", mec=ALARM, mew=2.2, markersize=14)
    for field, scale in zip(fields, (axes.set_xscale, axes.set_yscale), strict=True):
        if _is_log([setting.values[field] for setting in settings]):
            scale("log")


def _values_along(axes: Axes, k: int, values: Sequence[Any], heights: Sequence[float]) -> None:
    marks = dict(zip(map(_text, values), heights, strict=True))
    if len(marks) > MOST_LABELS:
        ends = min(marks.items(), key=_height), max(marks.items(), key=_height)
        marks = dict(ends)
    for text, height in marks.items():
        axes.text(
            *(k - 0.04, height, text),
            **{"color": INK, "fontsize": 8, "ha": "right", "va": "center"},
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.8},
        )


def _height(item: tuple[str, float]) -> float:
    return item[1]


def _heights(values: Sequence[Any]) -> list[float]:
    """From 0 to 1 along an axis."""
    place = _places(_sorted(values))
    at = np.array([place[value] for value in values])
    at = np.log(at) if _is_log(values) else at
    return list((at - at.min()) / (np.ptp(at) or 1.0))


def _mean(setting: Setting, key: str) -> float | None:
    """None where a member diverged."""
    values = setting.of(key)
    return float(np.mean(values)) if len(values) == len(setting.members) else None


def _norm(losses: Sequence[float | None]) -> Normalize:
    finite = [loss for loss in losses if loss is not None] or [1.0]
    low, high = min(finite), max(finite)
    if 0 < 10 * low <= high:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + 1)


def _sorted(values: Any) -> list[Any]:
    distinct = list(dict.fromkeys(values))
    return sorted(distinct) if _is_numeric(distinct) else distinct


def _is_numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _is_log(values: Sequence[Any]) -> bool:
    return _is_numeric(values) and min(values) > 0 and max(values) >= 20 * min(values)


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _loss_scale(axes: Axes) -> None:
    """By what survived: the losses of members that diverged would flatten all else."""
    survived = [line.get_ydata() for line in axes.get_lines() if line.get_color() != ALARM]
    drawn = np.concatenate([np.ones(0), *survived])
    finite = drawn[np.isfinite(drawn)]
    if not finite.size:
        return
    low, high = finite.min(), finite.max()
    if 0 < 4 * low < high:
        log_scale(axes)
        axes.set_ylim(0.8 * low, 1.3 * max(np.quantile(finite, 0.98), 2 * low))
    else:
        room = 0.06 * (high - low or abs(high) or 1.0)
        axes.set_ylim(low - room, high + room)


def _quiet(axes: Axes) -> None:
    axes.grid(color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=MUTED, labelsize=8, which="both", length=0)


def _figure(height: float, message: str) -> Figure:
    figure = Figure((8.0, height), DOTS_PER_INCH, facecolor="white", layout="constrained")
    figure.suptitle(message, x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold")
    return figure
