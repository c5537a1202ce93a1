"""Sweeps of a small task: each member as it would be alone, none trained twice, the best first."""

import contextlib
import dataclasses
import json
import logging
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments import sequential_digits
from experiments.harness import devices, loop
from experiments.harness import run as single
from experiments.harness.config import options
from experiments.harness.errors import UserError
from experiments.harness.identity import data_hashes
from experiments.harness.program import Program
from experiments.report.side_by_side import member_rows
from experiments.sweep import run
from experiments.sweep.axes import read_axes
from experiments.sweep.flags import Settings, Sweep
from experiments.sweep.search import pbt, tpe
from recurrent.training.population import layouts
from tests import toys
from tests.toys import FIT, FitConfig, fit
from tests.toys import FIT_EVALUATIONS as EVALUATIONS
from tests.toys import FIT_STEPS as STEPS

pytestmark = pytest.mark.usefixtures("compiled_once")

OTHERS = ("1x1", "1x2", "2x4")
slow = pytest.mark.slow
RATES = "learning_rate=0.3,0.03,0.003,0.1"


def mean_loss(params: Any, config: FitConfig, split: str) -> float:
    """The loss on a split, by the program's own evaluation."""
    found = fit(config)
    return float(found.task.evaluate(params, {}, found.data[split])["loss"].mean)


def swept(
    folder: Path, *texts: str, settings: Settings | None = None, base: FitConfig | None = None
) -> list[dict[str, Any]]:
    """The rows of a sweep's members, by member."""
    asked = sweep_of(*texts, settings=settings, base=base)
    assert run.main(asked, folder, overwrite=False) == 0
    return rows_in(folder)


def sweep_of(*texts: str, settings: Settings | None = None, base: FitConfig | None = None) -> Sweep:
    axes = read_axes(texts, options(FitConfig))
    line = "./launch.sh sweep toy"
    return Sweep(
        toys.experiment(FIT), base or FitConfig(), axes, settings or Settings(layout="1x1"), line
    )


def rows_in(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "sweep.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row["member"])


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.long
@pytest.mark.parametrize("layout", ["2x1", *(pytest.param(x, marks=slow) for x in OTHERS)])
def test_a_member_is_trained_as_it_would_be_alone(tmp_path: Path, layout: str) -> None:
    settings = Settings(layout=layout)
    rows = swept(tmp_path / "sweep", RATES, "seed=0:2", settings=settings)
    assert [row["member"] for row in rows] == list(range(8))
    for row in rows:
        config = FitConfig(learning_rate=row["learning_rate"], seed=row["seed"])
        folder = tmp_path / str(row["member"])
        folder.mkdir()
        alone = single.train(fit(config), config, folder)
        assert row["best_step"] == alone.outcome["best_step"]
        assert row["valid_loss"] == pytest.approx(alone.outcome["valid_loss"], rel=1e-5)
        tested = mean_loss(alone.finished.kept, config, "test")
        assert row["test_loss"] == pytest.approx(tested, rel=1e-4)
        own = member_rows(tmp_path / "sweep")[row["member"]]
        for mine, theirs in zip(own, alone.finished.rows, strict=True):
            assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)


@pytest.mark.long
@pytest.mark.fault("N11")
def test_a_member_that_diverges_leaves_the_others_bitwise_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    rates = f"{RATES},0.2,0.02,0.002"
    calm = swept(tmp_path / "calm", rates)
    wild = swept(tmp_path / "wild", f"{rates},1e10")
    assert len(calm) == 7
    assert wild[:-1] == calm
    record_property("members beside a diverging one, bitwise the same", len(calm))
    assert wild[-1]["status"] == "diverged"
    assert wild[-1]["step"] == STEPS
    last = [line for line in capsys.readouterr().out.splitlines() if "diverged" in line]
    assert last[0].split()[:2] == ["8", "1e+10"]
    assert last[0].endswith(f"diverged at step {STEPS}")


@pytest.mark.long
def test_where_every_member_diverges_none_is_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = sweep_of("learning_rate=1e10,1e11", "seed=0:2")
    assert run.main(asked, tmp_path, overwrite=False) == 3
    out, err = capsys.readouterr()
    assert "error: every member diverged" in err
    assert "the best alone" not in out
    assert (
        sum(line.endswith(f"diverged at step {STEPS}, {STEPS}") for line in out.splitlines()) == 2
    )
    assert (tmp_path / "report.html").exists()


