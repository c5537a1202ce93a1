"""Draw how gradients travel through time."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from experiments.figures.style import (
    ACCENT,
    INK,
    MUTED,
    log_scale,
    panel_title,
    plain,
    quiet,
    titled_figure,
)

HUES = {0: MUTED, 1: ACCENT}
LEAST = 1e-30  # of a gradient that is drawn


def by_lag(sizes: Mapping[str, np.ndarray]) -> Figure:
    """Draw the size of a gradient against the steps that it went back.

    Args:
      sizes: of each name ``[T, B]``, of the last step first.
    """
    figure = titled_figure(3.6, _lag_message(*list(sizes.items())[-1]))
    axes = figure.subplots()
    for k, (name, each) in enumerate(sizes.items()):
        lags = np.arange(1, len(each) + 1)
        seen = np.maximum(each, LEAST)
        axes.fill_between(lags, seen.min(1), seen.max(1), color=HUES[k], alpha=0.2, linewidth=0)
        axes.plot(lags, np.median(seen, 1), color=HUES[k], label=name)
    log_scale(axes)
    axes.axhline(1, color=INK, linewidth=0.6, linestyle=":")
    axes.set_xlabel("steps back from the last output", color=MUTED)
    axes.set_ylabel("size of the gradient", color=MUTED)
    quiet(axes)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def _lag_message(name: str, sizes: np.ndarray) -> str:
    """Say what is left of a gradient at the first step."""
    medians = np.median(sizes, 1)
    left = medians[-1] / medians[0] if medians[0] > 0 else 0.0
    amount = f"{left:.1%}" if 0.001 <= left < 10 else f"{left:.1e} times"
    when = "Before training" if name == "before" else "After training"
    return f"{when}, {amount} of a gradient arrives {len(sizes) - 1} steps earlier"


def eigenvalues(found: Mapping[str, np.ndarray], exponents: Mapping[str, float]) -> Figure:
    """Draw eigenvalues in the complex plane with the unit circle, a panel for each name.

    Args:
      found: complex ``[N]``.
      exponents: the largest Lyapunov exponent of each, nats a step.
    """
    rates = ", ".join(f"{name} {value:+.3f}" for name, value in exponents.items())
    figure = titled_figure(4.2, f"Small differences grow by, nats a step: {rates}")
    angles = np.linspace(0, 2 * np.pi, 200)
    reach = 1.08 * max(1.0, *(abs(each).max() for each in found.values()))
    for k, (axes, name) in enumerate(zip(figure.subplots(1, len(found)), found, strict=True)):
        axes.plot(np.cos(angles), np.sin(angles), color=INK, linewidth=0.8)
        axes.plot(np.real(found[name]), np.imag(found[name]), ".", color=HUES[k], markersize=7)
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        axes.set_aspect("equal")
        panel_title(axes, name)
        quiet(axes)
    return figure


def near_bounds(found: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure:
    """Draw the shares of entries near the lower bound to the left, near the upper to the right.

    Args:
      found: of each name and each gate the two shares.
    """
    gates = list(next(iter(found.values())))
    figure = titled_figure(1.5 + 0.5 * len(gates), _saturation_message(*list(found.items())[-1]))
    axes = figure.subplots()
    thick = 0.8 / len(found)
    for k, (name, shares) in enumerate(found.items()):
        rows = np.arange(len(gates)) + (k - (len(found) - 1) / 2) * thick
        low, high = np.array([shares[gate] for gate in gates]).T
        axes.barh(rows, -low, 0.9 * thick, color=HUES[k], label=plain(name))
        axes.barh(rows, high, 0.9 * thick, color=HUES[k])
        for sign, values in ((-1, low), (1, high)):
            for row, value in zip(rows, values, strict=True):
                axes.text(
                    sign * (value + 0.01), row, f"{value:.0%}", color=HUES[k], fontsize=8,
                    ha="left" if sign > 0 else "right", va="center",
                )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(gates)), [plain(gate) for gate in gates])
    axes.invert_yaxis()
    axes.set_xlim(-1.12, 1.12)
    axes.set_xticks([-1, -0.5, 0, 0.5, 1], ["100 %", "50 %", "0", "50 %", "100 %"])
    axes.set_xlabel("near the lower bound   |   near the upper bound", color=MUTED)
    quiet(axes)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=9)
    axes.legend(
        frameon=False, labelcolor=INK, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(0, 1)
    )
    return figure


def _saturation_message(name: str, shares: Mapping[str, tuple[float, float]]) -> str:
    """Say which gate is near a bound most often."""
    most = max(shares, key=lambda gate: sum(shares[gate]))
    when = "Before training" if name == "before" else "After training"
    return f"{when}, {most} saturates most: {sum(shares[most]):.0%} of its entries near a bound"
