"""Run launch.sh with fake commands on the PATH, so that nothing is really installed."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The system commands that launch.sh may call; the real python3, uv and nvidia-smi are hidden.
TOOLS = (
    *("bash", "basename", "cat", "cp", "dirname", "env", "find", "flock", "ls", "mkdir", "mv"),
    *("readlink", "rm", "sleep", "tail"),
)

PYPROJECT = """
[project.optional-dependencies]
experiments = []
dev = []
bench = []
cuda12 = []
cuda13 = []
"""

# One script stands in for every interpreter, in a venv or outside, and logs what it is asked.
PYTHON = r"""#!/usr/bin/env bash
base=$(cat "$(dirname "$0")/base" 2>/dev/null) || base=$0
all=$*
note() { echo "$*" >>"$FAKES/log"; }
case "$*" in
  *_base_executable*) note probe; echo "11 $base" ;;
  *"import ensurepip, venv"*) [[ ! -e $FAKES/${0##*/}-lacks-ensurepip ]] ;;
  "-m venv "*)
    note "venv by ${base##*/}"
    mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp "$0" "$3/bin/pip"; echo "$base" >"$3/bin/base" ;;
  "-m pip install "*)
    extras=${all##*[}
    note "pip ${extras%]}"
    if [[ -e $FAKES/pip-is-slow ]]; then sleep 0.5; fi
    if [[ -e $FAKES/pip-kills ]]; then kill -9 "$PPID"; fi
    if [[ -e $FAKES/pip-fails ]]; then echo "No matching distribution" >&2; exit 1; fi ;;
  *"-m experiments "*)
    note "run ${all##*-m experiments }"
    echo "in $PWD with $PYTHONPATH"
    exit "${FAKE_STATUS:-0}" ;;
  "-m "*)
    note "$2 from $PWD: ${*:3}"
    if [[ -e $FAKES/$2-hangs ]]; then echo $$ >"$FAKES/hung"; exec sleep 60; fi
    if [[ -e $FAKES/$2-is-interrupted ]]; then
      until [[ -s $FAKES/hung ]]; do sleep 0.01; done
      kill -INT "$PPID" $$
    fi
    [[ ! -e $FAKES/$2-fails ]] ;;
esac
"""

UV = r"""#!/usr/bin/env bash
echo "uv $*" >>"$FAKES/log"
[[ $1 == --version || ! -e $FAKES/uv-fails ]] || { echo "uv is offline" >&2; exit 1; }
if [[ $1 == venv ]]; then
  mkdir -p "${!#}/bin"; cp "$FAKES/python" "${!#}/bin/python"; echo /uv/python >"${!#}/bin/base"
