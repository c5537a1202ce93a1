"""How weights and biases start: functions ``(key, shape) -> array``, and names for them.

The kernels of a cell are drawn block by block: one ``[D, H]`` or ``[H, H]`` for each gate, and one
``[H]`` for each gate's bias. A cell's factory takes a function or its name::

    lstm(28, 128, recurrent_init="orthogonal", input_init=identity(0.1), bias_init="zeros")
"""

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Initializer = Callable[..., Array]

_glorot_uniform = jax.nn.initializers.glorot_uniform()
_glorot_normal = jax.nn.initializers.glorot_normal()
_lecun_normal = jax.nn.initializers.lecun_normal()
_orthogonal = jax.nn.initializers.orthogonal()


def glorot_uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform within ``+-sqrt(6 / (rows + columns))``.

    References:
      Glorot & Bengio, Understanding the difficulty of training deep feedforward neural
      networks, AISTATS 2010.
    """
    return _glorot_uniform(key, shape)


def glorot_normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Normal of variance ``2 / (rows + columns)``, cut off at two standard deviations.

    The standard deviation is that after the cut.

    References:
      Glorot & Bengio 2010, whose normal distribution is not cut off.
    """
    return _glorot_normal(key, shape)


def lecun_normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Normal of variance ``1 / rows``, cut off at two standard deviations.

    The standard deviation is that after the cut.

    References:
      LeCun et al., Efficient backprop, 1998, whose distribution is not cut off.
    """
    return _lecun_normal(key, shape)


def orthogonal(key: Array, shape: tuple[int, ...]) -> Array:
    """Rows or columns, whichever are fewer, of a random orthogonal matrix.

    References:
      Saxe et al. 2013, Exact solutions to the nonlinear dynamics of learning in deep linear
      neural networks, arXiv:1312.6120.
    """
    return _orthogonal(key, shape)


def identity(scale: float = 1.0) -> Initializer:
    """``scale`` on the diagonal, 0 elsewhere; the same for every key.

    Raises (the initialiser):
      ValueError: for a shape that is not a matrix's.

    References:
      Le et al. 2015, A simple way to initialize recurrent networks of rectified linear units,
      arXiv:1504.00941.
    """

    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        if len(shape) != 2:
            raise ValueError(f"identity: expected the shape of a matrix, got {list(shape)}.")
        return scale * jnp.eye(*shape)

    return draw


def torch_uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform within ``+-1 / sqrt(H)``, H being the last size: that of a gate's block.

    For kernels and biases alike it is how ``torch.nn.RNN``, ``LSTM`` and ``GRU`` start::

        gru(D, H, **dict.fromkeys(["input_init", "recurrent_init", "bias_init"], torch_uniform))

    Torch has two biases everywhere; where a cell of ours has one, it starts with half the
    variance of their sum.
    """
    limit = 1 / math.sqrt(shape[-1])
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def zeros(key: Array, shape: tuple[int, ...]) -> Array:
    """Zeros, for every key."""
    return jnp.zeros(shape)


class GateBias(NamedTuple):
    """An initialiser for ``bias_init`` that knows which block belongs to which gate.

    Attributes:
      draw: ``(key, gates, hidden_size) -> [len(gates) * hidden_size]``, with the names of the
        gates in the order of their blocks: ``"forget"`` or ``"update"`` is the gate that multiplies
        the old state, ``"input"`` the one that multiplies its candidate.
    """

    draw: Callable[[Array, tuple[str, ...], int], Array]


def chrono(longest: float) -> GateBias:
    """Biases that make a gated cell remember for 1 to ``longest`` steps, for ``bias_init``.

    Equation: ``b_keep = log u``, ``b_write = -log u``, with u uniform from 1 to ``longest - 1``
    for each unit and 0 for the other gates. An LSTM has both gates; a GRU's update gate keeps.

    Args:
      longest: T_max, the longest dependency that is expected, in steps; above 2.

    Raises:
      ValueError: for a ``longest`` of 2 or less; when drawn for a cell with neither gate.

    References:
      Tallec & Ollivier 2018, Can recurrent neural networks warp time?, arXiv:1804.11188. A
      constant forget bias would be added to theirs, so the factories ask for ``forget_bias=0``.
    """
    if not longest > 2:
        raise ValueError(f"longest: expected above 2 steps, got {longest}.")
    signs = {"forget": 1.0, "update": 1.0, "input": -1.0}

    def draw(key: Array, gates: tuple[str, ...], hidden_size: int) -> Array:
        if not signs.keys() & set(gates):
            raise ValueError(
                "bias_init: chrono needs a cell with a gate called 'forget', 'update' or "
                f"'input', got one with the gates {list(gates)}."
            )
        log_time = jnp.log(jax.random.uniform(key, (hidden_size,), minval=1, maxval=longest - 1))
        return jnp.concatenate([signs.get(gate, 0.0) * log_time for gate in gates])

    return GateBias(draw)


_BY_NAME: dict[str, Initializer] = {
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "lecun_normal": lecun_normal,
    "orthogonal": orthogonal,
    "identity": identity(),
    "torch_uniform": torch_uniform,
    "zeros": zeros,
}


def resolve(choice: Initializer | str, argument: str) -> Initializer:
    """The initialiser that ``choice`` names, or ``choice`` itself where it is a function.

    Raises:
      ValueError: for another name or another thing; it calls it ``argument``.
    """
    if callable(choice):
        return choice
    if isinstance(choice, str) and choice in _BY_NAME:
        return _BY_NAME[choice]
    if choice == "chrono":
        raise ValueError(
            f"{argument}: chrono needs the longest dependency that is expected, in steps, as in "
            "bias_init=recurrent.initializers.chrono(784)."
        )
    close = difflib.get_close_matches(str(choice), _BY_NAME, n=1)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    raise ValueError(
        f"{argument}: expected one of {', '.join(_BY_NAME)}, or a function (key, shape) -> array, "
        f"got {choice!r}.{hint}"
    )


def init_blocks(draw: Initializer, key: Array, shape: tuple[int, ...], blocks: int) -> Array:
    """``blocks`` arrays of a shape, each with a key of its own, side by side on the last axis."""
    keys = jax.random.split(key, blocks)
    return jnp.concatenate([draw(k, shape) for k in keys], axis=-1)


def init_bias(draw: Any, key: Array, gates: tuple[str, ...], hidden_size: int) -> Array:
    """The bias of all gates ``[len(gates) * hidden_size]``."""
    if isinstance(draw, GateBias):
        return draw.draw(key, gates, hidden_size)
    return init_blocks(draw, key, (hidden_size,), len(gates))
