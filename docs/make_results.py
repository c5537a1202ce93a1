"""Make docs/results.md from finished runs: `.venv/bin/python -m docs.make_results runs`.

What the page needs of each run is added to docs/results.jsonl, so that runs of several machines and
days stand on one page, and those that were made before need not be there. Each line of the page
names a published figure and what decides which runs belong to it. Of several configurations the one
with the best validation score is shown, with all its seeds. A line without a run of a commit of
this repository, or of one that was changed, is left out.
"""

import functools
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import catalogue
from experiments.harness.config import options
from experiments.harness.errors import UserError
from experiments.harness.rundir import read_json
from experiments.harness.runs import MEMBERS
from experiments.report.side_by_side import outcomes_in

ROOT = Path(__file__).parent.parent
HEAD = """\
# Results

`docs/make_results.py` writes this page from the `result.json` files of runs, kept with the commits
that trained them in [results.jsonl](results.jsonl). No figure is typed in by hand, and every seed
is shown. Each training kept the weights that scored best on its validation split, and read the test
split once, at the end.

Where several configurations were tried, the row shows the one with the best validation score and
says how many there were. For speakers who were not heard, that score comes from one more speaker
who was not trained on (`--validate_on=unheard`). *Selected on test* marks a published figure whose
authors chose it by its test score, which makes it better than their method would otherwise give.

Minutes are those of one training on two CPU cores, compilation included; other programs may have
been running, so they are upper bounds. For trainings made together in one sweep, the sweep's
minutes are divided by their number; one alone takes longer. A limit of minutes holds for the mean
over seeds. A name in capitals stands for a path: CLASSIFIER is a run of `image_cnn` on the same
images.

Others validate on the last tenth of tiny Shakespeare. Here its first half decided when to stop and
which configuration to show, and its second half is the test; figures for both halves together come
first, since those are what others report. The cost of a chord is its mean over all frames of all
test chorales, unless the row says otherwise.

| experiment | published | ours | seeds | minutes | command |
|---|---|---|---|---|---|
"""


class Line(NamedTuple):
    """Describe a line of the page.

    Attributes:
      experiment: its name.
      what: which variant, in words.
      fields: the values by which its runs are told from others, in a tuple where there are
        several; a field that is not named may have any, and the validation score decides.
      metric: a number of ``result.json``, or of the file.
      form: how it is written.
      published: figures of others, with their sources.
      file: of the run's directory, where the metric stands.
      minutes: the most that a training may take, on the mean of the seeds.
      over: the field whose values stand side by side and are averaged.
      judged_by: the fields in which trainings differ whose validation decides among
        configurations, where it is not their own; empty otherwise.
    """

    experiment: str
    what: str
    fields: dict[str, Any]
    metric: str
    form: str
    published: str
    file: str = "result.json"
    minutes: float = math.inf
    over: str = "seed"
    judged_by: dict[str, Any] = {}  # noqa: RUF012 - never changed in place


class Tried(NamedTuple):
    """Hold a configuration of a line.

    Attributes:
      score: by which it is chosen, on validation; the greatest is the best.
      runs: its trainings, by seed.
    """

    score: float
    runs: dict[int, "Found"]


class Found(NamedTuple):
    """Hold a finished training.

    Attributes:
      config: its Config.
      commit: of the code that it began with.
      result: its ``result.json``.
      evaluations: other files of numbers in its folder, by name.
    """

    config: dict[str, Any]
    commit: str
    result: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]


