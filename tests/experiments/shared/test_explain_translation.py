"""What ``explain`` says of a word that an encoder-decoder network writes, which is not trained."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.vocabulary import END
from experiments.harness.errors import UserError
from experiments.scan_commands import Config
from experiments.shared import explain_page
from experiments.shared.explain_translation import (
    as_long,
    check_step,
    next_word,
    of_translation,
    translation_network,
)
from experiments.shared.explain_trust import Explained
from experiments.shared.explainable import Explainable
from experiments.shared.explaining import ExplainFlags, computed
from experiments.shared.translating import encoded, network_of, parts_of

CONFIG = Config(
    hidden_size=4, embedding_size=3, cell="elman", layers=1, query="top", attention="additive"
)
PAIRS = [(["run", "left"], ["RUN", "LEFT"]), (["left", "twice", "run"], ["LEFT"])]
LANGUAGES, DATA = parts_of({"train": PAIRS, "valid": PAIRS, "test": PAIRS})
SOURCE, WRITTEN = ["run", "twice", "left"], ["RUN", "LEFT"]


def params_of(config: Config) -> Any:
    return jax.device_get(network_of(config, LANGUAGES).init(jax.random.key(0)))


def explainable(config: Config = CONFIG, step: int = 2) -> Explainable:
    others = DATA["train"]["sources"]
    return of_translation(config, LANGUAGES, params_of(config), others, SOURCE, WRITTEN, step)


def log_probability(config: Config, source: list[str], step: int) -> float:
    """Read words and write word by word, by the functions that decoding uses."""
    network, params = network_of(config, LANGUAGES), params_of(config)
    read = jnp.array([[*LANGUAGES.sources.ids(source), END]])
    memory, state = encoded(network, params, read, jnp.array([read.shape[1]]))
    targets = [*LANGUAGES.targets.ids(WRITTEN), END]
    logits = jnp.zeros(())
    for token in [END, *targets[: step - 1]]:
        state, logits = network.step(params, memory, state, jnp.array([token]))
    return float(jax.nn.log_softmax(logits)[0, targets[step - 1]])


def test_the_network_of_a_word_is_one_and_the_same() -> None:
    one, other = (
        translation_network(config, LANGUAGES, (END, 2))
        for config in (CONFIG, dataclasses.replace(CONFIG))
    )
    assert one == other


@pytest.mark.long
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 3])
@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, marks=pytest.mark.long),
        pytest.param({"attention": "last"}, marks=pytest.mark.long),
        {"layers": 2, "query": "first", "attention": "multiplicative", "cell": "lstm"},
    ],
)
def test_what_is_explained_is_what_decoding_computes(more: dict[str, Any], step: int) -> None:
    config = dataclasses.replace(CONFIG, **more)
    it = explainable(config, step)
    found = it.network.outputs(it.params, jnp.asarray(it.example.xs), None)[0, it.target]
    np.testing.assert_allclose(found, log_probability(config, SOURCE, step), atol=1e-5)
    assert it.answers[it.target] == [*WRITTEN, "end"][step - 1]


@pytest.mark.long
def test_nothing_read_is_finite() -> None:
    it = explainable()
    xs, lengths = jnp.asarray(it.example.xs), jnp.array([0])
    assert np.isfinite(next_word(CONFIG, LANGUAGES, (END,), it.params, xs, lengths)).all()


@pytest.mark.long
def test_only_a_network_with_attention_is_said_to_look() -> None:
    assert [each.name for each in explainable().more] == ["attention"]
    assert not explainable(dataclasses.replace(CONFIG, attention="last")).more


def test_background_ends_where_the_text_does() -> None:
    found = as_long(DATA["train"]["sources"], 3)
    ids = LANGUAGES.sources.ids
    assert found.tolist() == [[*ids(["run", "left"]), END], [*ids(["left", "twice"]), END]]
    assert as_long(DATA["train"]["sources"], 6)[0].tolist() == [
        *ids(["run", "left"]),
        *[END] * 4,
    ]


def test_a_step_after_the_end_is_refused() -> None:
    check_step(3, WRITTEN)
    with pytest.raises(UserError, match=r"--step: expected at most 3, .*'RUN LEFT'; got"):
        check_step(4, WRITTEN)
    check_step(2, WRITTEN, ended=False)
    with pytest.raises(UserError, match="--step: expected at most 2, the last word, for it has no"):
        check_step(3, WRITTEN, ended=False)


@pytest.fixture(scope="module")
def found() -> tuple[Explainable, int, Explained]:
    it = explainable()
    return it, *computed(it, ExplainFlags())


@pytest.mark.long
def test_maps_are_one_number_for_each_word_and_the_end(found: Any) -> None:
    for name, values in found[2].maps.by_name.items():
        assert values.shape == (len(SOURCE) + 1,), name
        assert np.isfinite(values).all(), name


@pytest.mark.long
def test_a_held_word_is_one_that_was_never_there(found: Any) -> None:
    whole = log_probability(CONFIG, SOURCE, 2)
    without = [log_probability(CONFIG, SOURCE[:k] + SOURCE[k + 1 :], 2) for k in range(3)]
    held = found[2].maps.by_name["held state"][:3] / LANGUAGES.sources.size
    np.testing.assert_allclose(held, whole - np.array(without), atol=1e-5)


@pytest.mark.long
def test_the_page_shows_everything_once(found: Any) -> None:
    names = [exhibit.name for exhibit in explain_page.exhibits_of(*found)]
    assert names == [
        *("attention", "input", "maps", "curves", "methods", "sanity", "checks", "agreement")
    ]


@pytest.mark.long
def test_weights_have_the_gradient_of_what_they_stand_for() -> None:
    """A finite difference between two words, in float64."""
    with jax.enable_x64(True):
        it = explainable()
        params = jax.tree.map(lambda leaf: leaf.astype(np.float64), it.params)
        xs = jnp.asarray(it.example.xs, jnp.float64)
        score = lambda xs: it.network.outputs(params, xs, None)[0, it.target]  # noqa: E731
        way = jnp.zeros_like(xs).at[0, 1, 2].set(1.0).at[0, 1, 3].set(-1.0)
        step = 1e-5
        numeric = (score(xs + step * way) - score(xs - step * way)) / (2 * step)
        np.testing.assert_allclose((jax.grad(score)(xs) * way).sum(), numeric, rtol=1e-6)


@pytest.mark.long
def test_vectors_of_words_and_of_weights_are_trained_alike() -> None:
    networks = [network_of(CONFIG, LANGUAGES, weighted=each) for each in (False, True)]
    params = [network.init(jax.random.key(3)) for network in networks]
    jax.tree.map(np.testing.assert_array_equal, *params)
