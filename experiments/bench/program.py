"""A program to time, and how the three measurements are made of a network in JAX."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.bench.cases import LEARNING_RATE
from experiments.bench.weights import WAYS, Weights, as_moments, named

Arrays = dict[str, np.ndarray]
Place = Callable[[Any, np.ndarray], tuple[Any, Any]]
Differentiate = Callable[..., Callable[..., Any]]

# Of a processor with AVX-512 XLA uses half the width, unless it is told otherwise: a tenth of the
# time. It is told so for all that runs on JAX.
XLA_OPTIONS: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}


class Program(NamedTuple):
    """One measurement of one library.

    Attributes:
      run: a call, from start to finished results.
      arrays: from what ``run`` returned to NumPy arrays by the names of `reference.expected`.
      compile_seconds: to trace and compile it; None where nothing is compiled.
      planned_bytes: XLA's own plan of memory; None where there is none.
    """

    run: Callable[[], Any]
    arrays: Callable[[Any], Arrays]
    compile_seconds: float | None = None
    planned_bytes: int | None = None


class Network(NamedTuple):
    """A network of a library that runs on JAX, as a pure function.

    Attributes:
      apply: ``(params, xs) -> ys``, both ``[T, B, features]`` unless ``batch_major``.
      params: in the library's own form.
      weights: from a gradient in that form to one in that of `experiments.bench.weights`.
      batch_major: whether sequences are ``[B, T, features]`` to it.
    """

    apply: Callable[[Any, Any], Any]
    params: Any
    weights: Callable[[Any], Weights]
    batch_major: bool = False


def layered(layer: Callable[[Any, Any, bool], Any]) -> Callable[[Any, Any], Any]:
    """The ``apply`` of a network from ``layer(params, xs, backwards) -> ys``."""
    import jax.numpy as jnp

    def apply(params: Any, xs: Any) -> Any:
        for ways in params:
            ys = [layer(ways[way], xs, way == "backward") for way in WAYS if way in ways]
            xs = ys[0] if len(ys) == 1 else jnp.concatenate(ys, axis=-1)
        return xs

    return apply


def jax_program(
    network: Network,
    xs: np.ndarray,
    measure: str,
    place: Place | None = None,
    differentiate: Differentiate | None = None,
) -> Program:
    """A measurement of a network on inputs ``[T, B, I]``.

    Args:
      network: what is measured.
      xs: its inputs.
      measure: forward, backward or adam.
      place: lays params and inputs on devices; on the first by default.
      differentiate: used like `jax.value_and_grad`, which it is by default.
    """
    import jax

    params, batch = (place or _on_one_device)(network.params, _turned(network, xs))
    network = network._replace(params=params)
    if measure == "forward":
        return forward(network, batch)
    made = {"backward": backward, "adam": adam}[measure]
    return made(network, batch, differentiate or jax.value_and_grad)


def _on_one_device(params: Any, xs: np.ndarray) -> tuple[Any, Any]:
    import jax
    import jax.numpy as jnp

    return jax.tree.map(jnp.asarray, params), jnp.asarray(xs)


def forward(network: Network, xs: Any) -> Program:
    """All outputs."""
    executable, facts = compiled(network.apply, network.params, xs)
    return Program(
        _ready(executable, network.params, xs),
        lambda ys: {"outputs": _turned(network, ys)},
        *facts,
    )


def backward(network: Network, xs: Any, differentiate: Differentiate) -> Program:
    """The loss and its gradient by params and inputs."""
    both = differentiate(_loss(network), argnums=(0, 1))
    executable, facts = compiled(both, network.params, xs)

    def arrays(result: Any) -> Arrays:
        loss, (d_params, d_xs) = result
        named_arrays = named(network.weights(d_params))
        return {"loss": np.asarray(loss), "inputs": _turned(network, d_xs), **named_arrays}

    return Program(_ready(executable, network.params, xs), arrays, *facts)


def adam(network: Network, xs: Any, differentiate: Differentiate) -> Program:
    """The loss, its gradient by params, and a step of Adam, which may overwrite the old params."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(LEARNING_RATE)
    both = differentiate(_loss(network))

    def step(params: Any, moments: Any, xs: Any) -> Any:
        loss, gradient = both(params, xs)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    before = network.params
    params = jax.tree.map(jnp.array, before)  # a copy, since it is donated
    state = params, jax.jit(optimizer.init)(params)
    executable, facts = compiled(step, *state, xs, donated=(0, 1))

    def run() -> Any:
        nonlocal state
        *state, loss = jax.block_until_ready(executable(*state, xs))
        return *state, loss

    def arrays(result: Any) -> Arrays:
        params, (adam, *_), loss = result
        change = named(network.weights(jax.tree.map(jnp.subtract, params, before)))
        moment = named(network.weights(adam.mu))
        return {"loss": np.asarray(loss), **change, **as_moments(moment)}

    return Program(run, arrays, *facts)


def compiled(
    function: Callable[..., Any], *arguments: Any, donated: tuple[int, ...] = ()
) -> tuple[Callable[..., Any], tuple[float, int | None]]:
    """The compiled function, and the seconds that took with the bytes that it plans to use."""
    import jax

    began = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=donated).lower(*arguments)
    executable = lowered.compile(compiler_options=XLA_OPTIONS)
    seconds = time.perf_counter() - began
    plan: Any = executable.memory_analysis()
    if plan is None:
        return executable, (seconds, None)
    planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    devices = len(jax.tree.leaves(arguments)[0].devices())  # the plan is of one of them
    return executable, (seconds, devices * (planned - plan.alias_size_in_bytes))


def _ready(executable: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    import jax

    return lambda: jax.block_until_ready(executable(*arguments))


def _loss(network: Network) -> Callable[[Any, Any], Any]:
    import jax.numpy as jnp

    return lambda params, xs: jnp.square(network.apply(params, xs)).sum()


def _turned(network: Network, xs: Any) -> np.ndarray:
    """From time-major to the network's order of axes, or back."""
    xs = np.asarray(xs)
    return np.ascontiguousarray(xs.swapaxes(0, 1)) if network.batch_major else xs
