"""Clip, then regularize, then optimize on a schedule; every hyperparameter may be traced."""

import functools
import inspect
import itertools
import typing
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax import Array, lax

from recurrent.cell import weighted
from recurrent.errors import ArgumentError

OPTIMIZERS = ("sgd", "rmsprop", "adam", "adamw")  # beside those of `optax_optimizers`

Number = Any  # a Python number or a traced scalar
OWN = -1.0  # stands for an optimizer's own default
Factory = Callable[..., optax.GradientTransformation]  # of a learning rate and hyperparameters
Shape = Callable[[Any, int], Any]  # (step, total_steps) -> factor of the peak


def optimizer(
    name: str | Factory,
    learning_rate: Number,
    *,
    momentum: Number = 0.9,
    beta1: Number = OWN,
    beta2: Number = OWN,
    epsilon: Number = OWN,
    weight_decay: Number = 0.0,
    l1: Number = 0.0,
    clip_norm: Number = 0.0,
    clip_value: Number = 0.0,
    schedule: str | Shape = "constant",
    warmup_steps: int = 0,
    total_steps: int | None = None,
) -> optax.GradientTransformation:
    """Build an optax transformation from a few hyperparameters.

    Build it *inside* the jitted function from traced hyperparameters: its state has the same
    structure for every value, so that a sweep over learning rates compiles once. Its state and its
    arithmetic are in float32 for params of a narrower type, in which small numbers such as epsilon
    would be zero.

    Args:
      name: ``"sgd"`` (with momentum), ``"rmsprop"``, ``"adam"``, ``"adamw"``, another of
        `optax_optimizers`, or a function from the schedule ``step -> learning rate`` to a
        transformation. Such a function is given those of ``momentum``, ``b1``, ``b2``, ``eps``
        and ``weight_decay`` that it has parameters for, whatever defaults it has.
      learning_rate: the peak of the schedule.
      momentum: of sgd, rmsprop and others that have a parameter of that name.
      beta1: decay of the mean of gradients, b1 of optax, in adam, adamw and others; as for the next
        two, a negative number takes the optimizer's own default, here 0.9.
      beta2: decay of the mean of squared gradients, b2 of optax; 0.999 in adam and adamw.
      epsilon: keeps the divisor from zero, eps of optax; 1e-8 in rmsprop, adam and adamw.
      weight_decay: strength of the decay of the kernels (see `kernels`: no biases, norms or decay
        rates); decoupled in adamw (Loshchilov & Hutter 2019); a factory's own affair if it takes
        ``weight_decay`` (in optax, with a mask); added to the gradient (L2) elsewhere.
      l1: strength of an L1 penalty on the same kernels, whose gradient is added after clipping.
      clip_norm: gradients of a larger global norm are scaled down to it (Pascanu et al. 2013);
        0 for no clipping.
      clip_value: entries of a gradient beyond plus and minus it are set to it, before the norm is
        taken (Mikolov 2012); 0 for no clipping. It turns the gradient, which `clip_norm` does not.
      schedule: one of `SCHEDULES`, or a function of your own; see `learning_rate_schedule`.
      warmup_steps: steps W of linear rise before it: step s takes ``(s + 1) / W`` of the peak.
      total_steps: the length of training; needed by all schedules but ``"constant"``.

    Raises:
      ValueError: for an unknown name or schedule, or a schedule with an end that has no
        total_steps, or no more than its warm-up takes.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> params, gradient = jnp.zeros(2), jnp.array([3.0, 4.0])
      >>> def moved(made):
      ...     updates, _ = made.update(gradient, made.init(params), params)
      ...     return [round(float(x), 6) for x in updates]
      >>> moved(optimizer("sgd", learning_rate=0.5, momentum=0.0, clip_norm=1.0))
      [-0.3, -0.4]
      >>> moved(optimizer("lion", learning_rate=0.5))
      [-0.5, -0.5]
      >>> moved(optimizer(lambda learning_rate: optax.sgd(learning_rate), learning_rate=0.5))
      [-1.5, -2.0]
    """
    rate = learning_rate_schedule(learning_rate, schedule, warmup_steps, total_steps)
    decay = add_decay(weight_decay)
    last = optax.scale_by_learning_rate(rate)
    adam = or_own(beta1, 0.9), or_own(beta2, 0.999), or_own(epsilon, 1e-8)
    own: dict[Any, Callable[[], list[optax.GradientTransformation]]] = {
        "sgd": lambda: [decay, optax.trace(momentum), last],
        "rmsprop": lambda: [decay, optax.scale_by_rms(eps=adam[2]), optax.trace(momentum), last],
        "adam": lambda: [decay, optax.scale_by_adam(*adam), last],
        "adamw": lambda: [optax.scale_by_adam(*adam), decay, last],
    }
    given: dict[str, Number] = {"momentum": momentum, "b1": beta1, "b2": beta2, "eps": epsilon}
    given["weight_decay"] = weight_decay
    parts = own[name]() if name in own else made_from(factory_of(name), rate, given)
    return in_float32(
        optax.chain(clip(clip_norm, clip_value), optax.masked(add_l1(l1), kernels), *parts)
    )


