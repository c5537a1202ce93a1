"""Count what the devices of a training say to each other, from its compiled program.

Command: .venv/bin/python -m docs.scaling_table [--experiment=sequential_digits] [--devices=1,2,4,8]

Nothing is trained, and the devices are simulated on one CPU: XLA compiles the same program for
them as for as many machines. The first table is of one model whose batches the devices share, the
second of a population whose members they share.
"""

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

STEPS = 10  # in a call of the program; what is said in each is in the program once
KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
FOUND = re.compile(rf"= (\(.*?\)|\S+) (?:{KINDS})(?:-start)?\(")
ARRAY = re.compile(r"(pred|[a-z]+?)(\d*)(?:e\dm\d\w*)?\[([\d,]*)\]")


class Messages(NamedTuple):
    """Hold the bytes of messages that all devices take part in: in each step, and once a call."""

    step: list[int]
    call: list[int]


class Cost(NamedTuple):
    """Hold what a device holds and says in a training.

    Attributes:
      state: bytes of weights, of the optimizer and of what is kept.
      scratch: bytes beside these and the data.
      messages: those of a call of several steps.
    """

    state: int
    scratch: int
    messages: Messages


def bytes_of_shape(shape: str) -> int:
    """Return how many bytes an array, or a tuple of arrays, of an HLO program takes.

    Example:
      >>> bytes_of_shape("(f32[10,128]{1,0}, s32[], pred[4]{0})")
      5128
    """
    total = 0
    for kind, bits, sizes in ARRAY.findall(shape):
        count = 1
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        total += count * (1 if kind == "pred" else max(1, int(bits or 8) // 8))
    return total


def messages_of(program: str) -> Messages:
    """Return the messages in the text of an HLO program, whose loop is that over the steps.

    Example:
      >>> body = "%loop (x: f32[8]) -> f32[8] {\\n %a = f32[8]{0} all-reduce(%x), to_apply=%sum\\n}"
      >>> main = "ENTRY %main (x: f32[]) -> f32[] {\\n %b = f32[] all-reduce(%x), to_apply=%sum\\n}"
      >>> messages_of(f"{body}\\n{main}")
      Messages(step=[32], call=[4])
    """
    found, inside = Messages([], []), True
    for line in program.splitlines():
        if line.endswith("{"):
            inside = not line.startswith("ENTRY")
        found[0 if inside else 1].extend(map(bytes_of_shape, FOUND.findall(line)))
    return found


def cost_of(program: Any, config: Any, layout: Any, members: int) -> Cost:
    """Compile the training of a Program in a layout, and say what it costs a device."""
    import jax
    import numpy as np

    from experiments.harness.config import hparams_of
    from experiments.harness.devices import bytes_of
    from experiments.harness.engine import engine_of
    from recurrent.training.population import batch_mesh, sharding

    own, whole = sharding(layout), sharding(layout, shared=True)

    def placed(tree: Any, where: Any) -> Any:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            jax.eval_shape(lambda tree: tree, tree),
        )

    hparams = {
        name: np.repeat(np.asarray(value)[:1], members, 0)
        for name, value in hparams_of(config).items()
    }
    with batch_mesh(layout):
        engine = engine_of(program, layout)
        state = jax.eval_shape(engine.begin, (hparams, np.zeros(members, bool)))
        data = placed(program.data["train"], whole)
        train: Any = engine.train(STEPS)
        compiled = train.lower(placed(state, own), data).compile()
    return Cost(
        state=bytes_of(state) // layout.devices,
        scratch=int(compiled.memory_analysis().temp_size_in_bytes),
        messages=messages_of(compiled.as_text()),
    )


def rows(experiment: str, counts: Sequence[int], members: int) -> Iterator[str]:
    """Return the lines of both tables."""
    from experiments.harness.catalogue import load
    from recurrent.training.population import Layout

    found = load(experiment)
    config = found.module.Config()
    program = found.module.program(config)
    head = "| devices | state | scratch | messages a step | their bytes | a call | their bytes |"
    for title, layout_of, size in (
        (f"{experiment}: one model, a batch of {config.batch_size} shared",
         lambda n: Layout(batch_devices=n), 1),
        (f"{experiment}: {members} members shared", lambda n: Layout(n, members // n), members),
    ):  # fmt: skip
        yield from ("", title, "", head, "|---|---|---|---|---|---|---|")
        for count in counts:
            cost = cost_of(program, config, layout_of(count), size)
            said = [f"{len(each)} | {sum(each):,}" for each in cost.messages]
            yield f"| {count} | {cost.state:,} | {cost.scratch:,} | {' | '.join(said)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="sequential_digits")
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--members", type=int, default=16)
    given = parser.parse_args()
    counts = [int(each) for each in given.devices.split(",")]
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(max(counts))}
    print(*rows(given.experiment, counts, given.members), sep="\n")


if __name__ == "__main__":
    main()
