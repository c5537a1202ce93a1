"""Declare the fields of a Config: typed, with help, bounds and choices.

A Config is a frozen dataclass. It lists what its experiment reads and nothing else, most of it
by inheriting the parts that the experiment uses: `RunConfig` here, `OptimizerConfig` and
`MinibatchConfig` in `experiments/shared/`.
"""

import dataclasses
import re
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, get_type_hints

from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.files import check_regular, path_of


class Option(NamedTuple):
    """Hold what flags, checks and the report know of one field of a Config."""

    type: type
    default: Any
    help: str
    traced: bool
    file: bool
    choices: tuple[str, ...]
    minimum: float | None
    above: float | None
    maximum: float | None
    below: float | None
    check: Callable[[Any], object] | None


class UndeclaredField(TypeError):
    """Say that a field of a Config has no help and no bounds; ``name`` is its name."""

    def __init__(self, cls: type, name: str) -> None:
        super().__init__(f"{cls.__name__}.{name}: declare it with option(default, help).")
        self.name = name


def option(
    default: Any,
    help: str,
    *,
    traced: bool = False,
    file: bool = False,
    choices: Iterable[str] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    check: Callable[[Any], object] | None = None,
) -> Any:
    """Declare a dataclass field that the launcher turns into a flag.

    A subclass that only wants another default writes ``name: type = value`` and inherits the
    rest.

    Args:
      default: its default.
      help: its meaning and unit, as ``--help`` prints it.
      traced: whether it enters the compiled program as a number, so that any value runs (and
        sweeps) in one program; a static field needs a program of its own for each value.
      file: whether it may name a file of the user's, as ``PATH`` or ``PATH:NAME``, whose contents
        then belong to the identity of a run.
      choices: the texts that are allowed.
      minimum: the least value allowed.
      above: a bound that the value must exceed.
      maximum: the largest value allowed.
      below: a bound that the value must stay under.
      check: raises `UserError` for a value that will not do.

    Example:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Config:
      ...     layers: int = option(1, "number of stacked layers", minimum=1)
      >>> Config().layers, parse("layers", options(Config)["layers"], "3")
      (1, 3)
    """
    made = Option(
        type=type(default),
        default=default,
        help=help,
        traced=traced,
        file=file,
        choices=tuple(choices),
        minimum=minimum,
        above=above,
        maximum=maximum,
        below=below,
        check=check,
    )
    return dataclasses.field(default=default, metadata={"option": made})


def options(config: Any) -> dict[str, Option]:
    """Return every field of a Config (or of its class) as an `Option`, in order of definition."""
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
    raise UndeclaredField(cls, name)


def prefixed(cls: type, prefix: str) -> Any:
    """Return a dataclass with the fields of another, each name preceded by a prefix.

    So a Config can have two optimizers, one with the flags of ``OptimizerConfig`` and one with
    ``--critic_learning_rate`` and the like.

    Example:
      >>> Critic = prefixed(RunConfig, "critic_")
      >>> Critic().critic_seed
      0
    """
    fields = []
    for name, field in options(cls).items():
        metadata = {"option": field}
        own = dataclasses.field(default=field.default, metadata=metadata)
        fields.append((prefix + name, field.type, own))
    return dataclasses.make_dataclass(f"{prefix}{cls.__name__}", fields, frozen=True)


def parse(name: str, option: Option, text: str) -> Any:
    """Return the value that a flag's text stands for.

    Raises:
      UserError: for a text of the wrong type, or a value that `check_value` refuses.
    """
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    try:
        value = _booleans[text.lower()] if option.type is bool else option.type(text)
        if option.type in (int, float) and "_" in text:
            raise ValueError
    except (ValueError, KeyError):
        raise UserError(f"--{name}: expected {kinds[option.type]}, got {text!r}.") from None
    check_value(name, option, value)
    if option.type is str and not is_utf8(text):
        raise UserError(f"--{name}: expected a text in UTF-8, got {text!r}.")
    if option.type is str and (not text or text.startswith("--")):  # an unset shell variable
        raise UserError(f"--{name}: expected a text, got {text!r}.")
    return value


