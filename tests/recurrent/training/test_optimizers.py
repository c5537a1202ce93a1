"""Optimizers against NumPy loops of their papers, and optax; every hyperparameter may be traced."""

from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from recurrent import convolutional_lstm, learned_state
from recurrent.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    clip,
    kernels,
    learning_rate_schedule,
    optax_optimizers,
    optimizer,
    scaled_norm,
)

RATE, DECAY, STEPS = 0.03, 0.2, 5
Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def problem() -> tuple[Arrays, list[Arrays]]:
    """Params with a kernel and a bias, and a gradient for each step."""
    rng = np.random.default_rng(0)

    def draw() -> Arrays:
        return {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}

    return draw(), [draw() for _ in range(STEPS)]


def follow(transformation: optax.GradientTransformation, params: Any, gradients: list[Any]) -> Any:
    @jax.jit
    def step(params, state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = transformation.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params


def sgd(w: np.ndarray, gradients: list[np.ndarray], decay: float, momentum: float) -> np.ndarray:
    velocity = np.zeros_like(w)
    for g in gradients:
        velocity = momentum * velocity + g + decay * w
        w = w - RATE * velocity
    return w


def rmsprop(w: np.ndarray, gradients: list[np.ndarray], decay: float, momentum: float) -> Any:
    square, velocity = np.zeros_like(w), np.zeros_like(w)
    for g in gradients:
        g = g + decay * w
        square = 0.9 * square + 0.1 * g**2
        velocity = momentum * velocity + g / np.sqrt(square + 1e-8)
        w = w - RATE * velocity
    return w


def adam(w: np.ndarray, gradients: list[np.ndarray], decay: float, decoupled: float = 0) -> Any:
    first, second = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, start=1):
        g = g + decay * w
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        step = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        w = w - RATE * (step + decoupled * w)
    return w


REFERENCES: dict[str, Callable[..., np.ndarray]] = {
    "sgd": lambda w, gradients, decay: sgd(w, gradients, decay, momentum=0.8),
    "rmsprop": lambda w, gradients, decay: rmsprop(w, gradients, decay, momentum=0.8),
    "adam": adam,
    "adamw": lambda w, gradients, decay: adam(w, gradients, 0, decoupled=decay),
}


def test_every_optimizer_has_a_reference() -> None:
    assert set(REFERENCES) == set(OPTIMIZERS)


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_equal_numpy_and_decay_kernels_only(name: str, decay: float) -> None:
    params, gradients = problem()
    expected = {
        key: REFERENCES[name](w, [g[key] for g in gradients], decay if key == "kernel" else 0.0)
        for key, w in params.items()
    }
    actual = follow(optimizer(name, RATE, momentum=0.8, weight_decay=decay), params, gradients)
    chex.assert_trees_all_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("sgd", optax.sgd(RATE, 0.9)),
        ("rmsprop", optax.rmsprop(RATE, momentum=0.9)),
        ("adam", optax.adam(RATE)),
        ("adamw", optax.adamw(RATE, weight_decay=0.0)),
    ],
)
def test_the_defaults_equal_plain_optax(name: str, plain: optax.GradientTransformation) -> None:
    params, gradients = problem()
    actual, expected = (follow(t, params, gradients) for t in (optimizer(name, RATE), plain))
    chex.assert_trees_all_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_decoupled_decay_shrinks_by_a_factor_and_l2_does_not() -> None:
    params, gradients = problem()
    nothing = [jax.tree.map(np.zeros_like, g) for g in gradients]
    shrunk = (1 - RATE * DECAY) ** STEPS * params["kernel"]
    decoupled = follow(optimizer("adamw", RATE, weight_decay=DECAY), params, nothing)
    np.testing.assert_allclose(decoupled["kernel"], shrunk, rtol=1e-12)
    np.testing.assert_array_equal(decoupled["bias"], params["bias"])
    # An L2 gradient alone is normalized away by Adam: each step is the learning rate.
    l2 = follow(optimizer("adam", RATE, weight_decay=DECAY), params, nothing[:1])
    moved = params["kernel"] - RATE * np.sign(params["kernel"])
    np.testing.assert_allclose(l2["kernel"], moved, rtol=1e-5)


