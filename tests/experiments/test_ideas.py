"""An experiment is one file anywhere: trained, swept, noticed when edited, used when trained."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest

from experiments import __main__, load_run, run, run_sweep
from experiments.harness.errors import UserError
from experiments.harness.runs import members_of

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--epochs=1", "--hidden_size=4", "--length=3", "--batch_size=512")
FIELDS: dict[str, Any] = {"epochs": 1, "hidden_size": 4, "length": 3, "batch_size": 512}
LENGTH = '    length: int = option(20, "T, steps of a sequence", minimum=1)\n'
WORKED = sorted((ROOT / "docs" / "experiments").glob("*.py"))


def worked(name: str) -> Path:
    return ROOT / "docs" / "experiments" / f"{name}.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an idea that has been trained, named ``base``."""
    folder = tmp_path_factory.mktemp("ideas")
    assert __main__.main(["new", str(folder / "idea.py")]) == 0
    (folder / "parts.py").write_text("STEP = 1\n")
    with open(folder / "idea.py", "a") as file:
        file.write("\nimport parts\n")
    assert __main__.main([str(folder / "idea.py"), *SMALL, "--name=base"]) == 0
    return folder


@pytest.fixture(scope="module")
def swept(trained: Path) -> None:
    """Sweep that idea, too."""
    axes = ["--sweep=learning_rate=0.01,0.03", "--sweep=seed=0:2", "--name=base"]
    assert __main__.main(["sweep", str(trained / "idea.py"), *SMALL, *axes]) == 0