# What runs did that are older than a field, where that is not its default.
OLDER = {"pronunciations": {"direct": False}}
# Of digits that are asked for in turn, the shares are no result, and which were drawn is one.
SHARES = ("divergence of the ten digits' shares, nats", "test_class_kl", "{:.3f}")
AS_ASKED = ("digits that are taken for what was asked for", "test_as_asked", "{:.1%}")
LOOKING = ("additive", "multiplicative")
BAI = "[Bai et al. 2018](https://arxiv.org/abs/1803.01271), *selected on test*"
NANO = "[nanoGPT](https://github.com/karpathy/nanoGPT), *selected on test*"
BEST = "(their best over all, no attention)"
SCAN = "[Lake & Baroni 2018](https://arxiv.org/abs/1711.00350)"
LINES = (
    Line("sequential_digits", "digits, row by row", {"data": "digits", "order": "row"},
         "test_accuracy", "{:.2%}", "-"),
    Line("sequential_digits", "MNIST, row by row", {"data": "mnist", "order": "row"},
         "test_accuracy", "{:.2%}", "-"),
    Line("image_cnn", "MNIST", {"data": "mnist"}, "test_accuracy", "{:.2%}",
         "99.17 % ([Flax's example](https://github.com/google/flax/tree/main/examples/mnist))"),
    *(
        Line("char_lm", f"tiny Shakespeare, {how}", {"data": "shakespeare", "text": ""},
             metric, "{:.4f} nats", published, file, minutes)
        for how, metric, published, file, minutes in (
            ("state carried, at most 3 minutes", "carried_both", "-", "evaluation.json", 3),
            ("windows of 256 from a cold start, at most 3 minutes", "cold_both",
             f"1.88 (its CPU recipe, {NANO})", "evaluation.json", 3),
            ("second half, state carried, at most 3 minutes", "carried_test", "-",
             "evaluation.json", 3),
            ("state carried, at most 10 minutes", "carried_both", "-", "evaluation.json", 10),
            ("state carried", "carried_both", "-", "evaluation.json", math.inf),
            ("windows of 256 from a cold start", "cold_both", f"1.4697 (an A100, {NANO})",
             "evaluation.json", math.inf),
            ("learning from what was read", "dynamic_both", "-", "evaluation-dynamic.json",
             math.inf),
            ("second half, learning from what was read", "dynamic_test", "-",
             "evaluation-dynamic.json", math.inf),
        )
    ),
    *(
        Line("char_lm", f"tiny Shakespeare, second half, carried, dropout alone, {cell} x {layers}",
             {"data": "shakespeare", "text": "", "cell": cell, "layers": layers,
              "variational": False, "average": 0.0},
             "test_loss", "{:.4f} nats", "-")
        for cell, layers in (
            ("elman", 1), ("gru", 1), ("lstm", 1), ("lstm", 2), ("lstm", 3), ("min_gru", 3),
            ("griffin", 3), ("transformer", 4),
        )
    ),
    *(
        Line("jsb_chorales", f"keys independent of each other, {cell}",
             {"cell": cell, "head": "independent"}, "test_loss", "{:.3f} nats",
             f"{score} ({BAI})")
        for cell, score in (("elman", 8.91), ("gru", 8.43), ("lstm", 8.45))
    ),
    Line("jsb_chorales", "keys independent of each other, one network for all keys",
         {"head": "independent", "view": "key"}, "test_loss", "{:.3f} nats",
         f"8.10 (a TCN, {BAI}), 7.72 (RRU, [Zakovskis et al. 2021]"
         "(https://arxiv.org/abs/2108.00527), *selected on test*)"),
    Line("jsb_chorales", "keys independent of each other, at most 5 minutes",
         {"head": "independent", "view": "key"}, "test_loss", "{:.3f} nats", "-", minutes=5),
    *(
        Line("jsb_chorales", f"joint head{how}", {"head": "joint"}, metric, "{:.3f} nats",
             published)
        for how, metric, published in (
            ("", "test_loss", "at most 6.80 ([Pyro's deep Markov model]"
             "(https://pyro.ai/examples/dmm.html) with flows, a bound)"),
            (", the mean over chorales of their means", "test_song", "-"),
        )
    ),
    *(
        Line("scan_commands", f"{split}, {'with' if looks else 'without'} attention",
             {"split": split, "primitives": 0, "ends": True, "held_back": "random"}
             | {"attention": LOOKING if looks else ("last",)},
             "test_exact", "{:.2%}", f"{score} ({SCAN})")
        for split, looks, score in (
            ("simple", True, f"99.7 % {BEST}"), ("simple", False, f"99.7 % {BEST}"),
            ("length", True, f"13.8 % {BEST}, 20.8 % (the best on this split)"),
            ("jump", True, f"0.08 % {BEST}, 1.2 % (the best on this split)"),
        )
    ),
    Line("scan_commands", "length, with attention, chosen on the longest commands of training",
         {"split": "length", "primitives": 0, "ends": True, "held_back": "longest",
          "attention": LOOKING},
         "test_exact", "{:.2%}", f"13.8 % {BEST}, 20.8 % (the best on this split) ({SCAN})"),
    *(
        Line("scan_commands", f"simple, {'with' if looks else 'without'} attention, {how}{what}",
             {"split": "simple", "primitives": 0, "ends": True, "held_back": "random"}
             | {"attention": LOOKING if looks else ("last",)},
             metric, form, "-", f"evaluation-test-beam{beam}.json")
        for looks in (True, False)
        for how, beam in (("greedy", 1), ("beam of 5", 5))
        for what, metric, form in (
            ("", "exact", "{:.2%}"),
            (", seconds for all 4,182 commands", "seconds", "{:.1f} s"),
        )
    ),
    Line("scan_commands", "length, no end written, true length given",
         {"split": "length", "ends": False, "held_back": "random"}, "test_exact", "{:.2%}",
         "58 % ([Newman et al. 2020](https://arxiv.org/abs/2010.07174))"),
    Line("scan_commands", "jump, 100 further verbs in training",
         {"split": "jump", "primitives": 100, "ends": True}, "test_exact", "{:.2%}",
         "near perfect ([Patel et al. 2022](https://arxiv.org/abs/2203.07402))"),
    *(
        Line("pronunciations", f"{words}, {how}, words right",
             {"split": split, "split_seed": 0, "stress": False, "ends": True}, metric, "{:.2%}",
             published if split == "random" else "-", file, minutes)
        for split, words in (("random", "random words"), ("stems", "no stem of training"))
        for how, metric, file, minutes in (
            ("at most half an hour, greedy", "test_exact", "result.json", 30),
            ("greedy", "test_exact", "result.json", math.inf),
            ("beam of 5", "exact", "evaluation-test-beam5.json", math.inf),
        )
        for published in ("69.8 % (a transformer of 3 layers of 256), 66.1 % (Phonetisaurus); see "
                          "[g2p-seq2seq](https://github.com/cmusphinx/g2p-seq2seq)",)
    ),
    *(
        Line("sequential_digits", f"MNIST, {how}", {"data": "mnist", "order": order},
             "test_accuracy", "{:.2%}", f"LSTM {scores[0]} %, GRU {scores[1]} % ({BAI})")
        for how, order, scores in (
            ("pixel by pixel", "pixel", (87.2, 96.2)),
            ("pixels shuffled once", "permuted", (85.7, 87.3)),
        )
    ),
    Line("digit_strings", "1 to 8 MNIST digits, digits wrong", {"data": "mnist"}, "test_errors",
         "{:.2%}", "-"),
    Line("digit_strings", "1 to 8 MNIST digits, strings right", {"data": "mnist"}, "test_exact",
         "{:.2%}", "-"),
    Line("spoken_digits", "one digit, official split", {"split": "official", "digits": 1},
         "test_exact", "{:.2%}", "-"),
    Line("spoken_digits", "one digit, a speaker who was not heard",
         {"split": "speaker", "digits": 1, "validate_on": "heard"}, "test_exact", "{:.2%}", "-",
         over="held_out", judged_by={"validate_on": "unheard"}),
    *(
        Line("spoken_digits", f"strings of up to 5, {how}, words wrong",
             {"split": "official", "digits": 5, "snr": snr}, "test_errors", "{:.2%}", "-")
        for how, snr in (("without noise", 60.0), ("noise at 10 dB", 10.0))
    ),
    *(
        Line("long_memory", f"adding, T = {length:,}, {cell}",
             {"problem": "adding", "length": length, "cell": cell}, "test_loss", "{:.2e}",
             f"1.67e-1 (nothing learned){others}")
        for length, cells, others in (
            (200, ("elman", "lstm", "gru", "min_gru", "lem", "orthogonal_rnn", "lru"), ""),
            (600, ("lstm", "gru", "lem"), f", LSTM 1.64e-1, GRU 5.3e-5 ({BAI})"),
            (10_000, ("lru", "rg_lru", "min_gru", "lem"),
             ", 5.6e-3 (LEM, [Rusch et al. 2022](https://arxiv.org/abs/2110.04744))"),
        )
        for cell in cells
    ),
    *(
        Line("long_memory", f"copy, T = 1000, {cell}, sequences right",
             {"problem": "copy", "length": 1000, "cell": cell}, "test_right", "{:.2%}", "-")
        for cell in ("lru", "orthogonal_rnn", "lstm")
    ),
    Line("time_series", "JapaneseVowels, official split",
         {"data": "JapaneseVowels", "csv": "", "resample": 0}, "test_accuracy", "{:.2%}",
         "99.3 % (FCN), 99.2 % (ResNet), 96.5 % (TWIESN), means of 10 "
         "([Ismail Fawaz et al. 2019](https://arxiv.org/abs/1809.04356))"),
    Line("time_series", "JapaneseVowels, resampled, one training each",
         {"data": "JapaneseVowels", "csv": "", "seed": 0}, "test_accuracy", "{:.2%}",
         "-", over="resample"),
    *(
        Line("time_series", f"M1 yearly, mean MASE{whose}", {"data": "m1_yearly", "csv": ""},
             metric, "{:.3f}",
             "3.499 (TBATS), 3.771 (ETS), 4.384 (N-BEATS), as quoted for the "
             "[Monash archive](https://forecastingdata.org/)")
        for whose, metric in (("", "test_mase"), (", of drift alone", "test_mase_drift"))
    ),
    *(
        Line("recurrent_ppo", what, fields | {"cell": "gru"}, "test_return", "{:.2f}", published)
        for what, fields, published in (
            ("CartPole, positions alone",
             {"environment": "cart_pole_positions", "memory": "recurrent", "frames": 1},
             "500.0, and 401.6 of another seed ([sb3-contrib](https://huggingface.co/sb3/"
             "ppo_lstm-CartPoleNoVel-v1))"),
            ("CartPole, positions alone, without memory",
             {"environment": "cart_pole_positions", "memory": "none", "frames": 1}, "-"),
            ("CartPole, positions alone, the last 4 at once",
             {"environment": "cart_pole_positions", "memory": "none", "frames": 4}, "-"),
            ("a cue asked for 10 steps later",
             {"environment": "memory_chain", "length": 10, "memory": "recurrent"}, "-"),
            ("a cue asked for 30 steps later",
             {"environment": "memory_chain", "length": 30, "memory": "recurrent"}, "-"),
            ("a cue asked for 10 steps later, without memory",
             {"environment": "memory_chain", "length": 10, "memory": "none"}, "-"),
            ("T-maze of 10", {"environment": "t_maze", "length": 10, "memory": "recurrent"}, "-"),
            ("T-maze of 10, without memory",
             {"environment": "t_maze", "length": 10, "memory": "none"}, "-"),
        )
    ),
    *(
        Line("digit_gan", f"MNIST, {how}, {what}", {"data": "mnist"} | fields, metric, form, "-")
        for how, fields, another in (
            ("by convolutions, told which digit", {"generator": "conv", "conditional": True},
             AS_ASKED),
            ("by convolutions", {"generator": "conv", "conditional": False}, SHARES),
            ("row by row, told which digit", {"generator": "rows", "conditional": True}, AS_ASKED),
            ("row by row", {"generator": "rows", "conditional": False}, SHARES),
        )
        for what, metric, form in (
            ("Frechet distance, in units of that of training images", "test_frechet_ratio",
             "{:.2f}"),
            ("digits of which a classifier is 90 % sure", "test_sure", "{:.1%}"),
            another,
        )
    ),
    *(
        Line("flip_flop", f"{bits} bits in {cell}, stable fixed points",
             {"cell": cell, "bits": bits}, "stable", "{:.0f}", published,
             "evaluation-fixed_points.json")
        for cell, bits, published in (
            ("elman", 3, "-"), ("gru", 3, "-"),
            ("lstm", 3, "8 ([FixedPointFinder's example]"
             "(https://github.com/mattgolub/fixed-point-finder))"),
            ("elman", 4, "-"), ("gru", 4, "-"),
        )
    ),
    Line("row_likelihood", "binarised MNIST", {"data": "mnist"}, "test_loss", "{:.2f} nats",
         "82.12 (dev set; [a diagonal BiLSTM](https://github.com/igul222/pixel_rnn) after 100,000 "
         "steps, not yet converged), on another draw of the pixels"),
)  # fmt: skip