def test_kernels_are_the_leaves_of_two_axes_and_more_but_no_logarithms() -> None:
    params = {
        "a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
        "conv": jnp.ones((3, 3, 1, 2)),
    }
    expected = {"a": {"kernel": True, "bias": False}, "conv": True}
    assert kernels(params | {"scale": jnp.ones(())}) == expected | {"scale": False}
    assert kernels({"decay": {"log_rate": jnp.ones((2, 3))}}) == {"decay": {"log_rate": False}}


@pytest.mark.long
@pytest.mark.parametrize("norm", [0.01, 1.0, 2.0])
def test_clipping_scales_larger_gradients_down_to_the_norm(norm: float) -> None:
    _, gradients = problem()
    transformation = clip(norm)
    clipped, _ = transformation.update(gradients[0], transformation.init(gradients[0]))
    before = np.sqrt(sum((g**2).sum() for g in gradients[0].values()))
    assert before > norm
    expected = jax.tree.map(lambda g: g * norm / before, gradients[0])
    chex.assert_trees_all_close(clipped, expected, rtol=1e-12)


@pytest.mark.parametrize("norm", [0, 0.0, 1e3])
def test_clipping_leaves_smaller_gradients_alone_and_zero_never_clips(norm: float) -> None:
    _, gradients = problem()
    huge = jax.tree.map(lambda g: g * (1e20 if norm == 0 else 1), gradients[0])
    transformation = clip(norm)
    clipped, _ = transformation.update(huge, transformation.init(huge))
    chex.assert_trees_all_equal(clipped, huge)


def test_entries_are_clipped_before_their_norm() -> None:
    params, gradients = problem()
    transformation = optimizer("sgd", 1.0, momentum=0.0, clip_value=0.3, clip_norm=0.5)
    moved = follow(transformation, params, gradients[:1])
    within = {name: np.clip(g, -0.3, 0.3) for name, g in gradients[0].items()}
    assert any((abs(g) > 0.3).any() for g in gradients[0].values())
    norm = np.sqrt(sum((g**2).sum() for g in within.values()))
    assert norm > 0.5
    expected = {name: params[name] - g * 0.5 / norm for name, g in within.items()}
    chex.assert_trees_all_close(moved, expected, rtol=1e-12)
    alone = follow(optimizer("sgd", 1.0, momentum=0.0, clip_value=0.3), params, gradients[:1])
    expected = {name: params[name] - g for name, g in within.items()}
    chex.assert_trees_all_close(alone, expected, rtol=1e-12)


def test_clipping_comes_before_the_optimizer_and_the_decay() -> None:
    params, gradients = problem()
    transformation = optimizer("sgd", 1.0, momentum=0.0, weight_decay=DECAY, clip_norm=0.5)
    moved = follow(transformation, params, gradients[:1])
    norm = np.sqrt(sum((g**2).sum() for g in gradients[0].values()))
    expected = {
        "kernel": params["kernel"] * (1 - DECAY) - gradients[0]["kernel"] * 0.5 / norm,
        "bias": params["bias"] - gradients[0]["bias"] * 0.5 / norm,
    }
    chex.assert_trees_all_close(moved, expected, rtol=1e-12)


def rates(schedule: optax.Schedule, *steps: Any) -> np.ndarray:
    return np.array([np.asarray(schedule(step)) for step in steps])


