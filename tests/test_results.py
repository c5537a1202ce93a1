"""The page of results: from runs of this tree alone, chosen on validation, with every seed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from docs import make_results, make_tried
from docs.make_results import Line

LINE = Line("image_cnn", "digits", {"data": "digits"}, "test_accuracy", "{:.1%}", "99 % (a paper)")


def write(folder: Path, seed: int, valid: float, test: float, **changed: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"data": "digits", "learning_rate": 0.001, "seed": seed}
    result = {
        **{"experiment": "image_cnn", "seed": seed, "select": "loss", "higher_is_better": False},
        **{"valid_loss": valid, "test_accuracy": test, "train_seconds": 120.0},
        **{"finished": "2026-01-02T03:04:05Z", "best_step": 7},
    }
    origin = {"commit": "abc", "clean": True}
    origin |= {k: v for k, v in changed.items() if k in origin}
    config |= {k: v for k, v in changed.items() if k in config}
    result |= {k: v for k, v in changed.items() if k in result}
    (folder / "config.json").write_text(json.dumps({"config": config, "origin": origin}))
    (folder / "result.json").write_text(json.dumps(result))


def rows_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    monkeypatch.setattr(make_results, "LINES", (LINE,))
    page = make_results.page([*make_results.finished([folder])])
    assert page.startswith(make_results.HEAD)
    return page.removeprefix(make_results.HEAD).splitlines()


def test_the_configuration_is_chosen_on_validation_and_all_its_seeds_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", 1, valid=0.3, test=0.90)
    write(tmp_path / "b", 0, valid=0.1, test=0.80)
    write(tmp_path / "c", 0, valid=0.25, test=0.999, learning_rate=0.1)  # better on the test alone
    (row,) = rows_of(tmp_path, monkeypatch)
    assert row == (
        "| `image_cnn`: digits | 99 % (a paper) | **85.0%** | 80.0%, 90.0% (0, 1), "
        "2 configurations tried | 2.0 | `./launch.sh image_cnn` |"
    )


def test_other_trainings_may_judge_among_configurations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the same configuration, but for one field; one that none judged comes last."""
    write(tmp_path / "a", 0, valid=0.3, test=0.90)
    write(tmp_path / "b", 0, valid=0.1, test=0.80, learning_rate=0.1)
    write(tmp_path / "c", 0, valid=0.01, test=0.99, learning_rate=0.2)
    write(tmp_path / "d", 0, valid=0.5, test=0.1, data="other")
    write(tmp_path / "e", 0, valid=0.6, test=0.1, data="other", learning_rate=0.1)
    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    runs = [*make_results.finished([tmp_path])]
    line = LINE._replace(judged_by={"data": "other"})
    (row,) = make_results.rows(line, runs)
    assert (
        "| **90.0%** | 90.0% (0), 3 configurations tried | 2.0 | `./launch.sh image_cnn` |" in row
    )
    monkeypatch.setattr(make_results, "LINES", (line,))
    make_results.main([tmp_path], tmp_path)
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 5
    shown = make_tried.section(line, "", runs).splitlines()[-3:]
    assert [each.split("|")[2].strip() for each in shown] == ["loss 0.5", "loss 0.6", "-"]


def test_a_run_older_than_a_field_has_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", 0, valid=0.3, test=0.90)
    write(tmp_path / "b", 1, valid=0.1, test=0.80)
    file = tmp_path / "b" / "config.json"
    found = json.loads(file.read_text())
    found["config"]["dropout"] = 0.2  # as by default
    file.write_text(json.dumps(found))
    (row,) = rows_of(tmp_path, monkeypatch)
    assert "| 90.0%, 80.0% (0, 1) |" in row


def test_a_run_older_than_a_field_did_what_was_done_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", 0, valid=0.3, test=0.90)
    monkeypatch.setattr(make_results, "OLDER", {"image_cnn": {"dropout": 0.75}})
    make_results.defaults.cache_clear()
    (row,) = rows_of(tmp_path, monkeypatch)
    make_results.defaults.cache_clear()
    assert row.endswith("| `./launch.sh image_cnn --dropout=0.75` |")


def test_the_values_of_another_field_stand_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fold, test in ((3, 0.9), (1, 0.8)):
        write(tmp_path / str(fold), 0, valid=0.3, test=test)
        file = tmp_path / str(fold) / "config.json"
        found = json.loads(file.read_text())
        found["config"]["held_out"] = fold
        file.write_text(json.dumps(found))
    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    monkeypatch.setattr(make_results, "defaults", lambda name: {})
    monkeypatch.setattr(make_results, "LINES", (LINE._replace(over="held_out"),))
    page = make_results.page([*make_results.finished([tmp_path])])
    assert "| **85.0%** | 80.0%, 90.0% (held_out 1, 3) |" in page


