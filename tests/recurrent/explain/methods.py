"""The methods of `recurrent.explain` in one form, to hold all of them to one property."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from recurrent import explain

STEPS, FEATURES = 5, 2
ALL_STEPS = [STEPS] * 3

# (f, xs, lengths, key) -> map. A new method adds one line, and inherits every property.
Method = Callable[..., Any]

# Of a linear f these are w * (x - baseline).
COMPLETE: dict[str, Method] = {
    "gradient times input": lambda f, xs, lengths, key, **base: explain.gradient_times_input(
        f, xs, lengths=lengths, **base
    ),
    "integrated gradients": lambda f, xs, lengths, key, **base: (
        explain.integrated_gradients(f, xs, lengths=lengths, steps=4, batch_size=3, **base).map
    ),
    "occlusion": lambda f, xs, lengths, key, **base: explain.occlusion_map(
        f, xs, lengths=lengths, batch_size=3, **base
    ),
    "sliding occlusion": lambda f, xs, lengths, key, **base: explain.sliding_occlusion(
        f, xs, lengths=lengths, window=(1, 1), batch_size=3, **base
    ),
    "exact Shapley values": lambda f, xs, lengths, key, **base: (
        explain.exact_shapley(f, xs, lengths=lengths, **base).map
    ),
    "kernel SHAP": lambda f, xs, lengths, key, **base: (
        explain.kernel_shap(f, xs, lengths=lengths, **base).map
    ),
    "sampled kernel SHAP": lambda f, xs, lengths, key, **base: (
        explain.kernel_shap(f, xs, key, lengths=lengths, samples=75, **base).map
    ),
    "permutation SHAP": lambda f, xs, lengths, key, **base: (
        explain.permutation_shap(f, xs, key, lengths=lengths, permutations=2, **base).map
    ),
    "gradient SHAP": lambda f, xs, lengths, key, **base: (
        explain.gradient_shap(f, xs, key, lengths=lengths, samples=5, batch_size=3, **base).map
    ),
    "LIME": lambda f, xs, lengths, key, **base: (
        explain.lime_weights(f, xs, key, lengths=lengths, samples=60, ridge=1e-4, **base).map
    ),
}

OTHERS: dict[str, Method] = {
    "gradient": lambda f, xs, lengths, key: explain.gradient(f, xs, lengths=lengths),
    "SmoothGrad": lambda f, xs, lengths, key: explain.smooth_grad(
        f, xs, key, lengths=lengths, samples=5, batch_size=3
    ),
    "integrated gradients from a set": lambda f, xs, lengths, key: (
        explain.integrated_gradients(
            f,
            xs,
            lengths=lengths,
            steps=3,
            background=jnp.full((2, *xs.shape[1:]), jnp.nan).at[:, 0].set(0.5),
        ).map
    ),
    "occlusion of boxes": lambda f, xs, lengths, key: explain.sliding_occlusion(
        f, xs, lengths=lengths, window=(2, None), stride=(2, 1)
    ),
    "occlusion of segments": lambda f, xs, lengths, key: explain.occlusion_map(
        f, xs, lengths=lengths, labels=explain.grid_labels((STEPS, FEATURES), (2, None))
    ),
    "SHAP of steps": lambda f, xs, lengths, key: (
        explain.kernel_shap(
            f, xs, key, lengths=lengths, labels=explain.grid_labels((STEPS, 1), (1, 1)), samples=20
        ).map
    ),
    "LIME of features": lambda f, xs, lengths, key: (
        explain.lime_weights(
            f,
            xs,
            key,
            lengths=lengths,
            labels=explain.grid_labels((STEPS, FEATURES), (None, 1)),
            samples=20,
        ).map
    ),
    "held steps": lambda f, xs, lengths, key: explain.held_steps(f, xs, lengths, width=2),
    "two steps": lambda f, xs, lengths, key: explain.two_step_map(
        lambda xs: explain.gradient(f, xs, lengths=lengths), xs, lengths=lengths, quantile=0.3
    ),
    "two steps, features at once": lambda f, xs, lengths, key: explain.two_step_map(
        lambda xs: explain.gradient(f, xs, lengths=lengths), xs, lengths=lengths, each_step=False
    ),
    "Grad-CAM": lambda f, xs, lengths, key: explain.grad_cam(
        lambda xs, mask: jnp.tanh(xs + 0.1), f, xs, lengths=lengths
    ),
    "activation map": lambda f, xs, lengths, key: explain.activation_map(
        lambda xs, mask: jnp.tanh(xs[:, ::2] + 0.1), xs, lengths=lengths
    ),
    "attention": lambda f, xs, lengths, key: explain.attention_rollout(
        [
            explain.self_attention_weights(
                {"query": {"kernel": jnp.eye(FEATURES)}, "key": {"kernel": jnp.eye(FEATURES)}},
                xs,
                head_size=FEATURES,
                lengths=lengths,
            )
        ]
        * 2,
        lengths=lengths,
    ),
}

METHODS = COMPLETE | OTHERS
