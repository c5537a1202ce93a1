"""The picture of why gradients vanish is of the definition: a linear network has a known rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from docs import why_gradients


@pytest.mark.long
@pytest.mark.parametrize("factor", [0.9, 1.05])
def test_a_linear_network_of_turns_loses_a_known_share_each_step(factor: float) -> None:
    def scaled(key: jax.Array, shape: tuple[int, ...], dtype: object = jnp.float32) -> jax.Array:
        return factor * jax.nn.initializers.orthogonal()(key, shape, dtype)

    cell = why_gradients.made(recurrent.elman, activation=lambda z: z, recurrent_init=scaled)
    sizes = np.asarray(jax.jit(why_gradients.dependence, static_argnums=0)(cell, jax.random.key(0)))
    # each turn sends another part of v to the inputs, which is a tenth more or less than others
    assert abs(why_gradients.rate(sizes) - np.log(factor)) < 2e-3
    assert sizes[why_gradients.FIRST] == pytest.approx(1, abs=1e-6)


def test_each_network_of_the_picture_can_be_made() -> None:
    for lines in why_gradients.networks().values():
        for name, make in lines.items():
            assert make().input_shape == (why_gradients.INPUTS,), name
