"""Convert weights from and to `torch.nn.{RNN, GRU, LSTM}` and the recurrent cells of Flax Linen.

Neither library is imported: both sides are mappings from names to arrays. All returned arrays are
NumPy copies in the types of the given ones.

The names of the same arrays in the three libraries, for D inputs and H hidden units:

===============  =============================  =========================  ====================
what             here                           torch, layer k             Flax
===============  =============================  =========================  ====================
kernel of x      ``input/kernel [D, gates*H]``  ``weight_ih_lk``, its      ``i<gate>/kernel``,
                                                transpose                  one for each gate
kernel of h      ``recurrent/kernel             ``weight_hh_lk``, its      ``h<gate>/kernel``
                 [H, gates*H]``                 transpose
bias, Elman      ``input/bias``                 ``bias_ih + bias_hh``      ``i/bias``
bias, LSTM       ``input/bias``; the cell adds  ``bias_ih + bias_hh``      ``h<gate>/bias``
                 ``forget_bias`` to its f part
biases, GRU      ``input/bias`` and             ``bias_ih``, ``bias_hh``   ``i<gate>/bias``; for
                 ``recurrent/bias``                                        h only ``hn/bias``
projection,      ``gate/projection [H, P]``     ``weight_hr_lk``, its      (none)
LSTM                                            transpose
gates, LSTM      i, f, g, o                     i, f, g, o                 i, f, g, o
gates, GRU       r, u, n                        r, z, n                    r, z, n
several layers   ``stack``: ``layer_0``, ...    ``_l0``, ``_l1``, ...      (a module each)
two directions   ``bidirectional``:             ``_lk``,                   (a module each)
                 ``forward``, ``backward``      ``_lk_reverse``
===============  =============================  =========================  ====================
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from recurrent.cell import Params
from recurrent.errors import ArgumentError

_TORCH_NAME = re.compile(r"(weight|bias)_(ih|hh|hr)_l(\d+)(_reverse)?")
_TORCH_PARTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_TORCH_KINDS = {1: "RNN", 3: "GRU", 4: "LSTM"}
_FLAX_GATES = {"SimpleCell": [""], "GRUCell": list("rzn"), "LSTMCell": list("ifgo")}


def from_torch(state_dict: Mapping[str, Any], *, forget_bias: float = 1.0) -> Params:
    """Convert the weights of a `torch.nn.RNN`, `GRU` or `LSTM` to params of the equivalent cell.

    Build that cell with `recurrent.elman` (with ``activation="relu"`` for torch's
    ``nonlinearity="relu"``, which cannot be inferred from the weights), `recurrent.gru` or
    `recurrent.lstm`; for an LSTM with torch's ``proj_size=P`` use
    ``recurrent.lstmp(D, P, cell_size=H)``. Put several layers into `recurrent.stack`, the two
    directions of a layer into `recurrent.bidirectional`, and several bidirectional layers into a
    stack of bidirectional cells. Inputs are always time-major here, whatever torch's
    ``batch_first``. For torch's ``dropout`` between layers use `recurrent.dropout`.

    The cell computes the same function, up to rounding where torch's two biases become one sum
    (Elman and LSTM) and where ``forget_bias`` is not zero. The gradient of that sum is the gradient
    of each of torch's two biases.

    Args:
      state_dict: ``module.state_dict()``, or NumPy arrays under the same names.
      forget_bias: the ``forget_bias`` of the LSTM cell that will use the params; the default is the
        default of `recurrent.lstm`. It is subtracted from the bias, since the cell adds it. With 0
        it causes no rounding.

    Returns:
      Params of the cell, nested as in the table of `recurrent.convert`; biases are zeros for a
      module with ``bias=False``.

    Raises:
      ValueError: for names or shapes that are not those of one such module.

    Example:
      >>> import numpy as np
      >>> from recurrent.convert import from_torch
      >>> weights = {"weight_ih_l0": np.ones((16, 3)), "weight_hh_l0": np.ones((16, 4))}  # an LSTM
      >>> params = from_torch(weights)
      >>> params["input"]["kernel"].shape, params["recurrent"]["kernel"].shape
      ((3, 16), (4, 16))
    """
    layers: dict[int, dict[str, dict[str, np.ndarray]]] = {}
    for name, array in state_dict.items():
        layer, direction, part = _parsed(name)
        layers.setdefault(layer, {}).setdefault(direction, {})[part] = _numpy(name, array)
    if sorted(layers) != list(range(len(layers))) or not layers:
        raise ArgumentError(
            f"state_dict: expected the weights of layers 0, 1, ..., got layers {sorted(layers)}."
        )
    cells = [
        {way: _cell_from_torch(weights, f"layer {k}", forget_bias) for way, weights in ways.items()}
        for k, ways in sorted(layers.items())
    ]
    if len({tuple(sorted(ways)) for ways in cells}) != 1 or "forward" not in cells[0]:
        raise ArgumentError("state_dict: expected the same directions in every layer.")
    both = "backward" in cells[0]
    params = [ways if both else ways["forward"] for ways in cells]
    return params[0] if len(params) == 1 else {f"layer_{k}": p for k, p in enumerate(params)}


def to_torch(
    params: Params, *, forget_bias: float = 1.0, bias: bool = True
) -> dict[str, np.ndarray]:
    """Convert params of a cell to the ``state_dict`` of the equivalent torch module.

    With ``state_dict = to_torch(params)``, load it by
    ``module.load_state_dict({k: torch.from_numpy(v) for k, v in state_dict.items()})``.
    Where a cell has one bias and torch has two (Elman, LSTM), ``bias_ih`` holds all of it and
    ``bias_hh`` is zero. So ``from_torch(to_torch(params))`` equals params bit for bit, except for
    rounding caused by a ``forget_bias`` that is not zero.

    Args:
      params: of `recurrent.elman`, `recurrent.gru`, `recurrent.lstm` or `recurrent.lstmp`, or of a
        `recurrent.stack` of them or of `recurrent.bidirectional` pairs of them.
      forget_bias: the ``forget_bias`` of the LSTM cells.
      bias: False for a module built with ``bias=False``.

    Returns:
      The ``state_dict``, with NumPy arrays.

    Raises:
      ValueError: for params of other cells, as far as keys and shapes reveal them (they do not
        reveal the activation of an Elman cell, where torch has only tanh and relu), and for
        ``bias=False`` with biases that are not zero.

    Example:
      >>> import numpy as np
      >>> from recurrent.convert import to_torch
      >>> params = {"input": {"kernel": np.ones((3, 16)), "bias": np.zeros(16)},
      ...           "recurrent": {"kernel": np.ones((4, 16))}}  # of lstm(3, 4)
      >>> {name: array.shape for name, array in to_torch(params, bias=True).items()}
      {'weight_ih_l0': (16, 3), 'weight_hh_l0': (16, 4), 'bias_ih_l0': (16,), 'bias_hh_l0': (16,)}
    """
    state_dict: dict[str, np.ndarray] = {}
    for layer, ways in enumerate(_layers(params)):
        for way, cell in ways.items():
            ending = f"l{layer}" + ("_reverse" if way == "backward" else "")
            for part, array in _cell_to_torch(cell, forget_bias).items():
                if bias or not part.startswith("bias"):
                    state_dict[f"{part}_{ending}"] = array
                elif array.any():
                    raise ArgumentError(
                        f"bias: expected biases of zero to leave out, got {part}_{ending} "
                        "with others; export with bias=True."
                    )
    return state_dict


def from_flax(params: Mapping[str, Any], *, forget_bias: float = 1.0) -> Params:
    """Convert the params of a Flax Linen cell to params of the equivalent cell.

    Args:
      params: of an `LSTMCell` or `OptimizedLSTMCell` (for `recurrent.lstm`), a `GRUCell` (for
        `recurrent.gru`) or a `SimpleCell` without ``residual`` (for `recurrent.elman`). Those of an
        `nn.RNN` are in ``variables["params"]["cell"]``.
      forget_bias: see `from_torch`.

    Returns:
      Params of the cell. Flax's GRU has only one bias for each of r and z. Here the parts of
      ``recurrent/bias`` for r and z are zero, but, unlike in Flax, they can be trained.

    Raises:
      ValueError: for the params of anything else.

    Example:
      >>> import numpy as np
      >>> from recurrent.convert import from_flax
      >>> weights = {"i": {"kernel": np.ones((3, 4)), "bias": np.zeros(4)},
      ...            "h": {"kernel": np.ones((4, 4))}}  # of a SimpleCell
      >>> params = from_flax(weights)
      >>> params["input"]["kernel"].shape, params["recurrent"]["kernel"].shape
      ((3, 4), (4, 4))
    """
    for gates in _FLAX_GATES.values():
        if set(params) == {side + gate for side in "ih" for gate in gates}:
            return _cell_from_flax(params, gates, forget_bias)
    raise ArgumentError(
        "params: expected those of Flax's LSTMCell, OptimizedLSTMCell, GRUCell or SimpleCell, "
        f"got the keys {sorted(params)}; of an nn.RNN give params['cell']."
    )


def to_flax(params: Params, *, forget_bias: float = 1.0) -> dict[str, dict[str, np.ndarray]]:
    """Convert params of a cell to those of the equivalent Flax Linen cell.

    Args:
      params: of `recurrent.elman` (with tanh, unless the `SimpleCell` is given another
        ``activation_fn``), `recurrent.gru` or `recurrent.lstm`.
      forget_bias: the ``forget_bias`` of the LSTM cell.

    Returns:
      The params, with NumPy arrays.

    Raises:
      ValueError: for params of other cells; convert each cell of a stack by itself.

    Example:
      >>> import numpy as np
      >>> from recurrent.convert import to_flax
      >>> params = {"input": {"kernel": np.ones((3, 16)), "bias": np.zeros(16)},
      ...           "recurrent": {"kernel": np.ones((4, 16))}}  # of lstm(3, 4)
      >>> weights = to_flax(params, forget_bias=1.0)
      >>> weights["if"]["kernel"].shape, weights["hf"]["bias"].tolist()
      ((3, 4), [1.0, 1.0, 1.0, 1.0])
    """
    kind, inputs, recurrent = _parts_of(params)
    if "gate" in params:
        raise ArgumentError("params: expected an LSTM without projection, which Flax has not.")
    gates = _FLAX_GATES[{"RNN": "SimpleCell", "GRU": "GRUCell", "LSTM": "LSTMCell"}[kind]]
    bias = _moved_forget_bias(kind, inputs["bias"], forget_bias)
    cell = {}
    for block, gate in enumerate(gates):
        x, h, b = (
            np.split(array, len(gates), axis=-1)[block].copy()
            for array in (inputs["kernel"], recurrent["kernel"], bias)
        )
        cell[f"i{gate}"], cell[f"h{gate}"] = {"kernel": x}, {"kernel": h}
        if kind == "GRU":
            b_h = np.split(recurrent["bias"], len(gates))[block]
            b = b if gate == "n" else b + b_h
            cell["hn"] = {"kernel": h, "bias": b_h.copy()}
        cell[f"{'h' if kind == 'LSTM' else 'i'}{gate}"]["bias"] = b
    return cell


def _numpy(name: str, array: Any) -> np.ndarray:
    """Convert an array or a tensor, with or without a gradient, to NumPy."""
    try:
        return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    except TypeError as error:  # as for torch's bfloat16, which NumPy lacks
        raise ArgumentError(
            f"state_dict: expected arrays that NumPy understands, got {name} of "
            f"{getattr(array, 'dtype', type(array))}; call .float() on the module first."
        ) from error


def _parsed(name: str) -> tuple[int, str, str]:
    """Split one of torch's names into layer, direction, and the rest."""
    match = _TORCH_NAME.fullmatch(name)
    if match is None:
        raise ArgumentError(
            "state_dict: expected the names of one torch.nn.RNN, GRU or LSTM, such as "
            f"'weight_ih_l0', got {name!r}; of a larger module give this part, without prefixes."
        )
    kind, side, layer, reverse = match.groups()
    return int(layer), "backward" if reverse else "forward", f"{kind}_{side}"


