"""Remedies against overfitting: what each of them drops, which words there are, what is kept."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from experiments import __main__
from experiments.data.words import numbered_words, windows
from experiments.harness.errors import UserError
from experiments.regularization import Config, network_of, program
from experiments.shared.few_examples import job_of
from experiments.shared.remedies import answers, dropped, init, small_weights, thinned

NONE = dict.fromkeys(
    ["dropout", "variational", "recurrent_dropout", "weight_drop", "embedding_drop"], 0.0
)
TEXT = "the cat saw the dog\nthe dog saw a bird\n" * 40


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def small(**fields: Any) -> Config:
    return Config(hidden_size=8, **{"examples": 60, "epochs": 2, **fields})


@pytest.mark.long
@pytest.mark.parametrize("kind", ["images", "words"])
def test_no_remedy_and_evaluation_are_the_plain_network(kind: str, text: str) -> None:
    job = job_of(small(text=text if kind == "words" else ""))
    network = network_of(small(), job)
    params = init(network, jax.random.key(0))
    batch = {name: array[:3] for name, array in job.data["train"].items()}

    def plain(params: Any) -> Any:
        xs = job.read(batch)
        xs = network.vectors.apply(params["vectors"], xs) if network.vectors else xs
        ys = job.answers(recurrent.unroll(network.cell, params["cell"], xs)[1])
        return network.readout.apply(params["readout"], ys)

    trained = jax.jit(lambda own: answers(network, job, params, batch, own, jax.random.key(1)))
    tested = jax.jit(lambda own: answers(network, job, params, batch, own, None))
    expected = jax.jit(plain)(params)
    np.testing.assert_allclose(trained(NONE), expected, atol=1e-6)
    np.testing.assert_allclose(tested(dict.fromkeys(NONE, 0.5)), expected, atol=1e-6)
    for name in NONE:
        assert np.abs(trained(NONE | {name: 0.5}) - expected).max() > 1e-3


def test_dropout_is_drawn_at_each_step_and_the_variational_one_once() -> None:
    xs = jnp.ones((200, 5, 40))  # [T, B, D]
    keys = jax.random.split(jax.random.key(0))
    fresh = np.asarray(dropped(xs, NONE | {"dropout": 0.25}, iter(keys)))
    np.testing.assert_allclose(sorted({*fresh.ravel().tolist()}), [0, 4 / 3], rtol=1e-6)
    assert (fresh == 0).mean() == pytest.approx(0.25, abs=0.01)
    assert (fresh.std(0) > 0).all()
    same = np.asarray(dropped(xs, NONE | {"variational": 0.25}, iter(keys)))
    assert (same == same[0]).all()
    assert (same[0].std(0) > 0).any()  # examples differ
    assert (same == 0).mean() == pytest.approx(0.25, abs=0.1)


@pytest.mark.long
def test_dropped_units_are_read_by_no_gate_and_dropped_weights_are_single() -> None:
    """By what an LSTM answers at its second step, which reads h of the first."""
    cell = recurrent.lstm(1, 30)
    params = cell.init(jax.random.key(0))
    key = jax.random.key(1)

    @jax.jit
    def slopes(strengths: dict[str, float]) -> Any:
        """Of the second cell state by the first h, ``[H, H read]``."""
        thin = thinned(cell, strengths, iter(jax.random.split(key)))

        def second(h: Any) -> Any:
            state = thin.initial_state(params, ())._replace(hidden=h)
            return thin.step(params, state, jnp.ones(1))[0].cell

        return jax.jacobian(second)(jnp.full(30, 0.1))

    def read(strengths: dict[str, float]) -> np.ndarray:
        return np.asarray(slopes(NONE | strengths)).T

    rows = (read({"recurrent_dropout": 0.4}) == 0).all(1)
    assert 3 < rows.sum() < 22  # 12 of 30 on average
    single = read({"weight_drop": 0.4})
    assert not (single == 0).all(1).any()
    assert np.abs(single - read({})).max() > 1e-3


@pytest.mark.long
def test_dropped_words_are_not_seen_anywhere_in_a_batch(text: str) -> None:
    config = small(text=text)
    job = job_of(config)
    network = network_of(config, job)
    params = init(network, jax.random.key(0))
    tokens = job.data["train"]["tokens"][:2]

    def slopes(vectors: Any) -> Any:
        own = params | {"vectors": {"kernel": vectors}}
        strengths = NONE | {"embedding_drop": 0.5}
        found = answers(network, job, own, {"tokens": tokens}, strengths, jax.random.key(4))
        return jnp.square(found).sum()

    moved = np.abs(jax.jit(jax.grad(slopes))(params["vectors"]["kernel"])).max(1) > 0
    there = np.unique(np.asarray(tokens))
    assert 0 < moved[there].sum() < len(there)
    assert not np.delete(moved, there).any()


def test_words_are_those_that_come_twice_and_are_the_most_frequent() -> None:
    found = numbered_words("a b a c b a d ! " * 10 + "e f g h i j k l m n", 80, 3)
    assert found.vocabulary.words == ("a", "b", "c") or len(found.vocabulary.words) == 3
    assert found.vocabulary.read(found.train[:3]) == ["a", "b", "a"]
    assert found.vocabulary.size == 5
    assert set(found.test.tolist()) == {1}  # unknown
    with pytest.raises(UserError, match="--examples: expected at most 9, "):
        numbered_words("a " * 10, 10, 3)


def test_windows_hold_each_pair_of_neighbors_once() -> None:
    tokens = np.arange(1, 12)
    found = windows(tokens, 4)
    pairs = np.stack([found["tokens"][found["real"]], found["targets"][found["real"]]], 1)
    np.testing.assert_array_equal(pairs, np.stack([tokens[:-1], tokens[1:]], 1))


@pytest.mark.long
def test_the_loss_counts_real_words_alone(text: str) -> None:
    config = small(text=text)
    job = job_of(config)
    some = {name: array[-2:] for name, array in job.data["train"].items()}
    scores = jax.random.normal(jax.random.key(0), (job.steps, 2, job.classes))
    found = job.judge(scores, some | {"mask": jnp.array([False, True])})
    logp = np.asarray(jax.nn.log_softmax(scores))[:, 1]
    real = np.asarray(some["real"][1])
    cost = -logp[np.arange(job.steps), np.asarray(some["targets"][1])]
    assert int(found["loss"].weight) == real.sum() < job.steps
    assert float(found["loss"].mean) == pytest.approx(cost[real].mean(), rel=1e-5)


def test_too_many_images_are_refused() -> None:
    with pytest.raises(UserError, match="--examples: expected at most the 1257 images of digits"):
        job_of(small(examples=2000))


def test_small_weights_are_counted_in_kernels_alone() -> None:
    params = {"a": {"kernel": jnp.array([[0.0, 5e-4], [1.0, -2e-3]]), "bias": jnp.zeros(9)}}
    assert float(small_weights(params).mean) == 0.5


def test_a_cell_without_recurrent_weights_is_refused() -> None:
    with pytest.raises(UserError, match="recurrent/kernel"):
        program(small(cell="min_gru"))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["images", "words"])
def test_it_keeps_the_best_weights_with_early_stopping_and_else_the_last(
    kind: str, text: str, tmp_path: Path
) -> None:
    """At a rate at which the validation loss soon rises, in one program."""
    data = [f"--text={text}", "--examples=300"] if kind == "words" else ["--examples=60"]
    flags = ["--epochs=6", "--hidden_size=16", "--learning_rate=0.05", *data]
    command = ["sweep", "regularization", "--sweep=early_stopping=false,true", *flags]
    assert __main__.main([*command, f"--workdir={tmp_path / 'sweep'}"]) == 0
    lines = (tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()
    rows = {row["early_stopping"]: row for row in map(json.loads, lines)}
    metrics = (tmp_path / "sweep" / "programs" / "0" / "metrics.jsonl").read_text().splitlines()
    losses = {
        stops: [row["valid_loss"] for row in map(json.loads, metrics)
                if row["early_stopping"] is stops]
        for stops in (False, True)
    }  # fmt: skip
    assert losses[False] == losses[True]
    assert rows[False]["valid_loss"] == losses[False][-1]
    assert rows[False]["best_step"] == rows[False]["step"]
    assert rows[True]["valid_loss"] == min(losses[True])


@pytest.mark.long
def test_it_trains_on_words_of_a_file(text: str, tmp_path: Path) -> None:
    flags = ["--examples=300", "--epochs=4", "--hidden_size=16", "--weight_drop=0.2"]
    flags += ["--batch_size=2", "--learning_rate=0.02"]
    command = ["regularization", f"--text={text}", *flags, f"--workdir={tmp_path / 'run'}"]
    assert __main__.main(command) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["test_loss"] < np.log(9)  # of which two numbers never come


def test_every_strength_is_traced() -> None:
    traced = {field.name for field in dataclasses.fields(Config)
              if field.metadata.get("option") and field.metadata["option"].traced}  # fmt: skip
    assert traced >= {*NONE, "early_stopping"}
