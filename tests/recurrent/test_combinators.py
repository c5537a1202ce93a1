"""Compare combinators with compositions by hand, dropped padding, separate sequences and torch."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any, cast

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import Cell, Hidden, LSTMState, dense, elman, gated, gru, lstm, output_shape, unroll
from recurrent.cells.linear import min_gru
from recurrent.cells.state_space import lru
from recurrent.cells.xlstm import slstm
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
from recurrent.layers import Layer, embedding, layer_norm
from recurrent.regularization import (
    recurrent_kernels,
    renewed_masks,
    step_dropout,
    variational_dropout,
    weight_drop,
    zoneout,
)
from tests.recurrent.cases import disturbed, random_like, to_dtype, values_and_gradients

TIME, BATCH, INPUT = 7, 3, 4

# Columns are batch elements: two with padding inside and at an end, one without.
MASK = np.array([[1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1], [1, 0, 1]], bool)
RESET_STEPS = ([3], [0, 4], [1, 2, 6])
RESET = np.stack([np.isin(np.arange(TIME), steps) for steps in RESET_STEPS], axis=1)
LENGTHS = np.array([4, 7, 0])


def noise() -> Cell:
    """Build a stack of every kind of noise that has its own sequence function."""
    rate, keys = 0.4, jax.random.split(jax.random.key(0), 3)
    return stack(
        step_dropout(INPUT, rate, keys[0]),
        weight_drop(elman(INPUT, 3), rate, keys[1]),
        variational_dropout(3, rate, keys[2]),
    )


CELLS: dict[str, Callable[[], Cell]] = {
    "layers": lambda: stack(
        residual(stack(layer_norm(INPUT), elman(INPUT, INPUT))),
        dense_connection(elman(INPUT, 2)),
        skip_stack(elman(6, 3), min_gru(9, 2)),
        dense(5, 3),
    ),
    "for_each": lambda: stack(
        dense(INPUT, 6),
        Layer(lambda key: {}, in_pairs),
        for_each(gru(3, 2), 2),
        input_shape=(INPUT,),
    ),
    "learned_state": lambda: stack(learned_state(lstm(INPUT, 3)), min_gru(3, 2)),
    "noise": noise,
    "zoneout": lambda: zoneout(lstm(INPUT, 3), lstm_state(0.3, 0.6), jax.random.key(0)),
}


def in_pairs(params: Any, x: Any) -> Any:
    """Return the two halves of a vector ``[..., 6]``."""
    return x.reshape(*x.shape[:-1], 2, 3)


def lstm_state(hidden: Any, cell: Any) -> LSTMState:
    """Return an `LSTMState` of values of any type."""
    return LSTMState(hidden, cell)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@lru_cache
def cell_of(name: str) -> Cell:
    return CELLS[name]()


def random_params(cell: Cell) -> Any:
    """Draw params by NumPy, so that nothing is compiled for them."""
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: 0.5 * leaf, random_like(shapes))


def random_inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape)


def run(cell: Cell, params: Any, xs: Any, state: Any = None, **options: Any) -> Any:
    """Run `unroll`, compiled."""
    return jax.jit(lambda *args: unroll(cell, *args, **options))(params, xs, state)


@lru_cache
def inputs_of(name: str) -> tuple[Any, Any, np.ndarray]:
    """Return random params, a carried state ``[B, ...]`` and inputs ``[T, B, D]``."""
    rng, cell = np.random.default_rng(0), cell_of(name)
    params = random_params(cell)
    state = disturbed(rng, cell.initial_state(params, (BATCH,)))
    state = jax.tree.map(lambda leaf: leaf + 2 if leaf.dtype == np.int32 else leaf, state)
    return params, state, rng.normal(size=(TIME, BATCH, INPUT))


@lru_cache
def runner(name: str, method: Any = "auto", reverse: bool = False) -> Callable[..., Any]:
    """Return a compiled ``(params, state, xs, mask, reset) -> (state, ys)``."""

    def run(params, state, xs, mask=None, reset=None):
        options = {"mask": mask, "reset": reset, "reverse": reverse, "method": method}
        return unroll(cell_of(name), params, xs, state, **options)

    return jax.jit(run)


@lru_cache
def stepper(name: str) -> Callable[..., Any]:
    return jax.jit(cell_of(name).step)


def loop(name: str, state: Any, xs: np.ndarray) -> tuple[Any, np.ndarray]:
    ys = []
    for x in xs:
        state, y = stepper(name)(inputs_of(name)[0], state, x)
        ys.append(y)
    return state, np.stack(ys)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-12) -> None:
    chex.assert_trees_all_close(actual, expected, rtol=tolerance, atol=tolerance)


def column(tree: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


@pytest.fixture(params=CELLS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# All combinators on whole sequences.


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in CELLS if cell_of(name).sequence])
def test_combinators_auto_equals_scan_in_values_and_gradients(name: str) -> None:
    params, state, xs = inputs_of(name)

    def only_floats(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf if leaf.dtype == np.float64 else None, tree)

    @partial(jax.jit, static_argnums=0)
    def differentiate(method: str) -> Any:
        def run(params, floats, xs):
            given = jax.tree.map(lambda leaf, new: leaf if new is None else new, state, floats)
            last, ys = runner(name, method, reverse=True)(params, given, xs, MASK, RESET)
            return (ys, only_floats(last)), last

        outputs, pull_back, last = jax.vjp(run, params, only_floats(state), xs, has_aux=True)
        return last, outputs, pull_back(random_like(outputs))

    assert_close(differentiate("auto"), differentiate("scan"))


@pytest.mark.long
def test_stepping_through_a_sequence_equals_unroll(name: str) -> None:
    params, state, xs = inputs_of(name)
    assert_close(runner(name)(params, state, xs), loop(name, state, xs))


def test_masked_steps_equal_dropped_steps(name: str) -> None:
    params, state, xs = inputs_of(name)
    poisoned = np.where(MASK[..., None], xs, np.nan)
    actual_state, actual_ys = runner(name)(params, state, poisoned, MASK, np.zeros_like(MASK))
    for b, real in enumerate(MASK.T):
        dropped_state, dropped_ys = loop(name, state, xs[real])
        assert_close(column(actual_state, b), column(dropped_state, b))
        assert_close(actual_ys[real, b], dropped_ys[:, b])
        assert not np.any(actual_ys[~real, b])


def test_a_reset_starts_a_separate_sequence(name: str) -> None:
    params, state, xs = inputs_of(name)
    actual_state, actual_ys = runner(name)(params, state, xs, np.ones_like(RESET), RESET)
    initial = cell_of(name).initial_state(params, (BATCH,))
    for b, steps in enumerate(RESET_STEPS):
        first, *later = np.split(xs, steps)
        runs = [loop(name, state, first)] if len(first) else []
        runs += [loop(name, initial, piece) for piece in later]
        assert_close(column(actual_state, b), column(runs[-1][0], b))
        assert_close(actual_ys[:, b], np.concatenate([ys for _, ys in runs])[:, b])


def test_a_sequence_without_steps_returns_the_state(name: str) -> None:
    params, state, xs = inputs_of(name)
    actual, ys = runner(name)(params, state, xs[:0], MASK[:0], RESET[:0])
    chex.assert_trees_all_equal(actual, state)
    assert ys.shape == (0, BATCH, *output_shape(cell_of(name)))
    assert jax.eval_shape(runner(name), params, state, xs[:0])[1].shape == ys.shape


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_outputs_and_states_keep_the_type_of_the_params(name: str, dtype: Any) -> None:
    params, _, xs = inputs_of(name)
    params, xs = to_dtype((params, xs), dtype)
    state, ys = jax.eval_shape(runner(name), params, None, xs, MASK, RESET)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((state, ys))}
    assert kinds - {np.dtype(np.int32), np.dtype(bool)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("name", ["layers", "noise"])
def test_a_population_equals_its_members(name: str) -> None:
    params, state, xs = inputs_of(name)
    members = [disturbed(np.random.default_rng(seed), params) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    _, ys = jax.jit(jax.vmap(runner(name), in_axes=(0, None, None)))(stacked, state, xs)
    expected = [runner(name)(member, state, xs)[1] for member in members]
    assert_close(ys, np.stack(expected))


# One combinator at a time, compared with a composition by hand.


@pytest.mark.long
def test_a_stack_runs_one_part_after_the_other() -> None:
    bottom, norm, top = gru(INPUT, 3), layer_norm(3), lstm(3, 5)
    cell = stack(bottom, norm, top)
    params, xs = random_params(cell), random_inputs(TIME, BATCH, INPUT)
    bottom_state, ys = run(bottom, params["layer_0"], xs)
    top_state, ys = run(top, params["layer_2"], norm.apply(params["layer_1"], ys))
    assert_close(run(cell, params, xs), (StackState((bottom_state, (), top_state)), ys))


def test_residual_adds_the_input() -> None:
    inner = lstm(INPUT, INPUT)
    params, xs = random_params(inner), random_inputs(TIME, BATCH, INPUT)
    state, ys = run(inner, params, xs)
    assert_close(run(residual(inner), params, xs), (state, xs + ys))


@pytest.mark.parametrize("around", [residual, dense_connection])
@pytest.mark.fault("N6")
def test_padding_does_not_leak_through_residual_or_dense_connections(
    around: Callable[[Cell], Cell],
) -> None:
    cell = around(elman(INPUT, INPUT))
    params, xs = random_params(cell), random_inputs(TIME, BATCH, INPUT)
    poisoned = np.where(MASK[..., None], xs, np.nan)

    def loss(params, xs):
        _, ys = unroll(cell, params, xs, mask=MASK)
        return jnp.sum(jnp.sin(ys)), ys

    differentiate = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    (gradients, d_xs), ys = differentiate(params, poisoned)
    assert_close(((gradients, d_xs), ys), differentiate(params, np.where(MASK[..., None], xs, 7)))
    assert not np.any(ys[~MASK])
    assert not np.any(d_xs[~MASK])


def test_stacked_dense_connections_concatenate_the_input_and_all_outputs() -> None:
    cells = gru(INPUT, 2), elman(INPUT + 2, 3)
    cell = stack(*map(dense_connection, cells))
    params, xs = random_params(cell), random_inputs(TIME, BATCH, INPUT)
    _, ys = run(cells[0], params["layer_0"], xs)
    _, zs = run(cells[1], params["layer_1"], np.concatenate([xs, ys], axis=-1))
    assert_close(run(cell, params, xs)[1], np.concatenate([xs, ys, zs], axis=-1))


def test_every_layer_of_a_skip_stack_reads_the_input_and_reaches_the_output() -> None:
    cells = elman(INPUT, 3), gru(INPUT + 3, 2), lstm(INPUT + 2, 5)
    cell = skip_stack(*cells)
    params, xs = random_params(cell), random_inputs(TIME, BATCH, INPUT)
    outputs = [run(cells[0], params["layer_0"], xs)[1]]
    for index in (1, 2):
        seen = np.concatenate([xs, outputs[-1]], axis=-1)
        outputs.append(run(cells[index], params[f"layer_{index}"], seen)[1])
    assert_close(run(cell, params, xs)[1], np.concatenate(outputs, axis=-1))
    assert output_shape(cell) == (10,)


@pytest.mark.parametrize("options", [{}, {"mask": MASK}, {"reset": RESET}, {"reverse": True}])
def test_for_each_equals_one_run_for_each_input(options: Any) -> None:
    inner = lstm(INPUT, 3)
    params, xs = random_params(inner), random_inputs(TIME, BATCH, 5, INPUT)
    state, ys = run(for_each(inner, 5), params, xs, **options)
    for k in range(5):
        expected = run(inner, params, xs[:, :, k], **options)
        assert_close((jax.tree.map(lambda leaf, k=k: leaf[:, k], state), ys[:, :, k]), expected)


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"mask": MASK}, {"mask": MASK, "reset": RESET}])
def test_a_tied_embedding_equals_a_stack_whose_readout_is_its_transpose(options: Any) -> None:
    inner = stack(gru(INPUT, 3), dense(3, INPUT))
    cell = tied_embedding(9, inner)
    apart = stack(embedding(9, INPUT), inner, dense(INPUT, 9), input_shape=())
    tokens = np.random.default_rng(0).integers(9, size=(TIME, BATCH))
    tokens = np.where(options.get("mask", MASK), tokens, -5)  # padding may be anything
    params = random_params(cell)
    kernel = params["embedding"]["kernel"]
    split = {
        "layer_0": {"kernel": kernel},
        "layer_1": params["cell"],
        "layer_2": {"kernel": kernel.T, "bias": params["bias"]},
    }
    options = {"mask": MASK} | options

    def loss(cell, params, method):
        state, ys = unroll(cell, params, tokens, method=method, **options)
        return jnp.sum(jnp.sin(ys)), (jax.tree.leaves(state), ys)

    both = [
        jax.jit(partial(jax.grad(loss, 1, has_aux=True), each, method=method))
        for each, method in ((cell, "auto"), (cell, "scan"), (apart, "auto"))
    ]
    fast, scan, expected = (f(p) for f, p in zip(both, (params, params, split), strict=True))
    assert_close(fast, scan)
    assert_close(fast[1], expected[1])
    (found, _), (parts, _) = fast, expected
    table = parts["layer_0"]["kernel"] + parts["layer_2"]["kernel"].T
    assert_close(found["embedding"]["kernel"], table)
    assert_close((found["cell"], found["bias"]), (parts["layer_1"], parts["layer_2"]["bias"]))


def test_parts_of_a_stack_draw_different_params() -> None:
    params = stack(gru(3, 3), gru(3, 3)).init(jax.random.key(0))
    kernels = [params[name]["recurrent"]["kernel"] for name in ("layer_0", "layer_1")]
    assert np.all(kernels[0] != kernels[1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: stack(gru(4, 3), lstm(5, 2)), r"layer 1: .* \[3\], as layer 0 gives, .* \[5\]"),
        (lambda: stack(gru(4, 3), input_shape=(5,)), r"layer 0: .* \[5\], as the stack .* \[4\]"),
        (lambda: stack(gru(4, 3), dense(5, 2)), r"layer 1: .* inputs of shape \[3\]"),
        (lambda: stack(dense(2, 4), gru(4, 3)), r"layer 0: .* \[4\].*input_shape"),
        (lambda: stack(layer_norm(4)), "input_shape"),
        (lambda: stack(), "parts: expected at least one"),
        (lambda: skip_stack(), "cells: expected at least one"),
        (lambda: skip_stack(gru(4, 3), gru(3, 2)), r"layer 1: .* \[7\].* \[3\]"),
        (
            lambda: tied_embedding(9, gru(4, 3)),
            r"tied_embedding: .* \[4\], got \[3\]; end it with a dense",
        ),
        (lambda: for_each(gru(4, 4), 0), "count: expected at least 1, got 0"),
        (lambda: tied_embedding(0, gru(4, 4)), "vocabulary: expected at least 1, got 0"),
        (lambda: residual(gru(4, 3)), r"residual: .* \[4\], got \[3\]"),
        (lambda: bidirectional(gru(4, 3), gru(5, 3)), r"backward: .* \[4\].* \[5\]"),
        (lambda: embedding(0, 3), "vocabulary: expected at least 1, got 0"),
    ],
)
def test_mismatched_or_missing_parts_are_an_error(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


def broken_layer(size: int) -> Layer:
    def apply(params: Any, x: Any) -> Any:
        return x + "a"

    return Layer(lambda key: {}, apply)


def test_an_error_in_a_part_of_a_stack_is_its_own_and_advice_is_given_where_it_helps() -> None:
    def gate(zx: Any, zh: Any, state: Any) -> Any:
        return Hidden(zx[0] + "a")

    with pytest.raises(TypeError, match=r"^unsupported operand"):
        stack(gated(gate, 4, 3, gates=1), dense(3, 2), input_shape=(4,))
    with pytest.raises(ValueError, match=r"^layer 1: .*unsupported operand[^.]*\.$"):
        stack(gru(4, 3), broken_layer(3))
    with pytest.raises(ValueError, match=r"unsupported operand[^.]*\. Give the stack its input_sh"):
        stack(broken_layer(4), gru(4, 3))


# Bidirectional.


def read(cell: Cell, params: Any, xs: np.ndarray, backwards: bool) -> np.ndarray:
    """Return the outputs ``[T, H]`` of a Python loop over one whole sequence ``[T, D]``."""
    step, state = compiled_step(cell), cell.initial_state(params, ())
    ys = np.zeros((len(xs), *output_shape(cell)))
    for t in reversed(range(len(xs))) if backwards else range(len(xs)):
        state, ys[t] = step(params, state, xs[t])
    return ys


@lru_cache
def compiled_step(cell: Cell) -> Callable[..., Any]:
    return jax.jit(cell.step)


@pytest.fixture(scope="module")
def two_ways() -> tuple[Cell, Cell, Any, np.ndarray]:
    with jax.enable_x64(True):
        forward, backward = lstm(INPUT, 3), gru(INPUT, 2)
        params = random_params(bidirectional(forward, backward))
        return forward, backward, params, random_inputs(TIME, BATCH, INPUT)


@pytest.mark.long
@pytest.mark.parametrize("reverse", [False, True])
def test_bidirectional_equals_a_loop_in_each_direction_over_each_example(
    two_ways, reverse: bool
) -> None:
    forward, backward, params, xs = two_ways
    poisoned = np.where((np.arange(TIME)[:, None] < LENGTHS)[..., None], xs, np.nan)
    cell = bidirectional(forward, backward)
    _, ys = run(cell, params, poisoned, lengths=LENGTHS, reverse=reverse)
    for b, length in enumerate(LENGTHS):
        there = read(forward, params["forward"], xs[:length, b], backwards=reverse)
        back = read(backward, params["backward"], xs[:length, b], backwards=not reverse)
        assert_close(ys[:length, b], np.concatenate([there, back], axis=-1))
        assert not np.any(ys[length:, b])


@pytest.mark.parametrize("reverse", [False, True])
def test_a_reset_separates_sequences_in_both_directions(two_ways, reverse: bool) -> None:
    forward, backward, params, xs = two_ways
    cell = bidirectional(forward, backward)
    _, ys = run(cell, params, xs, reset=RESET, reverse=reverse)
    for b, steps in enumerate(RESET_STEPS):
        # When reading backward, a reset at step t separates it from step t + 1.
        cuts = [step + 1 for step in steps] if reverse else steps
        pieces = [piece for piece in np.split(xs[:, b], cuts) if len(piece)]
        there = [read(forward, params["forward"], piece, reverse) for piece in pieces]
        back = [read(backward, params["backward"], piece, not reverse) for piece in pieces]
        expected = np.concatenate([np.concatenate(there), np.concatenate(back)], axis=-1)
        assert_close(ys[:, b], expected)


@pytest.mark.parametrize("reverse", [False, True])
def test_bidirectional_sequences_packed_with_padding_do_not_mix(two_ways, reverse: bool) -> None:
    *cells, params, xs = two_ways
    cell = bidirectional(*cells)
    real = np.array([0, 1, 1, 0, 0, 1, 1], bool)
    mask, reset = (np.stack([real] * BATCH, axis=1), np.zeros((TIME, BATCH), bool))
    # The reset is at the first unmasked step of the sequence that is read second.
    reset[2 if reverse else 5] = True
    _, ys = run(cell, params, xs, mask=mask, reset=reset, reverse=reverse)
    for piece in (slice(1, 3), slice(5, 7)):
        assert_close(ys[piece], run(cell, params, xs[piece], reverse=reverse)[1])


@pytest.mark.long
def test_bidirectional_states_and_gradients_equal_two_separate_runs(two_ways) -> None:
    forward, backward, params, xs = two_ways
    cell = bidirectional(forward, backward)
    state = disturbed(np.random.default_rng(2), cell.initial_state(params, (BATCH,)))

    def both(params, state, xs):
        return unroll(cell, params, xs, state, mask=MASK)

    def apart(params, state, xs):
        there, ys = unroll(forward, params["forward"], xs, state.forward, mask=MASK)
        back, zs = unroll(
            backward, params["backward"], xs[::-1], state.backward, mask=MASK[::-1], method="scan"
        )
        return BidirectionalState(there, back), jnp.concatenate([ys, zs[::-1]], axis=-1)

    def differentiate(function: Callable[..., Any]) -> Any:
        outputs, pull_back = jax.vjp(function, params, state, xs)
        return outputs, pull_back(random_like(outputs))

    assert_close(jax.jit(partial(differentiate, both))(), jax.jit(partial(differentiate, apart))())


def test_two_bidirectional_layers_equal_torch_with_lengths() -> None:
    torch = pytest.importorskip("torch", reason="torch is a reference for comparisons only")
    rng, size = np.random.default_rng(0), 3
    lengths, xs = np.array([5, 1, 7, 3]), rng.normal(size=(TIME, 4, INPUT))
    reference = torch.nn.LSTM(INPUT, size, 2, bidirectional=True, dtype=torch.float64)
    layers = [(lstm(n, size, forget_bias=0.0),) * 2 for n in (INPUT, 2 * size)]
    cell = stack(*[bidirectional(*pair) for pair in layers])

    def params_of(layer: int, suffix: str) -> Any:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w, u, b, c = [
            getattr(reference, f"{name}_l{layer}{suffix}").detach().numpy() for name in names
        ]
        return {"input": {"kernel": w.T, "bias": b + c}, "recurrent": {"kernel": u.T}}

    params = {
        f"layer_{i}": {"forward": params_of(i, ""), "backward": params_of(i, "_reverse")}
        for i in range(2)
    }

    def loss(params, xs):
        state, ys = unroll(cell, params, xs, lengths=lengths)
        return jnp.sum(jnp.sin(ys)), (state, ys)

    differentiate = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, (state, ys)), (gradients, d_xs) = differentiate(params, xs)

    inputs = torch.tensor(xs, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(inputs, lengths, enforce_sorted=False)
    packed_ys, (h, c) = reference(packed)
    padded = torch.nn.utils.rnn.pad_packed_sequence(packed_ys, total_length=TIME)[0]
    padded.sin().sum().backward()

    assert_close(ys, padded.detach().numpy())
    directions = [direction for layer in state.layers for direction in layer]
    assert_close(np.stack([s.hidden for s in directions]), h.detach().numpy())
    assert_close(np.stack([s.cell for s in directions]), c.detach().numpy())
    assert_close(d_xs, inputs.grad.numpy())
    for layer in range(2):
        for direction, suffix in {"forward": "", "backward": "_reverse"}.items():
            actual = gradients[f"layer_{layer}"][direction]
            expected = {
                name: getattr(reference, f"{name}_l{layer}{suffix}").grad.numpy()
                for name in ("weight_ih", "weight_hh", "bias_ih")
            }
            assert_close(actual["input"]["kernel"], expected["weight_ih"].T)
            assert_close(actual["recurrent"]["kernel"], expected["weight_hh"].T)
            assert_close(actual["input"]["bias"], expected["bias_ih"])


@pytest.mark.parametrize(
    "run",
    [
        lambda cell, params, xs: cell.step(params, cell.initial_state(params, (BATCH,)), xs[0]),
        lambda cell, params, xs: unroll(cell, params, xs, method="scan"),
        lambda cell, params, xs: unroll(cell, params, xs, return_states=True),
    ],
    ids=["step", "scan", "return_states"],
)
def test_stepping_a_bidirectional_cell_is_an_error(two_ways, run: Callable[..., Any]) -> None:
    *cells, params, xs = two_ways
    with pytest.raises(ValueError, match=r"bidirectional: .*run it by unroll"):
        run(bidirectional(*cells), params, xs)


@pytest.mark.parametrize(
    "wrap",
    [learned_state, lambda cell: zoneout(cell, 0.1, None)],
    ids=["learned_state", "zoneout"],
)
def test_learned_state_and_zoneout_reject_cells_with_a_log_scale(
    wrap: Callable[[Cell], Cell],
) -> None:
    with pytest.raises(ValueError, match="got one with a log_scale"):
        wrap(slstm(INPUT, 3))


def test_weight_drop_masks_recurrent_kernels_inside_a_gate() -> None:
    cell = weight_drop(gru(INPUT, 3, reset="before"), 0.99999, jax.random.key(0))
    params = random_params(cell)
    xs = random_like(np.zeros((TIME, BATCH, INPUT)))
    larger = params | {"gate": {"kernel": 5 * params["gate"]["kernel"]}}
    np.testing.assert_array_equal(unroll(cell, params, xs)[1], unroll(cell, larger, xs)[1])


# Learned initial states.


@pytest.mark.parametrize("options", [{"remat": 2}, {"truncate": 2}], ids=str)
def test_remat_or_truncation_of_a_bidirectional_cell_is_an_error(options: dict[str, Any]) -> None:
    cell = stack(bidirectional(elman(INPUT, 2), elman(INPUT, 2)), elman(4, 2))
    params = random_params(cell)
    with pytest.raises(ValueError, match=r"expected a whole sequence.*bidirectional\(remat\("):
        unroll(cell, params, np.zeros((TIME, BATCH, INPUT)), **options)


@pytest.mark.long
@pytest.mark.parametrize("steps", [1, 3, TIME + 1])
def test_rematerialized_directions_equal_plain_directions(steps: int) -> None:
    def run(wrap: Callable[[Cell], Cell], params: Any, xs: Any) -> Any:
        cell = bidirectional(wrap(gru(INPUT, 3)), wrap(gru(INPUT, 2)))
        return unroll(cell, params, xs, mask=MASK, reset=RESET)

    params = random_params(bidirectional(gru(INPUT, 3), gru(INPUT, 2)))
    xs = random_like(np.zeros((TIME, BATCH, INPUT)))
    plain, stored = (
        jax.jit(partial(values_and_gradients, partial(run, wrap)))(params, xs)
        for wrap in (lambda cell: cell, partial(remat, steps=steps))
    )
    chex.assert_trees_all_close(stored, plain, rtol=1e-12, atol=1e-12)


def test_every_example_starts_from_the_learned_state() -> None:
    inner = lstm(INPUT, 3)
    cell = learned_state(inner)
    params = random_params(cell)
    assert set(params["state"]) == {"hidden", "cell"}
    start = LSTMState(params["state"]["hidden"], params["state"]["cell"])
    chex.assert_trees_all_equal(column(cell.initial_state(params, (BATCH,)), 1), start)
    xs = random_inputs(TIME, BATCH, INPUT)
    given = jax.tree.map(lambda leaf: np.stack([leaf] * BATCH), start)
    assert_close(run(cell, params, xs), run(inner, params["cell"], xs, given))


def test_the_gradient_of_a_learned_state_is_the_sum_over_examples_and_resets() -> None:
    inner = elman(INPUT, 3)
    cell = learned_state(inner)
    params, xs = random_params(cell), random_inputs(6, 2, INPUT)
    reset = np.zeros((6, 2), bool)
    reset[3, 1] = True

    def whole(params):
        return jnp.sum(jnp.sin(unroll(cell, params, xs, reset=reset)[1]))

    def piece(start, xs):
        state = inner.initial_state(params["cell"], ())._replace(hidden=start)
        return jnp.sum(jnp.sin(unroll(inner, params["cell"], xs, state)[1]))

    pieces = [xs[:, 0], xs[:3, 1], xs[3:, 1]]
    gradient = jax.jit(jax.grad(piece))
    expected = sum(gradient(params["state"]["hidden"], xs) for xs in pieces)
    assert_close(jax.jit(jax.grad(whole))(params)["state"]["hidden"], expected)


@pytest.mark.long
def test_a_learned_state_of_a_stack_has_flat_names_and_skips_integers_and_masks() -> None:
    inner = stack(variational_dropout(INPUT, 0.5, jax.random.key(0)), lstm(INPUT, 3), gru(3, 2))
    cell = learned_state(inner)
    params = cell.init(jax.random.key(0))
    assert set(params["state"]) == {"layers/1/hidden", "layers/1/cell", "layers/2/hidden"}
    states = cell.initial_state(params, (BATCH,)), inner.initial_state(params["cell"], (BATCH,))
    chex.assert_trees_all_equal(*states)


# Embedding.


def test_an_embedding_below_a_cell_reads_tokens() -> None:
    inner = gru(3, 2)
    cell = stack(embedding(6, 3), inner, dense(2, 6), input_shape=())
    params = random_params(cell)
    tokens = np.random.default_rng(0).integers(0, 6, size=(TIME, BATCH))
    one_hot = np.eye(6)[tokens]
    table, readout = params["layer_0"]["kernel"], params["layer_2"]
    state, hidden = run(inner, params["layer_1"], one_hot @ table)
    ys = np.asarray(hidden) @ readout["kernel"] + readout["bias"]
    assert_close(run(cell, params, tokens), (StackState(((), state, ())), ys))
    assert cell.input_shape == ()
    assert output_shape(cell) == (6,)


def test_the_gradient_of_an_embedding_vector_sums_over_all_uses_of_the_token() -> None:
    rng = np.random.default_rng(0)
    tokens, weights = rng.integers(0, 6, (TIME, BATCH)), rng.normal(size=(TIME, BATCH, 3))
    layer = embedding(7, 3)
    gradient = jax.grad(lambda params: (layer.apply(params, tokens) * weights).sum())
    expected = np.zeros((7, 3))
    np.add.at(expected, tokens, weights)
    assert_close(gradient(layer.init(jax.random.key(0)))["kernel"], expected)


@pytest.mark.fault("N6")
def test_masked_tokens_may_hold_any_value_and_get_no_gradient() -> None:
    cell = stack(embedding(6, 3), gru(3, 2), input_shape=())
    params = random_params(cell)
    tokens = np.random.default_rng(0).integers(1, 6, size=(TIME, BATCH))

    @jax.jit
    def run(params, tokens):
        def loss(params):
            _, ys = unroll(cell, params, tokens, mask=MASK)
            return jnp.sum(jnp.sin(ys)), ys

        return jax.value_and_grad(loss, has_aux=True)(params)

    actual = run(params, np.where(MASK, tokens, -1))
    assert_close(actual, run(params, tokens))
    assert not np.any(actual[1]["layer_0"]["kernel"][0])
    assert np.any(actual[1]["layer_0"]["kernel"][1:])


@pytest.mark.fault("N8")
def test_tokens_outside_the_vocabulary_are_an_error_or_nan_under_jit() -> None:
    layer = embedding(4, 3)
    params = layer.init(jax.random.key(0))
    for token in (-1, 4):
        with pytest.raises(ValueError, match=f"tokens: expected 0 to 3, got {token}"):
            layer.apply(params, np.array([0, token]))
        rows = jax.jit(layer.apply)(params, np.array([0, token]))
        assert np.isfinite(rows[0]).all()
        assert np.isnan(rows[1]).all()
    with pytest.raises(ValueError, match="tokens: expected integers, got float64"):
        layer.apply(params, np.array([1.0]))


# Noise.


def ones(*shape: int) -> np.ndarray:
    """Return an input of ones, whose outputs show the dropout masks."""
    return np.ones(shape)


def test_step_dropout_draws_a_new_mask_for_each_step_and_example() -> None:
    cell = step_dropout(64, 0.25, jax.random.key(0))
    _, ys = run(cell, {}, ones(50, 4, 64))
    assert set(np.unique(ys)) == {0.0, 1 / 0.75}
    # 12,800 draws: the mean of y has the standard deviation sqrt(0.25 / 0.75 / 12800) = 0.0051.
    assert abs(float(jnp.mean(ys)) - 1) < 0.02
    rows = np.asarray(ys).reshape(-1, 64)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_variational_dropout_draws_one_mask_for_a_sequence() -> None:
    cell = variational_dropout(64, 0.25, jax.random.key(0))
    state, ys = run(cell, {}, ones(50, 200, 64))
    np.testing.assert_array_equal(ys, np.broadcast_to(ys[0], ys.shape))
    np.testing.assert_array_equal(ys[0] > 0, state.keep)
    assert set(np.unique(ys)) == {0.0, 1 / 0.75}
    assert abs(float(jnp.mean(ys)) - 1) < 0.02
    assert len(np.unique(ys[0], axis=0)) == 200


@pytest.mark.parametrize("dropout", [step_dropout, variational_dropout])
def test_dropout_masks_depend_on_the_key_and_not_on_the_precision(
    dropout: Callable[..., Cell],
) -> None:
    @partial(jax.jit, static_argnums=1)
    def masks(key: Any, dtype: Any) -> Any:
        return unroll(dropout(32, 0.5, key), {}, jnp.ones((5, 4, 32), dtype))[1] > 0

    keys = [jax.random.key(seed) for seed in (0, 0, 1)]
    first, same, other = (masks(key, jnp.float64) for key in keys)
    np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(first, masks(keys[0], jnp.bfloat16))
    assert np.mean(first == other) < 0.6


@pytest.mark.parametrize("dropout", [step_dropout, variational_dropout])
def test_dropout_in_evaluation_is_the_identity(dropout: Callable[..., Cell]) -> None:
    cell, noisy = dropout(5, 0.5, None), dropout(5, 0.5, jax.random.key(0))
    xs = random_inputs(TIME, BATCH, 5)
    np.testing.assert_array_equal(run(cell, {}, xs)[1], xs)
    # This holds even for a state from training, which may contain a mask.
    np.testing.assert_array_equal(run(cell, {}, xs, run(noisy, {}, xs)[0])[1], xs)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        cell.initial_state({}, (3,)), noisy.initial_state({}, (3,))
    )


def test_a_carried_state_keeps_the_variational_dropout_mask_until_a_reset() -> None:
    first, second = (variational_dropout(32, 0.5, jax.random.key(seed)) for seed in (0, 1))
    state, ys = run(first, {}, ones(2, BATCH, 32))
    reset = np.array([[0, 0, 0], [1, 0, 0]], bool)
    _, zs = run(second, {}, ones(2, BATCH, 32), state, reset=reset)
    fresh = run(second, {}, ones(1, BATCH, 32))[1][0]
    np.testing.assert_array_equal(zs[0], ys[0])
    np.testing.assert_array_equal(zs[1, 1:], ys[0, 1:])
    np.testing.assert_array_equal(zs[1, 0], fresh[0])
    assert np.any(fresh != ys[0])


@pytest.mark.long
def test_dropout_rates_and_keys_may_be_traced_and_vmapped() -> None:
    inner = elman(INPUT, 3)
    params, xs = random_params(inner), random_inputs(TIME, BATCH, INPUT)

    def run(rate, key, params):
        keys = jax.random.split(key, 3)
        cell = stack(
            variational_dropout(INPUT, rate, keys[0]),
            zoneout(weight_drop(inner, rate, keys[1]), rate, keys[2]),
        )
        whole = {"layer_0": {}, "layer_1": params}
        return unroll(cell, whole, xs, mask=MASK, reset=RESET, remat=3)[1]

    rates, keys = np.array([0.1, 0.5]), jax.random.split(jax.random.key(0))
    mapped = jax.jit(jax.vmap(run, in_axes=(0, 0, None)))(rates, keys, params)
    single = jax.jit(run)
    for rate, key, ys in zip(rates, keys, mapped, strict=True):
        assert_close(ys, single(rate, key, params))
    assert np.any(mapped[0] != mapped[1])


def linear_counter(size: int) -> Cell:
    """Return a cell that adds its input to its state and outputs the state."""

    def initial_state(params, batch_shape):
        return LSTMState(*jnp.zeros((2, *batch_shape, size)))

    def step(params, state, x):
        state = LSTMState(state.hidden + x, state.cell + x)
        return state, state.hidden

    return Cell(lambda key: {}, initial_state, step, (size,))


def test_zoneout_holds_state_entries_at_the_given_rates() -> None:
    cell = zoneout(linear_counter(64), lstm_state(0.1, 0.6), jax.random.key(0))
    state, ys = run(cell, {}, ones(100, 4, 64))
    steps = np.diff(ys, axis=0, prepend=0)
    assert set(np.unique(steps)) == {0.0, 1.0}
    # 25,600 draws: standard deviations of 0.0019 and 0.0031.
    assert abs(np.mean(steps == 0) - 0.1) < 0.01
    assert abs(np.mean(state.cell.cell) / 100 - 0.4) < 0.015
    np.testing.assert_array_equal(ys[-1], state.cell.hidden)
    np.testing.assert_array_equal(state.time, 100)
    rows = steps.reshape(-1, 64)
    assert len(np.unique(rows, axis=0)) > 0.99 * len(rows)


def test_zoneout_in_evaluation_mixes_by_the_rates() -> None:
    inner, rates = lstm(INPUT, 3), lstm_state(0.2, 0.7)
    cell = zoneout(inner, rates, None)
    params, xs = random_params(inner), random_inputs(TIME, BATCH, INPUT)
    h, c, ys = np.zeros((BATCH, 3)), np.zeros((BATCH, 3)), []
    for x in xs:
        new, _ = inner.step(params, lstm_state(h, c), x)
        h, c = 0.2 * h + 0.8 * np.asarray(new.hidden), 0.7 * c + 0.3 * np.asarray(new.cell)
        ys.append(h)
    state, actual = run(cell, params, xs)
    assert_close(actual, np.stack(ys))
    assert_close(state.cell, lstm_state(h, c))


@pytest.mark.long
def test_zoneout_at_rate_zero_is_the_plain_cell_and_at_rate_one_holds_the_state() -> None:
    inner = elman(INPUT, 3)
    params, xs = random_params(inner), random_inputs(TIME, BATCH, INPUT)
    for key in (None, jax.random.key(0)):
        moving, still = (run(zoneout(inner, rate, key), params, xs)[1] for rate in (0, 1))
        assert_close(moving, run(inner, params, xs)[1])
        assert not np.any(still)


def test_zoneout_of_an_unsupported_cell_or_rate_is_an_error() -> None:
    for cell in (lru(4, 3), stack(gru(4, 3), gru(3, 3)), bidirectional(gru(4, 3), gru(4, 3))):
        with pytest.raises(ValueError, match=r"zoneout: expected|bidirectional"):
            zoneout(cell, 0.1, None)
    with pytest.raises(ValueError, match=r"rate: expected 0 to 1, got 1\.5"):
        zoneout(lstm(4, 3), lstm_state(0.5, 1.5), None)


def kernel_gradients(cell: Cell, params: Any, size: int) -> Any:
    """Return the gradients after one step, which are zero for dropped entries of a kernel."""
    state = disturbed(np.random.default_rng(0), cell.initial_state(params, (BATCH,)))

    def loss(params):
        _, y = cell.step(params, state, random_inputs(BATCH, size))
        return jnp.sum(jnp.sin(y))

    return jax.grad(loss)(params)


@pytest.mark.long
def test_renewed_masks_change_no_other_part_of_a_state() -> None:
    def cell(seed: int) -> Cell:
        keys = jax.random.split(jax.random.key(seed))
        inner = stack(lstm(INPUT, 30), variational_dropout(30, 0.5, keys[0]))
        return stack(inner, step_dropout(30, 0.5, keys[1]))

    params, xs = random_params(cell(0)), random_inputs(TIME, BATCH, INPUT)
    state, _ = run(cell(0), params, xs)
    fresh = cell(1).initial_state(params, (BATCH,))
    renewed = renewed_masks(state, fresh)
    expected = [state.layers[0].layers[0], fresh.layers[0].layers[1], state.layers[1]]
    chex.assert_trees_all_equal(jax.tree.leaves(renewed), jax.tree.leaves(expected))
    assert (renewed.layers[0].layers[1].keep != state.layers[0].layers[1].keep).any()


@pytest.mark.long
def test_weight_drop_masks_only_the_recurrent_kernel() -> None:
    inner = lstm(INPUT, 32)
    cell = weight_drop(inner, 0.25, jax.random.key(0))
    params, xs = random_params(inner), random_inputs(TIME, BATCH, INPUT)
    gradient = kernel_gradients(cell, params, INPUT)
    keep = np.asarray(gradient["recurrent"]["kernel"] != 0)
    # 4,096 draws: a standard deviation of 0.0068.
    assert abs(np.mean(keep) - 0.75) < 0.03
    assert np.all(gradient["input"]["kernel"] != 0)
    by_hand = params | {"recurrent": {"kernel": keep * params["recurrent"]["kernel"] / 0.75}}
    assert_close(run(cell, params, xs), run(inner, by_hand, xs))


@pytest.mark.long
def test_weight_drop_by_rows_drops_entries_of_h_for_all_gates() -> None:
    inner = gru(INPUT, 16)
    cell = weight_drop(inner, 0.5, jax.random.key(0), unit="row")
    params, xs = random_params(inner), random_inputs(TIME, BATCH, INPUT)
    gradient = kernel_gradients(cell, params, INPUT)
    keep = np.asarray(gradient["recurrent"]["kernel"] != 0)
    np.testing.assert_array_equal(keep, np.broadcast_to(keep[:, :1], keep.shape))
    assert 0 < np.mean(keep) < 1
    kernel = {"kernel": keep * params["recurrent"]["kernel"] / 0.5}
    by_hand = params | {"recurrent": params["recurrent"] | kernel}
    assert_close(run(cell, params, xs), run(inner, by_hand, xs))


@pytest.mark.long
def test_weight_drop_masks_every_layer_separately_and_only_the_chosen_kernels() -> None:
    inner = stack(elman(8, 8), elman(8, 8))
    params = random_params(inner)

    @partial(jax.jit, static_argnums=1)
    def kept(key: Any, chosen: Any) -> Any:
        gradient = kernel_gradients(weight_drop(inner, 0.5, key, chosen=chosen), params, 8)
        return {
            part: jnp.stack([gradient[f"layer_{i}"][part]["kernel"] != 0 for i in range(2)])
            for part in ("input", "recurrent")
        }

    keys = jax.random.split(jax.random.key(0))
    first, second = (kept(key, recurrent_kernels)["recurrent"] for key in keys)
    assert first.any(axis=(1, 2)).all()
    assert not first.all(axis=(1, 2)).any()
    assert np.any(first[0] != first[1])
    assert np.any(first != second)
    inputs = kept(keys[0], lambda path: "input" in path and "kernel" in path)
    assert np.all(inputs["recurrent"])
    assert not np.all(inputs["input"])
    assert all(jax.tree.map(np.all, kept(None, recurrent_kernels)).values())


@pytest.mark.long
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: step_dropout(0, 0.5, None), "size: expected at least 1, got 0"),
        (lambda: step_dropout(3, 1.0, None), "rate: expected 0 to below 1, got 1.0"),
        (lambda: variational_dropout(3, -0.1, None), "rate: expected 0 to below 1, got -0.1"),
        (lambda: weight_drop(gru(3, 2), math.nan, None), "rate: expected 0 to below 1, got nan"),
        (lambda: weight_drop(min_gru(3, 2), 0.5, None), "chosen: .*'kernel'.* chose none"),
        (lambda: weight_drop(gru(3, 2), 0.5, None, unit=cast(Any, "column")), "unit: .*column"),
    ],
)
def test_invalid_dropout_arguments_are_an_error(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