def page(runs: Sequence[Found]) -> str:
    """Return the whole page."""
    return HEAD + "".join(row for line in LINES for row in rows(line, runs))


def rows(line: Line, runs: Sequence[Found]) -> Iterator[str]:
    """Yield the row of a line, unless no run belongs to it."""
    within = tried(line, runs)
    if not within:
        return
    best = within[0].runs
    values = [number(run, line) for run in best.values()]
    config = next(iter(best.values())).config
    of_what = "" if line.over == "seed" else f"{line.over} "
    among = f", {len(within)} configurations tried" if len(within) > 1 else ""
    yield (
        f"| `{line.experiment}`: {line.what} | {line.published} | "
        f"**{line.form.format(statistics.mean(values))}** | "
        f"{', '.join(map(line.form.format, values))} "
        f"({of_what}{', '.join(map(str, best))}){among}{together(best.values())} | "
        f"{minutes_of([*best.values()]):.1f} | "
        f"`{command(line.experiment, config, line.over)}` |\n"
    )


def tried(line: Line, runs: Sequence[Found]) -> list[Tried]:
    """Return the configurations of a line, the best on validation first.

    Left out are those that took longer than the line allows, or have its number not of every seed.
    """
    judges = configurations(judging(line), runs)
    within = [
        Tried(score([*judges.get(judge_of(config, line), {}).values()]), own)
        for config, own in configurations(line, runs).items()
        if minutes_of([*own.values()]) <= line.minutes
        and all(has_number(run, line) for run in own.values())
    ]
    return sorted(within, key=lambda each: each.score, reverse=True)