def test_a_limit_of_minutes_is_of_the_mean_of_seeds_so_that_none_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", 0, valid=0.3, test=0.90, train_seconds=170.0)
    write(tmp_path / "b", 1, valid=0.3, test=0.80, train_seconds=185.0)
    write(tmp_path / "c", 0, valid=0.1, test=0.99, train_seconds=181.0, learning_rate=0.1)
    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    runs = [*make_results.finished([tmp_path])]
    (row,) = make_results.rows(LINE._replace(minutes=3), runs)
    assert "| **85.0%** | 90.0%, 80.0% (0, 1) | 3.0 |" in row
    assert not [*make_results.rows(LINE._replace(minutes=2.9), runs)]


def test_the_figures_of_the_readme_are_those_of_the_page() -> None:
    readme, page = (make_results.ROOT / name for name in ("README.md", "docs/results.md"))
    short = readme.read_text().partition("| experiment | published | here |\n|---|---|---|\n")[2]
    rows = [line.strip("|").split("|") for line in short.partition("\n\n")[0].splitlines()]
    shown = re.findall(r"^\| `(\w+)`.* \*\*([\d.]+).*?\*\* ", page.read_text(), re.M)
    found = [(name.split("`")[1], here.split()[0]) for name, _, here in rows]
    assert found
    assert {*found} <= {*shown}


def test_of_one_seed_the_last_run_counts_and_one_that_diverged_is_no_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", 0, valid=0.2, test=0.7)
    write(tmp_path / "best", 0, valid=0.2, test=0.8, finished="2026-02-02T03:04:05Z")
    write(tmp_path / "c", 0, valid=float("nan"), test=0.1, learning_rate=1.0)
    (row,) = rows_of(tmp_path, monkeypatch)
    assert "| **80.0%** | 80.0% (0), 2 configurations tried |" in row


def test_a_path_of_one_machine_is_the_name_of_its_field() -> None:
    found = make_results.without_places({"classifier": "/runs/a b", "data": "mnist", "seed": 1})
    assert found == {"classifier": "CLASSIFIER", "data": "mnist", "seed": 1}


def test_a_number_of_another_file_is_of_the_weights_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beam = LINE._replace(metric="exact", file="evaluation.json")
    write(tmp_path / "a", 0, valid=0.2, test=0.7)

    def shown() -> str:
        (run,) = make_results.finished([tmp_path])
        return "".join(make_results.rows(beam, [run]))

    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    assert shown() == ""
    for changed, there in (({}, True), ({"best_step": 6}, False), ({"clean": False}, False)):
        found = {"exact": 0.75, "best_step": 7, "clean": True} | changed
        (tmp_path / "a" / "evaluation.json").write_text(json.dumps(found))
        assert ("**75.0%**" in shown()) == there


def test_the_best_of_those_that_were_measured_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    write(tmp_path / "best", 0, valid=0.1, test=0.7)
    for name, valid, exact in (("second", 0.2, 0.75), ("third", 0.3, 0.5)):
        write(tmp_path / name, 0, valid, test=0.7, learning_rate=valid)
        found = {"exact": exact, "best_step": 7, "clean": True}
        (tmp_path / name / "evaluation.json").write_text(json.dumps(found))
    beam = LINE._replace(metric="exact", file="evaluation.json")
    (row,) = make_results.rows(beam, [*make_results.finished([tmp_path])])
    assert "| **75.0%** | 75.0% (0), 2 configurations tried |" in row


def test_the_page_is_made_of_what_is_kept_beside_it() -> None:
    docs = make_results.ROOT / "docs"
    kept = make_results.read(docs / "results.jsonl")
    assert make_results.page(kept) == (docs / "results.md").read_text()


@pytest.mark.parametrize("name", ["config.json", "result.json", "evaluation.json", "sweep.jsonl"])
def test_a_damaged_file_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    write(tmp_path / "a", 0, valid=0.2, test=0.5)
    if name == "sweep.jsonl":
        file = tmp_path / "a" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"axes": {"seed": {}}}))
    (tmp_path / "a" / name).write_text("{\n{\n")
    with pytest.raises(SystemExit, match=f"error: .*{name}.*damaged"):
        make_results.main([tmp_path], tmp_path)


