"""Guard the speed of training by counting operations; only one test reads a clock."""

import dataclasses
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from experiments import sequential_digits
from experiments.harness.config import hparams_of
from recurrent import Cell, elman, gru, lstm, unroll
from recurrent.training import minibatch_task, optimizer
from tests.recurrent.cases import (
    BATCH,
    CELLS,
    HIDDEN,
    INPUT,
    PARAMETERS,
    random_like,
    to_dtype,
    values_and_gradients,
)
from tests.recurrent.traces import (
    compiled_loops,
    copies_in_compiled_loops,
    equations,
    inside,
    is_scan,
    loops,
    operations,
    products_in_compiled_loops,
    turned_products_in_compiled_loops,
)

on_a_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="reads XLA's CPU code")
HEAVY = {
    *("flax", "orbax", "tensorstore", "tensorboardX", "matplotlib", "sklearn", "scipy", "pandas"),
    *("torch", "keras", "tensorflow", "chex", "jinja2"),
}


def gradient_of(cell: Cell, **options: Any) -> Callable[..., Any]:
    """Return the gradient of the squared outputs with respect to params and inputs."""

    def loss(params: Any, xs: Any) -> Any:
        return (unroll(cell, params, xs, **options)[1] ** 2).sum()

    return jax.grad(loss, argnums=(0, 1))


def given(cell: Cell, steps: int, batch: int = BATCH) -> tuple[Any, Any]:
    xs = np.random.default_rng(0).normal(size=(steps, batch, *cell.input_shape))
    return cell.init(jax.random.key(0)), jnp.asarray(xs, jnp.float32)


# The work of one gradient.


@pytest.mark.long
@pytest.mark.parametrize("name", PARAMETERS)
def test_no_loop_carries_the_gradient_of_a_kernel(name: str) -> None:
    """Require the sum over steps to be one product after the loop, not a carry of every step."""
    cell = CELLS[name](INPUT, HIDDEN)
    params, xs = given(cell, 9)
    kernels = {leaf.shape for leaf in jax.tree.leaves(params) if leaf.ndim > 1}
    found = loops(gradient_of(cell), params, xs)
    assert not [loop.carried for loop in found if kernels & set(loop.carried)]


def test_a_plain_scan_carries_the_gradients_of_its_kernels() -> None:
    """Show that `test_no_loop_carries_the_gradient_of_a_kernel` can fail."""
    params, xs = given(lstm(INPUT, HIDDEN), 9)
    found = loops(gradient_of(lstm(INPUT, HIDDEN), method="scan"), params, xs)
    carried = {shape for each in found for shape in each.carried}
    assert {(INPUT, 4 * HIDDEN), (HIDDEN, 4 * HIDDEN)} <= carried


@pytest.mark.long
@pytest.mark.optimized
@on_a_cpu
def test_a_short_sequence_does_not_wait_for_kernels_to_be_joined() -> None:
    params, xs = given(lstm(32, 128), 31, batch=4)
    assert products_in_compiled_loops(gradient_of(lstm(32, 128)), params, xs) == [2, 1]


@pytest.mark.long
@pytest.mark.optimized
@on_a_cpu
@pytest.mark.parametrize("factory", [elman, lstm, gru])
@pytest.mark.parametrize("batch", [8, 16])
def test_a_compiled_step_does_one_product_forward_and_one_backward(
    factory: Any, batch: int
) -> None:
    """Count products: of x and h at once forward, or of h alone, and of h backward; a plain scan
    has two, and adds x and both kernels."""
    cell = factory(32, 128)
    params, xs = given(cell, 50, batch=batch)
    assert products_in_compiled_loops(gradient_of(cell), params, xs) == [1, 1]
    assert products_in_compiled_loops(gradient_of(cell, method="scan"), params, xs) == [2, 4]