def judging(line: Line) -> Line:
    """Return the line of the trainings whose validation decides among its configurations."""
    return line._replace(fields=line.fields | line.judged_by)


def configurations(line: Line, runs: Sequence[Found]) -> dict[str, dict[int, Found]]:
    """Return the runs of a line by their other fields, as JSON, and by seed."""
    groups: dict[str, dict[int, Found]] = {}
    for run in runs:
        if belongs(run, line):
            others = defaults(line.experiment) | run.config
            own = others.pop(line.over)
            group = groups.setdefault(json.dumps(others, sort_keys=True), {})
            group[own] = max(group.get(own, run), run, key=ended)
    return {config: dict(sorted(group.items())) for config, group in groups.items()}


def judge_of(config: str, line: Line) -> str:
    """Return the configuration, as JSON, by which one is judged."""
    return json.dumps(json.loads(config) | line.judged_by, sort_keys=True)


@functools.cache
def defaults(experiment: str) -> dict[str, Any]:
    """Return the values of fields that a run has which is older than they are."""
    known = options(catalogue.load(experiment).module.Config)
    return {name: option.default for name, option in known.items()} | OLDER.get(experiment, {})


def belongs(run: Found, line: Line) -> bool:
    """Return whether a run is of a line."""
    if run.result["experiment"] != line.experiment:
        return False
    config = defaults(line.experiment) | run.config
    return all(config.get(name) in allowed(value) for name, value in line.fields.items())


