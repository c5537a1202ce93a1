"""Make the commands of SCAN and their actions from its grammar, in the published splits.

Lake & Baroni 2018, arXiv:1711.00350. The grammar makes all 20,910 commands, and two splits follow
from it; which commands are in the simple one was drawn at random, and is read from its files.
"""

import itertools
from collections import Counter
from collections.abc import Sequence, Set
from functools import partial
from typing import NamedTuple

import numpy as np

from experiments.data.download import REMOTE_FILES, fetch
from experiments.data.text import read_text
from experiments.harness.errors import UserError

PRIMITIVES = ("walk", "look", "run", "jump")
DIRECTIONS = ("left", "right")
TIMES = {"twice": 2, "thrice": 3}
JOINTS = ("and", "after")
NO_VERBS = {*DIRECTIONS, *TIMES, *JOINTS, "opposite", "around"}
SPLITS = ("simple", "random", "length", "jump")
SIMPLE = {"scan/tasks_train_simple.txt": 16_728, "scan/tasks_test_simple.txt": 4_182}  # lines
LONGEST_TRAINED = 22  # actions, in the length split
LONE = 1467  # training examples of the jump split, a tenth, are verbs that stand alone
TEST_SHARE = 0.2  # of all commands, in the random split
VALID_SHARE = 0.05  # of the training examples, held out
HELD_BACK = ("random", "longest")
LONG = 20  # actions; the longest examples have more


class Pair(NamedTuple):
    """Hold a command and the actions that it asks for."""

    command: tuple[str, ...]
    actions: tuple[str, ...]


def load_scan(
    split: str, primitives: int = 0, split_seed: int = 0, held_back: str = "random"
) -> dict[str, list[Pair]]:
    """Return the examples of a split, as train, valid and test.

    Args:
      split: ``"simple"``, a published random split; ``"random"``, another one, which needs no
        files; ``"length"`` (up to 22 actions in training, 24 to 48 in the test) or ``"jump"`` (in
        training, "jump" stands alone).
      primitives: how many further verbs occur in training, alone and in longer commands, as in
        Patel et al. 2022, arXiv:2203.07402: each as often as those of the grammar. They and "jump"
        also stand alone equally often: where "jump" alone makes up a tenth of the examples,
        networks learn that it ends a command. In the jump split the last of them stands alone in
        training too, and the examples for validation are longer commands with it.
      split_seed: decides what is drawn: the random split, which training examples are held out
        for validation, and which commands the further verbs occur in.
      held_back: the training examples for validation: ``"random"`` ones, or the ``"longest"``, of
        more than 20 actions, so that what is chosen is what does well on longer commands.

    Raises:
      UserError: where the files of the simple split cannot be had, or hold something else.
    """
    rng = np.random.default_rng(split_seed)
    if split == "random":
        test, train = drawn(all_pairs(), TEST_SHARE, rng)
    else:
        jumps = partial(jump_split, lone_examples(primitives))
        train, test = {"simple": simple_split, "length": length_split, "jump": jumps}[split]()
    times = Counter(train)  # what is repeated stays, or validation would know it
    once = [pair for pair in train if times[pair] == 1]
    valid, once = longest(once) if held_back == "longest" else drawn(once, VALID_SHARE, rng)
    train = once + [pair for pair in train if times[pair] > 1]
    if primitives:
        apart = f"verb{primitives}" if split == "jump" else None
        held_out = {*test} if apart else {*valid, *test}  # where apart, valid is made below
        train = with_further_verbs(train, primitives, apart, held_out, rng)
        if apart:
            known, _ = drawn(test, len(valid) / len(test), rng)
            valid = [pair_of(" ".join(pair.command).replace("jump", apart)) for pair in known]
    return {"train": train, "valid": valid, "test": test}


def drawn(
    pairs: list[Pair], share: float, rng: np.random.Generator
) -> tuple[list[Pair], list[Pair]]:
    """Draw a share of examples at random; return them, and the others."""
    order, count = rng.permutation(len(pairs)), round(share * len(pairs))
    return [pairs[k] for k in order[:count]], [pairs[k] for k in order[count:]]