@pytest.mark.long
@pytest.mark.optimized
@on_a_cpu
@pytest.mark.parametrize(("factory", "columns"), [(lstm, 512), (elman, 128)])
@pytest.mark.parametrize(
    ("inputs", "batch", "steps", "inside"),
    [(48, 1, 50, False), (48, 16, 50, False), (47, 16, 50, True), (48, 16, None, True)],
)
def test_a_tall_input_kernel_is_multiplied_before_the_loop_for_short_sequences(
    inputs: int, batch: int, steps: int | None, inside: bool, factory: Any, columns: int
) -> None:
    """Require no product by it in a step, which is by both kernels together otherwise. Without a
    number of steps they are just too many."""
    cell = factory(inputs, 128)
    params, xs = given(cell, steps or 2**22 // (batch * columns) + 1, batch)
    forward, _ = compiled_loops(gradient_of(cell), params, xs)
    assert len(re.findall(r" dot\(", forward)) == 1
    assert (f"[{inputs + 128},{columns}]" in forward) == inside


@pytest.mark.long
@pytest.mark.optimized
@on_a_cpu
@pytest.mark.parametrize("factory", [elman, lstm, gru])
@pytest.mark.parametrize("members", [0, 3])
def test_a_compiled_step_multiplies_by_no_transposed_kernel(factory: Any, members: int) -> None:
    """Avoid products by a transposed kernel, several times slower than by one transposed before."""
    cell = factory(32, 64)
    params, xs = given(cell, 50, batch=2)

    def turned(**options: Any) -> list[int]:
        gradient = gradient_of(cell, **options)
        if not members:
            return turned_products_in_compiled_loops(gradient, params, xs)
        several = jax.tree.map(lambda leaf: jnp.stack([leaf] * members), params)
        each = jax.vmap(gradient, in_axes=(0, None))
        return turned_products_in_compiled_loops(each, several, xs)

    assert turned() == [0, 0]
    assert turned(method="scan")[1] > 0


@pytest.mark.long
@pytest.mark.parametrize(("hidden", "turns"), [(64, True), (936, True), (960, False)])
def test_for_a_single_row_the_backward_loop_transposes_only_small_kernels(
    hidden: int, turns: bool
) -> None:
    """Prefer the product along the kernel's rows, faster for one row while the kernel is cached."""
    cell = lstm(16, hidden)
    params, xs = given(cell, 3, batch=1)
    *_, backward = filter(is_scan, equations(gradient_of(cell), params, xs))
    names = {equation.primitive.name for equation in inside(backward.params["jaxpr"].jaxpr)}
    assert ("transpose" in names) == turns


@pytest.mark.long
@pytest.mark.optimized
@on_a_cpu
@pytest.mark.parametrize(
    ("factory", "steps", "batch", "inputs", "hidden"),
    [(lstm, 100, 16, 256, 128), (gru, 100, 16, 256, 128), (lstm, 500, 1, 64, 128)],
)
def test_multiplying_inputs_before_the_loop_takes_less_memory_than_a_plain_scan(
    factory: Any, steps: int, batch: int, inputs: int, hidden: int
) -> None:
    """Reuse the result of the product before the loop for the values stored at each step."""
    cell = factory(inputs, hidden)
    params, xs = given(cell, steps, batch)

    def planned(**options: Any) -> int:
        compiled = jax.jit(gradient_of(cell, **options)).lower(params, xs).compile()
        plan: Any = compiled.memory_analysis()
        return plan.temp_size_in_bytes

    assert planned() < planned(method="scan")


@pytest.mark.long
@pytest.mark.optimized
@pytest.mark.parametrize("factory", [elman, lstm, gru, partial(gru, reset="before")])
@pytest.mark.parametrize("batch", [(), (1,), (1, 1), (3,)])
def test_multiplying_inputs_before_the_loop_gives_the_same_values_and_gradients(
    factory: Any, batch: tuple[int, ...]
) -> None:
    with jax.enable_x64(True):
        cell = factory(192, 64)
        params = to_dtype(cell.init(jax.random.key(0)), jnp.float64)
        xs = random_like(jnp.zeros((5, *batch, 192)))
        none = jnp.zeros((5, *batch), bool)
        flags = {"mask": ~none.at[1].set(True), "reset": none.at[3].set(True)}
        runs = [
            partial(unroll, cell, **flags, reverse=True, method=method)
            for method in ("auto", "scan")
        ]
        outputs, right = (jax.jit(partial(values_and_gradients, run))(params, xs) for run in runs)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), outputs, right)


@pytest.mark.long
@pytest.mark.optimized
@on_a_cpu
@pytest.mark.parametrize("factory", [elman, lstm, gru])
def test_inputs_multiplied_before_the_loop_are_not_copied_in_a_step(factory: Any) -> None:
    cell = factory(128, 64)
    params, xs = given(cell, 37, batch=1)
    gradient = gradient_of(cell)

    def penalty(params: Any, xs: Any) -> Any:
        return (gradient(params, xs)[1] ** 2).sum()

    for function in (gradient, jax.grad(penalty)):
        assert copies_in_compiled_loops(37, function, params, xs) == []


