"""A mistake in a cell of the user's own is said in one line, before anything is trained."""

from pathlib import Path

import pytest

from experiments.harness.errors import UserError
from experiments.shared.cell_flag import make_cell

CELL = """
import jax, jax.numpy as jnp, numpy as np
from recurrent import Cell, Hidden
def mine(input_size, hidden_size):
    shape = (input_size, hidden_size)
    def init(key):
        return {"w": jax.random.normal(key, shape), "u": jnp.eye(hidden_size)}
    def initial_state(params, batch_shape):
        return Hidden(jnp.zeros((*batch_shape, hidden_size)))
    def step(params, state, x):
        h = jnp.tanh(x @ params["w"] + state.hidden @ params["u"])
        return Hidden(h), h
    return Cell(init, initial_state, step, (input_size,), None)
"""
GATE = """
import jax, jax.numpy as jnp
from recurrent import Hidden, gated
def mine(input_size, hidden_size):
    def gate(zx, zh, state):
        z = jax.nn.sigmoid(zx[0] + zh[0])
        c = jnp.tanh(zx[1] + z * zh[1])
        return Hidden((1 - z) * state.hidden + z * c)
    return gated(gate, input_size, hidden_size, gates=2)
"""
AFTER = "        return Hidden(h), h"


def make(folder: Path, text: str) -> None:
    (folder / "cells.py").write_text(text)
    make_cell(f"{folder}/cells.py:mine", 5, 4)


@pytest.mark.parametrize("text", [CELL, GATE])
def test_a_sound_cell_is_made(tmp_path: Path, text: str) -> None:
    make(tmp_path, text)


def test_a_cell_without_a_step_is_made(tmp_path: Path) -> None:
    text = "from recurrent import bidirectional, gru\ndef mine(d, h):\n"
    make(tmp_path, text + "    return bidirectional(gru(d, h), gru(d, h))\n")


@pytest.mark.parametrize(
    ("text", "old", "new", "said"),
    [
        (CELL, '@ params["w"]', '@ params["w"][1:]', "same shape, got .* line 11"),
        (CELL, "return Hidden(h), h", "return (h,), h", r"like the one .* returns \(float32"),
        (CELL, "return Hidden(h), h", "return Hidden(h[..., :1]), h", r"returns .*float32\[2, 1\]"),
        (CELL, "Hidden(h), h", "Hidden(h.astype(jnp.bfloat16)), h", "returns .*bfloat16"),
        (CELL, "return Hidden(h), h", "return h, Hidden(h)", "a state like the one it is given"),
        (CELL, "return Hidden(h), h", "return Hidden(h), (h, h)", "one output array"),
        (CELL, AFTER, "        Hidden(h), h", r"expected it to return \(state, output\), got None"),
        (CELL, AFTER, f"        if h.sum() > 0: h = -h\n{AFTER}", "use jnp.where.* line 12"),
        (CELL, "jnp.tanh(x", "np.tanh(x", "use jax.numpy .* line 11"),
        (CELL, 'params["u"])', 'params["v"])', "KeyError: 'v' .* line 11"),
        (CELL, "    return Cell(", "    Cell(", "return a recurrent.Cell, got NoneType"),
        (CELL, "mine(input_size, ", "mine(", "takes 1 positional argument but 2 were given"),
        (CELL, "(input_size,), None)", "(3,), None)", "reads inputs of shape"),
        (GATE, "zx[1]", "zx[2]", "IndexError: list index out of range .* line 7"),
        (
            GATE,
            "        return",
            "        if z.mean() > 0: z = -z\n        return",
            "jnp.where.* 8",
        ),
        (GATE, "return Hidden(", "return (", r"expected it to return a state Hidden"),
        (GATE, "state.hidden", "state.h", "no attribute 'h' .* line 8"),
        (GATE, "z * zh[1]", "float(z.mean()) * zh[1]", "cannot become a Python number.* line 7"),
    ],
)
def test_a_mistake_is_said_in_one_line(
    tmp_path: Path, text: str, old: str, new: str, said: str
) -> None:
    assert old in text
    with pytest.raises(UserError, match=said) as caught:
        make(tmp_path, text.replace(old, new))
    assert str(caught.value).startswith("--cell: ")
    assert "\n" not in str(caught.value)
    assert ".." not in str(caught.value).replace("...", "")