@pytest.mark.long
def test_fewer_slots_change_nothing_but_the_order(tmp_path: Path) -> None:
    texts = RATES, "seed=0:3"
    all_at_once = swept(tmp_path / "all", *texts)
    for slots in (3, 7):
        settings = Settings(slots=slots, layout="1x1")
        assert swept(tmp_path / str(slots), *texts, settings=settings) == all_at_once


@pytest.mark.long
def test_static_fields_are_trained_one_program_after_the_other(tmp_path: Path) -> None:
    rows = swept(tmp_path / "both", "degree=1,2", RATES)
    for degree in (1, 2):
        alone = swept(tmp_path / str(degree), RATES, base=FitConfig(degree=degree))
        own = [row for row in rows if row["degree"] == degree]
        assert [without(row, "degree", "member") for row in own] == [
            without(row, "member") for row in alone
        ]


@pytest.mark.long
@pytest.mark.parametrize("layout", ["1x1", "2x1"])
def test_one_compilation_trains_all_members(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    compiled_once: dict[Any, Any],
    layout: str,
) -> None:
    counts = []
    for k, texts in enumerate([("learning_rate=0.1,0.2",), (RATES, "seed=0:3", "momentum=0,0.5")]):
        caplog.clear()
        compiled_once.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            swept(tmp_path / str(k), *texts, settings=Settings(slots=6, layout=layout))
        messages = [record.getMessage() for record in caplog.records]
        compiled = [text for text in messages if text.startswith("Finished XLA compilation")]
        counts.append(sum("jit(train)" in text for text in compiled))
    assert counts == [1, 1]


@pytest.mark.long
def test_the_layout_can_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swept(tmp_path, RATES, settings=Settings(layout="measure"))
    out = capsys.readouterr().out.splitlines()
    seconds = [line for line in out if line.startswith("layout ")]
    assert len(seconds) == len(layouts(4, jax.device_count()))
    times = [float(line.split()[2]) for line in seconds]
    fastest = [line for line, each in zip(seconds, times, strict=True) if each == min(times)]
    together = [int(line.split()[1].rstrip(":").partition("x")[2]) for line in fastest]
    words = ["one member after the other" if n == 1 else f"{n} members side by" for n in together]
    said = next(line for line in out if line.startswith("sweep of toy"))
    assert any(word in said for word in words)


@pytest.mark.long
def test_patience_ends_a_member(tmp_path: Path) -> None:
    long = swept(tmp_path / "long", RATES, base=FitConfig(evaluations=60))
    short = swept(tmp_path / "short", RATES, base=FitConfig(evaluations=60, patience=2))
    rows = member_rows(tmp_path / "long")
    for whole, row in zip(long, short, strict=True):
        losses = [each["valid_loss"] for each in rows[row["member"]]]
        waits = [n - int(np.argmin(losses[: n + 1])) for n in range(len(losses))]
        ends = next((n + 1 for n, wait in enumerate(waits) if wait == 2), 60)
        assert row["evaluations_done"] == ends
        assert row["status"] == ("finished" if ends == 60 else "early stop")
        if ends == 60:
            assert row == whole
    assert {row["status"] for row in short} >= {"early stop"}


