"""Train networks of `char_lm` at equal params, then at equal minutes, and write both tables.

Command: .venv/bin/python -m docs.char_lm_table [--parameters=1300000] [--epochs=4] [--minutes=4]

Every network has as many units as the params allow. The first table gives each the same epochs; how
long that took says how many epochs of it fit into the minutes of the second. A run that is there
already is not made again, so the command can be stopped and repeated. Beside the costs of the
halves of the last tenth, which choose and test, are those of all of it, with the state carried
along and in windows of 256 that begin cold, as others report it.
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import char_lm, run
from experiments.data.text import load_text
from experiments.harness.errors import UserError
from experiments.harness.runs import Run
from experiments.shared.language import model_of
from experiments.shared.rereading import cost, of_parts

DATA = "shakespeare"
COMMON: dict[str, Any] = {}  # further fields of all networks
STEP = 8  # of hidden sizes, by which heads and vector units can be divided


class Network(NamedTuple):
    """Name a cell and how many layers of it there are, with fields that it needs."""

    cell: str
    layers: int
    fields: dict[str, Any]


NETWORKS = (
    Network("elman", 1, {"learning_rate": 1e-3}),
    Network("gru", 1, {}),
    Network("lstm", 1, {}),
    Network("lstm", 2, {}),
    Network("lstm", 3, {}),
    Network("min_gru", 3, {}),
    Network("griffin", 3, {"learning_rate": 2e-3}),
    Network("transformer", 4, {"learning_rate": 1e-3}),
)


def config_of(network: Network, hidden_size: int, epochs: int) -> Any:
    """Return the Config of a network of this size."""
    return char_lm.Config(
        data=DATA,
        cell=network.cell,
        layers=network.layers,
        hidden_size=hidden_size,
        embedding_size=hidden_size if network.cell in ("griffin", "transformer") else 64,
        epochs=epochs,
        **network.fields,
        **COMMON,
    )


def count(network: Network, hidden_size: int) -> int:
    """Return the number of params."""
    config = config_of(network, hidden_size, 1)
    model = model_of(config, len(load_text(config.data, config.text).characters))
    params = jax.eval_shape(model.init, jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def largest(network: Network, parameters: int) -> int:
    """Return the largest hidden size, a multiple of `STEP`, with at most so many params.

    Raises:
      UserError: where the smallest has more.
    """
    if (least := count(network, STEP)) > parameters:
        raise UserError(
            f"--parameters: expected at least {least}, those of {network.cell} x {network.layers} "
            f"with {STEP} units, got {parameters}."
        )
    low, high = 1, 2
    while count(network, STEP * high) <= parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(network, STEP * middle) <= parameters else (low, middle)
    return STEP * low


def trained(network: Network, hidden_size: int, epochs: int, folder: Path) -> Run:
    """Train a network, or find it trained."""
    fields = dataclasses.asdict(config_of(network, hidden_size, epochs))
    name = f"{network.cell}-{network.layers}x{hidden_size}-{epochs}"
    return run("char_lm", folder / name, **fields)


def rows(runs: list[Run]) -> Iterator[str]:
    """Write the rows of a table, the best first."""
    for each in sorted(runs, key=lambda each: each.result["valid_loss"]):
        asked, found = each.config, each.result
        text = load_text(asked.data, asked.text)
        model = [(model_of(asked, len(text.characters)), each.kept)]
        cold = of_parts(text, cost(model, cold=True))["both"]
        carried = of_parts(text, cost(model))["both"]
        yield (
            f"| `{asked.cell}` x {asked.layers} | {asked.hidden_size} | {found['parameters']:,} | "
            f"{asked.epochs} | {found['train_seconds'] / 60:.1f} | {found['valid_loss']:.4f} | "
            f"{found['test_loss']:.4f} | {carried:.4f} | {cold:.4f} |"
        )


def main(flags: Sequence[str] | None = None) -> None:
    """Read the flags, and do what they ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parameters", type=int, default=1_300_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--folder", type=Path, default=Path("runs/char_lm_table"))
    asked = parser.parse_args(flags)
    try:
        print_tables(asked)
    except UserError as error:
        sys.exit(f"error: {error}")


def print_tables(asked: argparse.Namespace) -> None:
    """Train all networks twice, and print the tables."""
    sizes = [largest(network, asked.parameters) for network in NETWORKS]
    equal = [
        trained(network, size, asked.epochs, asked.folder)
        for network, size in zip(NETWORKS, sizes, strict=True)
    ]
    epochs = [
        max(1, round(asked.minutes * 60 * asked.epochs / each.result["train_seconds"]))
        for each in equal
    ]
    timed = [
        trained(network, size, own, asked.folder)
        for network, size, own in zip(NETWORKS, sizes, epochs, strict=True)
    ]
    head = "| cell | H | params | epochs | minutes | valid, nats | test, nats | all | all, cold |"
    for title, runs in (
        (f"{asked.epochs} epochs each", equal),
        (f"About {asked.minutes:g} minutes each", timed),
    ):
        print(f"\n{title}:\n\n{head}\n|{'---|' * 9}", *rows(runs), sep="\n")


if __name__ == "__main__":
    main()
