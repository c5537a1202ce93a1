"""Test the comparison: its reference, verification, statistics of times, and what it writes."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__ as launcher
from experiments.bench import (
    ablation,
    comparison,
    drawn,
    figures,
    libraries,
    machine,
    memory,
    peak,
    populations,
    precision,
    reference,
    selection,
    tables,
    timing,
    verify,
    with_recurrent,
    with_scan,
    with_sharded,
)
from experiments.bench.cases import CELLS, SHAPES, Case, Shape, cases, flop
from experiments.bench.program import jax_program
from experiments.bench.weights import Weights, draw, each
from experiments.harness.errors import UserError
from recurrent.cells import _gated_loop

TINY = Shape(5, 3, 2, 4)
EVEN = Shape(5, 4, 2, 4)  # two devices can share its batch


# The reference


def reference_weights(case: Case) -> tuple[Weights, np.ndarray]:
    """Return weights and inputs in float64, with a bias b_n that is not zero."""
    weights, xs = draw(case)
    source = np.random.default_rng(1)

    def widen(w: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        wide = {name: array.astype(np.float64) for name, array in w.items()}
        return wide | ({"b_n": source.standard_normal(4)} if "b_n" in w else {})

    return each(widen, weights), xs.astype(np.float64)


@pytest.mark.long
@pytest.mark.parametrize("form", ["one-layer", "two-layers", "bidirectional"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_reference_equals_torch_in_float64(cell: str, form: str) -> None:
    torch = pytest.importorskip("torch", reason="the comparisons need torch (extra: bench)")
    case = Case(cell, TINY, form)
    weights, xs = reference_weights(case)
    made = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "elman": torch.nn.RNN}[cell]
    module = made(2, 4, len(weights), bidirectional=len(weights[0]) == 2, dtype=torch.float64)
    tensors = dict(module.named_parameters())
    with torch.no_grad():
        for k, layer in enumerate(weights):
            for way, w in layer.items():
                end = f"l{k}" + ("_reverse" if way == "backward" else "")
                tensors[f"weight_ih_{end}"].copy_(torch.tensor(w["w_x"].T.copy()))
                tensors[f"weight_hh_{end}"].copy_(torch.tensor(w["w_h"].T.copy()))
                tensors[f"bias_ih_{end}"].copy_(torch.tensor(w["b"]))
                tensors[f"bias_hh_{end}"].zero_()
                if cell == "gru":
                    tensors[f"bias_hh_{end}"][8:].copy_(torch.tensor(w["b_n"]))
    inputs = torch.tensor(xs, requires_grad=True)
    ys = module(inputs)[0]
    ys.square().sum().backward()
    np.testing.assert_allclose(reference.outputs(case, weights, xs), ys.detach().numpy(), 1e-12)
    d_weights, d_xs = reference.gradient(case, weights, xs)
    np.testing.assert_allclose(d_xs, inputs.grad.numpy(), 1e-10, 1e-12)
    first = d_weights[0]["forward"]
    for name, theirs in {"w_x": "weight_ih", "w_h": "weight_hh", "b": "bias_ih"}.items():
        grad = tensors[f"{theirs}_l0"].grad.numpy()
        np.testing.assert_allclose(first[name], grad.T, 1e-10, 1e-12)


def one_unit(columns: int, w_h: list[float]) -> Weights:
    zeros = np.zeros(columns)
    w = {"w_x": np.ones((1, columns)), "w_h": np.array([w_h]), "b": zeros, "b_n": np.zeros(1)}
    return [{"forward": w}]


def test_two_steps_of_one_elman_unit_equal_those_by_hand() -> None:
    xs = np.array([[[1.0]], [[0.5]]])
    ys = reference.outputs(Case("elman", Shape(2, 1, 1, 1)), one_unit(1, [0.5]), xs)
    first = math.tanh(1)
    np.testing.assert_allclose(ys.ravel(), [first, math.tanh(0.5 + 0.5 * first)], 1e-14)


def test_a_gru_that_resets_before_the_product_equals_one_by_hand() -> None:
    def sigmoid(a: float) -> float:
        return 1 / (1 + math.exp(-a))

    h = 0.0
    for x in (1.0, 0.5):
        r, z = sigmoid(x + 0.1 * h), sigmoid(x + 0.2 * h)
        h = (1 - z) * math.tanh(x + 0.3 * (r * h)) + z * h
    case, weights = Case("gru", Shape(2, 1, 1, 1)), one_unit(3, [0.1, 0.2, 0.3])
    ys = reference.outputs(case, weights, np.array([[[1.0]], [[0.5]]]), "before")
    assert ys[-1, 0, 0] == pytest.approx(h, rel=1e-14)


def test_the_gradient_of_a_gru_that_resets_before_the_product_is_the_difference_quotient() -> None:
    case = Case("gru", TINY)
    weights, xs = reference_weights(case)
    d_weights, _ = reference.gradient(case, weights, xs, "before")

    def loss(change: float) -> float:
        moved = {**weights[0]["forward"], "w_h": weights[0]["forward"]["w_h"].copy()}
        moved["w_h"][1, 9] += change
        return np.square(reference.outputs(case, [{"forward": moved}], xs, "before")).sum()

    quotient = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert d_weights[0]["forward"]["w_h"][1, 9] == pytest.approx(quotient, rel=1e-6)


# Verification


VERIFIED = [
    (Case("lstm", EVEN, "bidirectional"), "backward"),
    (Case("gru", EVEN, "two-layers"), "adam"),
    (Case("elman", EVEN), "forward"),
]


@cache
def expected(case: Case, reset: Literal["after", "before"] = "after") -> reference.Expected:
    return reference.expected(case, *draw(case), reset)


@pytest.mark.long
@pytest.mark.parametrize("name", libraries.LIBRARIES)
def test_each_library_agrees_with_the_reference(name: str) -> None:
    module = libraries.installed()[0].get(name)
    if module is None:
        pytest.skip(f"{libraries.LIBRARIES[name].title} is not installed (extra: bench)")
    for case, measure in VERIFIED:
        if libraries.has(module, case):
            weights, xs = draw(case)
            program = libraries.program(module, case, weights, xs, measure)
            right = expected(case, libraries.reset_of(module))[measure]
            assert verify.error(program.arrays(program.run()), right) < 1e-4, (case, measure)


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n, one in libraries.LIBRARIES.items() if one.narrow])
def test_each_library_that_can_computes_in_bfloat16(name: str) -> None:
    module = libraries.installed()[0].get(name)
    if module is None:
        pytest.skip(f"{libraries.LIBRARIES[name].title} is not installed (extra: bench)")
    for case in (Case("lstm", EVEN), Case("gru", EVEN), Case("elman", EVEN)):
        if libraries.has(module, case, "bfloat16"):
            weights, xs = precision.rounded("bfloat16", *draw(case))
            right = reference.expected(case, weights, xs, libraries.reset_of(module))
            for measure in ("forward", "backward"):
                program = libraries.program(module, case, weights, xs, measure)
                error = verify.error(program.arrays(program.run()), right[measure])
                assert 1e-4 < error < precision.LARGEST_ERRORS["bfloat16"], (case, measure)


def test_the_weights_of_cudnn_are_laid_out_as_jax_unpacks_them() -> None:
    from jax.experimental import rnn

    from experiments.bench import with_cudnn

    for form in ("one-layer", "two-layers", "bidirectional"):
        case = Case("lstm", TINY, form)
        weights, _ = draw(case)
        network = with_cudnn.build(case, weights)
        sizes = TINY.inputs, TINY.hidden, len(case.input_sizes), len(case.ways) == 2
        assert network.params.size == rnn.get_num_params_in_lstm(*sizes)
        for ours, back in zip(weights, network.weights(network.params), strict=True):
            jax.tree.map(np.testing.assert_array_equal, ours, back)
    assert with_cudnn.suits(case) == (jax.default_backend() == "gpu")


@pytest.mark.long
@pytest.mark.parametrize("name", ["ours, vmap", "ours, lax.map", "ours, one by one"])
def test_a_population_computes_what_its_members_do(name: str) -> None:
    modules = {"recurrent": with_recurrent}
    program, right = populations.program(name, Case("lstm", TINY), 3, "float32", modules)
    assert verify.error(program.arrays(program.run()), right) < 1e-5


@pytest.mark.long
def test_a_step_of_adam_with_half_the_gradient_does_not_verify() -> None:
    """Compare moments too, since halving the gradient leaves Adam's first update unchanged."""
    case = Case("lstm", TINY)
    weights, xs = draw(case)

    def differentiate(loss: Any, argnums: Any = 0) -> Any:
        return jax.value_and_grad(lambda *given: loss(*given) / 2, argnums)

    network = with_recurrent.build(case, weights)
    program = jax_program(network, xs, "adam", differentiate=differentiate)
    arrays = program.arrays(program.run()) | {"loss": expected(case)["adam"]["loss"]}
    assert verify.error(arrays, expected(case)["adam"]) > 0.4


