"""Pictures of a run: arrays in, a `matplotlib.figure.Figure` out.

Import this module lazily: it brings matplotlib. No function touches pyplot, a global
setting or a file; the caller saves with `figure.savefig(path)`. Figures hold 200 dots
per inch, so that half their pixels is their natural size on a page.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)

INK = "#22272e"
MUTED = "#7d8590"
FAINT = "#dfe3e8"
ACCENT = "#1f6fb4"
ALARM = "#c2410c"
COLOURS = (ACCENT, ALARM, "#2f8f5b", "#7a52a8", "#b08900", "#0f8b8d", "#c85a8a", "#7d8590")
DIVERGING = "RdBu_r"
ALARM_SHADES = LinearSegmentedColormap.from_list("alarm", ["#fbdcc9", "#e8590c", "#8f2d04"])

DOTS_PER_INCH = 200
WIDTH = 8.0
MOST_MISTAKES = 40
LOG_SCALE_FROM_RATIO = 10.0
LONGEST_UPRIGHT = 64
MOST_BITS = 8.0


def learning_curves(
    rows: Sequence[Mapping[str, float | None]],
    metric: str = "accuracy",
    best_step: int | None = None,
) -> Figure:
    """Loss and metric over the training steps, training against validation.

    Args:
      rows: One mapping per epoch with `step` and any of `train_loss`, `valid_loss`,
        `train_METRIC`, `valid_METRIC`. Missing, None and non-finite values leave a gap;
        the loss panel says how many epochs had a loss that is not finite.
      metric: The metric's name. An accuracy is a fraction and is shown in percent.
      best_step: The step whose parameters were kept; marked in both panels.
    """
    if not rows:
        return _words("No epoch is finished yet")
    figure = _figure(3.3, _curves_message(rows, metric, best_step))
    loss_panel, metric_panel = figure.subplots(1, 2)
    _curves(loss_panel, rows, "loss", best_step)
    _curves(metric_panel, rows, metric, best_step)
    _note_broken_losses(loss_panel, rows)
    return figure


def confusion_matrix(matrix: np.ndarray, labels: Sequence[str] | None = None) -> Figure:
    """How often each true class (row) was taken for each class (column).

    Args:
      matrix: Counts [C, C], rows true, columns predicted.
      labels: The C class names; their indices by default.

    Raises:
      ValueError: If the matrix is not of integers, not square, or the labels are not C.
    """
    counts = np.asarray(matrix)
    classes = [str(i) for i in range(len(counts))] if labels is None else list(labels)
    if not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"Expected integer counts, got {counts.dtype}: do not normalise them.")
    if counts.shape != (len(classes), len(classes)) or not classes:
        raise ValueError(
            f"Expected counts [C, C] and C labels, got counts {counts.shape} and "
            f"{len(classes)} labels: give one row, one column and one label for each class."
        )
    side = min(9.0, 2.6 + 0.36 * len(classes))
    figure = _figure(side + 0.2, _confusion_message(counts, classes), width=side)
    axes = figure.subplots()
    _confusion_cells(axes, counts)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, color=INK)
    axes.set_yticks(ticks, classes, color=INK)
    axes.set_xlabel("predicted class", color=MUTED)
    axes.set_ylabel("true class", color=MUTED)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def mistakes(
    images: np.ndarray,
    true: np.ndarray,
    predicted: np.ndarray,
    probability: np.ndarray,
    total: int,
) -> Figure:
    """The test images that were classified wrongly, the most confident first.

    Examples whose `true` equals `predicted` are left out, so both the mistakes alone and
    the whole test set may be given. At most 40 are drawn.

    Args:
      images: [N, H, W], ink high.
      true: Classes [N].
      predicted: Classes [N].
      probability: [N], that of the predicted class, 0 to 1.
      total: The size of the test set.

    Raises:
      ValueError: If the four arrays do not describe the same N images.
    """
    images, true, predicted, probability = map(np.asarray, (images, true, predicted, probability))
    if (
        images.ndim != 3
        or not true.shape == predicted.shape == probability.shape == images.shape[:1]
    ):
        raise ValueError(
            f"Expected images [N, H, W] and N classes, predictions and probabilities, got "
            f"{images.shape}, {true.shape}, {predicted.shape} and {probability.shape}."
        )
    wrong = np.flatnonzero(true != predicted)
    if not wrong.size:
        return _words(f"None of {total:,} test images is wrong")
    shown = wrong[np.argsort(-probability[wrong], kind="stable")][:MOST_MISTAKES]
    captions = [
        f"{true[i]} \u2192 {predicted[i]}, {_percent(float(probability[i]), 0)}" for i in shown
    ]
    return _tiles(
        _mistakes_message(len(wrong), len(shown), total),
        list(images[shown]),
        captions,
        columns=8,
        cmap="gray_r",
        limits=(float(np.nanmin(images)), float(np.nanmax(images))),
    )


def hidden_over_time(states: np.ndarray, inputs: np.ndarray, title: str) -> Figure:
    """The hidden units beside what they read, over one time axis.

    An image that is read row by row stands upright on the left while time runs down; a
    signal, or anything longer than 64 steps, lies above its states while time runs right.
    Units are ordered by the time of their largest magnitude.

    Args:
      states: [T, H].
      inputs: [T, D].
      title: What was read, and what came of it.

    Raises:
      ValueError: If either array is empty or not a matrix, or their T differ.
    """
    states, inputs = np.asarray(states), np.asarray(inputs)
    if states.ndim != 2 or inputs.ndim != 2 or len(states) != len(inputs):
        raise ValueError(
            f"Expected states [T, H] and inputs [T, D] of one example, got {states.shape} "
            f"and {inputs.shape}: select one example and keep both time axes whole."
        )
    if not states.size or not inputs.size:
        raise ValueError(
            f"Expected at least one step, unit and feature, got states {states.shape} and "
            f"inputs {inputs.shape}."
        )
    upright = inputs.shape[1] > 1 and len(inputs) <= LONGEST_UPRIGHT
    draw = _states_beside_rows if upright else _states_below_signal
    return draw(states[:, _peak_order(states)], inputs, title)


def kernels(kernel: np.ndarray) -> Figure:
    """The kernels of a convolution, the strongest first, on one scale centred at zero.

    Several input channels stand below one another in a tile.

    Args:
      kernel: [height, width, in, out].

    Raises:
      ValueError: If the kernel has not four axes, or is empty.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 4 or not kernel.size:
        raise ValueError(f"Expected a kernel [height, width, in, out], got {kernel.shape}.")
    height, width, channels, outputs = kernel.shape
    strength = np.sqrt(np.nansum(np.square(kernel, dtype=float), axis=(0, 1, 2)))
    order = np.argsort(-strength, kind="stable")
    message = f"{outputs} kernels of {height} \u00d7 {width}, strongest first"
    message += f"; {channels} input channels below one another" if channels > 1 else ""
    broken = np.count_nonzero(~np.isfinite(kernel))
    message += f"; {broken:,} of {kernel.size:,} weights not finite" if broken else ""
    figure = _tiles(
        message,
        [_stack_channels(kernel[..., i]) for i in order],
        [str(i) for i in order],
        columns=8 if outputs <= 32 else 16,
        cmap=DIVERGING,
        limits=_symmetric(kernel),
        margin=0.9,
    )
    _colour_bar(figure, figure.axes[0].images[0], "weight")
    return figure


