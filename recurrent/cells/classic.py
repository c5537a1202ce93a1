"""Build the classic cells, each from a gate function of a few lines: its paper's equation.

Where a function takes ``**options``, they are the initializers and ``compute_dtype`` of
`recurrent.gated`, whose docstring also describes the params and the errors.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer
from jax.nn import sigmoid

from recurrent.cell import Cell, Params, check_sizes, in_one_type
from recurrent.cells._gated_loop import Blocks, GateVJP
from recurrent.cells._named import named
from recurrent.cells.gates import Hidden, gated, gated_cell, reparametrized
from recurrent.errors import ArgumentError
from recurrent.initializers import GateBias, Initializer, identity, init_bias, init_blocks, resolve
from recurrent.linear_map import Maps, dense_map, dense_maps, derived_map, product

Reset = Literal["after", "before"]
Activation = Callable[[Array], Array]

_ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "sigmoid": sigmoid}
# The derivative of each, as a function of its result.
_SLOPES: dict[str, Activation] = {
    "tanh": lambda h: 1 - h**2,
    "relu": lambda h: (h > 0).astype(h.dtype),
    "sigmoid": lambda h: h * (1 - h),
}


def elman(
    input_size: int, hidden_size: int, *, activation: str | Activation = "tanh", **options: Any
) -> Cell:
    """Build the simple recurrent network of Elman, also called the vanilla RNN.

    Equation: ``h_t = f(W_hh h_{t-1} + W_xh x_t + b_h)``, ``y_t = h_t``.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      activation: f, one of ``"tanh"``, ``"relu"``, ``"sigmoid"``, or a function.
      **options: initializers and ``compute_dtype``, as in `recurrent.gated`.

    Raises:
      ValueError: for an unknown activation or a size below 1.

    References:
      Elman, Finding structure in time, Cognitive Science 14, 1990. Departure: the readout is
      not part of the cell; see `recurrent.dense`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import elman, unroll
      >>> cell = elman(input_size=3, hidden_size=4, activation="relu")
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> state, ys = unroll(cell, params, xs)
      >>> ys.shape, bool((ys >= 0).all()), bool((state.hidden == ys[-1]).all())
      ((5, 2, 4), True, True)
    """
    f = _activation(activation)

    def gate(zx, zh, state):
        return _elman_forward(f, zx, zh, state)[0]

    vjp = elman_vjp(f, _SLOPES[activation]) if isinstance(activation, str) else None
    return gated(gate, input_size, hidden_size, gates=1, gate_vjp=vjp, **options)


def elman_vjp(f: Activation, slope: Activation) -> GateVJP:
    """Return the gate of `elman` with its backward pass, whose only residual is h.

    Args:
      f: the activation function.
      slope: the derivative of f, as a function of h.
    """

    def backward(kept, _, before, d_new):
        return [d_new.hidden * slope(kept[0])], [], Hidden(jnp.zeros_like(kept[0]))

    return GateVJP(partial(_elman_forward, f), backward, frozenset({0}))


def _elman_forward(f, zx, zh, state):
    h = named("hidden", f, zx[0] + zh[0])
    return Hidden(h), [h], []


def irnn(input_size: int, hidden_size: int, *, scale: float = 1.0, **options: Any) -> Cell:
    """Build an Elman network of rectified linear units, initialized with W_hh as the identity.

    Equation: ``h_t = relu(W_hh h_{t-1} + W_xh x_t + b_h)``, ``y_t = h_t``. With the identity, the
    new state is the old one plus the contribution of the input, rectified.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      scale: a factor of the identity; the paper takes 0.01 for tasks without long memory.
      **options: initializers and ``compute_dtype``, as in `recurrent.gated`.

    References:
      Le et al. 2015, arXiv:1504.00941, which also draws the input kernel from a normal
      distribution with a standard deviation of 0.001.

    Example:
      >>> import jax
      >>> from recurrent import irnn
      >>> irnn(input_size=3, hidden_size=2).init(jax.random.key(0))["recurrent"]["kernel"].tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    initializers = {
        "recurrent_init": identity(scale),
        "input_init": jax.nn.initializers.normal(0.001),
    }
    return elman(input_size, hidden_size, activation="relu", **(initializers | options))


