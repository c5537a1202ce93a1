"""Begin with a memory as long as the sequences, in the way that each cell offers."""

import math
from typing import Any

from recurrent.initializers import chrono


def time_scales(name: str, longest: int) -> dict[str, Any]:
    """Return options of a cell whose memory then spans ``longest`` steps before any training.

    Gated cells get the biases of Tallec & Ollivier 2018, linear ones the radii, decays or step
    sizes that belong to such time constants, attention a window of that many steps. Other cells,
    such as an Elman network, offer nothing of the kind, and get no options.

    Args:
      name: of the cell.
      longest: steps, above 2.

    Example:
      >>> round(time_scales("lru", 100)["min_radius"] ** 100, 3), time_scales("elman", 100)
      (0.368, {})
    """
    slowest = 1 / longest
    spread = {"bias_init": chrono(longest)}
    by_options = (
        (("gru", "minimal_gated_unit", "layer_norm_gru", "min_gru"), spread),
        (
            ("lstm", "lstmp", "layer_norm_lstm", "min_lstm", "ugrnn"),
            spread | {"forget_bias": 0.0},
        ),
        (("indrnn",), {"longest": longest}),
        (("lru",), {"min_radius": math.exp(-slowest)}),
        (("rg_lru",), {"max_decay": max(0.999, math.exp(-slowest))}),
        (
            ("diagonal_s5", "selective_ssm", "gated_deltanet"),
            {"min_step": min(0.001, slowest)},
        ),
        (("attention_cell", "transformer", "griffin"), {"window": longest}),
    )
    return next((options for names, options in by_options if name in names), {})
