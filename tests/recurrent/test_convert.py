"""Convert weights to torch and Flax and back, and compare outputs and gradients."""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import Cell, elman, gru, lstm, unroll
from recurrent.cells.classic import lstmp
from recurrent.combinators import bidirectional, stack
from recurrent.convert import from_flax, from_torch, to_flax, to_torch
from tests.recurrent.cases import random_like, to_dtype, values_and_gradients

pytestmark = pytest.mark.optimized

TIME, BATCH, INPUT, HIDDEN, PROJECTED = 6, 6, 4, 5, 3
LENGTHS = np.array([3, 6, 1, 5, 2, 4])


class Kind(NamedTuple):
    """Hold the name and arguments of a torch module, and the corresponding cell."""

    module: str
    arguments: dict[str, Any]
    cell: Callable[[int], Cell]
    output_size: int = HIDDEN


KINDS = {
    "elman": Kind("RNN", {}, lambda size: elman(size, HIDDEN)),
    "relu": Kind("RNN", {"nonlinearity": "relu"}, lambda s: elman(s, HIDDEN, activation="relu")),
    "gru": Kind("GRU", {}, lambda size: gru(size, HIDDEN)),
    "lstm": Kind("LSTM", {}, lambda size: lstm(size, HIDDEN)),
    "lstmp": Kind(
        "LSTM",
        {"proj_size": PROJECTED},
        lambda size: lstmp(size, PROJECTED, cell_size=HIDDEN),
        PROJECTED,
    ),
}


class Shape(NamedTuple):
    layers: int
    directions: int


def cell_of(kind: Kind, shape: Shape) -> Cell:
    layers, size = [], INPUT
    for _ in range(shape.layers):
        cells = [kind.cell(size) for _ in range(shape.directions)]
        layers.append(bidirectional(*cells) if shape.directions == 2 else cells[0])
        size = shape.directions * kind.output_size
    return stack(*layers) if shape.layers > 1 else layers[0]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed: it is in the bench extra")


