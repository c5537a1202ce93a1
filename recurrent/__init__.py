"""Recurrent networks as pure functions: cells, sequences, training.

`recurrent.convnet` is not imported here: it alone needs Flax.
"""

from recurrent import augment, losses, optimizers, train
from recurrent.cell import Cell, length_mask, output_shape, unroll
from recurrent.cells import LSTMState, elman, gru, lstm
from recurrent.dropout import dropout
from recurrent.gated import Hidden, gated
from recurrent.layer import Layer, dense

__all__ = [
    "Cell",
    "Hidden",
    "LSTMState",
    "Layer",
    "augment",
    "dense",
    "dropout",
    "elman",
    "gated",
    "gru",
    "length_mask",
    "losses",
    "lstm",
    "optimizers",
    "output_shape",
    "train",
    "unroll",
]
