"""Buckets: the best sizes, the same losses and gradients as without, one compilation each."""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrent import gru, unroll
from recurrent.errors import ArgumentError
from recurrent.losses import masked_average
from recurrent.training.bucketing import Buckets, bucket_sizes, bucketed
from recurrent.training.minibatch import epoch_order, minibatch_task
from recurrent.training.population import Layout, batch_mesh, spread

STEPS, EXAMPLES = 12, 21
LIMITS = (3, 7, STEPS)
CELL = gru(2, 3)
BUCKETS = Buckets("lengths", LIMITS, {"xs": LIMITS})


def made(lengths: Any, steps: int = STEPS) -> dict[str, jax.Array]:
    """Returns random sequences, whose padding is a number that no result may show."""
    lengths = np.asarray(lengths)
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(len(lengths), 50, 2))[:, :steps]
    xs[np.arange(steps) >= lengths[:, None]] = 1e6
    return {"xs": jnp.asarray(xs, jnp.float32), "lengths": jnp.asarray(lengths)}


def data() -> dict[str, jax.Array]:
    return made(np.random.default_rng(1).integers(1, STEPS + 1, size=EXAMPLES))


def measure(params: Any, batch: Any, hparams: Any = None) -> Any:
    xs = batch["xs"].swapaxes(0, 1)
    _, ys = unroll(CELL, params, xs, lengths=batch["lengths"])
    real = jnp.arange(len(xs))[:, None] < batch["lengths"]
    return {"square": masked_average((ys**2).sum(-1), real & batch["mask"])}


def loss(params: Any, batch: Any, key: Any = None, hparams: Any = None) -> Any:
    found = measure(params, batch)
    return found["square"].mean, found


def task(buckets: Buckets | None, batch_size: int) -> Any:
    return minibatch_task(
        CELL.init,
        loss,
        measure,
        lambda hparams: optax.sgd(0.3),
        batch_size=batch_size,
        buckets=buckets,
    )