@pytest.mark.skipif(len(jax.devices()) != 2, reason="has other devices than the two of conftest")
def test_a_batch_is_shared_by_as_many_devices_as_divide_it() -> None:
    assert [with_sharded.devices(batch) for batch in (1, 2, 3, 4)] == [1, 2, 1, 2]
    assert not with_sharded.suits(Case("lstm", TINY._replace(batch=3)))
    here = with_sharded.mesh(2)
    params, xs = with_sharded.shared(here, {"w": np.ones(3)}, np.arange(24.0).reshape(2, 4, 3))
    assert params["w"].sharding.is_fully_replicated
    assert [each.data.shape for each in xs.addressable_shards] == [(2, 2, 3)] * 2


@pytest.mark.parametrize("name", ablation.variants())
def test_each_variant_of_the_ablation_agrees_with_the_reference(name: str) -> None:
    case = Case("lstm", TINY)
    weights, xs = draw(case)
    program = jax_program(ablation.variants()[name](case, weights), xs, "backward")
    right = expected(case)["backward"]
    assert verify.error(program.arrays(program.run()), right) < 1e-5


def test_a_forget_bias_of_one_and_half_a_gradient_do_not_verify() -> None:
    case = Case("lstm", TINY)
    weights, xs = draw(case)
    right = expected(case)
    other = each(lambda w: w | {"b": w["b"] + np.repeat([0, 1, 0, 0], 4)}, weights)
    forward = jax_program(with_scan.build(case, other), xs, "forward")
    error = verify.error(forward.arrays(forward.run()), right["forward"])
    assert error > 10 * precision.LARGEST_ERRORS["float32"]
    halved = {k: v / 2 if k == "inputs" else v for k, v in right["backward"].items()}
    assert verify.error(halved, right["backward"]) == pytest.approx(0.5)