class LSTMState(NamedTuple):
    """Hold the state of an LSTM: ``hidden`` is h and ``cell`` is c, each ``[..., H]``."""

    hidden: Array
    cell: Array


def lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = 1.0,
    peepholes: bool = False,
    coupled: bool = False,
    peephole_init: Initializer | str = "zeros",
    **options: Any,
) -> Cell:
    """Build a long short-term memory (LSTM).

    Equation, with z = x_t W_x + h_{t-1} W_h + b in the gate order i, f, g, o:
    ``c_t = sigmoid(f + forget_bias) c_{t-1} + sigmoid(i) tanh(g)``,
    ``h_t = sigmoid(o) tanh(c_t)``, ``y_t = h_t``.

    With peepholes, ``p_i c_{t-1}`` is added to i, ``p_f c_{t-1}`` to f and ``p_o c_t`` to o. With
    coupled gates there is no f: ``c_t = (1 - s) c_{t-1} + s tanh(g)``, ``s = sigmoid(i -
    forget_bias)``.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      forget_bias: a constant added to the pre-activation of the forget gate, besides the trained
        bias. It must be 0 with `recurrent.initializers.chrono`, which sets the trained bias.
      peepholes: whether the gates read c as well, each weighted by a vector ``[H]``: ``"input"``,
        ``"forget"`` and ``"output"`` in ``params["gate"]``.
      coupled: whether the forget gate is 1 minus the input gate.
      peephole_init: draws each peephole's ``[H]``.
      **options: initializers and ``compute_dtype``, as in `recurrent.gated`.

    Raises:
      ValueError: for a constant forget bias together with `recurrent.initializers.chrono`.

    References:
      Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000; its bias of 1: Jozefowicz
      et al. 2015; peepholes: Gers & Schmidhuber, Recurrent nets that time and count, 2000; coupled
      gates: Greff et al. 2015, arXiv:1503.04069 (CIFG). Departures: one bias where torch and cuDNN
      have two; peepholes are initialized to zero.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import lstm, unroll
      >>> cell = lstm(input_size=3, hidden_size=4)
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> state, ys = unroll(cell, params, xs)
      >>> ys.shape, state.hidden.shape, state.cell.shape
      ((5, 2, 4), (2, 4), (2, 4))
    """
    check_forget_bias(forget_bias, options)
    gates = ("input", "candidate", "output") if coupled else LSTM_GATES
    peephole_init = resolve(peephole_init, "peephole_init")
    names = ("input", "output") if coupled else ("input", "forget", "output")

    def peephole_params(key):
        keys = jax.random.split(key, len(names))
        draws = zip(names, keys, strict=True)
        return {name: peephole_init(key, (hidden_size,)) for name, key in draws}

    def gate(zx, zh, state, **peephole):
        return lstm_gate(list(map(jnp.add, zx, zh)), state, forget_bias, **peephole)

    return gated(
        gate,
        input_size,
        hidden_size,
        gates=gates,
        state=LSTMState,
        gate_params=peephole_params if peepholes else None,
        gate_vjp=None if peepholes or coupled else lstm_vjp(forget_bias),
        **options,
    )


LSTM_GATES = ("input", "forget", "candidate", "output")