def overlaid(
    curves: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float | None]]]], title: str
) -> Figure:
    """Lines over the training steps, those of one name in one colour.

    Args:
      curves: Name to (steps, values) of each line; None and non-finite values leave a gap.
      title: What the values are.
    """
    figure = _figure(4.0, title)
    axes = figure.subplots()
    for k, (name, lines) in enumerate(curves.items()):
        for number, (steps, values) in enumerate(lines):
            axes.plot(
                steps,
                np.array(values, float),
                color=COLOURS[k % len(COLOURS)],
                linestyle=("-", "--", ":")[k // len(COLOURS) % 3],
                linewidth=1.4,
                alpha=1.0 if len(lines) == 1 else 0.6,
                label=name if number == 0 else None,
            )
    if _spans_decades(axes):
        log_scale(axes)
    axes.set_xlabel("training step", color=MUTED)
    axes.set_xlim(left=0)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=MUTED, labelsize=8, which="both", left=False)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    return figure


def coloured_text(text: str, values: np.ndarray, columns: int = 80) -> Figure:
    """A text in which each character stands on a colour: the redder, the larger its value.

    Args:
      text: N characters; a new line is shown as one, and as a sign that stands on its colour.
      values: [N], 0 or more, in bits.
      columns: the longest line.

    Raises:
      ValueError: If there are not as many values as characters, or none.
    """
    values = np.asarray(values, float)
    if values.shape != (len(text),) or not text:
        raise ValueError(f"Expected {len(text)} values, at least one, got {values.shape}.")
    places, row, column = [], 0, 0
    for character in text:
        places.append((row, column))
        ends = character == "\n" or column == columns - 1
        row, column = (row + 1, 0) if ends else (row, column + 1)
    rows = places[-1][0] + 1
    figure = _figure(0.6 + 0.2 * rows, f"{values.mean():.2f} bits a character, on average")
    axes = figure.subplots()
    for (y, x), character, value in zip(places, text, values, strict=True):
        strength = min(float(value) / MOST_BITS, 1.0) if np.isfinite(value) else 1.0
        axes.add_patch(Rectangle((x, y), 1, 1, color=ALARM, alpha=0.75 * strength, linewidth=0))
        shown = "\u00b6" if character == "\n" else character if character.isprintable() else " "
        axes.text(
            *(x + 0.5, y + 0.55, shown.replace("$", r"\$")),
            **{"ha": "center", "va": "center", "fontsize": 8, "family": "monospace", "color": INK},
        )
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    axes.set_axis_off()
    return figure


