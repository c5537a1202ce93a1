"""Train members that are known beforehand, of a grid or drawn at random."""

from collections.abc import Callable, Mapping, Sequence

from experiments.harness.config import Option
from experiments.harness.plan import Values
from experiments.sweep import axes
from experiments.sweep.search import Batch, Tried


def ask_listed(
    members: Sequence[Values], options: Mapping[str, Option]
) -> Callable[[Sequence[Tried]], Batch | None]:
    """Return the function that hands out members by their static fields, a batch for each."""
    batches = [
        Batch(static, [members[k] for k in own], own)
        for static, own in axes.programs(members, options)
    ]

    def ask(tried: Sequence[Tried]) -> Batch | None:
        return batches[len(tried)] if len(tried) < len(batches) else None

    return ask
