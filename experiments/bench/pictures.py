"""Pictures of a result: our time beside that of others, and long sequences."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from experiments.bench.cases import CELLS, MEASURES
from experiments.bench.peers import OURS, PEERS
from experiments.bench.tables import by_case, verdict
from experiments.figures import DOTS_PER_INCH, FAINT, INK, MUTED

Row = dict[str, Any]
STYLES = {  # colour and marker
    "torch": ("#c2410c", "D"),
    "linen": ("#1f6fb4", "o"),
    "nnx": ("#6aa9d8", "o"),
    "haiku": ("#7a52a8", "o"),
    "equinox": ("#2f8f5b", "o"),
    "keras": ("#b08900", "o"),
    "scan": ("#7d8590", "s"),
}
OURS_FASTER = "#e8f2ea"
TICKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)


def all_of(result: Mapping[str, Any]) -> dict[str, Figure]:
    """Each picture by the name of its file."""
    compared = [row for row in result["table"] if row["name"] != OURS and row.get("ratio")]
    by_measure = {m: [row for row in compared if row["measure"] == m] for m in MEASURES}
    figures = {f"ratios_{m}": ratios(rows) for m, rows in by_measure.items() if rows}
    measured = [row for row in result["long"] if "seconds" in row]
    return figures | ({"long": lengths(measured)} if measured else {})


def ratios(rows: Sequence[Row]) -> Figure:
    """Our time divided by theirs, in one measurement, a panel for each cell."""
    cells = [cell for cell in CELLS if any(row["cell"] == cell for row in rows)]
    names = {cell: list(by_case([r for r in rows if r["cell"] == cell])) for cell in cells}
    tallest = max(map(len, names.values()))
    figure = _figure(8.0, 1.7 + 0.3 * tallest, _message(rows))
    panels = figure.subplots(1, len(cells), sharex=True, squeeze=False)[0]
    for panel, cell in zip(panels, cells, strict=True):
        _ratio_panel(panel, [row for row in rows if row["cell"] == cell], names[cell])
        panel.set_title(CELLS[cell], loc="left", color=INK, fontsize=10)
    figure.supxlabel("our time / theirs, with its 95 % interval", color=MUTED, fontsize=9)
    dots = {dot.get_label(): dot for panel in panels for dot in panel.get_lines()}
    shown = [PEERS[name].title for name in STYLES if PEERS[name].title in dots]
    handles = [dots[title] for title in shown]
    figure.legend(handles, shown, loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    return figure


def _message(rows: Sequence[Row]) -> str:
    against = [row for row in rows if row["name"] == "torch"] or rows
    who = "torch" if against[0]["name"] == "torch" else "others"
    verdicts = [verdict(row["ratio"]) for row in against]
    counts = [f"{word} than {who} in {verdicts.count(word)}" for word in ("faster", "slower")]
    measure = MEASURES[rows[0]["measure"]]
    measure = measure[0].upper() + measure[1:]
    return f"{measure}: {' and '.join(counts)} of {len(verdicts)} (green: ours is faster)"


def _ratio_panel(axes: Axes, rows: Sequence[Row], names: Sequence[str]) -> None:
    axes.set_xscale("log")
    axes.axvspan(1e-3, 1, color=OURS_FASTER, zorder=0)
    axes.axvline(1, color=INK, linewidth=1, zorder=1)
    for line, case in enumerate(by_case(list(rows)).values()):
        for name, row in case.items():
            value, low, high = row["ratio"]
            colour, marker = STYLES[name]
            axes.plot([low, high], [line, line], color=colour, linewidth=1, zorder=2)
            size = 7 if name == "torch" else 5
            label = PEERS[name].title
            axes.plot(
                value, line, marker, color=colour, markersize=size, label=label, mew=0, zorder=3
            )
    values = [row["ratio"][0] for row in rows]
    axes.set_xlim(min(0.45, 0.85 * min(values)), max(2.2, 1.15 * max(values)))
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    _plain(axes)


def lengths(rows: Sequence[Row]) -> Figure:
    """Time and memory of each method against T."""
    figure = _figure(8.0, 3.6, "Forward + backward of one long sequence, 16 units")
    panels = figure.subplots(1, 2)
    for panel, label, scale, of in (
        (panels[0], "milliseconds", 1e3, lambda row: row["seconds"][0]),
        (panels[1], "memory as planned, MiB", 2**-20, lambda row: row["planned_bytes"]),
    ):
        for name in dict.fromkeys(row["name"] for row in rows):
            some = [row for row in rows if row["name"] == name]
            points = [row["time"] for row in some], [scale * of(row) for row in some]
            panel.plot(*points, _line_style(name), color=_colour(name), markersize=4, label=name)
        panel.set(xscale="log", yscale="log")
        panel.set_xlabel("T, steps", color=MUTED, fontsize=9)
        panel.set_title(label, loc="left", color=INK, fontsize=10)
        times = sorted({row["time"] for row in rows})
        panel.set_xticks(times, [f"{time // 1024}k" for time in times])
        panel.xaxis.set_minor_locator(NullLocator())
        _plain(panel)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=6,
        frameon=False,
        fontsize=8,
    )
    return figure


def _colour(name: str) -> str:
    return STYLES["linen" if name.startswith("LSTM") else "torch"][0]


def _line_style(name: str) -> str:
    return {"recomputed": "o--", "DEER": "o:", "chunked": "o--", "associative": "o:"}.get(
        name.split()[-1], "o-"
    )


def _figure(width: float, height: float, message: str) -> Figure:
    figure = Figure((width, height), DOTS_PER_INCH, facecolor="white", layout="constrained")
    figure.suptitle(message, x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold")
    return figure


def _plain(axes: Axes) -> None:
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.spines[:].set_color(FAINT)