@pytest.mark.parametrize("changed", [{"clean": False}, {"commit": "def"}, {"data": "mnist"}])
def test_a_run_of_another_tree_or_of_other_data_is_left_out(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", 0, 0.1, 0.9, **changed)
    assert rows_of(tmp_path, monkeypatch) == []


def test_members_of_a_sweep_are_runs_that_share_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 0, 0.0, 0.0)
    for inside in ("best", "members/1"):  # members as they are kept, not other runs
        write(tmp_path / inside, 0, 0.0, 0.0)
    identity = json.loads((tmp_path / "config.json").read_text())
    identity["config"]["learning_rate"] = 0.1
    identity["axes"] = {"seed": {}}
    (tmp_path / "config.json").write_text(json.dumps(identity))
    scores = {"valid_loss": 0.1, "test_accuracy": 0.5}
    members = [{"member": k, "seed": k, **scores} for k in range(3)]
    for row in members:
        row["test_accuracy"] += row["seed"] / 10
    (tmp_path / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in members))
    (row,) = rows_of(tmp_path, monkeypatch)
    assert "**60.0%** | 50.0%, 60.0%, 70.0% (0, 1, 2), 3 trained together | 0.7 | " in row
    assert row.endswith("`./launch.sh image_cnn --learning_rate=0.1` |")


def test_members_that_were_kept_may_have_numbers_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    write(tmp_path, 0, 0.0, 0.0)
    identity = json.loads((tmp_path / "config.json").read_text()) | {"axes": {"seed": {}}}
    (tmp_path / "config.json").write_text(json.dumps(identity))
    members = [{"seed": k, "member": k, "valid_loss": 0.1} for k in range(2)]
    (tmp_path / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in members))
    for k, exact in enumerate((0.5, 0.75)):
        write(tmp_path / "members" / str(k), k, 0.0, 0.0)
        found = {"exact": exact, "best_step": 7, "clean": True}
        (tmp_path / "members" / str(k) / "evaluation.json").write_text(json.dumps(found))
    beam = LINE._replace(metric="exact", file="evaluation.json")
    (row,) = make_results.rows(beam, [*make_results.finished([tmp_path])])
    assert "| **62.5%** | 50.0%, 75.0% (0, 1), 2 trained together |" in row


def test_runs_that_are_no_longer_there_stay_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    monkeypatch.setattr(make_results, "LINES", (LINE,))
    (docs := tmp_path / "docs").mkdir()
    write(tmp_path / "a", 0, valid=0.2, test=0.5)
    make_results.main([tmp_path / "a"], docs)
    write(tmp_path / "b", 1, valid=0.2, test=0.7)
    make_results.main([tmp_path / "b"], docs)
    write(tmp_path / "b", 1, valid=0.2, test=0.9, finished="2026-02-02T03:04:05Z")
    make_results.main([tmp_path / "b"], docs)
    assert "| **70.0%** | 50.0%, 90.0% (0, 1) |" in (docs / "results.md").read_text()
    write(tmp_path / "c", 0, valid=0.2, test=0.7, data="other")  # which no line of the page is of
    make_results.main([tmp_path / "c"], docs)
    assert len((docs / "results.jsonl").read_text().splitlines()) == 2
    monkeypatch.setattr(make_results, "commits", set)  # a tree that never had that commit
    with pytest.raises(SystemExit, match="no finished run of this tree"):
        make_results.main([], docs)


def test_commits_are_those_of_this_repository() -> None:
    if not (make_results.ROOT / ".git").exists():
        pytest.skip("it is no clone")
    assert all(len(commit) == 40 for commit in make_results.commits())


def test_each_line_names_fields_that_there_are() -> None:
    for line in make_results.LINES:
        config = make_results.catalogue.load(line.experiment).module.Config()
        assert hasattr(config, line.over)
        for name, value in (line.fields | line.judged_by).items():
            for each in make_results.allowed(value):
                assert type(getattr(config, name)) is type(each), (line.experiment, name)


def test_what_was_tried_is_of_the_runs_that_are_kept() -> None:
    runs = make_results.read(make_results.ROOT / "docs" / "results.jsonl")
    assert (make_results.ROOT / "docs" / "tried.md").read_text() == make_tried.page(runs)


def test_every_configuration_is_shown_by_its_validation_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", 1, valid=0.3, test=0.90)
    write(tmp_path / "b", 0, valid=0.1, test=0.80)
    write(tmp_path / "c", 0, valid=0.25, test=0.999, learning_rate=0.1)
    monkeypatch.setattr(make_results, "commits", lambda: {"abc"})
    shown = make_tried.section(LINE, "A note.", [*make_results.finished([tmp_path])])
    assert shown.splitlines()[3:] == [
        "A note.",
        "",
        "| flags | validation | test, by seed | minutes |",
        "|---|---|---|---|",
        "| `as by default` | loss 0.2 | 80.0%, 90.0% (mean 85.0%) | 2.0 |",
        "| `--learning_rate=0.1` | loss 0.25 | 99.9% | 2.0 |",
    ]
    assert make_tried.section(LINE, "A note.", []) == ""
