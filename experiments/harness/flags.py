"""Read a command line into checked dataclasses, and list its flags for `--help`."""

import re
from typing import Any

from absl import flags

from experiments.harness import config
from experiments.harness.config import Option
from experiments.harness.errors import UserError, did_you_mean


def take_repeated(flag: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the values of a flag that may be repeated, and the other arguments."""
    bare = flag.lstrip("-")
    own = [re.fullmatch(f"--?{bare}(.*)", word, re.S) for word in arguments]
    others = [word for word, match in zip(arguments, own, strict=True) if not match]
    return [match[1] for match in own if match], others


def read_flags(arguments: list[str], *classes: type) -> list[Any]:
    """Return a value of each dataclass from the flags, each typed and checked.

    Raises:
      UserError: for a flag that is unknown, repeated, ill-typed or out of bounds.
    """
    known = {name: field for cls in classes for name, field in config.options(cls).items()}
    values = flags.FlagValues()
    for name, field in known.items():
        define(values, name, field)
    for special in ("flagfile", "undefok"):
        if any(re.match(f"--?{special}(=|$)", word) for word in arguments):
            raise UserError(f"There is no flag --{special}. See --help.")
    try:
        _, *extra = values(["launch.sh", *arguments])
    except flags.UnrecognizedFlagError as error:
        hint = did_you_mean(error.flagname, known)
        raise UserError(f"There is no flag --{error.flagname}.{hint} See --help.") from error
    except flags.Error as error:
        raise UserError(f"{error}") from error
    for name in known:
        if values[name].present > 1:
            raise UserError(f"--{name}: expected one value, got {values[name].present}.")
    if extra:
        raise UserError(f"Unexpected argument {extra[0]!r}: flags are written --name=value.")
    given = {name: values[name].value for name in known if values[name].present}
    return [cls(**{n: given[n] for n in config.options(cls) if n in given}) for cls in classes]


class _Parser(flags.ArgumentParser):
    def __init__(self, name: str, field: Option):
        self.name, self.field = name, field

    def parse(self, argument: Any) -> Any:
        return config.parse(self.name, self.field, argument)


def define(values: flags.FlagValues, name: str, field: Option) -> None:
    """Add the flag of one option."""
    if field.type is bool:
        flags.DEFINE_boolean(name, None, field.help, flag_values=values)
    else:
        flags.DEFINE(_Parser(name, field), name, None, field.help, flag_values=values)


def asks_for_help(arguments: list[str]) -> bool:
    """Return whether the command line asks for the list of flags."""
    return any(word in ("--help", "-h", "--helpfull") for word in arguments)


def help_lines(cls: type) -> list[str]:
    """Return a line or two of help for each field of a dataclass."""
    return [help_line(*item) for item in config.options(cls).items()]


def help_line(name: str, field: Option) -> str:
    """Return one flag's type, default and meaning."""
    kinds = {int: "whole number", float: "number", bool: "true/false", str: "text"}
    kind = "|".join(field.choices) or kinds[field.type]
    star = "*" if field.traced else " "
    default = f'"{field.default}"' if field.type is str else str(field.default).lower()
    return f" {star} --{name:16} {kind}, default {default}\n{'':22} {field.help}"