def torch_module(torch: Any, kind: Kind, shape: Shape, dtype: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return getattr(torch.nn, kind.module)(
        INPUT,
        HIDDEN,
        num_layers=shape.layers,
        bidirectional=shape.directions == 2,
        dtype=getattr(torch, dtype),
        **kind.arguments | more,
    )


def initial_states(kind: Kind, shape: Shape, dtype: str) -> tuple[np.ndarray, ...]:
    """Draw torch's h_0 and, for an LSTM, c_0: ``[layers * directions, B, size]``."""
    sizes = [kind.output_size, HIDDEN][: 2 if kind.module == "LSTM" else 1]
    count = shape.layers * shape.directions
    zeros = tuple(np.zeros((count, BATCH, size), dtype) for size in sizes)
    return random_like(zeros, seed=1)


def as_state(cell: Cell, params: Any, states: tuple[Any, ...]) -> Any:
    """Return torch's states as the cell's; both are ordered by layer, forward before backward."""
    structure = jax.tree.structure(cell.initial_state(params, (BATCH,)))
    leaves = [state[index] for index in range(len(states[0])) for state in states]
    return jax.tree.unflatten(structure, leaves)


def at(params: Any, shape: Shape, layer: int, reverse: bool) -> Any:
    """Return the params of one cell of a stack."""
    params = params[f"layer_{layer}"] if shape.layers > 1 else params
    return params[("forward", "backward")[reverse]] if shape.directions == 2 else params


def torch_named(params: Any, shape: Shape) -> dict[str, np.ndarray]:
    """Return arrays shaped like params (such as gradients) under torch's names, by hand."""
    named = {}
    for layer in range(shape.layers):
        for reverse in range(shape.directions):
            cell = at(params, shape, layer, bool(reverse))
            ending = f"l{layer}" + "_reverse" * reverse
            named[f"weight_ih_{ending}"] = cell["input"]["kernel"].T
            named[f"weight_hh_{ending}"] = cell["recurrent"]["kernel"].T
            named[f"bias_ih_{ending}"] = cell["input"]["bias"]
            named[f"bias_hh_{ending}"] = cell["recurrent"].get("bias", cell["input"]["bias"])
            if "gate" in cell:
                named[f"weight_hr_{ending}"] = cell["gate"]["projection"].T
    return named


def assert_close(actual: Any, expected: Any, tolerance: float, what: str = "") -> float:
    """Return the largest difference, relative to the largest value where that is above 1."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    difference = np.abs(actual - expected).max() / max(1.0, float(np.abs(expected).max()))
    assert difference <= tolerance, what
    return float(difference)


def run_torch(torch: Any, module: Any, xs: np.ndarray, states: tuple[np.ndarray, ...]) -> Any:
    """Return outputs and last states, and the gradients of their sum weighted by `random_like`."""
    tensors = [torch.tensor(array, requires_grad=True) for array in (*states, xs)]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        tensors[-1], LENGTHS.tolist(), enforce_sorted=False
    )
    ys, last = module(packed, tuple(tensors[:-1]) if len(states) == 2 else tensors[0])
    ys = torch.nn.utils.rnn.pad_packed_sequence(ys)[0]
    outputs = [*(last if len(states) == 2 else [last]), ys]
    weights = random_like([np.zeros(o.shape, xs.dtype) for o in outputs])
    pairs = zip(outputs, weights, strict=True)
    torch.stack([(output * torch.tensor(w)).sum() for output, w in pairs]).sum().backward()
    gradients = {name: weight.grad.numpy() for name, weight in module.named_parameters()}
    values = [output.detach().numpy() for output in outputs]
    return values, gradients, [tensor.grad.numpy() for tensor in tensors]


SHAPES = {
    "1 layer": Shape(1, 1),
    "3 layers": Shape(3, 1),
    "both ways": Shape(1, 2),
    "3 layers both ways": Shape(3, 2),
}
CASES = [
    (name, shape, dtype)
    for name in ("elman", "gru", "lstm", "lstmp")
    for shape in ("1 layer", "3 layers both ways")
    for dtype in ("float64", "float32")
]
CASES += [
    ("relu", "1 layer", "float64"),
    ("gru", "both ways", "float64"),
    ("lstm", "3 layers", "float64"),
]
TOLERANCE = {"float64": 16 * 2.0**-52, "float32": 16 * 2.0**-23}  # in units of the last place


@pytest.mark.long
@pytest.mark.parametrize(("name", "shape_name", "dtype"), CASES)
def test_imported_torch_weights_give_the_same_values_and_gradients(
    torch: Any, name: str, shape_name: str, dtype: str
) -> None:
    kind, shape = KINDS[name], SHAPES[shape_name]
    module = torch_module(torch, kind, shape, dtype)
    xs = random_like(np.zeros((TIME, BATCH, INPUT), dtype))
    states = initial_states(kind, shape, dtype)
    values, of_weights, of_arrays = run_torch(torch, module, xs, states)
    cell = cell_of(kind, shape)

    def run(params, states, xs):
        state = as_state(cell, params, states)
        state, ys = unroll(cell, params, xs, state, lengths=LENGTHS)
        leaves = jax.tree.leaves(state)
        return [jnp.stack(leaves[field :: len(states)]) for field in range(len(states))] + [ys]

    args = from_torch(module.state_dict()), states, xs
    outputs, (of_params, of_states, of_xs) = jax.jit(partial(values_and_gradients, run))(*args)
    mine = torch_named(of_params, shape)
    assert mine.keys() == of_weights.keys()
    pairs = (
        [*zip(outputs, values, strict=True)],
        [*zip([*of_states, of_xs], of_arrays, strict=True)],
    )
    pairs[1].extend((mine[key], gradient) for key, gradient in of_weights.items())
    largest = [max(assert_close(*pair, TOLERANCE[dtype]) for pair in some) for some in pairs]
    assert {actual.dtype for actual, _ in pairs[0] + pairs[1]} == {np.dtype(dtype)}
    print(
        f"torch {name}, {shape_name}, {dtype}: values {largest[0]:.1e}, gradients {largest[1]:.1e}"
    )


def random_params(cell: Cell) -> Any:
    return random_like(jax.eval_shape(cell.init, jax.random.key(0)))


def outputs_of(cell: Cell, params: Any, xs: np.ndarray) -> Any:
    return jax.jit(partial(unroll, cell))(params, xs)[1]


def load(torch: Any, module: Any, weights: dict[str, np.ndarray]) -> None:
    """Load weights into a module, whose names and shapes they must match."""
    module.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})


@pytest.mark.parametrize("name", KINDS)
def test_exported_params_give_the_same_outputs_in_torch(torch: Any, name: str) -> None:
    kind, shape = KINDS[name], SHAPES["1 layer"]
    cell = cell_of(kind, shape)
    params = random_params(cell)
    module = torch_module(torch, kind, shape, "float64")
    load(torch, module, to_torch(params))
    xs = random_like(np.zeros((TIME, BATCH, INPUT)))
    expected = module(torch.tensor(xs))[0].detach().numpy()
    assert_close(outputs_of(cell, params, xs), expected, 1e-12)


@pytest.mark.parametrize("shape_name", SHAPES)
@pytest.mark.parametrize("name", KINDS)
def test_torch_modules_load_exported_params(torch: Any, name: str, shape_name: str) -> None:
    kind, shape = KINDS[name], SHAPES[shape_name]
    params = random_params(cell_of(kind, shape))
    load(torch, torch_module(torch, kind, shape, "float64"), to_torch(params))


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape_name", SHAPES)
@pytest.mark.parametrize("name", KINDS)
def test_params_exported_to_torch_and_imported_again_are_the_same_bits(
    name: str, shape_name: str, dtype: str
) -> None:
    params = to_dtype(random_params(cell_of(KINDS[name], SHAPES[shape_name])), dtype)
    exported = to_torch(params, forget_bias=0)
    back = from_torch(exported, forget_bias=0)
    chex.assert_trees_all_equal(back, params, strict=True)
    assert {array.dtype for array in exported.values()} == {np.dtype(dtype)}


@pytest.mark.parametrize("shape_name", SHAPES)
@pytest.mark.parametrize("name", KINDS)
def test_torch_weights_imported_and_exported_again_are_the_same_bits_with_biases_summed(
    torch: Any, name: str, shape_name: str
) -> None:
    kind, shape = KINDS[name], SHAPES[shape_name]
    weights = torch_module(torch, kind, shape, "float32").state_dict()
    back = to_torch(from_torch(weights, forget_bias=0), forget_bias=0)
    assert back.keys() == weights.keys()
    for key, array in back.items():
        expected = weights[key].numpy()
        if key.startswith("bias") and kind.module != "GRU":
            other = weights[key.replace("ih", "hh")].numpy()
            expected = expected + other if "ih" in key else np.zeros_like(expected)
        np.testing.assert_array_equal(array, expected)


def test_converted_arrays_share_no_memory_with_the_originals(torch: Any) -> None:
    weights = torch_module(torch, KINDS["gru"], SHAPES["1 layer"], "float64").state_dict()
    arrays = {key: tensor.numpy() for key, tensor in weights.items()}
    params = from_torch(arrays)
    for outcome in (params, to_torch(params), to_flax(params)):
        sources = jax.tree.leaves((arrays, params) if outcome is not params else arrays)
        for leaf in jax.tree.leaves(outcome):
            assert not any(np.shares_memory(leaf, source) for source in sources)


@pytest.mark.parametrize("forget_bias", [0.0, -2.5])
def test_the_forget_bias_of_the_cell_is_subtracted_from_the_imported_bias(
    torch: Any, forget_bias: float
) -> None:
    module = torch_module(torch, KINDS["lstm"], SHAPES["1 layer"], "float64")
    params = from_torch(module.state_dict(), forget_bias=forget_bias)
    cell = lstm(INPUT, HIDDEN, forget_bias=forget_bias)
    xs = random_like(np.zeros((TIME, BATCH, INPUT)))
    expected = module(torch.tensor(xs))[0].detach().numpy()
    assert_close(outputs_of(cell, params, xs), expected, 1e-12)
    exported = to_torch(params, forget_bias=forget_bias)
    expected = (module.bias_ih_l0 + module.bias_hh_l0).detach().numpy()
    np.testing.assert_allclose(exported["bias_ih_l0"], expected, atol=1e-15)


@pytest.mark.parametrize("name", KINDS)
def test_torch_modules_without_biases_convert_in_both_directions(torch: Any, name: str) -> None:
    kind, shape = KINDS[name], SHAPES["1 layer"]
    module = torch_module(torch, kind, shape, "float64", bias=False)
    params = from_torch(module.state_dict())
    xs = random_like(np.zeros((TIME, BATCH, INPUT)))
    expected = module(torch.tensor(xs))[0].detach().numpy()
    assert_close(outputs_of(cell_of(kind, shape), params, xs), expected, 1e-12)
    back = to_torch(params, bias=False)
    assert back.keys() == module.state_dict().keys()
    for key, array in back.items():
        np.testing.assert_array_equal(array, module.state_dict()[key].numpy())


def test_dropping_nonzero_biases_on_export_is_an_error() -> None:
    params = random_params(elman(INPUT, HIDDEN))
    with pytest.raises(ValueError, match=r"bias: expected biases of zero.*bias_ih_l0"):
        to_torch(params, bias=False)


def weights_of(rows: int, **changes: Any) -> dict[str, np.ndarray]:
    weights = {
        "weight_ih_l0": np.zeros((rows, INPUT)),
        "weight_hh_l0": np.zeros((rows, HIDDEN)),
        "bias_ih_l0": np.zeros(rows),
        "bias_hh_l0": np.zeros(rows),
    }
    return {key: array for key, array in (weights | changes).items() if array is not None}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, r"expected the weights of layers 0, 1, .*got layers \[\]"),
        (weights_of(5) | {"encoder.weight": np.zeros(3)}, r"got 'encoder\.weight'; of a larger"),
        ({"weight_ih_l1": np.zeros((5, 5)), "weight_hh_l1": np.zeros((5, 5))}, r"layers \[1\]"),
        (weights_of(5, weight_hh_l0=None), r"expected weight_ih and weight_hh.*in layer 0"),
        (weights_of(5, bias_hh_l0=None), r"two biases or none, in layer 0"),
        (weights_of(10), r"expected 1, 3 or 4 blocks.*layer 0.*'weight_ih': \[10, 4\]"),
        (weights_of(7), r"expected 1, 3 or 4 blocks of hidden_size rows"),
        (weights_of(5, bias_ih_l0=np.zeros(4)), r"blocks of hidden_size rows.*'bias_ih': \[4\]"),
        (weights_of(5, weight_hr_l0=np.zeros((5, 5))), r"blocks of hidden_size rows"),
        (weights_of(20, weight_hr_l0=np.zeros((4, 5))), r"blocks.*'weight_hr': \[4, 5\]"),
        ({f"{key}_reverse": array for key, array in weights_of(5).items()}, r"same directions"),
        (
            weights_of(5) | {"weight_ih_l0_reverse": np.zeros((5, 4))},
            r"expected weight_ih and weight_hh",
        ),
    ],
)
def test_an_unsuitable_torch_state_dict_is_an_error(
    weights: Mapping[str, np.ndarray], message: str
) -> None:
    with pytest.raises(ValueError, match=r"state_dict: .*" + message):
        from_torch(weights)


@pytest.mark.parametrize(
    "cell",
    [
        lstm(INPUT, HIDDEN, peepholes=True),
        lstm(INPUT, HIDDEN, coupled=True),
        gru(INPUT, HIDDEN, reset="before"),
        stack(gru(INPUT, HIDDEN), lstm(HIDDEN, HIDDEN, peepholes=True)),
    ],
    ids=["peepholes", "coupled", "reset before", "inside a stack"],
)
def test_exporting_a_cell_that_torch_and_flax_lack_is_an_error(cell: Cell) -> None:
    params = random_params(cell)
    for export in (to_torch, to_flax):
        with pytest.raises(ValueError, match="params: expected those of elman, gru, lstm"):
            export(params)


# Flax.

FLAX: dict[str, tuple[Callable[..., Any], Cell]] = {
    "LSTMCell": (nn.LSTMCell, lstm(INPUT, HIDDEN)),
    "OptimizedLSTMCell": (nn.OptimizedLSTMCell, lstm(INPUT, HIDDEN)),
    "GRUCell": (nn.GRUCell, gru(INPUT, HIDDEN)),
    "SimpleCell": (nn.SimpleCell, elman(INPUT, HIDDEN)),
}


@lru_cache
def flax_rnn(name: str) -> tuple[nn.RNN, Any]:
    """Return a Flax module, and random params of about the initial size, with nonzero biases."""
    rnn = nn.RNN(FLAX[name][0](HIDDEN, param_dtype=jnp.float64), time_major=True)
    variables = jax.eval_shape(rnn.init, jax.random.key(0), np.zeros((TIME, BATCH, INPUT)))
    return rnn, jax.tree.map(lambda leaf: 0.5 * leaf, random_like(variables["params"]))


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FLAX)
def test_imported_flax_params_give_the_same_values_and_gradients(name: str, dtype: str) -> None:
    rnn, params = flax_rnn(name)
    params, xs = to_dtype((params, random_like(np.zeros((TIME, BATCH, INPUT)))), dtype)
    tolerance = TOLERANCE[dtype]
    mask = np.arange(TIME)[:, None] < LENGTHS

    def theirs(params, xs):
        ys: Any = rnn.apply({"params": params}, xs, seq_lengths=LENGTHS)
        return jnp.where(mask[..., None], ys, 0)

    def ours(params, xs):
        return unroll(FLAX[name][1], params, xs, lengths=LENGTHS)[1]

    args = (params, xs), (from_flax(params["cell"]), xs)
    (expected, (of_theirs, of_their_xs)), (actual, (of_ours, of_our_xs)) = (
        jax.jit(partial(values_and_gradients, run))(*pair)
        for run, pair in zip((theirs, ours), args, strict=True)
    )
    of_values = assert_close(actual, expected, tolerance)
    of_inputs = assert_close(of_our_xs, of_their_xs, tolerance)
    if name == "GRUCell":  # each of two biases has the gradient of their sum
        unused = np.arange(3 * HIDDEN) < 2 * HIDDEN
        of_ours["recurrent"]["bias"] = np.where(unused, 0, of_ours["recurrent"]["bias"])
    mine = to_flax(of_ours, forget_bias=0)
    assert jax.tree.structure(mine) == jax.tree.structure(of_theirs["cell"])
    close = partial(assert_close, tolerance=tolerance)
    of_weights = jax.tree.leaves(jax.tree.map(close, mine, of_theirs["cell"]))
    largest = max(of_inputs, *of_weights)
    print(f"Flax {name}, {dtype}: values {of_values:.1e}, gradients {largest:.1e}")


@pytest.mark.parametrize("name", FLAX)
def test_exported_params_give_the_same_outputs_in_flax(name: str) -> None:
    rnn, theirs = flax_rnn(name)
    cell = FLAX[name][1]
    params = random_params(cell)
    exported = to_flax(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(exported, theirs["cell"])
    xs = random_like(np.zeros((TIME, BATCH, INPUT)))
    expected = jax.jit(rnn.apply)({"params": {"cell": exported}}, xs)
    assert_close(outputs_of(cell, params, xs), expected, 1e-12)


@pytest.mark.parametrize("name", FLAX)
def test_flax_params_imported_and_exported_again_are_the_same_bits(name: str) -> None:
    params = to_dtype(flax_rnn(name)[1]["cell"], "float32")
    back = to_flax(from_flax(params, forget_bias=0), forget_bias=0)
    chex.assert_trees_all_equal(back, params, strict=True)


def test_unsuitable_params_for_flax_are_an_error() -> None:
    rnn_params = {"cell": flax_rnn("GRUCell")[1]["cell"]}
    with pytest.raises(ValueError, match=r"params: expected.*\['cell'\].*give params\['cell'\]"):
        from_flax(rnn_params)
    with pytest.raises(ValueError, match="without projection, which Flax has not"):
        to_flax(random_params(lstmp(INPUT, PROJECTED)))