def test_constant_and_cosine_schedules_with_warm_up_equal_those_by_hand() -> None:
    cosine = learning_rate_schedule(0.2, "cosine", 4, 12)
    by_hand = {
        0: 0.05,
        1: 0.1,
        2: 0.15,
        3: 0.2,
        4: 0.2,
        6: 0.1 * (1 + np.sqrt(0.5)),
        8: 0.1,
        12: 0,
        20: 0,
    }
    np.testing.assert_allclose(rates(cosine, *by_hand), list(by_hand.values()), atol=1e-7)
    constant = learning_rate_schedule(0.2, "constant", 4, None)
    np.testing.assert_allclose(rates(constant, 0, 1, 3, 99), [0.05, 0.1, 0.2, 0.2], 1e-7)
    one_step = learning_rate_schedule(0.2, "constant", 1, None)
    np.testing.assert_allclose(rates(one_step, 0, 1), [0.2, 0.2], 1e-7)
    no_warm_up = learning_rate_schedule(0.2, "cosine", 0, 12)
    np.testing.assert_allclose(rates(no_warm_up, 0, 6, 12), [0.2, 0.1, 0], atol=1e-7)
    assert learning_rate_schedule(0.2, "constant", 0, None)(7) == 0.2


def test_linear_and_exponential_schedules_equal_their_closed_forms() -> None:
    steps, peak = np.arange(8), 0.2
    linear = learning_rate_schedule(peak, "linear", 4, 12)
    np.testing.assert_allclose(rates(linear, *steps + 4), peak * (1 - steps / 8), rtol=1e-6)
    exponential = learning_rate_schedule(peak, "exponential", 4, 12)
    np.testing.assert_allclose(rates(exponential, *steps + 4), peak * 0.01 ** (steps / 8), 1e-6)
    np.testing.assert_allclose(rates(exponential, 12, 99), 0.01 * peak, rtol=1e-6)
    np.testing.assert_allclose(rates(linear, 0, 3, 12, 99), [0.05, 0.2, 0, 0], atol=1e-7)


def test_warm_restarts_equal_the_equation_of_the_paper() -> None:
    period, since, expected = 4, 0, []
    for _ in range(60):
        expected.append(0.5 * (1 + np.cos(np.pi * since / period)))  # equation 5
        since += 1
        if since == period:
            period, since = 2 * period, 0
    found = rates(learning_rate_schedule(1.0, "warm_restarts", 0, 60), *range(60))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    after = rates(learning_rate_schedule(1.0, "warm_restarts", 3, 63), *range(3, 63))
    np.testing.assert_allclose(after, expected, atol=1e-6)


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "constant"])
def test_a_schedule_of_any_length_starts_at_its_peak_and_falls_to_its_end(schedule: str) -> None:
    for length in (1, 2, 3, 5, 14, 15, 16, 31):
        found = rates(learning_rate_schedule(1.0, schedule, 0, length), *range(length + 1))
        assert found[0] == 1
        assert np.all((found >= 0) & (found <= 1))
        np.testing.assert_allclose(found[-1], 0.01 if schedule == "exponential" else 0, atol=1e-7)


def test_a_schedule_of_ones_own_counts_the_steps_after_warm_up() -> None:
    seen = []

    def halves(step: Any, total_steps: int) -> Any:
        seen.append((int(step), total_steps))
        return 0.5**step

    found = rates(learning_rate_schedule(0.2, halves, 2, 5), 0, 1, 2, 3, 4)
    np.testing.assert_allclose(found, [0.1, 0.2, 0.2, 0.1, 0.05], rtol=1e-6)
    assert set(seen) == {(0, 3), (1, 3), (2, 3)}, "no step before the first"
    traced = jax.jit(learning_rate_schedule(0.2, lambda step, total: 1 - step / total, 0, 4))
    np.testing.assert_allclose(rates(traced, 0, 1, 3), [0.2, 0.15, 0.05], rtol=1e-6)


