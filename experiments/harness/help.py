"""Write the pages of `--help`, as wide as the terminal."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from experiments.harness import config
from experiments.harness.catalogue import Experiment
from experiments.harness.config import Option
from experiments.harness.errors import UserError
from experiments.harness.files import path_of
from experiments.harness.naming import Launch
from experiments.harness.processes import Group, Hardware

WIDEST = 100
USAGE = {
    "": "trains the default experiment, {default}",
    "EXPERIMENT [--flag=value ...]": "trains an experiment, or goes on with it",
    "path/to/idea.py [--flag=value ...]": "trains an experiment of your own, from its file",
    "new path/to/idea.py": "writes such a file, which runs at once",
    "EXPERIMENT --help": "lists its flags",
    "sweep EXPERIMENT --sweep=FIELD=VALUES ...": "trains many configurations together; --help",
    "report DIR ... [--out=FILE]": "puts runs and sweeps side by side on one page",
    "info DIR": "shows what a run is, and what it came to",
    "COMMAND DIR [--flag=value ...]": "uses a trained run: {commands}",
    "list": "lists all experiments",
    "download DATASET|all": "fetches data sets",
    "bench [--flag=value ...]": "times our cells beside other libraries; --help",
    "test [pytest arguments]": "lints, checks types and runs the tests",
    "completion bash|zsh": "prints what lets the shell complete these words and flags",
    "... --traceback": "shows where an error came from that is said in one line",
    "--version": "prints the versions of the code and of what it stands on",
}


def usage(default: str, commands: Sequence[str]) -> str:
    """Return all that can be written after ``./launch.sh``."""
    known = ", ".join(commands)
    lines = []
    for words, meaning in USAGE.items():
        said = meaning.format(default=default, commands=known)
        lines += entry(f"./launch.sh {words}".rstrip(), said, indent=42)
    return "\n".join(lines)


def width() -> int:
    """Return how wide the terminal is, at most as wide as reads well."""
    return max(30, min(WIDEST, shutil.get_terminal_size().columns))


def entry(head: str, meaning: str, indent: int) -> list[str]:
    """Return a head and its meaning beside it, or below it where that is too long."""
    indent = indent if width() >= 2 * indent else 6
    room = width() - indent
    lines = textwrap.wrap(meaning, max(room, 10), break_long_words=False, break_on_hyphens=False)
    margin = " " * indent
    if len(head) <= indent:
        return [f"{head:{indent}}{lines[0]}", *(margin + line for line in lines[1:])]
    return [head, *(margin + line for line in lines)]


def paragraph(text: str) -> str:
    """Wrap prose; lines that are indented stay as they are."""
    parts = [part.strip("\n") for part in text.strip().split("\n\n")]
    return "\n\n".join(
        part
        if any(line[:1].isspace() for line in part.splitlines())
        else textwrap.fill(
            " ".join(part.split()), width(), break_long_words=False, break_on_hyphens=False
        )
        for part in parts
    )


def help_lines(cls: type) -> list[str]:
    """Return lines of help for each field of a dataclass, those that it adds itself first."""
    known = config.options(cls)
    own = [name for each in cls.__mro__ for name in vars(each).get("__annotations__", {})]
    order = [name for name in dict.fromkeys(own) if name in known]
    return [line for name in order for line in flag_lines(name, known[name])]


def flag_lines(name: str, field: Option) -> list[str]:
    """Return one flag's type, default and meaning."""
    kinds = {int: "whole number", float: "number", bool: "true/false", str: "text"}
    kind = "|".join(field.choices) or kinds[field.type]
    star = "*" if field.traced else " "
    default = f'"{field.default}"' if field.type is str else str(field.default).lower()
    head = f" {star} --{name:16} "
    first = entry(head, f"{kind}, default {default}", len(head))
    margin = " " * (len(head) if width() >= 2 * len(head) else 6)
    meaning = textwrap.wrap(
        field.help, width() - len(margin), break_long_words=False, break_on_hyphens=False
    )
    return [*first, *(margin + line for line in meaning)]


def page_of(experiment: Experiment) -> str:
    """Return an experiment's fields, its own first; then the launcher's flags, and commands."""
    lines = [paragraph(experiment.module.__doc__ or experiment.name), ""]
    lines += [paragraph(f"Flags of {experiment.name} (* sweeps in one program):")]
    lines += [*help_lines(experiment.module.Config), "", "Flags of every run:"]
    lines += [*help_lines(Launch), *help_lines(Hardware)]
    for word, command in experiment.commands.items():
        lines += ["", f"./launch.sh {word} DIR: {command.help}", *help_lines(command.flags)]
    return "\n".join(lines)


def page_of_sweep(experiment: Experiment) -> str:
    """Return the sweep's own flags; then the experiment's, any of which can be swept."""
    from experiments.sweep import axes, flags, run

    lines = [paragraph(f"{run.__doc__}"), "", "Flags of every sweep:"]
    lines += entry("   --sweep=FIELD=VALUES ", f"may be repeated; VALUES are {axes.FORMS}", 24)
    lines += [*help_lines(flags.Settings), *help_lines(Group)]
    lines += ["", "Flags of every run:", *help_lines(Launch)]
    lines += ["", paragraph("Fields (* sweep in one program, others in one for each value):")]
    return "\n".join([*lines, *help_lines(experiment.module.Config)])


def page_of_command(word: str, folders: Sequence[str], having: Sequence[str]) -> str:
    """Return what a command of trained runs does, and its flags.

    Args:
      word: the command.
      folders: a run directory, if one is given; without, the page is of all experiments.
      having: the experiments of this package that have such a command.
    """
    from experiments.harness.catalogue import load

    head = f"./launch.sh {word} DIR [--flag=value ...]"
    if not folders:
        said: dict[str, list[str]] = {}  # what a command does to the experiments of which it is so
        for name in having:
            command = load(name).commands[word]
            text = "\n".join([command.help, *help_lines(command.flags)])
            said.setdefault(text, []).append(name)
        return "\n\n".join([head, *(f"{', '.join(who)}: {text}" for text, who in said.items())])
    from experiments.harness.runs import read_experiment

    experiment = read_experiment(path_of(folders[0], f"{word}: "))
    if word not in experiment.commands:
        raise UserError(f"{word}: {experiment.name} has no such command.")
    command = experiment.commands[word]
    return "\n".join([f"{head}: {command.help}", *help_lines(command.flags)])


def page_of_module(module: Any) -> str:
    """Return what a command's module says of it, and its flags."""
    return "\n".join([paragraph(f"{module.__doc__}"), "", "Flags:", *help_lines(module.Settings)])
