"""Run PyTorch: `torch.nn.LSTM`, `GRU` and `RNN`, time-major, by oneDNN on a CPU, cuDNN on a GPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.bench.cases import LEARNING_RATE, Case
from experiments.bench.program import Arrays, Program
from experiments.bench.weights import WAYS, Weights, as_moments, named

CELLS = ("lstm", "gru", "elman")
_ENDING = {"forward": "", "backward": "_reverse"}


def device() -> str:
    """Return where to run: on a GPU if JAX does.

    Raises:
      RuntimeError: if JAX has a GPU and this torch was built without CUDA.
    """
    import jax

    if jax.default_backend() != "gpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise RuntimeError("this torch has no CUDA, and JAX runs on a GPU")
    return "cuda"


def placed(array: Any) -> torch.Tensor:
    """Return an array as a tensor of its type where the network runs."""
    narrow = array.dtype not in (np.float32, np.float64)
    tensor = torch.tensor(array.astype(np.float32) if narrow else array)
    return tensor.to(device(), torch.bfloat16 if narrow else tensor.dtype)


def finished(run: Callable[[], Any]) -> Callable[[], Any]:
    """Return a function that runs another and waits until the GPU has finished."""
    if device() == "cpu":
        return run

    def waiting() -> Any:
        result = run()
        torch.cuda.synchronize()
        return result

    return waiting


def array_of(tensor: Any) -> np.ndarray:
    """Return a tensor as a NumPy array, that of bfloat16 as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def build(case: Case, weights: Weights) -> torch.nn.Module:
    """Build the module with the given weights; b is its first bias, b_n part of its second."""
    made = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[case.cell]
    layers, both = len(case.input_sizes), len(case.ways) == 2
    module = made(case.shape.inputs, case.shape.hidden, layers, bidirectional=both)
    module = module.to(placed(weights[0]["forward"]["b"]))
    arrays: dict[str, Any] = {}
    for k, layer in enumerate(weights):
        for way, w in layer.items():
            cell = {f"{name}_l{k}{_ENDING[way]}": array for name, array in _tensors(w).items()}
            arrays |= cell
    module.load_state_dict({name: placed(array) for name, array in arrays.items()})
    return module


def program(module: Any, xs: np.ndarray, measure: str) -> Program:
    """Build the program of one measurement, on inputs ``[T, B, I]``."""
    return {"forward": forward, "backward": backward, "adam": adam}[measure](module, xs)


def forward(module: Any, xs: np.ndarray) -> Program:
    """Build the program that computes all outputs, in inference mode."""
    inputs = placed(xs)

    def run() -> Any:
        with torch.inference_mode():
            return module(inputs)[0]

    return Program(finished(run), lambda ys: {"outputs": array_of(ys)})


def backward(module: Any, xs: np.ndarray) -> Program:
    """Build the program of the loss and its gradients with respect to parameters and inputs."""
    inputs = placed(xs).requires_grad_()
    names, params = zip(*module.named_parameters(), strict=True)

    def run() -> Any:
        loss = module(inputs)[0].square().sum()
        return loss.detach(), torch.autograd.grad(loss, [inputs, *params])

    def arrays(result: Any) -> Arrays:
        loss, (d_inputs, *gradients) = result
        tensors = dict(zip(names, gradients, strict=True))
        d_weights = named(_weights(tensors))
        return {"loss": array_of(loss), "inputs": array_of(d_inputs), **d_weights}

    return Program(finished(run), arrays)


def adam(module: Any, xs: np.ndarray) -> Program:
    """Build the program of one training step: loss, gradients of the parameters, fused Adam."""
    inputs = placed(xs)
    optimizer = torch.optim.Adam(module.parameters(), LEARNING_RATE, fused=True)
    before = {name: param.detach().clone() for name, param in module.named_parameters()}

    def run() -> Any:
        optimizer.zero_grad()
        loss = module(inputs)[0].square().sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def arrays(loss: Any) -> Arrays:
        after = {name: param.detach() for name, param in module.named_parameters()}
        change = {name: after[name] - before[name] for name in before}
        average = {n: optimizer.state[p]["exp_avg"] for n, p in module.named_parameters()}
        moments = as_moments(named(_weights(average)))
        return {"loss": array_of(loss), **named(_weights(change)), **moments}

    return Program(finished(run), arrays)


def _tensors(w: dict[str, Any]) -> dict[str, Any]:
    b_h = np.zeros_like(w["b"])
    if "b_n" in w:
        b_h[-len(w["b_n"]) :] = w["b_n"]
    kernels = {"weight_ih": w["w_x"].T.copy(), "weight_hh": w["w_h"].T.copy()}
    return kernels | {"bias_ih": w["b"], "bias_hh": b_h}


def _weights(tensors: dict[str, Any]) -> Weights:
    count = sum(name.startswith("weight_ih") for name in tensors)
    ways = [way for way in WAYS if f"weight_ih_l0{_ENDING[way]}" in tensors]
    return [
        {way: _arrays(tensors, f"_l{k}{_ENDING[way]}") for way in ways}
        for k in range(count // len(ways))
    ]


def _arrays(tensors: dict[str, Any], ending: str) -> dict[str, Any]:
    w_x, w_h, b, b_h = (
        array_of(tensors[name + ending])
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    arrays = {"w_x": w_x.T, "w_h": w_h.T, "b": b}
    is_gru = len(b) == 3 * w_h.shape[1]
    return arrays | ({"b_n": np.split(b_h, 3)[2]} if is_gru else {})
