"""Find the environment that a flag names: one of ours, or one from a user's file."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from experiments.environments.environment import Environment, Transition
from experiments.environments.named import ENVIRONMENTS
from experiments.harness.config import option
from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.user_files import load_function
from experiments.shared.own_functions import failed, shapes_of


def environment_option(default: str) -> Any:
    """Declare the field ``environment`` of a Config."""
    known = ", ".join(ENVIRONMENTS)
    help = f"what is acted in: {known}, or one of your own as FILE.py:FUNCTION, given --length"
    return option(default, help, check=environment_factory, file=True)


def environment_factory(name: str) -> Callable[[int], Environment]:
    """Return the function of a length that ``--environment=name`` stands for.

    Raises:
      UserError: for a name that is none, a file that is not there or is not Python, or a function
        that the file does not define.
    """
    if ":" in name:
        return load_function(name, "--environment")
    if name not in ENVIRONMENTS:
        raise UserError(
            f"--environment: expected one of {', '.join(ENVIRONMENTS)}, or FILE.py:FUNCTION, got "
            f"{name!r}.{did_you_mean(name, ENVIRONMENTS)}"
        )
    return ENVIRONMENTS[name]


def make_environment(name: str, length: int) -> Environment:
    """Build the environment that ``--environment=name`` stands for.

    Raises:
      UserError: as `environment_factory` does, and where the user's own function raises an error,
        or returns anything but an environment that keeps to `Environment`.
    """
    environment = called(name, f"with a length of {length},", environment_factory(name), length)
    if not isinstance(environment, Environment):
        raise UserError(
            f"--environment: expected {name} to return an Environment, of "
            f"experiments.environments.environment, got {type(environment).__name__}."
        )
    if ":" in name:
        check_functions(name, environment)
    return environment


def called(name: str, what: str, function: Callable[..., Any], *given: Any) -> Any:
    """Call the user's own function, whose errors become sentences with their place."""
    try:
        return function(*given)
    except Exception as error:  # whatever it raises
        raise UserError(failed("--environment", what, name, error)) from error


def check_functions(name: str, environment: Environment) -> None:
    """Raise `UserError` where reset or step fail, or return other shapes than they must."""
    key, action = jax.random.key(0), jnp.int32(0)
    shaped = jax.eval_shape
    reset = called(name, "reset of", shaped, environment.reset, key)
    check_pair(name, "reset", "(state, observation)", reset)
    state, observation = reset
    step = called(name, "a step of", shaped, environment.step, key, state, action)
    check_pair(name, "step", "(state, Transition)", step)
    after, transition = step
    if not isinstance(transition, Transition):
        got = type(transition).__name__
        raise UserError(
            f"--environment: expected step of {name} to return a Transition, got {got}."
        )
    seen = f"float32[{environment.observation_size}]"
    for what, found, expected in (
        ("the observation of reset", observation, seen),
        ("the observation of a step", transition.observation, seen),
        ("the reward", transition.reward, "float32[]"),
        ("terminated", transition.terminated, "bool[]"),
        ("truncated", transition.truncated, "bool[]"),
    ):
        if shapes_of(found) != expected:
            raise UserError(
                f"--environment: expected {what} of {name} to be {expected}, got "
                f"{shapes_of(found)}."
            )
    if shapes_of(state) != shapes_of(after):
        raise UserError(
            f"--environment: a step of {name} must return a state like that of reset, "
            f"{shapes_of(state)}, but returns {shapes_of(after)}."
        )


def check_pair(name: str, function: str, form: str, found: Any) -> None:
    """Raise `UserError` where a function has not returned what it must."""
    if not isinstance(found, tuple) or len(found) != 2:
        got = type(found).__name__
        raise UserError(
            f"--environment: expected {function} of {name} to return {form}, got {got}."
        )
