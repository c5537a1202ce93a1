"""Draw how far back the last output of untrained networks depends on their inputs, for why.md.

Command: .venv/bin/python -m docs.why_gradients

It prints how much of the dependence is left after a number of steps, and the mean rate at which it
changes in between, in nats a step; the picture is `docs/images/why_gradients.png`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from recurrent import Cell
from recurrent.initializers import chrono

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS, BATCH, INPUTS, UNITS = 201, 20, 8, 64
BACK = 100  # steps, in the numbers
FIRST = 2  # the cell's way from input to state is not of interest
LEAST = 1e-12  # that is drawn

Make = Callable[[], Cell]


def networks() -> dict[str, dict[str, Make]]:
    """Return functions that make the networks, in panels."""
    elman, lstm = partial(made, recurrent.elman), partial(made, recurrent.lstm)
    return {
        "An Elman network": {
            "tanh": elman,
            "relu": lambda: elman(activation=jax.nn.relu),
            "sigmoid": lambda: elman(activation=jax.nn.sigmoid),
            "relu, started at the identity": lambda: made(recurrent.irnn),
            "tanh, weights twice as large": lambda: elman(recurrent_init=twice_orthogonal),
        },
        "Gates": {
            "LSTM, forget bias 0": lambda: lstm(forget_bias=0.0),
            "LSTM, forget bias 1": lstm,
            "LSTM, biases for 200 steps": lambda: lstm(forget_bias=0.0, bias_init=chrono(200)),
            "GRU": lambda: made(recurrent.gru),
            "GRU, biases for 200 steps": lambda: made(recurrent.gru, bias_init=chrono(200)),
        },
        "No squashing, or no chain of steps": {
            "LRU, a linear cell": lambda: made(recurrent.lru, min_radius=0.99),
            "orthogonal": lambda: made(recurrent.orthogonal_rnn),
            "antisymmetric": lambda: made(recurrent.antisymmetric_rnn),
            "attention": lambda: made(recurrent.attention_cell),
        },
    }


def made(maker: Callable[..., Cell], **options: object) -> Cell:
    """Return a cell of the common sizes."""
    return maker(INPUTS, UNITS, **options)


def twice_orthogonal(key: Array, shape: tuple[int, ...], dtype: object = jnp.float32) -> Array:
    """Draw an orthogonal matrix, times two."""
    return 2 * jax.nn.initializers.orthogonal()(key, shape, dtype)


def dependence(cell: Cell, key: Array) -> Array:
    """Return how large the gradient of the last output by the input k steps before is, at index k.

    Equation: ``|d(v . y_T) / dx_{T-k}|`` for a random unit vector v, over inputs of noise; the
    median over sequences, divided by that at k = `FIRST`.
    """
    first, second, third = jax.random.split(key, 3)
    params = cell.init(first)
    xs = jax.random.normal(second, (STEPS, BATCH, INPUTS))

    def last(xs: Array) -> Array:
        y = recurrent.unroll(cell, params, xs)[1][-1]
        v = jax.random.normal(third, y.shape)
        return (y * v / jnp.linalg.norm(v, axis=-1, keepdims=True)).sum()

    sizes = jnp.linalg.norm(jax.grad(last)(xs), axis=-1)[::-1]
    medians = jnp.median(sizes, axis=1)
    return medians / medians[FIRST]


def rate(sizes: np.ndarray) -> float:
    """Return the mean rate, in nats a step, up to `BACK` steps."""
    return float(np.log(sizes[BACK] / sizes[FIRST]) / (BACK - FIRST))


def draw(found: dict[str, dict[str, np.ndarray]]) -> "Figure":
    """Draw a panel for each group, the lines named at their ends."""
    from experiments.figures.style import COLORS, INK, MUTED, panel_title, quiet, titled_figure

    figure = titled_figure(
        4.4, "How much the last output still depends on the input some steps before", 11
    )
    for axes, (group, lines) in zip(figure.subplots(1, len(found), sharey=True), found.items(),
                                    strict=True):  # fmt: skip
        for (name, sizes), color in zip(lines.items(), COLORS, strict=False):
            seen = np.where(sizes >= LEAST, sizes, np.nan)
            axes.plot(np.arange(len(seen)), seen, color=color, label=name, linewidth=1.6)
        axes.axhline(1, color=INK, linewidth=0.6, linestyle=":")
        axes.set_yscale("log")
        axes.set_ylim(LEAST, 1e12)
        axes.set_xlabel("steps back", color=MUTED)
        panel_title(axes, group)
        quiet(axes)
        axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="upper left")
    figure.axes[0].set_ylabel("beside 2 steps back", color=MUTED)
    figure.axes[0].annotate("explodes", (195, 1e4), color=MUTED, fontsize=9, ha="right")
    figure.axes[0].annotate("vanishes", (195, 1e-10), color=MUTED, fontsize=9, ha="right")
    return figure


def main(folder: Path = Path(__file__).parent / "images") -> None:
    """Write the picture and print the numbers."""
    jax.config.update("jax_enable_x64", True)  # or the smallest would be 0
    key = jax.random.key(0)
    found = {
        group: {name: np.asarray(jax.jit(dependence, static_argnums=0)(make(), key))
                for name, make in lines.items()}
        for group, lines in networks().items()
    }  # fmt: skip
    for lines in found.values():
        for name, sizes in lines.items():
            print(f"{name:30}  left after {BACK}: {sizes[BACK]:8.1e}  {rate(sizes):+.4f} a step")
    draw(found).savefig(folder / "why_gradients.png")


if __name__ == "__main__":
    main()
