"""Register the states of cells and decoders, so that `jax.export` can write functions of them.

A program that reads such a function must import `recurrent` too, or else the states must be passed
as lists of arrays. This exports one step of a cell, for batches of any size, to programs that have
JAX alone:

    >>> import jax, jax.numpy as jnp
    >>> from jax import export
    >>> from recurrent import lstm
    >>> cell = lstm(input_size=3, hidden_size=4)
    >>> params = cell.init(jax.random.key(0))
    >>> start = cell.initial_state(params, (2,))
    >>> def step(state, x):
    ...     state = jax.tree.unflatten(jax.tree.structure(start), state)
    ...     state, y = cell.step(params, state, x)
    ...     return jax.tree.leaves(state), y
    >>> given = jax.tree.leaves(start), jnp.ones((2, 3))  # the leaves of the state, and x [B, D]
    >>> shapes = export.symbolic_args_specs(given, "b, ...")
    >>> exported = export.export(jax.jit(step))(*shapes)
    >>> state, y = exported.call(*given)
    >>> bool(jnp.allclose(y, cell.step(params, start, given[1])[1]))
    True

``exported.serialize()`` returns the bytes, and ``export.deserialize`` reads them in another
program. Both need the package flatbuffers, which JAX does not install: it is in the extra
``export`` of this package, and the other program needs ``pip install jax flatbuffers``, no more.

Whole sequences are exported in the same way, with xs ``[T, B, D]`` and ``"t, b, ..."``; each symbol
stands for any size of at least 1. A state that you define yourself is registered by
`jax.export.register_namedtuple_serialization`.
"""

import contextlib
from typing import Any

from jax import export

from recurrent.attention import Memory
from recurrent.cells.attention import KeyValueCache
from recurrent.cells.classic import LSTMState
from recurrent.cells.convolutional import ConvolutionState
from recurrent.cells.deltanet import DeltaMemory
from recurrent.cells.gates import Hidden
from recurrent.cells.linear import ComplexHidden
from recurrent.cells.long_memory import LEMState
from recurrent.cells.xlstm import MLSTMState, SLSTMState
from recurrent.combinators import BidirectionalState, StackState
from recurrent.newton import DeerInfo
from recurrent.regularization import Clock, Kept, ZoneoutState
from recurrent.seq2seq import DecoderState

STATES: tuple[Any, ...] = (
    *(Hidden, LSTMState, LEMState, SLSTMState, MLSTMState, ComplexHidden, DeltaMemory),
    *(KeyValueCache, ConvolutionState, StackState, BidirectionalState, Clock, Kept, ZoneoutState),
    *(DecoderState, Memory, DeerInfo),
)

for each in STATES:
    with contextlib.suppress(ValueError):  # registered before this module was loaded anew
        export.register_namedtuple_serialization(each, serialized_name=f"recurrent.{each.__name__}")
