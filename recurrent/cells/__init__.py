"""Build recurrent cells, with one module for each family.

`gates` turns a gate function into a cell; `classic`, `layer_norm` and `long_memory` hold such
cells, and `convolutional`, `xlstm`, `linear`, `state_space`, `deltanet` and `attention` the other
families.
"""

from recurrent.cells._gated_loop import GateVJP
from recurrent.cells.attention import KeyValueCache, attention_cell
from recurrent.cells.classic import (
    LSTMState,
    antisymmetric_rnn,
    elman,
    gru,
    indrnn,
    irnn,
    lstm,
    lstmp,
    minimal_gated_unit,
    ugrnn,
)
from recurrent.cells.convolutional import causal_conv, convolutional_lstm
from recurrent.cells.deltanet import DeltaMemory, gated_delta_scan, gated_deltanet
from recurrent.cells.gates import Hidden, gated, gated_cell
from recurrent.cells.layer_norm import layer_norm_gru, layer_norm_lstm
from recurrent.cells.linear import ComplexHidden, linear_cell, min_gru, min_lstm, rg_lru
from recurrent.cells.long_memory import LEMState, lem, orthogonal_rnn
from recurrent.cells.state_space import diagonal_s5, lru, selective_ssm
from recurrent.cells.xlstm import MLSTMState, SLSTMState, mlstm, slstm

__all__ = [
    "ComplexHidden",
    "DeltaMemory",
    "GateVJP",
    "Hidden",
    "KeyValueCache",
    "LEMState",
    "LSTMState",
    "MLSTMState",
    "SLSTMState",
    "antisymmetric_rnn",
    "attention_cell",
    "causal_conv",
    "convolutional_lstm",
    "diagonal_s5",
    "elman",
    "gated",
    "gated_cell",
    "gated_delta_scan",
    "gated_deltanet",
    "gru",
    "indrnn",
    "irnn",
    "layer_norm_gru",
    "layer_norm_lstm",
    "lem",
    "linear_cell",
    "lru",
    "lstm",
    "lstmp",
    "min_gru",
    "min_lstm",
    "minimal_gated_unit",
    "mlstm",
    "orthogonal_rnn",
    "rg_lru",
    "selective_ssm",
    "slstm",
    "ugrnn",
]
