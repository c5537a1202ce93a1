"""Put an explanation on a page: the input and the answer, the maps, whether to trust them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.program import Exhibit, Figure, Table
from experiments.shared.explain_maps import is_signed
from experiments.shared.explain_trust import ORDERS, Explained, random_count
from experiments.shared.explainable import Explainable, cropped

MEANINGS = {
    "gradient": "where a small change moves the answer most; its sign says little",
    "SmoothGrad": "the gradient, averaged over noisy copies",
    "gradient x input": "the gradient times the distance from the baseline",
    "integrated gradients": "the gradient, summed on the way from the baseline; adds up",
    "occlusion": "what is lost where a box is replaced by the baseline",
    "held state": "what is lost where a step is never read, so that the state is held",
    "gradient SHAP": "integrated gradients from many training examples",
    "kernel SHAP": "fair shares of boxes, against training examples; adds up",
    "LIME": "weights of a linear model of boxes that are shown or hidden",
    "two-step": "how much the gradient depends on a step, times on a feature",
    "Grad-CAM": "maps of the last convolution that speak for the answer",
    "activation map": "where the last convolution is active, for whatever answer",
}
INDEPENDENT = 0.3  # a mean rank correlation with random networks that is allowed
CHANCE = 2.0  # standard deviations of the mean of unlike maps, allowed where there are few parts


class Check(NamedTuple):
    """Hold a number that tells whether to trust a method, and its bound."""

    what: str
    name: str
    bound: float
    at_least: bool
    form: str


CHECKS = (
    Check(
        "integrated gradients add up to the change of the logit",
        "integrated gap",
        0.01,
        False,
        "{:.2%} missing",
    ),
    Check("kernel SHAP adds up", "shap gap", 0.001, False, "{:.3%} missing"),
    Check("gradient SHAP adds up", "expected gap", 0.1, False, "{:.1%} missing"),
    Check("LIME's linear model fits around the input", "fit", 0.5, True, "R² {:.2f}"),
    Check(
        "the gradient hardly changes within 0.02 of the input",
        "sensitivity",
        0.5,
        False,
        "by {:.0%} at most",
    ),
)


def passes(check: Check, value: float) -> bool:
    """Return whether a number is on the right side of its bound."""
    return value >= check.bound if check.at_least else value <= check.bound


def areas(curves: Any) -> np.ndarray:
    """Return the mean height of curves ``[..., S + 1]``."""
    return (curves[..., 1:] + curves[..., :-1]).mean(-1) / 2


def wins(found: Explained) -> np.ndarray:
    """Return in how many of the four curves each method is better than all random orders.

    A map that says nothing is better in none: its order is that of memory.
    """
    low, high = areas(found.deletion), areas(found.insertion)  # [baselines, methods + ORDERS]
    methods = len(found.maps.by_name)
    below = low[:, :methods] < low[:, methods:].min(1, keepdims=True)
    above = high[:, :methods] > high[:, methods:].max(1, keepdims=True)
    speaks = np.array([not says_nothing(each) for each in found.maps.by_name.values()])
    return (below.sum(0) + above.sum(0)) * speaks


def says_nothing(values: Any) -> bool:
    """Return whether a map is the same everywhere, but for rounding."""
    return bool(np.ptp(values) <= 1e-6 * abs(values).max())


def allowed(it: Explainable) -> float:
    """Return the largest mean rank correlation with random networks that a map may have.

    The mean of R correlations of unlike maps of N parts is about 0, with a standard deviation of
    ``1 / sqrt(R (N - 1))``.
    """
    shape = cropped(np.asarray(it.example.xs)[0], it.example.lengths).shape
    parts = shape[0] if it.network.tokens else int(np.prod(shape))
    drawn = random_count(it.network, it.example)
    return min(1.0, max(INDEPENDENT, CHANCE / (drawn * max(1, parts - 1)) ** 0.5))


def likeness(found: Explained, name: str) -> np.ndarray:
    """Return the mean rank correlations with random networks, of a map and of its size."""
    return np.asarray(found.random[name]).mean(1)


def verdict(it: Explainable, found: Explained, name: str) -> str:
    """Say whether a map changes when all layers are random."""
    if says_nothing(cropped(np.asarray(found.maps.by_name[name]), it.example.lengths)):
        return "says nothing"
    changes = (likeness(found, name) <= allowed(it)).all()
    return "passes" if changes else "does not pass"


def headline_of(it: Explainable, target: int, found: Explained) -> list[tuple[str, str]]:
    """Return the few numbers that the page is about."""
    best = found.maps.by_name.keys()
    won = wins(found)
    numbers = found.maps.numbers
    passed = sum(passes(check, float(numbers[check.name])) for check in CHECKS)
    return [
        ("the answer", it.answers[target]),
        ("its probability", f"{float(found.probabilities[target]):.3f}"),
        ("maps better than random orders in all four curves", f"{(won == 4).sum()} of {len(best)}"),
        ("further checks passed", f"{passed} of {len(CHECKS)}"),
    ]


def table_of_methods(it: Explainable, found: Explained) -> Table:
    """Compare the methods: areas under the curves, and maps of random networks."""
    low, high = areas(found.deletion), areas(found.insertion)
    names = list(found.maps.by_name)
    columns = ["method", "taken away", "given", "beats random", "random networks", "verdict"]
    won = wins(found)
    rows, drawn = [], random_count(it.network, it.example)
    for k, name in enumerate(names):
        own = [in_words(low[:, k]), in_words(high[:, k])]
        likes = in_words(likeness(found, name))
        rows.append([name, *own, f"{won[k]} of 4", likes, verdict(it, found, name)])
    orders = [in_words(each[:, len(names) :].mean(1)) for each in (low, high)]
    rows.insert(0, ["random orders", *orders, "", "", ""])
    return Table(
        "methods",
        "Which maps to trust",
        "Areas under the curves above: low is good where parts are taken away, high where "
        f"they are given; hidden parts show {' / '.join(it.baselines)}. Beats random: in how many "
        f"of the four it is better than each of {ORDERS} random orders. Random networks: rank "
        f"correlation with the maps of {drawn} networks without any trained layer, on average, of "
        "the maps / of their absolute values. A map that shows what was learned passes: neither is "
        f"above {allowed(it):.2f}. One that does not pass shows the input, whatever was learned; "
        "one that is the same everywhere says nothing.",
        columns,
        rows,
    )


def in_words(pair: np.ndarray) -> str:
    """Write two numbers."""
    return f"{pair[0]:.2f} / {pair[1]:.2f}"


def table_of_checks(found: Explained) -> Table:
    """Return the numbers that tell whether methods do what they claim, with a verdict each."""
    rows = []
    for check in CHECKS:
        value = float(found.maps.numbers[check.name])
        bound = check.form.format(check.bound)
        asked = f"{'at least' if check.at_least else 'at most'} {bound.removesuffix(' at most')}"
        verdict = "passes" if passes(check, value) else "does not pass"
        rows.append([check.what, asked, check.form.format(value), verdict])
    return Table(
        "checks",
        "Do the methods keep their promises?",
        "What is missing is a share of the change of the logit between the input and the baseline.",
        ["promise", "asked", "found", "verdict"],
        rows,
    )


def exhibits_of(it: Explainable, target: int, found: Explained) -> Iterator[Exhibit]:
    """Return what the page shows, in its order."""
    from experiments.figures import explanations as draw

    lengths = it.example.lengths
    seen = cropped(np.asarray(it.example.xs)[0], lengths)
    maps = {name: cropped(each, lengths) for name, each in found.maps.by_name.items()}
    curves = np.asarray(found.deletion[0]), np.asarray(found.insertion[0])
    unsigned = [name for name in maps if not is_signed(it.network, name)]
    scene = draw.Scene(seen, it.what, it.axes, it.letters)
    answer = it.answers[target]
    yield from it.more
    yield Figure(
        "input",
        "The input and the answer",
        f"{it.title}. Bars: probabilities of the likeliest answers.",
        draw.input_and_answers(scene, it.answers, np.asarray(found.probabilities), target),
    )
    yield Figure(
        "maps",
        f"What speaks for {answer}, and what against",
        f"Red speaks for it, blue against; purple maps say how much, not for or against. Hidden "
        f"parts show: {it.baselines[0]}.",
        draw.maps_over_input(scene, maps, MEANINGS, unsigned, answer),
    )
    yield Figure(
        "curves",
        "Do the maps name what matters?",
        f"The most important parts first, with {it.baselines[0]} in place of hidden ones. A map "
        "names what matters where the blue curve falls below the bands of random orders, and the "
        "orange one rises above them. The table below has other hidden parts, too.",
        draw.faithfulness(list(maps), *curves, wins(found)),
    )
    yield table_of_methods(it, found)
    yield Figure(
        "sanity",
        "Do the maps show what was learned?",
        "Rank correlation between the map of the trained network and those of networks with random "
        "weights. Left: networks without any trained layer; a map passes where both "
        "means are in the gray band. Right: the larger of the two, as layers get random weights.",
        draw.sanity(
            found.random,
            [verdict(it, found, name) for name in maps],
            allowed(it),
            draw.Layers(list(it.network.layers), found.cascading, found.independent),
        ),
    )
    yield table_of_checks(found)
    yield Figure(
        "agreement",
        "Do the maps agree?",
        "Rank correlations of how much each map says of each place, whatever its sign.",
        draw.agreement(list(maps), np.asarray(found.agreement)),
    )