def log_scale(axes: Axes) -> None:
    """A logarithmic vertical axis with ticks at 1, 2 and 5, written as plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _figure(height: float, message: str, width: float = WIDTH) -> Figure:
    figure = Figure((width, height), DOTS_PER_INCH, facecolor="white", layout="constrained")
    figure.suptitle(message, x=0.01, ha="left", color=INK, fontsize=11, fontweight="bold")
    return figure


def _words(message: str) -> Figure:
    figure = Figure((WIDTH, 1.0), DOTS_PER_INCH, facecolor="white")
    figure.suptitle(
        message, x=0.5, y=0.5, ha="center", va="center", color=INK, fontsize=12, fontweight="bold"
    )
    return figure


def _percent(fraction: float, decimals: int = 1) -> str:
    """100 % is said of nothing that is less than perfect."""
    percent = round(100 * fraction, decimals)
    if percent == 100 and fraction < 1:
        percent -= 10.0**-decimals
    return f"{percent:.{decimals}f} %"


def _show(value: float, metric: str) -> str:
    return _percent(value) if _is_accuracy(metric) else f"{value:#.3g}".removesuffix(".")


def _is_accuracy(metric: str) -> bool:
    return metric.endswith("accuracy")


def _column(rows: Sequence[Mapping[str, float | None]], key: str) -> np.ndarray:
    """[len(rows)], NaN where the value is missing or not finite."""
    values = np.array([row.get(key) for row in rows], float)
    return np.where(np.isfinite(values), values, np.nan)


def _curves_message(
    rows: Sequence[Mapping[str, float | None]], metric: str, best_step: int | None
) -> str:
    steps = _column(rows, "step")
    values = _column(rows, f"valid_{metric}")
    best = values[steps == best_step]
    if best.size and np.isfinite(best[-1]):
        value = _show(best[-1], metric)
        return f"Best validation {metric} {value}, at step {best_step} of {steps[-1]:.0f}"
    for split, key in (("Validation", "valid"), ("Training", "train")):
        values = _column(rows, f"{key}_{metric}")
        if np.isfinite(values[-1]):
            return f"{split} {metric} {_show(values[-1], metric)} after {steps[-1]:.0f} steps"
    return f"No finite {metric} after {steps[-1]:.0f} steps"


def _curves(
    axes: Axes,
    rows: Sequence[Mapping[str, float | None]],
    name: str,
    best_step: int | None,
) -> None:
    steps = _column(rows, "step")
    ends = []
    for split, key, colour in (("train", "train", MUTED), ("validation", "valid", ACCENT)):
        values = _column(rows, f"{key}_{name}")
        if not np.isfinite(values).any():
            continue
        size = 3 if len(rows) <= 40 else 1
        axes.plot(
            steps, values, color=colour, marker="o", markersize=size, label=split, clip_on=False
        )
        last = values[np.isfinite(values)][-1]
        text = f"{split} {_show(last, name)}" if last == values[-1] else split
        ends.append((last, text, colour))
    _curve_panel(axes, name)
    axes.set_xlim(0, 1.04 * max(steps[-1], 1))  # in both panels, however early a loss breaks
    if best_step is not None:
        _mark_best(axes, best_step, steps, _column(rows, f"valid_{name}"))
    _label_ends(axes, ends)


def _curve_panel(axes: Axes, name: str) -> None:
    log = name == "loss" and _spans_decades(axes)
    if log:
        log_scale(axes)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if name == "loss" and not log and _drawn(axes).size:
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), max(0.0, 1.08 * _drawn(axes).max()))
    if _is_accuracy(name):
        _accuracy_axis(axes)
    axes.set_title(f"{name}, log scale" if log else name, loc="left", color=INK, fontsize=10)
    axes.set_xlabel("training step", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8, which="both", left=False)


def _accuracy_axis(axes: Axes) -> None:
    """Up to 100 %, so that what is missing is seen, and down to the next full ten below."""
    values = _drawn(axes)
    lowest = np.floor(10 * values.min()) / 10 if values.size else 0.0
    axes.set_ylim(min(lowest, 0.9), 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=" %"))


def _drawn(axes: Axes) -> np.ndarray:
    lines = [np.asarray(line.get_ydata(), float) for line in axes.get_lines()]
    values = np.concatenate([np.ones(0), *lines])
    return values[np.isfinite(values)]


def _spans_decades(axes: Axes) -> bool:
    values = _drawn(axes)
    return bool(
        values.size and values.min() > 0 and values.max() >= LOG_SCALE_FROM_RATIO * values.min()
    )


def _mark_best(axes: Axes, best_step: int, steps: np.ndarray, values: np.ndarray) -> None:
    axes.axvline(best_step, color=ACCENT, linewidth=0.8, linestyle=(0, (4, 3)), label="best")
    axes.plot(
        steps[steps == best_step],
        values[steps == best_step],
        "o",
        color=ACCENT,
        ms=6,
        clip_on=False,
    )
    at_the_end = best_step > 0.95 * steps[-1]  # where the curves have their names
    side = "right" if at_the_end else "center"
    axes.text(
        best_step, 1.0, "best", color=ACCENT, fontsize=8, ha=side, va="bottom",
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names the curves at the right edge, apart from one another where they meet."""
    axes.get_ylim()  # settles the limits that the transformation below reads
    to_fraction = axes.transScale + axes.transLimits
    lowest = -np.inf
    for value, text, colour in sorted(ends):
        lowest = max(lowest + 0.075, to_fraction.transform((1.0, value))[1])
        axes.text(
            1.02, lowest, text, color=colour, fontsize=8.5, va="center", transform=axes.transAxes
        )


