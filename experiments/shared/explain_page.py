"""Put an explanation on a page: the input and the answer, the maps, whether to trust them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.harness.program import Exhibit, Figure, Table
from experiments.shared.explain_trust import ORDERS, Explained
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
INDEPENDENT = 0.3  # a rank correlation with a random network that is allowed


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
    """Return in how many of the four curves each method is better than all random orders."""
    low, high = areas(found.deletion), areas(found.insertion)  # [baselines, methods + ORDERS]
    methods = len(found.maps.by_name)
    below = low[:, :methods] < low[:, methods:].min(1, keepdims=True)
    above = high[:, :methods] > high[:, methods:].max(1, keepdims=True)
    return below.sum(0) + above.sum(0)


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
    columns = ["method", "taken away", "given", "beats random", "random network"]
    won = wins(found)
    rows = []
    for k, name in enumerate(names):
        own = [in_words(low[:, k]), in_words(high[:, k])]
        rows.append([name, *own, f"{won[k]} of 4", sanity_words(found, name)])
    drawn = [in_words(each[:, len(names) :].mean(1)) for each in (low, high)]
    rows.insert(0, ["random orders", *drawn, "", ""])
    return Table(
        "methods",
        "Which maps to trust",
        "Areas under the curves above: low is good where parts are taken away, high where "
        f"they are given; hidden parts show {' / '.join(it.baselines)}. Beats random: in how many "
        f"of the four it is better than each of {ORDERS} random orders. Random network: rank "
        "correlation with the map of a network without any trained layer; a map that shows the "
        f"network passes, at most {INDEPENDENT}.",
        columns,
        rows,
    )


def in_words(pair: np.ndarray) -> str:
    """Write the areas of the two baselines."""
    return f"{pair[0]:.2f} / {pair[1]:.2f}"


def sanity_words(found: Explained, name: str) -> str:
    """Say whether a map changes when all layers are random."""
    if name not in found.cascading:
        return "not tried"
    value = float(np.asarray(found.cascading[name])[-1])
    return f"{value:.2f}, {'passes' if abs(value) <= INDEPENDENT else 'does not pass'}"


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
        f"Red speaks for it, blue against. Hidden parts show: {it.baselines[0]}.",
        draw.maps_over_input(scene, maps, MEANINGS, f"Red speaks for {answer}, blue against"),
    )
    panels = draw.curve_panels(list(maps), found.deletion, found.insertion, it.baselines)
    yield Figure(
        "curves",
        "Do the maps name what matters?",
        "The most important parts first. A map is worth something where its curve leaves the gray "
        "band of random orders: downwards on the left, upwards on the right.",
        draw.faithfulness(panels, list(maps)),
    )
    yield table_of_methods(it, found)
    yield Figure(
        "sanity",
        "Do the maps show what was learned?",
        "Rank correlation with the map of the trained network, as layers get random weights.",
        draw.sanity(found.cascading, found.independent, list(it.network.layers), list(maps)),
    )
    yield table_of_checks(found)
    yield Figure(
        "agreement",
        "Do the maps agree?",
        "Rank correlations of how much each map says of each place, whatever its sign.",
        draw.agreement(list(maps), np.asarray(found.agreement)),
    )
