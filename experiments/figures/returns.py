"""Draw the returns of a policy: while it learned, and in the episodes of the end."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from experiments.figures.curves import column
from experiments.figures.style import ACCENT, INK, MUTED, quiet, titled_figure


def return_curve(
    rows: Sequence[Mapping[str, float | None]], steps: int, best_step: int, title: str
) -> Figure:
    """Draw the mean return over the steps in all environments.

    Args:
      rows: of the evaluations, with ``step``, ``train_return`` and ``valid_return``.
      steps: in all environments that one step of a row stands for.
      best_step: the one of the policy that was kept; 0 for none.
      title: of the figure.
    """
    figure = titled_figure(3.4, title)
    axes = figure.subplots()
    taken = column(rows, "step") * steps
    for name, label, color in (
        ("train_return", "episodes of the training, actions drawn", MUTED),
        ("valid_return", "episodes of the evaluation", ACCENT),
    ):
        axes.plot(taken, column(rows, name), color=color, marker="o", markersize=3, label=label)
    if best_step:
        axes.axvline(best_step * steps, color=ACCENT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.text(
            best_step * steps, 1.01, "kept", color=ACCENT, fontsize=8,
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    axes.set_xlabel("steps in all environments", color=MUTED)
    axes.set_ylabel("mean return", color=MUTED)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    quiet(axes)
    return figure


def return_histogram(returns: np.ndarray, title: str) -> Figure:
    """Draw how often each return came."""
    figure = titled_figure(2.6, title)
    axes = figure.subplots()
    low, high = float(returns.min()), float(returns.max())
    margin = 0.05 * (high - low) or 0.5
    counts, edges = np.histogram(returns, np.linspace(low - margin, high + margin, 32))
    bars = axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=ACCENT)
    axes.bar_label(bars, [f"{n}" if n else "" for n in counts], fontsize=8, color=INK)
    axes.set_xlabel("return of an episode", color=MUTED)
    axes.set_ylabel("episodes", color=MUTED)
    quiet(axes)
    return figure
