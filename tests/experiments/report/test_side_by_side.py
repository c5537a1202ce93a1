"""Runs and sweeps on one page."""

import html
import json
import re
from pathlib import Path

import pytest
from matplotlib.cbook import is_math_text

from experiments import __main__
from experiments.harness.errors import UserError
from experiments.harness.program import Table
from experiments.report import side_by_side

FLAGS = ("--hidden_size=4", "--epochs=2", "--batch_size=256", "--cell=elman")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    base = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", "0.0001"), ("quick", "0.03")):
        flags = [f"--learning_rate={rate}", f"--workdir={base / name}"]
        assert __main__.main(["sequential_digits", *FLAGS, *flags]) == 0
    sweep = ["--sweep=learning_rate=0.01,0.0002", "--sweep=seed=0:2", f"--workdir={base / 'many'}"]
    assert __main__.main(["sweep", "sequential_digits", *FLAGS, *sweep]) == 0
    return [str(base / name) for name in ("slow", "many", "quick")]


@pytest.mark.long
def test_the_best_comes_first_with_what_differs(folders: list[str], tmp_path: Path) -> None:
    assert __main__.main(["report", *folders, f"--out={tmp_path}/page/all.html"]) == 0
    page = (tmp_path / "page/all.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    entries = [side_by_side.read(Path(folder), Path(folder).name) for folder in folders]
    results, settings, *_ = side_by_side.exhibits_of(entries, [entries[0].select])
    assert isinstance(results, Table)
    assert isinstance(settings, Table)
    assert results.columns[:2] == ["run", "valid_loss"]
    losses = [float(line[1]) for line in results.rows]
    assert losses == sorted(losses)
    assert results.rows[-1][0] == "slow"
    names = [line[0] for line in results.rows]
    assert settings.columns == ["setting", *names]
    values = {name: values for name, *values in settings.rows}
    assert list(values) == ["seed", "learning_rate"]
    rates = dict(zip(names, values["learning_rate"], strict=True))
    assert rates == {"slow": "0.0001", "quick": "0.03", "many": "0.01"}
    for line in [*results.rows, *settings.rows]:
        for cell in line:
            assert f'<td class="value">{cell}</td>' in page
    headings = [re.escape(heading) for heading in (results.heading, settings.heading)]
    assert re.search(".*".join([*headings, "Validation loss after each"]), page, re.DOTALL)
    assert "Of a sweep they are means over the members of its best configuration" in page


def finished(folder: Path, metric: str, higher: bool, value: float) -> str:
    """A run folder as a finished run leaves it."""
    folder.mkdir()
    identity = {"experiment": "toy", "config": {"seed": 0}, "sources": {}}
    result = {"select": metric, "higher_is_better": higher, "report": metric}
    row = {"step": 1, "evaluation": 1, f"valid_{metric}": value}
    (folder / "config.json").write_text(json.dumps(identity))
    (folder / "result.json").write_text(json.dumps(result | {f"valid_{metric}": value}))
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return str(folder)


@pytest.mark.parametrize(("higher", "best"), [(True, "b"), (False, "a")])
def test_runs_are_ranked_in_the_direction_of_their_metric(
    higher: bool, best: str, tmp_path: Path
) -> None:
    values = {"a": -7.0, "b": 2.5}
    paths = [finished(tmp_path / n, "return", higher, value) for n, value in values.items()]
    entries = [side_by_side.read(Path(path), Path(path).name) for path in paths]
    table, *_ = side_by_side.exhibits_of(entries, [entries[0].select])
    assert isinstance(table, Table)
    assert table.name == "ranking"
    assert table.rows[0][0] == best
    most = "highest" if higher else "lowest"
    assert side_by_side.headline_of(entries, [entries[0].select]) == [
        (f"{most} validation return, {values[best]:g}, at its best evaluation", best)
    ]


def test_runs_of_different_metrics_are_not_ranked_together(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", "return", True, 3.0)
    other = finished(tmp_path / "other", "distance", False, 0.1)
    side_by_side.compare([one, other], tmp_path / "all.html")
    page = (tmp_path / "all.html").read_text()
    (note,) = re.findall('<p class="note" role="note">(.*)</p>', page)
    assert note.startswith("These runs cannot be ranked together")
    assert note.endswith("different metrics (highest return, lowest distance).")
    assert page.index(note) < page.index("Results") < page.index("Validation return")
    assert "best first" not in page
    assert "Which did best" not in page
    assert "<dl" not in page
    assert 'class="ranking"' not in page
    assert page.count("data:image/png;base64,") == 2
    assert page.index(">one<") < page.index(">other<")


def test_runs_of_one_metric_in_two_directions_are_drawn_together_but_not_ranked(
    tmp_path: Path,
) -> None:
    paths = [finished(tmp_path / str(k), "bits/char", bool(k), 3.0) for k in range(2)]
    side_by_side.compare(paths, tmp_path / "all.html")
    page = (tmp_path / "all.html").read_text()
    assert "cannot be ranked together" in page
    assert "(lowest bits/char, highest bits/char)" in page
    assert page.count("data:image/png;base64,") == 1


def test_runs_without_a_score_have_no_best(tmp_path: Path) -> None:
    paths = [finished(tmp_path / str(k), "loss", False, 3.0) for k in range(2)]
    result = {"select": "loss", "higher_is_better": False, "report": "loss", "valid_loss": None}
    (tmp_path / "0/result.json").write_text(json.dumps(result))
    entries = [side_by_side.read(Path(path), Path(path).name) for path in paths]
    metrics = [entries[0].select]
    table, *others = side_by_side.exhibits_of(entries, metrics)
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["1", "0"]
    assert [each.name for each in others] == ["curves_1"]  # no setting differs
    label = "lowest validation loss, 3, at its best evaluation"
    assert side_by_side.headline_of(entries, metrics) == [(label, "1")]
    assert side_by_side.headline_of(entries[:1], metrics) == []
    side_by_side.compare(paths[:1], tmp_path / "page.html")
    assert "No score" in str(side_by_side.draw(entries[:1], "loss", "x").figure.get_suptitle())


@pytest.mark.parametrize("name", ["_hidden", "$a$ $b$", "<b>bold<b>"])
def test_the_name_of_a_folder_is_shown_as_it_is(name: str, tmp_path: Path) -> None:
    paths = [finished(tmp_path / each, "loss", False, 3.0) for each in (name, "other")]
    side_by_side.compare(paths, tmp_path / "all.html")
    assert f">{html.escape(name)}<" in (tmp_path / "all.html").read_text()
    entries = [side_by_side.read(Path(path), Path(path).name) for path in paths]
    legend = side_by_side.draw(entries, "loss", "x").figure.axes[0].get_legend()
    assert legend is not None
    drawn = [text.get_text() for text in legend.get_texts()]
    assert [text.replace("\u200b", "").replace(r"\$", "$") for text in drawn] == [name, "other"]
    assert not is_math_text(drawn[0])


def test_rows_of_a_sweep_are_grouped_by_member_over_its_programs(tmp_path: Path) -> None:
    programs = {"a": [(0, 1), (2, 1), (0, 2)], "b": [(1, 1)]}
    for name, order in programs.items():
        (tmp_path / "programs" / name).mkdir(parents=True)
        rows = [{"member": member, "evaluation": k, "step": 5 * k} for member, k in order]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "programs" / name / "metrics.jsonl").write_text(lines)
    found = side_by_side.member_rows(tmp_path)
    steps = {member: [row["step"] for row in rows] for member, rows in found.items()}
    assert steps == {0: [5, 10], 1: [5], 2: [5]}


def test_a_result_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path / "old", "loss", False, 1.0)
    (tmp_path / "old/result.json").write_text('{"valid_loss": 1.0}')
    with pytest.raises(UserError, match="an earlier version wrote it; make it again"):
        side_by_side.compare([folder], tmp_path / "all.html")
    assert not (tmp_path / "all.html").exists()


