"""Build, run and train recurrent neural networks as pure functions in JAX.

A `Cell` is a NamedTuple of pure functions whose step is ``(state, x) -> (state, y)``, and `unroll`
runs it over a sequence ``[T, B, D]``, time first. Combinators take cells and return cells. Nothing
here compiles, prints, reads flags or touches files for its caller: wrap it in `jax.jit`,
`jax.grad` and `jax.vmap` as you like.

The modules, whose main functions can be imported from `recurrent` itself:

- Cells: `cell` defines `Cell` and `unroll`, with examples; `cells` holds the recurrent cells, one
  family in each module, and `gated`, which makes a cell from its gate alone; `linear_map` defines
  how inputs and states are multiplied by weights, `initializers` how the weights start.
- Larger models: `layers` (dense, embedding, normalization, perceptron), `combinators` (stacks,
  residual and bidirectional cells, learned initial states), `transformers` (blocks of attention or
  recurrences), `regularization` (dropout, weight drop, zoneout), `attention`, and `seq2seq`
  (encoder-decoder networks).
- Sequences in parallel over time: `linear_scans` for linear recurrences, `newton` for others.
- Training: `losses` (masked, averaged exactly over batches), and `training` (tasks, train steps,
  optimizers, truncated backpropagation through time, populations).
- Outputs: `decoding` (sampling, greedy and beam search) and `ctc`.
- Images: `images` (distortions, images as sequences), `convolution`, and `convnet` and `image_gan`,
  which are not imported here, because they alone need Flax.
- Generative adversarial networks: `adversarial` (losses, R1, spectral norms), and `frechet`, the
  distance of two sets of examples.
- Reinforcement learning: `policy_gradient` (advantages, the clipped surrogate, entropies).
- Other libraries: `convert` exchanges weights with PyTorch and Flax; `export` lets `jax.export`
  write cells for programs without this package.
"""

from recurrent import (
    convert,
    ctc,
    decoding,
    export,
    images,
    initializers,
    losses,
    policy_gradient,
    training,
)
from recurrent.attention import (
    additive_attention,
    last_context,
    multi_head_attention,
    multiplicative_attention,
)
from recurrent.cell import Cell, last_output, length_mask, output_shape, unroll
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
from recurrent.combinators import (
    BidirectionalState,
    StackState,
    bidirectional,
    dense_connection,
    for_each,
    learned_state,
    remat,
    residual,
    skip_stack,
    stack,
    tied_embedding,
)
from recurrent.images import frame_features, image_columns
from recurrent.layers import Layer, dense, embedding, layer_norm, mlp, rms_norm
from recurrent.linear_map import Maps, dense_maps, derived_map
from recurrent.linear_scans import linear_scan
from recurrent.losses import linear_cross_entropy
from recurrent.newton import DeerInfo, deer, parallel
from recurrent.regularization import (
    ZoneoutState,
    dropout,
    renewed_masks,
    step_dropout,
    variational_dropout,
    weight_drop,
    zoneout,
)
from recurrent.seq2seq import decoder, encoder_decoder, shift_right
from recurrent.transformers import (
    griffin,
    pre_norm_block,
    recurrent_block,
    transformer,
    transformer_block,
)

__all__ = [
    "BidirectionalState",
    "Cell",
    "ComplexHidden",
    "DeerInfo",
    "DeltaMemory",
    "GateVJP",
    "Hidden",
    "KeyValueCache",
    "LEMState",
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
    "bidirectional",
    "causal_conv",
    "convert",
    "convolutional_lstm",
    "ctc",
    "decoder",
    "decoding",
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
    "export",
    "for_each",
    "frame_features",
    "gated",
    "gated_cell",
    "gated_delta_scan",
    "gated_deltanet",
    "griffin",
    "gru",
    "image_columns",
    "images",
    "indrnn",
    "initializers",
    "irnn",
    "last_context",
    "last_output",
    "layer_norm",
    "layer_norm_gru",
    "layer_norm_lstm",
    "learned_state",
    "lem",
    "length_mask",
    "linear_cell",
    "linear_cross_entropy",
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
    "orthogonal_rnn",
    "output_shape",
    "parallel",
    "policy_gradient",
    "pre_norm_block",
    "recurrent_block",
    "remat",
    "renewed_masks",
    "residual",
    "rg_lru",
    "rms_norm",
    "selective_ssm",
    "shift_right",
    "skip_stack",
    "slstm",
    "stack",
    "step_dropout",
    "tied_embedding",
    "training",
    "transformer",
    "transformer_block",
    "ugrnn",
    "unroll",
    "variational_dropout",
    "weight_drop",
    "zoneout",
]
