"""What ``explain`` says of the next character, of a network that is not trained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import recurrent
from experiments.char_lm import Config
from experiments.data.text import Text
from experiments.harness.errors import UserError
from experiments.shared import explain_page
from experiments.shared.explain_text import LONGEST, ExplainText, of_text
from experiments.shared.explain_trust import Explained
from experiments.shared.explainable import Explainable
from experiments.shared.explaining import computed
from experiments.shared.language import model_of, scores_of

TEXT = Text("\n abc", np.arange(60, dtype=np.int32) % 5, np.arange(5), np.arange(5))
CONFIG = Config(hidden_size=4, embedding_size=3, cell="elman")
FLAGS = ExplainText(text="ab c", character="b")


def made() -> Explainable:
    params = jax.tree.map(np.asarray, model_of(CONFIG, 5).init(jax.random.key(0)))
    return of_text(CONFIG, TEXT, params, FLAGS)


@pytest.mark.long
def test_the_network_of_a_config_is_one_and_the_same() -> None:
    other = of_text(
        Config(hidden_size=4, embedding_size=3, cell="elman"), TEXT, made().params, FLAGS
    )
    assert made().network == other.network


@pytest.fixture(scope="module")
def found() -> tuple[Explainable, int, Explained]:
    it = made()
    return it, *computed(it, FLAGS)


@pytest.mark.long
def test_maps_are_one_number_for_each_character(found: Any) -> None:
    it, target, each = found
    assert it.answers[target] == "b"
    for name, values in each.maps.by_name.items():
        assert values.shape == (4,), name
        assert np.isfinite(values).all(), name


@pytest.mark.long
def test_integrated_gradients_add_up_from_no_character(found: Any) -> None:
    it, target, each = found
    xs = jnp.concatenate([jnp.asarray(it.example.xs), jnp.zeros_like(it.example.xs)])
    scores = scores_of(CONFIG, 5, it.params, xs, jnp.array([4, 4]))[:, target]
    total = each.maps.by_name["integrated gradients"].sum()
    np.testing.assert_allclose(total, scores[0] - scores[1], atol=1e-3)


@pytest.mark.long
def test_a_held_character_is_one_that_was_never_there(found: Any) -> None:
    it, target, each = found
    whole = np.asarray(it.example.xs)[0]
    scores = [
        scores_of(CONFIG, 5, it.params, jnp.asarray(xs[None]), jnp.array([len(xs)]))[0, target]
        for xs in (whole, *(np.delete(whole, k, 0) for k in range(4)))
    ]
    expected = scores[0] - np.array(scores[1:])
    np.testing.assert_allclose(each.maps.by_name["held state"] / 5, expected, atol=1e-5)


@pytest.mark.long
def test_one_key_gives_the_same_bits_twice(found: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, computed(found[0], FLAGS)[1], found[2])


@pytest.mark.long
def test_the_page_shows_everything_once(found: Any) -> None:
    names = [exhibit.name for exhibit in explain_page.exhibits_of(*found)]
    assert names == ["input", "maps", "curves", "methods", "sanity", "checks", "agreement"]


@pytest.mark.long
@pytest.mark.parametrize("tied", [False, True])
def test_one_hot_vectors_are_tokens(tied: bool) -> None:
    config = Config(hidden_size=4, embedding_size=3, layers=2, tied=tied)
    model = model_of(config, 5)
    params = model.init(jax.random.key(0))
    tokens = jnp.array([[2, 3, 1], [4, 0, 2]])
    _, logits = recurrent.unroll(model, params, tokens.T)
    scores = scores_of(config, 5, params, jax.nn.one_hot(tokens, 5), jnp.array([3, 2]))
    expected = jax.nn.log_softmax(logits)[jnp.array([2, 1]), jnp.arange(2)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"text": ""}, "--text: expected a text, got none"),
        ({"text": "a" * (LONGEST + 1)}, "--text: expected at most 200 characters, got 201"),
        ({"text": "aéb"}, r"--text: expected characters of the training text, got \['é'\]"),
        ({"text": "a", "character": "z"}, "--character: expected one character .* got 'z'"),
        ({"text": "a", "character": "ab"}, "--character: expected one character .* got 'ab'"),
        ({"text": "a", "character": "a", "target": 1}, "--character: expected no --target"),
    ],
)
def test_what_cannot_be_explained_is_refused(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        of_text(CONFIG, TEXT, {}, ExplainText(**flags))
