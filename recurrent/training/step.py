"""Take a training step in parts: gradients, then an update that skips what is not finite.

A loss is ``(params, batch, key) -> (scalar, metrics)`` with metrics a dict of `Average`. The two
parts, `gradients` and `apply_gradients`, also serve trainings with several states or several
updates a step; `train_step` is the two of them, for one network and one batch.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from recurrent.cell import weighted
from recurrent.errors import ArgumentError
from recurrent.losses import Average
from recurrent.training.accumulation import Accumulated
from recurrent.training.optimizers import of_its_type, scaled_norm, widened
from recurrent.training.task import Metrics

Loss = Callable[..., tuple[Array, Any]]

STEPS_TO_DOUBLE = 2000  # finite gradients in a row after which a loss scale is doubled
LARGEST_SCALE = 2.0**24


class LossScale(NamedTuple):
    """Hold a factor of the loss that keeps small gradients within the range of float16.

    It is halved by a gradient that is not finite, doubled after `STEPS_TO_DOUBLE` finite ones, and
    stays within 1 and `LARGEST_SCALE`.

    Attributes:
      factor: ``[]``.
      finite: steps since it changed, ``[]``.

    References:
      Micikevicius et al. 2018, Mixed precision training, arXiv:1710.03740.
    """

    factor: Array
    finite: Array


class TrainState(NamedTuple):
    """Hold all that the updates of one network change.

    Attributes:
      step: updates taken, skipped ones included, ``[]``; with ``key`` it decides data order and
        noise.
      params: what is trained.
      opt_state: the optimizer's state.
      key: the random key of this training; it never changes.
      skipped: updates in a row, up to now, whose gradient was not finite, ``[]``.
      carry: what is handed from step to step, such as a recurrent state; often nothing.
      average: the running average of the params, in float32 or wider, since a narrow type would
        round its small moves away; nothing where none is kept.
      scale: of the loss; nothing where it is not scaled.
      averaged: updates that the average has followed, skipped ones not included, ``[]``; nothing
        where none is kept.
    """

    step: Array
    params: Any
    opt_state: Any
    key: Array
    skipped: Array
    carry: Any = ()
    average: Any = ()
    scale: LossScale | tuple[()] = ()
    averaged: Any = ()

    @property
    def weights(self) -> Any:
        """Return what to evaluate: the average of the params where one is kept, else the params.

        They have the types of the params.
        """
        if not jax.tree.leaves(self.average):
            return self.params
        return jax.tree.map(lambda a, p: a.astype(p.dtype), self.average, self.params)


def init_state(
    init: Callable[[Array], Any],
    optimizer: optax.GradientTransformation,
    key: Array,
    carry: Callable[[Any], Any] = lambda params: (),
    *,
    keep_average: bool = False,
    loss_scale: float = 0.0,
) -> TrainState:
    """Draw params and return the state before the first update.

    Args:
      init: ``key -> params``.
      optimizer: of the params.
      key: decides initial params, data order and noise.
      carry: ``params -> carry``, the initial carry.
      keep_average: whether `apply_gradients` keeps a running average of the params.
      loss_scale: the first factor of a `LossScale`, for losses that compute in float16 with params
        in float32; 0 for none.

    Raises:
      ValueError: for a scale that is neither 0 nor within 1 and `LARGEST_SCALE`.

    Example:
      >>> import jax, optax
      >>> from recurrent import lstm
      >>> state = init_state(lstm(2, 3).init, optax.adam(1e-3), jax.random.key(0))
      >>> int(state.step), int(state.skipped), sorted(state.params)
      (0, 0, ['input', 'recurrent'])
    """
    if loss_scale and not 1 <= loss_scale <= LARGEST_SCALE:
        raise ArgumentError(f"loss_scale: expected 0, or 1 to {LARGEST_SCALE:g}, got {loss_scale}.")
    init_key, run_key = jax.random.split(key)
    params = init(init_key)
    step, skipped = jnp.zeros((2,), jnp.int32)  # two arrays: a donated one must not stand twice
    average = jax.tree.map(jnp.copy, widened(params)) if keep_average else ()
    opt_state = optimizer.init(params)
    scale = LossScale(jnp.float32(loss_scale), jnp.int32(0)) if loss_scale else ()
    averaged = jnp.int32(0) if keep_average else ()
    return TrainState(
        step, params, opt_state, run_key, skipped, carry(params), average, scale, averaged
    )


def train_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    average_decay: Any = 0.0,
    extra: tuple[Any, ...] = (),
    weight: Any = 1.0,
) -> tuple[TrainState, Metrics]:
    """Make one update from one batch, unless its gradient or the update is not finite.

    Args:
      loss: ``(params, batch, key, *extra) -> (scalar, metrics)``.
      optimizer: of the params.
      state: of `init_state`.
      batch: what the loss reads.
      average_decay: see `apply_gradients`.
      extra: further arguments of the loss, such as traced hyperparameters.
      weight: see `apply_gradients`.

    Returns:
      The new state, and the loss's metrics with those of `apply_gradients`. A skipped step counts
      in none of them but ``"skipped"``.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from recurrent.losses import Average
      >>> def loss(params, batch, key):
      ...     error = (params - batch) ** 2
      ...     return error, {"error": Average(error, jnp.float32(1))}
      >>> state = init_state(lambda key: jnp.float32(3), optax.sgd(0.5), jax.random.key(0))
      >>> state, metrics = train_step(loss, optax.sgd(0.5), state, jnp.float32(1))
      >>> float(state.params), float(metrics["error"].mean)
      (1.0, 4.0)
      >>> state, metrics = train_step(loss, optax.sgd(0.5), state, jnp.float32(jnp.nan))
      >>> float(state.params), int(state.skipped)
      (1.0, 1)
    """
    slopes, metrics = gradients(loss, state, batch, step_key(state), *extra)
    state, update = apply_gradients(optimizer, state, slopes, average_decay, weight)
    return state, where_applied(state, metrics) | update


def gradients(
    loss: Loss, state: TrainState, batch: Any, key: Array, *extra: Any
) -> tuple[Any, Any]:
    """Return the gradients of the loss with respect to the params, and its second result.

    Those of complex params are the conjugates of `jax.grad`'s: they point uphill, as optax expects.

    Args:
      loss: ``(params, batch, key, *extra) -> (scalar, anything)``. It is multiplied by the state's
        loss scale, and the gradients divided by it.
      state: whose params are differentiated.
      batch: handed to the loss.
      key: handed to the loss; `step_key` gives one for each step.
      *extra: further arguments of the loss, such as traced hyperparameters.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> state = init_state(lambda key: jnp.float32(3), optax.sgd(1.0), jax.random.key(0))
      >>> loss = lambda params, batch, key: (params**2 * batch, "seen")
      >>> slope, seen = gradients(loss, state, 2.0, step_key(state))
      >>> float(slope), seen
      (12.0, 'seen')
    """
    if not isinstance(state.scale, LossScale):
        slopes, rest = jax.grad(loss, has_aux=True)(state.params, batch, key, *extra)
        return jax.tree.map(jnp.conj, slopes), rest
    factor = state.scale.factor

    def scaled(params: Any) -> tuple[Array, Any]:
        value, rest = loss(params, batch, key, *extra)
        return value * factor, rest

    slopes, rest = jax.grad(scaled, has_aux=True)(state.params)
    return jax.tree.map(lambda leaf: jnp.conj(leaf / factor).astype(leaf.dtype), slopes), rest


def apply_gradients(
    optimizer: optax.GradientTransformation,
    state: TrainState,
    gradients: Any,
    average_decay: Any = 0.0,
    weight: Any = 1.0,
) -> tuple[TrainState, Metrics]:
    """Update the params, or skip the update where it would leave them not finite.

    A skipped update changes no param, moment or average, and counts in ``state.skipped``. An update
    is skipped where a gradient is not finite, before any clipping, and where it would turn a finite
    number of the params, of the optimizer's state or of the average into one that is not. The
    types of all of them stay as they are.

    Args:
      optimizer: of the params.
      state: to be updated.
      gradients: with the structure of the params.
      average_decay: d in ``average <- d average + (1 - d) params``, where the state keeps an
        average. The first updates take less, at most ``(1 + n) / (10 + n)`` after n updates that
        were made, so that the average does not hold on to the initial params. It does not move
        between the updates of `recurrent.training.accumulation.accumulate`.
      weight: of the gradients in the mean that such an optimizer takes, such as the number of
        examples in the batch; others do without.

    Returns:
      The new state, and the metrics ``"gradient_norm"`` (of updates that were made; infinite where
      it is beyond the range of its type) and ``"skipped"`` (the share of updates that were not);
      for an optimizer of `log_layers` also those of `layer_norms`.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> state = init_state(lambda key: jnp.ones(2), optax.sgd(0.5), jax.random.key(0))
      >>> state, metrics = apply_gradients(optax.sgd(0.5), state, jnp.array([0.0, 2.0]))
      >>> state.params.tolist(), float(metrics["gradient_norm"].mean)
      ([1.0, 0.0], 2.0)
    """
    factor, size = scaled_norm(gradients)
    norm = size / factor
    layers = layer_norms(gradients) if isinstance(optimizer, LayersLogged) else {}
    optimizer = optax.with_extra_args_support(optimizer)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, weight=weight)
    params = optax.apply_updates(state.params, updates)
    average, averaged = _next_average(state, opt_state, params, average_decay)
    old = state.params, state.opt_state, state.average, state.averaged
    new = jax.tree.map(of_its_type, (params, opt_state, average, averaged), old)
    finite = jnp.isfinite(size) & ~_turn_infinite(new, old)
    params, opt_state, average, averaged = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), new, old
    )
    state = state._replace(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        skipped=jnp.where(finite, 0, state.skipped + 1),
        average=average,
        scale=_next_scale(state.scale, finite),
        averaged=averaged,
    )
    one = jnp.ones_like(norm)
    made = where_applied(state, {"gradient_norm": Average(norm, one)} | layers)
    return state, made | {"skipped": Average(jnp.where(finite, jnp.zeros_like(one), one), one)}


class LayersLogged(optax.GradientTransformationExtraArgs):
    """Hold an optimizer whose updates tell the norm of each layer's gradient; see `log_layers`."""