def test_missing_unexpected_and_nan_arrays_do_not_verify() -> None:
    right = {"outputs": np.ones(3)}
    assert verify.error({"outputs": np.array([1, np.nan, 1])}, right) == math.inf
    for found in ({}, {"outputs": np.ones(3), "more": np.ones(3)}, {"outputs": np.ones(4)}):
        with pytest.raises(ValueError, match="expected"):
            verify.error(found, right)


@pytest.mark.long
def test_a_library_that_fails_has_a_row_and_is_not_timed() -> None:
    from experiments.bench.compare import compare

    case = Case("elman", TINY)
    weights, xs = draw(case)
    right = expected(case)["forward"]
    wrong = each(lambda w: w | {"b": w["b"] + 1}, weights)

    def raises() -> Any:
        raise RuntimeError("too old")

    made = {
        "recurrent": lambda: (
            jax_program(with_recurrent.build(case, weights), xs, "forward"),
            right,
        ),
        "scan": lambda: (jax_program(with_scan.build(case, wrong), xs, "forward"), right),
        "keras": raises,
    }
    ours, scan, keras = compare({}, made, 0, 2, ["recurrent"], 1e-3)
    assert ours["rounds"] == 2
    assert ours["ratios"] == {"recurrent": (1, 1, 1)}
    assert "differs from the reference" in scan["failed"]
    assert keras["failed"] == "RuntimeError: too old"
    assert "seconds" not in scan
    assert "seconds" not in keras


# Statistics of times


def test_the_bootstrap_interval_of_a_mean_is_the_normal_one() -> None:
    samples = np.random.default_rng(0).normal(5, 2, 400)
    value, low, high = timing.bootstrap(np.mean, samples, draws=4000)
    half = 1.96 * samples.std() / 20
    assert value == samples.mean()
    np.testing.assert_allclose([value - low, high - value], half, rtol=0.08)


def test_a_ratio_is_estimated_from_pairs() -> None:
    theirs = np.random.default_rng(0).lognormal(0, 1, 25)
    assert timing.ratio(2 * theirs, theirs) == (2, 2, 2)
    unrelated = timing.ratio(2 * np.random.default_rng(1).permutation(theirs), theirs)
    assert unrelated.low < 2 < unrelated.high


