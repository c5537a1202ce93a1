"""Compare two sets of examples by the distance between Gaussians fitted to their features.

It is the "Frechet inception distance" of Heusel et al. 2017 (GANs trained by a two time-scale
update rule converge to a local Nash equilibrium, arXiv:1706.08500) where the features are those of
an Inception network; on other data, features of a network that was trained on it say more.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.errors import ArgumentError


class Gaussian(NamedTuple):
    """Hold a normal distribution of features.

    Attributes:
      mean: ``[F]``.
      root: ``[K, F]``, of which ``root.T @ root`` is the covariance ``[F, F]``.
    """

    mean: Array
    root: Array


def fit_gaussian(features: Array) -> Gaussian:
    """Fit a Gaussian to features: their mean, and their covariance with the divisor N - 1.

    The root of the covariance is the triangular factor of the centered features. So the covariance
    itself is never formed, whose small eigenvalues float32 would lose.

    Args:
      features: ``[N, F]``, of two examples or more.

    Raises:
      ValueError: for features of another rank, or of fewer than two examples.

    Example:
      >>> import jax.numpy as jnp
      >>> fitted = fit_gaussian(jnp.array([[0.0, 1.0], [2.0, 1.0]]))
      >>> fitted.mean.tolist(), (fitted.root.T @ fitted.root).round(4).tolist()
      ([1.0, 1.0], [[2.0, 0.0], [0.0, 0.0]])
    """
    if features.ndim != 2 or features.shape[0] < 2:
        raise ArgumentError(
            f"features: expected [N, F] of two examples or more, got {[*features.shape]}."
        )
    mean = features.mean(axis=0)
    root = _triangle(features - mean) / jnp.sqrt(features.shape[0] - 1)
    return Gaussian(mean, root)


def frechet_distance(one: Gaussian, other: Gaussian) -> Array:
    """Return the squared 2-Wasserstein distance of two Gaussians, ``[]``, at least 0.

    Equation: ``|m1 - m2|**2 + tr(S1 + S2 - 2 (S1 S2)**(1/2))`` with means m and covariances S
    (Dowson & Landau 1982). For roots ``S = A.T A`` the trace of the matrix square root is the sum
    of the singular values of ``A1 A2.T``, from which no root of a rounded number is taken: float32
    gives about five digits of ``tr(S1 + S2)``.

    Args:
      one: of F features.
      other: of as many.

    Raises:
      ValueError: where they have not as many features.

    Example:
      >>> import jax.numpy as jnp
      >>> one = Gaussian(jnp.zeros(2), jnp.diag(jnp.array([1.0, 2.0])))
      >>> other = Gaussian(jnp.array([3.0, 0.0]), jnp.eye(2))
      >>> round(float(frechet_distance(one, other)), 4)  # 3**2 + (1 - 1)**2 + (2 - 1)**2
      10.0
    """
    if one.mean.shape != other.mean.shape:
        raise ArgumentError(
            f"other: expected {[*one.mean.shape]} features, got {[*other.mean.shape]}."
        )
    apart = jnp.square(one.mean - other.mean).sum()
    spread = jnp.square(one.root).sum() + jnp.square(other.root).sum()
    shared = _singular_values(one.root @ other.root.T).sum()
    return jnp.maximum(apart + spread - 2 * shared, 0)


# Factorizations of a batch occupy the pool of threads that several devices of a CPU share, and can
# wait there for ever; under `vmap` these are done one by one.


@jax.custom_batching.sequential_vmap
def _triangle(matrix: Array) -> Array:
    return jnp.linalg.qr(matrix, mode="r")


@jax.custom_batching.sequential_vmap
def _singular_values(matrix: Array) -> Array:
    return jnp.linalg.svd(matrix, compute_uv=False)