def _note_broken_losses(axes: Axes, rows: Sequence[Mapping[str, float | None]]) -> None:
    losses = [[row[key] for key in ("train_loss", "valid_loss") if key in row] for row in rows]
    broken = [any(x is None or not np.isfinite(x) for x in losses_) for losses_ in losses]
    if not any(broken):
        return
    first = rows[broken.index(True)]["step"]
    note = f"not finite in {sum(broken)} of {len(rows)} epochs,\nfirst at step {first}"
    axes.text(
        0.98, 0.97, note, color=ALARM, fontsize=8.5, ha="right", va="top",
        transform=axes.transAxes, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _confusion_message(counts: np.ndarray, classes: Sequence[str]) -> str:
    total, right = counts.sum(), np.trace(counts)
    if not total:
        return "No examples"
    if right == total:
        return f"All {total:,} right"
    decimals = 1 if total < 1000 else 2
    message = f"{_percent(right / total, decimals)} right; {total - right:,} of {total:,} wrong"
    errors = counts - np.diag(np.diag(counts))
    true, predicted = divmod(int(errors.argmax()), len(classes))
    often = errors[true, predicted]
    if often > 1:
        message += f"\nMost often: {classes[true]} taken for {classes[predicted]}, {often:,} times"
    return message


def _confusion_cells(axes: Axes, counts: np.ndarray) -> None:
    """Every mistake in colour, every right answer in grey, and nothing where nothing is."""
    off_diagonal = ~np.eye(len(counts), dtype=bool)
    errors = np.ma.masked_where(~off_diagonal | (counts == 0), counts)
    worst = max(int(errors.max()) if errors.count() else 0, 5)
    axes.imshow(errors, cmap=ALARM_SHADES, vmin=1, vmax=worst)
    size = min(9.0, 120 / len(counts))
    for (row, column), count in np.ndenumerate(counts):
        if row == column:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color="#eef0f3", zorder=0))
            text = f"{count}" if counts[row].any() else "none"
            axes.text(column, row, text, ha="center", va="center", color=MUTED, fontsize=size)
        elif count:
            colour = "white" if count - 1 > 0.45 * (worst - 1) else INK
            axes.text(
                column, row, f"{count}", ha="center", va="center", color=colour,
                fontsize=size + 1, fontweight="bold",
            )  # fmt: skip
    edges = np.arange(len(counts) + 1) - 0.5
    axes.hlines(edges, edges[0], edges[-1], color=FAINT, linewidth=0.5)
    axes.vlines(edges, edges[0], edges[-1], color=FAINT, linewidth=0.5)


