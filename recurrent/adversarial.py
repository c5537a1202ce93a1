"""Train two networks against each other: losses, and what keeps the discriminator smooth.

A generator makes examples from noise; a discriminator gives each example a logit, high for those
that it takes for real (Goodfellow et al. 2014, Generative adversarial nets, arXiv:1406.2661). Each
has its own state and optimizer; see `recurrent.training.step`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

SQUARINGS = 6  # of a kernel's Gram matrix: 64 steps of the power method


def discriminator_nonsaturating(real: Array, fake: Array) -> Array:
    """Return the cross-entropy in nats of telling real examples from generated ones.

    Equation: ``mean(-log s(real)) + mean(-log(1 - s(fake)))`` with the logistic function s.

    Args:
      real: logits of real examples, of any shape.
      fake: logits of generated examples.

    Example:
      >>> import jax.numpy as jnp
      >>> undecided = jnp.zeros(4)
      >>> round(float(discriminator_nonsaturating(undecided, undecided)), 4)  # 2 log 2
      1.3863
    """
    return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()


def generator_nonsaturating(fake: Array) -> Array:
    """Return what the generator minimizes: the nats by which its examples are not taken for real.

    Equation: ``mean(-log s(fake))``. Its slope does not vanish where the discriminator is sure, as
    that of ``log(1 - s(fake))`` does.

    Args:
      fake: logits of generated examples, of any shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> round(float(jax.grad(generator_nonsaturating)(jnp.float32(-50.0))), 4)
      -1.0
    """
    return jax.nn.softplus(-fake).mean()


def discriminator_hinge(real: Array, fake: Array) -> Array:
    """Return the hinge loss of a discriminator, which asks for no more than a margin of 1.

    Equation: ``mean(max(0, 1 - real)) + mean(max(0, 1 + fake))``.

    Args:
      real: logits of real examples, of any shape.
      fake: logits of generated examples.

    References:
      Lim & Ye 2017, Geometric GAN, arXiv:1705.02894.

    Example:
      >>> import jax.numpy as jnp
      >>> float(discriminator_hinge(jnp.array([2.0, 0.5]), jnp.array([-3.0, 1.0])))
      1.25
    """
    return jax.nn.relu(1 - real).mean() + jax.nn.relu(1 + fake).mean()


def generator_hinge(fake: Array) -> Array:
    """Return what a generator minimizes against a discriminator with the hinge loss.

    Equation: ``-mean(fake)``.

    Args:
      fake: logits of generated examples, of any shape.

    Example:
      >>> import jax.numpy as jnp
      >>> float(generator_hinge(jnp.array([1.0, 2.0])))
      -1.5
    """
    return -fake.mean()


def r1_penalty(judge: Callable[[Array], Array], real: Array) -> Array:
    """Return how steep a discriminator is at real examples, which holds it near its equilibrium.

    Equation: ``mean over examples of |d logit / d example|**2 / 2``, to be multiplied by a weight
    (gamma in the paper) and added to the discriminator's loss.

    Args:
      judge: ``[B, ...] -> [B]``, logits, each of its own example alone.
      real: examples ``[B, ...]``.

    References:
      Mescheder, Geiger & Nowozin 2018, Which training methods for GANs do actually converge?,
      arXiv:1801.04406.

    Example:
      >>> import jax.numpy as jnp
      >>> judge = lambda x: 3 * x[:, 0] + 4 * x[:, 1]
      >>> float(r1_penalty(judge, jnp.ones((2, 2))))  # (3**2 + 4**2) / 2
      12.5
    """
    slopes = jax.grad(lambda xs: judge(xs).sum())(real)
    return jnp.square(slopes).sum() / (2 * len(real))


def spectral_norm(matrix: Array) -> Array:
    """Return the largest singular value of a matrix, differentiably.

    Equation: ``|W v|`` for the right singular vector v of the largest singular value, which is
    taken as a constant: the derivative is ``u v'``, that of the singular value.

    Departures: the paper takes one step of the power method for each update of the weights, and
    keeps the vector. Here v comes from the Gram matrix, squared six times, without anything to
    keep: as exact as 64 such steps.

    Args:
      matrix: ``[M, N]``; of zeros it is 0, with derivative 0.

    References:
      Miyato et al. 2018, Spectral normalization for generative adversarial networks,
      arXiv:1802.05957.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(spectral_norm(jnp.diag(jnp.array([2.0, -3.0])))), 4)
      3.0
    """
    rows = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    fixed = lax.stop_gradient(rows)
    scale = jnp.abs(fixed).max()
    fixed = fixed / jnp.where(scale > 0, scale, 1)  # so that no square leaves float32
    power = fixed.T @ fixed
    for _ in range(SQUARINGS):
        power = power / jnp.maximum(jnp.abs(power).max(), jnp.finfo(power.dtype).tiny)
        power = power @ power
    vector = power[:, jnp.argmax(jnp.diagonal(power))]
    size = jnp.linalg.norm(vector)
    vector = vector / jnp.where(size > 0, size, 1)
    left = rows @ vector
    return jnp.linalg.norm(jnp.where(scale > 0, left, 1)) * (scale > 0)


def spectrally_normalized(params: Any) -> Any:
    """Divide each kernel by its spectral norm, so that no layer stretches its input.

    A kernel ``[..., inputs, outputs]`` is a matrix of its last axis against all others; arrays of
    fewer axes, such as biases, stay as they are. A kernel of zeros stays one.

    Args:
      params: a tree of arrays.

    References:
      Miyato et al. 2018, arXiv:1802.05957.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"kernel": 5 * jnp.eye(2), "bias": jnp.ones(2)}
      >>> float(spectrally_normalized(params)["kernel"][0, 0])
      1.0
    """

    def normalized(leaf: Array) -> Array:
        if leaf.ndim < 2:
            return leaf
        size = spectral_norm(leaf.reshape(-1, leaf.shape[-1]))
        return leaf / jnp.where(size > 0, size, 1)

    return jax.tree.map(normalized, params)