def log_layers(optimizer: optax.GradientTransformation) -> LayersLogged:
    """Return an optimizer of which `apply_gradients` also tells the metrics of `layer_norms`.

    Its updates are those of the given one.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> sgd = log_layers(optax.sgd(0.5))
      >>> slopes = {"a": jnp.array([0.0, 2.0]), "b": jnp.array([1.0])}
      >>> state = init_state(lambda key: slopes, sgd, jax.random.key(0))
      >>> state, metrics = apply_gradients(sgd, state, slopes)
      >>> sorted(metrics)
      ['gradient_norm', 'gradient_norm/a', 'gradient_norm/b', 'skipped']
    """
    return LayersLogged(*optax.with_extra_args_support(optimizer))


def layer_norms(gradients: Any) -> Metrics:
    """Return the norm of each layer's gradient, as metrics ``"gradient_norm/LAYER"``.

    A layer holds what lies side by side in the tree, such as ``layer_0/recurrent`` its kernel and
    bias; an array at the top is a layer of its own. The squares of all these norms add up to that
    of the whole gradient.

    Args:
      gradients: with the structure of the params.

    Example:
      >>> import jax.numpy as jnp
      >>> cell = {"kernel": jnp.array([3.0]), "bias": jnp.array([4.0])}
      >>> slopes = {"cell": cell, "w": jnp.ones(4)}
      >>> {name: float(norm.mean) for name, norm in layer_norms(slopes).items()}
      {'gradient_norm/cell': 5.0, 'gradient_norm/w': 2.0}
    """
    layers: dict[str, list[Array]] = {}
    for path, leaf in jax.tree.leaves_with_path(gradients):
        name = jax.tree_util.keystr(path[:-1] or path, simple=True, separator="/")
        layers.setdefault(name or "params", []).append(leaf)
    return {f"gradient_norm/{name}": _norm(leaves) for name, leaves in layers.items()}


