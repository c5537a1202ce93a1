"""Build cells from state space models: LRU, diagonal S5 and the selective SSM of Mamba."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from recurrent.cell import Cell, Params, check_sizes
from recurrent.cells._linear import (
    _affine,
    _normal,
    _uniform,
    _wide,
    check_projection,
    check_step_sizes,
    step_bias,
)
from recurrent.cells.linear import (
    Read,
    linear_cell,
)
from recurrent.errors import ArgumentError
from recurrent.initializers import (
    Initializer,
    lecun_normal,
    resolve,
)
from recurrent.linear_scans import Method


def lru(
    input_size: int,
    hidden_size: int,
    *,
    state_size: int | None = None,
    min_radius: float = 0.0,
    max_radius: float = 1.0,
    max_phase: float = 2 * math.pi,
    compute_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """Build the linear recurrent unit (LRU): diagonal, complex and stable by parametrization.

    Equation: ``lambda = exp(-exp(nu) + i exp(theta))``,
    ``h_t = lambda h_{t-1} + exp(gamma) (B x_t)``, ``y_t = Re(C h_t) + D x_t``, with nu, theta
    and gamma real vectors, B and C complex matrices and D a real one, all trained.

    Args:
      input_size: D.
      hidden_size: H, the size of the output.
      state_size: N, the number of complex state variables; H by default.
      min_radius: the inner radius, at least 0, of the ring in the complex plane from which lambda
        is drawn, uniformly by area.
      max_radius: the outer radius of the ring, above ``min_radius`` and at most 1.
      max_phase: the upper bound, in radians, of the phases, which are drawn uniformly from 0.
      compute_dtype: the type of the operands of matrix products, such as ``jnp.bfloat16``.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"eigenvalues": {"log_decay": [N] (nu), "log_phase": [N] (theta)},
      "input": {"kernel": [D, 2 N] (Re B, Im B), "log_gain": [N] (gamma)},
      "output": {"kernel": [2 N, H] (Re C over -Im C)}, "skip": {"kernel": [D, H]}}``, and the
      state `ComplexHidden`.

    Raises:
      ValueError: for a size below 1, or radii out of order.

    References:
      Orvieto et al. 2023, Resurrecting recurrent neural networks for long sequences,
      arXiv:2303.06349. As in the paper, gamma starts at ``log sqrt(1 - |lambda|^2)``, and B and C
      are complex normal with variances 1 / D and 2 / N. Departure: the skip connection D is a
      matrix of variance 1 / D, since input and output may differ in size; the paper's is a
      diagonal of variance 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import lru, unroll
      >>> cell = lru(input_size=3, hidden_size=4, state_size=6)
      >>> def run(key, xs):
      ...     return unroll(cell, cell.init(key), xs)
      >>> state, ys = jax.eval_shape(run, jax.random.key(0), jnp.ones((5, 2, 3)))  # shapes only
      >>> ys.shape, state.real.shape
      ((5, 2, 4), (2, 6))
    """
    states = hidden_size if state_size is None else state_size
    check_sizes(input_size=input_size, hidden_size=hidden_size, state_size=states)
    if not 0 <= min_radius < max_radius <= 1:
        raise ArgumentError(
            "min_radius, max_radius: expected 0 <= min_radius < max_radius <= 1, "
            f"got {min_radius} and {max_radius}."
        )

    def init(key: Array) -> Params:
        radius_key, phase_key, input_key, output_key, skip_key = jax.random.split(key, 5)
        area = _uniform(radius_key, states) * (max_radius**2 - min_radius**2) + min_radius**2
        area = jnp.minimum(area, 1 - 1e-6)  # rounding may give 1, where log1p(-area) is infinite
        return {
            "eigenvalues": {
                "log_decay": jnp.log(-0.5 * jnp.log(area)),
                "log_phase": jnp.log(_uniform(phase_key, states) * max_phase),
            },
            "input": {
                "kernel": _normal(input_key, (input_size, 2 * states), 0.5 / input_size),
                "log_gain": 0.5 * jnp.log1p(-area),
            },
            "output": {"kernel": _normal(output_key, (2 * states, hidden_size), 1 / states)},
            "skip": {"kernel": lecun_normal(skip_key, (input_size, hidden_size))},
        }

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        logs = jax.tree.map(_wide, params["eigenvalues"])
        a = jnp.exp(lax.complex(-jnp.exp(logs["log_decay"]), jnp.exp(logs["log_phase"])))
        drive = _complex(_affine(params["input"], x, compute_dtype))  # [..., 2 N] -> [..., N]
        gain = jnp.exp(_wide(params["input"]["log_gain"]))
        return a, gain * drive, _real_readout(params, x, compute_dtype)

    return linear_cell(init, recurrence, input_size, (states,), complex_state=True, method=method)


def diagonal_s5(
    input_size: int,
    hidden_size: int,
    *,
    state_size: int | None = None,
    blocks: int = 1,
    min_step: float = 0.001,
    max_step: float = 0.1,
    compute_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """Build the simplified state space layer (S5) in diagonal form, a discretized linear system.

    Equation, with lambda one eigenvalue of each conjugate pair of the system and learned step
    sizes ``delta = exp(log_step)`` (zero-order hold):
    ``a = exp(lambda delta)``, ``h_t = a h_{t-1} + ((a - 1) / lambda) (B x_t)``,
    ``y_t = 2 Re(C h_t) + D x_t``.

    Args:
      input_size: D.
      hidden_size: H, the size of the output.
      state_size: N, the size of the real system, held as N / 2 complex state variables; a
        multiple of ``2 * blocks``. By default H, or H + 1 if H is odd.
      blocks: the number of HiPPO systems, each of size N / blocks, that form the initial system.
      min_step: the smallest initial delta, above 0.
      max_step: the largest initial delta; log_step is drawn uniformly between the logarithms of
        the two.
      compute_dtype: the type of the operands of matrix products, such as ``jnp.bfloat16``.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"eigenvalues": {"log_decay": [N/2], "frequency": [N/2]},
      "step": {"log_step": [N/2]}, "input": {"kernel": [D, N] (Re B, Im B)},
      "output": {"kernel": [N, H] (Re C over -Im C)}, "skip": {"kernel": [D, H]}}``, where
      ``lambda = -exp(log_decay) + i frequency``, and the state `ComplexHidden`.

    Raises:
      ValueError: for a size below 1, a state size that is not a multiple of ``2 * blocks``, or
        step sizes out of order.

    References:
      Smith et al. 2022, Simplified state space layers for sequence modeling, arXiv:2208.04933.
      As in the paper, lambda starts as the eigenvalues of HiPPO-N, the normal part of HiPPO-LegS,
      and B and C as LeCun-normal real matrices expressed in its eigenbasis. Departures: the real
      part of lambda is minus an exponential, so that training cannot make the system unstable; the
      skip connection D is a LeCun-normal matrix, since input and output may differ in size, where
      the paper has a diagonal; there is no activation.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import diagonal_s5, unroll
      >>> cell = diagonal_s5(input_size=3, hidden_size=5)
      >>> def run(key, xs):
      ...     return unroll(cell, cell.init(key), xs)
      >>> state, ys = jax.eval_shape(run, jax.random.key(0), jnp.ones((5, 2, 3)))  # shapes only
      >>> ys.shape, state.real.shape  # 6 real state variables, as 3 complex ones
      ((5, 2, 5), (2, 3))
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size, blocks=blocks)
    states = hidden_size + hidden_size % 2 if state_size is None else state_size
    check_sizes(state_size=states)
    if states % (2 * blocks):
        raise ArgumentError(
            f"state_size: expected a multiple of 2 * blocks = {2 * blocks}, got {states}."
        )
    check_step_sizes(min_step, max_step)

    def init(key: Array) -> Params:
        input_key, output_key, step_key, skip_key = jax.random.split(key, 4)
        frequency, basis = _hippo_normal(states // blocks)
        into = jax.scipy.linalg.block_diag(*[jnp.asarray(basis.conj())] * blocks)
        kernel = lecun_normal(input_key, (input_size, states)) @ into
        out = into.conj().T @ lecun_normal(output_key, (states, hidden_size))
        log_step = jax.random.uniform(
            step_key, (states // 2,), minval=math.log(min_step), maxval=math.log(max_step)
        )
        return {
            "eigenvalues": {
                "log_decay": jnp.full(states // 2, math.log(0.5)),
                "frequency": jnp.tile(jnp.asarray(frequency, log_step.dtype), blocks),
            },
            "step": {"log_step": log_step},
            "input": {"kernel": jnp.concatenate([kernel.real, kernel.imag], axis=1)},
            "output": {"kernel": jnp.concatenate([out.real, -out.imag], axis=0)},
            "skip": {"kernel": lecun_normal(skip_key, (input_size, hidden_size))},
        }

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        parts = jax.tree.map(_wide, params["eigenvalues"])
        eigenvalues = lax.complex(-jnp.exp(parts["log_decay"]), parts["frequency"])
        exponents = eigenvalues * jnp.exp(_wide(params["step"]["log_step"]))
        drive = _complex(_affine(params["input"], x, compute_dtype))
        read = _real_readout(params, x, compute_dtype, scale=2)
        return jnp.exp(exponents), jnp.expm1(exponents) / eigenvalues * drive, read

    return linear_cell(
        init, recurrence, input_size, (states // 2,), complex_state=True, method=method
    )


def selective_ssm(
    input_size: int,
    hidden_size: int,
    *,
    state_size: int = 16,
    step_rank: int | None = None,
    projection: bool = True,
    min_step: float = 0.001,
    max_step: float = 0.1,
    kernel_init: Initializer | str = "lecun_normal",
    compute_dtype: Any = None,
    method: Method = "auto",
) -> Cell:
    """Build Mamba's selective state space model, whose matrices depend on the input.

    The step size and the input and output matrices are functions of the input.

    Equation, with ``u_t = W x_t``: ``delta_t = softplus(W_d2 W_d1 u_t + b_d)`` ``[H]``,
    ``B_t = W_B u_t`` and ``C_t = W_C u_t`` ``[N]``; for each channel h and state variable n,
    ``s_t[h, n] = exp(-delta_t[h] rate[h, n]) s_{t-1}[h, n] + delta_t[h] B_t[n] u_t[h]``,
    ``y_t[h] = sum_n C_t[n] s_t[h, n] + gain[h] u_t[h]``.

    Running a whole sequence holds all states, ``[T, ..., H, N]``, in memory.

    Args:
      input_size: D.
      hidden_size: H, the number of channels.
      state_size: N, the number of state variables per channel.
      step_rank: R, the rank of W_d2 W_d1; H / 16 rounded up by default.
      projection: whether ``u_t`` is a linear map of x_t, as in Mamba's block. If False,
        ``u_t = x_t``, so the cell is the selective model alone, and D must equal H.
      min_step: the lower bound, above 0, of the log-uniform distribution from which
        ``softplus(b_d)`` is initialized.
      max_step: the upper bound of that distribution.
      kernel_init: draws W, W_d1, W_B and W_C.
      compute_dtype: the type of the operands of matrix products, such as ``jnp.bfloat16``.
      method: of `linear_scan`.

    Returns:
      The cell, with params ``{"input": {"kernel": [D, H]} (with the projection),
      "select": {"kernel": [H, R + 2 N]} (W_d1, W_B, W_C), "step": {"kernel": [R, H],
      "bias": [H]}, "decay": {"log_rate": [H, N]}, "skip": {"gain": [H]}}``, and the state
      `Hidden` of shape ``[..., H, N]``.

    Raises:
      ValueError: for a size below 1, step sizes out of order, an unknown initializer, or
        ``projection=False`` with D other than H.

    References:
      Gu & Dao 2023, Mamba, arXiv:2312.00752. As there, the rates start at 1 to N, the gain at 1,
      and W_d2 uniform in ``+-R^-0.5``; B is discretized as ``delta B``, as in the authors' code,
      where the paper writes the zero-order hold. Departure: the convolution, the SiLU and the
      gated branch around the model are left to other cells.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from recurrent import selective_ssm, unroll
      >>> cell = selective_ssm(input_size=3, hidden_size=4, state_size=2)
      >>> def run(key, xs):
      ...     return unroll(cell, cell.init(key), xs)
      >>> state, ys = jax.eval_shape(run, jax.random.key(0), jnp.ones((5, 2, 3)))  # shapes only
      >>> ys.shape, state.hidden.shape
      ((5, 2, 4), (2, 4, 2))
    """
    check_sizes(input_size=input_size, hidden_size=hidden_size, state_size=state_size)
    rank = -(-hidden_size // 16) if step_rank is None else step_rank
    check_sizes(step_rank=rank)
    check_projection(projection, input_size, hidden_size)
    check_step_sizes(min_step, max_step)
    draw = resolve(kernel_init, "kernel_init")

    def init(key: Array) -> Params:
        input_key, select_key, kernel_key, bias_key = jax.random.split(key, 4)
        widths = rank, state_size, state_size
        keys = jax.random.split(select_key, 3)
        select = [draw(k, (hidden_size, n)) for k, n in zip(keys, widths, strict=True)]
        spread = jax.random.uniform(kernel_key, (rank, hidden_size), minval=-1.0)
        rates = jnp.log(jnp.arange(1.0, state_size + 1))
        params = {
            "select": {"kernel": jnp.concatenate(select, axis=1)},
            "step": {
                "kernel": spread * rank**-0.5,
                "bias": step_bias(bias_key, hidden_size, min_step, max_step),
            },
            "decay": {"log_rate": jnp.tile(rates, (hidden_size, 1))},
            "skip": {"gain": jnp.ones(hidden_size)},
        }
        if projection:
            params["input"] = {"kernel": draw(input_key, (input_size, hidden_size))}
        return params

    def recurrence(params: Params, x: Array) -> tuple[Array, Array, Read]:
        u = _affine(params["input"], x, compute_dtype) if projection else _wide(x)
        selected = _affine(params["select"], u, compute_dtype)
        low, write, readout = jnp.split(selected, [rank, rank + state_size], axis=-1)
        delta = jax.nn.softplus(_affine(params["step"], low, compute_dtype))
        rates = jnp.exp(_wide(params["decay"]["log_rate"]))
        a = jnp.exp(-delta[..., None] * rates)  # [..., H, N]

        def read(h: Array) -> Array:
            return jnp.einsum("...hn,...n->...h", h, readout) + params["skip"]["gain"] * u

        return a, (delta * u)[..., None] * write[..., None, :], read

    shape = hidden_size, state_size
    return linear_cell(init, recurrence, input_size, shape, method=method)


def _complex(parts: Array) -> Array:
    return lax.complex(*jnp.split(parts, 2, axis=-1))


def _real_readout(params: Params, x: Array, compute_dtype: Any, scale: float = 1) -> Read:
    def read(h: Array) -> Array:
        parts = jnp.concatenate([h.real, h.imag], axis=-1)
        through = _affine(params["output"], parts, compute_dtype)
        return scale * through + _affine(params["skip"], x, compute_dtype)

    return read


def _hippo_normal(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the positive frequencies ``[size / 2]`` of HiPPO-N and its eigenvectors as columns.

    HiPPO-N is HiPPO-LegS plus ``p p^T``, with ``p_n = sqrt(n + 1/2)``. It equals minus one half
    of the identity plus a skew-symmetric matrix, whose eigenvalues are imaginary.
    """
    roots = np.sqrt(2 * np.arange(size) + 1)
    lower = np.tril(np.outer(roots, roots), -1)
    skew = (lower.T - lower) / 2
    frequency, basis = np.linalg.eigh(-1j * skew)
    return frequency[size // 2 :], basis[:, size // 2 :]