def lstm_gate(
    z: list[Array],
    state: LSTMState,
    forget_bias: float,
    input: Array | None = None,
    forget: Array | None = None,
    output: Array | None = None,
) -> LSTMState:
    """Apply the equation of `lstm` to given pre-activations.

    Args:
      z: the pre-activations i, f, g, o, or i, g, o for coupled gates, each ``[..., H]``.
      state: the state before the step.
      forget_bias: a constant added to f, or subtracted from i for coupled gates.
      input: the peephole of the input gate, which broadcasts against c; None for none.
      forget: the same for the forget gate.
      output: the same for the output gate.

    Returns:
      The state after the step.
    """
    i, *f, g, o = z
    i = _peep(i, input, state.cell)
    if f:
        input_gate = named("input", sigmoid, i)
        f = _peep(f[0], forget, state.cell) + forget_bias
        forget_gate = named("forget", sigmoid, f)
    else:
        input_gate = named("input", sigmoid, i - forget_bias)
        # 1 - input_gate, computed without cancellation
        forget_gate = named("forget", sigmoid, forget_bias - i)
    cell = forget_gate * state.cell + input_gate * named("candidate", jnp.tanh, g)
    output_gate = named("output", sigmoid, _peep(o, output, cell))
    return LSTMState(output_gate * named("cell", jnp.tanh, cell), cell)


def lstm_vjp(forget_bias: float) -> GateVJP:
    """Return `lstm_gate` without peepholes, with its backward pass.

    The residuals are the four activations, so that no sigmoid is computed twice.
    """

    def forward(zx, zh, state):
        i, f, g, o = map(jnp.add, zx, zh)
        i, f, g, o = sigmoid(i), sigmoid(f + forget_bias), jnp.tanh(g), sigmoid(o)
        cell = f * state.cell + i * g
        return LSTMState(o * jnp.tanh(cell), cell), [i, f, g, o], []

    def backward(activations, _, before, d_new):
        i, f, g, o = activations
        squashed = jnp.tanh(f * before.cell + i * g)
        d_cell = d_new.cell + d_new.hidden * o * (1 - squashed**2)
        d_i = d_cell * g * i * (1 - i)
        d_f = d_cell * before.cell * f * (1 - f)
        d_g = d_cell * i * (1 - g**2)
        d_o = d_new.hidden * squashed * o * (1 - o)
        return [d_i, d_f, d_g, d_o], [], LSTMState(jnp.zeros_like(d_cell), d_cell * f)

    return GateVJP(forward, backward, frozenset(range(4)))


def _peep(z: Array, peephole: Array | None, cell: Array) -> Array:
    return z if peephole is None else z + peephole * cell


def check_forget_bias(forget_bias: float, options: dict[str, Any]) -> None:
    """Check that no constant is added to the forget gate of a cell with a `GateBias`.

    Raises:
      ValueError: for a ``forget_bias`` other than 0 together with such a ``"bias_init"``.
    """
    if isinstance(options.get("bias_init"), GateBias) and forget_bias:
        raise ArgumentError(
            f"forget_bias: expected 0 beside chrono, which sets the forget gate's own bias, "
            f"got {forget_bias}."
        )