def _cell_from_torch(weights: dict[str, np.ndarray], where: str, forget_bias: float) -> Params:
    kernels = {"weight_ih", "weight_hh", "weight_hr"} & weights.keys() | {"weight_ih", "weight_hh"}
    if set(weights) not in (kernels, kernels | {"bias_ih", "bias_hh"}):
        raise ArgumentError(
            f"state_dict: expected weight_ih and weight_hh, and two biases or none, in {where}, "
            f"got {sorted(weights)}."
        )
    kind = _kind_of_torch(weights, where)
    width = weights["weight_ih"].shape[0]
    zeros = np.zeros(width, weights["weight_ih"].dtype)
    b_x, b_h = weights.get("bias_ih", zeros), weights.get("bias_hh", zeros)
    inputs, recurrent = ({"kernel": weights[part].T.copy()} for part in ("weight_ih", "weight_hh"))
    if kind == "GRU":
        bias = {"bias": b_x.copy()}, {"bias": b_h.copy()}
        return {"input": inputs | bias[0], "recurrent": recurrent | bias[1]}
    bias = {"bias": _moved_forget_bias(kind, b_x + b_h, -forget_bias)}
    params = {"input": inputs | bias, "recurrent": recurrent}
    if "weight_hr" in weights:
        params["gate"] = {"projection": weights["weight_hr"].T.copy()}
    return params