@pytest.fixture
def idea(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of that folder, which a test may change."""
    return shutil.copytree(trained, tmp_path / "copy")


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    capfd.readouterr()
    assert __main__.main(list(arguments)) == 2
    err = capfd.readouterr().err
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.long
def test_the_run_lies_beside_the_file_and_says_what_code_it_is_of(trained: Path) -> None:
    result = json.loads((trained / "runs" / "idea" / "base" / "result.json").read_text())
    assert result["experiment"] == "idea"
    assert {"recurrent", "jax", "flax", "optax"} <= result.keys()
    if shutil.which("git") and (ROOT / ".git").exists():
        head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        commit = subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip()
        assert result["commit"] == commit
        assert isinstance(result["clean"], bool)


@pytest.mark.usefixtures("swept")
@pytest.mark.long
@pytest.mark.parametrize("file", ["idea.py", "parts.py"])
def test_an_edited_file_never_gives_the_old_figure(
    idea: Path, capfd: pytest.CaptureFixture[str], file: str
) -> None:
    word, swept = str(idea / "idea.py"), ["--sweep=learning_rate=0.01,0.03", "--sweep=seed=0:2"]
    assert __main__.main([word, *SMALL, "--name=base"]) == 0
    assert "finished already" in capfd.readouterr().out
    with open(idea / file, "a") as stream:
        stream.write("# edited\n")
    for command in ([word, *SMALL], ["sweep", word, *SMALL, *swept]):
        line = refused(capfd, *command, "--name=base")
        assert f"{file} has changed since" in line
        assert "--overwrite" in line
        assert "--name" in line


def test_a_trained_run_is_used_from_anywhere(idea: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    found = load_run(idea / "runs" / "idea" / "base")
    assert found.config.length == 3
    assert found.kept["layer_1"]["kernel"].shape == (4, 1)
    assert found.result["steps"] == 2
    assert found.experiment.name == "idea"


def test_code_that_changed_since_the_training_is_warned_of(
    idea: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (idea / "parts.py").write_text("STEP = 2\n")
    base = idea / "runs" / "idea" / "base"
    load_run(base)
    assert "warning: parts.py has changed since the run" in capfd.readouterr().err
    with open(idea / "idea.py", "a") as file:
        file.write("# edited\n")
    assert __main__.main(["info", str(base)]) == 0
    said = capfd.readouterr()
    assert "\nidea.py, parts.py have changed since it was begun" in said.out
    assert "warning: idea.py, parts.py have changed since the run" in said.err
    line = refused(capfd, str(idea / "idea.py"), *SMALL, "--name=base")
    assert "idea.py, parts.py have changed since the run" in line


@pytest.mark.parametrize("command", [[], ["sweep"]])
def test_fields_of_a_run_of_other_code_are_warned_of(
    idea: Path, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    fields = f"--config={idea / 'runs' / 'idea' / 'base' / 'config.json'}"
    asked = [*command, str(idea / "idea.py"), fields, "--hidden_size=0"]  # refused later
    assert __main__.main(asked) == 2
    assert "warning" not in capfd.readouterr().err
    (idea / "parts.py").write_text("STEP = 2\n")
    assert __main__.main(asked) == 2
    (line,) = [each for each in capfd.readouterr().err.splitlines() if "warning" in each]
    assert line.startswith("warning: parts.py has changed since the run of ")
    assert line.endswith("other code is trained now.")


@pytest.mark.long
def test_the_commands_that_info_lists_can_be_pasted(
    idea: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = idea / "runs" / "idea"
    base = (runs / "base").rename(runs / "of two words")
    assert __main__.main(["info", str(base)]) == 0
    _, _, listed = capfd.readouterr().out.partition("\nCommands\n")
    lines = [shlex.split(line, comments=True) for line in listed.splitlines()]
    assert [line[0] for line in lines] == ["./launch.sh"] * 3
    assert [line[1] for line in lines] == ["guess", str(idea / "idea.py"), "report"]
    for line in lines:
        assert __main__.main(line[1:]) == 0
    assert (runs / "again" / "result.json").exists()
    assert (runs / "report.html").exists(), "beside the run"


def test_a_command_of_a_run_wants_its_run(capfd: pytest.CaptureFixture[str]) -> None:
    assert "give its run: ./launch.sh judge RUN" in refused(capfd, "judge")
    assert "give its run" not in refused(capfd, "sequential_digit"), "it says what was meant"


@pytest.mark.long
def test_the_page_shows_how_to_predict(
    idea: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "experiment.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (block,) = [each for each in blocks if "predictions" in each]
    idea = idea.rename(idea.parent / "ideas")
    (idea / "runs" / "idea").rename(idea / "runs" / "recall")
    run_folder = (idea / "runs" / "recall" / "base").rename(idea / "runs" / "recall" / "default")
    monkeypatch.setenv("HOME", str(idea.parent))
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["predictions"].shape == (5,)
    sequence = ",".join(f"{number:.9g}" for number in names["sequences"][2])
    capfd.readouterr()
    assert __main__.main(["guess", str(run_folder), f"--sequence={sequence}"]) == 0
    guessed = float(capfd.readouterr().out)
    np.testing.assert_allclose(names["predictions"][2], guessed, atol=1e-4)


@pytest.mark.usefixtures("swept")
@pytest.mark.long
def test_the_winner_of_a_sweep_is_used_as_a_run(
    idea: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = idea / "runs" / "sweep" / "idea" / "base"
    rows = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    means = {
        rate: np.mean([row["valid_error"] for row in rows if row["learning_rate"] == rate])
        for rate in (0.01, 0.03)
    }
    rate = min(means, key=lambda rate: means[rate])
    ours = [row for row in rows if row["learning_rate"] == rate]
    best = min(ours, key=lambda row: row["valid_error"])
    found = load_run(folder)
    assert (found.config.learning_rate, found.config.seed) == (rate, best["seed"])
    assert found.result["test_error"] == best["test_error"]
    task, hparams = found.program.task, {"seed": best["seed"]}
    again = task.evaluate(found.kept, hparams, found.program.data["test"])["error"].mean
    np.testing.assert_allclose(again, best["test_error"], rtol=1e-6)
    assert __main__.main(["info", str(folder)]) == 0
    assert "layer_1.kernel" in capsys.readouterr().out
    assert len(list(folder.glob("programs/*/weights/*"))) == 0


@pytest.mark.usefixtures("swept")
@pytest.mark.long
def test_all_members_of_a_sweep_are_kept_where_asked(idea: Path) -> None:
    file, folder = str(idea / "idea.py"), idea / "runs" / "sweep" / "idea" / "all"
    swept = ["--sweep=learning_rate=0.01,0.03,0.1", "--keep_all", "--slots=2", "--name=all"]
    assert __main__.main(["sweep", file, *SMALL, *swept]) == 0
    rows = [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]
    best = load_run(folder)
    members = members_of(best)
    assert [each.config.learning_rate for each in members] == [0.01, 0.03, 0.1]
    for row in rows:
        each = members[row["member"]]
        assert each.config.learning_rate == row["learning_rate"]
        assert each.result["test_error"] == row["test_error"]
        test = each.program.data["test"]
        again = each.program.task.evaluate(each.kept, {"seed": 0}, test)["error"].mean
        np.testing.assert_allclose(again, row["test_error"], rtol=1e-6)
    (winner,) = [each for each in members if each.config == best.config]
    chex.assert_trees_all_equal(winner.kept, best.kept)
    assert len(list(folder.glob("programs/*/weights/*"))) == 0
    with pytest.raises(UserError, match="trained with --keep_all"):
        members_of(load_run(idea / "runs" / "sweep" / "idea" / "base"))


def test_info_lists_params_by_layer(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["info", str(trained / "runs" / "idea" / "base")]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["layer_1.kernel", "4", "x", "1", "float32", "4"] in lines
    assert ["*", "hidden_size", "4"] in lines
    kept = load_run(trained / "runs" / "idea" / "base").kept
    assert ["all", str(sum(leaf.size for leaf in jax.tree.leaves(kept)))] in lines


@pytest.mark.long
def test_training_starts_from_the_weights_of_another_run(
    idea: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = idea / "runs" / "idea" / "base"
    start = ["--init_from", str(base), "--learning_rate=1e-30"]
    assert __main__.main([str(idea / "idea.py"), *SMALL, *start, "--name=next"]) == 0
    there, here = load_run(base), load_run(idea / "runs" / "idea" / "next")
    np.testing.assert_array_equal(there.kept["layer_1"]["kernel"], here.kept["layer_1"]["kernel"])
    other = [str(idea / "idea.py"), "--hidden_size=5", f"--init_from={base}"]
    assert "layer_0" in refused(capfd, *other)
    assert "there is no" in refused(capfd, str(idea / "idea.py"), "--init_from=/nowhere").lower()


@pytest.mark.long
def test_fields_come_from_the_config_of_a_run(
    idea: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base = idea / "runs" / "idea" / "base" / "config.json"
    word = str(idea / "idea.py")
    assert __main__.main([word, f"--config={base}", "--seed=3", "--name=again"]) == 0
    config = load_run(idea / "runs" / "idea" / "again").config
    assert (config.hidden_size, config.length, config.seed) == (4, 3, 3)
    for text, said in {
        '{"hiden_size": 3}': 'Did you mean "hidden_size"',
        '{"hidden_size": "3"}': "hidden_size must be a whole number, got '3'",
        '{"hidden_size": 0}': "expected at least 1",
        "[1]": "is damaged: expected an object",
        "{": "is damaged",
    }.items():
        (idea / "fields.json").write_text(text)
        assert said in refused(capfd, word, f"--config={idea / 'fields.json'}")
    assert "of the experiment 'idea'" in refused(capfd, "image_cnn", f"--config={base}")


@pytest.mark.long
def test_a_script_trains_and_sweeps_without_flags(idea: Path) -> None:
    done = run(idea / "idea.py", idea / "mine", **FIELDS)
    assert done.kept["layer_1"]["kernel"].shape == (4, 1)
    before = load_run(idea / "runs" / "idea" / "base")
    np.testing.assert_array_equal(done.kept["layer_1"]["kernel"], before.kept["layer_1"]["kernel"])
    with pytest.raises(UserError, match="there is no field 'epoch'"):
        run(idea / "idea.py", epoch=3)
    with pytest.raises(UserError, match="epochs must be a whole number"):
        run(idea / "idea.py", epochs="3")
    best = run_sweep(idea / "idea.py", {"seed": range(2)}, idea / "swept", **FIELDS)
    assert best.folder == idea / "swept" / "best"


@pytest.mark.long
def test_a_module_without_a_file_is_never_gone_on_with(
    idea: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Notebook:
        __doc__ = "Does it run?"

    module: Any = Notebook()
    source = load_run(idea / "runs" / "idea" / "base").experiment.module
    module.Config, module.program = source.Config, source.program
    run(module, idea / "notebook", **FIELDS)
    with pytest.raises(UserError, match="give overwrite=True, or another folder"):
        run(module, idea / "notebook", **FIELDS)
    run(module, idea / "notebook", overwrite=True, **FIELDS)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "class Config(MinibatchConfig)",
            "class Config",
            "from experiments.shared.tasks import MinibatchConfig",
        ),
        ("@dataclasses.dataclass(frozen=True)\n", "", "Config is no dataclass"),
        ("def program", "def programme", "defines no program"),
        (LENGTH, "    length: int = 20\n", "Config.length: declare it with option"),
        ("return minibatch_program", "return print", "expected it to return an"),
        ("    data = {", "    raise SystemExit(0)\n    data = {", r"it calls sys.exit(0)"),
        ('batch["mask"])}', 'batch["mask"][:, None])}', "line 4"),
        ('"error": masked', '"errors": masked', "there is no metric 'error'"),
        ('return {"error"', 'if ys.sum() > 0: pass\n        return {"error"', "jnp.where"),
        (LENGTH, LENGTH + "    name: str = option('', 'x')\n", "'name' has the name of a flag"),
        (
            "import numpy as np\n",
            "import numpy as np\nimport nowhere\n",
            "No module named 'nowhere' (",
        ),
        ("import numpy as np\n", "import numpy\nfrom nowhere import\n", "SyntaxError"),
    ],
)
def test_a_mistake_in_an_experiment_is_said_in_one_line(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    text = (trained / "idea.py").read_text().removesuffix("\nimport parts\n")
    assert old in text
    (tmp_path / "bad.py").write_text(text.replace(old, new))
    assert said in refused(capfd, str(tmp_path / "bad.py"), *SMALL)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "field",
    ["length: int = 20", "length: 'Lenght' = option(20, 'T')", "length: ClassVar[int] = 20"],
)
def test_a_field_that_is_none_is_said_with_its_line(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], field: str
) -> None:
    text = "from typing import ClassVar\n" + (trained / "idea.py").read_text()
    line = text[: text.index(LENGTH)].count("\n") + 1
    (tmp_path / "bad.py").write_text(text.replace(LENGTH, f"    {field}\n"))
    assert f"({tmp_path}/bad.py, line {line})." in refused(capfd, str(tmp_path / "bad.py"))


def test_a_file_that_is_no_experiment_is_told_what_it_needs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bare.py").write_text("def program(config): ...\n")
    line = refused(capfd, str(tmp_path / "bare.py"))
    assert "defines no Config" in line
    assert "MinibatchConfig (from experiments.shared.tasks import MinibatchConfig)" in line


def test_an_idea_that_prints_is_no_fault(trained: Path, tmp_path: Path) -> None:
    text = (trained / "idea.py").read_text().removesuffix("\nimport parts\n")
    (tmp_path / "loud.py").write_text(text + "\nprint('hello')\n")
    assert __main__.main([str(tmp_path / "loud.py"), "--help"]) == 0


def test_a_file_that_is_there_is_not_written_over(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text("years of work")
    assert "is there already" in refused(capfd, "new", str(tmp_path / "mine.py"))
    assert "such as idea.py" in refused(capfd, "new", str(tmp_path / "mine"))
    assert (tmp_path / "mine.py").read_text() == "years of work"


@pytest.mark.long
@pytest.mark.parametrize("file", WORKED, ids=lambda file: file.stem)
def test_the_worked_experiments_learn(file: Path, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"epochs": 4}
    if file.stem == "forecast":
        wave = np.sin(np.arange(600) / 4)
        table = ["day,value", *(f"{day},{value:.5f}" for day, value in enumerate(wave))]
        (tmp_path / "wave.csv").write_text("\n".join(table) + "\n")
        fields |= {"csv": str(tmp_path / "wave.csv"), "batch_size": 16}
    run(shutil.copy(file, tmp_path), tmp_path / "run", **fields)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    name = "valid_loss" if "valid_loss" in rows[0] else "valid_error"
    assert rows[-1][name] < 0.7 * rows[0][name]


@pytest.mark.long
def test_an_edited_csv_is_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, csv = shutil.copy(worked("forecast"), tmp_path), tmp_path / "wave.csv"
    csv.write_text("value\n" + "\n".join(str(x % 7) for x in range(300)))
    command = [str(file), f"--csv={csv}", "--epochs=1", "--name=one"]
    assert __main__.main(command) == 0
    csv.write_text("value\n" + "\n".join(str(x % 5) for x in range(300)))
    assert "--csv: wave.csv has changed since" in refused(capfd, *command)


@pytest.mark.long
def test_an_installed_package_runs_an_idea(trained: Path, tmp_path: Path) -> None:
    """Only what the wheel would hold is on the path, and the folder is another one."""
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "experiments.*" in settings["packages"]["find"]["include"]
    site = tmp_path / "site"
    for package in ("recurrent", "experiments"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("*.pyc"))
    command = [sys.executable, "-P", "-m", "experiments", "idea.py", *SMALL, "--name=installed"]
    environment = os.environ | {"PYTHONPATH": str(site), "JAX_PLATFORMS": "cpu"}
    shutil.copy(trained / "idea.py", tmp_path)
    shutil.copy(trained / "parts.py", tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "runs" / "idea" / "installed" / "report.html").exists()


COMMANDS = """
from experiments.harness.runs import Command

@dataclasses.dataclass(frozen=True)
class Ask:
    loud: bool = option(False, "in capitals")

def ask(run, flags):
    said = f"length {run.config.length}"
    yield said.upper() if flags.loud else said

commands = {"ask": Command(Ask, ask, "say how long its sequences are")}
"""


def test_a_swept_field_that_the_program_reads_from_its_config_is_refused(
    idea: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (idea / "idea.py").read_text()
    field = LENGTH + "    noise: float = option(0.0, 'of the data', traced=True)\n"
    text = text.replace(LENGTH, field).replace("data = {", "assert config.noise >= 0\n    data = {")
    (idea / "noisy.py").write_text(text)
    sweep = ["sweep", str(idea / "noisy.py"), "--sweep=noise=0,5", *SMALL]
    assert "reads it from its Config" in refused(capfd, *sweep)


@pytest.mark.long
def test_other_data_give_another_run_wherever_they_were_read_from(
    idea: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scale = "float(__import__('pathlib').Path(__file__).with_name('s.txt').read_text())"
    text = (idea / "idea.py").read_text()
    text = text.replace("size=(1024, length)", f"size=(64, length), scale={scale}")
    (idea / "scaled.py").write_text(text)
    (idea / "s.txt").write_text("1.0")
    command = [str(idea / "scaled.py"), *SMALL, "--name=one"]
    assert __main__.main(command) == 0
    assert __main__.main(command) == 0
    (idea / "s.txt").write_text("2.0")
    assert "What the experiment reads as its data has changed since" in refused(capfd, *command)


@pytest.mark.long
def test_a_module_that_was_edited_since_its_import_is_read_anew(idea: Path) -> None:
    module = load_run(idea / "runs" / "idea" / "base").experiment.module
    first = run(module, idea / "first", **FIELDS)
    text = (idea / "idea.py").read_text()
    (idea / "idea.py").write_text(text.replace("** 2", "** 4"))
    second = run(module, idea / "second", **FIELDS)
    assert first.result["test_error"] != second.result["test_error"]


@pytest.mark.long
def test_what_is_imported_by_its_name_at_run_time_is_noticed(
    idea: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = (idea / "idea.py").read_text().replace("import parts\n", "")
    dynamic = "import importlib\nPART = importlib.import_module('dynamic' + '_part').PART\n"
    (idea / "dynamic.py").write_text(text + dynamic)
    (idea / "dynamic_part.py").write_text("PART = 1\n")
    command = [str(idea / "dynamic.py"), *SMALL, "--name=one"]
    assert __main__.main(command) == 0
    (idea / "dynamic_part.py").write_text("PART = 22\n")
    assert "dynamic_part.py has changed since" in refused(capfd, *command)


@pytest.mark.long
def test_a_score_that_is_better_when_higher_is_maximized(tmp_path: Path) -> None:
    text = worked("regression").read_text()
    worse = text.replace('"error": masked_average((', '"error": masked_average(-(')
    assert worse != text
    (tmp_path / "score.py").write_text(
        worse.replace("higher_is_better=False", "higher_is_better=True")
    )
    run(tmp_path / "score.py", tmp_path / "run", epochs=3, length=3, hidden_size=8)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    scores = [json.loads(line)["valid_error"] for line in lines]
    assert scores[-1] > scores[0]


def test_an_idea_has_commands_of_its_own(idea: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open(idea / "idea.py", "a") as file:
        file.write(COMMANDS)
    folder = str(idea / "runs" / "idea" / "base")
    assert __main__.main(["ask", folder, "--loud"]) == 0
    assert capfd.readouterr().out == "LENGTH 3\n"
    assert __main__.main(["ask", folder, "--help"]) == 0
    assert "in capitals" in capfd.readouterr().out
    assert "it has ask" in refused(capfd, "sample", folder)
    assert "There is no experiment 'ask'" in refused(capfd, "ask", "/nowhere")


def test_words_and_flags_complete_in_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    ask = 'COMP_WORDS=(./launch.sh {words}); COMP_CWORD={at}; _recurrent; echo "${{COMPREPLY[@]}}"'

    def completed(*words: str) -> list[str]:
        line = ask.format(words=" ".join(words), at=len(words))
        command = ["bash", "--norc", "-c", f"{script}\n{line}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert completed("char") == ["char_lm"]
    assert "--hidden_size=" in completed("char_lm", "--hid")
    assert "--window=" in completed("sweep", "char_lm", "--win")
    assert __main__.main(["completion", "fish"]) == 2


def test_versions_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--version"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("recurrent 0.")
    assert f"jax {jax.__version__}" in out