def _norm(gradients: Any) -> Average:
    factor, size = scaled_norm(gradients)
    return Average(size / factor, jnp.ones_like(size))


def where_applied(state: TrainState, new: Any, old: Any = None) -> Any:
    """Select ``new`` where the last update of a state was made, and ``old`` where it was skipped.

    Args:
      state: after the update.
      new: a tree of arrays.
      old: a tree of the same structure; None for zeros.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> sgd = optax.sgd(1.0)
      >>> state = init_state(lambda key: jnp.float32(0), sgd, jax.random.key(0))
      >>> state, _ = apply_gradients(sgd, state, jnp.float32(jnp.inf))
      >>> float(where_applied(state, jnp.float32(1), jnp.float32(2)))
      2.0
    """
    made = state.skipped == 0
    if old is None:
        return jax.tree.map(lambda leaf: jnp.where(made, leaf, 0), new)
    return jax.tree.map(lambda a, b: jnp.where(made, a, b), new, old)


def step_key(state: TrainState) -> Array:
    """Return the key for the noise of the next step: a function of the state's key and step.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> state = init_state(lambda key: jnp.float32(0), optax.sgd(1.0), jax.random.key(0))
      >>> later = state._replace(step=state.step + 1)
      >>> bool(step_key(state) == step_key(state)), bool(step_key(state) == step_key(later))
      (True, False)
    """
    noise_key, _ = jax.random.split(state.key)
    return jax.random.fold_in(noise_key, state.step)