def _kind_of_torch(weights: dict[str, np.ndarray], where: str) -> str:
    shapes = {part: array.shape for part, array in weights.items()}
    outputs = shapes["weight_hh"][-1]
    projection = shapes.get("weight_hr", (outputs, outputs))
    width = shapes["weight_ih"][0]
    gates, rest = divmod(width, max(1, projection[-1]))
    rows = {shapes.get(part, (width,))[0] for part in _TORCH_PARTS}
    fits = rows == {width} and projection[0] == outputs and not rest
    if not fits or gates not in _TORCH_KINDS or ("weight_hr" in shapes and gates != 4):
        raise ArgumentError(
            f"state_dict: expected 1, 3 or 4 blocks of hidden_size rows in every array of {where},"
            f" got the shapes { ({part: list(shape) for part, shape in shapes.items()}) }."
        )
    return _TORCH_KINDS[gates]


def _cell_to_torch(params: Params, forget_bias: float) -> dict[str, np.ndarray]:
    kind, inputs, recurrent = _parts_of(params)
    weights = {
        "weight_ih": inputs["kernel"].T.copy(),
        "weight_hh": recurrent["kernel"].T.copy(),
        "bias_ih": _moved_forget_bias(kind, inputs["bias"], forget_bias),
        "bias_hh": recurrent.get("bias", np.zeros_like(inputs["bias"])).copy(),
    }
    if "gate" in params:
        weights["weight_hr"] = np.asarray(params["gate"]["projection"]).T.copy()
    return weights


