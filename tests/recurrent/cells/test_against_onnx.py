"""Compare cells with the RNN, LSTM and GRU of ONNX: its own test data, and its evaluator.

``pytest -m long -rP`` on this file prints the number of cases and the largest difference.
"""

from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from recurrent import Cell, Hidden, LSTMState, bidirectional, elman, gru, lstm, unroll
from recurrent.combinators import BidirectionalState
from tests.recurrent.cases import random_like

pytestmark = [pytest.mark.optimized, pytest.mark.long]

TIME, BATCH, INPUT, HIDDEN = 6, 3, 4, 5

# Where our blocks are among those of ONNX, which are z, r, h of a GRU and i, o, f, c of an LSTM.
BLOCKS = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}
STATES = {"RNN": Hidden, "GRU": Hidden, "LSTM": LSTMState}
PEEPHOLES = ("input", "output", "forget")


class Node(NamedTuple):
    """Hold a node's operator and attributes, and its inputs by the names of ONNX."""

    operator: str
    attributes: dict[str, Any]
    given: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def onnx() -> Any:
    return pytest.importorskip("onnx", reason="onnx is not installed: it is in the bench extra")


def in_our_order(operator: str, rows: np.ndarray) -> np.ndarray:
    """Reorder the blocks of all gates along the first axis, and transpose."""
    blocks = np.split(rows, len(BLOCKS[operator]))
    return np.concatenate([blocks[block] for block in BLOCKS[operator]]).T


def is_reset_after(node: Node) -> bool:
    return node.operator == "GRU" and node.attributes.get("linear_before_reset") == 1


def cell_of(node: Node) -> Cell:
    sizes = node.given["W"].shape[-1], node.given["R"].shape[-1]
    if node.operator == "LSTM":
        return lstm(*sizes, forget_bias=0.0, peepholes="P" in node.given)
    if node.operator == "GRU":
        return gru(*sizes, reset="after" if is_reset_after(node) else "before")
    return elman(*sizes)


def params_of(node: Node, way: int) -> Any:
    """Return the params of one direction."""
    x, h = (in_our_order(node.operator, node.given[name][way]) for name in "WR")
    zeros = np.zeros((way + 1, 2 * x.shape[1]), x.dtype)
    halves = np.split(node.given.get("B", zeros)[way], 2)
    b_x, b_h = (in_our_order(node.operator, half) for half in halves)
    if is_reset_after(node):
        return {"input": {"kernel": x, "bias": b_x}, "recurrent": {"kernel": h, "bias": b_h}}
    params = {"input": {"kernel": x, "bias": b_x + b_h}, "recurrent": {"kernel": h}}
    if node.operator == "GRU":
        gates, candidate = np.split(h, [2 * len(h)], axis=1)
        params |= {"recurrent": {"kernel": gates}, "gate": {"kernel": candidate}}
    if "P" in node.given:
        params["gate"] = dict(zip(PEEPHOLES, np.split(node.given["P"][way], 3), strict=True))
    return params


def outputs_of(node: Node) -> dict[str, np.ndarray]:
    """Run our cell on the inputs of a node, and return its outputs by the names of ONNX."""
    is_batch_first = node.attributes.get("layout") == 1
    turned = {name: x.swapaxes(0, 1) for name, x in node.given.items() if x.ndim == 3}
    given = node.given | {n: x for n, x in turned.items() if is_batch_first and n not in "WR"}
    cell, xs, ways = cell_of(node), given["X"], len(given["W"])
    zeros = np.zeros((ways, xs.shape[1], given["R"].shape[-1]), xs.dtype)
    kind = STATES[node.operator]
    starts = [given.get(f"initial_{field}", zeros) for field in "hc"[: len(kind._fields)]]
    states = [kind(*fields) for fields in zip(*starts, strict=True)]
    params, state = params_of(node, 0), states[0]
    if ways == 2:
        cell, state = bidirectional(cell, cell), BidirectionalState(*states)
        params = {"forward": params, "backward": params_of(node, 1)}
    run = partial(unroll, cell, reverse=node.attributes.get("direction") == b"reverse")
    state, ys = jax.jit(run)(params, xs, state, lengths=given.get("sequence_lens"))
    y = np.asarray(ys).reshape(*xs.shape[:2], ways, -1)  # [T, B, ways, H]
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
    lasts = [np.stack(leaves[index :: len(starts)]) for index in range(len(starts))]
    if is_batch_first:
        y, lasts = y.swapaxes(0, 1), [last.swapaxes(0, 1) for last in lasts]
    else:
        y = y.swapaxes(1, 2)
    return {"Y": y} | dict(zip(("Y_h", "Y_c"), lasts, strict=False))


