"""What tells maps to be trusted from others, against loops of the definitions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from recurrent import explain


def smooth(xs: Any) -> Any:
    """Return a number of each example, of NumPy and JAX arrays alike."""
    flat = xs.reshape(len(xs), -1)
    numbers = np if isinstance(xs, np.ndarray) else jnp
    return numbers.tanh(flat @ numbers.linspace(-0.5, 1.0, flat.shape[1]))


@pytest.mark.long
@pytest.mark.parametrize("insert", [False, True])
def test_curves_follow_the_order_of_the_map(insert: bool) -> None:
    rng = np.random.default_rng(0)
    xs, base = rng.normal(size=(2, 3, 4)), rng.normal(size=(3, 4))
    xs, base = xs.astype(np.float32), base.astype(np.float32)
    maps = rng.normal(size=(2, 3, 4)).astype(np.float32)
    steps = 5
    expected = np.zeros((steps + 1, 2))
    for b in range(2):
        order = np.argsort(-maps[b].ravel())
        for step in range(steps + 1):
            chosen = np.zeros(12, bool)
            chosen[order[: int(np.ceil(12 * step / steps))]] = True
            chosen = chosen.reshape(3, 4)
            shown = np.where(chosen == insert, xs[b], base)
            expected[step, b] = smooth(shown[None])[0]
    curve = explain.insertion_curve if insert else explain.deletion_curve
    found = curve(smooth, xs, maps, baseline=base, steps=steps, batch_size=4)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    shares = np.linspace(0, 1, steps + 1)
    area = np.trapezoid(expected, shares, axis=0)
    np.testing.assert_allclose(explain.area_under(found), area, atol=1e-5)


@pytest.mark.long
def test_the_channels_of_a_pixel_are_replaced_together() -> None:
    xs = jnp.arange(1.0, 13.0).reshape(1, 2, 2, 3)
    pixels = xs.sum(-1)
    found = explain.deletion_curve(lambda xs: xs.sum((1, 2, 3)), xs, pixels, steps=4)[:, 0]
    np.testing.assert_allclose(found, [78, 78 - 33, 78 - 57, 6, 0])


def test_padding_is_no_element_of_a_curve() -> None:
    xs = jnp.array([[[1.0], [2.0], [jnp.nan], [jnp.nan]]])
    f = lambda xs, mask: xs.sum((1, 2))  # noqa: E731
    maps = jnp.array([[[0.0], [-1.0], [9.0], [jnp.nan]]])
    found = explain.deletion_curve(f, xs, maps, lengths=[2], steps=2, baseline=0.0)
    assert found[:, 0].tolist() == [3.0, 2.0, 0.0]
    found = explain.insertion_curve(f, xs, maps, lengths=[2], steps=2)
    assert found[:, 0].tolist() == [0.0, 1.0, 3.0]


@pytest.mark.long
def test_random_orders_lie_between_the_best_and_the_worst_map() -> None:
    xs = jnp.linspace(0, 1, 30)[None]
    run = jax.jit(
        lambda maps: explain.faithfulness_curves(
            lambda xs: xs.sum(1), xs, maps, jax.random.key(0), baselines=[0.0, -1.0], orders=6
        )
    )
    best, worst = run(xs), run(-xs)
    assert best.deletion.shape == (2, 21, 1)
    assert best.random_insertion.shape == (2, 6, 21, 1)
    for low, high, chance in (
        (best.deletion, worst.deletion, best.random_deletion),
        (worst.insertion, best.insertion, best.random_insertion),
    ):
        between = explain.area_under(chance)[..., 0]
        assert (explain.area_under(low) < between).all()
        assert (explain.area_under(high) > between).all()
    assert len(np.unique(np.asarray(best.random_deletion)[0, :, 10, 0])) > 1


@pytest.mark.long
def test_rank_correlation_is_that_of_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 4, (3, 2, 6, 2)).astype(np.float32)
    lengths = np.array([6, 4])
    padded = maps.copy()
    padded[:, 1, 4:] = [[[np.nan, 1e30]] * 2, [[7, 8]] * 2, [[0, -np.inf]] * 2]
    found = np.asarray(explain.agreement_matrix(list(padded), lengths=lengths))
    for i in range(3):
        for j in range(3):
            for b, length in enumerate(lengths):
                pair = (maps[k, b, :length].ravel() for k in (i, j))
                expected = spearman(*pair)
                assert float(found[i, j, b]) == pytest.approx(expected, abs=1e-5)
    constant = explain.rank_correlation(maps[0], np.ones_like(maps[0]))
    assert constant.tolist() == [0.0, 0.0]


@pytest.mark.long
def test_a_map_with_nan_is_ranked_as_nan() -> None:
    first = jnp.array([[1.0, np.nan, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]])
    second = jnp.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    found = np.asarray(explain.rank_correlation(first, second))
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(-1)
    padded = jnp.array([[[1.0], [3.0], [np.nan]]])  # in padding it does not count
    assert float(explain.rank_correlation(padded, padded, lengths=[2])[0]) == pytest.approx(1)


@pytest.mark.long
def test_a_map_with_nan_has_no_score() -> None:
    maps = jnp.ones((2, 3, 2)).at[0, 1].set(jnp.nan).at[1, 0, 0].set(4.0)
    inside = jnp.zeros((2, 3, 2), bool).at[:, 0].set(True)
    for each in explain.box_scores(maps, inside):
        assert np.isnan(np.asarray(each)[..., 0]).all()
        assert np.isfinite(np.asarray(each)[..., 1]).all()


@pytest.mark.long
def test_a_map_with_nan_has_no_curve() -> None:
    f = lambda xs, mask: (xs * mask).sum(1)  # noqa: E731
    xs = jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    map = xs.at[0, 1].set(jnp.nan).at[1, 2].set(jnp.nan)  # of the second in padding
    how: dict[str, Any] = {"lengths": [3, 2], "steps": 2}
    for curve in (explain.deletion_curve, explain.insertion_curve):
        found = np.asarray(curve(f, xs, map, **how))
        assert np.isnan(found[:, 0]).all()
        assert np.isfinite(found[:, 1]).all()
    several = explain.faithfulness_curves(f, xs, map, jax.random.key(0), baselines=[0.0], **how)
    assert np.isnan(several.deletion[..., 0]).all()
    assert np.isnan(several.insertion[..., 0]).all()
    assert np.isfinite(several.random_deletion).all()


@pytest.mark.long
def test_nan_of_f_stays_in_what_is_fitted_and_in_two_steps() -> None:
    xs = jnp.ones((1, 3, 2))
    lime = explain.lime_weights(lambda xs: xs.sum((1, 2)) * jnp.nan, xs, jax.random.key(0))
    assert np.isnan(lime.fit).all()
    explained = lambda xs: xs * jnp.where(xs.min() < 1, jnp.nan, 1)  # noqa: E731
    assert np.isnan(explain.two_step_map(explained, xs, quantile=0.5)).all()


@pytest.mark.long
def test_what_has_a_map_is_a_map() -> None:
    f = lambda xs: jnp.tanh(xs.sum((1, 2)))  # noqa: E731
    xs = jnp.array([[[0.1, 0.2], [0.3, -0.4]]])
    whole = lambda xs: explain.integrated_gradients(f, xs)  # noqa: E731
    bare = lambda xs: whole(xs).map  # noqa: E731
    uses = [
        lambda explained: explain.two_step_map(explained, xs),
        lambda explained: explain.max_sensitivity(explained, xs, jax.random.key(0)),
        lambda explained: explain.deletion_curve(f, xs, explained(xs)),
        lambda explained: explain.agreement_matrix([explained(xs), xs]),
        lambda explained: explain.completeness_gap(f, xs, explained(xs)),
        lambda explained: explain.box_scores(explained(xs), xs > 0).precision,
        lambda explained: (
            explain.randomize_layers(
                lambda params: explained(xs * params["a"]), {"a": 1.0}, {"a": 2.0}, ["a"]
            ).maps
        ),
    ]
    for use in uses:
        np.testing.assert_array_equal(use(whole), use(bare))


def spearman(first: Any, second: Any) -> float:
    return float(np.asarray(stats.spearmanr(first, second))[0])


def params_of(seed: int) -> Any:
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "first": {"w": jax.random.normal(keys[0], (6, 5))},
        "second": [{"w": jax.random.normal(keys[1], (5, 5))}],
        "head": {"w": jax.random.normal(keys[2], (5,))},
    }


@pytest.mark.long
@pytest.mark.parametrize("cascading", [True, False])
def test_layers_are_made_random_from_the_output_down_or_one_by_one(cascading: bool) -> None:
    xs = jax.random.normal(jax.random.key(9), (2, 6))

    def explained(params: Any) -> Any:
        def f(xs: Any) -> Any:
            hidden = jnp.tanh(xs @ params["first"]["w"])
            return jnp.tanh(hidden @ params["second"][0]["w"]) @ params["head"]["w"]

        return explain.gradient(f, xs)

    trained, fresh = params_of(0), params_of(1)
    names = ["head", "second/0", "first"]
    found = explain.randomize_layers(explained, trained, fresh, names, cascading=cascading)
    found = jax.tree.map(np.asarray, found)
    before = np.asarray(explained(trained))
    for row in range(3):
        mixed = dict(trained)
        for name in names[: row + 1] if cascading else names[row : row + 1]:
            top = name.split("/")[0]
            mixed[top] = fresh[top]
        expected = np.asarray(explained(mixed))
        np.testing.assert_allclose(found.maps[row], expected, atol=1e-5)
        for b in range(2):
            pair = expected[b], before[b]
            rank = spearman(*pair)
            assert float(found.rank_correlation[row, b]) == pytest.approx(rank, abs=1e-5)
            rank = spearman(*np.abs(pair))
            assert float(found.absolute_rank_correlation[row, b]) == pytest.approx(rank, abs=1e-5)
            first, second = np.abs(pair)
            cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
            assert float(found.cosine[row, b]) == pytest.approx(cosine, abs=1e-5)


@pytest.mark.long
def test_sensitivity_is_the_largest_change_of_the_map() -> None:
    xs = jnp.array([[3.0, 4.0], [0.0, 1.0]])
    linear = lambda xs: explain.gradient(lambda xs: 2 * xs.sum(1), xs)  # noqa: E731
    key = jax.random.key(0)
    np.testing.assert_allclose(explain.max_sensitivity(linear, xs, key), 0)
    square = lambda xs: explain.gradient(lambda xs: (xs**2).sum(1) / 2, xs)  # noqa: E731
    found = explain.max_sensitivity(square, xs, key, radius=0.1, samples=400, relative=False)
    corner = 0.1 * np.sqrt(2)  # of the cube
    assert ((corner * 0.9 < found) & (found <= corner)).all()
    relative = explain.max_sensitivity(square, xs, key, radius=0.1, samples=400)
    np.testing.assert_allclose(relative, found / jnp.array([5.0, 1.0]), rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("name", explain.BOXES)
def test_data_have_the_signal_in_the_box_alone(name: str) -> None:
    data = explain.box_data(jax.random.key(0), 60, explain.BOXES[name])
    xs, labels, inside = map(np.asarray, data)
    box = explain.BOXES[name]
    signs = (2 * labels - 1)[:, None, None] * np.ones_like(xs)
    assert (xs - signs)[inside].mean() == pytest.approx(0, abs=0.05)
    assert xs[~inside].mean() == pytest.approx(0, abs=0.05)
    assert xs[~inside].std() == pytest.approx(1, abs=0.05)
    assert (inside.any(2).sum(1) == box.steps).all()
    assert (inside.any(1).sum(1) == box.features).all()
    firsts = {tuple(np.argwhere(each)[0]) for each in inside}
    assert firsts == {box.start} if box.start else len(firsts) > 30
    assert 15 < labels.sum() < 45


@pytest.mark.long
def test_noise_can_hang_together_over_time() -> None:
    data = explain.box_data(
        jax.random.key(0), 40, explain.Box(1, 1, (0, 0)), signal=0.0, autoregression=0.9
    )
    xs = np.asarray(data.xs)
    assert xs.std() == pytest.approx(1, abs=0.1)
    assert np.corrcoef(xs[:, :-1].ravel(), xs[:, 1:].ravel())[0, 1] == pytest.approx(0.9, abs=0.02)


def by_loops(saliency: Any, inside: Any, share: float) -> tuple[float, float]:
    """Return precision and recall of one map, as the authors count."""
    flat, true = abs(saliency).ravel(), inside.ravel()
    flat = (flat - flat.min()) / (flat.max() - flat.min())
    order = np.argsort(-flat, kind="stable")
    count = 1
    while flat[order[:count]].sum() / flat.sum() < share:
        count += 1
    kept = order[:count]
    hit = flat[kept][true[kept]].sum()
    missed = flat[true].sum() - hit
    return hit / flat[kept].sum(), hit / (hit + missed)


@pytest.mark.long
def test_precision_and_recall_are_weighted_by_saliency() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(3, 8, 6)).astype(np.float32)
    inside = np.zeros((3, 8, 6), bool)
    inside[:, 2:5, 1:4] = True
    maps[2] = np.where(inside[2], maps[2], 0)
    shares = np.arange(1, 10) / 10
    found = explain.box_scores(maps, inside)
    for b in range(3):
        expected = [by_loops(maps[b], inside[b], share) for share in shares]
        precision, recall = np.transpose(expected)
        np.testing.assert_allclose(found.precision[:, b], precision, atol=1e-4)
        np.testing.assert_allclose(found.recall[:, b], recall, atol=1e-4)
        area = np.trapezoid(precision, shares) / 0.8
        assert float(found.precision_area[b]) == pytest.approx(area, abs=1e-4)
    assert float(found.precision_area[2]) == pytest.approx(1)
    nothing = explain.box_scores(np.zeros_like(maps), inside)
    assert (np.asarray(nothing.precision) == 0).all()