def _cell_from_flax(params: Mapping[str, Any], gates: list[str], forget_bias: float) -> Params:
    def joined(side: str, leaf: str) -> np.ndarray:
        zeros = np.zeros_like(params[f"h{gates[0]}"]["kernel"][0])
        leaves = [params[side + gate].get(leaf, zeros) for gate in gates]
        return np.concatenate([np.asarray(array) for array in leaves], axis=-1)

    inputs, recurrent = ({"kernel": joined(side, "kernel")} for side in "ih")
    b_x, b_h = joined("i", "bias"), joined("h", "bias")
    if len(gates) == 3:
        return {"input": inputs | {"bias": b_x}, "recurrent": recurrent | {"bias": b_h}}
    kind = _TORCH_KINDS[len(gates)]
    bias = _moved_forget_bias(kind, b_h if kind == "LSTM" else b_x, -forget_bias)
    return {"input": inputs | {"bias": bias}, "recurrent": recurrent}


def _moved_forget_bias(kind: str, bias: np.ndarray, amount: float) -> np.ndarray:
    """Copy a bias, and add the amount to the forget gate's part if the cell is an LSTM."""
    bias = bias.copy()
    if kind == "LSTM":
        size = bias.shape[0] // 4
        bias[size : 2 * size] += np.asarray(amount, bias.dtype)
    return bias


def _layers(params: Params) -> list[dict[str, Params]]:
    """List the layers, each as the params of its cells by direction."""
    layers = [params]
    if "layer_0" in params:
        layers = [params[f"layer_{index}"] for index in range(len(params))]
    return [layer if "forward" in layer else {"forward": layer} for layer in layers]


def _parts_of(params: Params) -> tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the kind of a cell in torch's words, and its two affine maps as NumPy arrays."""
    gate = params.get("gate", {})
    if set(params) - {"gate"} == {"input", "recurrent"} and set(gate) <= {"projection"}:
        inputs, recurrent = (
            {key: np.asarray(array) for key, array in params[side].items()}
            for side in ("input", "recurrent")
        )
        size, width = recurrent["kernel"].shape
        size = gate["projection"].shape[0] if gate else size
        kind = _TORCH_KINDS.get(width // size, "")
        biases = "bias" in inputs, "bias" in recurrent
        if kind and biases == (True, kind == "GRU") and (kind == "LSTM" or not gate):
            return kind, inputs, recurrent
    raise ArgumentError(
        "params: expected those of elman, gru, lstm or lstmp without options that change their "
        f"equations, or a stack or bidirectional pairs of them, got {_described(params)}."
    )


def _described(params: Params) -> str:
    if isinstance(params, Mapping):
        return "{" + ", ".join(f"{key}: {_described(params[key])}" for key in params) + "}"
    return str(list(np.shape(params)))