def test_all_programs_run_in_every_round() -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = timing.interleaved(runs, seconds=0, repeats=4)
    assert {name: len(t) for name, t in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert (
        min(map(calls.count, "abc")) >= 1 + 4 * 2
    )  # one warm-up; per round, untimed and timed ones


@pytest.mark.long
def test_memory_growth_is_the_peak_of_a_call() -> None:
    def run() -> None:
        for _ in range(3):
            np.ones(2**23).sum()  # 64 MiB, freed before the next

    grown = memory.growth(run)
    if grown is None:
        pytest.skip("this system has no /proc/self/clear_refs")
    assert grown == pytest.approx(64 * 2**20, rel=0.05)


@pytest.mark.long
@pytest.mark.optimized
def test_flop_of_an_lstm_equals_the_count_of_xla() -> None:
    case = Case("lstm", Shape(3, 8, 64, 64))
    weights, xs = draw(case)
    w = weights[0]["forward"]

    def loss(w: Any, state: Any, xs: Any) -> Any:
        total = 0.0
        for x in xs:
            state = with_scan.lstm_step(w, state, x @ w["w_x"] + w["b"])
            total += state[0].sum()
        return total

    def counted(function: Any) -> float:
        state = (jnp.zeros((8, 64)), jnp.zeros((8, 64)))
        costs: Any = jax.jit(function).lower(w, state, xs).compile().cost_analysis()
        return costs["flops"]

    assert flop(case, "forward") == 8 * 3 * 8 * 64 * (64 + 64)
    assert 1 <= counted(loss) / flop(case, "forward") < 1.06
    backward = counted(jax.grad(loss, argnums=(0, 1, 2)))
    assert 1 <= backward / flop(case, "backward") < 1.06


def test_flop_of_other_cells_and_forms() -> None:
    t, b, i, h = TINY
    assert flop(Case("gru", TINY), "backward") == 18 * t * b * h * (i + h)
    assert flop(Case("elman", TINY), "forward") == 2 * t * b * h * (i + h)
    deep = flop(Case("lstm", TINY, "two-layers"), "forward")
    assert deep == 8 * t * b * h * (i + h) + 8 * t * b * h * (h + h)
    assert flop(Case("lstm", TINY, "bidirectional"), "adam") == 2 * 24 * t * b * h * (i + h)


# Selection


def test_a_row_is_selected_by_one_word_of_each_kind() -> None:
    found = selection.read("lstm, gru,backward,torch")
    assert found == {
        "part": {"table"},
        "cell": {"lstm", "gru"},
        "measure": {"backward"},
        "library": {"torch", "recurrent"},
    }
    assert selection.has(found, cell="gru", measure="backward", shape="28x32x28x128")
    assert not selection.has(found, cell="gru", measure="adam")
    assert not selection.has(found, part="long")
    assert selection.read("") == {}


def test_every_case_can_be_selected_by_words() -> None:
    for case in cases():
        words = f"{case.cell},{case.shape},{case.form}"
        chosen = selection.read(words)
        assert selection.has(chosen, cell=case.cell, shape=str(case.shape), form=case.form)


def test_a_shape_that_is_not_listed_is_measured_where_it_is_named() -> None:
    wanted = selection.read("lstm,7x3x2x5,28x32x28x128")
    assert selection.shapes(wanted) == (*SHAPES, Shape(7, 3, 2, 5))
    settings = comparison.Settings(only="lstm,backward,7x3x2x5")
    titles = [title for _, title, _ in comparison.check(settings)]
    assert titles == ["lstm 7x3x2x5 one-layer"]
    assert selection.shapes(selection.read("")) == SHAPES


@pytest.mark.parametrize(
    "word", ["7x3x2", "7x3x2x5x1", "0x3x2x5", "07x3x2x5", "axbxcxd", "7x3x2x1000000"]
)
def test_what_is_no_shape_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="other sizes TxBxIxH"):
        selection.read(word)


def test_the_error_for_a_misspelled_word_lists_all_words(capfd: pytest.CaptureFixture[str]) -> None:
    assert launcher.main(["bench", "--only=lsmt"]) == 2
    error = capfd.readouterr().err
    for words in ("no 'lsmt'", 'Did you mean "lstm"', "part: table, ablation, long", "keras"):
        assert words in error


