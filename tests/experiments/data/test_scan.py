"""SCAN: the grammar's commands are those of the published files, line by line."""

import os
from collections import Counter
from pathlib import Path

import pytest

from experiments.data import scan
from experiments.data.scan import Pair, all_pairs, load_scan, pair_of, read_pairs
from experiments.harness.errors import UserError
from tests.experiments.small_data import data_folder

FILES = Path(os.environ.get("RECURRENT_DATA_DIR", "nowhere"), "scan")
with_files = pytest.mark.skipif(
    not FILES.is_dir(), reason="SCAN's files are not in RECURRENT_DATA_DIR"
)


def of_file(name: str) -> Counter[Pair]:
    return Counter(read_pairs((FILES / f"tasks_{name}.txt").read_text(), name))


@with_files
@pytest.mark.parametrize(
    ("made", "name"), [(scan.length_split, "length"), (scan.jump_split, "addprim_jump")]
)
def test_a_split_is_that_of_the_files(made: object, name: str) -> None:
    train, test = made()  # pyright: ignore[reportCallIssue]
    assert Counter(train) == of_file(f"train_{name}")
    assert Counter(test) == of_file(f"test_{name}")


@with_files
def test_the_grammar_makes_what_the_simple_split_holds() -> None:
    found = load_scan("simple")
    assert {name: len(pairs) for name, pairs in found.items()} == {
        **{"train": 16728 - 836, "valid": 836, "test": 4182}
    }
    assert {pair for pairs in found.values() for pair in pairs} == {*all_pairs()}


# Lake & Baroni 2018, figure 1 and its text
@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("jump", "JUMP"),
        ("jump left", "LTURN JUMP"),
        ("jump around right", "RTURN JUMP RTURN JUMP RTURN JUMP RTURN JUMP"),
        ("turn left twice", "LTURN LTURN"),
        ("jump thrice", "JUMP JUMP JUMP"),
        ("jump opposite left and walk thrice", "LTURN LTURN JUMP WALK WALK WALK"),
        ("jump opposite left after walk around left",
         "LTURN WALK LTURN WALK LTURN WALK LTURN WALK LTURN LTURN JUMP"),
        ("turn opposite right", "RTURN RTURN"),
        ("turn around left", "LTURN LTURN LTURN LTURN"),
    ],
)  # fmt: skip
def test_actions_are_those_of_the_paper(command: str, actions: str) -> None:
    written = actions.replace("LTURN", "TURN_LEFT").replace("RTURN", "TURN_RIGHT")
    assert pair_of(command).actions == tuple(f"I_{word}" for word in written.split())


@pytest.mark.parametrize(
    "command",
    [
        *("", "turn", "walk up", "twice", "walk and", "walk left right", "turn twice", "left"),
        *("walk twice twice", "walk and run and jump", "walk after run and jump", "left left"),
        *("and left", "around", "twice around left", "walk left opposite"),
    ],
)
def test_what_the_grammar_does_not_make_is_refused(command: str) -> None:
    with pytest.raises(ValueError, match="expected a command of SCAN"):
        pair_of(command)
    assert scan.verdict(command.split(), ["I_WALK"]) == "the grammar makes no such command"


def test_what_was_written_is_judged_by_the_grammar() -> None:
    command = ["jump", "left", "after", "verb3", "twice"]
    right = "I_VERB3 I_VERB3 I_TURN_LEFT I_JUMP"
    assert scan.verdict(command, right.split()) == "right"
    for wrong in ("", "I_JUMP", f"{right} I_JUMP", right.removesuffix(" I_JUMP")):
        assert scan.verdict(command, wrong.split()) == f"wrong; the grammar says: {right}"


@pytest.mark.long
def test_lengths_and_jumps_are_held_back() -> None:
    found = load_scan("length")
    longest = {name: max(len(p.actions) for p in pairs) for name, pairs in found.items()}
    assert scan.said_of(found) == (
        "Of the 20,910 commands that the grammar makes, 20,910 are in the splits."
    )
    assert longest["train"] <= 22 >= longest["valid"]
    assert min(len(pair.actions) for pair in found["test"]) == 24
    longer = load_scan("length", held_back="longest")
    assert longer["test"] == found["test"]
    assert Counter(longer["train"] + longer["valid"]) == Counter(found["train"] + found["valid"])
    assert max(len(pair.actions) for pair in longer["train"]) == 20
    assert {len(pair.actions) for pair in longer["valid"]} == {21, 22}
    jumps = load_scan("jump")
    alone = pair_of("jump")
    assert all(p == alone or "jump" not in p.command for p in jumps["train"] + jumps["valid"])
    assert all("jump" in pair.command for pair in jumps["test"])
    assert alone not in jumps["valid"]
    assert len(jumps["train"] + jumps["valid"]) == 14670