def or_own(value: Number, own: Number) -> Number:
    """Return a hyperparameter, or an optimizer's own default where it is negative.

    Example:
      >>> or_own(-1.0, 0.99), or_own(0.5, 0.99), float(or_own(jax.numpy.float32(-1), 0.5))
      (0.99, 0.5, 0.5)
    """
    if isinstance(value, int | float):
        return own if value < 0 else value
    return value if own is inspect.Parameter.empty else jnp.where(value < 0, own, value)


def factory_of(name: str | Factory) -> Factory:
    """Return optax's function of this name, or the function that is given.

    Raises:
      ValueError: for a name that is none.
    """
    if not isinstance(name, str):
        return name
    if not is_optax_optimizer(name):
        expected = [*dict.fromkeys([*OPTIMIZERS, *optax_optimizers()])]
        raise ArgumentError(f"optimizer: expected one of {expected}, or a function, got {name!r}.")
    return _functions_of_optax()[name]


def made_from(
    factory: Factory, rate: optax.Schedule, given: dict[str, Number]
) -> list[optax.GradientTransformation]:
    """Call a function that makes an optimizer; add L2 before it where it decays no weights.

    Args:
      factory: one of optax's, or of your own.
      rate: ``step -> learning rate``.
      given: hyperparameters by name, of which it gets those that it has parameters for.
    """
    known = {*inspect.signature(factory).parameters}
    masks = {name: kernels for name in ("mask", "weight_decay_mask") if name in known}
    if not masks and factory in _functions_of_optax().values():
        known.discard("weight_decay")  # it would decay biases too
    taken = {name: value for name, value in given.items() if name in known}
    for name in {"b1", "b2", "eps"} & taken.keys():
        taken[name] = or_own(taken[name], inspect.signature(factory).parameters[name].default)
    made = factory(rate, **taken, **masks)
    if "weight_decay" in taken:
        return [made]
    return [add_decay(given["weight_decay"]), made]


def optax_optimizers() -> list[str]:
    """List optax's optimizers that follow a schedule and need gradients and params alone.

    Those that need the loss (lbfgs, momo, sophia) or evaluate other params than they train
    (schedule-free ones) are not among them, nor are deprecated ones.

    Example:
      >>> [name in optax_optimizers() for name in ("lion", "muon", "lbfgs", "clip")]
      [True, True, False, False]
    """
    return sorted(name for name in _functions_of_optax() if is_optax_optimizer(name))


def is_optax_optimizer(name: str) -> bool:
    """Return whether `optax_optimizers` has a name, without trying all others."""
    factory = _functions_of_optax().get(name)
    return factory is not None and _follows_a_schedule(factory) and _needs_gradients_alone(factory)


def _functions_of_optax() -> dict[str, Factory]:
    """Return optax's public functions, but for parts of optimizers (``scale_by_...``)."""
    return {
        name: value
        for name, value in (vars(optax.contrib) | vars(optax)).items()
        if isinstance(value, FunctionType | functools.partial)
        and not name.startswith(("_", "scale_by_"))
    }


def _follows_a_schedule(factory: Factory) -> bool:
    """Return whether a function's first parameter is a learning rate that may be a schedule."""
    first = next(iter(inspect.signature(factory).parameters.values()), None)
    return (
        first is not None
        and first.name == "learning_rate"
        and optax.Schedule in typing.get_args(first.annotation)
    )


@functools.cache
def _needs_gradients_alone(factory: Factory) -> bool:
    """Return whether an optimizer takes a step, from traced hyperparameters, without the loss."""
    params = {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}

    def step(number: Number) -> Any:
        names = ("momentum", "b1", "b2", "eps", "weight_decay")
        made = optax.chain(*made_from(factory, lambda step: number, dict.fromkeys(names, number)))
        before = made.init(params)
        return before, made.update(params, before, params)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a deprecated one is none
            before, (_, after) = jax.eval_shape(step, 0.5)
    except Exception:
        return False
    return before == after