def lstmp(
    input_size: int,
    hidden_size: int,
    *,
    cell_size: int | None = None,
    forget_bias: float = 1.0,
    input_init: Initializer | str = "glorot_uniform",
    recurrent_init: Initializer | str = "orthogonal",
    bias_init: Initializer | GateBias | str = "zeros",
    projection_init: Initializer | str = "glorot_uniform",
    compute_dtype: Any = None,
) -> Cell:
    """Build an LSTM that projects its output to fewer units than its memory has.

    Equation, with z = x_t W_x + h_{t-1} W_h + b in the gate order i, f, g, o:
    ``c_t = sigmoid(f + forget_bias) c_{t-1} + sigmoid(i) tanh(g)``,
    ``h_t = (sigmoid(o) tanh(c_t)) W_p``, ``y_t = h_t``.

    Args:
      input_size: D.
      hidden_size: H, the size of the output, which torch calls ``proj_size``.
      cell_size: C, the size of c, which torch calls ``hidden_size``; ``2 H`` by default.
      forget_bias: a constant added to the forget gate, as in `lstm`.
      input_init: draws each gate's block ``[D, C]``.
      recurrent_init: draws each gate's block ``[H, C]``.
      bias_init: draws each gate's bias ``[C]``, as in `recurrent.gated`.
      projection_init: draws ``[H, C]``, the transpose of W_p.
      compute_dtype: the type of the products' operands, as in `recurrent.gated`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, 4 C], "bias": [4 C]}, "recurrent":
      {"kernel": [H, 4 C]}, "gate": {"projection": [C, H]}}`` and the state `LSTMState`, whose
      ``cell`` is ``[..., C]``.

    Raises:
      ValueError: for a size below 1, an unknown initializer, or a constant forget bias together
        with `recurrent.initializers.chrono`.

    References:
      Sak et al. 2014, Long short-term memory based recurrent neural network architectures for
      large vocabulary speech recognition, arXiv:1402.1128. Departures: no peepholes, and no
      second, non-recurrent projection.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import lstmp, unroll
      >>> cell = lstmp(input_size=3, hidden_size=4, cell_size=6)
      >>> params = jax.eval_shape(cell.init, jax.random.key(0))  # shapes only, nothing is computed
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> state, ys = jax.eval_shape(lambda params: unroll(cell, params, xs), params)
      >>> ys.shape, state.hidden.shape, state.cell.shape
      ((5, 2, 4), (2, 4), (2, 6))
    """
    cells = 2 * hidden_size if cell_size is None else cell_size
    check_sizes(input_size=input_size, hidden_size=hidden_size, cell_size=cells)
    check_forget_bias(forget_bias, {"bias_init": bias_init})
    input_init = resolve(input_init, "input_init")
    recurrent_init = resolve(recurrent_init, "recurrent_init")
    projection_init = resolve(projection_init, "projection_init")
    bias_init = bias_init if isinstance(bias_init, GateBias) else resolve(bias_init, "bias_init")

    def init(key: Array) -> Params:
        keys = jax.random.split(key, 4)
        return {
            "input": {
                "kernel": init_blocks(input_init, keys[0], (input_size, cells), 4),
                "bias": init_bias(bias_init, keys[1], LSTM_GATES, cells),
            },
            "recurrent": {"kernel": init_blocks(recurrent_init, keys[2], (hidden_size, cells), 4)},
            "gate": {"projection": projection_init(keys[3], (hidden_size, cells)).T},
        }

    def gate(extra: dict[str, Array], zx: Blocks, zh: Blocks, state: LSTMState) -> LSTMState:
        new = lstm_gate(jnp.split(zx[0] + zh[0], 4, -1), state, forget_bias)
        return new._replace(hidden=product(new.hidden, extra["projection"], compute_dtype))

    maps = dense_maps(compute_dtype)
    return gated_cell(init, gate, (input_size,), LSTMState, [(hidden_size,), (cells,)], maps)


