"""Initialize weights and biases by functions ``(key, shape) -> array``, or by their names.

The kernels of a cell are drawn block by block: one ``[D, H]`` or ``[H, H]`` for each gate, and one
``[H]`` for each gate's bias. The function that builds a cell takes an initializer or its name::

    lstm(28, 128, recurrent_init="orthogonal", input_init=identity(0.1), bias_init="zeros")

Example:
  >>> import jax
  >>> from recurrent import lstm
  >>> from recurrent.initializers import identity
  >>> cell = lstm(2, 3, recurrent_init=identity(0.5), bias_init="zeros")
  >>> params = cell.init(jax.random.key(0))
  >>> params["recurrent"]["kernel"].shape  # one block [H, H] for each of the four gates
  (3, 12)
  >>> params["recurrent"]["kernel"][:, 3:6].tolist()  # that of the forget gate
  [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]
"""

import difflib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from recurrent.errors import ArgumentError

Initializer = Callable[..., Array]

_glorot_uniform = jax.nn.initializers.glorot_uniform()
_glorot_normal = jax.nn.initializers.glorot_normal()
_lecun_normal = jax.nn.initializers.lecun_normal()
_orthogonal = jax.nn.initializers.orthogonal()


def glorot_uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw from a uniform distribution within ``+-sqrt(6 / (rows + columns))``.

    References:
      Glorot & Bengio, Understanding the difficulty of training deep feedforward neural
      networks, AISTATS 2010.

    Example:
      >>> import jax
      >>> from recurrent.initializers import glorot_uniform
      >>> kernel = glorot_uniform(jax.random.key(0), (2, 4))
      >>> kernel.shape, bool((abs(kernel) <= 1).all())  # sqrt(6 / (2 + 4)) = 1
      ((2, 4), True)
    """
    return _glorot_uniform(key, shape)


def glorot_normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw from a truncated normal distribution of variance ``2 / (rows + columns)``.

    A normal distribution is cut off at two of its standard deviations and scaled, so that the
    variance is the stated one after the truncation.

    References:
      Glorot & Bengio 2010, whose normal distribution is not truncated.

    Example:
      >>> import jax
      >>> from recurrent.initializers import glorot_normal
      >>> glorot_normal(jax.random.key(0), (2, 4)).shape
      (2, 4)
    """
    return _glorot_normal(key, shape)