def test_the_optimizer_follows_its_schedule() -> None:
    transformation = optimizer(
        "sgd", 0.2, momentum=0.0, schedule="cosine", warmup_steps=4, total_steps=12
    )
    sums = np.cumsum([0.05, 0.1, 0.15, 0.2, 0.2, 0.1 + 0.1 * np.cos(np.pi / 8)])
    for steps in (1, 2, 5, 6):
        params = follow(transformation, jnp.zeros(1), [jnp.ones(1)] * steps)
        np.testing.assert_allclose(params, [-sums[steps - 1]], atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize("name", [*OPTIMIZERS, "lion"])
def test_one_compilation_serves_all_hyperparameters(name: str) -> None:
    params, gradients = problem()
    traces = []

    def moved(hparams: dict[str, Any]) -> Any:
        traces.append(hparams)
        options = {"schedule": "cosine", "warmup_steps": 2, "total_steps": 9}
        return follow(optimizer(name, **hparams, **options), params, gradients)

    compiled = jax.jit(moved)
    names = ("learning_rate", "momentum", "weight_decay", "clip_norm", "l1")
    names += ("beta1", "beta2", "epsilon", "clip_value")
    several: list[dict[str, Any]] = [
        dict(zip(names, values, strict=True))
        for values in [
            (0.1, 0.9, 0.0, 0.0, 0.0, 0.9, 0.999, 1e-8, 0.0),
            (0.02, 0.0, 0.3, 1.0, 0.1, 0.0, 0.9, 1e-3, 0.3),
            (1e-4, 0.5, 1e-3, 1e-2, 1e-3, 0.5, 0.0, 1.0, 2.0),
        ]
    ]
    results = [compiled(hparams) for hparams in several]
    assert len(traces) == 1
    for hparams, result in zip(several, results, strict=True):
        chex.assert_trees_all_close(result, moved(hparams), rtol=1e-10, atol=1e-12)


def test_the_state_has_one_structure_for_all_hyperparameters() -> None:
    params, _ = problem()
    for name in OPTIMIZERS:
        plain = optimizer(name, 0.1).init(params)
        full = optimizer(name, 0.5, weight_decay=0.1, clip_norm=1.0, warmup_steps=3).init(params)
        assert jax.tree.structure(plain) == jax.tree.structure(full)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "lino"}, r"optimizer: expected one of .*'adamw'.*'lion'.*, got 'lino'"),
        ({"name": "lbfgs"}, r"optimizer: expected one of .*'adamw'.*, got 'lbfgs'"),
        ({"schedule": "step"}, r"schedule: expected one of .*'cosine'.*, got 'step'"),
        ({"schedule": "linear"}, r"total_steps: a linear schedule needs the length of training"),
        ({"schedule": lambda step, total: 1}, r"total_steps: a schedule of your own needs"),
        ({"schedule": "cosine"}, r"total_steps: a cosine schedule needs the length of training"),
        (
            {"schedule": "cosine", "warmup_steps": 5, "total_steps": 5},
            r"warmup_steps: expected fewer than the total_steps=5.*got 5",
        ),
    ],
)
def test_mistakes_are_explained(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimizer(**({"name": "sgd", "learning_rate": 0.1} | arguments))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_l1_adds_the_signs_of_kernels_alone(momentum: float) -> None:
    params, gradients = problem()
    made = optimizer("sgd", RATE, momentum=momentum, l1=DECAY)
    found = follow(made, params, gradients)
    kernel, velocity = params["kernel"], np.zeros_like(params["kernel"])
    for gradient in gradients:
        velocity = momentum * velocity + gradient["kernel"] + DECAY * np.sign(kernel)
        kernel = kernel - RATE * velocity
    np.testing.assert_allclose(found["kernel"], kernel, rtol=1e-12)
    bias = sgd(params["bias"], [gradient["bias"] for gradient in gradients], 0.0, momentum)
    np.testing.assert_allclose(found["bias"], bias, rtol=1e-12)


def test_l1_comes_after_clipping_and_may_be_traced() -> None:
    params, gradients = problem()

    @jax.jit
    def step(strength: Any) -> Any:
        made = optimizer("sgd", RATE, momentum=0.0, l1=strength, clip_norm=1e-3)
        updates: Any = made.update(gradients[0], made.init(params), params)[0]
        return updates["kernel"]

    push = step(100.0) - step(0.0)
    np.testing.assert_allclose(push, -RATE * 100.0 * np.sign(params["kernel"]), rtol=1e-9)


# Betas and epsilon, and optax's other optimizers.

MOMENTUM, B1, B2, EPS = 0.7, 0.8, 0.95, 1e-2


def traced(name: Any, schedule: str = "constant", **more: float) -> Callable[..., Any]:
    """Return ``(params, gradients) -> params`` of an optimizer whose hyperparameters are traced."""
    given = {"momentum": MOMENTUM, "beta1": B1, "beta2": B2, "epsilon": EPS, **more}

    @jax.jit
    def moved(hparams: dict[str, Any], params: Any, gradients: Any) -> Any:
        options = {"schedule": schedule, "total_steps": STEPS}
        return follow(optimizer(name, RATE, **hparams, **options), params, gradients)

    return lambda params, gradients: moved(given, params, gradients)


def l2(made: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(DECAY, mask=kernels), made)


DECOUPLED: dict[str, Any] = {"weight_decay": DECAY, "mask": kernels}
BY_HAND: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "adam": lambda rate: l2(optax.adam(rate, B1, B2, EPS)),
    "adamw": lambda rate: optax.adamw(rate, B1, B2, EPS, **DECOUPLED),
    "lion": lambda rate: optax.lion(rate, B1, B2, **DECOUPLED),
    "nadamw": lambda rate: optax.nadamw(rate, B1, B2, EPS, **DECOUPLED),
    "adagrad": lambda rate: l2(optax.adagrad(rate, eps=EPS)),
    "novograd": lambda rate: l2(optax.novograd(rate, B1, B2, EPS)),
    "adafactor": lambda rate: l2(optax.adafactor(rate, momentum=MOMENTUM, eps=EPS)),
    "muon": lambda rate: optax.contrib.muon(
        rate, eps=EPS, weight_decay=DECAY, weight_decay_mask=kernels
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_traced_hyperparameters_equal_those_given_to_optax_as_python_numbers(name: str) -> None:
    params, gradients = problem()
    expected = follow(BY_HAND[name](optax.linear_schedule(RATE, 0.0, STEPS)), params, gradients)
    found = traced(name, "linear", weight_decay=DECAY)(params, gradients)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-7)


def test_the_epsilon_of_rmsprop_is_that_of_optax() -> None:
    params, gradients = problem()
    plain = l2(optax.rmsprop(RATE, momentum=MOMENTUM, eps=EPS))
    found = traced("rmsprop", weight_decay=DECAY)(params, gradients)
    chex.assert_trees_all_close(found, follow(plain, params, gradients), rtol=1e-10, atol=1e-12)


def test_betas_of_adam_traced_in_float32_equal_the_equations_in_float64() -> None:
    params, gradients = problem()
    expected = adam(params["kernel"], [g["kernel"] for g in gradients], 0.0) - params["kernel"]
    with jax.enable_x64(False):
        zero, singles = np.zeros((4, 3), np.float32), [np.float32(g["kernel"]) for g in gradients]

        @jax.jit
        def moved(beta1: Any, beta2: Any, epsilon: Any) -> Any:
            made = optimizer("adam", RATE, beta1=beta1, beta2=beta2, epsilon=epsilon)
            return follow(made, zero, singles)

        found = moved(np.float32(0.9), np.float32(0.999), np.float32(1e-8))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_clipping_and_l1_come_before_any_optimizer() -> None:
    params, gradients = problem()
    found = traced("lion", clip_norm=0.5, l1=DECAY)(params, gradients)
    sparse = optax.masked(
        optax.stateless(lambda g, w: jax.tree.map(lambda g, w: g + DECAY * jnp.sign(w), g, w)),
        kernels,
    )
    plain = optax.lion(RATE, B1, B2, weight_decay=0.0)
    expected = follow(optax.chain(optax.clip_by_global_norm(0.5), sparse, plain), params, gradients)
    chex.assert_trees_all_close(found, expected, rtol=1e-10, atol=1e-12)


def test_optimizers_are_found_in_optax_but_none_that_needs_the_loss_or_other_params() -> None:
    found = set(optax_optimizers())
    assert found >= {"adabelief", "adafactor", "adan", "lamb", "lion", "nadam", "radam", "yogi"}
    assert found >= {"adopt", "ademamix", "muon", "prodigy"}, "of optax.contrib"
    needs_the_loss = {"lbfgs", "polyak_sgd", "momo", "momo_adam", "sophia"}
    other_params = {"schedule_free_adamw", "schedule_free_sgd"}
    no_schedule = {"sm3", "rprop"}
    no_optimizers = {"clip", "chain", "scale_by_adam", "scale_by_learning_rate", "dpsgd"}
    assert not found & (needs_the_loss | other_params | no_schedule | no_optimizers)


@pytest.mark.slow
def test_every_optimizer_of_optax_decays_kernels_alone_and_compiles_once() -> None:
    params, gradients = problem()
    gradients = [{**gradient, "bias": 0 * gradient["bias"]} for gradient in gradients]
    for name in optax_optimizers():
        traces = []

        @jax.jit
        def moved(decay: Any, name: str = name, traces: list[str] = traces) -> Any:
            traces.append(name)
            return follow(optimizer(name, RATE, weight_decay=decay), params, gradients)

        without, decayed = moved(0.0), moved(DECAY)
        assert len(traces) == 1, name
        np.testing.assert_array_equal(without["bias"], decayed["bias"], err_msg=name)
        assert np.any(without["kernel"] != decayed["kernel"]), name


def test_a_function_of_ones_own_is_an_optimizer_and_gets_what_it_takes() -> None:
    params, gradients = problem()

    def plain(learning_rate: Any) -> optax.GradientTransformation:
        return optax.sgd(learning_rate)

    found = traced(plain, weight_decay=DECAY)(params, gradients)
    expected = follow(l2(optax.sgd(RATE)), params, gradients)
    chex.assert_trees_all_close(found, expected, rtol=1e-10)

    def own(learning_rate: Any, *, b1: Any, weight_decay: Any, eps: Any = 1.0) -> Any:
        return optax.adamw(learning_rate, b1, 0.5, eps, weight_decay=weight_decay)

    found = traced(own, weight_decay=DECAY)(params, gradients)
    expected = follow(optax.adamw(RATE, B1, 0.5, EPS, weight_decay=DECAY), params, gradients)
    chex.assert_trees_all_close(found, expected, rtol=1e-10)


@pytest.mark.long
def test_no_peephole_initial_state_or_bias_is_a_kernel_whatever_axes_it_has() -> None:
    cell = convolutional_lstm((4, 4, 2), 3, kernel_size=3, peepholes=True)
    marked = kernels(learned_state(cell).init(jax.random.key(0)))
    assert not any(jax.tree.leaves(marked["state"]))
    assert marked["cell"]["gate"] == {"forget": False, "input": False, "output": False}
    assert marked["cell"]["input"] == {"bias": False, "kernel": True}
    assert marked["cell"]["recurrent"]["kernel"]
    wide = jnp.ones((2, 3))
    own = {"W": wide, "hidden_weight": wide, "bias": wide, "b_h": wide, "log_step": wide}
    assert kernels({**own, "layer_scale": wide}) == {
        **{"W": True, "hidden_weight": True, "bias": False, "b_h": False, "log_step": False},
        "layer_scale": False,
    }


def global_norm(tree: Any) -> Any:
    factor, size = scaled_norm(tree)
    return size / factor


@pytest.mark.long
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.fault("N3")
def test_a_norm_whose_squares_are_no_numbers_of_float32_is_clipped(size: float) -> None:
    gradients = {"a": jnp.float32([3 * size]), "b": jnp.float32([0.0, 4 * size])}
    np.testing.assert_allclose(global_norm(gradients), 5 * size, rtol=1e-6)
    clipped: Any = clip(0.5 * size).update(gradients, clip(0.5 * size).init(gradients))[0]
    np.testing.assert_allclose(clipped["b"], [0.0, 0.4 * size], rtol=1e-5)


def test_the_norm_of_what_is_not_finite_or_empty_is_as_in_numpy() -> None:
    assert global_norm({"a": jnp.float32([1.0, jnp.inf])}) == np.inf
    assert np.isnan(global_norm({"a": jnp.float32([1.0, jnp.nan])}))
    assert global_norm({"a": jnp.zeros((0, 3), jnp.float32), "b": jnp.zeros(2, jnp.float32)}) == 0


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("number", [float, jnp.float32, jnp.float64])
def test_narrow_params_take_the_steps_of_float32(name: str, dtype: Any, number: Any) -> None:
    """Whatever the types of the hyperparameters; the params alone are rounded after each step."""
    hparams = {"momentum": number(0.5), "weight_decay": number(0.1), "clip_norm": number(1)}
    params, gradients = problem()
    narrow = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, gradients))
    made = optimizer(name, number(RATE), **hparams)
    plain = optimizer(name, RATE, momentum=0.5, weight_decay=0.1, clip_norm=1.0)
    expected, state = jax.tree.map(jnp.float32, narrow[0]), None
    for gradient in narrow[1]:
        wide = jax.tree.map(jnp.float32, gradient)
        state = plain.init(expected) if state is None else state
        updates, state = plain.update(wide, state, expected)
        expected = optax.apply_updates(expected, updates)
        expected = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(jnp.float32), expected)
    found = follow(made, *narrow)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    unit = float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(jax.tree.map(jnp.float32, found), expected, atol=4 * unit)


