"""Run PyTorch: `torch.nn.LSTM` (by oneDNN on a CPU), `GRU` and `RNN`, time-major."""

from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

from experiments.bench.cases import LEARNING_RATE, Case
from experiments.bench.program import Arrays, Program
from experiments.bench.weights import WAYS, Weights, as_moments, named

CELLS = ("lstm", "gru", "elman")
_ENDING = {"forward": "", "backward": "_reverse"}


def build(case: Case, weights: Weights) -> torch.nn.Module:
    """Build the module with the given weights; b is its first bias, b_n part of its second."""
    made = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[case.cell]
    layers, both = len(case.input_sizes), len(case.ways) == 2
    module = made(case.shape.inputs, case.shape.hidden, layers, bidirectional=both)
    arrays: dict[str, Any] = {}
    for k, layer in enumerate(weights):
        for way, w in layer.items():
            cell = {f"{name}_l{k}{_ENDING[way]}": array for name, array in _tensors(w).items()}
            arrays |= cell
    module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return module


def program(module: Any, xs: np.ndarray, measure: str) -> Program:
    """Build the program of one measurement, on inputs ``[T, B, I]``."""
    return {"forward": forward, "backward": backward, "adam": adam}[measure](module, xs)


def forward(module: Any, xs: np.ndarray) -> Program:
    """Build the program that computes all outputs, in inference mode."""
    inputs = torch.tensor(xs)

    def run() -> Any:
        with torch.inference_mode():
            return module(inputs)[0]

    return Program(run, lambda ys: {"outputs": ys.numpy()})


def backward(module: Any, xs: np.ndarray) -> Program:
    """Build the program of the loss and its gradients with respect to parameters and inputs."""
    inputs = torch.tensor(xs, requires_grad=True)
    names, params = zip(*module.named_parameters(), strict=True)

    def run() -> Any:
        loss = module(inputs)[0].square().sum()
        return loss.detach(), torch.autograd.grad(loss, [inputs, *params])

    def arrays(result: Any) -> Arrays:
        loss, (d_inputs, *gradients) = result
        tensors = dict(zip(names, gradients, strict=True))
        return {"loss": loss.numpy(), "inputs": d_inputs.numpy(), **named(_weights(tensors))}

    return Program(run, arrays)


def adam(module: Any, xs: np.ndarray) -> Program:
    """Build the program of one training step: loss, gradients of the parameters, fused Adam."""
    inputs = torch.tensor(xs)
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
        return {"loss": loss.numpy(), **named(_weights(change)), **moments}

    return Program(run, arrays)


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
        tensors[name + ending].numpy() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    arrays = {"w_x": w_x.T, "w_h": w_h.T, "b": b}
    is_gru = len(b) == 3 * w_h.shape[1]
    return arrays | ({"b_n": np.split(b_h, 3)[2]} if is_gru else {})