def test_drawn_shapes_ask_for_their_number() -> None:
    with pytest.raises(UserError, match="--drawn=60"):
        comparison.check(comparison.Settings(only="drawn"))


def test_words_that_match_no_case_are_an_error(tmp_path: Path) -> None:
    settings = comparison.Settings(only="gru,two-layers")
    with pytest.raises(UserError, match="expected words that match a case"):
        comparison.run(settings, tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


def test_words_for_rows_of_a_table_that_is_not_measured_are_an_error() -> None:
    with pytest.raises(UserError, match="expected table in addition to gru"):
        selection.read("long,gru")
    with pytest.raises(UserError, match="expected words"):
        selection.read(",")
    assert selection.has(selection.read("long,table,gru"), part="long", cell="gru")


@pytest.mark.long
def test_large_and_small_gradients_are_summed_over_devices() -> None:
    here = with_sharded.mesh(with_sharded.devices(4))
    sizes = {"large": (2, with_sharded.SMALL), "small": (2, 3)}
    params = {name: jnp.ones(size) for name, size in sizes.items()}
    xs = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float32)

    def loss(params: Any, xs: Any) -> Any:
        return sum(jnp.square(xs @ each).mean(-1).sum() for each in params.values())

    placed = with_sharded.shared(here, params, xs)
    for argnums in (0, (0, 1)):
        actual = jax.jit(with_sharded.value_and_grad(here, loss, argnums))(*placed)
        right = jax.value_and_grad(loss, argnums)(params, xs)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), actual, right)


def test_other_processes_on_the_processor_are_noticed() -> None:
    code = "import time; end = time.time() + 0.5\nwhile time.time() < end: pass"
    with machine.watched() as share:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert not share or share[0] > 0.3 / machine.cores()


def test_rows_measured_beside_other_programs_are_left_out_of_the_summary() -> None:
    rows = [{**row, "others": 0.31} for row in RESULT["table"]]
    page = tables.page({**RESULT, "table": rows})
    assert "Other programs used up to 31 % of the cores" in page
    assert "faster on" not in page
    figure = figures.all_of({**RESULT, "table": rows})["ratios_backward"]
    assert "Not comparable" in figure.get_suptitle()
    long = {**RESULT, "long": [{"name": "LSTM", "time": 1024, "failed": "so", "others": 0.5}]}
    assert "50 % of the cores" in tables.page(long)


def test_help_names_all_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert launcher.main(["bench", "--help"]) == 0
    page = capsys.readouterr().out
    for words in ("20 minutes", "--quick", "--only", "--seconds", "--repeats", "--out"):
        assert words in page


# Results


def row(name: str, seconds: float, ratios: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "cell": "lstm",
        **Shape(28, 32, 28, 128)._asdict(),
        "form": "one-layer",
        "measure": "backward",
        "seconds": [seconds] * 3,
        "ratios": ratios,
        "compile_seconds": None if name == "torch" else 0.25,
        "planned_bytes": None if name == "torch" else 3 * 2**20,
        "grown_bytes": 2**20,
        "share": 0.5,
    } | more


RESULT = {
    "command": "./launch.sh bench",
    "machine": {"processor": "P", "cores": 2, "system": "S", "python": "3"},
    "versions": {"jax": "1"},
    "missing": {"haiku": "it is not installed"},
    "peak_gflops": [{"jax 512": 100.0, "jax 1024": 200.0, "torch 512": 90.0}],
    "table": [
        row("recurrent", 0.003, {"recurrent": [1, 1, 1]}),
        row("sharded", 0.0024, {}),
        row("torch", 0.002, {"recurrent": [1.5, 1.4, 1.6], "sharded": [1.2, 1.1, 1.3]}),
        row("linen", 0.004, {"recurrent": [0.75, 0.7, 0.8]}),
        row("scan", 0.0060004, {"recurrent": [0.5, 0.45, 1.1]}),
        {"name": "keras", "cell": "lstm", **TINY._asdict(), "form": "bidirectional"}
        | {"measure": "backward", "failed": "differs from the reference by 2.0e-01"},
    ],
    "ablation": [],
    "long": [],
    "populations": [
        row("ours, vmap", 0.016, {"torch, one by one": [4, 3, 5]}, members=8),
        row("torch, one by one", 0.064, {"torch, one by one": [1, 1, 1]}, members=8),
        row("ours, vmap", 0.003, {}, members=1),
    ],
    "drawn": [
        row("outside", 0.001, {}, chosen="outside"),
        row("inside", 0.002, {}, chosen="outside"),
        row("outside", 0.003, {}, chosen="inside", hidden=32),
        row("inside", 0.012, {}, chosen="inside", hidden=32),
        {"name": "inside", "cell": "gru", **TINY._asdict(), "form": "one-layer", "chosen": "inside"}
        | {"measure": "forward", "failed": "MemoryError"},
    ],
}