def gru(
    input_size: int,
    hidden_size: int,
    *,
    reset: Reset = "after",
    recurrent_init: Initializer | str = "orthogonal",
    compute_dtype: Any = None,
    **options: Any,
) -> Cell:
    """Build a gated recurrent unit (GRU).

    Equation, in the gate order r, u, n:
    ``r = sigmoid(zx_r + zh_r)``, ``u = sigmoid(zx_u + zh_u)``, ``n = tanh(zx_n + r zh_n)``,
    ``h_t = (1 - u) n + u h_{t-1}``, ``y_t = h_t``, where zx and zh have a bias each.

    With the reset before the product, ``n = tanh(zx_n + (r h_{t-1}) W_n)``, and there is only one
    bias; W_n is ``params["gate"]["kernel"]``, ``[H, H]``. Each step then has two products, one
    after the other.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      reset: whether r is applied ``"after"`` the product with W_n, or ``"before"`` it.
      recurrent_init: draws each gate's block ``[H, H]``, W_n included.
      compute_dtype: the type of the products' operands, as in `recurrent.gated`.
      **options: initializers and ``compute_dtype``, as in `recurrent.gated`.

    Raises:
      ValueError: for a ``reset`` other than ``"after"`` and ``"before"``.

    References:
      Cho et al. 2014, arXiv:1406.1078; ``"before"`` is the form of its version 3 and of Chung et
      al. 2014, ``"after"`` that of its version 1, of cuDNN and of torch. Departure: u multiplies
      the old state, as in Cho et al. and torch, instead of the candidate, as in Chung et al.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import gru, unroll
      >>> cell = gru(input_size=3, hidden_size=4)
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> state, ys = unroll(cell, params, xs, lengths=jnp.array([5, 3]))
      >>> ys.shape, bool((ys[3:, 1] == 0).all())
      ((5, 2, 4), True)
    """
    _check_reset(reset)

    def after(zx, zh, state):
        return _gru_forward(zx, zh, state)[0]

    def before(zx, zh, state, kernel):
        r, u = _gru_gates(zx, zh)
        z = zx[2] + product(r * state.hidden, kernel, compute_dtype)
        candidate = named("candidate", jnp.tanh, z)
        return Hidden((1 - u) * candidate + u * state.hidden)

    return gated(
        after if reset == "after" else before,
        input_size,
        hidden_size,
        gates=("reset", "update", "candidate"),
        gate_vjp=GRU_VJP if reset == "after" else None,
        recurrent_bias=reset == "after",
        recurrent_init=recurrent_init,
        compute_dtype=compute_dtype,
        **_candidate_kernel(reset, hidden_size, recurrent_init, recurrent_gates=2),
        **options,
    )


def _gru_gates(zx, zh):
    return (named(name, sigmoid, zx[k] + zh[k]) for k, name in enumerate(("reset", "update")))


def _gru_forward(zx, zh, state):
    r, u = _gru_gates(zx, zh)
    n = named("candidate", jnp.tanh, zx[2] + r * zh[2])
    return Hidden((1 - u) * n + u * state.hidden), [r, u, n], [zh[2]]


def _gru_backward(activations, own, before, d_new):
    (r, u, n), (zh_n,), d_h = activations, own, d_new.hidden
    d_n = d_h * (1 - u) * (1 - n**2)
    d_r = d_n * zh_n * r * (1 - r)
    d_u = d_h * (before.hidden - n) * u * (1 - u)
    return [d_r, d_u, d_n], [d_n * r], Hidden(d_h * u)


GRU_VJP = GateVJP(_gru_forward, _gru_backward, frozenset({0, 1}))


