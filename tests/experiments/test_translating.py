"""Encoder-decoders of commands and words: what counts as right, beams, and whole runs."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import __main__
from experiments.data.vocabulary import END, vocabulary_of
from experiments.figures.attention import attention_map
from experiments.harness.errors import UserError
from experiments.harness.program import Finished
from experiments.shared import translating, translations
from experiments.shared.translating import Languages, TranslatorConfig
from experiments.shared.translations import Example
from recurrent.errors import ArgumentError

PAIRS = [
    (("a", "b"), ("A", "B")),
    (("b",), ("B",)),
    (("a", "b"), ("B", "A", "A")),
    (("b", "b", "a"), ("A",)),
]
CALLED = translations.Called("word", "phone")
LANGUAGES = Languages(
    vocabulary_of(source for source, _ in PAIRS), vocabulary_of(target for _, target in PAIRS), 4, 4
)
SMALL = TranslatorConfig(hidden_size=6, embedding_size=4)


def batch() -> dict[str, jax.Array]:
    arrays = translating.arrays_of(PAIRS, LANGUAGES)
    return {k: jnp.asarray(v) for k, v in arrays.items()} | {"mask": jnp.ones(len(PAIRS), bool)}


def network(**fields: Any) -> tuple[Any, Any]:
    net = translating.network_of(dataclasses.replace(SMALL, **fields), LANGUAGES)
    params = net.init(jax.random.key(0))
    # large weights, so that what is likeliest is so by far
    return net, jax.tree.map(lambda leaf: 3 * leaf, params)


def test_pairs_become_arrays_in_which_a_source_counts_once() -> None:
    arrays = translating.arrays_of(PAIRS, LANGUAGES)
    assert arrays["sources"].tolist() == [[2, 3, 0, 0], [3, 0, 0, 0], [2, 3, 0, 0], [3, 3, 2, 0]]
    assert arrays["targets_lengths"].tolist() == [3, 2, 4, 2]
    assert arrays["counts"].tolist() == [True, True, False, True]
    twice = translating.arrays_of([*PAIRS, PAIRS[0], PAIRS[2]], LANGUAGES)
    assert twice["counts"].tolist() == [True, True, False, True, False, False]
    assert twice["distinct"].tolist() == [True, True, True, True, False, False]


@pytest.mark.long
@pytest.mark.parametrize("ends", [True, False])
def test_a_source_with_any_targets_counts_once_where_one_of_them_is_written(ends: bool) -> None:
    """Whatever a network writes, the metrics say what a loop over the sources finds."""
    rng = np.random.default_rng(0)
    some = [tuple(rng.choice(["A", "B"], size=rng.integers(0, 4))) for _ in range(200)]
    pairs = [((source,), some[rng.integers(len(some))]) for source in "ab" * 4]
    pairs += [(("a", "b"), target) for target in (("A", "B"), ("A",), ("A",), ("A", "B", "A"))]
    arrays = translating.arrays_of(pairs, LANGUAGES) | {"mask": np.ones(len(pairs), bool)}
    known: dict[Any, set[Any]] = {}
    for source, target in pairs:
        known.setdefault(source, set()).add(target)
    for _ in range(50):
        says = {source: tuple(rng.choice(["A", "B"], size=rng.integers(0, 4))) for source in known}
        written = [[*translating.padded([says[s]], LANGUAGES.targets, 4)[0][0]] for s, _ in pairs]
        found = translating.metrics(jax.nn.one_hot(np.array(written).T, 4), arrays, ends)["exact"]
        right = {
            source: any(
                target == (said if ends else said[: len(target)]) for target in known[source]
            )
            for source, said in says.items()
        }
        assert float(found.weight) == len(known) == 3
        assert float(found.total) == sum(right.values())
        examples = [Example(source, [*targets], 0) for source, targets in known.items()]
        words = translating.Written([[*says[e.source]] for e in examples], np.zeros(3))
        rows = translations.judged(examples, words, ends)
        assert [row.distance == 0 for row in rows] == [*right.values()]


def test_a_split_without_pairs_is_refused() -> None:
    with pytest.raises(UserError, match="one of its splits has no example"):
        translating.arrays_of([], LANGUAGES)


@pytest.mark.long
@pytest.mark.parametrize(
    "fields",
    [
        {"attention": "additive"},
        {"attention": "multiplicative", "query": "first", "layers": 2},
        {"attention": "last"},
    ],
)
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))]
)
def test_what_counts_as_exact_is_what_greedy_decoding_writes(fields: Any, seed: int) -> None:
    """The targets are what the network itself writes, with a change in some of them."""
    net, _ = network(**fields)
    params = jax.tree.map(lambda leaf: 3 * leaf, net.init(jax.random.key(seed)))
    rng = np.random.default_rng(seed)
    sources = rng.integers(2, 4, size=(12, 4)).astype(np.int32)
    lengths = rng.integers(1, 5, size=12).astype(np.int32)
    options = {"beam": 1, "longest": 6}
    found = translating.write(net, params, LANGUAGES, sources, lengths, **options).words
    targets = [
        words[:-1] if k % 3 == 1 and words else words if k % 3 else [*words[:4], "A"]
        for k, words in enumerate(found)
    ]
    ids, ends = translating.padded(targets, LANGUAGES.targets, 7)
    arrays = {
        **{"sources": sources, "sources_lengths": lengths, "targets": ids},
        **{"targets_lengths": ends, "counts": np.ones(12, bool)},
        **{"distinct": np.ones(12, bool), "mask": np.ones(12, bool)},
    }
    # a sequence without an end, cut at the longest, cannot be right
    same = [a == b and len(a) < 6 for a, b in zip(found, targets, strict=True)]
    logits = translating.logits_of(net, params, jax.tree.map(jnp.asarray, arrays))
    counted = translating.metrics(logits, arrays)["exact"]
    assert float(counted.total) == sum(same)
    assert float(counted.weight) == 12


@pytest.mark.long
def test_costs_and_counts_are_those_of_a_loop() -> None:
    net, params = network()
    given = batch()
    logits = np.asarray(translating.logits_of(net, params, given), np.float64)  # [T, B, V]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    costs, exact = [], 0
    for k, length in enumerate(given["targets_lengths"].tolist()):
        row = given["targets"][k, :length].tolist()
        costs += [-log_p[t, k, word] for t, word in enumerate(row)]
        exact += [int(logits[t, k].argmax()) for t in range(length)] == row
    found = translating.metrics(jnp.asarray(logits, jnp.float32), given)
    assert float(found["loss"].mean) == pytest.approx(np.mean(costs), rel=1e-5)
    assert float(found["exact"].total) == exact
    assert float(found["exact"].weight) == 3
    without = translating.metrics(jnp.asarray(logits, jnp.float32), given, ends=False)
    assert int(without["loss"].weight) == len(costs) - len(PAIRS)


def test_vectors_of_words_are_as_long_as_asked() -> None:
    short, long = (network(embedding_std=std)[1] for std in (0.0, 1.0))
    tables = [
        (params["encoder"]["layer_0"]["kernel"], params["decoder"]["embedding"]["kernel"])
        for params in (short, long)
    ]
    for own, other in zip(*tables, strict=True):
        np.testing.assert_allclose(other, own * SMALL.embedding_size**0.5, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("fields", [{}, {"query": "first", "layers": 2}, {"attention": "last"}])
def test_the_words_vectors_stand_before_the_states_where_asked(fields: dict[str, Any]) -> None:
    net, params = network(direct=True, **fields)
    given, size = batch(), SMALL.embedding_size
    lengths = given["sources_lengths"]
    memory, _ = translating.encoded(net, params, given["sources"], lengths)
    words = np.asarray(params["encoder"]["layer_0"]["kernel"])[np.asarray(given["sources"])]
    assert memory.values.shape[-1] == size + 2 * SMALL.hidden_size
    if fields.get("attention") == "last":
        words = words[np.arange(len(words)), np.asarray(lengths) - 1][:, None]
        lengths = jnp.ones_like(lengths)
    for k, length in enumerate(lengths.tolist()):
        np.testing.assert_array_equal(memory.values[:length, k, :size], words[k, :length])


def test_a_first_layer_that_asks_needs_one_above_it() -> None:
    with pytest.raises(UserError, match="--query: first needs a layer above"):
        network(query="first")


def test_nothing_is_right_where_logits_are_no_numbers() -> None:
    given = batch()
    logits = jax.nn.one_hot(given["targets"].T, 4)
    assert float(translating.metrics(logits, given)["exact"].total) == 4
    assert float(translating.metrics(logits.at[0].set(jnp.nan), given)["exact"].total) == 0


@pytest.mark.long
def test_more_padding_changes_no_bit_of_the_logits_and_the_loss_to_rounding() -> None:
    net, params = network()
    given = batch()
    wide = {
        side: jnp.pad(given[side], ((0, 0), (0, 9)), constant_values=1)
        for side in ("sources", "targets")
    }
    logits = [translating.logits_of(net, params, each) for each in (given, given | wide)]
    np.testing.assert_array_equal(logits[0], logits[1][: len(logits[0])])
    found = [
        translating.metrics(each, batch)
        for each, batch in zip(logits, (given, given | wide), strict=True)
    ]
    assert float(found[0]["exact"].total) == float(found[1]["exact"].total)
    np.testing.assert_allclose(found[0]["loss"].total, found[1]["loss"].total, rtol=1e-6)


@pytest.mark.long
def test_a_beam_of_all_sequences_finds_the_likeliest() -> None:
    net, params = network()
    given = batch()
    beams = {}
    for beam in (1, 64):
        beams[beam] = translating.write(
            net,
            params,
            LANGUAGES,
            np.asarray(given["sources"]),
            np.asarray(given["sources_lengths"]),
            **{"beam": beam, "longest": 3},
        )
    assert (beams[64].scores >= beams[1].scores - 1e-5).all()


@pytest.mark.long
def test_sources_in_many_parts_are_written_like_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(translating, "TOGETHER", 3)
    net, params = network()
    given = translating.arrays_of(PAIRS, LANGUAGES)
    options = {"beam": 2, "longest": 5}
    together = translating.write(
        net, params, LANGUAGES, given["sources"], given["sources_lengths"], **options
    )
    for k in range(len(PAIRS)):
        alone = translating.write(
            *(net, params, LANGUAGES),
            *(given["sources"][k : k + 1], given["sources_lengths"][k : k + 1]),
            **options,
        )
        assert alone.words == [together.words[k]]


def test_buckets_keep_all_of_every_source() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        (("a",) * int(rng.integers(1, 4)), ("A",) * int(rng.integers(0, 4))) for _ in range(50)
    ]
    data = {"train": translating.arrays_of(pairs, LANGUAGES)}
    data["test"] = translating.arrays_of([(("b",) * 3, ())], LANGUAGES)
    found = translating.buckets_of(data)
    assert found.limits[-1] == max(map(int, data["train"]["targets_lengths"]))
    assert found.sizes["sources"][-1] == 4
    for arrays in data.values():
        places = np.searchsorted(found.limits, arrays["targets_lengths"])
        assert (np.array(found.sizes["sources"])[places] >= arrays["sources_lengths"]).all()


def test_the_nearest_of_the_right_targets_counts() -> None:
    example = Example(("a",), [("A", "B"), ("B",)], 0)
    written = translating.Written([["B", "B"]], np.zeros(1))
    (row,) = translations.judged([example], written)
    assert (row.true, row.distance) == (("A", "B"), 1)
    arrays = translating.arrays_of(PAIRS, LANGUAGES)
    found = translations.examples_of(arrays, LANGUAGES)
    assert [(e.source, len(e.targets), e.row) for e in found] == [
        *((("a", "b"), 2, 0), (("b",), 1, 1), (("b", "b", "a"), 1, 3))
    ]


@pytest.mark.long
def test_weights_of_attention_are_drawn_for_each_word() -> None:
    _, params = network()
    weights, words = translations.attended(SMALL, LANGUAGES, params, ("a", "b"), ("A", "B"))
    assert weights.shape == (3, 3)
    np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-5)
    assert len(words) == 3
    attention_map("message", weights, ["a$", "_b", "end"], words, ["A"] * 3).canvas.draw()
    with pytest.raises(ArgumentError, match=r"weights: expected \[2, 3\]"):
        attention_map("message", weights, ["a", "b"], words, words)


def titles(rows: list[translations.Judged]) -> str:
    """The texts above the panel of lengths."""
    return " ".join(text.get_text() for text in translations.by_length(rows, CALLED).figure.texts)


def test_the_share_that_is_right_is_drawn_for_each_length() -> None:
    lengths, wrong = (1, 1, 2, 30), (False, True, False, False)
    rows = [
        translations.Judged("a", "B" * length, "B" * length, int(is_wrong))
        for length, is_wrong in zip(lengths, wrong, strict=True)
    ]
    axes: Any = translations.by_length(rows, CALLED).figure.axes[0]
    points, alone = axes.lines
    assert points.get_xdata().tolist() == [1, 2, 30]
    assert points.get_ydata().tolist() == [50, 100, 100]
    assert axes.get_xlabel() == "phones in the word"
    endless = [translations.Judged("a", "B" * 9, "B", 8)]
    assert "8.00 changes for each phone that is right" in titles(endless)
    assert "0.00% of phones wrong" in titles(rows)
    assert alone.get_ydata().tolist() == [100, 100, 100]  # no word differs from the right ones


@pytest.mark.long
@pytest.mark.parametrize("ends", [True, False])
def test_an_end_is_drawn_where_one_is_written(ends: bool) -> None:
    _, params = network()
    config = dataclasses.replace(SMALL, ends=ends)
    row = translations.Judged(("a", "b"), ("A",), ("A", "B"), 1)
    drawn = translations.attention_of(config, LANGUAGES, params, row, "wrong", CALLED).figure
    assert len(drawn.axes[0].get_xticks()) == 2 + ends
    finished = Finished(params, {}, [], 0)
    arrays = translating.arrays_of([(("a",), ())], LANGUAGES)
    data = {"train": arrays, "test": arrays}
    shown = translations.exhibits(config, LANGUAGES, data, lambda: "said", CALLED, finished)
    names = [each.name for each in shown]
    assert ("attention_right" in names or "attention_wrong" in names) == ends


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--word: expected some of a, b; got nothing"),
        (["a", "q"], "--word: expected some of a, b; got 'q'"),
        (["a"] * 4, "--word: expected at most 3 of them"),
    ],
)
def test_words_that_cannot_be_read_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        translating.ids_of(words, LANGUAGES, "--word")


@pytest.mark.long
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("stops", [True, False])
def test_what_came_to_no_end_is_said_to_be_cut(
    beam: int, stops: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    _, params = network()
    bias = params["decoder"]["readout"]["bias"]
    end = jnp.arange(len(bias)) == END
    params["decoder"]["readout"]["bias"] = jnp.where(end == stops, 100.0, -100.0)
    run: Any = SimpleNamespace(config=SMALL, kept=params, folder="run")
    found = translations.translate(run, LANGUAGES, ("a", "b"), "--word", beam)
    assert len(found) == (0 if stops else 6)  # half as many again as the longest
    cut = "what it writes came to no end, and was cut after 6 words"
    said = "it writes no word before the end; train it further" if stops else cut
    assert capfd.readouterr().err == f"warning: --word: {said}.\n"


# Whole runs

FLAGS = ("--hidden_size=8", "--embedding_size=8", "--epochs=1", "--batch_size=4096")


@pytest.mark.long
def test_commands_are_learned_evaluated_and_carried_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert __main__.main(["scan_commands", "--split=random", *FLAGS, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert 0 <= result["test_exact"] <= 1
    drawn = {file.name for file in (run / "figures").iterdir()}
    assert drawn >= {"learning_curves.png", "attention_wrong.png"}
    capfd.readouterr()
    assert __main__.main(["evaluate", str(run), "--beam=2", "--most=20"]) == 0
    assert "right, error rate" in capfd.readouterr().out
    assert not [*run.glob("evaluation*")]
    assert __main__.main(["evaluate", str(run), "--beam=1", "--split=valid"]) == 0
    found = json.loads((run / "evaluation-valid-beam1.json").read_text())
    assert found["exact"] == pytest.approx(result["valid_exact"], abs=1e-6)
    capfd.readouterr()
    assert __main__.main(["predict", str(run), "--command=walk twice"]) == 0
    actions, said = capfd.readouterr().out.splitlines()
    assert {*actions.split()} <= {"?"} | {
        *("I_WALK", "I_RUN", "I_LOOK", "I_JUMP", "I_TURN_LEFT", "I_TURN_RIGHT")
    }
    right = "I_WALK I_WALK"
    assert said == ("right" if actions == right else f"wrong; the grammar says: {right}")
    assert __main__.main(["predict", str(run), "--command=walk twice left"]) == 0
    assert capfd.readouterr().out.endswith("\nthe grammar makes no such command\n")
    for wrong in ("", "walk home", "walk " * 20):
        assert __main__.main(["predict", str(run), f"--command={wrong}"]) == 2
        assert capfd.readouterr().err.startswith("error: --command: expected")


@pytest.mark.long
def test_words_are_learned_evaluated_and_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words of a dictionary in which each letter is a phone, and some words are said twice."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdef"), size=rng.integers(2, 8))) for _ in range(300)]
    lines = [f"{word} {' '.join(word.upper())}\n" for word in words]
    lines += [f"{word}(2) {' '.join(word.upper()[1:])}\n" for word in words[::3]]
    file = tmp_path / "cmudict" / "cmudict.dict"
    file.parent.mkdir()
    file.write_text("".join(lines))
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(tmp_path))
    run = tmp_path / "run"
    flags = ("--hidden_size=16", "--embedding_size=8", "--epochs=2", "--batch_size=64")
    assert __main__.main(["pronunciations", *flags, f"--workdir={run}"]) == 0
    assert __main__.main(["evaluate", str(run), "--beam=2"]) == 0
    found = json.loads((run / "evaluation-test-beam2.json").read_text())
    assert 0 < found["examples"] < len({*words}) / 4
    capfd.readouterr()
    assert __main__.main(["predict", str(run), "--word=Abc"]) == 0
    assert {*capfd.readouterr().out.split()} <= {*"ABCDEF"}
    assert __main__.main(["predict", str(run), "--word=xyz"]) == 2
    assert "got 'x', 'y', 'z'" in capfd.readouterr().err
    swept = ["--sweep=learning_rate=0.001,0.01", f"--workdir={tmp_path / 'sweep'}"]
    assert __main__.main(["sweep", "pronunciations", *flags, *swept]) == 0
    assert len((tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()) == 2


@pytest.mark.long
def test_without_ends_the_true_length_is_given(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = ["--split=length", "--noends", "--attention=last", *FLAGS, f"--workdir={run}"]
    assert __main__.main(["scan_commands", *flags]) == 0
    assert __main__.main(["evaluate", str(run), "--split=valid"]) == 0
    found = json.loads((run / "evaluation-valid-beam1.json").read_text())
    result = json.loads((run / "result.json").read_text())
    assert found["exact"] == pytest.approx(result["valid_exact"], abs=1e-6)
    capfd.readouterr()
    assert __main__.main(["evaluate", str(run), "--beam=2"]) == 2
    assert "--beam: the run in" in capfd.readouterr().err
    assert __main__.main(["predict", str(run), "--command=walk twice"]) == 2
    assert "trained with --noends" in capfd.readouterr().err


@pytest.mark.long
def test_a_cell_that_looks_ahead_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cells.py"
    file.write_text(
        "from recurrent import bidirectional, gru\n"
        "def both(i, h): return bidirectional(gru(i, h), gru(i, h))\n"
    )
    flags = ["--split=random", f"--cell={file}:both", f"--workdir={tmp_path / 'run'}"]
    assert __main__.main(["scan_commands", *flags]) == 2
    assert "looks ahead" in capfd.readouterr().err
