"""Build the optimizer that flags ask for: one by its name, or one from a user's file."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.harness.config import option
from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.mistakes import in_words
from experiments.harness.user_files import load_function, place_of
from recurrent.training import accumulation, optimizers
from recurrent.training.step import log_layers
from recurrent.training.task import HParams


def known_optimizer(name: str, flag: str = "--optimizer") -> str | optimizers.Factory:
    """Return what a name means to `optimizers.optimizer`: itself, or the function of a file.

    Raises:
      UserError: for a name that is none, and a function that cannot be loaded.
    """
    if ":" in name:
        return load_function(name, flag)
    if name in optimizers.OPTIMIZERS or optimizers.is_optax_optimizer(name):
        return name
    known = [*dict.fromkeys([*optimizers.OPTIMIZERS, *optimizers.optax_optimizers()])]
    raise UserError(none_of(known, name, flag))


def known_schedule(name: str, flag: str = "--schedule") -> str | optimizers.Shape:
    """Return what a name means to `learning_rate_schedule`: itself, or the function of a file.

    Raises:
      UserError: for a name that is none, and a function that cannot be loaded.
    """
    if ":" in name:
        return load_function(name, flag)
    if name in optimizers.SCHEDULES:
        return name
    raise UserError(none_of(optimizers.SCHEDULES, name, flag))


def none_of(known: Any, name: str, flag: str) -> str:
    """Word the sentence for a name that is none of the known ones."""
    expected = f"{flag}: expected one of {', '.join(known)}, or FILE.py:FUNCTION, got {name!r}."
    return expected + did_you_mean(name, known)


def check_epsilon(value: float) -> None:
    """Raise `UserError` for zero, which divides zero by zero where a gradient is zero."""
    if value == 0:
        raise UserError("--epsilon: expected a number above 0, or a negative one, got 0.")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Hold the fields of one optimizer; `config.prefixed` gives a second one its own flags."""

    optimizer: str = option(
        "adamw",
        f"the optimizer: {', '.join(optimizers.OPTIMIZERS)}, another of optax's, such as lion or "
        "muon, or one of your own as FILE.py:FUNCTION, a function of the learning rate",
        check=known_optimizer,
        file=True,
    )
    learning_rate: float = option(1e-3, "the peak learning rate", traced=True, above=0)
    schedule: str = option(
        "cosine",
        "the learning rate after warm-up: constant, cosine or linear (to zero), exponential (to "
        "1 % of the peak), warm_restarts (four cosines, each twice as long as the one before), or "
        "one of your own as FILE.py:FUNCTION, (step, total_steps) -> factor of the peak",
        check=known_schedule,
        file=True,
    )
    warmup_epochs: float = option(
        1.0,
        "epochs of linear warm-up, at most half of the training; where there are no epochs, the "
        "steps between two evaluations count as one",
        minimum=0,
        maximum=10**6,
    )
    momentum: float = option(
        0.9, "momentum of sgd, rmsprop and others that have it", traced=True, minimum=0, below=1
    )
    beta1: float = option(
        optimizers.OWN,
        "decay of the mean of gradients, in adam, adamw and others of optax's with a b1; a "
        "negative number takes the optimizer's own, such as 0.9 in adam",
        traced=True,
        minimum=-1,
        below=1,
    )
    beta2: float = option(
        optimizers.OWN,
        "decay of the mean of squared gradients, in adam, adamw and others of optax's with a b2; a "
        "negative number takes the optimizer's own, such as 0.999 in adam and 0.99 in lion",
        traced=True,
        minimum=-1,
        below=1,
    )
    epsilon: float = option(
        optimizers.OWN,
        "keeps the divisor from zero, in rmsprop, adam, adamw and others of optax's with an eps; a "
        "negative number takes the optimizer's own, such as 1e-8 in adam",
        traced=True,
        minimum=-1,
        check=check_epsilon,
    )
    weight_decay: float = option(
        0.0,
        "decay of kernels: decoupled in adamw, by their own rule in others of optax's with such a "
        "parameter, L2 elsewhere",
        traced=True,
        minimum=0,
    )
    l1: float = option(
        0.0, "strength of L1 on kernels, added to the gradient", traced=True, minimum=0
    )
    clip_norm: float = option(
        1.0, "the largest global norm of a gradient; 0 never clips", traced=True, minimum=0
    )
    clip_value: float = option(
        0.0,
        "the largest absolute value of an entry of a gradient, before its norm is clipped; 0 never "
        "clips",
        traced=True,
        minimum=0,
    )
    accumulate: int = option(
        1,
        "batches averaged per update; an incomplete last group is dropped",
        minimum=1,
        maximum=10**6,
    )
    log_gradients: bool = option(
        False,
        "whether to log the norm of each layer's gradient, before any clipping, and to draw them",
    )