@pytest.mark.long
def test_halving_lets_the_best_go_on(tmp_path: Path) -> None:
    settings = Settings(search="halving", reduction=2, layout="1x1")
    texts = "learning_rate=0.001,0.003,0.01,0.03,0.1,0.3", "seed=0:2"
    rows = swept(tmp_path / "halving", *texts, settings=settings)
    grid = swept(tmp_path / "grid", *texts)
    curves = member_rows(tmp_path / "grid")
    alive = {0, 1, 2, 3, 4, 5}
    expected = {}
    for rung in (1, 2, 3, 5):
        lowest = [min(row["valid_loss"] for row in curves[m][:rung]) for m in range(12)]
        scores = {k: -np.mean(lowest[2 * k : 2 * k + 2]) for k in alive}
        kept = sorted(alive, key=scores.__getitem__, reverse=True)[: -(-len(alive) // 2)]
        expected |= dict.fromkeys(alive - set(kept), rung)
        alive = set(kept)
    assert [row["evaluations_done"] for row in rows] == [
        expected.get(k, EVALUATIONS) for k in range(6) for _ in range(2)
    ]
    for k in alive:
        assert rows[2 * k : 2 * k + 2] == grid[2 * k : 2 * k + 2]


@pytest.mark.long
def test_halving_in_few_slots_gives_those_to_the_next(tmp_path: Path) -> None:
    settings = Settings(search="halving", reduction=3, slots=2, draws=9, layout="1x1")
    rows = swept(tmp_path / "sweep", "learning_rate=log:1e-3:1", settings=settings)
    assert len(rows) == 9
    assert most_at_a_time(tmp_path / "sweep") == 2
    assert sum(row["evaluations_done"] for row in rows) < 0.6 * 9 * EVALUATIONS


def most_at_a_time(folder: Path) -> int:
    lines = (folder / "programs/0/metrics.jsonl").read_text().splitlines()
    together = [json.loads(line)["evaluation"] for line in lines]
    return max(map(together.count, together))


class Killed(BaseException):
    """In place of a signal that cannot be caught."""


def killed_at(
    epoch: int,
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    *texts: str,
    settings: Settings | None = None,
) -> None:
    """A sweep that dies before the end of this epoch, counted over all programs."""
    evaluate, calls = loop.evaluated, []

    def killed(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == epoch:
            raise Killed
        return evaluate(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluated", killed)
        with pytest.raises(Killed):
            swept(folder, *texts, settings=settings)


@pytest.mark.long
@pytest.mark.parametrize(
    "settings", [pytest.param(Settings(), marks=slow), Settings(search="halving", slots=2)]
)
def test_what_was_killed_goes_on_and_trains_no_ended_member_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings = dataclasses.replace(settings, layout="1x1")
    texts = "degree=1,2", f"{RATES},1e10"
    whole = swept(tmp_path / "whole", *texts, settings=settings)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 1e9)  # so only what has ended is saved
    evaluate, calls, known = loop.evaluated, [], set()
    folder = tmp_path / "killed"

    def counted(plan: Any, *rest: Any) -> Any:
        calls.append([row["member"] for row in rows_in(folder)])
        if len(calls) % 11 == 0:
            raise Killed
        there, state, rows = evaluate(plan, *rest)
        assert not {row["member"] for row in rows} & known
        return there, state, rows

    monkeypatch.setattr(loop, "evaluated", counted)
    for _ in range(30):
        try:
            rows = swept(folder, *texts, settings=settings)
            break
        except Killed:
            known = {row["member"] for row in rows_in(folder)}
    else:
        pytest.fail("it did not end")
    assert len(calls) > 11
    assert rows == whole
    assert member_rows(folder) == member_rows(tmp_path / "whole")


def test_a_signal_stops_it_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = swept(tmp_path / "whole", RATES)
    evaluate, calls = loop.evaluated, []

    def interrupted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(*given)

    monkeypatch.setattr(loop, "evaluated", interrupted)
    assert run.main(sweep_of(RATES), tmp_path / "stopped", overwrite=False) == 143
    assert "Stopped and saved at step 20;" in capsys.readouterr().err
    assert swept(tmp_path / "stopped", RATES) == whole
    assert len(calls) == EVALUATIONS


@pytest.mark.long
def test_a_stop_does_not_wait_for_the_next_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = FitConfig(steps_per_call=2)
    whole = swept(tmp_path / "whole", RATES, base=base)
    call, calls = loop.advanced, []

    def interrupted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 7):
            signal.raise_signal(signal.SIGTERM)
        return call(*given)

    monkeypatch.setattr(loop, "advanced", interrupted)
    folder = tmp_path / "stopped"
    for step in (4, 12):
        assert run.main(sweep_of(RATES, base=base), folder, overwrite=False) == 143
        assert f"Stopped and saved at step {step};" in capsys.readouterr().err
    assert swept(folder, RATES, base=base) == whole
    assert member_rows(folder) == member_rows(tmp_path / "whole")


@pytest.mark.long
def test_it_goes_on_on_another_number_of_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = swept(tmp_path / "whole", RATES, "seed=0:3")
    monkeypatch.setattr(devices, "memory_bytes", lambda: 1000)  # so that some wait
    killed_at(EVALUATIONS + 2, monkeypatch, tmp_path / "moved", RATES, "seed=0:3")
    slots = json.loads((tmp_path / "moved/programs/0/slots.json").read_text())["slots"]
    assert slots < 12
    monkeypatch.setattr("experiments.sweep.layouts.rounded_up", lambda slots, *_: slots + 1)
    assert swept(tmp_path / "moved", RATES, "seed=0:3") == whole


@pytest.mark.long
def test_a_swept_number_of_evaluations_is_not_that_of_evaluations_done(tmp_path: Path) -> None:
    rows = swept(tmp_path, "evaluations=30,40", "learning_rate=0.1,0.3", base=FitConfig(patience=2))
    assert [row["evaluations"] for row in rows] == [30, 30, 40, 40]
    assert all(row["evaluations_done"] < 30 for row in rows), "patience ends them"
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["configurations"] == 4
    assert result["best_evaluations"] in (30, 40)


@pytest.mark.long
def test_halving_compares_configurations_of_all_programs(tmp_path: Path) -> None:
    halving = Settings(search="halving", reduction=2, layout="1x1")
    rows = swept(tmp_path / "sweep", "degree=1,2,3,4,5", settings=halving)
    grid = swept(tmp_path / "grid", "degree=1,2,3,4,5")
    curves, ends, before = member_rows(tmp_path / "grid"), [], {}
    for member in range(5):
        ends.append(EVALUATIONS)
        for rung in (1, 2, 3, 5):
            score = -min(row["valid_loss"] for row in curves[member][:rung])
            scores = before.setdefault(rung, [])
            scores.append(score)
            if score < sorted(scores, reverse=True)[-(-len(scores) // 2) - 1]:
                ends[-1] = rung
                break
    assert [row["evaluations_done"] for row in rows] == ends
    assert min(ends) < EVALUATIONS
    assert len(grid) == 5


@pytest.mark.long
def test_optuna_proposes_static_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="optuna is in the search extra")
    asked = Settings(propose=4, layout="1x1")
    texts = "degree=log:1:64", "learning_rate=0.03,0.003"
    rows = swept(tmp_path / "whole", *texts, settings=asked)
    out = capsys.readouterr().out
    assert out.startswith(
        "sweep of toy: 8 members of 8 configurations in 4 proposed programs; 2 at a"
    )
    assert [row["member"] for row in rows] == list(range(8))
    degrees = [row["degree"] for row in rows[::2]]
    assert len(set(degrees)) == 4
    assert all(1 <= degree <= 64 for degree in degrees)
    config = json.loads((tmp_path / "whole/best/config.json").read_text())
    program = fit(FitConfig(**config["config"]))
    assert config["sources"].items() >= data_hashes(program.data).items()
    killed_at(2 * EVALUATIONS + 3, monkeypatch, tmp_path / "killed", *texts, settings=asked)
    assert swept(tmp_path / "killed", *texts, settings=asked) == rows


def followed(text: str, score_of: Any, count: int, seed: int = 0) -> list[Any]:
    """The values that are proposed when each has a score."""
    pytest.importorskip("optuna", reason="optuna is in the search extra")
    axes, seen, score = read_axes([text], options(FitConfig)), [], None
    points = tpe.proposed(axes, options(FitConfig), seed)
    with contextlib.suppress(StopIteration):
        while len(seen) < count:
            (value,) = points.send(score).values()
            seen.append(value)
            score = score_of(value)
    return seen


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_each_listed_value_is_proposed_once_until_none_is_left(seed: int) -> None:
    def score_of(degree: int) -> float | None:
        return None if degree % 5 == 2 else -abs(degree - 7.0)

    assert sorted(followed("degree=1:31", score_of, 99, seed)) == list(range(1, 31))
    counted = followed("degree=log:8:32:3", score_of, 99, seed)
    assert sorted(counted) == [8, 16, 32]


def test_proposals_go_where_scores_are_high() -> None:
    for sign in (1, -1):
        seen = followed("degree=1:1001", lambda d, sign=sign: sign * -abs(d - 700.0), 40, seed=1)
        near = np.median(np.abs(np.array(seen[25:]) - 700)) < 120  # 250 by chance
        assert near == (sign == 1)


def test_proposals_go_by_the_seed_and_the_scale() -> None:
    drawn = [followed("degree=log:1:100000", lambda d: 0.0, 10, seed) for seed in (0, 1)]
    assert drawn[0] != drawn[1]
    assert max(np.median(each) for each in drawn) < 20000  # 50,000 on a linear scale
    floats = followed("warmup_epochs=linear:0:1", lambda d: 0.0, 5)
    assert all(value == float(f"{value:.6g}") for value in floats)


@pytest.mark.long
def test_a_search_hears_the_score_of_the_best_configuration_of_each_proposal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def proposed(*_: Any) -> Any:
        for degree in (1, 3, 2):
            told.append((yield {"degree": degree}))

    monkeypatch.setattr(tpe, "proposed", proposed)
    asked = Settings(propose=3, layout="1x1")
    rows = swept(tmp_path, "degree=1:9", "learning_rate=0.1,0.01,1e10", settings=asked)
    assert [row["degree"] for row in rows] == [1] * 3 + [3] * 3 + [2] * 3
    best = [max(row["score"] or -np.inf for row in rows[k : k + 3]) for k in (0, 3)]
    heard = [best[0], *best]  # all over again before each proposal, so that a resume is the same
    np.testing.assert_allclose(told, heard, rtol=1e-6)


@pytest.mark.long
def test_what_a_program_refuses_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna", reason="optuna is in the search extra")

    def picky(config: Any) -> Program:
        if config.degree in (2, 3):
            raise UserError(f"degree {config.degree} is not to be had")
        return fit(config)

    monkeypatch.setattr(FIT, "program", picky)
    asked = Settings(propose=9, layout="1x1")
    rows = swept(tmp_path, "degree=1:6", "learning_rate=0.1,0.01", settings=asked)
    assert sorted({row["degree"] for row in rows}) == [1, 4, 5]
    errors = capsys.readouterr().err
    for degree in (2, 3):
        assert f"proposal left out: degree {degree} is not to be had" in errors


def test_proposals_that_all_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="optuna is in the search extra")

    def picky(config: Any) -> Program:
        if config.degree < 99:
            raise UserError("never")
        return fit(config)

    monkeypatch.setattr(FIT, "program", picky)
    assert refusal(tmp_path, Settings(propose=3), "degree=1:100") == "never"


def test_the_largest_proposal_must_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna", reason="optuna is in the search extra")
    monkeypatch.setattr(devices, "memory_bytes", lambda: 1000)
    words = refusal(tmp_path, Settings(propose=2), "degree=log:1:1000000")
    assert "members at a time need about" in words


@pytest.mark.long
def test_an_ended_sweep_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = swept(tmp_path, RATES)
    page = (tmp_path / "report.html").read_text()

    def epoch(*_: Any) -> Any:
        raise AssertionError("it trains again")

    monkeypatch.setattr(loop, "evaluated", epoch)
    assert swept(tmp_path, RATES) == first
    assert len((tmp_path / "report.html").read_text()) == pytest.approx(len(page), rel=0.01)


def test_a_sweep_leaves_rows_figures_a_page_and_the_best_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = swept(tmp_path, RATES, "seed=0:2", "momentum=0,0.5")
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(
        "sweep of toy: 16 members of 8 configurations in 1 program; 16 at a time on"
    )
    result = json.loads((tmp_path / "result.json").read_text())
    means = {
        rate: np.mean([row["valid_loss"] for row in rows if row["learning_rate"] == rate])
        for rate in (0.3, 0.03, 0.003, 0.1)
    }
    assert result["best_learning_rate"] == min(means, key=means.__getitem__)
    assert (result["members"], result["configurations"], result["evaluations_done"]) == (
        16,
        8,
        16 * EVALUATIONS,
    )
    alone = next(line for line in out if line.startswith("the best alone: ./launch.sh toy "))
    assert f"--learning_rate={result['best_learning_rate']}" in alone
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {"ranking.csv", "by_field.png", "heat_map.png", "members.png"}
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert f"<pre>{alone.removeprefix('the best alone: ')}</pre>" in page


def refusal(tmp_path: Path, settings: Settings, *texts: str) -> str:
    with pytest.raises(UserError) as error:
        run.main(sweep_of(*texts, settings=settings), tmp_path / "none", overwrite=False)
    assert not (tmp_path / "none").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"search": "random"}, "--search=random: say how many configurations to draw"),
        ({"draws": 3}, "--draws: a grid has every combination"),
        ({"layout": "3"}, "--layout: expected auto, measure or DEVICESxTOGETHER, as 2x1, got '3'"),
        ({"layout": "0x1"}, "--layout: expected auto, measure or DEVICESxTOGETHER"),
        ({"layout": "99x1"}, "--layout=99x1: there are"),
        pytest.param(
            {"layout": "2x1", "slots": 3},
            "2 devices cannot share 3 slots equally",
            marks=pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices"),
        ),
        ({"slots": 2}, "--slots: expected at least 3, the seeds of a configuration, got 2"),
        ({"interval": 2}, "--interval: it belongs to --search=pbt, not grid"),
        ({"reduction": 2}, "--reduction: it belongs to --search=halving, not grid"),
        ({"search": "pbt", "first_rung": 2}, "--first_rung: it belongs to --search=halving"),
        ({"propose": 3}, "--propose: it chooses fields that need a program for each value"),
        ({"draw_seed": 1}, "--draw_seed: nothing is drawn"),
        (
            {"search": "pbt", "interval": EVALUATIONS},
            f"every {EVALUATIONS} evaluations, and there are {EVALUATIONS}",
        ),
        (
            {"search": "halving", "first_rung": EVALUATIONS},
            f"no rung lies within {EVALUATIONS} evaluations",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.sweep.layouts.rounded_up", lambda slots, *_: slots)
    assert words in refusal(tmp_path, Settings(**settings), RATES, "seed=0:3")


@pytest.mark.long
def test_more_members_than_memory_are_refused_or_trained_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = swept(tmp_path / "whole", RATES, "seed=0:3")
    monkeypatch.setattr(devices, "memory_bytes", lambda: 1000)
    words = refusal(tmp_path, Settings(slots=99), RATES, "seed=0:200")
    assert "200 members at a time need about" in words
    assert "fit: choose a lower --slots" in words
    assert swept(tmp_path / "turns", RATES, "seed=0:3") == whole
    assert most_at_a_time(tmp_path / "turns") < 12


# Population-based training


PBT = Settings(search="pbt", interval=2, layout="1x1")


@pytest.mark.long
def test_pbt_lets_the_worst_go_on_from_the_best(tmp_path: Path) -> None:
    texts = "learning_rate=0.00001,0.0001,0.001,0.3", "seed=0:2"
    rows = swept(tmp_path / "pbt", *texts, settings=PBT)
    grid = swept(tmp_path / "grid", *texts)
    lines = (tmp_path / "pbt/programs/0/metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    at = [[row for row in found if row["evaluation"] == k] for k in range(1, EVALUATIONS + 1)]
    curves = member_rows(tmp_path / "grid")
    for row in at[0] + at[1]:  # before anyone was replaced
        alone = curves[row["member"]][row["evaluation"] - 1]
        assert row["valid_loss"] == alone["valid_loss"]
    second = {row["member"]: row for row in at[1]}
    third = {row["member"]: row for row in at[2]}
    before = [0.00001, 0.00001, 0.0001, 0.0001, 0.001, 0.001, 0.3, 0.3]  # by member
    order = sorted(second, key=lambda member: second[member]["valid_loss"])
    for member in order[:-2]:
        assert third[member]["learning_rate"] == before[member]
    rates = {before[member] for member in order[:2]}
    for member in order[-2:]:
        moved = {round(rate * factor, 9) for rate in rates for factor in (0.8, 1.0, 1.25)}
        assert third[member]["learning_rate"] in moved
        assert third[member]["valid_loss"] < second[member]["valid_loss"]
    assert [row["seed"] for row in rows] == [0, 1] * 4
    for row in rows:
        own = [each for each in found if each["member"] == row["member"]]
        at_best = [each for each in own if each["valid_loss"] == row["valid_loss"]]
        for each in at_best:  # none where it was reached by the one that it was copied from
            assert each["learning_rate"] == row["learning_rate"]
    worst = [max(row["valid_loss"] for row in each) for each in (rows, grid)]
    assert worst[0] < worst[1]


@pytest.mark.long
def test_pbt_ranks_each_member_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = swept(tmp_path, "learning_rate=0.1", "seed=0:4", settings=PBT)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["configurations"] == 4
    assert result["valid_loss"] == min(row["valid_loss"] for row in rows)
    assert "the values at the best, from the start" in capsys.readouterr().out


@pytest.mark.long
def test_pbt_lets_a_diverged_member_go_on_from_another(tmp_path: Path) -> None:
    texts = ("learning_rate=0.001,0.01,0.03,0.1,1e10,1e11,1e12",)
    rows = swept(tmp_path, *texts, settings=PBT)
    assert {row["status"] for row in rows} == {"finished"}
    lines = (tmp_path / "programs/0/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 7 * EVALUATIONS
    assert max(row["learning_rate"] for row in rows) <= 1


@pytest.mark.long
def test_pbt_of_members_that_all_diverge_ends(tmp_path: Path) -> None:
    asked = sweep_of("learning_rate=1e10,1e11", settings=PBT)
    assert run.main(asked, tmp_path, overwrite=False) == 3
    assert {row["status"] for row in rows_in(tmp_path)} == {"diverged"}


@pytest.mark.long
def test_pbt_of_one_value_keeps_it(tmp_path: Path) -> None:
    rows = swept(tmp_path, "learning_rate=0.1", "seed=0:4", settings=PBT)
    assert {row["learning_rate"] for row in rows} == {0.1}
    assert all(row["status"] == "finished" for row in rows)


@pytest.mark.long
def test_population_based_training_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = "learning_rate=log:1e-4:0.3:6", "seed=0:2"
    whole = swept(tmp_path / "whole", *texts, settings=PBT)
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", -1)
    killed_at(6, monkeypatch, tmp_path / "killed", *texts, settings=PBT)
    assert swept(tmp_path / "killed", *texts, settings=PBT) == whole


def test_pbt_needs_all_members_at_once(tmp_path: Path) -> None:
    words = refusal(tmp_path, dataclasses.replace(PBT, slots=4), RATES, "seed=0:3")
    assert "--search=pbt: 12 members must train at the same time, and 4 do" in words


@pytest.mark.parametrize("members", range(9))
def test_exploit_copies_the_best_quarter_to_the_worst(members: int) -> None:
    scores: dict[int, float | None] = {k: -float(k) for k in range(members)}
    scores |= dict.fromkeys(range(max(0, members - 1), members))
    found = pbt.exploit(scores, np.random.default_rng(0))
    count = 0 if members < 2 else 1 if members < 6 else 2
    assert sorted(found) == list(range(members))[members - count :]
    assert set(found.values()) <= set(range(count))


def test_exploit_replaces_all_that_diverged() -> None:
    scores = {0: -3.0, 1: None, 2: None, 3: -1.0, 4: None, 5: -2.0}
    found = pbt.exploit(scores, np.random.default_rng(0))
    assert sorted(found) == [1, 2, 4]
    assert set(found.values()) <= {3, 5, 0}
    assert pbt.exploit(dict.fromkeys(range(5)), np.random.default_rng(0)) == {}
    assert pbt.exploit({0: -1.0, 1: None}, np.random.default_rng(0)) == {1: 0}


@pytest.mark.long
def test_explore_stays_in_the_range_of_each_axis() -> None:
    texts = ("learning_rate=log:1e-3:1e-1", "dropout=0,0.3", "cell=lstm,gru", "seed=0:3")
    known = options(sequential_digits.Config)
    axes, source = read_axes(texts, known), np.random.default_rng(0)
    point = {"learning_rate": 0.09, "dropout": 0.28, "cell": "gru", "seed": 2}
    seen = [pbt.explore(point, axes, known, source) for _ in range(50)]
    assert {each["learning_rate"] for each in seen} == {0.072, 0.1}
    assert {each["dropout"] for each in seen} == {0.224, 0.3}
    assert {(each["cell"], each["seed"]) for each in seen} == {("gru", 2)}
