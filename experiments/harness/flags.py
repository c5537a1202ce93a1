"""Read a command line into checked dataclasses, and list its flags for `--help`."""

import re
from collections.abc import Mapping
from typing import Any

from experiments.harness import config
from experiments.harness.config import Option
from experiments.harness.errors import UserError, did_you_mean


def take_repeated(flag: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the values of a flag that may be repeated, and the other arguments."""
    bare = flag.lstrip("-")
    own = [re.fullmatch(f"--?{bare}(.*)", word, re.S) for word in arguments]
    others = [word for word, match in zip(arguments, own, strict=True) if not match]
    return [match[1] for match in own if match], others


def read_flags(
    arguments: list[str], *classes: type, base: Mapping[str, Any] | None = None
) -> list[Any]:
    """Return a value of each dataclass from the flags, each typed and checked.

    Args:
      arguments: the command line.
      *classes: dataclasses whose fields are the flags.
      base: values of fields that no flag gives, in place of their defaults.

    Raises:
      UserError: for a flag that is unknown, repeated, ill-typed or out of bounds.
    """
    from absl import flags  # here, so that help needs no package

    known: dict[str, Option] = {}
    for cls in classes:
        twice = known.keys() & config.options(cls).keys()
        if twice:
            raise UserError(
                f"{cls.__name__}: the field {min(twice)!r} has the name of a flag of every run; "
                "rename it."
            )
        known |= config.options(cls)
    values = flags.FlagValues()
    for name, field in known.items():
        define(values, name, field)
    for special in ("flagfile", "undefok"):
        if any(re.match(f"--?{special}(=|$)", word) for word in arguments):
            raise UserError(f"There is no flag --{special}. See --help.")
    check_negations(arguments, known)
    try:
        _, *extra = values(["launch.sh", *arguments])
    except flags.UnrecognizedFlagError as error:
        hint = did_you_mean(error.flagname, known)
        raise UserError(f"There is no flag --{error.flagname}.{hint} See --help.") from error
    except flags.Error as error:
        if missing := re.fullmatch("Missing value for flag --?(.*)", str(error)):
            raise UserError(f"--{missing[1]}: expected --{missing[1]}=VALUE.") from error
        raise UserError(f"{error}") from error
    for name in known:
        if values[name].present > 1:
            raise UserError(f"--{name}: expected one value, got {values[name].present}.")
    if extra:
        raise UserError(f"Unexpected argument {extra[0]!r}: flags are written --name=value.")
    given = {name: values[name].value for name in known if values[name].present}
    given = {**(base or {}), **given}
    return [cls(**{n: given[n] for n in config.options(cls) if n in given}) for cls in classes]


def check_negations(arguments: list[str], known: Mapping[str, Option]) -> None:
    """Raise `UserError` for a switch that is turned off and given a value too."""
    for word in arguments:
        match = re.match("--?no([^=]*)=", word)
        if match and match[1] in known and known[match[1]].type is bool:
            raise UserError(
                f"--no{match[1]}: expected no value; write --no{match[1]}, or --{match[1]}=false."
            )


def define(values: Any, name: str, field: Option) -> None:
    """Add the flag of one option."""
    from absl import flags

    class Parser(flags.ArgumentParser):
        def parse(self, argument: Any) -> Any:
            return config.parse(name, field, argument)

    if field.type is bool:
        flags.DEFINE_boolean(name, None, field.help, flag_values=values)
    else:
        flags.DEFINE(Parser(), name, None, field.help, flag_values=values)


def asks_for_help(arguments: list[str]) -> bool:
    """Return whether the command line asks for the list of flags."""
    return any(word in ("--help", "-h", "--helpfull") for word in arguments)