def optimizer_of(
    config: Any, evaluations: int, steps_per_evaluation: int, prefix: str = ""
) -> Callable[[HParams], optax.GradientTransformation]:
    """Return ``hparams -> optimizer``, to be called inside the compiled program.

    Args:
      config: with the fields of `OptimizerConfig`.
      evaluations: of the whole training; epochs, where it has any.
      steps_per_evaluation: batches between two of them.
      prefix: of the fields' names, for a second optimizer.

    Raises:
      UserError: where the whole training has fewer batches than one update takes, and for
        functions of the user's that raise an error or return something else.
    """
    length = length_of(config, evaluations, steps_per_evaluation, prefix)
    schedule = schedule_of(config, length, prefix)
    name, accumulate = (getattr(config, prefix + field) for field in ("optimizer", "accumulate"))
    logged = getattr(config, prefix + "log_gradients")
    known = known_optimizer(name, f"--{prefix}optimizer")
    if not isinstance(known, str):
        known = users_factory(known, name, f"--{prefix}optimizer")

    def build(hparams: HParams) -> optax.GradientTransformation:
        made = optimizers.optimizer(
            known,
            hparams[prefix + "learning_rate"],
            momentum=hparams[prefix + "momentum"],
            beta1=hparams[prefix + "beta1"],
            beta2=hparams[prefix + "beta2"],
            epsilon=hparams[prefix + "epsilon"],
            weight_decay=hparams[prefix + "weight_decay"],
            l1=hparams[prefix + "l1"],
            clip_norm=hparams[prefix + "clip_norm"],
            clip_value=hparams[prefix + "clip_value"],
            schedule=schedule,
            warmup_steps=length.warmup,
            total_steps=length.updates,
        )
        if accumulate > 1:
            made = accumulation.accumulate(made, accumulate)
        return log_layers(made) if logged else made

    return build