def longest(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Return the examples of more than 20 actions, and the others."""
    long = [pair for pair in pairs if len(pair.actions) > LONG]
    return long, [pair for pair in pairs if len(pair.actions) <= LONG]


def simple_split() -> tuple[list[Pair], list[Pair]]:
    """Return the 16,728 and 4,182 commands of the files, together those of the grammar, each once.

    Raises:
      UserError: where they cannot be had, or hold something else.
    """
    files = {file.path: file for file in REMOTE_FILES["scan"]}
    found, seen = [], set()
    for name, count in SIMPLE.items():
        pairs = read_pairs(read_text(fetch(files[name])), name)
        for number, pair in enumerate(pairs, 1):
            if pair in seen:
                command = " ".join(pair.command)
                raise UserError(
                    f"{name}, line {number}: expected each command once, got {command!r} again."
                )
            seen.add(pair)
        if len(pairs) != count:
            raise UserError(
                f"{name}: expected {count:,} lines, got {len(pairs):,}; the file is not whole, or "
                "another one: put the published one in its place."
            )
        found.append(pairs)
    return found[0], found[1]


def length_split() -> tuple[list[Pair], list[Pair]]:
    """Return the commands of up to 22 actions, and the longer ones."""
    pairs = all_pairs()
    short = [pair for pair in pairs if len(pair.actions) <= LONGEST_TRAINED]
    return short, [pair for pair in pairs if len(pair.actions) > LONGEST_TRAINED]


def jump_split(times: int = LONE) -> tuple[list[Pair], list[Pair]]:
    """Return the commands without "jump" and many times "jump", and those with it."""
    pairs, alone = all_pairs(), pair_of("jump")
    without = [pair for pair in pairs if "jump" not in pair.command]
    return without + [alone] * times, [p for p in pairs if "jump" in p.command and p != alone]


def lone_examples(primitives: int) -> int:
    """Return how often each of the verbs that may stand alone does so.

    Example:
      >>> lone_examples(0), lone_examples(100), lone_examples(5000)
      (1467, 15, 1)
    """
    return -(-LONE // (primitives + 1))


def with_further_verbs(
    pairs: list[Pair],
    primitives: int,
    apart: str | None,
    held_out: Set[Pair],
    rng: np.random.Generator,
) -> list[Pair]:
    """Draw the verbs of longer commands anew, from theirs and further ones, which also stand alone.

    Then all of these verbs are equally frequent. There are as many longer commands as before, and
    each verb alone as often as `lone_examples` says.

    Args:
      pairs: the examples.
      primitives: how many further verbs there are.
      apart: one of them that only stands alone.
      held_out: examples of other splits; where one is drawn, verbs are drawn again.
      rng: draws.
    """
    known = {word for pair in pairs if len(pair.command) > 1 for word in pair.command}
    verbs = [verb for verb in PRIMITIVES if verb in known]
    verbs += [f"verb{k}" for k in range(1, primitives + 1)]
    alone = [p for p in map(pair_of, verbs) if p not in held_out] * lone_examples(primitives)
    kept = [pair for pair in pairs if not {*pair.command} <= {*verbs}]
    free = [verb for verb in verbs if verb != apart]

    def drawn_anew(command: tuple[str, ...]) -> Pair:
        words = (str(rng.choice(free)) if word in verbs else word for word in command)
        pair = pair_of(" ".join(words))
        return drawn_anew(command) if pair in held_out else pair

    return [drawn_anew(pair.command) for pair in kept] + alone


def all_pairs() -> list[Pair]:
    """Return all commands of the grammar with their actions.

    Example:
      >>> len(all_pairs()), max(len(pair.actions) for pair in all_pairs())
      (20910, 48)
    """
    turned = [f"{v} {d}" for v in (*PRIMITIVES, "turn") for d in DIRECTIONS]
    around = [
        phrase.replace(" ", f" {how} ") for phrase in turned for how in ("opposite", "around")
    ]
    verbs = [*PRIMITIVES, *turned, *around]
    phrases = [*verbs, *(f"{verb} {times}" for verb in verbs for times in TIMES)]
    joined = (f"{x} {word} {y}" for word in JOINTS for x, y in itertools.product(phrases, phrases))
    return [pair_of(command) for command in (*phrases, *joined)]


def said_of(splits: dict[str, list[Pair]]) -> str:
    """Say how many of the grammar's commands are in the splits, and what else is."""
    found = {pair for pairs in splits.values() for pair in pairs}
    every = {*all_pairs()}
    others = f"; {len(found - every):,} others have further verbs" * bool(found - every)
    return (
        f"Of the {len(every):,} commands that the grammar makes, {len(found & every):,} are in the "
        f"splits{others}."
    )


def pair_of(command: str) -> Pair:
    """Return a command with its actions.

    Raises:
      ValueError: for a command that the grammar does not make.

    Example:
      >>> pair_of("walk left after jump twice").actions
      ('I_JUMP', 'I_JUMP', 'I_TURN_LEFT', 'I_WALK')
    """
    words = tuple(command.split())
    return Pair(words, tuple(actions_of(words)))


def verdict(command: Sequence[str], actions: Sequence[str]) -> str:
    """Say whether these are the actions of a command, and what the grammar says if not.

    Example:
      >>> verdict(["walk", "left"], ["I_WALK"])
      'wrong; the grammar says: I_TURN_LEFT I_WALK'
      >>> verdict(["walk", "and"], ["I_WALK"])
      'the grammar makes no such command'
    """
    try:
        right = actions_of(command)
    except ValueError:
        return "the grammar makes no such command"
    return "right" if [*actions] == right else f"wrong; the grammar says: {' '.join(right)}"


def actions_of(words: Sequence[str]) -> list[str]:
    """Return the actions of a command; any word that is not of the grammar may be a verb."""
    for joint in JOINTS:
        if joint in words:
            at = words.index(joint)
            first, second = phrase_actions(words[:at]), phrase_actions(words[at + 1 :])
            return first + second if joint == "and" else second + first
    return phrase_actions(words)


def phrase_actions(words: Sequence[str]) -> list[str]:
    """Return the actions of a verb with where, how and how often, of which only it is needed."""
    match [*words]:
        case [*phrase, "twice" | "thrice" as times]:
            return verb_actions(phrase) * TIMES[times]
    return verb_actions(words)


def verb_actions(words: Sequence[str]) -> list[str]:
    """Return the actions of a verb with where and how, of which only it is needed."""
    match [*words]:
        case [verb, *_] if verb in NO_VERBS:
            pass
        case [verb, ("opposite" | "around") as how, ("left" | "right") as where]:
            turn = [f"I_TURN_{where.upper()}"]
            return (turn * 2 + act(verb)) if how == "opposite" else (turn + act(verb)) * 4
        case [verb, ("left" | "right") as where]:
            return [f"I_TURN_{where.upper()}", *act(verb)]
        case [verb] if verb != "turn":
            return act(verb)
    raise ValueError(f"expected a command of SCAN, got {' '.join(words)!r}")


def act(verb: str) -> list[str]:
    """Return the action of a verb; to turn is none besides the turn itself."""
    return [] if verb == "turn" else [f"I_{verb.upper()}"]


def read_pairs(text: str, name: str) -> list[Pair]:
    """Read lines ``IN: command OUT: actions``, and check them against the grammar.

    Raises:
      UserError: for a line of another form, with its number, one that the grammar does not make,
        and for a text without any.
    """
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        command, found, actions = line.removeprefix("IN: ").partition(" OUT: ")
        pair = Pair(tuple(command.split()), tuple(actions.split()))
        if not line.startswith("IN: ") or not found or not all(pair):
            raise UserError(f"{name}, line {number}: expected IN: COMMAND OUT: ACTIONS.")
        check_pair(pair, f"{name}, line {number}")
        pairs.append(pair)
    if not pairs:
        raise UserError(f"{name}: expected at least one line.")
    return pairs


def check_pair(pair: Pair, where: str) -> None:
    """Raise `UserError` for a command that the grammar does not make, or with other actions."""
    command = " ".join(pair.command)
    try:
        known = {*pair.command} <= {*PRIMITIVES, "turn", *NO_VERBS}
        right = pair_of(command) if known else None
    except ValueError:
        right = None
    if right is None:
        raise UserError(f"{where}: expected a command of SCAN, got {command[:60]!r}.")
    if pair != right:
        raise UserError(
            f"{where}: expected the {len(right.actions)} actions that the grammar gives to "
            f"{command!r}, got {len(pair.actions)} that end in {pair.actions[-1][:60]!r}."
        )