def minutes_of(runs: Sequence[Found]) -> float:
    """Return the mean minutes of trainings."""
    return statistics.mean(run.result["train_seconds"] for run in runs) / 60


def together(runs: Iterable[Found]) -> str:
    """Say how many trainings of a row's sweep were made together, if any were."""
    most = max(run.result.get("together", 1) for run in runs)
    return f", {most} trained together" if most > 1 else ""


def ended(run: Found) -> str:
    """Return when a run ended, as a text that sorts."""
    return run.result["finished"]


def has_number(run: Found, line: Line) -> bool:
    """Return whether a run has the number of a line, of the weights that it kept at its end."""
    if line.file == "result.json":
        return True
    known = run.evaluations.get(line.file, {})
    return known.get("best_step") == run.result["best_step"] and bool(known.get("clean"))


def allowed(value: Any) -> tuple[Any, ...]:
    """Return the values that a field may have."""
    return value if isinstance(value, tuple) else (value,)


def number(run: Found, line: Line) -> float:
    """Return the number of a run that a line shows."""
    found = run.result if line.file == "result.json" else run.evaluations[line.file]
    return found[line.metric]


def score(runs: Sequence[Found]) -> float:
    """Return the mean validation score of trainings that differ in the seed alone, if any."""
    if not runs:
        return -math.inf
    values = [run.result[f"valid_{run.result['select']}"] for run in runs]
    if None in values or not all(map(math.isfinite, values)):
        return -math.inf
    return statistics.mean(values) * (1 if runs[0].result["higher_is_better"] else -1)