def lecun_normal(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw from a truncated normal distribution of variance ``1 / rows``.

    A normal distribution is cut off at two of its standard deviations and scaled, so that the
    variance is the stated one after the truncation.

    References:
      LeCun et al., Efficient backprop, 1998, whose distribution is not truncated.

    Example:
      >>> import jax
      >>> from recurrent.initializers import lecun_normal
      >>> lecun_normal(jax.random.key(0), (2, 4)).shape
      (2, 4)
    """
    return _lecun_normal(key, shape)


def orthogonal(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw a matrix whose rows or columns, whichever are fewer, are orthonormal.

    They are taken from a random orthogonal matrix.

    References:
      Saxe et al. 2013, Exact solutions to the nonlinear dynamics of learning in deep linear
      neural networks, arXiv:1312.6120.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent.initializers import orthogonal
      >>> kernel = orthogonal(jax.random.key(0), (3, 3))
      >>> bool(jnp.allclose(kernel @ kernel.T, jnp.eye(3), atol=1e-2))
      True
    """
    return _orthogonal(key, shape)


def identity(scale: float = 1.0) -> Initializer:
    """Return an initializer that sets ``scale`` on the diagonal and 0 elsewhere, for every key.

    Args:
      scale: the value on the diagonal.

    Returns:
      The initializer. It raises `ValueError` if the shape does not have two axes.

    References:
      Le et al. 2015, A simple way to initialize recurrent networks of rectified linear units,
      arXiv:1504.00941.

    Example:
      >>> import jax
      >>> from recurrent.initializers import identity
      >>> identity(0.5)(jax.random.key(0), (2, 3)).tolist()
      [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]
    """

    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        if len(shape) != 2:
            raise ArgumentError(f"identity: expected the shape of a matrix, got {list(shape)}.")
        return scale * jnp.eye(*shape)

    return draw


def torch_uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Draw from a uniform distribution within ``+-1 / sqrt(H)``, where H is the last size.

    The last size is the number of hidden units, since each gate's block is drawn by itself. So
    ``torch.nn.RNN``, ``LSTM`` and ``GRU`` initialize kernels and biases alike::

        gru(D, H, **dict.fromkeys(["input_init", "recurrent_init", "bias_init"], torch_uniform))

    Torch has two biases everywhere; in a cell of this library with one, that bias starts with half
    the variance of their sum.

    Example:
      >>> import jax
      >>> from recurrent.initializers import torch_uniform
      >>> block = torch_uniform(jax.random.key(0), (3, 4))
      >>> block.shape, bool((abs(block) <= 0.5).all())  # 1 / sqrt(4)
      ((3, 4), True)
    """
    limit = 1 / math.sqrt(shape[-1])
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


def zeros(key: Array, shape: tuple[int, ...]) -> Array:
    """Return zeros, for every key.

    Example:
      >>> import jax
      >>> from recurrent.initializers import zeros
      >>> zeros(jax.random.key(0), (3,)).tolist()
      [0.0, 0.0, 0.0]
    """
    return jnp.zeros(shape)


class GateBias(NamedTuple):
    """Hold an initializer for ``bias_init`` that draws each gate's block by the gate's name.

    Attributes:
      draw: ``(key, gates, hidden_size) -> [len(gates) * hidden_size]``, with the names of the
        gates in the order of their blocks: ``"forget"`` or ``"update"`` is the gate that multiplies
        the old state, ``"input"`` the one that multiplies its candidate.
    """

    draw: Callable[[Array, tuple[str, ...], int], Array]


def chrono(longest: float) -> GateBias:
    """Return an initializer of gate biases that spreads the memory over 1 to ``longest`` steps.

    It is made for the ``bias_init`` of a gated cell.

    Equation: ``b_forget = log u``, ``b_input = -log u``, with u uniform from 1 to ``longest - 1``
    for each unit; the biases of other gates are 0. An LSTM has both gates; in a GRU the update
    gate takes the part of the forget gate.

    Args:
      longest: T_max, the longest dependency that is expected, in steps; above 2.

    Returns:
      The initializer. It raises `ValueError` when it draws for a cell with neither gate.

    Raises:
      ValueError: for a ``longest`` of 2 or less.

    References:
      Tallec & Ollivier 2018, Can recurrent neural networks warp time?, arXiv:1804.11188. A
      constant forget bias would be added to theirs, so the cells then require ``forget_bias=0``.

    Example:
      >>> import jax
      >>> from recurrent import lstm
      >>> from recurrent.initializers import chrono
      >>> cell = lstm(3, 4, bias_init=chrono(longest=784), forget_bias=0.0)
      >>> bias = cell.init(jax.random.key(0))["input"]["bias"]  # blocks i, f, g, o
      >>> input_gate, forget_gate = bias[:4], bias[4:8]
      >>> bool((forget_gate >= 0).all()), bool((input_gate == -forget_gate).all())
      (True, True)
    """
    if not longest > 2:
        raise ArgumentError(f"longest: expected above 2 steps, got {longest}.")
    signs = {"forget": 1.0, "update": 1.0, "input": -1.0}

    def draw(key: Array, gates: tuple[str, ...], hidden_size: int) -> Array:
        if not signs.keys() & set(gates):
            raise ArgumentError(
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
    """Return the initializer of this name, or ``choice`` itself if it is a function.

    Args:
      choice: an initializer or its name.
      argument: the name of the argument that ``choice`` was given for, used in error messages.

    Raises:
      ValueError: for an unknown name, or for anything that is neither a name nor a function.

    Example:
      >>> from recurrent.initializers import orthogonal, resolve
      >>> resolve("orthogonal", "recurrent_init") is orthogonal
      True
    """
    if callable(choice):
        return choice
    if isinstance(choice, str) and choice in _BY_NAME:
        return _BY_NAME[choice]
    if choice == "chrono":
        raise ArgumentError(
            f"{argument}: chrono needs the longest dependency that is expected, in steps, as in "
            "bias_init=recurrent.initializers.chrono(784)."
        )
    close = difflib.get_close_matches(str(choice), _BY_NAME, n=1)
    hint = f' Did you mean "{close[0]}"?' if close else ""
    raise ArgumentError(
        f"{argument}: expected one of {', '.join(_BY_NAME)}, or a function (key, shape) -> array, "
        f"got {choice!r}.{hint}"
    )


def init_blocks(draw: Initializer, key: Array, shape: tuple[int, ...], blocks: int) -> Array:
    """Draw several arrays of a shape, each with its own key, and join them along the last axis.

    Args:
      draw: the initializer.
      key: the key, which is split into one for each array.
      shape: the shape of each array.
      blocks: how many arrays to draw.

    Example:
      >>> import jax
      >>> from recurrent.initializers import identity, init_blocks
      >>> init_blocks(identity(), jax.random.key(0), (2, 2), blocks=2).tolist()
      [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]
    """
    keys = jax.random.split(key, blocks)
    return jnp.concatenate([draw(k, shape) for k in keys], axis=-1)


def init_bias(draw: Any, key: Array, gates: tuple[str, ...], hidden_size: int) -> Array:
    """Draw the biases of all gates, joined into one array ``[len(gates) * hidden_size]``.

    Args:
      draw: an initializer, applied to each gate's ``[hidden_size]``, or a `GateBias`.
      key: the key.
      gates: the names of the gates, in the order of their blocks.
      hidden_size: H.

    Example:
      >>> import jax
      >>> from recurrent.initializers import init_bias, zeros
      >>> init_bias(zeros, jax.random.key(0), ("reset", "update"), hidden_size=3).shape
      (6,)
    """
    if isinstance(draw, GateBias):
        return draw.draw(key, gates, hidden_size)
    return init_blocks(draw, key, (hidden_size,), len(gates))