def test_a_decay_of_zero_leaves_an_infinite_param_alone() -> None:
    params = {"kernel": jnp.array([[1.0, -jnp.inf]])}
    found = follow(
        optimizer("sgd", 0.5, weight_decay=jnp.zeros(())), params, [{"kernel": jnp.ones((1, 2))}]
    )
    assert found["kernel"].tolist() == [[0.5, -np.inf]]


@pytest.mark.parametrize("size", [1e37, 3e38])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.fault("N3")
def test_gradients_are_clipped_whose_norm_is_beyond_the_range(size: float, dtype: Any) -> None:
    """Four numbers of 3e38 have a norm of 6e38, of which float32 has no number."""
    gradients = {"a": jnp.full(2, size, dtype), "b": jnp.full(2, -size, dtype)}
    clipped: Any = jax.jit(lambda tree: clip(1.0).update(tree, optax.EmptyState())[0])(gradients)
    np.testing.assert_allclose(clipped["a"].astype(float), 0.5, rtol=0.01)
    np.testing.assert_allclose(clipped["b"].astype(float), -0.5, rtol=0.01)
    chex.assert_trees_all_equal(clip(0.0).update(gradients, optax.EmptyState())[0], gradients)


@pytest.mark.parametrize("size", [1e-300, 1e300, 1.5e308])
def test_a_norm_in_float64_may_be_beyond_its_range_too(size: float) -> None:
    factor, norm = scaled_norm(jnp.full(4, size))
    np.testing.assert_allclose(np.log2(norm) - np.log2(factor), np.log2(size) + 1, rtol=1e-14)


@pytest.mark.long
def test_a_matrix_with_the_name_of_a_gate_or_a_rate_is_a_kernel() -> None:
    square = jnp.ones((2, 2))
    names = ["input", "output", "forget", "rate", "input_kernel", "state_kernel", "scale_weight"]
    assert all(kernels(dict.fromkeys(names, square)).values())
    assert kernels({"layer": {"output": square}}) == {"layer": {"output": True}}
    decayed = optimizer("adamw", 0.1, weight_decay=0.5)
    params = dict.fromkeys(names, square)
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates: Any = decayed.update(nothing, decayed.init(params), params)[0]
    for name in names:
        np.testing.assert_allclose(updates[name], -0.05, rtol=1e-6, err_msg=name)
