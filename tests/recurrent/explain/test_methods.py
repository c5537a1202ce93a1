"""What every method of explanation is held to, and what each gives where the answer is known."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from recurrent import explain
from recurrent.errors import ArgumentError, RecurrentError, ReturnError
from tests.recurrent.explain.methods import COMPLETE, FEATURES, METHODS, STEPS

LENGTHS = jnp.array([5, 3, 1])
PADDING = np.arange(STEPS) >= np.asarray(LENGTHS)[:, None]  # [B, T]


def inputs(fill: float = 0.0) -> Any:
    xs = np.random.default_rng(0).normal(size=(3, STEPS, FEATURES)).astype(np.float32)
    xs[PADDING] = fill
    return jnp.asarray(xs)


@functools.cache
def network() -> Any:
    """Return what a small GRU makes of a sequence, as one number."""
    cell = recurrent.gru(FEATURES, 3)
    params = cell.init(jax.random.key(1))

    def last(xs: Any, mask: Any) -> Any:
        return recurrent.unroll(cell, params, xs, mask=mask)[0].hidden

    return explain.chosen_output(explain.time_major(last), 1)


def quick(xs: Any, mask: Any) -> Any:
    """Return a number that any NaN in padding would reach; it compiles in no time."""
    return jnp.tanh((jnp.tanh(xs @ jnp.array([1.0, -2.0])) * mask).cumsum(1)).mean(1)


@functools.cache
def compiled(name: str) -> Any:
    return jax.jit(lambda xs, lengths, key: METHODS[name](quick, xs, lengths, key))


@pytest.mark.parametrize("name", METHODS)
def test_padding_gets_exactly_zero_and_nothing_of_it_is_read(name: str) -> None:
    run, key = compiled(name), jax.random.key(2)
    found = np.asarray(run(inputs(), LENGTHS, key))
    assert (found[PADDING] == 0).all()
    assert (np.asarray(found)[~PADDING] != 0).any()
    for fill in (np.nan, 1e30, -np.inf):
        np.testing.assert_array_equal(run(inputs(fill), LENGTHS, key), found)
    # the same key, the same bits; and one program for all of that
    np.testing.assert_array_equal(run(inputs(), LENGTHS, key), found)
    run(inputs(), LENGTHS[::-1], jax.random.key(3))
    assert run._cache_size() == 1


@pytest.mark.parametrize("name", COMPLETE)
def test_of_a_linear_function_every_method_gives_the_weights_times_the_change(name: str) -> None:
    weights = np.random.default_rng(1).normal(size=(STEPS, FEATURES)).astype(np.float32)
    xs, base = inputs(1.0), np.full(FEATURES, 0.3, np.float32)
    run = jax.jit(
        lambda xs, key: COMPLETE[name](
            lambda xs: (xs * weights).sum((1, 2)) + 7, xs, None, key, baseline=base
        )
    )
    expected = weights * (np.asarray(xs) - base)
    np.testing.assert_allclose(
        run(xs, jax.random.key(0)), expected, atol=5e-3 if name == "LIME" else 1e-4
    )


@pytest.mark.parametrize(
    "name", ["integrated gradients", "occlusion", "two steps, features at once", "LIME"]
)
@pytest.mark.long
def test_a_recurrent_network_gets_the_same_with_padding_and_without(name: str) -> None:
    f, xs, key = network(), inputs(np.nan)[1:2], jax.random.key(0)
    padded = jax.jit(lambda xs, lengths: METHODS[name](f, xs, lengths, key))
    found = padded(xs, jnp.array([3]))
    assert (np.asarray(found)[:, 3:] == 0).all()
    other = padded(jnp.where(jnp.isnan(xs), 1e30, xs), jnp.array([3]))
    np.testing.assert_array_equal(found, other)
    alone = METHODS[name](f, xs[:, :3], [3], key)
    np.testing.assert_allclose(found[:, :3], alone, atol=1e-5)


@pytest.mark.long
def test_another_batch_size_changes_results_by_rounding_alone() -> None:
    def run(batch_size: int) -> Any:
        f, xs = network(), inputs()
        return jnp.stack(
            [
                explain.integrated_gradients(
                    f, xs, lengths=LENGTHS, steps=5, batch_size=batch_size
                ).map,
                explain.smooth_grad(
                    f, xs, jax.random.key(0), lengths=LENGTHS, samples=5, batch_size=batch_size
                ),
                explain.occlusion_map(f, xs, lengths=LENGTHS, batch_size=batch_size),
            ]
        )

    one, two, all_at_once = jax.jit(lambda: [run(1), run(2), run(100)])()
    np.testing.assert_allclose(two, one, atol=1e-6)
    np.testing.assert_allclose(all_at_once, one, atol=1e-6)


@pytest.mark.long
def test_a_product_is_shared_by_its_factors() -> None:
    def f(xs: Any) -> Any:
        return xs[:, 0] * xs[:, 1]

    def run(xs: Any) -> Any:
        shared = [
            explain.integrated_gradients(f, xs).map,
            explain.exact_shapley(f, xs).map,
            explain.kernel_shap(f, xs).map,
            explain.permutation_shap(f, xs, jax.random.key(0)).map,
        ]
        occluded = explain.occlusion_map(f, xs)
        gap = explain.completeness_gap(f, xs, occluded)
        return shared, occluded, explain.gradient(f, xs), gap

    shared, occluded, gradient, gap = jax.jit(run)(jnp.array([[2.0, 3.0, 5.0]]))
    for found in shared:
        np.testing.assert_allclose(found, [[3, 3, 0]], atol=1e-5)
    np.testing.assert_allclose(occluded, [[6, 6, 0]])
    np.testing.assert_allclose(gradient, [[3, 2, 0]])
    np.testing.assert_allclose(gap, [-6])


@pytest.mark.long
def test_integrated_gradients_are_a_riemann_sum_in_float64() -> None:
    rng = np.random.default_rng(3)
    w, v = rng.normal(size=(4, 6)), rng.normal(size=6)
    x, b = rng.normal(size=(2, 4)), rng.normal(size=4)

    def slope(x: Any) -> Any:
        return ((1 - np.tanh(x @ w) ** 2) * v) @ w.T

    places = (np.arange(20000) + 0.5) / 20000
    expected = np.stack([(row - b) * slope(b + places[:, None] * (row - b)).mean(0) for row in x])
    found = explain.integrated_gradients(
        lambda xs: jnp.tanh(xs @ w.astype(np.float32)) @ v.astype(np.float32),
        x.astype(np.float32),
        baseline=b.astype(np.float32),
        steps=32,
    )
    np.testing.assert_allclose(found.map, expected, atol=1e-5)
    np.testing.assert_allclose(found.gap, 0, atol=1e-3)
    change = np.tanh(x @ w) @ v - np.tanh(b @ w) @ v
    np.testing.assert_allclose(expected.sum(1), change, atol=1e-6)


@pytest.mark.long
def test_several_baselines_are_averaged() -> None:
    f, xs = network(), inputs()
    several = np.random.default_rng(4).normal(size=(3, STEPS, FEATURES)).astype(np.float32)
    for method in (explain.integrated_gradients, explain.exact_shapley, explain.occlusion_map):

        def run(method: Any = method, **base: Any) -> Any:
            found = method(f, xs, lengths=LENGTHS, **base)
            return found if method is explain.occlusion_map else found.map

        if method is explain.exact_shapley:
            labels = explain.grid_labels((STEPS, 1), (2, 1))
            run = functools.partial(run, labels=labels)
        expected = np.mean([run(baseline=each) for each in several], axis=0)
        np.testing.assert_allclose(run(background=several), expected, atol=1e-5)


@pytest.mark.long
def test_gradient_shap_approaches_integrated_gradients_from_the_same_set() -> None:
    f, xs = network(), inputs()
    several = np.random.default_rng(4).normal(size=(3, STEPS, FEATURES)).astype(np.float32)
    expected = explain.integrated_gradients(f, xs, background=several, lengths=LENGTHS)
    found = explain.gradient_shap(
        f, xs, jax.random.key(0), background=several, lengths=LENGTHS, samples=600
    )
    np.testing.assert_allclose(found.map, expected.map, atol=0.01)
    assert abs(np.asarray(found.gap)).max() < 0.02


def test_smoothing_a_kink_gives_the_probability_of_its_side() -> None:
    """Of relu at x with noise of standard deviation s the mean slope is Phi(x / s)."""
    xs = jnp.array([[-1.0, 1.0, 0.5]])  # a range of 2
    found = explain.smooth_grad(
        lambda xs: jax.nn.relu(xs).sum(1),
        xs,
        jax.random.key(0),
        samples=4000,
        noise=0.5,
        batch_size=4000,
    )
    np.testing.assert_allclose(found, [[0.1587, 0.8413, 0.6915]], atol=0.02)


@pytest.mark.long
def test_a_held_step_is_as_if_it_were_not_in_the_sequence() -> None:
    f, xs = network(), inputs(fill=0.7)
    found = explain.held_steps(f, xs, [STEPS] * 3)
    whole = f(xs, jnp.ones((3, STEPS), bool))
    for t in (0, 3):
        without = jnp.delete(xs, t, axis=1)
        expected = whole - f(without, jnp.ones((3, STEPS - 1), bool))
        np.testing.assert_allclose(found[:, t], expected, atol=1e-5)
    replaced = explain.occlusion_map(
        f, xs, lengths=[STEPS] * 3, labels=explain.grid_labels((STEPS, 1), (1, 1))
    )[..., 0]
    assert abs(np.asarray(found - replaced)).max() > 0.01  # a zero is an input, too


def test_a_sliding_window_gives_the_mean_of_the_windows_on_an_element() -> None:
    weights = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    xs = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
    f = lambda xs: jnp.tanh((xs * weights).sum((1, 2)))  # noqa: E731
    total, count = np.zeros(xs.shape), np.zeros((5, 4))
    for top in (0, 2, 3):  # stride 2, and the last one at the end
        for left in range(2):
            hidden = xs.copy()
            hidden[:, top : top + 2, left : left + 3] = 0.5
            drop = np.asarray(f(xs) - f(hidden))
            total[:, top : top + 2, left : left + 3] += drop[:, None, None]
            count[top : top + 2, left : left + 3] += 1
    found = explain.sliding_occlusion(
        f, xs, window=(2, 3), stride=(2, 1), baseline=0.5, batch_size=4
    )
    np.testing.assert_allclose(found, total / count, atol=1e-6)


def test_any_output_and_step_can_be_chosen() -> None:
    outputs = jnp.arange(24.0).reshape(2, 3, 4)
    model = lambda xs: outputs * xs[:, :1, None]  # noqa: E731
    xs = jnp.ones((2, 3))
    assert explain.chosen_output(model, [1, 2], [0, 2])(xs).tolist() == [1.0, 22.0]
    assert explain.chosen_output(model, 3, -1)(xs).tolist() == [11.0, 23.0]
    with pytest.raises(ReturnError, match=r"model: expected outputs \[B, C\]"):
        explain.chosen_output(model, 3)(xs)


@pytest.mark.long
def test_steps_from_the_end_are_counted_in_each_sequence() -> None:
    """As the last step of a batch is padding of the shorter ones, which gets no credit."""
    model = lambda xs, mask: xs * mask[..., None]  # noqa: E731
    xs, lengths = jnp.arange(24.0).reshape(2, 4, 3), [4, 2]
    for step, rows in ((-1, [3, 1]), (-2, [2, 0]), (1, [1, 1]), ([3, -1], [3, 1])):
        found = explain.gradient(explain.chosen_output(model, 2, step), xs, lengths=lengths)
        expected = np.zeros(xs.shape)
        expected[[0, 1], rows, 2] = 1
        np.testing.assert_array_equal(found, expected)
        under_jit = jax.jit(lambda n, f: explain.gradient(f, xs, lengths=n), static_argnums=1)(
            jnp.array(lengths), explain.chosen_output(model, 2, step)
        )
        np.testing.assert_array_equal(under_jit, expected)
    mask = jnp.array([[True, False, True, False]])  # a step is held
    last = explain.chosen_output(lambda xs, mask: xs, 0, -2)
    assert last(xs[:1], mask).tolist() == [0.0]


@pytest.mark.parametrize(
    ("index", "step", "said"),
    [
        (7, None, "index: expected 0 to 3, or from -4 on from the end, got 7"),
        (-5, None, "index: expected 0 to 3"),
        ([0, 1, 2], None, "index: expected an integer, or one for each of 2 examples"),
        (1.5, None, "index: expected an integer"),
        (True, None, "index: expected an integer"),
        (None, None, "index: expected"),
        (0, 99, "step: expected 0 to 2, or from -3"),
        (0, 1.0, "step: expected an integer"),
    ],
)
def test_an_output_that_is_not_there_is_refused(index: Any, step: Any, said: str) -> None:
    model = lambda xs: jnp.ones((2, 3, 4) if step is not None else (2, 4))  # noqa: E731
    with pytest.raises(ArgumentError, match=said):
        explain.chosen_output(model, index, step)(jnp.ones((2, 3)))


@pytest.mark.parametrize("step", [3, -4])
def test_a_step_of_padding_is_refused(step: int) -> None:
    f = explain.chosen_output(lambda xs, mask: xs, 0, step)
    with pytest.raises(ArgumentError, match="step: expected a step of the 3 that sequence 1 has"):
        explain.gradient(f, jnp.ones((2, 6, 4)), lengths=[6, 3])


@pytest.mark.long
@pytest.mark.parametrize("dtype", [int, bool])
def test_whole_numbers_that_f_returns_are_explained_as_numbers(dtype: Any) -> None:
    f = lambda xs: (xs.sum(1) > 1.5).astype(dtype)  # noqa: E731
    found = explain.exact_shapley(f, jnp.ones((1, 2)))
    np.testing.assert_allclose(found.values, [[0.5, 0.5]])
    with pytest.raises(ReturnError, match=r"f: expected floating-point numbers, got (int32|bool)"):
        explain.gradient(f, jnp.ones((1, 2)))


@pytest.mark.parametrize(
    "baseline", [3.7, np.float32(3.7), 300, -1, jnp.array([0.5, 1.0])], ids=str
)
def test_a_baseline_of_tokens_is_a_token(baseline: Any) -> None:
    f, tokens = lambda xs: xs.sum(1).astype(float), jnp.ones((1, 2), jnp.uint8)
    with pytest.raises(ArgumentError, match="baseline: expected numbers that uint8 holds"):
        explain.occlusion_map(f, tokens, baseline=baseline)
    np.testing.assert_allclose(explain.occlusion_map(f, tokens, baseline=3.0), [[-2, -2]])


@pytest.mark.long
def test_tokens_are_explained_by_another_token_in_their_place() -> None:
    table = jnp.array([0.0, 1.0, 4.0, -2.0])
    f = lambda tokens, mask: jnp.where(mask, table[tokens], 0).sum(1)  # noqa: E731
    run = jax.jit(
        lambda tokens, lengths: (
            explain.exact_shapley(f, tokens, lengths=lengths).map,
            explain.occlusion_map(f, tokens, lengths=lengths),
            explain.lime_weights(f, tokens, jax.random.key(0), lengths=lengths, ridge=1e-3),
        )
    )
    exact, occluded, lime = run(jnp.array([[1, 2, 3], [2, 2, 99]]), jnp.array([3, 2]))
    for found in (exact, occluded, lime.map):
        np.testing.assert_allclose(found, [[1, 4, -2], [4, 4, 0]], atol=1e-3)
    np.testing.assert_allclose(lime.fit, 1, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["integrated gradients", "sampled kernel SHAP", "LIME", "SmoothGrad", "two steps"]
)
def test_an_empty_sequence_gets_zeros(name: str) -> None:
    found = compiled(name)(inputs(), jnp.array([0, 5, 5]), jax.random.key(0))
    assert (np.asarray(found)[0] == 0).all()
    assert np.isfinite(found).all()


WRONG = {
    "no axis of examples": (lambda f, xs: explain.gradient(f, xs[0, 0]), "xs: expected a batch"),
    "all outputs": (lambda f, xs: explain.gradient(lambda xs: xs[:, 0], xs), "chosen_output"),
    "whole numbers": (lambda f, xs: explain.gradient(f, xs.astype(int)), "embeddings"),
    "lengths of others": (
        lambda f, xs: explain.gradient(f, xs, lengths=[1]),
        "lengths: expected 2",
    ),
    "lengths beyond the end": (lambda f, xs: explain.gradient(f, xs, lengths=[1, 9]), "0 to T=3"),
    "a baseline that is too large": (
        lambda f, xs: explain.occlusion_map(f, xs, baseline=np.ones((5, 3, 2))),
        "baseline: expected",
    ),
    "two kinds of baseline": (
        lambda f, xs: explain.exact_shapley(f, xs, baseline=0.0, background=xs),
        "choose one",
    ),
    "a set of another shape": (
        lambda f, xs: explain.exact_shapley(f, xs, background=xs[:, :2]),
        "background: expected",
    ),
    "fractional labels": (
        lambda f, xs: explain.occlusion_map(f, xs, labels=[0.5]),
        "whole numbers",
    ),
    "negative labels": (
        lambda f, xs: explain.occlusion_map(f, xs, labels=[0, -1]),
        "labels: expected 0",
    ),
    "labels of another shape": (
        lambda f, xs: explain.occlusion_map(f, xs, labels=[0, 1, 2]),
        "labels: expected a shape",
    ),
    "too many groups": (lambda f, xs: explain.exact_shapley(f, jnp.ones((2, 13))), "at most 12"),
    "no number of coalitions": (lambda f, xs: explain.kernel_shap(f, jnp.ones((2, 13))), "samples"),
    "too few coalitions": (
        lambda f, xs: explain.kernel_shap(f, xs, jax.random.key(0), samples=5),
        "twice the groups",
    ),
    "no key": (lambda f, xs: explain.kernel_shap(f, xs, samples=40), "no key"),
    "a large window": (lambda f, xs: explain.sliding_occlusion(f, xs, window=(4, 1)), "at most"),
    "a window of one axis": (
        lambda f, xs: explain.sliding_occlusion(f, xs, window=(2,)),
        "each axis",
    ),
    "a stride of one axis": (
        lambda f, xs: explain.sliding_occlusion(f, xs, window=(1, 1), stride=(2,)),
        "stride: expected",
    ),
    "held without lengths": (
        lambda f, xs: explain.held_steps(f, xs, None),
        "lengths: expected one",
    ),
    "a batch size of 0": (
        lambda f, xs: explain.integrated_gradients(f, xs, batch_size=0),
        "batch_size",
    ),
    "noise below 0": (
        lambda f, xs: explain.smooth_grad(f, xs, jax.random.key(0), noise=-1.0),
        "noise: expected",
    ),
    "a kernel of no width": (
        lambda f, xs: explain.lime_weights(f, xs, jax.random.key(0), kernel_width=0.0),
        "kernel_width",
    ),
    "two steps of images": (
        lambda f, xs: explain.two_step_map(lambda xs: xs, xs[..., None]),
        "sequences",
    ),
    "a quantile of 2": (
        lambda f, xs: explain.two_step_map(lambda xs: xs, xs, quantile=2.0),
        "quantile",
    ),
    "no activations": (
        lambda f, xs: explain.grad_cam(lambda xs: xs[:, 0], f, xs),
        "features: expected",
    ),
    "weights of other channels": (
        lambda f, xs: explain.activation_map(lambda xs: xs, xs, weights=[1.0]),
        "weights: expected",
    ),
    "no attention": (lambda f, xs: explain.attention_rollout([]), "attentions: expected"),
    "attention to others": (lambda f, xs: explain.attention_rollout([xs]), "attentions: expected"),
    "a grid of one axis": (lambda f, xs: explain.grid_labels((3, 2), (1,)), "sizes: expected"),
    "a map of others": (lambda f, xs: explain.deletion_curve(f, xs, xs[:1]), "map: expected"),
    "a map of another shape": (
        lambda f, xs: explain.deletion_curve(f, xs, xs[:, :2]),
        "map: expected",
    ),
    "no baselines": (
        lambda f, xs: explain.faithfulness_curves(f, xs, xs, jax.random.key(0), baselines=[]),
        "baselines: expected",
    ),
    "a curve of one point": (
        lambda f, xs: explain.area_under(jnp.ones((1, 2))),
        "curves: expected",
    ),
    "maps of two shapes": (lambda f, xs: explain.agreement_matrix([xs, xs[:1]]), "maps: expected"),
    "params of another shape": (
        lambda f, xs: explain.randomize_layers(lambda p: xs, {"a": xs}, {"a": xs[:1]}, ["a"]),
        "fresh: expected",
    ),
    "an unknown layer": (
        lambda f, xs: explain.randomize_layers(lambda p: xs, {"a": xs}, {"a": xs}, ["b"]),
        "layers: expected",
    ),
    "a box outside": (
        lambda f, xs: explain.box_data(
            jax.random.key(0), 2, explain.Box(3, 3, (4, 0)), steps=5, features=5
        ),
        "box: expected",
    ),
    "scores of another shape": (
        lambda f, xs: explain.box_scores(xs, xs[:, :1] > 0),
        "maps: expected",
    ),
    "maps of random networks of another shape": (
        lambda f, xs: explain.compare_maps(xs[None, :1], xs),
        "maps: expected",
    ),
    "a box that is a word": (
        lambda f, xs: explain.box_data(jax.random.key(0), 2, "middle"),  # pyright: ignore[reportArgumentType]
        r"box: expected a Box, such as BOXES\['middle'\], got 'middle'",
    ),
    "noise of a NumPy scalar": (
        lambda f, xs: explain.smooth_grad(f, xs, jax.random.key(0), noise=np.float32(-1)),  # pyright: ignore[reportArgumentType]
        "noise: expected 0 or more",
    ),
    "noise that is no number": (
        lambda f, xs: explain.smooth_grad(f, xs, jax.random.key(0), noise=np.nan),
        "noise: expected 0 or more, got nan",
    ),
    "noise that is a word": (
        lambda f, xs: explain.smooth_grad(f, xs, jax.random.key(0), noise="much"),  # pyright: ignore[reportArgumentType]
        "noise: expected 0 or more, got 'much'",
    ),
    "a residual of 5": (
        lambda f, xs: explain.attention_rollout([jnp.eye(2)[None]], residual=np.float32(5)),  # pyright: ignore[reportArgumentType]
        "residual: expected 0 to 1",
    ),
    "a radius below 0": (
        lambda f, xs: explain.max_sensitivity(lambda xs: xs, xs, jax.random.key(0), radius=-1.0),
        "radius: expected 0 or more",
    ),
    "a ridge of a NumPy scalar": (
        lambda f, xs: explain.lime_weights(f, xs, jax.random.key(0), ridge=np.float64(-1)),
        "ridge: expected 0 or more",
    ),
    "no examples": (
        lambda f, xs: explain.lime_weights(f, xs[:0], jax.random.key(0)),
        r"xs: expected a batch of one example or more \[B, ...\], got \[0, 3, 2\]",
    ),
    "no mask": (
        lambda f, xs: explain.gradient(lambda xs: xs.sum((1, 2)), xs, lengths=[3, 2]),
        r"f: expected a function of \(xs, mask\), as lengths are given, got one of \(xs\)",
    ),
    "a mask without lengths": (
        lambda f, xs: explain.gradient(lambda xs, mask: xs.sum((1, 2)), xs),
        r"f: expected a function of xs, got one of \(xs, mask\)",
    ),
    "features without a mask": (
        lambda f, xs: explain.grad_cam(lambda xs: xs, f, xs, lengths=[3, 2]),
        r"features: expected a function of \(xs, mask\)",
    ),
    "no function": (lambda f, xs: explain.gradient(xs, xs), "f: expected a function of xs, got"),  # pyright: ignore[reportArgumentType]
    "nothing returned": (
        lambda f, xs: explain.occlusion_map(lambda xs: None, xs),  # pyright: ignore[reportArgumentType]
        "f: expected an array, got NoneType",
    ),
    "two things returned": (
        lambda f, xs: explain.gradient(lambda xs: (xs, xs), xs),  # pyright: ignore[reportArgumentType]
        "f: expected an array, got tuple",
    ),
    "no map": (
        lambda f, xs: explain.two_step_map(lambda xs: xs.sum((1, 2)), xs),
        r"explain: expected a map \[2, ...\], a number for each part of an example, got \[2\]",
    ),
    "a map that is none": (
        lambda f, xs: explain.max_sensitivity(lambda xs: None, xs, jax.random.key(0)),  # pyright: ignore[reportArgumentType]
        r"explain: expected a map \[B, ...\], or what has one as its .map, got NoneType",
    ),
    "a key that is a seed": (
        lambda f, xs: explain.smooth_grad(f, xs, 0),  # pyright: ignore[reportArgumentType]
        r"key: expected a random key, such as jax.random.key\(0\), got int",
    ),
    "no key for orders": (
        lambda f, xs: explain.permutation_shap(f, xs, None),  # pyright: ignore[reportArgumentType]
        "key: expected a random key",
    ),
    "several keys": (
        lambda f, xs: explain.lime_weights(f, xs, jax.random.split(jax.random.key(0))),
        r"key: expected a random key, .* \[2\]",
    ),
    "a share of 1": (lambda f, xs: explain.box_scores(xs, xs > 0, [0.5, 1.0]), "shares: expected"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_explained_is_refused_in_a_sentence(wrong: str) -> None:
    call, match = WRONG[wrong]
    with pytest.raises(RecurrentError, match=match):
        call(lambda xs, *mask: xs.reshape(len(xs), -1).sum(1), jnp.ones((2, 3, 2)))


@pytest.mark.long
def test_traced_labels_need_a_count() -> None:
    f = lambda xs: xs.sum(1)  # noqa: E731
    xs, labels = jnp.array([[1.0, 2.0, 4.0]]), jnp.array([0, 1, 0])
    with pytest.raises(ArgumentError, match="count: expected"):
        jax.jit(lambda labels: explain.occlusion_map(f, xs, labels=labels))(labels)
    run = jax.jit(lambda labels: explain.occlusion_map(f, xs, labels=labels, count=2))
    assert run(labels).tolist() == [[5.0, 2.0, 5.0]]
