"""Run `jax.experimental.rnn`, which calls cuDNN's LSTM from JAX; only on a GPU, batch-major."""

from typing import Any

import numpy as np

from experiments.bench.cases import Case
from experiments.bench.program import Network
from experiments.bench.weights import WAYS, Weights

CELLS = ("lstm",)


def suits(case: Case) -> bool:
    """Return whether JAX runs on a GPU."""
    import jax

    return jax.default_backend() == "gpu"


def build(case: Case, weights: Weights) -> Network:
    """Build the network with the given weights, which cuDNN takes as one flat array."""
    import jax.numpy as jnp
    from jax.experimental import rnn

    hidden, layers = case.shape.hidden, len(case.input_sizes)
    sizes = case.shape.inputs, hidden, layers
    both = len(case.ways) == 2

    def apply(flat: Any, xs: Any) -> Any:
        zeros = jnp.zeros((layers * len(case.ways), xs.shape[0], hidden))
        lengths = jnp.full(xs.shape[0], xs.shape[1], jnp.int32)
        ran: Any = rnn.lstm(xs, zeros, zeros, flat, lengths, *sizes, 0.0, both)
        return ran[0]

    def arrays(flat: Any) -> Weights:
        w_x, w_h, b, _ = rnn.unpack_lstm_weights(flat, *sizes, both)
        cells = [{"w_x": w_x[k].T, "w_h": w_h[k].T, "b": b[k]} for k in range(len(w_x))]
        ways = len(case.ways)
        layers = [cells[k : k + ways] for k in range(0, len(cells), ways)]
        return [dict(zip(WAYS, layer, strict=False)) for layer in layers]

    return Network(apply, flattened(weights), arrays, batch_major=True)


def flattened(weights: Weights) -> np.ndarray:
    """Return all kernels of x and h, layer by layer, then all biases of x and h (zeros)."""
    cells = [layer[way] for layer in weights for way in WAYS if way in layer]
    kernels = [w[name].T.ravel() for w in cells for name in ("w_x", "w_h")]
    biases = [array for w in cells for array in (w["b"], np.zeros_like(w["b"]))]
    return np.concatenate(kernels + biases)