def difference(node: Node, expected: dict[str, np.ndarray]) -> float:
    """Return the largest difference, relative to the largest value where that is above 1."""
    assert expected
    actual = outputs_of(node)
    largest = 0.0
    for name, array in expected.items():
        assert (actual[name].shape, actual[name].dtype) == (array.shape, array.dtype)
        scale = max(1.0, float(np.abs(array).max()))
        largest = max(largest, float(np.abs(actual[name] - array).max()) / scale)
    return largest


def named(names: Any, arrays: Any) -> dict[str, np.ndarray]:
    """Return arrays by their names, of which those left out by a node are empty."""
    pairs = zip([name for name in names if name], arrays, strict=True)
    return {name: np.asarray(array) for name, array in pairs}


def attributes_of(onnx: Any, proto: Any) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in proto.attribute}


def check(source: str, differences: dict[str, float], tolerance: float) -> None:
    print(f"{source}: {len(differences)} cases, largest difference {max(differences.values()):.1e}")
    assert {name: d for name, d in differences.items() if not d <= tolerance} == {}


def test_cells_equal_the_test_data_of_onnx(onnx: Any) -> None:
    """Allow 8 units in the last place of float32, in which ONNX computed its data."""
    for module in ("rnn", "lstm", "gru"):
        import_module(f"onnx.backend.test.case.node.{module}")
    differences = {}
    for case in import_module("onnx.backend.test.case.node")._NodeTestCases:
        proto = case.model.graph.node[0]
        if proto.op_type in BLOCKS:
            ((inputs, outputs),) = case.data_sets
            given = named(proto.input, inputs)
            node = Node(proto.op_type, attributes_of(onnx, proto), given)
            differences[case.name] = difference(node, named(proto.output, outputs))
    assert len(differences) >= 18
    check("test data of ONNX", differences, 8 * 2.0**-23)


VARIANTS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "RNN": ("RNN", {}, ["B", "initial_h"]),
    "LSTM": ("LSTM", {}, ["B", "initial_h", "initial_c"]),
    "LSTM with peepholes": ("LSTM", {}, ["B", "initial_h", "initial_c", "P"]),
    "GRU, reset before": ("GRU", {"linear_before_reset": 0}, ["B", "initial_h"]),
    "GRU, reset after": ("GRU", {"linear_before_reset": 1}, ["B", "initial_h"]),
}
INPUTS = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]


def random_inputs(operator: str, names: list[str], ways: int, layout: int) -> Any:
    gates = len(BLOCKS[operator])
    batch = (BATCH, ways) if layout else (ways, BATCH)
    shapes = {
        "X": (BATCH, TIME, INPUT) if layout else (TIME, BATCH, INPUT),
        "W": (ways, gates * HIDDEN, INPUT),
        "R": (ways, gates * HIDDEN, HIDDEN),
        "B": (ways, 2 * gates * HIDDEN),
        "initial_h": (*batch, HIDDEN),
        "initial_c": (*batch, HIDDEN),
        "P": (ways, 3 * HIDDEN),
    }
    return random_like({name: np.zeros(shapes[name]) for name in ["X", "W", "R", *names]})


def test_cells_equal_the_evaluator_of_onnx_on_random_weights(onnx: Any) -> None:
    """Allow 64 units in the last place of float64: in its own data all weights are mostly equal."""
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    differences = {}
    for variant, (operator, attributes, names) in VARIANTS.items():
        for direction, layout in [("forward", 1), ("reverse", 0), ("bidirectional", 1)]:
            given = random_inputs(operator, names, 1 + (direction == "bidirectional"), layout)
            ports = INPUTS if operator == "LSTM" else INPUTS[:6]
            inputs = [name if name in given else "" for name in ports]
            outputs = ["Y", "Y_h", "Y_c"] if operator == "LSTM" else ["Y", "Y_h"]
            more = attributes | {"direction": direction, "layout": layout, "hidden_size": HIDDEN}
            proto = onnx.helper.make_node(operator, inputs, outputs, **more)
            expected = dict(zip(outputs, evaluator(proto).run(None, given), strict=True))
            with jax.enable_x64(True):
                node = Node(operator, attributes_of(onnx, proto), given)
                differences[f"{variant}, {direction}"] = difference(node, expected)
    check("evaluator of ONNX", differences, 64 * 2.0**-52)
