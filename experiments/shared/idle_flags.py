"""Refuse flags that nothing would read."""

from collections.abc import Mapping
from typing import Any

from experiments.harness.config import options
from experiments.harness.errors import UserError


def check_idle(config: Any, idle: Mapping[str, str]) -> None:
    """Refuse fields that were given, or are swept, though nothing reads them.

    Args:
      config: of the run.
      idle: what each of these fields would go with, by name.

    Raises:
      UserError: for the first that has another value than its default.
    """
    for name, partner in idle.items():
        if is_given(config, name):
            raise UserError(f"--{name}: it goes with {partner}; leave it out.")


def is_given(config: Any, name: str) -> bool:
    """Return whether a field has another value than its default."""
    try:
        return getattr(config, name) != options(config)[name].default
    except UserError:  # it is swept, so that the members of one program have different values
        return True