def minimal_gated_unit(
    input_size: int,
    hidden_size: int,
    *,
    reset: Reset = "before",
    recurrent_init: Initializer | str = "orthogonal",
    compute_dtype: Any = None,
    **options: Any,
) -> Cell:
    """Build a minimal gated unit: a GRU whose reset and update gates are one forget gate.

    Equation, in the gate order f, n: ``f = sigmoid(zx_f + zh_f)``,
    ``n = tanh(zx_n + (f h_{t-1}) W_n)``, ``h_t = (1 - f) h_{t-1} + f n``, ``y_t = h_t``; or, with
    the reset after the product, ``n = tanh(zx_n + f zh_n)`` with a bias in zh.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      reset: whether f is applied ``"before"`` the product with W_n, as in the paper, or
        ``"after"`` it, which needs only one product a step.
      recurrent_init: draws each gate's block ``[H, H]``, W_n included.
      compute_dtype: the type of the products' operands, as in `recurrent.gated`.
      **options: initializers and ``compute_dtype``, as in `recurrent.gated`.

    Raises:
      ValueError: for a ``reset`` other than ``"before"`` and ``"after"``.

    References:
      Zhou et al. 2016, Minimal gated unit for recurrent neural networks, arXiv:1603.09420.
      Departure: ``reset="after"`` is not in the paper.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import minimal_gated_unit, unroll
      >>> cell = minimal_gated_unit(input_size=3, hidden_size=4)
      >>> params = cell.init(jax.random.key(0))
      >>> params["input"]["kernel"].shape, params["gate"]["kernel"].shape
      ((3, 8), (4, 4))
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> unroll(cell, params, xs)[1].shape
      (5, 2, 4)
    """
    _check_reset(reset)

    def after(zx, zh, state):
        f = named("forget", sigmoid, zx[0] + zh[0])
        candidate = named("candidate", jnp.tanh, zx[1] + f * zh[1])
        return Hidden((1 - f) * state.hidden + f * candidate)

    def before(zx, zh, state, kernel):
        f = named("forget", sigmoid, zx[0] + zh[0])
        z = zx[1] + product(f * state.hidden, kernel, compute_dtype)
        candidate = named("candidate", jnp.tanh, z)
        return Hidden((1 - f) * state.hidden + f * candidate)

    return gated(
        after if reset == "after" else before,
        input_size,
        hidden_size,
        gates=("input", "candidate"),
        recurrent_bias=reset == "after",
        recurrent_init=recurrent_init,
        compute_dtype=compute_dtype,
        **_candidate_kernel(reset, hidden_size, recurrent_init, recurrent_gates=1),
        **options,
    )


def ugrnn(
    input_size: int,
    hidden_size: int,
    *,
    activation: str | Activation = "tanh",
    forget_bias: float = 1.0,
    **options: Any,
) -> Cell:
    """Build an update gate RNN: an Elman network with one gate that mixes old and new state.

    Equation, in the gate order g, c, with z = x_t W_x + h_{t-1} W_h + b:
    ``h_t = g h_{t-1} + (1 - g) s(z_c)``, ``g = sigmoid(z_g + forget_bias)``, ``y_t = h_t``.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      activation: s, as in `elman`.
      forget_bias: a constant added to the pre-activation of the gate. It must be 0 with
        `recurrent.initializers.chrono`, which sets the trained bias.
      **options: initializers and ``compute_dtype``, as in `recurrent.gated`.

    Raises:
      ValueError: for an unknown activation, or a constant forget bias together with
        `recurrent.initializers.chrono`.

    References:
      Collins et al. 2016, Capacity and trainability in recurrent neural networks,
      arXiv:1611.09913. Departure: the constant, a hyperparameter there, is 1 by default.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import ugrnn, unroll
      >>> cell = ugrnn(input_size=3, hidden_size=4, forget_bias=30.0)  # an update gate near 1
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> ys = unroll(cell, params, xs)[1]
      >>> ys.shape, bool((abs(ys) < 1e-3).all())  # the state hardly leaves zero
      ((5, 2, 4), True)
    """
    f = _activation(activation)
    check_forget_bias(forget_bias, options)

    def gate(zx, zh, state):
        g, c = map(jnp.add, zx, zh)
        update = named("update", sigmoid, g + forget_bias)
        return Hidden(update * state.hidden + (1 - update) * named("candidate", f, c))

    return gated(gate, input_size, hidden_size, gates=("update", "candidate"), **options)