@pytest.mark.long
@pytest.mark.optimized
@on_a_cpu
@pytest.mark.parametrize("name", ["lstm", "gru", "own_gate", "lstm_peepholes", "layer_norm_gru"])
def test_no_compiled_step_copies_an_array_of_all_steps(name: str) -> None:
    """Forbid copies, which make the time quadratic in the number of steps.

    XLA copies an array that is written to before its last reader.
    """
    cell = CELLS[name](INPUT, HIDDEN)
    params, xs = given(cell, 37)
    flags = jnp.ones((37, BATCH), bool)
    gradient = gradient_of(cell, mask=flags, reset=flags)
    assert copies_in_compiled_loops(37, gradient, params, xs) == []


@pytest.mark.long
@pytest.mark.optimized
@on_a_cpu
@pytest.mark.parametrize("name", ["lstm", "gru", "own_gate"])
def test_no_compiled_step_of_a_second_derivative_copies_an_array_of_all_steps(name: str) -> None:
    cell = CELLS[name](INPUT, HIDDEN)
    params, xs = given(cell, 37)

    def penalty(params: Any, xs: Any) -> Any:
        return (gradient_of(cell)(params, xs)[1] ** 2).sum()

    assert copies_in_compiled_loops(37, jax.grad(penalty), params, xs) == []


@on_a_cpu
def test_the_guard_against_copies_finds_a_copy_of_all_steps() -> None:
    """Show that the tests of `copies_in_compiled_loops` can fail."""

    def shifted(stack: Any) -> Any:
        def body(stack: Any, k: Any) -> Any:
            return stack.at[k].set(stack[::-1].cumsum(0)[k] + 1), stack.sum()

        return lax.scan(body, stack, jnp.arange(37))

    assert copies_in_compiled_loops(37, shifted, jnp.ones((37, 3)))


@pytest.mark.long
@pytest.mark.parametrize("name", PARAMETERS)
def test_floating_point_operations_grow_linearly_with_time(name: str) -> None:
    """Count the operations of forward and backward pass with XLA."""
    cell = CELLS[name](INPUT, HIDDEN)
    longer = 16 if name == "mlstm_heads" else 1  # longer than a chunk, whose work is quadratic
    few, more, most = (
        operations(gradient_of(cell), *given(cell, steps * longer)) for steps in (8, 16, 32)
    )
    assert 1.75 < (most - more) / (more - few) < 2.25


@pytest.mark.parametrize("factory", [elman, lstm, gru])
def test_an_array_overwritten_by_a_loop_is_not_differentiated(factory: Any) -> None:
    """Keep a second derivative from adding to an array of all steps in each step."""
    cell = factory(64, 3)
    params, xs = given(cell, 37, batch=1)

    def penalty(params: Any, xs: Any) -> Any:
        return (gradient_of(cell)(params, xs)[1] ** 2).sum()

    def of_all_steps(function: Any) -> list[Any]:
        found = [shape for loop in loops(function, params, xs) for shape in loop.carried]
        return sorted(shape for shape in found if shape and shape[0] == 37)

    once = of_all_steps(gradient_of(cell))
    assert once
    assert of_all_steps(jax.grad(penalty)) == once


@pytest.mark.long
@on_a_cpu
def test_the_guard_of_linear_work_finds_quadratic_work() -> None:
    def gradient(xs: Any) -> Any:
        def loss(xs: Any) -> Any:
            return lax.scan(lambda total, x: (total + jnp.tanh(xs @ x).sum(), None), 0.0, xs)[0]

        return jax.grad(loss)(xs)

    few, more, most = (operations(gradient, jnp.ones((steps, 3))) for steps in (8, 16, 32))
    assert 3.5 < (most - more) / (more - few) < 4.5


@pytest.mark.long
@pytest.mark.optimized
def test_eight_times_the_steps_take_less_than_twenty_times_as_long() -> None:
    """Compare the shortest of several alternating runs; quadratic time would be a factor of 64."""
    cell = lstm(8, 32)
    arguments = [given(cell, steps, batch=8) for steps in (256, 8 * 256)]
    gradient = jax.jit(gradient_of(cell))

    def seconds(args: Any) -> float:
        begun = time.perf_counter()
        jax.block_until_ready(gradient(*args))
        return time.perf_counter() - begun

    for args in arguments:
        seconds(args)
    short, long = zip(*([seconds(args) for args in arguments] for _ in range(7)), strict=True)
    assert min(long) < 20 * min(short)