def command(experiment: str, config: dict[str, Any], over: str = "seed") -> str:
    """Return the command of a run, without its seed, one more field, and what is as by default."""
    known = options(catalogue.load(experiment).module.Config)
    config = defaults(experiment) | config
    changed = {
        name: config[name]
        for name in known
        if name in config and name not in ("seed", over) and config[name] != known[name].default
    }
    return shlex.join(
        ["./launch.sh", experiment, *(flag(name, value) for name, value in changed.items())]
    )


def flag(name: str, value: Any) -> str:
    """Write a field as a flag."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={value}"


def finished(folders: Iterable[Path]) -> Iterator[Found]:
    """Yield the trainings in folders, of runs and sweeps, that are of a commit of this tree."""
    for folder in folders:
        for file in sorted(folder.rglob("result.json")):
            config, result = read_json(file.parent / "config.json"), read_json(file)
            commit = config["origin"].get("commit", "")
            if not config["origin"].get("clean") or commit not in commits():
                print(f"left out, of another tree: {file.parent}", file=sys.stderr)
            elif "axes" in config:
                yield from members(file.parent, config, result)
            elif not is_of_a_sweep(file.parent):
                found = evaluations_in(file.parent)
                yield Found(without_places(config["config"]), commit, result, found)


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Write the name of a field in capitals for a path of the machine that it ran on.

    Example:
      >>> without_places({"classifier": "/runs/a", "data": "mnist"})
      {'classifier': 'CLASSIFIER', 'data': 'mnist'}
    """
    paths = {name for name, value in config.items() if os.path.isabs(str(value))}
    return config | {name: name.upper() for name in paths}


def is_of_a_sweep(folder: Path) -> bool:
    """Return whether a run is a member of a sweep, whose members are read already."""
    above = [folder.parent / "config.json", folder.parent.parent / "config.json"]
    return any(file.exists() and "axes" in json.loads(file.read_text()) for file in above)


def members(folder: Path, config: dict[str, Any], result: dict[str, Any]) -> Iterator[Found]:
    """Yield the trainings of a sweep; its time is shared among them."""
    rows = outcomes_in(folder / "sweep.jsonl")
    for row in rows:
        own = without_places(config["config"] | {name: row[name] for name in config["axes"]})
        shared = {"train_seconds": result["train_seconds"] / len(rows), "together": len(rows)}
        alone = evaluations_in(folder / MEMBERS / str(row["member"]))
        yield Found(own, config["origin"]["commit"], result | row | shared, alone)


def evaluations_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the command ``evaluate`` has left in the folder of a run, by file."""
    return {file.name: read_json(file) for file in folder.glob("evaluation*.json")}


def merged(known: Iterable[Found], found: Iterable[Found]) -> list[Found]:
    """Return all trainings, of those with the same Config the one that ended last."""
    kept: dict[str, Found] = {}
    for run in [*known, *found]:
        key = json.dumps([run.result["experiment"], run.config], sort_keys=True)
        kept[key] = max(run, kept.get(key, run), key=ended)
    return [kept[key] for key in sorted(kept)]


def read(file: Path) -> list[Found]:
    """Return the trainings of a file that `written` made, those of commits of this tree."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [run for run in (Found(**json.loads(line)) for line in lines) if run.commit in commits()]


def written(runs: Iterable[Found]) -> str:
    """Return trainings as JSON, one a line."""
    return "".join(json.dumps(run._asdict(), sort_keys=True) + "\n" for run in runs)


@functools.cache
def commits() -> set[str]:
    """Return the commits that led to this one."""
    command = ["git", "-C", str(ROOT), "log", "--format=%H"]
    done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    return {*done.stdout.decode().split()}


def main(folders: Sequence[Path], docs: Path = ROOT / "docs") -> None:
    """Add the trainings in folders to those that are known, and write the pages of them."""
    from docs import make_tried

    try:
        every = merged(read(docs / "results.jsonl"), finished(folders))
    except UserError as error:
        sys.exit(f"error: {error}")
    lines = [each for line in LINES for each in (line, judging(line))]
    runs = [run for run in every if any(belongs(run, line) for line in lines)]
    if not runs:
        sys.exit("There is no finished run of this tree in these folders.")
    (docs / "results.jsonl").write_text(written(runs), encoding="utf-8")
    (docs / "results.md").write_text(page(runs), encoding="utf-8")
    (docs / "tried.md").write_text(make_tried.page(runs), encoding="utf-8")


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:] or ["runs"]])
