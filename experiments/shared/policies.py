"""Build the network of a policy, as a Config describes it."""

from typing import Any

import jax
import jax.numpy as jnp

import recurrent
from experiments.environments.environment import Environment
from experiments.shared.acting import Agent, input_size
from experiments.shared.cell_flag import make_cell

TRUNK, POLICY, VALUE = 2**0.5, 0.01, 1.0  # gains of the orthogonal kernels


def policy_agent(config: Any, environment: Environment) -> Agent:
    """Return the agent whose network has the fields ``memory``, ``cell`` and ``hidden_size``.

    Raises:
      UserError: for a cell that looks ahead, or has no step.
    """
    size, remembers = config.hidden_size, config.memory == "recurrent"
    inputs = input_size(environment, reads_action=remembers)
    encoder = [scaled_dense(inputs, size, TRUNK), tanh()]
    if remembers:
        parts = [*encoder, make_cell(config.cell, size, size, causal=config.horizon)]
    else:
        parts = [*encoder, scaled_dense(size, size, TRUNK), tanh()]
    core = recurrent.stack(*parts, input_shape=(inputs,))
    (width,) = recurrent.output_shape(core)
    return Agent(
        environment=environment,
        core=core,
        policy=scaled_dense(width, environment.actions, POLICY),
        value=scaled_dense(width, 1, VALUE),
        reads_action=remembers,
    )


def scaled_dense(input_size: int, output_size: int, gain: float) -> recurrent.Layer:
    """Build a dense layer whose kernel is orthogonal times a gain."""
    draw = jax.nn.initializers.orthogonal(gain)
    return recurrent.dense(input_size, output_size, kernel_init=draw)


def tanh() -> recurrent.Layer:
    """Build the layer that takes the hyperbolic tangent."""
    return recurrent.Layer(lambda key: {}, lambda params, x: jnp.tanh(x))
