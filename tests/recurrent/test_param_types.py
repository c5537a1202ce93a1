"""Test cells whose params have several floating-point types."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrent import (
    additive_attention,
    causal_conv,
    decoder,
    deer,
    gru,
    learned_state,
    lstm,
    multi_head_attention,
    unroll,
)
from recurrent.cell import in_one_type
from tests.recurrent.cases import BATCH, CELLS, HIDDEN, INPUT, TIME, disturbed

KEY = jax.random.key(0)
XS = np.random.default_rng(0).normal(size=(TIME, BATCH, INPUT)).astype(np.float32)
ALL = {**CELLS, "causal_conv": lambda size, _: causal_conv(size)}
# In these a part may have params of one narrow type, in which it then computes.
IN_PARTS = ("deep", "griffin", "convolutional_lstm")


def mixed(params: Any, first: int = 0) -> Any:
    """Cast every second leaf to bfloat16."""
    leaves, tree = jax.tree.flatten(params)
    types = [jnp.float32 if (index + first) % 2 else jnp.bfloat16 for index in range(len(leaves))]
    pairs = zip(leaves, types, strict=True)
    return jax.tree.unflatten(tree, [jnp.asarray(leaf, dtype) for leaf, dtype in pairs])


def wide(params: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_params_of_two_types_compute_in_the_wider_one(name: str) -> None:
    cell = ALL[name](INPUT, HIDDEN)
    drawn = disturbed(np.random.default_rng(1), jax.jit(cell.init)(KEY))
    for first in (0, 1):
        params = mixed(drawn, first)
        methods = [("auto", params), ("scan", params), ("auto", wide(params))]
        results = [jax.jit(partial(run, cell, method))(given) for method, given in methods]
        (fast, scan, expected) = [result[0] for result in results]
        tolerance = 0.05 if name in IN_PARTS else 1e-6
        np.testing.assert_allclose(fast, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(scan, expected, rtol=tolerance, atol=10 * tolerance)
        for _, gradients in results[:2]:
            assert dtypes(gradients) == dtypes(params)


def run(cell: Any, method: Any, params: Any) -> tuple[Any, Any]:
    def loss(params: Any) -> tuple[Any, Any]:
        ys = unroll(cell, params, XS, method=method)[1]
        return ys.astype(jnp.float32).sum(), ys

    gradients, ys = jax.grad(loss, has_aux=True)(params)
    return ys, gradients


def dtypes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


@pytest.mark.long
def test_the_gradient_of_a_narrow_kernel_is_that_of_the_wide_one_rounded() -> None:
    cell = lstm(INPUT, HIDDEN)
    params = cell.init(KEY)
    params["input"]["kernel"] = params["input"]["kernel"].astype(jnp.bfloat16)
    narrow, expected = (jax.jit(partial(run, cell, "auto"))(p)[1] for p in (params, wide(params)))
    kernel = expected["input"]["kernel"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(narrow["input"]["kernel"], kernel)
    np.testing.assert_array_equal(narrow["recurrent"]["kernel"], expected["recurrent"]["kernel"])


@pytest.mark.parametrize("size", ["input", "recurrent"])
def test_products_in_a_compute_dtype_accumulate_in_the_wider_type(size: str) -> None:
    cell = lstm(INPUT, HIDDEN, compute_dtype=jnp.bfloat16)
    params = cell.init(KEY)
    params[size]["kernel"] = params[size]["kernel"].astype(jnp.bfloat16)
    state, ys = unroll(cell, params, XS)
    expected = unroll(cell, wide(params), XS)[1]
    assert ys.dtype == state.hidden.dtype == jnp.float32
    np.testing.assert_array_equal(ys, expected)


@pytest.mark.long
@pytest.mark.parametrize("jacobian", ["full", "diagonal"])
def test_deer_takes_params_of_two_types(jacobian: Any) -> None:
    cell = gru(INPUT, HIDDEN)
    params = mixed(cell.init(KEY))
    ys = deer(cell, params, XS, jacobian=jacobian)[1]
    np.testing.assert_allclose(ys, unroll(cell, wide(params), XS)[1], atol=1e-5)


@pytest.mark.parametrize("types", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_learned_state_is_read_in_the_type_of_the_cell(types: tuple[str, str]) -> None:
    cell = learned_state(lstm(INPUT, HIDDEN))
    params = {
        name: jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), part)
        for (name, part), dtype in zip(cell.init(KEY).items(), types, strict=True)
    }
    reset = np.ones((TIME, BATCH), bool)
    for method in ("auto", "scan"):
        assert unroll(cell, params, XS, reset=reset, method=method)[1].dtype == types[0]


@pytest.mark.long
@pytest.mark.parametrize("input_feeding", [True, False])
def test_a_decoder_takes_params_and_memories_of_two_types(input_feeding: bool) -> None:
    sizes = (3 + 5, 5) if input_feeding else (3 + 4, 5)
    attention = additive_attention(5, 4, 6)
    network = decoder(gru(*sizes), attention, vocabulary_size=9, input_feeding=input_feeding)

    def logits(params: Any) -> Any:
        memory = network.precompute(params, jnp.ones((7, 2, 4)))
        state = network.initial_state(params, (2,))
        return network.sequence(params, memory, state, jnp.ones((5, 2), int))[1]

    drawn = network.init(KEY)
    for first in (0, 1):
        params = mixed(drawn, first)
        np.testing.assert_allclose(logits(params), logits(wide(params)), atol=0.05)


@pytest.mark.long
def test_attention_takes_params_of_two_types() -> None:
    layer = multi_head_attention(INPUT, 2, causal=True)
    params = mixed(layer.init(KEY))
    ys = layer.apply(params, jnp.asarray(XS))
    np.testing.assert_array_equal(ys, layer.apply(wide(params), jnp.asarray(XS)))


def test_params_of_one_type_are_left_as_they_are() -> None:
    params = {"kernel": jnp.ones(2, jnp.bfloat16), "count": jnp.ones(2, int)}
    assert in_one_type(params) is params
    both = in_one_type({"a": jnp.ones(1, jnp.bfloat16), "b": jnp.ones(1, jnp.float16), "c": 1})
    assert both["a"].dtype == both["b"].dtype == jnp.float32