@pytest.mark.parametrize("seed", range(40))
def test_no_other_sizes_leave_less_padding(seed: int) -> None:
    """Held to all sets of as many sizes."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 12, size=rng.integers(1, 9))
    count = int(rng.integers(1, 5))

    def steps(sizes: Any) -> int:
        return sum(min(size for size in sizes if size >= length) for length in lengths)

    *others, longest = np.unique(lengths).tolist()
    sets = [
        (*some, longest)
        for n in range(min(count, len(others) + 1))
        for some in itertools.combinations(others, n)
    ]
    found = bucket_sizes(lengths, count)
    assert list(found) == sorted(set(found))
    assert len(found) <= count
    assert found[-1] == longest
    assert steps(found) == min(map(steps, sets))


@pytest.mark.parametrize(
    ("lengths", "count"), [([], 1), ([0, 1], 1), ([1], 0), ([[1]], 1), ([1.5], 1)]
)
def test_what_has_no_sizes_is_refused(lengths: Any, count: int) -> None:
    with pytest.raises(ArgumentError, match="lengths, count: expected"):
        bucket_sizes(lengths, count)


@pytest.mark.long
@pytest.mark.parametrize("longest", [1, 3, 4, 7, 8, 12])
def test_values_and_gradients_are_those_without_buckets(longest: int) -> None:
    batch = made([1, longest, 1]) | {"mask": jnp.array([True, True, False])}
    params = CELL.init(jax.random.key(0))
    slopes = jax.value_and_grad(loss, has_aux=True)
    inside = jax.jit(bucketed(slopes, BUCKETS))(params, batch)
    outside = jax.jit(jax.value_and_grad(bucketed(loss, BUCKETS), has_aux=True))(params, batch)
    for found in (inside, outside):
        chex.assert_trees_all_close(found, slopes(params, batch), rtol=1e-6, atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("scale", [0.0, 2.0**16])
def test_the_loss_is_scaled_within_its_bucket(scale: float) -> None:
    """A product in float16, whose slope has no number there unless it is scaled."""

    def narrow(params: Any, batch: Any, key: Any, hparams: Any) -> Any:
        half = (params.astype(jnp.float16) * batch["xs"].astype(jnp.float16)).sum()
        return half.astype(jnp.float32) * 1e-8, {}

    own = minibatch_task(
        lambda key: jnp.float32(1),
        narrow,
        measure,
        lambda hparams: optax.sgd(1e6),
        batch_size=1,
        loss_scale=scale,
        buckets=BUCKETS,
    )
    hparams, xs = {"seed": 0}, {"xs": jnp.ones((1, STEPS, 1)), "lengths": jnp.array([2])}
    state, _ = own.train(own.init(hparams), hparams, xs, 1)
    slope = 3e-8 if scale else 0.0  # three steps are kept, of which each adds 1e-8
    assert float(state.params) == pytest.approx(1 - 1e6 * slope, abs=1e-3)


@pytest.mark.parametrize("limits", [(3, 2, 12), (3, 3, 12), ()])
def test_limits_that_do_not_rise_are_refused(limits: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match="limits: expected some that rise"):
        bucketed(measure, Buckets("lengths", limits, {"xs": limits}))


def test_a_batch_is_cut_to_the_first_limit_that_holds_it() -> None:
    seen = bucketed(lambda params, batch: jnp.float32(batch["xs"].shape[1]), BUCKETS)
    for longest, limit in ((1, 3), (3, 3), (4, 7), (7, 7), (8, 12), (12, 12)):
        assert float(seen((), made([1, longest]))) == limit


@pytest.mark.long
def test_more_padding_changes_no_bit() -> None:
    lengths = data()["lengths"]
    params = CELL.init(jax.random.key(0))
    found = []
    for steps in (STEPS, 20, 50):
        limits = LIMITS if steps == STEPS else (*LIMITS, steps)
        buckets = Buckets("lengths", limits, {"xs": limits})
        batch = made(lengths, steps) | {"mask": jnp.ones(EXAMPLES, bool)}
        found.append(jax.jit(bucketed(measure, buckets))(params, batch)["square"].total)
    assert found[0] == found[1] == found[2]


@pytest.mark.long
def test_an_epoch_has_every_example_once_among_those_of_like_length() -> None:
    lengths = data()["lengths"]
    rows, real = epoch_order(jax.random.key(0), EXAMPLES, 4, lengths)
    assert sorted(rows[real].tolist()) == list(range(EXAMPLES))
    ranges = sorted(
        (int(lengths[row[ok]].min()), int(lengths[row[ok]].max()))
        for row, ok in zip(rows, real, strict=True)
    )
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(ranges))
    others, _ = epoch_order(jax.random.key(1), EXAMPLES, 4, lengths)
    assert (rows != others).any()


@pytest.mark.long
def test_training_on_whole_epochs_equals_training_without_buckets() -> None:
    """One batch holds all examples, so both see the same."""
    hparams, examples = {"seed": 3}, data()
    found = []
    for buckets in (None, BUCKETS):
        own = task(buckets, EXAMPLES)
        state = own.init(hparams)
        for _ in range(3):
            state, _ = own.train(state, hparams, examples, 1)
        found.append((state.params, own.evaluate(own.keep(state), hparams, examples)))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_each_bucket_is_traced_once_in_a_population_too() -> None:
    traced: list[int] = []

    def noted(params: Any, batch: Any, key: Any, hparams: Any) -> Any:
        traced.append(batch["xs"].shape[1])
        return loss(params, batch)

    own = minibatch_task(
        CELL.init,
        noted,
        measure,
        lambda hparams: optax.sgd(hparams["rate"]),
        batch_size=4,
        buckets=BUCKETS,
    )
    hparams = {"seed": jnp.arange(2), "rate": jnp.array([0.1, 0.2])}

    def train(given: Any, data: Any) -> Any:
        state, hparams = given
        return own.train(state, hparams, data, 3)

    states = jax.lax.map(own.init, hparams)
    many = jax.jit(spread(train, Layout(together=1)))
    for _ in range(2):
        states, _ = many((states, hparams), data())
    assert sorted(traced) == list(LIMITS)
    alone = own.init({"seed": 1, "rate": 0.2})
    for _ in range(2):
        alone, _ = own.train(alone, {"seed": 1, "rate": 0.2}, data(), 3)
    second = jax.tree.map(lambda leaf: leaf[1], states.params)
    chex.assert_trees_all_close(second, alone.params, rtol=1e-5, atol=1e-6)


@pytest.mark.long
@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices, as conftest has")
def test_devices_that_share_batches_train_alike() -> None:
    own, hparams, examples = task(BUCKETS, 8), {"seed": 3}, data()

    def trained() -> Any:
        train = jax.jit(lambda state: own.train(state, hparams, examples, 2)[0].params)
        return jax.device_get(train(own.init(hparams)))

    alone = trained()
    with batch_mesh(Layout(batch_devices=2)):
        shared = trained()
    chex.assert_trees_all_close(shared, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sizes", [(3, 12), (3, 7, 11), (3, 7, 13)])
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, ...]) -> None:
    cut = bucketed(measure, Buckets("lengths", LIMITS, {"xs": sizes}))
    with pytest.raises(ArgumentError, match="buckets: expected a size of 'xs' for each of 3"):
        cut(CELL.init(jax.random.key(0)), made([1, 2]))
