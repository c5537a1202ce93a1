"""Recurrent networks as pure functions: cells, sequences, training.

`recurrent.convnet` is not imported here: it alone needs Flax.
"""

from recurrent import augment, ctc, decode, initializers, interchange, losses, optimizers, train
from recurrent.attention import (
    KeyValueCache,
    additive_attention,
    attention_cell,
    last_context,
    multi_head_attention,
    multiplicative_attention,
)
from recurrent.blocks import (
    causal_conv,
    griffin,
    mlp,
    pre_norm_block,
    recurrent_block,
    transformer,
    transformer_block,
)
from recurrent.cell import Cell, length_mask, output_shape, unroll
from recurrent.cells import (
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
from recurrent.combine import (
    BidirectionalState,
    StackState,
    bidirectional,
    dense_connection,
    embedding,
    learned_state,
    remat,
    residual,
    skip_stack,
    stack,
)
from recurrent.convolutional_cells import convolutional_lstm
from recurrent.dropout import dropout
from recurrent.frames import frame_features, image_columns
from recurrent.gated import GateVJP, Hidden, Maps, dense_maps, derived_map, gated, gated_cell
from recurrent.layer import Layer, dense
from recurrent.linear import gated_delta_scan, linear_scan
from recurrent.linear_cells import (
    ComplexHidden,
    DeltaMemory,
    diagonal_s5,
    gated_deltanet,
    linear_cell,
    lru,
    min_gru,
    min_lstm,
    rg_lru,
    selective_ssm,
)
from recurrent.newton import DeerInfo, deer, parallel
from recurrent.noise import ZoneoutState, step_dropout, variational_dropout, weight_drop, zoneout
from recurrent.norm import layer_norm, rms_norm
from recurrent.normalized_cells import layer_norm_gru, layer_norm_lstm
from recurrent.seq2seq import decoder, encoder_decoder, shift_right
from recurrent.vocabulary import readout_cross_entropy
from recurrent.xlstm import MLSTMState, SLSTMState, mlstm, slstm

__all__ = [
    "BidirectionalState",
    "Cell",
    "ComplexHidden",
    "DeerInfo",
    "DeltaMemory",
    "GateVJP",
    "Hidden",
    "KeyValueCache",
    "LSTMState",
    "Layer",
    "MLSTMState",
    "Maps",
    "SLSTMState",
    "StackState",
    "ZoneoutState",
    "additive_attention",
    "antisymmetric_rnn",
    "attention_cell",
    "augment",
    "bidirectional",
    "causal_conv",
    "convolutional_lstm",
    "ctc",
    "decode",
    "decoder",
    "deer",
    "dense",
    "dense_connection",
    "dense_maps",
    "derived_map",
    "diagonal_s5",
    "dropout",
    "elman",
    "embedding",
    "encoder_decoder",
    "frame_features",
    "gated",
    "gated_cell",
    "gated_delta_scan",
    "gated_deltanet",
    "griffin",
    "gru",
    "image_columns",
    "indrnn",
    "initializers",
    "interchange",
    "irnn",
    "last_context",
    "layer_norm",
    "layer_norm_gru",
    "layer_norm_lstm",
    "learned_state",
    "length_mask",
    "linear_cell",
    "linear_scan",
    "losses",
    "lru",
    "lstm",
    "lstmp",
    "min_gru",
    "min_lstm",
    "minimal_gated_unit",
    "mlp",
    "mlstm",
    "multi_head_attention",
    "multiplicative_attention",
    "optimizers",
    "output_shape",
    "parallel",
    "pre_norm_block",
    "readout_cross_entropy",
    "recurrent_block",
    "remat",
    "residual",
    "rg_lru",
    "rms_norm",
    "selective_ssm",
    "shift_right",
    "skip_stack",
    "slstm",
    "stack",
    "step_dropout",
    "train",
    "transformer",
    "transformer_block",
    "ugrnn",
    "unroll",
    "variational_dropout",
    "weight_drop",
    "zoneout",
]