def learning_rate_schedule(
    peak: Number, schedule: str | Shape, warmup_steps: int, total_steps: int | None
) -> optax.Schedule:
    """Build the function ``step -> learning rate``: a linear rise, then a schedule.

    Args:
      peak: what the schedule is a factor of.
      schedule: after warm-up, ``"constant"``; ``"cosine"`` or ``"linear"``, to zero at the end;
        ``"exponential"``, to 1 % of the peak; ``"warm_restarts"`` (see `warm_restarts`); or a
        function ``(step, total_steps) -> factor``, which counts from the end of the warm-up.
      warmup_steps: W: step s takes ``(s + 1) / W`` of the peak.
      total_steps: of the training, warm-up included; None will do for ``"constant"``.

    Raises:
      ValueError: for an unknown schedule, or total_steps that are missing or too few.

    Example:
      >>> rate = learning_rate_schedule(1.0, "constant", warmup_steps=4, total_steps=None)
      >>> [float(rate(step)) for step in (0, 1, 3, 9)]
      [0.25, 0.5, 1.0, 1.0]
      >>> rate = learning_rate_schedule(1.0, lambda step, total: 1 - step / total, 0, 4)
      >>> [float(rate(step)) for step in range(5)]
      [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    after = _after_warm_up(schedule, warmup_steps, total_steps)
    if not warmup_steps:
        return lambda step: peak * after(step)
    rise = optax.linear_schedule(1 / warmup_steps, 1.0, warmup_steps - 1)
    shape = optax.join_schedules([rise, after], [warmup_steps])
    return lambda step: peak * shape(step)


def _after_warm_up(
    schedule: str | Shape, warmup_steps: int, total_steps: int | None
) -> optax.Schedule:
    if schedule == "constant":
        return optax.constant_schedule(1.0)
    if isinstance(schedule, str) and schedule not in _WITH_AN_END:
        raise ArgumentError(
            f"schedule: expected one of {list(SCHEDULES)}, or a function, got {schedule!r}."
        )
    kind = f"a {schedule} schedule" if isinstance(schedule, str) else "a schedule of your own"
    if not total_steps:
        raise ArgumentError(f"total_steps: {kind} needs the length of training, got none.")
    if warmup_steps >= total_steps:
        raise ArgumentError(
            f"warmup_steps: expected fewer than the total_steps={total_steps} of {kind}, got "
            f"{warmup_steps}."
        )
    steps = total_steps - warmup_steps
    if isinstance(schedule, str):
        return _WITH_AN_END[schedule](steps)
    return lambda step: schedule(jnp.maximum(step, 0), steps)  # during warm-up it is not used


def warm_restarts(steps: int) -> optax.Schedule:
    """Fall from 1 to 0 by cosines four times, each time in twice as many steps.

    The periods are 1, 2, 4 and 8 fifteenths of the training, rounded to whole steps, so that the
    last one ends with it. This is SGDR with periods that double, Loshchilov & Hutter 2017.

    Example:
      >>> rate = warm_restarts(30)
      >>> [round(float(rate(step)), 2) for step in (0, 1, 2, 4, 6, 10, 14, 22, 30)]
      [1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 1.0, 0.5, 0.0]
    """
    edges = [round(steps * fifteenths / 15) for fifteenths in (0, 1, 3, 7, 15)]
    lengths = [max(1, end - start) for start, end in itertools.pairwise(edges)]
    return optax.join_schedules(
        [optax.cosine_decay_schedule(1.0, length) for length in lengths], edges[1:-1]
    )


_WITH_AN_END: dict[str, Callable[[int], optax.Schedule]] = {
    "cosine": lambda steps: optax.cosine_decay_schedule(1.0, steps),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
    "exponential": lambda steps: optax.exponential_decay(1.0, steps, 0.01, end_value=0.01),
    "warm_restarts": warm_restarts,
}
SCHEDULES = ("constant", *_WITH_AN_END)


def clip(norm: Number, value: Number = 0.0) -> optax.GradientTransformation:
    """Clip the entries of gradients, then their global norm; 0 never clips.

    So whether and how to clip can be swept.

    Finite gradients whose squares, or whose norm, are beyond the range of their type are clipped
    like all others.
    """
    largest = jnp.where(jnp.asarray(norm) > 0, norm, jnp.inf)
    bound = jnp.where(jnp.asarray(value) > 0, value, jnp.inf)

    def update(updates: Any, params: Any) -> Any:
        updates = jax.tree.map(lambda u: jnp.clip(u, -bound, bound).astype(u.dtype), updates)
        factor, size = scaled_norm(updates)
        # the norm itself may be infinite where all gradients are finite
        kept = (size / factor < largest) | (jnp.isfinite(size) & (largest == jnp.inf))

        def clipped(u: Array) -> Array:
            within = u * factor.astype(u.dtype)
            return jnp.where(kept, u, within / size.astype(u.dtype) * largest).astype(u.dtype)

        return jax.tree.map(clipped, updates)

    return optax.stateless(update)


def scaled_norm(tree: Any) -> tuple[Array, Array]:
    """Return a factor, and the norm of all numbers of a tree times it, in float32 or wider.

    The factor is 1, unless the squares of the numbers overflow or underflow: then it is a power of
    two, with which they do not. So the second result is finite where all numbers are, even where
    their norm is beyond the range of its type.

    Example:
      >>> import jax.numpy as jnp
      >>> factor, norm = scaled_norm(jnp.float32([3e38, 3e38]))
      >>> float(factor) == 2.0**-96, round(float(norm) * 2.0**96 / 1e38, 3)
      (True, 4.243)
    """
    tree = widened(tree)
    plain = optax.tree.norm(tree)
    reach = jnp.finfo(plain.dtype).maxexp * 3 // 4  # a square reaches beyond half the exponents

    def scaled() -> tuple[Array, Array]:
        factor = jnp.asarray(jnp.where(plain > 0, 2.0**-reach, 2.0**reach), plain.dtype)
        size = optax.tree.norm(jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), tree))
        return factor, size.astype(plain.dtype)

    in_range = jnp.isfinite(plain) & (plain > 0)
    return lax.cond(in_range, lambda: (jnp.ones_like(plain), plain), scaled)


def widened(tree: Any) -> Any:
    """Cast the floats of a tree that are narrower than float32 to float32."""

    def wide(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        narrow = jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype.itemsize < 4
        return leaf.astype(jnp.float32) if narrow else leaf

    return jax.tree.map(wide, tree)


def in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let an optimizer see gradients and params of a narrow type as float32.

    Its state keeps its types whatever the types of its hyperparameters are.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Any) -> Any:
        return inner.init(widened(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        wide = None if params is None else widened(params)
        updates, after = inner.update(widened(updates), state, wide, **extra)
        return updates, jax.tree.map(of_its_type, after, state)

    return optax.GradientTransformationExtraArgs(init, update)


def of_its_type(new: Any, old: Array) -> Array:
    """Cast a new value to the type of the old one, which a loop carries."""
    new = jnp.asarray(new)
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def add_decay(strength: Number) -> optax.GradientTransformation:
    """Add ``strength * w`` for kernels; with a strength of 0, nothing, were w infinite."""

    def update(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda u, w: u + weighted(strength, w), updates, params)

    return optax.masked(optax.stateless(update), kernels)


def add_l1(strength: Number) -> optax.GradientTransformation:
    """Add the gradient of ``strength * sum |w|``, taken as zero where w is zero.

    With this subgradient weights come near zero but do not stay there. Tibshirani 1996.
    """

    def update(updates: Any, params: Any) -> Any:
        return jax.tree.map(lambda u, w: u + strength * jnp.sign(w), updates, params)

    return optax.stateless(update)


# A leaf shifts or multiplies single features, or is a state or the logarithm of a rate, if its name
# ends with one of the first words or begins with one of the second: "input_kernel" is a kernel.
NO_KERNELS = frozenset(
    ["b", "bias", "biases", "offset", "gain", "scale", "state", "logit", "frequency"]
)
NO_KERNELS_OF = frozenset(["b", "bias", "log", "logit"])
PEEPHOLES = frozenset(["forget", "input", "output"])  # under "gate"; elsewhere they are kernels


def kernels(params: Any) -> Any:
    """Mark the leaves that weight decay acts on: those with two axes or more that are kernels.

    What else may have two axes is told by its name, whose words are separated by ``_``: biases and
    scales by their last word (see `NO_KERNELS`) or their first, as ``b_h`` and logarithms of rates
    such as ``log_decay`` (see `NO_KERNELS_OF`); peepholes by the name of a gate in a group called
    ``gate``; a learned initial state by a group called ``state``. Nothing should pull these to
    zero. A matrix called ``input`` or ``output`` in another group is a kernel.

    Example:
      >>> import jax.numpy as jnp
      >>> square = jnp.ones((2, 2))
      >>> kernels({"bias": jnp.ones(2), "kernel": square, "log_decay": square})
      {'bias': False, 'kernel': True, 'log_decay': False}
      >>> kernels({"state": {"hidden": square}, "w_h": square, "b_h": square})
      {'b_h': False, 'state': {'hidden': False}, 'w_h': True}
      >>> kernels({"gate": {"input": square}, "input": square})
      {'gate': {'input': False}, 'input': True}
    """

    def is_kernel(path: Any, leaf: Array) -> bool:
        *groups, name = [jax.tree_util.keystr((part,), simple=True) for part in path] or [""]
        words = name.lower().split("_")
        peephole = groups[-1:] == ["gate"] and name in PEEPHOLES
        named = words[0] in NO_KERNELS_OF or words[-1] in NO_KERNELS
        return jnp.ndim(leaf) >= 2 and "state" not in groups and not peephole and not named

    return jax.tree_util.tree_map_with_path(is_kernel, params)