fi
"""


SHIM_OF_NOTHING = "#!/usr/bin/env bash\necho 'command not found' >&2\nexit 127\n"


class Clone(NamedTuple):
    """Hold a copy of launch.sh in its own folder, and the commands on its PATH."""

    root: Path
    fakes: Path
    bin: Path

    def command(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def environment(self, **extra: str) -> dict[str, str]:
        return {
            "PATH": str(self.bin),
            "HOME": str(self.fakes),
            "FAKES": str(self.fakes),
            **extra,
        }

    def launch(self, *args: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return self.call([str(self.root / "launch.sh"), *args], **extra)

    def source(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run one of launch.sh's functions."""
        return self.call(["bash", "-c", f'source "$1"; {command}', "_", f"{self.root}/launch.sh"])

    def call(self, command: list[str], **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.environment(**extra),
            cwd=self.fakes,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def took(self, *args: str, **extra: str) -> list[str]:
        """Return what a launch did, in order, without the probing of interpreters."""
        self.forget()
        result = self.launch(*args, **extra)
        assert result.returncode == 0, result.stderr
        return [line for line in self.log() if line != "probe"]

    def log(self) -> list[str]:
        path = self.fakes / "log"
        return path.read_text().splitlines() if path.exists() else []

    def forget(self) -> None:
        (self.fakes / "log").unlink(missing_ok=True)

    def flag(self, name: str, on: bool = True) -> None:
        path = self.fakes / name
        path.touch() if on else path.unlink()


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    made = Clone(tmp_path / "a clone", tmp_path / "fakes", tmp_path / "bin")
    for folder in made:
        folder.mkdir()
    shutil.copy(ROOT / "launch.sh", made.root)
    (made.root / "pyproject.toml").write_text(PYPROJECT)
    (made.root / "requirements.lock").write_text("jax==1\n")
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            (made.bin / tool).symlink_to(found)
    made.command("python3", PYTHON)
    (made.fakes / "python").write_text(PYTHON)
    (made.fakes / "python").chmod(0o755)
    return made


def test_the_first_launch_sets_up_and_the_second_only_runs(clone: Clone) -> None:
    assert clone.took() == ["venv by python3", "pip experiments", "run sequential_digits"]
    clone.command("nvidia-smi", "#!/usr/bin/env bash\necho asked >>$FAKES/log\n")
    clone.forget()
    result = clone.launch("list", "--steps=3")
    # There is no probe either: checking a finished set-up starts no interpreter.
    assert clone.log() == ["run list --steps=3"]
    assert result.stderr == ""


def test_commands_run_in_the_users_folder_with_the_project_importable(clone: Clone) -> None:
    link = clone.fakes / "a link"
    link.symlink_to(Path("..") / clone.root.name / "launch.sh")
    result = subprocess.run(
        [str(link), "x"],
        env=clone.environment(PYTHONPATH="mine"),
        cwd=clone.bin,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"in {clone.bin} with {clone.root}:mine\n"


def test_an_experiments_folder_in_the_users_folder_is_not_run(clone: Clone) -> None:
    clone.took("x")
    (clone.root / ".venv" / "bin" / "python").unlink()
    (clone.root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for folder, words in ((clone.root, "ours"), (clone.fakes, "theirs")):
        (folder / "experiments").mkdir()
        (folder / "experiments" / "__main__.py").write_text(f"print('{words}')")
    assert clone.launch("x").stdout == "ours\n"


def test_the_exit_status_of_a_command_is_passed_on(clone: Clone) -> None:
    assert clone.launch("x", FAKE_STATUS="143").returncode == 143


def test_extras_accumulate(clone: Clone) -> None:
    clone.took("x")
    assert clone.took("test", "-x", RECURRENT_EXTRAS="bench")[:-1] == [
        "pip experiments,dev,bench",
    ]
    assert clone.took("x") == ["run x"]
    assert len(clone.took("test", "-x")) == 1


def test_bench_installs_the_other_libraries(clone: Clone) -> None:
    clone.took("x")
    assert clone.took("bench", "--quick") == [
        "run bench --quick --check",
        "pip experiments,bench",
        "run bench --quick",
    ]


def test_flags_of_bench_are_checked_before_the_libraries_are_installed(clone: Clone) -> None:
    clone.took("x")
    clone.forget()
    assert clone.launch("bench", "--nonsense", FAKE_STATUS="2").returncode == 2
    assert "run bench --nonsense --check" in clone.log()
    assert not any(line.startswith("pip") for line in clone.log())


@pytest.mark.parametrize(
    "words", [["--help"], ["help"], ["list"], ["bench", "--help"], ["new", "idea.py"]]
)
def test_help_installs_nothing(clone: Clone, words: list[str]) -> None:
    assert clone.took(*words) == [f"run {' '.join(words)}"]
    assert not (clone.root / ".venv").exists()


def test_help_of_test_installs_nothing(clone: Clone) -> None:
    assert clone.took("test", "--help") == []
    assert "-m slow" in clone.launch("test", "-h").stdout


def test_help_without_any_python_is_left_to_uv(clone: Clone) -> None:
    for path in clone.bin.glob("python3*"):
        path.unlink()
    clone.command("uv", UV)
    assert clone.took("--help")[-1] == "run --help"


def test_a_changed_lock_is_installed_in_place(clone: Clone) -> None:
    clone.took("test", "-x")
    (clone.root / "requirements.lock").write_text("jax==2\n")
    assert clone.took("x") == ["pip experiments,dev", "run x"]
    assert clone.took("x") == ["run x"]


def test_an_extra_removed_from_pyproject_is_forgotten(clone: Clone) -> None:
    clone.took("x", RECURRENT_EXTRAS="bench")
    (clone.root / "pyproject.toml").write_text(PYPROJECT.replace("bench = []\n", ""))
    assert clone.took("x")[0] == "pip experiments"


def test_a_moved_project_is_set_up_again(clone: Clone) -> None:
    clone.took("x")
    moved = clone._replace(root=clone.root.rename(clone.root.parent / "moved"))
    assert moved.took("x")[0] == "venv by python3"


def test_an_environment_without_an_interpreter_is_set_up_again(clone: Clone) -> None:
    clone.took("x")
    (clone.root / ".venv" / "bin" / "python").unlink()
    assert clone.took("x")[0] == "venv by python3"


@pytest.mark.parametrize("fault", ["pip-kills", "pip-fails"])
def test_an_interrupted_set_up_is_redone(clone: Clone, fault: str) -> None:
    clone.flag(fault)
    assert clone.launch("x").returncode != 0
    assert not [line for line in clone.log() if line.startswith("run")]
    clone.flag(fault, on=False)
    assert clone.took("x") == ["venv by python3", "pip experiments", "run x"]


@pytest.mark.parametrize("fault", ["pip-kills", "pip-fails"])
def test_an_interrupted_update_is_redone(clone: Clone, fault: str) -> None:
    clone.took("x")
    clone.flag(fault)
    assert clone.launch("test").returncode != 0
    clone.flag(fault, on=False)
    assert clone.took("x")[0] == "venv by python3"


def test_a_pip_failure_shows_the_message_of_pip_and_a_hint(clone: Clone) -> None:
    clone.flag("pip-fails")
    result = clone.launch("x")
    assert result.returncode == 1
    assert "No matching distribution" in result.stderr
    assert "network connection?" in result.stderr.splitlines()[-1]


@pytest.mark.skipif(shutil.which("flock") is None, reason="without flock there is no lock to test")
def test_two_launches_at_once_set_up_once(clone: Clone) -> None:
    clone.flag("pip-is-slow")
    command = [str(clone.root / "launch.sh"), "x"]
    both = [
        subprocess.Popen(
            command, env=clone.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in both:
        process.communicate(timeout=30)
    assert [process.returncode for process in both] == [0, 0]
    done = [line for line in clone.log() if line != "probe"]
    assert done == ["venv by python3", "pip experiments", "run x", "run x"]


def test_a_folder_not_made_by_launch_is_left_alone(clone: Clone) -> None:
    mine = clone.root / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("years of work")
    result = clone.launch("x", RECURRENT_VENV=str(mine))
    assert result.returncode == 1
    assert "not made by launch.sh" in result.stderr
    assert (mine / "thesis").read_text() == "years of work"


def test_the_environment_of_another_project_is_left_alone(clone: Clone) -> None:
    other = clone.root.parent / "another clone"
    shutil.copytree(clone.root, other)
    clone.took("x")
    other_clone = clone._replace(root=other)
    shared = str(clone.root / ".venv")
    result = other_clone.launch("x", RECURRENT_VENV=shared)
    assert result.returncode == 1
    assert f"{shared} belongs to {clone.root}; set RECURRENT_VENV" in result.stderr
    assert clone.took("x") == ["run x"]


def test_recurrent_venv_places_the_environment_elsewhere(clone: Clone) -> None:
    assert clone.took("x", RECURRENT_VENV="envs/one")[0] == "venv by python3"
    assert (clone.fakes / "envs" / "one" / "bin" / "python").exists()
    assert not (clone.root / ".venv").exists()


def test_interpreters_that_do_not_work_are_passed_over(clone: Clone) -> None:
    clone.command("python3", SHIM_OF_NOTHING)
    clone.command("python3.12", PYTHON)
    clone.flag("python3.12-lacks-ensurepip")
    clone.command("python3.11", PYTHON)
    assert clone.took("x")[0] == "venv by python3.11"


def test_the_newest_python_of_pyenv_is_found(clone: Clone) -> None:
    clone.command("python3", SHIM_OF_NOTHING)
    for version in ("3.10.4", "3.12.1"):
        folder = clone.fakes / ".pyenv" / "versions" / version / "bin"
        folder.mkdir(parents=True)
        shutil.copy(clone.fakes / "python", folder / "python")
    clone.launch("x")
    assert "3.12.1" in (clone.root / ".venv" / "bin" / "base").read_text()


@pytest.mark.parametrize("python", [None, SHIM_OF_NOTHING])
def test_a_missing_interpreter_is_reported_in_one_sentence(
    clone: Clone, python: str | None
) -> None:
    (clone.bin / "python3").unlink()
    if python:
        clone.command("python3", python)
    result = clone.launch("x")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "no Python >= 3.11" in result.stderr


@pytest.mark.parametrize(("minor", "status"), [(10, 1), (11, 0)])
def test_a_real_interpreter_is_asked_for_its_version(clone: Clone, minor: int, status: int) -> None:
    pretend = f"import sys; sys.version_info = (3, {minor}, 0)"
    clone.command("python3", f"#!/usr/bin/env bash\nexec '{sys.executable}' -c '{pretend}'\"$3\"\n")
    found = clone.source("probe python3")
    assert found.returncode == status
    assert (found.stdout.split()[:1] == [str(minor)]) == (status == 0)


def test_a_named_interpreter_is_used_and_kept(clone: Clone) -> None:
    clone.took("x")
    clone.command("python3.13", PYTHON)
    assert clone.took("x", RECURRENT_PYTHON="python3.13")[0] == "venv by python3.13"
    assert clone.took("x", RECURRENT_PYTHON="python3.13") == ["run x"]
    assert clone.took("x") == ["run x"]
    assert clone.took("x", RECURRENT_PYTHON="python3")[0] == "venv by python3"


def test_a_named_interpreter_that_does_not_run_is_an_error(clone: Clone) -> None:
    clone.took("x")
    result = clone.launch("x", RECURRENT_PYTHON="python3.99")
    assert result.returncode == 1
    assert "'python3.99'" in result.stderr


def test_uv_is_used_where_it_works(clone: Clone) -> None:
    clone.command("uv", UV)
    steps = clone.took("x")
    assert [step.split()[:2] for step in steps] == [
        ["uv", "--version"],
        ["uv", "venv"],
        ["uv", "pip"],
        ["run", "x"],
    ]
    assert f"--python {clone.bin}/python3 " in steps[1]
    assert steps[2].endswith("[experiments]")
    assert clone.took("x") == ["run x"]


def test_uv_can_bring_the_interpreter(clone: Clone) -> None:
    clone.command("python3", SHIM_OF_NOTHING)
    clone.command("uv", UV)
    assert "--python >=3.11" in clone.took("x")[1]
    assert clone.took("x") == ["run x"]


def test_pip_is_used_where_uv_fails(clone: Clone) -> None:
    clone.command("uv", UV)
    clone.flag("uv-fails")
    result = clone.launch("x")
    assert result.returncode == 0
    assert "uv is offline" in result.stderr
    assert "trying venv and pip" in result.stderr
    assert [line for line in clone.log() if not line.startswith(("probe", "uv"))] == [
        "venv by python3",
        "pip experiments",
        "run x",
    ]


def test_a_uv_that_does_not_run_is_ignored(clone: Clone) -> None:
    clone.command("uv", SHIM_OF_NOTHING)
    assert clone.took("x") == ["venv by python3", "pip experiments", "run x"]


def nvidia_smi(driver: str) -> str:
    return f"#!/usr/bin/env bash\nprintf '%s\\n' {driver} {driver}\n"


@pytest.mark.parametrize(
    ("driver", "extras"),
    [
        ("610.12", "experiments,cuda13"),
        ("580.65.06", "experiments,cuda13"),
        ("579.99", "experiments,cuda12"),
        ("525.60.13", "experiments,cuda12"),
        ("524.1", "experiments"),
        ("NVIDIA-SMI has failed", "experiments"),
    ],
)
def test_the_version_of_the_driver_decides_the_accelerator(
    clone: Clone, driver: str, extras: str
) -> None:
    clone.command("nvidia-smi", nvidia_smi(driver))
    assert clone.took("x")[1] == f"pip {extras}"


def test_a_broken_nvidia_smi_means_cpu(clone: Clone) -> None:
    clone.command("nvidia-smi", "#!/usr/bin/env bash\necho 580.1\nexit 9\n")
    assert clone.took("x")[1] == "pip experiments"


def test_the_accelerator_can_be_chosen_and_changed(clone: Clone) -> None:
    clone.command("nvidia-smi", nvidia_smi("580.1"))
    assert clone.took("x", RECURRENT_ACCELERATOR="cpu")[1] == "pip experiments"
    assert clone.took("x") == ["run x"]
    # For another accelerator a new environment is made: two plugins cannot be combined.
    assert clone.took("x", RECURRENT_EXTRAS="cuda12")[:2] == [
        "venv by python3",
        "pip experiments,cuda12",
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"RECURRENT_ACCELERATOR": "gpu"}, "expected cpu, cuda12, cuda13 or tpu"),
        ({"RECURRENT_EXTRAS": "cuda12,cuda13"}, "both cuda12 and cuda13"),
        ({"RECURRENT_EXTRAS": "bensh"}, "no extra 'bensh'"),
        ({"RECURRENT_EXTRAS": "../x"}, "holds '../x'"),
    ],
)
def test_invalid_settings_are_an_error(clone: Clone, settings: dict[str, str], words: str) -> None:
    result = clone.launch("x", **settings)
    assert result.returncode == 1
    assert words in result.stderr
    assert not [line for line in clone.log() if line != "probe"]


def test_launch_test_runs_all_four_checks_from_the_root(clone: Clone) -> None:
    steps = clone.took("test")
    tools = [step.split(" from ")[0] for step in steps[2:]]
    assert tools[:2] == ["ruff", "ruff"]
    assert sorted(tools[2:]) == ["basedpyright", "pytest"]  # side by side
    assert all(f" from {clone.root}: " in step for step in steps[2:])
    assert f"pytest from {clone.root}: -n 2 --dist loadfile" in steps


@pytest.mark.parametrize("tool", ["ruff", "basedpyright", "pytest"])
def test_any_failing_check_fails_launch_test(clone: Clone, tool: str) -> None:
    clone.took("x")
    clone.flag(f"{tool}-fails")
    result = clone.launch("test")
    assert result.returncode == 1
    assert "a check has failed" in result.stderr
    assert [line for line in clone.log() if line.startswith("pytest")]


@pytest.mark.long
def test_interrupting_launch_test_ends_the_check_beside_it_and_leaves_nothing(
    clone: Clone,
) -> None:
    """A process in the background does not hear Ctrl-C."""
    clone.took("x")
    clone.flag("basedpyright-hangs")
    clone.flag("pytest-is-interrupted")
    assert clone.launch("test").returncode in (130, -signal.SIGINT)
    process = Path("/proc") / (clone.fakes / "hung").read_text().strip()
    until = time.monotonic() + 10
    while process.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not process.exists()
    assert not [*clone.root.glob(".venv/types.*")]


def test_launch_test_with_arguments_runs_only_pytest(clone: Clone) -> None:
    steps = clone.took("test", "-k", "a or b", "-n", "0")
    assert steps[2:] == [f"pytest from {clone.root}: -n 2 --dist loadfile -k a or b -n 0"]


def test_launch_test_of_faults_runs_all_that_are_marked_and_prints_their_table(
    clone: Clone,
) -> None:
    steps = clone.took("test", "--faults", "-k", "kill")
    words = "-n 2 --dist loadfile -m fault -p tests.faults.table -k kill"
    assert steps[2:] == [f"pytest from {clone.root}: {words}"]
    clone.flag("pytest-fails")
    assert clone.launch("test", "--faults").returncode == 1


def test_the_lock_names_no_index_and_every_pin_is_exact() -> None:
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        requirement = line.partition(" ;")[0]
        name, equals, version = requirement.partition("==")
        assert equals, line
        assert name.replace("-", "").isalnum(), line
        assert version.replace(".", "").isalnum(), line


def test_launch_needs_neither_a_home_nor_a_stderr(clone: Clone) -> None:
    command = f"env -u HOME bash '{clone.root}/launch.sh' list"
    result = clone.call(["bash", "-c", command])
    assert (result.returncode, result.stderr) == (0, "")
    result = clone.call(["bash", "-c", f"env -u HOME bash '{clone.root}/launch.sh' x 2>&-"])
    assert result.returncode == 0
    assert clone.log()[-1] == "run x"


def test_line_ends_stay_as_they_are_where_git_writes_those_of_windows(tmp_path: Path) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("needs git")

    def call(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.example")
        subprocess.run([git, *who, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "made").mkdir()
    call("init", "made")
    for name in ("launch.sh", ".gitattributes", "requirements.lock", "docs/images/sweep.png"):
        (tmp_path / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "made" / name)
    call("-C", "made", "add", ".")
    call("-C", "made", "commit", "--message=all")
    call("clone", "--config=core.autocrlf=true", "made", "clone")
    for name in ("launch.sh", "requirements.lock", "docs/images/sweep.png"):
        assert (tmp_path / "clone" / name).read_bytes() == (ROOT / name).read_bytes()
