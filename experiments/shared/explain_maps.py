"""Compute the maps of all methods for one example."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from experiments.shared.explainable import Example, Network, box_sizes, score_of
from recurrent import explain

WITHOUT_SIGN = ("gradient", "SmoothGrad")  # maps whose sign says nothing of what is there
SAMPLES = 400  # of kernel SHAP
LONGEST_HELD = 64  # segments of steps that are held, at most
AT_ONCE = 8  # copies of the example, by which memory is bounded


class Maps(NamedTuple):
    """Hold maps of one example, and the numbers that came with them.

    Attributes:
      by_name: ``[...]`` of the example's shape each.
      numbers: by a word.
    """

    by_name: OrderedDict[str, Array]  # of which JAX keeps the order
    numbers: OrderedDict[str, Array]


def quick_maps(
    network: Network, example: Example, target: Any
) -> dict[str, Callable[[Any], Array]]:
    """Return methods, ``params -> map``, that are cheap enough to be tried on random networks."""
    xs, lengths, base = example.xs, example.lengths, example.baselines[0]
    sizes = box_sizes(example, network.tokens)
    strides = [max(1, size // 2) for size in sizes]

    def of(method: Callable[..., Any], **more: Any) -> Callable[[Any], Array]:
        return lambda params: method(score_of(network, params, target), xs, lengths=lengths, **more)

    def integrated(params: Any) -> Array:
        return of(explain.integrated_gradients, baseline=base, steps=30)(params).map  # pyright: ignore[reportAttributeAccessIssue]

    found = {
        "gradient": of(explain.gradient),
        "gradient x input": of(explain.gradient_times_input, baseline=base),
        "integrated gradients": integrated,
        "occlusion": of(explain.sliding_occlusion, window=sizes, stride=strides, baseline=base),
    }
    if lengths is not None:
        found["held state"] = lambda params: held(
            score_of(network, params, target), example, network.together
        )
    if network.inside is not None:
        inside = network.inside
        found["Grad-CAM"] = lambda params: grad_cam(inside(params), example, target)
    return found


def held(f: Callable[..., Array], example: Example, together: int) -> Array:
    """Return what is lost where a step is never read, at each of its features."""
    width = together * -(-example.xs.shape[1] // (together * LONGEST_HELD))
    found = explain.held_steps(f, example.xs, example.lengths, width=width, batch_size=AT_ONCE)
    return jnp.broadcast_to(found[..., None], example.xs.shape)


def grad_cam(
    parts: tuple[Callable[..., Array], Callable[..., Array]], example: Example, target: Any
) -> Array:
    """Return Grad-CAM of an inner layer, of the size of the image."""
    features, head = parts
    return explain.grad_cam(features, lambda a: head(a)[:, target], example.xs)


def all_maps(
    network: Network,
    params: Any,
    example: Example,
    target: Any,
    quick: dict[str, Array],
    key: Array,
) -> Maps:
    """Return all maps, those that `quick_maps` gave first."""
    by_name = dict(quick)
    f, sizes = score_of(network, params, target), box_sizes(example, network.tokens)
    xs, base, background = example.xs, example.baselines[0], example.background
    common: dict[str, Any] = {"lengths": example.lengths}
    labels = explain.grid_labels(xs.shape[1:], sizes)
    keys = jax.random.split(key, 5)
    shap = explain.kernel_shap(
        f,
        xs,
        keys[0],
        labels=labels,
        background=background,
        samples=SAMPLES,
        batch_size=8,
        **common,
    )
    expected = explain.gradient_shap(f, xs, keys[1], background=background, samples=128, **common)
    lime = explain.lime_weights(
        f, xs, keys[2], labels=labels, baseline=base, batch_size=8, **common
    )
    slope = lambda xs: explain.gradient(f, xs, **common)  # noqa: E731
    by_name |= {
        "SmoothGrad": explain.smooth_grad(f, xs, keys[3], **common),
        "gradient SHAP": expected.map,
        "kernel SHAP": shap.map,
        "LIME": lime.map,
        "two-step": explain.two_step_map(slope, xs, baseline=base, each_step=False, **common),
    }
    if network.inside is not None:
        by_name["activation map"] = explain.activation_map(network.inside(params)[0], xs)
    gap = explain.completeness_gap(f, xs, quick["integrated gradients"], baseline=base, **common)
    numbers = {
        "integrated gap": _share(gap, quick["integrated gradients"]),
        "shap gap": _share(shap.gap, shap.values),
        "expected gap": _share(expected.gap, expected.map),
        "fit": lime.fit[0],
        "sensitivity": explain.max_sensitivity(slope, xs, keys[4], **common)[0],
    }
    return Maps(
        OrderedDict((name, by_step(network, name, each)[0]) for name, each in by_name.items()),
        OrderedDict(numbers),
    )


def by_step(network: Network, name: str, values: Array) -> Array:
    """Return one number for each step ``[B, T]`` where a step is one thing; else the map itself.

    Parts of a sum are added up; of slopes, along all that a step might become, the length counts.
    """
    if not network.tokens:
        return values
    return jnp.linalg.norm(values, axis=-1) if name in WITHOUT_SIGN else values.sum(-1)


def _share(gap: Array, parts: Array) -> Array:
    """Return a gap as a share of all that was to be explained."""
    whole = gap + parts.reshape(len(parts), -1).sum(1)
    return (abs(gap) / jnp.maximum(abs(whole), 1e-6))[0]