def is_utf8(text: str) -> bool:
    r"""Return whether a text of a command line was UTF-8; Python keeps other bytes as surrogates.

    Example:
      >>> is_utf8("l\xe4ufe"), is_utf8("l\udce4ufe")
      (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_booleans = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def check_value(name: str, option: Option, value: Any) -> None:
    """Raise `UserError` where the value is not among the choices or outside the bounds."""
    if option.choices and value not in option.choices:
        expected = "expected one of " + ", ".join(option.choices)
        raise UserError(
            f"--{name}: {expected}, got {value!r}.{did_you_mean(value, option.choices)}"
        )
    if option.type is float and not abs(value) <= _LARGEST_FLOAT32:
        raise UserError(f"--{name}: expected a finite number in float32, got {value}.")
    if option.type is float and 0 < abs(value) < _SMALLEST_FLOAT32:
        raise UserError(
            f"--{name}: expected 0 or a number that float32 tells from it, of at least "
            f"{_SMALLEST_FLOAT32:.3g}, got {value}."
        )
    bounds = [
        (option.minimum, "at least", lambda bound: value >= bound),
        (option.above, "more than", lambda bound: value > bound),
        (option.maximum, "at most", lambda bound: value <= bound),
        (option.below, "less than", lambda bound: value < bound),
    ]
    for bound, words, holds in bounds:
        if bound is not None and not holds(bound):
            raise UserError(f"--{name}: expected {words} {bound}, got {value}.")
        strict = words.endswith("than") and option.type is float and option.traced
        if bound is not None and strict and not differ_in_float32(value, bound):
            raise UserError(
                f"--{name}: expected {words} {bound}, and {value} is {bound} in float32."
            )
    if option.traced and option.type is int and not -(2**31) <= value < 2**31:
        raise UserError(f"--{name}: expected a whole number of 32 bits, got {value}.")
    if option.file:
        check_path(value, f"--{name}: ")
    if option.check is not None:
        try:
            option.check(value)
        except UserError as error:  # which may have another name in front, that of a prefix
            raise UserError(f"--{name}: {re.sub(r'^--[a-z0-9_]+: ', '', str(error))}") from error


_LARGEST_FLOAT32 = 3.4028234663852886e38
_SMALLEST_FLOAT32 = 2.0**-126  # below it processors may count with 0 instead
_LARGEST_FILE = 2**36  # bytes, since the contents of a file are hashed


def differ_in_float32(one: float, other: float) -> bool:
    """Return whether rounding to float32 keeps two numbers apart.

    Example:
      >>> differ_in_float32(0.999, 1), differ_in_float32(0.999999999, 1)
      (True, False)
    """
    return struct.pack("f", one) != struct.pack("f", other)


def check_path(value: str, flag: str) -> None:
    """Raise `UserError` for a ``PATH`` or ``PATH:NAME`` that cannot be one, or be hashed."""
    path = path_of(value.rpartition(":")[0] or value, flag)
    if not path.is_dir():
        check_regular(path, flag, _LARGEST_FILE)


def hparams_of(*configs: Any) -> dict[str, Any]:
    """Return the traced fields of Configs as arrays ``[len(configs)]`` that a program takes."""
    import jax.numpy as jnp
    import numpy as np

    return {
        name: np.asarray(jnp.asarray([field.type(getattr(each, name)) for each in configs]))
        for name, field in options(configs[0]).items()
        if field.traced
    }


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Hold the fields of every experiment, which the harness itself reads."""

    seed: int = option(
        0,
        "decides initial weights, order of the data and noise",
        traced=True,
        minimum=0,
        maximum=2**31 - 1,
    )
    patience: int = option(
        0,
        "evaluations in a row without a better score that end the training; 0 never does",
        minimum=0,
        maximum=10**6,
    )
    steps_per_call: int = option(
        200, "steps in one compiled call; a stop (Ctrl-C) waits for its end", minimum=1
    )


def fields_from_json(name: str, cls: type, fields: Any) -> dict[str, Any]:
    """Return the fields of a Config as JSON has them, checked as flags are.

    Args:
      name: of the file, for the sentences of errors.
      cls: the Config.
      fields: what was read.

    Raises:
      UserError: for a field that there is not, or a value of another type or out of bounds.
    """
    if not isinstance(fields, dict):
        raise UserError(f"{name}: expected an object of fields, got {fields!r}.")
    known = options(cls)
    for field, value in fields.items():
        if field not in known:
            raise UserError(f"{name}: there is no field {field!r}.{did_you_mean(field, known)}")
        kind = known[field].type
        is_whole = kind is float and type(value) is int
        if type(value) is not kind and not is_whole:
            expected = {int: "a whole number", float: "a number", bool: "true or false"}
            raise UserError(
                f"{name}: {field} must be {expected.get(kind, 'a text')}, got {value!r}."
            )
        try:
            check_value(field, known[field], value)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    return {field: known[field].type(value) for field, value in fields.items()}
