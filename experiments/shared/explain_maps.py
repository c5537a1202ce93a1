"""Compute the maps of all methods for one example."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from experiments.shared.explainable import Example, Network, box_sizes, score_of
from recurrent import explain

WITHOUT_SIGN = ("gradient", "SmoothGrad")  # maps whose sign says nothing of what is there
NEVER_NEGATIVE = ("two-step", "activation map")  # how much, whether it speaks for or against
SAMPLES = 400  # of kernel SHAP
LONGEST_HELD = 64  # segments of steps that are held, at most
AT_ONCE = 8  # copies of the example, by which memory is bounded


Method = Callable[[Any], Any]  # params -> a map [1, ...], or what holds one as its .map


def quick_methods(network: Network, example: Example, target: Any) -> dict[str, Method]:
    """Return methods that are cheap enough to be tried layer by layer."""
    xs, lengths, base = example.xs, example.lengths, example.baselines[0]
    sizes = box_sizes(example, network.tokens)
    strides = [max(1, size // 2) for size in sizes]

    def of(method: Callable[..., Any], **more: Any) -> Method:
        return lambda params: method(score_of(network, params, target), xs, lengths=lengths, **more)

    found: dict[str, Method] = {
        "gradient": of(explain.gradient),
        "gradient x input": of(explain.gradient_times_input, baseline=base),
        "integrated gradients": of(explain.integrated_gradients, baseline=base, steps=30),
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


def slow_methods(network: Network, example: Example, target: Any, key: Array) -> dict[str, Method]:
    """Return the other methods; what they draw is the same for all params."""
    sizes, xs = box_sizes(example, network.tokens), example.xs
    labels = explain.grid_labels(xs.shape[1:], sizes)
    background, base = example.background, example.baselines[0]
    keys = jax.random.split(key, 4)

    def of(method: Callable[..., Any], *rest: Any, **more: Any) -> Method:
        more["lengths"] = example.lengths
        return lambda params: method(score_of(network, params, target), xs, *rest, **more)

    found: dict[str, Method] = {
        "SmoothGrad": of(explain.smooth_grad, keys[0]),
        "gradient SHAP": of(explain.gradient_shap, keys[1], background=background, samples=128),
        "kernel SHAP": of(
            explain.kernel_shap,
            keys[2],
            labels=labels,
            background=background,
            samples=SAMPLES,
            batch_size=AT_ONCE,
        ),
        "LIME": of(explain.lime_weights, keys[3], labels=labels, baseline=base, batch_size=AT_ONCE),
    }
    if network.sequence:
        found["two-step"] = lambda params: explain.two_step_map(
            slope_of(network, params, example, target),
            xs,
            baseline=base,
            lengths=example.lengths,
            each_step=False,
        )
    if network.inside is not None:
        inside = network.inside
        found["activation map"] = lambda params: explain.activation_map(inside(params)[0], xs)
    return found


def slope_of(
    network: Network, params: Any, example: Example, target: Any
) -> Callable[[Array], Array]:
    """Return the gradient as a function of inputs."""
    f = score_of(network, params, target)
    return lambda xs: explain.gradient(f, xs, lengths=example.lengths)


def numbers_of(found: dict[str, Any]) -> dict[str, Array]:
    """Return the numbers that came with the maps of a trained network, by a word."""
    integrated, expected = found["integrated gradients"], found["gradient SHAP"]
    return {
        "integrated gap": _share(integrated.gap, integrated.map),
        "shap gap": _share(found["kernel SHAP"].gap, found["kernel SHAP"].values),
        "expected gap": _share(expected.gap, expected.map),
        "fit": found["LIME"].fit[0],
    }


def is_signed(network: Network, name: str) -> bool:
    """Return whether a map tells what speaks for an answer from what speaks against it."""
    return name not in NEVER_NEGATIVE and not (network.tokens and name in WITHOUT_SIGN)


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
