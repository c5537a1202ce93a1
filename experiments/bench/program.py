"""Build the programs to time: the three measurements of a network in JAX."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.bench.cases import LEARNING_RATE
from experiments.bench.weights import WAYS, Weights, as_moments, named

Arrays = dict[str, np.ndarray]
Place = Callable[[Any, np.ndarray], tuple[Any, Any]]
Differentiate = Callable[..., Callable[..., Any]]

# By default XLA uses only half the vector width of a processor with AVX-512, which costs a tenth of
# the time. The options are set for every library that runs on JAX, by platform.
XLA_OPTIONS: dict[str, dict[str, str | bool]] = {"cpu": {"xla_cpu_prefer_vector_width": "512"}}


class Program(NamedTuple):
    """Hold one measurement of one library, ready to run.

    Attributes:
      run: makes one call and waits for its results.
      arrays: converts what ``run`` returned to NumPy arrays with the names of `reference.expected`.
      compile_seconds: the time to trace and compile it; None if nothing is compiled.
      planned_bytes: the memory that XLA plans to use; None if there is no plan.
    """

    run: Callable[[], Any]
    arrays: Callable[[Any], Arrays]
    compile_seconds: float | None = None
    planned_bytes: int | None = None


class Network(NamedTuple):
    """Describe a network of a library on JAX as a pure function.

    Attributes:
      apply: ``(params, xs) -> ys``; xs and ys are ``[T, B, features]`` unless ``batch_major``.
      params: the parameters in the library's own form.
      weights: converts parameters or gradients from the library's form to that of
        `experiments.bench.weights`.
      batch_major: whether the library's sequences are ``[B, T, features]``.
    """

    apply: Callable[[Any, Any], Any]
    params: Any
    weights: Callable[[Any], Weights]
    batch_major: bool = False


def layered(layer: Callable[[Any, Any, bool], Any]) -> Callable[[Any, Any], Any]:
    """Build the ``apply`` of a `Network` from one layer in one direction.

    Args:
      layer: ``(params, xs, backwards) -> ys``, with xs ``[T, B, I]`` and ys ``[T, B, H]``, or both
        batch-major.
    """
    import jax.numpy as jnp

    def apply(params: Any, xs: Any) -> Any:
        for ways in params:
            ys = [layer(ways[way], xs, way == "backward") for way in WAYS if way in ways]
            xs = ys[0] if len(ys) == 1 else jnp.concatenate(ys, axis=-1)  # [..., H] or [..., 2 H]
        return xs

    return apply


def jax_program(
    network: Network,
    xs: np.ndarray,
    measure: str,
    place: Place | None = None,
    differentiate: Differentiate | None = None,
) -> Program:
    """Build the program of one measurement of a network.

    Args:
      network: the network to measure.
      xs: its inputs ``[T, B, I]``.
      measure: forward, backward or adam.
      place: puts parameters and inputs on devices; on the first device by default.
      differentiate: called like `jax.value_and_grad`, which is the default.
    """
    import jax

    params, batch = (place or _on_one_device)(network.params, _swap_axes(network, xs))
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
    """Build the program that computes all outputs."""
    executable, facts = compiled(network.apply, network.params, xs)
    return Program(
        _ready(executable, network.params, xs),
        lambda ys: {"outputs": _swap_axes(network, ys)},
        *facts,
    )


def backward(network: Network, xs: Any, differentiate: Differentiate) -> Program:
    """Build the program of the loss and its gradients with respect to parameters and inputs."""
    both = differentiate(_loss(network), argnums=(0, 1))
    executable, facts = compiled(both, network.params, xs)

    def arrays(result: Any) -> Arrays:
        loss, (d_params, d_xs) = result
        named_arrays = named(network.weights(d_params))
        return {"loss": np.asarray(loss), "inputs": _swap_axes(network, d_xs), **named_arrays}

    return Program(_ready(executable, network.params, xs), arrays, *facts)


def adam(network: Network, xs: Any, differentiate: Differentiate) -> Program:
    """Build the program of one training step: loss, gradients of the parameters, Adam.

    The parameters and Adam's state are donated, so each step may overwrite the previous ones.
    """
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
    """Compile a function for some arguments.

    Args:
      function: the function to compile.
      *arguments: the arguments, of which shapes, dtypes and devices count.
      donated: the positions of the arguments whose memory may be reused for the results.

    Returns:
      The compiled function, and a pair of the seconds to trace and compile it and the bytes that
      XLA plans to use on all devices, or None if there is no plan.
    """
    import jax

    began = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=donated).lower(*arguments)
    executable = lowered.compile(compiler_options=XLA_OPTIONS.get(jax.default_backend()))
    seconds = time.perf_counter() - began
    plan: Any = executable.memory_analysis()
    if plan is None:
        return executable, (seconds, None)
    planned = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    devices = len(jax.tree.leaves(arguments)[0].devices())  # the plan is for one device
    return executable, (seconds, devices * (planned - plan.alias_size_in_bytes))


def _ready(executable: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    import jax

    return lambda: jax.block_until_ready(executable(*arguments))


def _loss(network: Network) -> Callable[[Any, Any], Any]:
    import jax.numpy as jnp

    return lambda params, xs: jnp.square(network.apply(params, xs)).sum()


def _swap_axes(network: Network, xs: Any) -> np.ndarray:
    """Swap the first two axes if the network is batch-major, which undoes itself."""
    xs = np.asarray(xs)
    # [T, B, D] <-> [B, T, D]
    return np.ascontiguousarray(xs.swapaxes(0, 1)) if network.batch_major else xs