@pytest.mark.long
@pytest.mark.optimized
def test_remat_takes_a_tenth_of_the_memory_of_sixteen_thousand_steps() -> None:
    cell = lstm(8, 32)
    shapes = jax.eval_shape(lambda: given(cell, 16_384))

    def planned(remat: int | None) -> int:
        def loss(params: Any, xs: Any) -> Any:
            return unroll(cell, params, xs, remat=remat)[0].hidden.sum()

        plan: Any = jax.jit(jax.grad(loss)).lower(*shapes).compile().memory_analysis()
        return plan.temp_size_in_bytes

    states = 4 * 16_384 * BATCH * 2 * 32  # bytes
    assert planned(None) > states
    assert planned(128) < planned(None) / 10


# Training.


def regression() -> tuple[Any, Any, Any]:
    """Return init, loss and data of an LSTM that learns the mean of its inputs."""
    cell = lstm(3, 16)

    def loss(params: Any, batch: Any, key: Any, hparams: Any) -> Any:
        state, _ = unroll(cell, params, batch["xs"].swapaxes(0, 1))
        errors = state.hidden[:, :3] - batch["xs"].mean(axis=1)
        return (errors**2).mean(), {}

    xs = np.random.default_rng(0).normal(size=(32, 5, 3)).astype(np.float32)
    return cell.init, loss, {"xs": jnp.asarray(xs)}


@pytest.mark.long
@pytest.mark.optimized
def test_training_steps_reuse_the_memory_of_the_donated_state() -> None:
    init, loss, data = regression()
    task = minibatch_task(
        init, loss, lambda *_: {}, lambda hparams: optimizer("adam", 1e-3), batch_size=8
    )
    state = task.init({"seed": 0})

    def run(state: Any, data: Any) -> Any:
        return task.train(state, {}, data, 4)

    compiled = jax.jit(run, donate_argnums=0).lower(state, data).compile()
    plan: Any = compiled.memory_analysis()
    kept = jax.tree.leaves((state.params, state.opt_state))
    assert plan.alias_size_in_bytes >= sum(leaf.nbytes for leaf in kept)
    after, _ = compiled(state, data)
    assert all(leaf.is_deleted() for leaf in kept)
    assert int(after.step) == 4


@pytest.mark.long
def test_a_sweep_over_all_traced_fields_compiles_an_experiment_once() -> None:
    config = sequential_digits.Config(hidden_size=3, batch_size=8, warmup_epochs=0)
    program = sequential_digits.program(config)
    traces = []

    def train(state: Any, hparams: Any, data: Any) -> Any:
        traces.append(hparams)
        return program.task.train(state, hparams, data, 1)

    run: Any = jax.jit(train)

    def head(**changes: Any) -> np.ndarray:
        changed = hparams_of(dataclasses.replace(config, **changes))
        hparams = {name: value[0] for name, value in changed.items()}
        state, _ = run(jax.jit(program.task.init)(hparams), hparams, program.data["train"])
        return np.asarray(state.params["head"]["kernel"])

    moves = head(learning_rate=0.3) - head(learning_rate=0.1)
    for name in hparams_of(config):
        head(**{name: 3 if name == "seed" else 0.5})
    assert len(traces) == run._cache_size() == 1
    # The first step of Adam is as long as the learning rate, whatever the gradient.
    np.testing.assert_allclose(np.abs(moves).max(), 0.2, rtol=1e-2)


@pytest.mark.long
@pytest.mark.parametrize("name", ["lstm", "griffin"])
def test_a_classifier_computes_logits_of_the_last_step_only(name: str) -> None:
    steps, batch = 8, 3
    cell = CELLS[name](8, HIDDEN)
    model = sequential_digits.sequence_classifier(cell, sequential_digits.reader("row", (steps, 8)))
    params, images = model.init(jax.random.key(0)), jnp.ones((batch, steps, 8))

    def loss(params: Any) -> Any:
        return (model.logits(params, images, 0.2, jax.random.key(1)) ** 2).sum()

    made = {leaf.aval.shape for each in equations(jax.grad(loss), params) for leaf in each.outvars}
    assert (batch, 10) in made
    assert not [shape for shape in made if len(shape) > 2 and shape[-1] == 10]


# Imports.


@pytest.mark.long
@pytest.mark.parametrize(
    ("module", "light"), [("recurrent", {"jax", "optax"}), ("experiments.__main__", set())]
)
def test_importing_a_package_loads_no_heavy_dependencies(module: str, light: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert light <= loaded
    assert not loaded & HEAVY
    assert "jax" in light or "jax" not in loaded
