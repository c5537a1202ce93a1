"""Explain what a model looks at, as pure functions of any model.

Every method takes ``f``, a function from inputs to *one number for each example*, ``[B]``, such as
the logit of a class at the last step; `chosen_output` makes one from a model. So any cell,
convolutional network, attention model or function of your own will do, in evaluation, where the
examples of a batch do not mix.

- Inputs are batch-first: images ``[B, H, W]`` or ``[B, H, W, C]``, sequences ``[B, T, F]``, tokens
  ``[B, T]``. `recurrent.unroll` is time-major: ``time_major(model)`` swaps the axes.
- Where ``lengths`` are given, f is called as ``f(xs, mask)``, with booleans ``[B, T]``. Padding is
  set to 0 before f sees it, so that nothing of it, not even NaN, reaches a result, and gets
  exactly 0.
- A ``baseline`` broadcasts to the inputs; a ``background`` is a set of them, ``[N, ...]``, over
  which results are averaged.
- ``labels`` are integers that broadcast to the inputs, the group of each element: `grid_labels`, or
  superpixels of any library.
- ``batch_size`` says how many changed copies of the batch are computed at once; it bounds memory,
  and changes results by rounding alone.
- Nothing compiles for its caller: wrap it, as in ``jax.jit(lambda params, xs: gradient(partial(f,
  params), xs))``, and it compiles once for each shape.
- What is random takes a key. All examples of a batch see the same draws, each step or group by its
  own key, so that a result depends neither on the batch nor on how far it was padded.

`saliency` has gradients, `occlusion` what is lost without a part, `shapley` and `lime` what they
are named after, `activation_maps` and `attention_maps` what lies inside, `two_step` maps of
sequences by steps and then features. Whether to trust a map: `faithfulness`, `agreement`,
`randomization`, and `boxes`, data whose answer is known.
"""

from recurrent.explain.activation_maps import activation_map, grad_cam
from recurrent.explain.agreement import agreement_matrix, rank_correlation
from recurrent.explain.attention_maps import (
    attention_rollout,
    self_attention_weights,
    transformer_attention,
)
from recurrent.explain.boxes import BOXES, Box, BoxData, BoxScores, box_data, box_scores
from recurrent.explain.faithfulness import (
    Faithfulness,
    area_under,
    deletion_curve,
    faithfulness_curves,
    insertion_curve,
    max_sensitivity,
)
from recurrent.explain.labels import grid_labels
from recurrent.explain.lime import LocalModel, lime_weights
from recurrent.explain.occlusion import held_steps, occlusion_map, sliding_occlusion
from recurrent.explain.randomization import (
    Randomization,
    compare_maps,
    random_networks,
    randomize_layers,
)
from recurrent.explain.saliency import (
    Attribution,
    completeness_gap,
    gradient,
    gradient_times_input,
    integrated_gradients,
    smooth_grad,
)
from recurrent.explain.scores import chosen_output, time_major
from recurrent.explain.shapley import (
    Shapley,
    exact_shapley,
    gradient_shap,
    kernel_shap,
    permutation_shap,
)
from recurrent.explain.two_step import two_step_map

__all__ = [
    "BOXES",
    "Attribution",
    "Box",
    "BoxData",
    "BoxScores",
    "Faithfulness",
    "LocalModel",
    "Randomization",
    "Shapley",
    "activation_map",
    "agreement_matrix",
    "area_under",
    "attention_rollout",
    "box_data",
    "box_scores",
    "chosen_output",
    "compare_maps",
    "completeness_gap",
    "deletion_curve",
    "exact_shapley",
    "faithfulness_curves",
    "grad_cam",
    "gradient",
    "gradient_shap",
    "gradient_times_input",
    "grid_labels",
    "held_steps",
    "insertion_curve",
    "integrated_gradients",
    "kernel_shap",
    "lime_weights",
    "max_sensitivity",
    "occlusion_map",
    "permutation_shap",
    "random_networks",
    "randomize_layers",
    "rank_correlation",
    "self_attention_weights",
    "sliding_occlusion",
    "smooth_grad",
    "time_major",
    "transformer_attention",
    "two_step_map",
]
