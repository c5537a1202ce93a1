"""Draw the figures of a result: our time relative to other libraries, and long sequences."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.bench.cases import CELLS, MEASURES
from experiments.bench.libraries import LIBRARIES, OURS, SHARDED
from experiments.bench.tables import by_case, quiet, verdict
from experiments.figures.style import DOTS_PER_INCH, FAINT, INK, MUTED

Row = dict[str, Any]
STYLES = {  # color and marker
    "torch": ("#c2410c", "D"),
    "linen": ("#1f6fb4", "o"),
    "nnx": ("#6aa9d8", "o"),
    "haiku": ("#7a52a8", "o"),
    "equinox": ("#2f8f5b", "o"),
    "keras": ("#b08900", "o"),
    "scan": ("#7d8590", "s"),
    "cudnn": ("#c2255c", "^"),
}
LINES = {  # color and line
    "LSTM": ("#1f6fb4", "o-"),
    "LSTM, recomputed": ("#1f6fb4", "o--"),
    "LSTM by DEER": ("#7a52a8", "o:"),
    "minGRU, serial": ("#c2410c", "s-"),
    "minGRU, chunked": ("#c2410c", "s--"),
    "minGRU, associative": ("#c2410c", "s:"),
}
OURS_FASTER = "#e8f2ea"
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)


def all_of(result: Mapping[str, Any]) -> dict[str, Figure]:
    """Return all figures of a result by file name, without the ending."""
    compared = [
        row
        for row in result["table"]
        if row["name"] not in (OURS, SHARDED) and OURS in row.get("ratios", {})
    ]
    by_measure = {m: [row for row in compared if row["measure"] == m] for m in MEASURES}
    figures = {f"ratios_{m}": ratios(rows) for m, rows in by_measure.items() if rows}
    measured = [row for row in result["long"] if "seconds" in row]
    return figures | ({"long": lengths(measured)} if measured else {})


def ratios(rows: Sequence[Row]) -> Figure:
    """Draw our time divided by that of other libraries, for one measurement, one panel per cell."""
    cells = [cell for cell in CELLS if any(row["cell"] == cell for row in rows)]
    names = list(by_case(list(rows)))
    figure = _figure(1.9 + 0.3 * len(names), _message(rows))
    panels = figure.subplots(1, len(cells), sharex=True, sharey=True, squeeze=False)[0]
    for panel, cell in zip(panels, cells, strict=True):
        _ratio_panel(panel, [row for row in rows if row["cell"] == cell], names)
        panel.set_title(CELLS[cell], loc="left", color=INK, fontsize=10)
    values = [value for row in rows for value in row["ratios"][OURS]]
    panels[0].set_xlim(min(0.45, 0.9 * min(values)), max(2.2, 1.1 * max(values)))
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    panels[0].set_yticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    panels[len(panels) // 2].set_xlabel(
        "our time / their time (green: ours is faster)", color=MUTED, fontsize=9
    )
    _legend(figure, panels)
    return figure


def _message(rows: Sequence[Row]) -> str:
    name = "torch" if any(row["name"] == "torch" for row in rows) else rows[0]["name"]
    verdicts = [verdict(row["ratios"][OURS]) for row in rows if row["name"] == name and quiet(row)]
    measure = MEASURES[rows[0]["measure"]]
    if not verdicts:
        return f"Not comparable: other programs used the processor ({measure})"
    return (
        f"{measure[0].upper()}{measure[1:]}: ours is faster than {LIBRARIES[name].title} in "
        f"{verdicts.count('faster')} of {len(verdicts)} cases, slower in {verdicts.count('slower')}"
    )


def _ratio_panel(axes: Axes, rows: list[Row], names: Sequence[str]) -> None:
    axes.set_xscale("log")
    axes.axvspan(1e-3, 1, color=OURS_FASTER, zorder=0)
    axes.axvline(1, color=INK, linewidth=1, zorder=1)
    for case, of_case in by_case(rows).items():
        for name, row in of_case.items():
            _ratio(axes, name, row["ratios"][OURS], names.index(case))
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    _plain(axes)


def _ratio(axes: Axes, name: str, ratio: Sequence[float], line: int) -> None:
    value, low, high = ratio
    color, marker = STYLES[name]
    size = 7 if name == "torch" else 5
    axes.plot([low, high], [line, line], color=color, linewidth=1, zorder=2)
    axes.plot(
        value, line, marker, color=color, ms=size, mew=0, label=LIBRARIES[name].title, zorder=3
    )


def lengths(rows: Sequence[Row]) -> Figure:
    """Draw time and memory of each method against T."""
    figure = _figure(3.6, "Forward + backward of one long sequence")
    panels = figure.subplots(1, 2)
    _lengths_panel(panels[0], rows, lambda row: 1e3 * row["seconds"][0])
    panels[0].set_title("milliseconds", loc="left", color=INK, fontsize=10)
    _lengths_panel(panels[1], rows, lambda row: row["planned_bytes"] / 2**20)
    panels[1].set_title("MiB of memory, as planned by XLA", loc="left", color=INK, fontsize=10)
    _legend(figure, panels)
    return figure


def _lengths_panel(axes: Axes, rows: Sequence[Row], value: Callable[[Row], float]) -> None:
    for name in dict.fromkeys(row["name"] for row in rows):
        some = [row for row in rows if row["name"] == name]
        color, line = LINES[name]
        times, values = [row["time"] for row in some], [value(row) for row in some]
        axes.plot(times, values, line, color=color, markersize=4, label=name)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("T, steps", color=MUTED, fontsize=9)
    times = sorted({row["time"] for row in rows})
    axes.set_xticks(times, [f"{time:,}" for time in times])
    axes.xaxis.set_minor_locator(NullLocator())
    _plain(axes)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    found = [
        pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)
    ]
    handles = {label: handle for handle, label in found}
    titles = [LIBRARIES[name].title for name in STYLES]
    labels = sorted(handles, key=lambda label: titles.index(label) if label in titles else 0)
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=7,
        frameon=False,
        fontsize=8,
        handletextpad=0.4,
    )


def _figure(height: float, message: str) -> Figure:
    figure = Figure((8.0, height), DOTS_PER_INCH, facecolor="white", layout="constrained")
    figure.suptitle(message, x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold")
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(color=FAINT, linewidth=0.6)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    axes.spines[:].set_color(FAINT)