def indrnn(
    input_size: int,
    hidden_size: int,
    *,
    activation: str | Activation = "relu",
    longest: float | None = None,
    input_init: Initializer | str = "glorot_uniform",
    recurrent_init: Initializer | str | None = None,
    bias_init: Initializer | str = "zeros",
    compute_dtype: Any = None,
) -> Cell:
    """Build an independently recurrent network, whose units read no state but their own.

    Equation: ``h_t = f(W x_t + u * h_{t-1} + b)``, elementwise, ``y_t = h_t``.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      activation: f, as in `elman`.
      longest: T, the length of the sequences in steps. With rectified linear units a gradient
        grows at most like ``u^T``, so u is initialized uniformly from 0 to ``2^(1/T)``, or from 0
        to 1 if no T is given. Training does not keep u in that range: the paper clips it after
        each update.
      input_init: draws W, ``[D, H]``.
      recurrent_init: draws u, ``[H]``, instead of the uniform distribution above.
      bias_init: draws b, ``[H]``.
      compute_dtype: the type of the operands of the product with W, as in `recurrent.gated`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, H], "bias": [H]}, "recurrent": {"kernel":
      [H] (u)}}`` and the state `Hidden`.

    Raises:
      ValueError: for a size below 1, a length that is not above 0, or an unknown activation or
        initializer.

    References:
      Li et al. 2018, Independently recurrent neural network (IndRNN), arXiv:1803.04831.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import indrnn, unroll
      >>> cell = indrnn(input_size=3, hidden_size=4, longest=100)
      >>> params = cell.init(jax.random.key(0))
      >>> u = params["recurrent"]["kernel"]
      >>> u.shape, bool((u >= 0).all() & (u <= 2 ** (1 / 100)).all())
      ((4,), True)
      >>> unroll(cell, params, jnp.linspace(-1, 1, 30).reshape(5, 2, 3))[1].shape
      (5, 2, 4)
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    f = _activation(activation)
    if longest is not None and not longest > 0:
        raise ArgumentError(f"longest: expected above 0 steps, got {longest}.")
    highest = 1.0 if longest is None else 2 ** (1 / longest)
    input_init, bias_init = resolve(input_init, "input_init"), resolve(bias_init, "bias_init")
    uniform = partial(jax.random.uniform, maxval=highest)
    draw = uniform if recurrent_init is None else resolve(recurrent_init, "recurrent_init")

    def init(key: Array) -> Params:
        input_key, recurrent_key, bias_key = jax.random.split(key, 3)
        return {
            "input": {
                "kernel": input_init(input_key, (input_size, hidden_size)),
                "bias": bias_init(bias_key, (hidden_size,)),
            },
            "recurrent": {"kernel": draw(recurrent_key, (hidden_size,))},
        }

    def gate(_: Any, zx: Blocks, zh: Blocks, state: Hidden) -> Hidden:
        return Hidden(named("hidden", f, zx[0] + zh[0]))

    own = derived_map(lambda params, h: params["kernel"] * h)
    maps = Maps(dense_map(compute_dtype), own)
    return gated_cell(init, gate, (input_size,), Hidden, [(hidden_size,)], maps)


def antisymmetric_rnn(
    input_size: int,
    hidden_size: int,
    *,
    step_size: float = 0.1,
    diffusion: float = 0.01,
    gated: bool = False,
    input_init: Initializer | str = "glorot_uniform",
    recurrent_init: Initializer | str = "glorot_normal",
    bias_init: Initializer | str = "zeros",
    compute_dtype: Any = None,
) -> Cell:
    """Build an AntisymmetricRNN: Euler steps of a differential equation that preserves gradients.

    The solutions of that equation hardly grow or decay over time.

    Equation, with ``M = W - W^T - diffusion I``, whose eigenvalues all have the real part
    ``-diffusion``: ``h_t = h_{t-1} + step_size s tanh(M h_{t-1} + V x_t + b)``, ``y_t = h_t``,
    where s is 1, or ``sigmoid(M h_{t-1} + V_s x_t + b_s)`` in the gated form.

    Args:
      input_size: D, the number of input features.
      hidden_size: H, the number of hidden units.
      step_size: epsilon, above 0.
      diffusion: gamma, 0 or more.
      gated: whether a gate s scales each step.
      input_init: draws V, ``[D, H]``, and V_s in the gated form.
      recurrent_init: draws the transpose of W, ``[H, H]``.
      bias_init: draws b, ``[H]``, and b_s in the gated form.
      compute_dtype: the type of the products' operands, as in `recurrent.gated`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, H] or [D, 2 H], "bias": [H] or [2 H]},
      "recurrent": {"kernel": [H, H]}}`` and the state `Hidden`.

    Raises:
      ValueError: for a size below 1, a step size or diffusion out of range, or an unknown
        initializer.

    References:
      Chang et al. 2019, AntisymmetricRNN: a dynamical system view on recurrent neural networks,
      arXiv:1902.09689, which tunes epsilon, gamma and the variance of W (here 1 / H) for each task.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import antisymmetric_rnn, unroll
      >>> cell = antisymmetric_rnn(input_size=3, hidden_size=4, step_size=0.1)
      >>> params = cell.init(jax.random.key(0))
      >>> xs = jnp.linspace(-1, 1, 30).reshape(5, 2, 3)  # [T, B, D]
      >>> ys = unroll(cell, params, xs)[1]
      >>> ys.shape, bool((abs(ys[1:] - ys[:-1]) < 0.1).all())  # a step moves h by less than 0.1
      ((5, 2, 4), True)
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size)
    traced = isinstance(step_size, Tracer) or isinstance(diffusion, Tracer)
    if not traced and not (float(step_size) > 0 and float(diffusion) >= 0):
        raise ArgumentError(
            "step_size, diffusion: expected above 0 and at least 0, "
            f"got {step_size} and {diffusion}."
        )
    input_init, bias_init = resolve(input_init, "input_init"), resolve(bias_init, "bias_init")
    recurrent_init = resolve(recurrent_init, "recurrent_init")
    blocks = 2 if gated else 1

    def init(key: Array) -> Params:
        input_key, recurrent_key, bias_key = jax.random.split(key, 3)
        return {
            "input": {
                "kernel": init_blocks(input_init, input_key, (input_size, hidden_size), blocks),
                "bias": init_blocks(bias_init, bias_key, (hidden_size,), blocks),
            },
            "recurrent": {"kernel": recurrent_init(recurrent_key, (hidden_size, hidden_size))},
        }

    def gate(_: Any, zx: Blocks, zh: Blocks, state: Hidden) -> Hidden:
        step = step_size * named("step", jnp.tanh, zx[0] + zh[0])
        share = named("update", sigmoid, zx[1] + zh[0]) if gated else None
        return Hidden(state.hidden + (step if share is None else share * step))

    def mixing(params: Params) -> Params:
        params = in_one_type(params)
        kernel = params["recurrent"]["kernel"]
        mixed = kernel - kernel.T - diffusion * jnp.eye(hidden_size, dtype=kernel.dtype)
        return params | {"recurrent": {"kernel": mixed}}

    maps = dense_maps(compute_dtype)._replace(input_blocks=blocks)
    cell = gated_cell(init, gate, (input_size,), Hidden, [(hidden_size,)], maps)
    return reparametrized(cell, mixing)


def _activation(name: str | Activation) -> Activation:
    if callable(name):
        return name
    if name not in _ACTIVATIONS:
        raise ArgumentError(f"activation: expected one of {list(_ACTIVATIONS)}, got {name!r}.")
    return _ACTIVATIONS[name]


def _check_reset(reset: str) -> None:
    if reset not in ("after", "before"):
        raise ArgumentError(f'reset: expected "after" or "before", got {reset!r}.')


def _candidate_kernel(
    reset: Reset, hidden_size: int, recurrent_init: Initializer | str, recurrent_gates: int
) -> dict[str, Any]:
    """Return options of `gated` that move the candidate's kernel into the gate's params.

    A reset before the product needs it there; there are none for a reset after it.
    """
    if reset == "after":
        return {}
    draw = resolve(recurrent_init, "recurrent_init")
    square = hidden_size, hidden_size
    return {
        "recurrent_gates": recurrent_gates,
        "gate_params": lambda key: {"kernel": draw(key, square)},
    }
