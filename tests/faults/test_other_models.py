"""A checkpoint of one model is given to another, which takes nothing of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import recurrent
from experiments.harness.checkpoint import checkpoints, restore, save
from experiments.harness.errors import UserError
from recurrent.training import init_state
from recurrent.training.optimizers import optimizer


def state(
    cell: Callable[..., recurrent.Cell] = recurrent.gru,
    width: int = 8,
    depth: int = 1,
    name: str = "adam",
    dtype: Any = jnp.float32,
) -> Any:
    network = recurrent.stack(*(cell(width, width) for _ in range(depth)))

    def init(key: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: leaf.astype(dtype), network.init(key))

    return init_state(init, optimizer(name, 0.1), jax.random.key(0))


@pytest.mark.fault("R11")
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"width": 9}, "layer_0.input.bias is float32[24] there and float32[27] here"),
        ({"cell": recurrent.lstm}, "layer_0.input.bias is float32[24] there and float32[32] here"),
        ({"cell": recurrent.elman}, "layer_0.input.bias is float32[24] there and float32[8] here"),
        ({"depth": 2}, "params.layer_1.input.bias is absent there and float32[24] here"),
        ({"name": "sgd"}, "opt_state"),
        ({"dtype": jnp.bfloat16}, "layer_0.input.bias is float32[24] there and bfloat16[24] here"),
    ],
    ids=["width", "lstm", "elman", "depth", "optimizer", "type"],
)
def test_a_model_takes_nothing_of_a_checkpoint_of_another(
    tmp_path: Path, other: dict[str, Any], words: str
):
    with checkpoints(tmp_path) as manager:
        save(manager, 1, state(), {})
    with checkpoints(tmp_path, read_only=True) as manager:
        with pytest.raises(UserError, match="is of another model: ") as caught:
            restore(manager, jax.eval_shape(lambda: state(**other)))
        assert restore(manager, jax.eval_shape(state)) is not None
    assert words in str(caught.value)
