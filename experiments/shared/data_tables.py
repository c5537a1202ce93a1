"""List in a report what was read of the data, and how much of a training is padding."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.harness.program import Table
from recurrent.training.bucketing import Buckets


def data_table(said: str, columns: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Table:
    """List how much each split has.

    Args:
      said: what was read and what was left out, as sentences.
      columns: what is counted.
      counts: by the name of a split, a number for each column.
    """
    rows = [(split, *map(str, own)) for split, own in counts.items()]
    return Table("data", "Data", said, ("split", *columns), rows)


def padding_table(data: Mapping[str, Any], buckets: Buckets) -> Table:
    """List how much of what is computed in training is padding, bucket by bucket."""
    lengths = data[buckets.lengths]
    place = np.searchsorted(buckets.limits, lengths)
    rows = []
    for bucket, limit in enumerate(buckets.limits):
        inside = lengths[place == bucket]
        share = 1 - inside.mean() / limit if inside.size else 0
        rows.append((str(limit), str(inside.size), f"{share:.0%}"))
    whole = 1 - lengths.mean() / buckets.limits[-1]
    return Table(
        "padding",
        "Padding",
        "Batches hold examples of like length and are cut to the smallest of these sizes. If all "
        f"had one size, {whole:.0%} of the steps would be padding.",
        ("steps", "training examples", "padding"),
        rows,
    )