def test_the_tables_report_wins_and_losses() -> None:
    page = tables.page(RESULT)
    for line in (
        "| 28x32x28x128 | 3 | 2.4 | **2** | 4 | - | 6 | 1.50 [1.40, 1.60] | "
        "1.20 [1.10, 1.30] | 0.75 [0.70, 0.80] | 107 |",
        "- LSTM, forward + backward, against torch: faster on 0, slower on 1, level on 0 of 1.",
        "- LSTM, forward + backward, sharded, against torch: faster on 0, slower on 1, level on 0 "
        "of 1.",
        "- LSTM, forward + backward, against the fastest other on JAX: faster on 1, slower on 0, "
        "level on 0 of 1.",
        "| 28x32x28x128 | 50 %; 0.2 s; 3 / 1 | 50 %; 0.2 s; 3 / 1 | 50 %; - / 1 |",
        "jax 200 GFLOP/s; torch 90 GFLOP/s",
        "Skipped: Haiku (it is not installed).",
        "| 28x32x28x128, ours, vmap | 3 | 2, 0.25 |",
        "| 28x32x28x128, torch, one by one | - | 8, 1.00 |",
        "| LSTM, forward + backward | 2 | 2.000 | 4.00 | 28x32x28x32 | inside | outside |",
        "- Keras, lstm 5x3x2x4 bidirectional backward: differs from the reference by 2.0e-01",
    ):
        assert line in page
    assert " on 2 cores of P, S" in page
    on_gpu = tables.page({**RESULT, "machine": RESULT["machine"] | {"device": "a GPU"}})
    assert " on a GPU beside 2 cores of P, S" in on_gpu
    assert [tables.verdict(r) for r in ([1, 0.9, 1.1], [0.9, 0.8, 0.99])] == ["level", "faster"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Reduce the comparison to one case of a few steps."""
    monkeypatch.setattr(comparison, "quick_cases", lambda: [Case("elman", TINY)])
    monkeypatch.setattr(ablation, "CASES", (Case("lstm", TINY),))
    monkeypatch.setattr(peak, "SIZES", {"cpu": (64,)})
    monkeypatch.setattr(populations, "CASES", (Case("lstm", TINY),))
    yield
    jax.config.update("jax_default_matmul_precision", None)


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_a_quick_run_writes_all_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    only = "table,ablation,populations,scan,backward,linen"
    arguments = ["bench", "--quick", f"--only={only}", "--seconds=0", f"--out={tmp_path}"]
    assert launcher.main(arguments) == 0
    result = json.loads((tmp_path / "bench.json").read_text())
    assert {r["name"] for r in result["table"]} == {"recurrent", "scan", "linen"}
    assert {r["name"] for r in result["ablation"]} == set(ablation.variants())
    assert {r["members"] for r in result["populations"]} == {1, 8}
    for each_row in result["populations"]:
        assert each_row["error"] < 1e-5
    for each_row in result["table"] + result["ablation"]:
        assert 0 < each_row["share"] < 1
        assert each_row["error"] < 1e-5
        assert each_row["seconds"][1] <= each_row["seconds"][0] <= each_row["seconds"][2]
        assert each_row["rounds"] == 5
    assert result["settings"]["only"] == only
    assert "only" in result["command"]
    assert len(result["peak_gflops"]) == 2
    assert (tmp_path / "bench.md").read_text() == tables.page(result)
    assert (tmp_path / "bench.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "ratios_backward.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_drawn_shapes_compare_what_is_chosen_with_all_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn, "MOST_FLOP", 10**6)
    flags = ["--only=drawn", "--drawn=1", "--seconds=0", "--repeats=2", f"--out={tmp_path}"]
    assert launcher.main(["bench", *flags]) == 0
    rows = json.loads((tmp_path / "bench.json").read_text())["drawn"]
    assert len(rows) == 3 * (3 + 2 + 3)  # forward, and twice as many on the way back
    for each_row in rows:
        assert each_row["error"] < 1e-4
        assert each_row["chosen"] in {row["name"] for row in rows}
    assert "## Shapes drawn at random" in (tmp_path / "bench.md").read_text()


def test_shapes_are_drawn_by_their_seed_within_the_ranges() -> None:
    found = list(drawn.drawn_cases(5, 3))
    assert found == list(drawn.drawn_cases(5, 3)) != list(drawn.drawn_cases(5, 4))
    assert [case.cell for case in found] == [cell for cell in CELLS for _ in range(5)]
    for case in found:
        assert flop(case, "backward") <= drawn.MOST_FLOP
        for size, (low, high) in zip(case.shape, drawn.RANGES.values(), strict=True):
            assert low <= size <= high


@pytest.mark.long
@pytest.mark.parametrize("way", ["outside", "inside", "together"])
def test_a_way_that_is_asked_for_is_taken_and_agrees_with_the_others(way: str) -> None:
    """The products in one step of the loop tell which it is."""
    case = Case("lstm", Shape(40, 4, 3, 5))
    weights, xs = draw(case)
    with mock.patch.object(_gated_loop, "way_on_cpu", return_value=way):
        network = with_recurrent.build(case, weights)
        trace = str(jax.make_jaxpr(network.apply)(network.params, xs))
    assert ("concatenate" in trace) == (way == "together")
    right = reference.expected(case, weights, xs)["backward"]
    for each_way in (way, way + drawn.AS_STORED):
        found = drawn.program(case, weights, xs, "backward", each_way)
        assert verify.error(found.arrays(found.run()), right) < 1e-5


@pytest.mark.parametrize(
    ("cell", "shape", "forward", "backward"),
    [
        ("lstm", (20, 1, 64, 8), "outside", "outside, kernel as stored"),
        ("lstm", (20, 9, 4, 8), "inside", "inside"),  # too few steps to join the kernels
        ("lstm", (400, 4, 16, 48), "together", "together"),
        ("lstm", (999, 200, 64, 48), "together", "together"),  # more than fits
        ("elman", (40, 3, 30, 831), "inside", "inside"),  # kernels too large to join
        ("gru", (400, 4, 16, 48), "inside", "outside"),
        ("gru", (40, 1, 3, 71), "inside", "outside"),  # an odd number of columns
        ("elman", (40, 1, 3, 600), "inside", "inside, kernel as stored"),
    ],
)
def test_what_the_rules_choose_is_told(
    cell: str, shape: tuple[int, ...], forward: str, backward: str
) -> None:
    case = Case(cell, Shape(*shape))
    assert drawn.chosen_way(case, *draw(case), "forward") == forward
    assert drawn.chosen_way(case, *draw(case), "backward") == backward


def test_a_kernel_is_read_as_asked_for() -> None:
    """The ways back differ in one transpose before the loop."""
    case = Case("elman", Shape(40, 4, 3, 5))
    weights, xs = draw(case)
    network = with_recurrent.build(case, weights)

    def loss(params: Any) -> Any:
        return network.apply(params, xs).sum()

    def transposes(*, as_stored: bool) -> int:
        with drawn.chosen_by(lambda *_: "inside", lambda *_: as_stored):
            return str(jax.make_jaxpr(jax.grad(loss))(network.params)).count("transpose[")

    assert transposes(as_stored=True) != transposes(as_stored=False)


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_results_so_far_are_kept_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "ablation_rows", interrupted)
    only = "table,ablation,scan,forward"
    arguments = ["bench", "--quick", f"--only={only}", "--seconds=0", f"--out={tmp_path}"]
    assert launcher.main(arguments) == 130
    assert "the results so far are in" in capsys.readouterr().err
    result = json.loads((tmp_path / "bench.json").read_text())
    assert [r["name"] for r in result["table"]] == ["recurrent", "scan"]
    assert result["ablation"] == []


@pytest.mark.long
@pytest.mark.parametrize("name", ["LSTM, recomputed", "LSTM by DEER", "minGRU, chunked"])
def test_methods_for_long_sequences_agree_with_the_plain_loop(name: str) -> None:
    from experiments.bench import long

    program, right = long.program(name, 40)
    assert verify.error(program.arrays(program.run()), right) < 1e-4