def _mistakes_message(wrong: int, shown: int, total: int) -> str:
    few = f"; the {shown} most confident" if shown < wrong else ", the most confident first"
    order = "" if wrong == 1 else few
    return f"{wrong:,} of {total:,} test images wrong{order} (true \u2192 predicted, probability)"


def _tiles(
    message: str,
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
    cmap: str,
    limits: tuple[float, float],
    margin: float = 0.0,
) -> Figure:
    """Small captioned images in rows, in one Axes: forty Axes take seconds to lay out."""
    height, width = images[0].shape
    tall, wide = 1.0 * height / width, 1.0
    across, down = wide + 0.22, tall + 0.34 * columns / 8
    rows = -(-len(images) // columns)
    figure = _figure(0.35 + (WIDTH - margin) / (columns * across) * rows * down, message)
    axes = figure.subplots()
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        x, y = (i % columns) * across, (i // columns) * down
        axes.imshow(image, cmap, vmin=limits[0], vmax=limits[1], extent=(x, x + wide, y + tall, y))
        axes.add_patch(Rectangle((x, y), wide, tall, fill=False, color=FAINT, linewidth=0.6))
        axes.text(
            x + wide / 2, y + tall + 0.04, caption, color=INK, fontsize=8, ha="center", va="top"
        )
    axes.set_xlim(-0.11, columns * across - 0.11)
    axes.set_ylim(rows * down - 0.05, -0.05)
    axes.set_axis_off()
    return figure


def _peak_order(states: np.ndarray) -> np.ndarray:
    magnitude = np.nan_to_num(np.abs(states))
    peak = magnitude.argmax(axis=0)
    at_peak = np.nan_to_num(states[peak, np.arange(states.shape[1])])
    return np.lexsort((at_peak, peak))


def _states_beside_rows(states: np.ndarray, inputs: np.ndarray, title: str) -> Figure:
    steps, features = inputs.shape
    height = 3.0
    image_width = float(np.clip(height * features / steps, 0.8, height))
    figure = _figure(height + 0.9, title)
    image_panel, heat_panel = figure.subplots(
        1, 2, sharey=True, width_ratios=[image_width, WIDTH - 1.6 - image_width]
    )
    image_panel.imshow(inputs, "gray_r", aspect="auto", interpolation="nearest")
    image_panel.set_ylabel("time step, downwards", color=MUTED)
    image_panel.set_title("input", loc="left", color=INK, fontsize=10)
    image_panel.set_xlabel(f"{features} features", color=MUTED)
    image_panel.yaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    heat = _heat_map(heat_panel, states)
    heat_panel.set_title("hidden state", loc="left", color=INK, fontsize=10)
    heat_panel.set_xlabel(_units(states), color=MUTED)
    image_panel.set_xticks([])
    heat_panel.set_xticks([])
    _quiet_frames(image_panel, heat_panel)
    _colour_bar(figure, heat, "")
    return figure


def _states_below_signal(states: np.ndarray, inputs: np.ndarray, title: str) -> Figure:
    steps, features = inputs.shape
    figure = _figure(4.4, title)
    signal_panel, heat_panel = figure.subplots(
        2, 1, sharex=True, height_ratios=[1 if features == 1 else 2, 4]
    )
    if features == 1:
        edges = np.arange(steps + 1) - 0.5
        signal_panel.stairs(inputs[:, 0], edges, fill=True, color=INK)
    else:
        signal_panel.imshow(inputs.T, "gray_r", aspect="auto", interpolation="nearest")
    signal_panel.set_ylabel("input", color=MUTED)
    heat = _heat_map(heat_panel, states.T)
    heat_panel.set_ylabel(_units(states), color=MUTED)
    heat_panel.set_xlabel("time step", color=MUTED)
    heat_panel.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    heat_panel.set_yticks([])
    signal_panel.set_yticks([])
    _quiet_frames(signal_panel, heat_panel)
    _colour_bar(figure, heat, "hidden state")
    return figure


def _quiet_frames(*panels: Axes) -> None:
    for axes in panels:
        axes.spines[:].set_color(FAINT)
        axes.tick_params(colors=MUTED, labelsize=8, length=0)


def _units(states: np.ndarray) -> str:
    return f"{states.shape[1]} units, by time of peak"


def _heat_map(axes: Axes, values: np.ndarray) -> AxesImage:
    low, high = _symmetric(values)
    axes.set_facecolor(MUTED)  # what is not a number must not pass for zero
    return axes.imshow(
        values, DIVERGING, vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )


def _symmetric(values: np.ndarray) -> tuple[float, float]:
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    return (-largest, largest) if largest else (-1.0, 1.0)


def _stack_channels(kernel: np.ndarray) -> np.ndarray:
    """[height, width, in] as one image with a blank row between the channels."""
    gap = np.full((1, kernel.shape[1]), np.nan)
    parts = [part for i in range(kernel.shape[2]) for part in (gap, kernel[..., i])]
    return np.concatenate(parts[1:])


def _colour_bar(figure: Figure, image: AxesImage, label: str) -> None:
    bar = figure.colorbar(image, ax=image.axes, aspect=30, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    bar.set_label(label, color=MUTED)