GATE_IN = GATE.replace("import Hidden, gated", "import *").replace(
    "    return gated(gate, input_size, hidden_size, gates=2)",
    "    own = gated(gate, input_size, hidden_size, gates=2)\n    return MADE",
)
MADE = {
    "stack": "stack(own, dense(hidden_size, 2), input_shape=(input_size,))",
    "stack of layers first": "stack(dense(input_size, input_size), own)",
    "skip_stack": "skip_stack(own, gru(input_size + hidden_size, 2))",
    "bidirectional": "bidirectional(own, gru(input_size, 2))",
    "residual": "stack(residual(own), dense(hidden_size, 2))",
    "learned_state": "learned_state(own)",
    "zoneout": "zoneout(own, 0.1, None)",
    "weight_drop": "weight_drop(own, 0.1, None)",
    "remat": "remat(own, 2)",
}


@pytest.mark.long
@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("zx[1] + z", "zx[1] + 'a' + z", r"TypeError: unsupported operand .*line 7"),
        ("zx[1] + z", "zx[1] + jnp.ones(9) * z", r"got shapes? .*line 7|shapes.*line 7"),
        ("state.hidden", "state.h", "no attribute 'h' .*line 8"),
        ("zx[1] + z", "(zx[1] if z.sum() > 0 else 0) + z", "use jnp.where.* line 7"),
    ],
)
def test_a_mistake_in_a_part_of_a_cell_is_said_as_that_of_the_part(
    tmp_path: Path, made: str, old: str, new: str, said: str
) -> None:
    text = GATE_IN.replace("MADE", made)
    assert old in text
    (tmp_path / "cells.py").write_text(text.replace(old, new))
    with pytest.raises(UserError, match=said) as caught:
        make_cell(f"{tmp_path}/cells.py:mine", 4, 4)
    assert "input_shape" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_long_error_is_cut_between_words(tmp_path: Path) -> None:
    said = " ".join(["several"] * 99)
    with pytest.raises(UserError, match=r"several \[\.\.\.\] \(") as caught:
        make(tmp_path, f"def mine(d, h):\n    raise RuntimeError({said!r})\n")
    assert "sev [" not in str(caught.value)


# A cell that must predict its next input

BOTH_WAYS = """
from recurrent import bidirectional, gru
def mine(d, h):
    return bidirectional(gru(d, h), gru(d, h))
"""
WITHOUT_STEP = """
import jax.numpy as jnp
from recurrent import Cell
def mine(d, h):
    def step(params, state, x):
        raise NotImplementedError("sums are made at once")
    def run(params, state, xs, *, mask, reset, reverse):
        return state, jnp.cumsum(xs, axis=0)
    return Cell(lambda key: {}, lambda params, batch: (), step, (d,), run)
"""
BROKEN_SEQUENCE = WITHOUT_STEP.replace("raise Not", "return state, x  # Not").replace(
    "xs, axis", "xs[1:] + xs, axis"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOTH_WAYS, r"cells.py:mine looks ahead: .*Take a cell that reads forwards alone"),
        (WITHOUT_STEP, r"a step of .*: sums are made at once \(.*cells.py, line 6\)"),
        (BROKEN_SEQUENCE, r"a sequence read by .*TypeError: .*\(.*cells.py, line 8\)"),
    ],
)
def test_what_cannot_predict_its_next_input_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "cells.py"
    file.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        make_cell(f"{file}:mine", 5, 4, causal=8)
    assert str(caught.value).startswith("--cell: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [CELL, GATE])
def test_a_sound_cell_predicts(tmp_path: Path, text: str) -> None:
    (tmp_path / "cells.py").write_text(text)
    make_cell(f"{tmp_path}/cells.py:mine", 5, 4, causal=8)


def test_what_need_not_predict_may_look_ahead_and_lack_a_step(tmp_path: Path) -> None:
    make(tmp_path, BOTH_WAYS)
    make(tmp_path, WITHOUT_STEP)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "size", "near"),
    [
        ("griffin", 7, "8"),
        ("griffin", 12, "8 or 16"),  # its 4 heads of 3 are odd, which cannot be rotated
        ("transformer", 1, "8"),
        ("attention_cell", 1001, "1000 or 1008"),
    ],
)
def test_a_size_that_a_cell_cannot_have_is_named_with_those_that_it_can(
    name: str, size: int, near: str
) -> None:
    """Of the cells with 4 heads, each of which must have an even size."""
    with pytest.raises(UserError) as raised:
        make_cell(name, 5, size)
    assert str(raised.value) == f"--hidden_size: {name} cannot have {size}; take {near}."


def test_other_mistakes_are_not_taken_for_those_of_a_size() -> None:
    with pytest.raises(UserError, match=r"^--cell: gru with input_size=0"):
        make_cell("gru", 0, 7)