WHOLE = {"valid_loss": 1.0, "select": "loss", "best_rate": 0.1}
ROW = '{"step": 1, "evaluation": 1, "member": 0, "valid_loss": 1.0}\n'


def swept(folder: Path) -> str:
    """A folder as a finished sweep leaves it."""
    finished(folder, "loss", False, 1.0)
    identity = {"experiment": "toy", "config": {}, "sources": {}, "axes": {"rate": "0.1"}}
    (folder / "config.json").write_text(json.dumps(identity))
    (folder / "result.json").write_text(json.dumps(WHOLE))
    (folder / "sweep.jsonl").write_text('{"member": 0, "rate": 0.1}\n')
    (folder / "programs/0").mkdir(parents=True)
    (folder / "programs/0/metrics.jsonl").write_text(ROW)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", '{"experiment": "toy", "sources": {}, "axes": {}}'),
        ("config.json", '{"experiment": "toy", "config": 3, "sources": {}, "axes": {}}'),
        ("config.json", '{"experiment": "toy", "config": {}, "sources": {}, "axes": 3}'),
        ("result.json", json.dumps(WHOLE | {"valid_loss": "x"})),
        ("result.json", json.dumps(WHOLE | {"valid_loss": [1.0]})),
        ("result.json", json.dumps(WHOLE | {"valid_loss": 10**400})),
        ("result.json", '{"select": "loss", "valid_loss": 1.0}'),
        ("sweep.jsonl", "{"),
        ("sweep.jsonl", "[]\n"),
        ("sweep.jsonl", "[" * 100_000),
        ("sweep.jsonl", '{"rate": 0.1}\n'),
        ("sweep.jsonl", None),
        ("programs/0/metrics.jsonl", ROW.replace('"member": 0', '"member": []')),
        ("programs/0/metrics.jsonl", ROW.replace('"member": 0', '"x": 0')),
        ("programs/0/metrics.jsonl", ROW.replace('"step": 1', '"step": {}')),
        ("programs/0/metrics.jsonl", ROW.replace("1.0", '"x"')),
        ("programs/0/metrics.jsonl", None),
    ],
)
def test_a_file_of_a_run_that_holds_something_else_is_a_sentence(
    name: str, text: str | None, tmp_path: Path
) -> None:
    folder = swept(tmp_path / "many")
    side_by_side.compare([folder], tmp_path / "all.html")
    (tmp_path / "all.html").unlink()
    file = tmp_path / "many" / name
    file.unlink()
    file.mkdir() if text is None else file.write_text(text)
    with pytest.raises(UserError, match=re.escape(str(file))):
        side_by_side.compare([folder], tmp_path / "all.html")
    assert not (tmp_path / "all.html").exists()