def order_key(state: TrainState) -> Array:
    """Return the key for the order of the data, from which each epoch folds in its number."""
    return jax.random.split(state.key)[1]


def _next_scale(scale: Any, finite: Array) -> Any:
    if not isinstance(scale, LossScale):
        return scale
    count = jnp.where(finite, scale.finite + 1, 0)
    double = count == STEPS_TO_DOUBLE
    factor = scale.factor * jnp.where(finite, jnp.where(double, 2.0, 1.0), 0.5)
    factor = jnp.clip(factor, 1.0, LARGEST_SCALE)
    return LossScale(factor, jnp.where(double, 0, count))


def _turn_infinite(new: Any, old: Any) -> Array:
    """Return whether any number that was finite is so no longer."""

    def turns(new: Array, old: Array) -> Array:
        return (jnp.isfinite(old) & ~jnp.isfinite(new)).any()

    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
    floats = [pair for pair in pairs if jnp.issubdtype(pair[1].dtype, jnp.inexact)]
    return jnp.array([turns(*pair) for pair in floats]).any()


def _next_average(state: TrainState, opt_state: Any, params: Any, decay: Any) -> tuple[Any, Any]:
    """Return the average after an update, and the number of updates that it has followed."""
    if not jax.tree.leaves(state.average):
        return state.average, state.averaged
    waits = isinstance(opt_state, Accumulated)
    made = opt_state.updates > state.opt_state.updates if waits else True
    count = state.averaged
    # young averages forget sooner, so that they do not hold on to the initial params
    keep = jnp.minimum(decay, (1 + count) / (10 + count))

    def moved(old: Array, new: Array) -> Array:
        mean = weighted(keep, old) + weighted(1 - keep, new)
        return jnp.where(made, mean.astype(old.dtype), old)

    return jax.tree.map(moved, state.average, params), count + jnp.where(made, 1, 0)
