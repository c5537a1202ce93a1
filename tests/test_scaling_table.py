"""What devices say to each other is counted from the compiled program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from docs import many_members
from docs.scaling_table import Messages, bytes_of_shape, cost_of, messages_of
from experiments import sequential_digits
from recurrent.training.population import Layout

two_devices = pytest.mark.skipif(jax.device_count() < 2, reason="there is one device only")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[10,128]{1,0}", 5120),
        ("(s32[], bf16[3]{0}, pred[4]{0})", 14),
        ("(f32[2,3]{1,0}, /*index=5*/u64[2]{0})", 40),
        ("f8e4m3fn[7]{0}", 7),
        ("()", 0),
    ],
)
def test_bytes_are_those_of_the_arrays(shape: str, expected: int) -> None:
    assert bytes_of_shape(shape) == expected


def test_messages_of_the_loop_are_told_from_those_of_a_call() -> None:
    text = """%body (x: f32[8]) -> (s32[], f32[2]) {
  %a = (f32[8]{0}, /*index=5*/f32[2]{0}) all-reduce(%x, %y), to_apply=%sum
  %done = f32[8]{0} add(%all-reduce.1, %all-reduce.2)
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %b = u32[4]{0} all-gather-start(%x), dimensions={0}
}"""
    assert messages_of(text) == Messages(step=[40], call=[16])


@pytest.mark.long
@two_devices
def test_a_shared_batch_sends_each_gradient_once_a_step_and_members_send_none() -> None:
    config = sequential_digits.Config(hidden_size=8)
    program = sequential_digits.program(config)
    alone = cost_of(program, config, Layout(), 1)
    shared = cost_of(program, config, Layout(batch_devices=2), 1)
    members = cost_of(program, config, Layout(2, 1), 2)
    params = 4 * (32 * (8 + 8 + 1) + 10 * 9)  # four gates of 8, read with 8 numbers a step; readout
    assert alone.messages == Messages([], [])
    assert 0 <= sum(shared.messages.step) - params < 100
    assert members.messages.step == []
    assert members.state == alone.state


def test_the_training_of_next_to_nothing_is_a_line_whose_slope_is_two() -> None:
    program = many_members.program(many_members.Config())
    for slope in (2.0, -1.0):
        found = program.task.evaluate({"slope": jnp.float32(slope)}, {}, program.data["valid"])
        expected = (slope - 2) ** 2 * np.mean(np.square(program.data["valid"]["x"]))
        assert float(found["error"].mean) == pytest.approx(expected, rel=1e-6)