def learning_rate_of(
    config: Any, evaluations: int, steps_per_evaluation: int, prefix: str = ""
) -> Callable[[HParams, Any], Any]:
    """Return ``(hparams, step) -> learning rate``, which may be called in the compiled program.

    A step is one batch, counted from 0: those of one update have one learning rate. The optimizer
    itself does not count a batch whose gradient was not finite.

    Args:
      config: with the fields of `OptimizerConfig`.
      evaluations: of the whole training; epochs, where it has any.
      steps_per_evaluation: batches between two of them.
      prefix: of the fields' names, for a second optimizer.

    Raises:
      UserError: as `optimizer_of` does.

    Example:
      >>> config = OptimizerConfig(schedule="linear", warmup_epochs=0.0, accumulate=2)
      >>> rate = learning_rate_of(config, evaluations=2, steps_per_evaluation=4)
      >>> [round(float(rate({"learning_rate": 1.0}, step)), 2) for step in range(8)]
      [1.0, 1.0, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    """
    length = length_of(config, evaluations, steps_per_evaluation, prefix)
    schedule = schedule_of(config, length, prefix)
    accumulate = getattr(config, prefix + "accumulate")

    def learning_rate(hparams: HParams, step: Any) -> Any:
        peak = hparams[prefix + "learning_rate"]
        rate = optimizers.learning_rate_schedule(peak, schedule, length.warmup, length.updates)
        return rate(step // accumulate)

    return learning_rate


class Length(NamedTuple):
    """Hold how many updates a training makes, and how many of them warm up."""

    updates: int
    warmup: int


def length_of(config: Any, evaluations: int, steps_per_evaluation: int, prefix: str) -> Length:
    """Return how many updates a training makes; see `optimizer_of`."""
    steps, accumulate = evaluations * steps_per_evaluation, getattr(config, prefix + "accumulate")
    if accumulate > steps:
        raise UserError(
            f"--{prefix}accumulate: the whole training has {steps} batches, fewer than the "
            f"{accumulate} of one update."
        )
    updates = steps // accumulate
    epochs = getattr(config, prefix + "warmup_epochs")
    warmup = round(epochs * steps_per_evaluation / accumulate)
    return Length(updates, min(warmup, updates // 2))


def schedule_of(config: Any, length: Length, prefix: str) -> str | optimizers.Shape:
    """Return the schedule of a Config; one of the user's is tried at three of its steps.

    Raises:
      UserError: where it raises an error, or returns anything but a number that is at least 0.
    """
    name, flag = getattr(config, prefix + "schedule"), f"--{prefix}schedule"
    known = known_schedule(name, flag)
    if isinstance(known, str):
        return known
    steps = length.updates - length.warmup
    for step in sorted({0, steps // 2, steps - 1}):
        with in_a_sentence(f"{flag}: {name} with total_steps={steps}", name):
            found = factor_at(step, steps, known)
        if not is_factor(found):
            raise UserError(
                f"{flag}: expected {name} to return a factor of the peak learning rate, one "
                f"finite number that is at least 0, got {found} for step={step}, "
                f"total_steps={steps}."
            )
    return known


def factor_at(step: int, steps: int, shape: optimizers.Shape) -> Any:
    """Call a schedule with a traced step, as the program does; an `if` on the step fails here."""
    with jax.ensure_compile_time_eval():
        return jax.jit(lambda step: shape(step, steps))(jnp.int32(step))


def is_factor(found: Any) -> bool:
    """Return whether a value is one finite number that is at least 0."""
    is_real = isinstance(found, jax.Array) and found.shape == () and not jnp.iscomplexobj(found)
    return is_real and 0 <= float(found) < math.inf


def users_factory(function: Any, name: str, flag: str) -> optimizers.Factory:
    """Return the user's function, so that whatever it does wrong ends in a sentence.

    Args:
      function: ``learning_rate -> optax.GradientTransformation``, which may take ``momentum``,
        ``b1``, ``b2``, ``eps`` and ``weight_decay`` by keyword.
      name: as the user gave it.
      flag: that gave it.
    """

    @functools.wraps(function)
    def factory(learning_rate: optax.Schedule, **given: Any) -> optax.GradientTransformation:
        with in_a_sentence(f"{flag}: {name}", name):
            made = function(learning_rate, **given)
        if not isinstance(made, optax.GradientTransformation):
            raise UserError(
                f"{flag}: expected {name} to return an optax.GradientTransformation, got "
                f"{type(made).__name__}."
            )
        return steps_in_sentences(made, name, flag)

    return factory


def steps_in_sentences(
    made: optax.GradientTransformation, name: str, flag: str
) -> optax.GradientTransformation:
    """Return the user's transformation, whose mistakes while a program is traced end in one."""

    def init(params: Any) -> Any:
        with in_a_sentence(f"{flag}: init of {name}", name):
            return made.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        with in_a_sentence(f"{flag}: update of {name}", name):
            new, after = made.update(updates, state, params)
        for what, change in [
            ("updates like the gradients", difference(updates, new, shape_of)),
            ("a state like the one", difference(state, after, type_of)),
        ]:
            if change:
                raise UserError(
                    f"{flag}: update of {name} must return {what} that it is given, but {change}."
                )
        return new, after

    return optax.GradientTransformation(init, update)


def difference(before: Any, after: Any, describe: Callable[[Any], str]) -> str:
    """Say where two trees differ first; nothing where they have the same form."""
    first, second = (
        {jax.tree_util.keystr(path): describe(leaf) for path, leaf in leaves}
        for leaves in map(jax.tree.leaves_with_path, (before, after))
    )
    for path in first | second:
        was, now = first.get(path, "not there"), second.get(path, "not there")
        if was != now:
            return f"{path or 'it'} was {was} and is {now}"
    same = jax.tree.structure(before) == jax.tree.structure(after)
    return "" if same else "its tuples, lists and dicts are not the same"


def shape_of(leaf: Any) -> str:
    """Write the shape of a leaf."""
    return f"of shape {[*jnp.shape(leaf)]}"


def type_of(leaf: Any) -> str:
    """Write the type and shape of a leaf."""
    return f"{jnp.result_type(leaf)}{[*jnp.shape(leaf)]}"


@contextlib.contextmanager
def in_a_sentence(what: str, name: str) -> Iterator[None]:
    """Turn an error into a `UserError`, with file and line of the user's own code.

    Args:
      what: was done, for the sentence.
      name: ``FILE.py:FUNCTION``.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the user's own function raises
        place = place_of(error, name.rpartition(":")[0])
        where = f" ({place})" if place else ""
        raise UserError(f"{what} raised {in_words(error).rstrip('.')}{where}.") from error