def test_a_run_without_rows_has_no_curve_and_no_legend(tmp_path: Path) -> None:
    folder = finished(tmp_path / "empty", "loss", False, 1.0)
    (tmp_path / "empty" / "metrics.jsonl").write_text("")
    side_by_side.compare([folder], tmp_path / "all.html")
    assert (tmp_path / "all.html").exists()


@pytest.mark.long
def test_a_trained_sweep_is_drawn_by_its_winners(folders: list[str]) -> None:
    entry = side_by_side.read(Path(folders[1]), "many")
    assert [len(rows) for rows in entry.curves] == [2, 2]
    assert {row["member"] for rows in entry.curves for row in rows} == {0, 1}


def test_a_sweep_is_drawn_by_its_winners(tmp_path: Path) -> None:
    folder = Path(swept(tmp_path / "many"))
    members = [{"member": k, "rate": 0.1 if k < 2 else 0.5, "seed": k % 2} for k in range(4)]
    (folder / "sweep.jsonl").write_text("".join(json.dumps(each) + "\n" for each in members))
    rows = [{**json.loads(ROW), "member": k, "step": 5 * n} for n in (1, 2) for k in range(4)]
    (folder / "programs/0/metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    entry = side_by_side.read(folder, "many")
    assert [len(rows) for rows in entry.curves] == [2, 2]
    assert {row["member"] for rows in entry.curves for row in rows} == {0, 1}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "report: say which run directories"),
        (["nowhere"], "nowhere holds no finished run or sweep"),
        (["--ot=x"], "There is no flag --ot"),
    ],
)
def test_a_comparison_of_nothing_is_refused(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(["report", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    run = finished(tmp_path / "run", "loss", False, 1.0)
    assert __main__.main(["report", run, f"--out={tmp_path}/file/x.html"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_runs_in_folders_of_one_name_are_told_apart_by_longer_names() -> None:
    paths = [Path("a/default"), Path("b/default"), Path("b/other")]
    assert side_by_side.names_of(paths) == ["a/default", "b/default", "b/other"]
    assert side_by_side.names_of([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert side_by_side.names_of([Path("a/x"), Path("a/x")]) == ["1 x", "2 x"]


def test_a_page_replaces_an_earlier_comparison_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [finished(tmp_path / "one", "loss", False, 1.0), swept(tmp_path / "many")]
    own = Path(folders[0]) / "report.html"
    own.write_text("the page of the run")
    notes = tmp_path / "notes.html"
    notes.write_text("precious")
    for out in (own, notes, tmp_path / "notes.md"):
        before = out.read_bytes() if out.exists() else None
        assert __main__.main(["report", folders[0], f"--out={out}"]) == 2
        assert "--out: " in capsys.readouterr().err
        assert (out.read_bytes() if out.exists() else None) == before
    for _ in range(2):
        assert __main__.main(["report", *folders[:2], f"--out={tmp_path}/all.html"]) == 0
    pages = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert sorted(pages) == ["all.html", "notes.html"]


@pytest.mark.long
def test_a_sweep_without_a_seed_axis_has_the_seed_it_was_given(tmp_path: Path) -> None:
    flags = [*FLAGS, "--seed=7", "--sweep=learning_rate=0.01,0.001", f"--workdir={tmp_path / 's'}"]
    assert __main__.main(["sweep", "sequential_digits", *flags]) == 0
    assert side_by_side.read(tmp_path / "s", "s").fields["seed"] == 7


@pytest.mark.parametrize(
    ("runs", "page"),
    [
        (["idea/a"], "idea"),
        (["idea/a", "idea/b"], "idea"),
        (["idea/a", "other/b"], "."),
        (["sweep/idea/s", "sweep/idea/s/best"], "sweep/idea"),
        (["sweep/idea/s/best"], "sweep/idea"),
    ],
)
def test_the_page_lies_beside_the_runs_and_takes_no_page_of_a_sweep(
    runs: list[str], page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sweep" / "idea" / "s").mkdir(parents=True)
    (tmp_path / "sweep" / "idea" / "s" / "config.json").write_text("{}")
    expected = (tmp_path / page / "report.html").resolve()
    assert side_by_side.beside([str(tmp_path / run) for run in runs]) == expected
    monkeypatch.chdir(tmp_path)
    assert side_by_side.beside(runs).resolve() == expected
    assert side_by_side.beside(["/one/run", "/another/run"]).resolve().parent == tmp_path.resolve()


def test_the_help_of_report_names_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["report", "--help"]) == 0
    assert "--out" in capsys.readouterr().out
