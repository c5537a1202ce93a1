"""Measure how well explanations find the boxes of `recurrent.explain.box_data`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.harness.program import Table
from recurrent import explain

CASES = 20  # of the test split
STEPS = FEATURES = 50
COUNTS = {"train": 1000, "valid": 200, "test": 200}
POINTS = 10  # of integrated gradients
BACKGROUND = 8  # test sequences after those, over which SHAP averages
COLUMNS = ("precision", "recall", "precision_area", "recall_area", "times_gradient")
HALF = 4  # the share of 0.5 among those of `box_scores`


class Found(NamedTuple):
    """Hold maps ``[CASES, T, F]`` by method, and the boxes and inputs."""

    maps: dict[str, np.ndarray]
    inside: np.ndarray
    xs: np.ndarray


def drawn(box: str, seed: int) -> dict[str, dict[str, Array]]:
    """Return the splits, each with inputs ``"xs"``, labels and booleans ``"inside"`` of the box.

    Args:
      box: one of `recurrent.explain.BOXES`.
      seed: decides which sequences are drawn.
    """
    splits = {}
    for k, (name, count) in enumerate(COUNTS.items()):
        key = jax.random.fold_in(jax.random.key(seed), k)
        each = explain.box_data(key, count, explain.BOXES[box], steps=STEPS, features=FEATURES)
        splits[name] = {"xs": each.xs, "labels": each.labels, "inside": each.inside}
    return splits


def methods_of(
    f: Callable[[Array], Array], background: Array, key: Array
) -> dict[str, Callable[[Array], Array]]:
    """Return the methods, each ``xs [B, T, F] -> map``."""
    boxes = explain.grid_labels(background.shape[1:], (5, 5))

    def slope(xs: Array) -> Array:
        return explain.gradient(f, xs)

    def integrated(xs: Array) -> Array:
        return explain.integrated_gradients(f, xs, steps=POINTS, batch_size=POINTS).map

    def two_step(of: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda xs: explain.two_step_map(of, xs, each_step=False, batch_size=2)

    return {
        "gradient": slope,
        "gradient x input": lambda xs: explain.gradient_times_input(f, xs),
        "SmoothGrad": lambda xs: explain.smooth_grad(f, xs, key, samples=20),
        "integrated gradients": integrated,
        "gradient SHAP": lambda xs: (
            explain.gradient_shap(f, xs, key, background=background, samples=40).map
        ),
        "occlusion": lambda xs: explain.sliding_occlusion(f, xs, window=(5, 5), stride=(2, 2)),
        "LIME": lambda xs: explain.lime_weights(f, xs, key, labels=boxes, samples=400).map,
        "two-step of gradient": two_step(slope),
        "two-step of integrated gradients": two_step(integrated),
        "random": lambda xs: jax.random.uniform(key, xs.shape),
    }


def found_by(network: Callable[[Array], Array], test: Mapping[str, Any]) -> Found:
    """Return the maps of the network's logit for the true class of some test sequences.

    Args:
      network: from sequences to logits ``[B, 2]``.
      test: the test split.
    """
    xs, labels = test["xs"][:CASES], test["labels"][:CASES]
    background = test["xs"][CASES : CASES + BACKGROUND]
    f = explain.chosen_output(network, labels)
    methods = methods_of(f, background, jax.random.key(0))
    maps = {name: np.asarray(jax.jit(of)(xs)) for name, of in methods.items()}
    return Found(maps, np.asarray(test["inside"][:CASES]), np.asarray(xs))


def with_rollout(found: Found, weights: Sequence[Array], read: str) -> Found:
    """Add a map of the steps that the output that is read looks at, through all blocks.

    Args:
      found: the maps of other methods.
      weights: of attention in each block, as `recurrent.explain.transformer_attention` gives them.
      read: which output, "last" or the "mean" of all.
    """
    rows = explain.attention_rollout(weights)  # [B, T, T]
    looked = rows.mean(1) if read == "mean" else rows[:, -1]
    rollout = np.broadcast_to(looked[..., None], found.xs.shape)
    return found._replace(maps=found.maps | {"attention rollout": rollout})


def scores_of(found: Found) -> dict[str, dict[str, float]]:
    """Return for each method its means over the test sequences.

    They are precision and recall where half of the saliency is kept, the areas under both curves,
    and how many times the gradient's product of the areas its own is.
    """
    scores: dict[str, dict[str, float]] = {}
    for name, maps in found.maps.items():
        each = explain.box_scores(jnp.asarray(maps), found.inside)
        scores[name] = {
            "precision": float(each.precision[HALF].mean()),
            "recall": float(each.recall[HALF].mean()),
            "precision_area": float(each.precision_area.mean()),
            "recall_area": float(each.recall_area.mean()),
        }
    least = product(scores["gradient"])
    for own in scores.values():
        own["times_gradient"] = product(own) / max(least, 1e-12)
    return scores


def product(scores: Mapping[str, float]) -> float:
    """Return precision's area times recall's: both must be good."""
    return scores["precision_area"] * scores["recall_area"]


def table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Return the methods, the best first."""
    order = sorted(scores, key=lambda name: -product(scores[name]))
    return Table(
        "methods",
        "Method by method",
        "Precision and recall: of the places that hold half of the saliency. Areas: over "
        "shares from 0.1 to 0.9. The last column is the product of the areas over the gradient's.",
        ("method", *(name.replace("_", " ") for name in COLUMNS)),
        [[name, *(f"{scores[name][column]:.3f}" for column in COLUMNS)] for name in order],
    )
