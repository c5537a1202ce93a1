"""Test that nothing fails where a batch or a sequence is empty."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sequential_digits import reader
from recurrent import (
    additive_attention,
    bidirectional,
    decoder,
    dropout,
    frame_features,
    gated_delta_scan,
    gru,
    linear_cross_entropy,
    linear_scan,
    lstm,
    multi_head_attention,
    output_shape,
    parallel,
    unroll,
)
from recurrent.convnet import ConvNet
from recurrent.convolution import convolve_same
from recurrent.losses import cross_entropy, masked_average
from tests.recurrent.cases import CELLS, HIDDEN, INPUT, TIME

KEY = jax.random.key(0)
SHAPES = [(TIME, 0), (0, 3), (0, 0)]
CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((TIME, 0), {"remat": 3, "truncate": 4, "reverse": True}),
    ((0, 3), {"remat": 3, "truncate": 4}),
    ((TIME, 0), {"return_states": True}),
    ((TIME, 2, 0), {}),
]
LATE = {**CELLS, "parallel": lambda *sizes: parallel(lstm(*sizes), jacobian="diagonal")}
# One cell of each way to run a whole sequence is run; of the others the shapes are enough.
RUN = ["lstm", "gru_reset_before", "mlstm", "min_gru", "gated_deltanet", "attention_cell"]


def run(cell: Any, shape: tuple[int, ...], options: dict[str, Any], flags: bool) -> Any:
    """Return outputs, states and the gradients of their sums for params and inputs."""
    mask = jnp.ones(shape, bool) if flags else None

    def both(params: Any, xs: Any) -> Any:
        state, ys = unroll(cell, params, xs, mask=mask, reset=mask, **options)
        return ys, state

    params, xs = cell.init(KEY), jnp.zeros((*shape, *cell.input_shape))
    outputs, pull_back = jax.vjp(both, params, xs)
    return outputs, pull_back(outputs)


@pytest.mark.long
@pytest.mark.parametrize("name", LATE)
def test_every_cell_and_option_takes_empty_batches_and_sequences(name: str) -> None:
    cell = LATE[name](INPUT, HIDDEN)
    expected = jax.tree.map(jnp.shape, jax.eval_shape(cell.init, KEY))
    for shape, options in CASES:
        flags = "truncate" in options
        (ys, _), (d_params, d_xs) = jax.eval_shape(partial(run, cell, shape, options, flags))
        ys = ys[0] if "return_states" in options else ys
        assert ys.shape == (*shape, *output_shape(cell))
        assert d_xs.shape == (*shape, INPUT)
        assert jax.tree.map(jnp.shape, d_params) == expected


@pytest.mark.long
@pytest.mark.parametrize("name", RUN)
def test_the_gradient_of_an_empty_batch_is_zero(name: str) -> None:
    cell = CELLS[name](INPUT, HIDDEN)
    (ys, _), (d_params, _) = jax.jit(lambda: run(cell, (TIME, 0), {"remat": 3}, True))()
    assert ys.shape == (TIME, 0, HIDDEN)
    for leaf in jax.tree.leaves(d_params):
        np.testing.assert_array_equal(leaf, 0)


@pytest.mark.long
def test_a_step_takes_an_empty_batch() -> None:
    for make in CELLS.values():
        cell = make(INPUT, HIDDEN)

        def step(x: Any, cell: Any = cell) -> Any:
            params = cell.init(KEY)
            return cell.step(params, cell.initial_state(params, (0,)), x)[1]

        assert jax.eval_shape(step, jnp.zeros((0, INPUT))).shape == (0, HIDDEN)


@pytest.mark.long
@pytest.mark.parametrize("method", ["serial", "chunked", "associative"])
@pytest.mark.parametrize("shape", [(5, 0), (5, 0, 3), (0, 3)])
def test_a_linear_scan_takes_empty_axes(method: Any, shape: tuple[int, ...]) -> None:
    def scan(a: Any) -> Any:
        return linear_scan(a, a, method=method, chunk_size=2)

    hs, pull_back = jax.vjp(scan, jnp.ones(shape))
    assert hs.shape == pull_back(hs)[0].shape == shape


def test_the_delta_rule_takes_an_empty_batch() -> None:
    keys, scalars = jnp.ones((5, 0, 2)), jnp.ones((5, 0))
    state, ys = gated_delta_scan(keys, keys, keys, scalars, scalars, jnp.ones((0, 2, 2)))
    assert (state.shape, ys.shape) == ((0, 2, 2), (5, 0, 2))


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_takes_empty_batches_and_sequences(shape: tuple[int, ...]) -> None:
    layer = multi_head_attention(4, 2, causal=True, rotary_base=100.0)
    xs, mask = jnp.zeros((*shape, 4)), jnp.ones(shape, bool)
    params = layer.init(KEY)
    ys, pull_back = jax.vjp(lambda params: layer.apply(params, xs, mask=mask), params)
    assert ys.shape == (*shape, 4)
    for leaf in jax.tree.leaves(pull_back(ys)):
        np.testing.assert_array_equal(leaf, 0)


def test_a_decoder_and_both_directions_take_an_empty_batch() -> None:
    encoder = bidirectional(gru(3, 2), lstm(3, 2))
    network = decoder(gru(3 + 4, 5), additive_attention(5, 4, 6), vocabulary_size=9)

    def logits(xs: Any, tokens: Any) -> Any:
        params = network.init(KEY)
        mask = jnp.ones(xs.shape[:2], bool)
        values = unroll(encoder, encoder.init(KEY), xs, mask=mask, reset=mask)[1]
        memory = network.precompute(params, values, mask)
        state = network.initial_state(params, (0,))
        return network.sequence(params, memory, state, tokens)[1]

    given = jnp.zeros((7, 0, 3)), jnp.zeros((5, 0), int)
    assert jax.eval_shape(logits, *given).shape == (5, 0, 9)


@pytest.mark.long
@pytest.mark.parametrize("shape", [(0,), (4, 0), (0, 3)])
def test_losses_of_no_entries_are_zero_and_so_are_their_gradients(shape: tuple[int, ...]) -> None:
    params, labels = {"kernel": jnp.ones((4, 5))}, jnp.zeros(shape, int)

    def of_readout(params: Any, hidden: Any) -> Any:
        return linear_cross_entropy(params, hidden, labels, chunk=2).mean

    loss, gradients = jax.value_and_grad(of_readout, (0, 1))(params, jnp.ones((*shape, 4)))
    assert loss == 0
    assert not gradients[0]["kernel"].any()
    assert gradients[1].shape == (*shape, 4)
    assert cross_entropy(jnp.ones((*shape, 5)), labels).mean == 0
    assert masked_average(jnp.ones(shape)).mean == 0


def test_networks_of_images_take_none() -> None:
    images = jnp.zeros((0, 8, 8, 1))
    network = ConvNet(classes=3)
    params = jax.eval_shape(network.init, KEY, jnp.zeros((1, 8, 8, 1)))
    assert jax.eval_shape(network.apply, params, images).shape == (0, 3)
    video = jnp.zeros((5, 0, 8, 8, 1))
    assert frame_features(lambda frames: frames.mean(axis=(1, 2)), video).shape == (5, 0, 1)
    assert convolve_same(images, jnp.ones((3, 3, 1, 2))).shape == (0, 8, 8, 2)
    assert dropout(images, 0.5, KEY).shape == images.shape


@pytest.mark.long
@pytest.mark.parametrize("order", ["row", "pixel", "permuted"])
def test_a_reader_of_images_takes_none(order: str) -> None:
    time, features = (8, 6) if order == "row" else (48, 1)
    assert reader(order, (8, 6))(np.zeros((0, 8, 6))).shape == (time, 0, features)
