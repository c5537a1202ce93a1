"""Maps from inside a network, maps by two steps, and LIME, against loops of their definitions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from recurrent import explain
from recurrent.explain.lime import ridge_regression


def test_grad_cam_is_the_activations_weighted_by_mean_gradients() -> None:
    rng = np.random.default_rng(0)
    activations = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    w = rng.normal(size=(3, 4, 5)).astype(np.float32)
    found = explain.grad_cam(
        lambda xs: jnp.asarray(activations),
        lambda a: (jnp.square(a) * w).sum((1, 2, 3)),
        np.zeros((2, 6, 8, 1), np.float32),
        resize=False,
    )
    slopes = 2 * activations * w
    expected = np.zeros((2, 3, 4))
    for b in range(2):
        for k in range(5):
            expected[b] += slopes[b, :, :, k].mean() * activations[b, :, :, k]
    np.testing.assert_allclose(found, np.maximum(expected, 0), atol=1e-5)


def test_maps_of_inner_layers_are_enlarged_to_the_inputs() -> None:
    xs = jnp.asarray(np.random.default_rng(0).random((2, 6, 8, 1)), jnp.float32)
    pool = lambda xs: xs.reshape(2, 3, 2, 4, 2, 1).mean((2, 4))  # noqa: E731
    found = explain.activation_map(pool, xs, weights=[2.0])
    assert found.shape == (2, 6, 8)
    expected = jax.image.resize(2 * pool(xs)[..., 0], (2, 6, 8), "linear")
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert explain.grad_cam(pool, lambda a: a.sum((1, 2, 3)), xs).shape == (2, 6, 8)


@pytest.mark.long
def test_padding_has_no_say_in_the_weights_of_channels() -> None:
    xs = np.random.default_rng(0).normal(size=(1, 6, 2)).astype(np.float32)
    features = lambda xs, mask: jnp.tanh(xs) + 1  # 1 in padding  # noqa: E731
    head = lambda a, mask: jnp.square(a).sum((1, 2))  # noqa: E731
    padded = explain.grad_cam(features, head, xs, lengths=[4])
    alone = explain.grad_cam(features, head, xs[:, :4], lengths=[4])
    np.testing.assert_allclose(padded[:, :4], alone, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(("lengths", "rotary_base"), [(None, None), ([6, 3], 100.0)])
def test_the_weights_are_those_that_the_attention_uses(lengths: Any, rotary_base: Any) -> None:
    options: dict[str, Any] = {"causal": True, "window": 4, "rotary_base": rotary_base}
    attention = recurrent.multi_head_attention(8, 4, key_value_heads=2, head_size=2, **options)
    params = attention.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (2, 6, 8))
    weights = explain.self_attention_weights(params, xs, head_size=2, lengths=lengths, **options)
    mask = None if lengths is None else recurrent.length_mask(jnp.array(lengths), 6)
    expected = attention.apply(params, xs.swapaxes(0, 1), mask=mask).swapaxes(0, 1)
    values = (xs @ params["value"]["kernel"]).reshape(2, 6, 2, 2).repeat(2, axis=2)
    contexts = jnp.einsum("bnts,bsnf->btnf", weights, values).reshape(2, 6, 8)
    np.testing.assert_allclose(contexts @ params["output"]["kernel"], expected, atol=1e-5)


@pytest.mark.long
def test_the_weights_are_those_of_the_attention_cell() -> None:
    cell = recurrent.attention_cell(3, 4, heads=2, window=8)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (2, 5, 3))
    weights = explain.self_attention_weights(
        params, xs, head_size=2, causal=True, rotary_base=10_000.0
    )
    _, expected = recurrent.unroll(cell, params, xs.swapaxes(0, 1))
    values = (xs @ params["value"]["kernel"]).reshape(2, 5, 2, 2)
    contexts = jnp.einsum("bnts,bsnf->btnf", weights, values).reshape(2, 5, 4)
    ys = contexts @ params["output"]["kernel"]
    np.testing.assert_allclose(ys, expected.swapaxes(0, 1), atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "lengths"),
    [
        ({}, None),
        ({"key_value_heads": 1, "head_size": 6}, [6, 4]),
        ({"rotary_base": None, "window": 3}, [6, 4]),
    ],
)
def test_the_weights_of_all_blocks_give_the_output(options: dict[str, Any], lengths: Any) -> None:
    cell = recurrent.transformer(3, 8, depth=2, heads=2, **options)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (2, 6, 3))
    weights = explain.transformer_attention(params, xs, heads=2, lengths=lengths, **options)
    _, expected = recurrent.unroll(
        cell, params, xs.swapaxes(0, 1), lengths=None if lengths is None else jnp.array(lengths)
    )
    affine = lambda own, x: x @ own["kernel"] + own.get("bias", 0)  # noqa: E731
    norm, feed = recurrent.rms_norm(8), recurrent.mlp(8, 32)
    x = affine(params["layer_0"], xs)
    for k, each in enumerate(weights):
        own = params[f"layer_{k + 1}"]
        values = affine(own["mixing"]["value"], norm.apply(own["mixing_norm"], x))
        values = values.reshape(2, 6, options.get("key_value_heads", 2), -1)
        values = values.repeat(2 // values.shape[2], axis=2)
        contexts = jnp.einsum("bnts,bsnf->btnf", each, values).reshape(2, 6, -1)
        x += affine(own["mixing"]["output"], contexts)
        x += feed.apply(own["feed_forward"], norm.apply(own["feed_forward_norm"], x))
    found = norm.apply(params["layer_3"], x)
    for b, length in enumerate(lengths or [6, 6]):
        np.testing.assert_allclose(found[b, :length], expected[:length, b], atol=1e-5)


def test_the_weights_of_a_transformer_ask_for_sequences() -> None:
    params = recurrent.transformer(3, 8, heads=2).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"xs: expected \[B, T, D\], got \[5, 3\]"):
        explain.transformer_attention(params, jnp.ones((5, 3)), heads=2)


@pytest.mark.long
def test_rollout_is_the_product_of_the_layers() -> None:
    rng = np.random.default_rng(0)
    layers = [rng.dirichlet(np.ones(4), size=(2, 3, 4)).astype(np.float32) for _ in range(3)]
    for b in range(2):
        expected = np.eye(4)
        for layer in layers:
            mixed = 0.7 * layer[b].mean(0) + 0.3 * np.eye(4)
            expected = mixed / mixed.sum(1, keepdims=True) @ expected
        found = explain.attention_rollout(layers, residual=0.3)[b]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    short = explain.attention_rollout([layer[:, :, :3, :3] for layer in layers])
    padded = explain.attention_rollout(layers, lengths=[3, 3])
    np.testing.assert_allclose(padded[:, :3, :3], short, atol=1e-6)
    np.testing.assert_allclose(padded.sum(-1), [[1, 1, 1, 0]] * 2, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("each_step", [True, False])
def test_two_steps_are_the_published_loops(each_step: bool) -> None:
    w = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    xs = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    method = lambda xs: explain.gradient(lambda xs: jnp.tanh((xs * w).sum((1, 2))), xs)  # noqa: E731

    def by_numpy(x: Any) -> Any:
        return (1 - np.tanh((x * w).sum()) ** 2) * w

    expected = np.zeros(xs.shape)
    for b, x in enumerate(xs):
        steps = np.zeros(4)
        for t in range(4):
            hidden = x.copy()
            hidden[t] = 0.5
            steps[t] = abs(by_numpy(x) - by_numpy(hidden)).sum()
        for t in range(4):
            for i in range(3):
                hidden = x.copy()
                hidden[slice(t, t + 1) if each_step else slice(None), i] = 0.5
                part = abs(by_numpy(x) - by_numpy(hidden)).sum()
                expected[b, t, i] = steps[t] * part * (steps[t] > np.quantile(steps, 0.3))
    found = explain.two_step_map(
        method, xs, baseline=0.5, quantile=0.3, each_step=each_step, batch_size=5
    )
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.long
def test_ridge_regression_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    inputs, targets = rng.random((50, 4)).astype(np.float32), rng.random(50).astype(np.float32)
    weights = rng.random(50).astype(np.float32)
    inputs[:, 2] = 1  # never varies
    expected = Ridge(alpha=1.0).fit(inputs, targets, sample_weight=weights)
    found = ridge_regression(jnp.array(inputs), jnp.array(targets), jnp.array(weights), 1.0)
    np.testing.assert_allclose(found[0], expected.coef_, atol=1e-5)
    assert float(found[1]) == pytest.approx(expected.intercept_, abs=1e-5)
    score = expected.score(inputs, targets, sample_weight=weights)
    assert float(found[2]) == pytest.approx(score, abs=1e-5)


@pytest.mark.long
def test_the_local_fit_says_where_a_linear_model_explains_little() -> None:
    xs = jnp.ones((1, 6))
    run = jax.jit(
        lambda key: [
            explain.lime_weights(f, xs, key, samples=400, ridge=0.1).fit[0]
            for f in (lambda xs: xs.sum(1), lambda xs: jnp.cos(jnp.pi * xs.sum(1)))
        ]
    )
    linear, parity = run(jax.random.key(0))
    assert linear > 0.99
    assert parity < 0.3
