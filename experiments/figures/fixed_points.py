"""Draw where a network rests, and what it holds there."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.style import (
    ACCENT,
    ALARM,
    COLORS,
    FAINT,
    INK,
    MUTED,
    panel_title,
    plain,
    quiet,
    titled_figure,
)

MARKS = "osD^vP*"  # of points by their number of unstable directions
LENGTH = 0.09  # of the line of an unstable direction, a share of the picture
LEAST = 1e-36  # of q that is drawn


def held(pulses: np.ndarray, targets: np.ndarray, outputs: np.ndarray) -> Figure:
    """Draw pulses, what is to be held and what is answered, each ``[T, N]``, a line below another.

    Args:
      pulses: the inputs.
      targets: their last signs.
      outputs: of the network.
    """
    wrong = (targets * outputs <= 0).mean()
    what = "every bit at every step" if not wrong else f"{1 - wrong:.1%} of bits and steps"
    figure = titled_figure(0.7 + 0.85 * pulses.shape[1], f"It holds {what} of this sequence")
    panels = figure.subplots(pulses.shape[1], 1, sharex=True, squeeze=False)[:, 0]
    steps = np.arange(len(pulses))
    for k, axes in enumerate(panels):
        axes.vlines(steps, 0, pulses[:, k], color=ALARM, linewidth=2.5, label="pulse")
        axes.step(steps, targets[:, k], where="mid", color=MUTED, linewidth=3, alpha=0.5,
                  label="to be held")  # fmt: skip
        axes.plot(steps, outputs[:, k], color=ACCENT, linewidth=1.2, label="output")
        axes.set_ylim(-1.4, 1.4)
        axes.set_yticks([-1, 1], ["\u2212", "+"])
        axes.set_ylabel(f"bit {k + 1}", color=INK, fontsize=9)
        quiet(axes)
        axes.label_outer()
    panels[-1].set_xlabel("step", color=MUTED)
    panels[0].legend(
        frameon=False, ncols=3, fontsize=8.5, labelcolor=INK, loc="lower right",
        bbox_to_anchor=(1, 1), borderaxespad=0,
    )  # fmt: skip
    return figure


def landscape(
    message: str,
    paths: np.ndarray,
    points: np.ndarray,
    unstable: np.ndarray,
    directions: Sequence[np.ndarray],
    names: Sequence[str],
) -> Figure:
    """Draw states and fixed points along three principal components, seen from an angle.

    Args:
      message: the title.
      paths: states ``[T, B, N]``.
      points: fixed ones ``[K, N]``.
      unstable: how many directions of each are, ``[K]``.
      directions: those of each, unit vectors ``[U, N]``.
      names: of the points; those of stable ones are written.
    """
    mean, components, shares = principal(paths.reshape(-1, paths.shape[-1]))
    flat = components @ angle((points[unstable == 0] - mean) @ components)  # [N, 2]
    figure = titled_figure(6.4, message)
    axes = figure.subplots()
    seen = (paths - mean) @ flat
    for path in seen.swapaxes(0, 1):
        axes.plot(*path.T, color=MUTED, linewidth=0.5, alpha=0.35, zorder=1)
    places = (points - mean) @ flat
    reach = LENGTH * np.ptp(np.concatenate([places, seen.reshape(-1, 2)]), axis=0).max()
    for kind in sorted({*unstable.tolist()}):
        mine = unstable == kind
        _points(axes, places[mine], kind)
        for place, own in zip(places[mine], itertools.compress(directions, mine), strict=True):
            _arms(axes, place, own @ flat, reach, kind)
    for place, name in itertools.compress(zip(places, names, strict=True), unstable == 0):
        axes.annotate(
            plain(name), place, (0, 9), textcoords="offset points", ha="center", color=ACCENT,
            fontsize=11, fontweight="bold", zorder=6,
            bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75},
        )  # fmt: skip
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(FAINT)
    if len(points):
        axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left",
                    bbox_to_anchor=(0, 0), ncols=2)  # fmt: skip
    panel_title(axes, f"three components, {shares[:3].sum():.0%} of the variance of all states")
    return figure


def _points(axes: Axes, places: np.ndarray, kind: int) -> None:
    count = len(places)
    ways = "direction" if kind == 1 else "directions"
    name = f"{count} stable" if kind == 0 else f"{count} saddles of {kind} unstable {ways}"
    size = 9 if kind == 0 else 6
    axes.plot(
        *places.T, MARKS[min(kind, len(MARKS) - 1)], color=COLORS[kind % len(COLORS)],
        markersize=size, mec="white", mew=0.6, linestyle="", label=name, zorder=5,
    )  # fmt: skip


def _arms(axes: Axes, place: np.ndarray, arms: np.ndarray, reach: float, kind: int) -> None:
    for arm in arms:
        ends = np.stack([place - reach * arm, place + reach * arm])
        axes.plot(*ends.T, color=COLORS[kind % len(COLORS)], linewidth=1.6, zorder=4)


def principal(states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the mean, up to three principal components ``[N, 3]``, and shares of variance."""
    mean = states.mean(0)
    _, sizes, rows = np.linalg.svd(states - mean, full_matrices=False)
    return mean, rows[:3].T, sizes**2 / max((sizes**2).sum(), np.finfo(float).tiny)


def angle(places: np.ndarray) -> np.ndarray:
    """Return the projection ``[C, 2]`` under which the two nearest of places ``[K, C]`` are apart.

    Of many directions of view the one that leaves the smallest distance largest is taken.
    """
    rng = np.random.default_rng(0)
    views = [np.linalg.qr(rng.normal(size=(places.shape[1],) * 2))[0][:, :2] for _ in range(500)]
    if len(places) < 2:
        return np.eye(places.shape[1])[:, :2]

    def nearest(view: np.ndarray) -> float:
        seen = places @ view
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        return float(apart[np.triu_indices(len(seen), 1)].min())

    return max(views, key=nearest)


def speeds(q: np.ndarray, fixed: np.ndarray, tolerance: float) -> Figure:
    """Draw how many points have which q ``[K]``, fixed and slow ones apart."""
    slow = int((~fixed).sum())
    rest = f"{slow} only slow" if slow else "none is only slow"
    figure = titled_figure(2.8, f"{int(fixed.sum())} points are fixed, {rest}")
    axes = figure.subplots()
    size = np.log10(np.maximum(q, LEAST))
    bins = np.arange(np.floor(np.log10(LEAST)), 3.0).tolist()
    axes.hist(
        [size[fixed], size[~fixed]], bins, stacked=True, color=[ACCENT, ALARM],
        label=["fixed", "slow"],
    )  # fmt: skip
    axes.axvline(np.log10(tolerance), color=INK, linewidth=0.8, linestyle="--")
    axes.xaxis.set_major_formatter(lambda power, _: f"$10^{{{power:.0f}}}$")
    axes.set_xlabel("q, half the squared length of a step", color=MUTED)
    axes.set_ylabel("points", color=MUTED)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    quiet(axes)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure
