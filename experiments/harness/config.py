"""What an experiment's Config is made of: typed fields with help, bounds and choices."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, get_type_hints

import jax.numpy as jnp
import numpy as np

from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.program import Numbers


class Option(NamedTuple):
    """One field of a Config, as flags, checks and the report see it."""

    type: type
    default: Any
    help: str
    traced: bool
    choices: tuple[str, ...]
    minimum: float | None
    above: float | None
    maximum: float | None
    below: float | None
    check: Callable[[Any], object] | None


def option(
    default: Any,
    help: str,
    *,
    traced: bool = False,
    choices: Iterable[str] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    check: Callable[[Any], object] | None = None,
) -> Any:
    """A dataclass field that the launcher turns into a flag.

    A subclass that only wants another default writes ``name: type = value`` and inherits the
    rest.

    Args:
      default: its default.
      help: its meaning and unit, as ``--help`` prints it.
      traced: whether it enters the compiled program as a number, so that any value runs (and
        sweeps) in one program; a static field needs a program of its own for each value.
      choices: the texts that are allowed.
      minimum: the least value allowed.
      above: a bound that the value must exceed.
      maximum: the largest value allowed.
      below: a bound that the value must stay under.
      check: raises `UserError` for a value that will not do.
    """
    made = Option(
        type(default), default, help, traced, tuple(choices), minimum, above, maximum, below, check
    )
    return dataclasses.field(default=default, metadata={"option": made})


def options(config: Any) -> dict[str, Option]:
    """Every field of a Config (or of its class) as an `Option`, in the order of definition."""
    cls = config if isinstance(config, type) else type(config)
    types = get_type_hints(cls)
    return {
        field.name: _declared(cls, field.name)._replace(
            type=types[field.name], default=field.default
        )
        for field in dataclasses.fields(cls)
    }


def _declared(cls: type, name: str) -> Option:
    for owner in cls.__mro__:
        field = getattr(owner, "__dataclass_fields__", {}).get(name)
        if field is not None and "option" in field.metadata:
            return field.metadata["option"]
    raise TypeError(f"{cls.__name__}.{name}: declare it with option(default, help).")


def parse(name: str, option: Option, text: str) -> Any:
    """The value that a flag's text stands for.

    Raises:
      UserError: for a text of the wrong type, or a value that `check_value` refuses.
    """
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    try:
        value = _booleans[text.lower()] if option.type is bool else option.type(text)
        if option.type in (int, float) and "_" in text:
            raise ValueError
    except (ValueError, KeyError):
        raise UserError(f"--{name}: expected {words[option.type]}, got {text!r}.") from None
    check_value(name, option, value)
    if option.type is str and (not text or text.startswith("--")):  # an unset shell variable
        raise UserError(f"--{name}: expected a text, got {text!r}.")
    return value


_booleans = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def check_value(name: str, option: Option, value: Any) -> None:
    """Raises `UserError` where the value is not among the choices or outside the bounds."""
    if option.choices and value not in option.choices:
        expected = "expected one of " + ", ".join(option.choices)
        raise UserError(
            f"--{name}: {expected}, got {value!r}.{did_you_mean(value, option.choices)}"
        )
    if isinstance(value, float) and not abs(value) <= _LARGEST_FLOAT32:
        raise UserError(f"--{name}: expected a finite number in float32, got {value}.")
    bounds = [
        (option.minimum, "at least", lambda bound: value >= bound),
        (option.above, "more than", lambda bound: value > bound),
        (option.maximum, "at most", lambda bound: value <= bound),
        (option.below, "less than", lambda bound: value < bound),
    ]
    for bound, words, holds in bounds:
        if bound is not None and not holds(bound):
            raise UserError(f"--{name}: expected {words} {bound}, got {value}.")
    if option.check is not None:
        option.check(value)


_LARGEST_FLOAT32 = 3.4028234663852886e38


def traced(config: Any) -> dict[str, Any]:
    """The fields that enter the compiled program as numbers."""
    return {name: getattr(config, name) for name, field in options(config).items() if field.traced}


def check_scale(scale: float) -> None:
    """Raises `UserError` for a loss scale that would make gradients smaller."""
    if 0 < scale < 1:
        raise UserError(f"--loss_scale: expected 0, or at least 1, got {scale}.")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """The fields of every experiment that trains by gradient descent."""

    seed: int = option(
        0,
        "decides initial weights, order of the data and noise",
        traced=True,
        minimum=0,
        maximum=2**31 - 1,
    )
    epochs: int = option(10, "passes over the training data", minimum=1, maximum=10**6)
    batch_size: int = option(64, "examples in one step", minimum=1, maximum=10**7)
    optimizer: str = option("adamw", "the optimiser", choices=("sgd", "rmsprop", "adam", "adamw"))
    learning_rate: float = option(1e-3, "the peak learning rate", traced=True, above=0)
    schedule: str = option(
        "cosine", "the learning rate after warm-up", choices=("constant", "cosine")
    )
    warmup_epochs: float = option(
        1.0, "epochs of linear warm-up, at most half of the training", minimum=0, maximum=10**6
    )
    momentum: float = option(0.9, "momentum of sgd and rmsprop", traced=True, minimum=0, below=1)
    weight_decay: float = option(
        0.0, "decay of kernels: decoupled in adamw, L2 elsewhere", traced=True, minimum=0
    )
    l1: float = option(
        0.0, "strength of L1 on kernels, added to the gradient", traced=True, minimum=0
    )
    accumulate: int = option(
        1,
        "batches whose gradients are averaged for one update; the last few of a training that are "
        "fewer make none",
        minimum=1,
        maximum=10**6,
    )
    average: float = option(
        0.0,
        "decay of the average of the weights that is evaluated and kept; 0 takes the last ones",
        minimum=0,
        below=1,
    )
    clip_norm: float = option(
        1.0, "the largest global norm of a gradient; 0 never clips", traced=True, minimum=0
    )
    loss_scale: float = option(
        0.0,
        "the first factor of the loss, halved and doubled on the way, for a cell of yours whose "
        "products are in float16; 0 for none",
        minimum=0,
        maximum=2.0**24,
        check=check_scale,
    )
    patience: int = option(
        0,
        "epochs without a better validation score that end the training; 0 never does",
        minimum=0,
        maximum=10**6,
    )
    steps_per_call: int = option(
        200, "steps in one compiled call; a stop (Ctrl-C) waits for its end", minimum=1
    )


def numbers_of(config: TrainingConfig) -> Numbers:
    """The traced fields as scalars."""
    return {name: np.asarray(jnp.asarray(value)) for name, value in traced(config).items()}
