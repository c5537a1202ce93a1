"""Define what is compared: cells, shapes, forms and measurements, with their work in FLOP."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

CELLS = {"lstm": "LSTM", "gru": "GRU", "elman": "Elman"}
MEASURES = {
    "forward": "forward",
    "backward": "forward + backward",
    "adam": "whole Adam step",
}
FORMS = ("one-layer", "two-layers", "bidirectional")
LEARNING_RATE = 1e-3


class Shape(NamedTuple):
    """Hold the sizes of a case: T steps, B sequences in a batch, I inputs, H hidden units."""

    time: int
    batch: int
    inputs: int
    hidden: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


SHAPES = (
    Shape(28, 32, 28, 128),
    Shape(64, 64, 8, 64),
    Shape(100, 16, 32, 32),
    Shape(128, 32, 128, 256),
    Shape(100, 20, 512, 512),
    Shape(784, 64, 1, 128),
    Shape(35, 20, 1024, 1024),
    Shape(1000, 1, 64, 128),
)


class Case(NamedTuple):
    """Describe a network to run on a batch; ``form`` is one of `FORMS`."""

    cell: str
    shape: Shape
    form: str = "one-layer"

    @property
    def ways(self) -> tuple[str, ...]:
        """Return the directions of each layer."""
        return ("forward", "backward") if self.form == "bidirectional" else ("forward",)

    @property
    def input_sizes(self) -> list[int]:
        """Return the number of inputs of each layer."""
        deeper = [self.shape.hidden * len(self.ways)] if self.form == "two-layers" else []
        return [self.shape.inputs, *deeper]

    def __str__(self) -> str:
        return f"{self.cell} {self.shape} {self.form}"


def cases(shapes: Sequence[Shape] = SHAPES) -> list[Case]:
    """Return the cases of a full run.

    They are each cell in each shape, then one case of two layers and one of two directions.
    """
    plain = [Case(cell, shape) for cell in CELLS for shape in shapes]
    return [
        *plain,
        Case("lstm", Shape(64, 64, 8, 64), "two-layers"),
        Case("lstm", Shape(64, 64, 8, 64), "bidirectional"),
    ]


def quick_cases() -> list[Case]:
    """Return the few cases of ``--quick``."""
    return [Case(cell, SHAPES[0]) for cell in CELLS]


def blocks(cell: str) -> int:
    """Return how many blocks of H columns the kernels of a cell have."""
    return {"lstm": 4, "gru": 3, "elman": 1}[cell]


def flop(case: Case, measure: str) -> int:
    """Count the multiplications and additions of the matrix products; the rest is negligible.

    A layer in one direction multiplies T B rows of x and h by kernels of ``gates H`` columns,
    which is ``2 gates T B H (I + H)`` FLOP. The backward pass has two products for each product
    of the forward pass. The operations of Adam are not counted.
    """
    shape = case.shape
    columns = blocks(case.cell) * shape.hidden
    rows = sum(inputs + shape.hidden for inputs in case.input_sizes) * len(case.ways)
    forward = 2 * shape.time * shape.batch * rows * columns
    return forward if measure == "forward" else 3 * forward


def layers_of(case: Case) -> Iterator[tuple[str, int]]:
    """Yield each direction of each layer, with its number of inputs."""
    for inputs in case.input_sizes:
        for way in case.ways:
            yield way, inputs