@pytest.mark.long
def test_further_verbs_stand_alone_and_in_commands_as_often_as_known_ones() -> None:
    found, before = load_scan("jump", primitives=3), load_scan("jump")
    assert found["test"] == before["test"]
    further = {f"verb{k}" for k in range(1, 4)}
    new = {pair for pairs in found.values() for pair in pairs if further & {*pair.command}}
    same = {pair for pairs in found.values() for pair in pairs} - new
    assert scan.said_of(found) == (
        f"Of the 20,910 commands that the grammar makes, {len(same):,} are in the splits; "
        f"{len(new):,} others have further verbs."
    )
    verbs = ("walk", "look", "run", "verb1", "verb2")
    alone = Counter(p.command[0] for p in found["train"] if len(p.command) == 1)
    apart = ("verb3", "jump")
    assert alone == dict.fromkeys((*verbs, *apart), 367)  # 1467 shared by jump and the further ones
    longer = [pair for pair in found["train"] if len(pair.command) > 1]
    assert all(pair == pair_of(" ".join(pair.command)) for pair in longer)
    times = Counter(word for pair in longer for word in pair.command)
    assert not {*apart} & {*times}
    frequencies = [times[verb] for verb in verbs]
    assert max(frequencies) < 1.1 * min(frequencies)
    # what stands alone as jump does is what validation asks for
    assert len(found["valid"]) == len(before["valid"])
    assert all("verb3" in pair.command and len(pair.command) > 1 for pair in found["valid"])
    assert all(pair == pair_of(" ".join(pair.command)) for pair in found["valid"])
    # only the verbs of a command are drawn anew
    shapes = [
        Counter(tuple("v" if w in verbs else w for w in pair.command) for pair in pairs)
        for pairs in (longer, [pair for pair in before["train"] if len(pair.command) > 1])
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.long
def test_jump_is_one_of_the_verbs_where_it_is_not_held_back() -> None:
    found = load_scan("length", primitives=20)
    times = Counter(word for p in found["train"] if len(p.command) > 1 for word in p.command)
    assert times["jump"] > 0.7 * times["verb1"]


@pytest.mark.long
@pytest.mark.parametrize("split", ["random", "length", "jump"])
def test_further_verbs_make_no_command_that_is_held_out(split: str) -> None:
    found = load_scan(split, primitives=5)
    trained = {*found["train"]}
    assert trained.isdisjoint(found["test"])
    assert trained.isdisjoint(found["valid"])


@pytest.mark.long
def test_a_random_split_is_that_of_its_seed_and_a_fifth() -> None:
    first, again, other = (load_scan("random", split_seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first["test"] != other["test"]
    assert len(first["test"]) == 4182
    every = [pair for pairs in first.values() for pair in pairs]
    assert len(every) == len({*every}) == 20910


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected at least one line"),
        ("IN: walk OUT: I_WALK\nwalk OUT: I_WALK", "file, line 2: expected IN: COMMAND"),
        ("IN: walk", "file, line 1"),
        ("IN:  OUT: I_WALK", "file, line 1"),
        ("IN: walk OUT: ", "file, line 1"),
        ("IN: walk OUT: I_WALK\n\n", "file, line 2"),
        ("IN: walk left OUT: I_TURN_LE", "file, line 1: expected the 2 actions"),
        ("IN: walk OUT: I_WALK\nIN: run twice OUT: I_RUN", "file, line 2: .*ives to 'run twice'"),
        ("IN: walk left OUT: I_WALK I_TURN_LEFT", "file, line 1: expected the 2 actions"),
        ("IN: wolk OUT: I_WOLK", "file, line 1: expected a command of SCAN, got 'wolk'"),
        ("IN: walk and OUT: I_WALK", "file, line 1: expected a command of SCAN, got 'walk and'"),
    ],
)
def test_a_line_of_another_form_is_named(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_pairs(text, "file")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The files of a simple split, as the grammar makes them."""
    folder = data_folder(tmp_path) / "scan"
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(tmp_path))
    return folder / "tasks_train_simple.txt", folder / "tasks_test_simple.txt"


def test_a_simple_split_is_read_whole(files: tuple[Path, Path]) -> None:
    assert [*map(len, scan.simple_split())] == [16728, 4182]
    assert files[0].read_text().count("\n") == 16728


@pytest.mark.long
def test_a_simple_split_that_is_not_whole_is_refused(files: tuple[Path, Path]) -> None:
    """Cut in the middle of a line, at the end of one, a line twice, and one of the other file."""
    for file, count in zip(files, ("16,728", "4,182"), strict=True):
        whole = file.read_text()
        lines = whole.splitlines(keepends=True)
        (other,) = {*files} - {file}
        stranger = other.read_text().splitlines(keepends=True)[0]
        for text, says in (
            ("".join(lines[:100]) + lines[100].rstrip()[:-2], f"{file.name}, line 101: expected"),
            ("".join(lines[:-1]), f"{file.name}: expected {count} lines"),
            ("".join([*lines[:-1], lines[0]]), f"line {len(lines)}: expected each command once"),
            ("".join([stranger, *lines[1:]]), "line 1: expected each command once"),
        ):
            file.write_text(text)
            with pytest.raises(UserError, match=says):
                scan.simple_split()
        file.write_text(whole)
