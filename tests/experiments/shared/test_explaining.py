"""What ``explain`` computes, writes and draws of networks small enough to be followed."""

from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

import recurrent
from experiments import __main__
from experiments.harness.errors import UserError
from experiments.image_cnn import Config, convnet_classifier
from experiments.shared import explain_images, explain_page
from experiments.shared.classification import Classifier
from experiments.shared.convnet_parts import parts_of
from experiments.shared.explain_images import ExplainImage, chosen_image
from experiments.shared.explain_maps import is_signed, slow_methods
from experiments.shared.explain_series import outputs, series_network
from experiments.shared.explain_sound import odds, sound_network
from experiments.shared.explain_trust import (
    Explained,
    compared,
    explained,
    probabilities,
    random_count,
)
from experiments.shared.explainable import (
    Example,
    Explainable,
    Network,
    cropped,
    from_the_output,
    leaving_out,
)
from experiments.shared.explaining import ExplainFlags, compiled, computed, lines_of
from experiments.shared.series_classes import init as init_namer
from experiments.shared.series_classes import namer_of
from experiments.shared.transcribing import init as init_transcriber
from experiments.shared.transcribing import transcriber
from experiments.spoken_digits import Config as SoundConfig
from experiments.spoken_digits import model_of as sound_model
from experiments.time_series import Config as SeriesConfig

STEPS, FEATURES, CLASSES = 8, 4, 2


def summed(params: Any, xs: Any, lengths: Any) -> Any:
    """Return two logits: what the first feature and what the last one add up to over the steps."""
    real = recurrent.length_mask(lengths, xs.shape[1]).T
    seen = jnp.where(real[..., None], xs, 0) @ params["body"]
    return seen.sum(1) * params["head"]


def draw(key: Any) -> Any:
    return {"body": jax.random.normal(key, (FEATURES, CLASSES)), "head": jnp.ones(CLASSES)}


def explainable(length: int) -> Explainable:
    """Return a sequence of some length, filled up with NaN, for a network that adds up."""
    params = {"body": np.zeros((FEATURES, CLASSES), np.float32), "head": np.ones(2, np.float32)}
    params["body"][0, 0] = params["body"][-1, 1] = 1
    rng = np.random.default_rng(0)
    background = rng.random((3, STEPS, FEATURES), np.float32)
    xs = rng.random((1, STEPS, FEATURES), np.float32)
    xs[:, length:] = np.nan
    baselines = np.stack([np.zeros_like(xs[0]), background.mean(0)])
    network = Network(NETWORK, draw, ("head", "body"))
    example = Example(xs, np.array([length]), baselines, background)
    words = ("zero", "mean"), ("step", "feature")
    return Explainable(network, params, example, ["first", "last"], *words, "series", "a series")


NETWORK = leaving_out(summed)


@pytest.fixture(scope="module")
def found() -> dict[int, tuple[Explainable, Explained]]:
    """Return explanations at three lengths, which are one compilation."""
    flags = ExplainFlags(target=0)
    return {n: (explainable(n), computed(explainable(n), flags)[1]) for n in (8, 5, 3)}


@pytest.mark.long
def test_padding_gets_exactly_nothing_in_any_method(found: Any) -> None:
    for length, (_, each) in found.items():
        for name, values in each.maps.by_name.items():
            assert values.shape == (STEPS, FEATURES)
            assert (values[length:] == 0).all(), name
            assert np.isfinite(values).all(), name
            if name not in ("two-step",):  # of a linear network, whose gradient never changes
                assert abs(values[:length]).sum() > 0, name


@pytest.mark.long
def test_maps_are_those_of_a_sum(found: Any) -> None:
    it, each = found[5]
    first = np.zeros((STEPS, FEATURES), np.float32)
    first[:5, 0] = it.example.xs[0, :5, 0]
    np.testing.assert_allclose(each.maps.by_name["integrated gradients"], first, atol=1e-5)
    held = np.broadcast_to(first[:, :1], first.shape)
    np.testing.assert_allclose(each.maps.by_name["held state"], held, atol=1e-5)
    np.testing.assert_allclose(each.maps.numbers["shap gap"], 0, atol=1e-5)
    logits = np.nansum(it.example.xs[0, :5][:, [0, -1]], 0)
    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(each.probabilities, shares, rtol=1e-5)


@pytest.mark.long
def test_one_key_gives_the_same_bits_twice(found: Any) -> None:
    _, again = computed(explainable(5), ExplainFlags(target=0))
    jax.tree.map(np.testing.assert_array_equal, again, found[5][1])


@pytest.mark.long
def test_another_target_or_length_compiles_nothing(found: Any) -> None:
    before = compiled(explained)._cache_size()
    target, _ = computed(explainable(6), ExplainFlags())
    assert target in (0, 1)
    assert compiled(explained)._cache_size() == before
    with pytest.raises(UserError, match=r"--target: expected at most 1, got 2; .* first, last"):
        computed(explainable(6), ExplainFlags(target=2))


def linear(config: Any, shape: tuple[int, int]) -> Classifier:
    """Return ten sums of pixels, whose functions are made anew by every call."""

    def init(key: Any) -> Any:
        return {"head": jax.random.normal(key, (shape[0] * shape[1], 10))}

    def logits(params: Any, images: Any, rate: Any, key: Any) -> Any:
        return images.reshape(len(images), -1) @ params["head"]

    return Classifier(init, logits, lambda *_: iter(()))


def image_of_a_run(index: int) -> Explainable:
    """Return what is explained of a run that is loaded anew."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 8, 8), np.uint8)
    split = {"images": images, "labels": np.arange(3)}
    run: Any = SimpleNamespace(
        config=Config(seed=1),
        program=SimpleNamespace(data={"train": split, "test": split}),
        kept={"head": rng.normal(size=(64, 10)).astype(np.float32)},
    )
    return explain_images.explainable(linear, None, run, ExplainImage(index=index))


@pytest.mark.long
def test_another_image_of_a_run_compiles_nothing() -> None:
    computed(image_of_a_run(0), ExplainFlags())
    functions = [compiled(probabilities), compiled(explained)]
    before = [each._cache_size() for each in functions]
    computed(image_of_a_run(1), ExplainFlags())
    assert [each._cache_size() for each in functions] == before


def test_the_network_of_a_config_is_one_and_the_same() -> None:
    """To JAX a function that is made anew is another one, which it compiles again."""
    assert image_of_a_run(0).network == image_of_a_run(1).network
    made = [
        lambda: series_network(SeriesConfig(hidden_size=4), 3, 2),
        lambda: sound_network(sound_model, SoundConfig(hidden_size=4), (1, 2)),
    ]
    for network in made:
        assert network() == network()


@pytest.mark.long
def test_curves_begin_and_end_alike_and_the_best_beat_random_orders(found: Any) -> None:
    _, each = found[8]
    names = list(each.maps.by_name)
    for curves in (each.deletion, each.insertion):
        ends = curves[:, :1][..., [0, -1]]
        np.testing.assert_allclose(curves[..., [0, -1]], ends.repeat(curves.shape[1], 1), rtol=1e-5)
    assert explain_page.wins(each)[names.index("integrated gradients")] >= 2
    assert each.agreement.shape == (len(names), len(names))
    assert all(len(own) == 2 for own in each.independent.values())


@pytest.mark.long
def test_random_layers_are_those_of_the_formula(found: Any) -> None:
    """The head is drawn as it was trained, so where it alone is random, a map stays as it is."""
    _, each = found[5]
    assert float(each.independent["integrated gradients"][0]) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(
        each.cascading["integrated gradients"][1], each.independent["integrated gradients"][1]
    )


@pytest.mark.long
def test_every_method_is_tried_on_networks_without_any_trained_layer(found: Any) -> None:
    it, each = found[5]
    assert list(each.random) == list(each.maps.by_name)
    drawn = random_count(it.network, it.example)
    assert {values.shape for values in each.random.values()} == {(2, drawn)}


@pytest.mark.long
def test_likeness_is_that_of_scipy_with_signs_and_without() -> None:
    maps = np.random.default_rng(0).normal(size=(4, 1, STEPS, FEATURES)).astype(np.float32)
    network = Network(NETWORK, draw, ("head", "body"))
    methods = {"occlusion": lambda maps: -maps, "gradient": lambda maps: maps}
    own, by_name = compared(network, methods, jnp.asarray(maps), np.array([5]))
    np.testing.assert_array_equal(own["gradient"], maps[0])
    likeness = by_name["gradient"]
    first, others = maps[0, 0, :5].ravel(), maps[1:, 0, :5].reshape(3, -1)
    for row, change in enumerate((np.array, np.abs)):
        expected = [np.asarray(stats.spearmanr(change(first), change(each)))[0] for each in others]
        np.testing.assert_allclose(likeness[row], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("signed", "absolute", "values", "word"),
    [
        ([0.1, -0.1, 0.0], [0.1, 0.2, 0.0], 1.0, "passes"),
        ([0.1, -0.1, 0.0], [0.9, 0.9, 0.9], 1.0, "does not pass"),  # the input, by random signs
        ([0.9, 0.9, 0.9], [0.1, 0.1, 0.1], 1.0, "does not pass"),
        ([-0.9, -0.8, -0.9], [0.1, 0.1, 0.1], 1.0, "passes"),  # the opposite is unlike
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.0, "says nothing"),
        ([np.nan, 0.0, 0.0], [0.0, 0.0, 0.0], 1.0, "does not pass"),
    ],
)
def test_a_map_passes_if_it_is_unlike_with_signs_and_without(
    found: Any, signed: list[float], absolute: list[float], values: float, word: str
) -> None:
    it, each = found[5]
    own = OrderedDict(gradient=values * np.arange(STEPS * FEATURES).reshape(STEPS, FEATURES))
    changed = each._replace(
        maps=each.maps._replace(by_name=own),
        random=OrderedDict(gradient=np.array([signed, absolute])),
    )
    assert explain_page.verdict(it, changed, "gradient") == word


@pytest.mark.long
def test_a_map_that_says_nothing_beats_no_random_order(found: Any) -> None:
    """The gradient of a linear network never changes, so its two-step map is 0 everywhere."""
    _, each = found[8]
    names = list(each.maps.by_name)
    assert explain_page.says_nothing(each.maps.by_name["two-step"])
    assert explain_page.wins(each)[names.index("two-step")] == 0


def test_chance_has_more_say_where_an_example_has_few_parts() -> None:
    it = explainable(5)  # 5 x 4 parts, 8 networks
    assert explain_page.allowed(it) == explain_page.INDEPENDENT
    short = it._replace(example=it.example._replace(lengths=np.array([1])))
    assert explain_page.allowed(short) == pytest.approx(2 / np.sqrt(8 * 3))


def test_maps_without_signs_are_told_apart() -> None:
    sequence = Network(NETWORK, draw, ("head",))
    signed = [name for name in explain_page.MEANINGS if is_signed(sequence, name)]
    assert set(explain_page.MEANINGS) - set(signed) == {"two-step", "activation map"}
    tokens = sequence._replace(tokens=True)
    assert not is_signed(tokens, "gradient")
    assert not is_signed(tokens, "SmoothGrad")
    assert is_signed(tokens, "LIME")


def test_images_have_no_map_by_steps_and_features() -> None:
    it = image_of_a_run(0)
    assert "two-step" not in slow_methods(it.network, it.example, 0, jax.random.key(0))
    it = explainable(5)
    assert "two-step" in slow_methods(it.network, it.example, 0, jax.random.key(0))


@pytest.mark.long
def test_the_text_names_each_method_and_random_orders(found: Any) -> None:
    it, each = found[5]
    lines = list(lines_of(it, 0, each))
    assert lines[0].startswith("a series: first, probability 0.")
    words = [line.split("  ")[0] for line in lines[2:]]
    assert words == ["random orders", *each.maps.by_name]


@pytest.mark.long
def test_the_page_shows_everything_once(found: Any) -> None:
    it, each = found[5]
    names = [exhibit.name for exhibit in explain_page.exhibits_of(it, 0, each)]
    assert names == ["input", "maps", "curves", "methods", "sanity", "checks", "agreement"]
    assert set(each.maps.by_name) <= set(explain_page.MEANINGS)
    verdicts = {row[-1] for row in explain_page.table_of_checks(each).rows}
    assert verdicts <= {"passes", "does not pass"}


@pytest.mark.long
def test_steps_that_are_left_out_hold_the_state() -> None:
    cell = recurrent.gru(2, 3)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (1, 6, 2))
    mask = jnp.array([[True, False, True, True, False, False]])

    def last(params: Any, xs: Any, lengths: Any) -> Any:
        _, ys = recurrent.unroll(cell, params, xs.swapaxes(0, 1), lengths=lengths)
        return recurrent.last_output(ys, lengths)

    state, _ = recurrent.unroll(cell, params, xs.swapaxes(0, 1), mask=mask.T)
    np.testing.assert_allclose(leaving_out(last)(params, xs, mask), state.hidden, atol=1e-6)


@pytest.mark.long
def test_a_convolutional_network_in_two_parts_is_the_whole() -> None:
    model = convnet_classifier(Config(), (8, 8))
    params = model.init(jax.random.key(0))
    images = jax.random.uniform(jax.random.key(1), (2, 8, 8))
    features, head = parts_of(params)
    assert features(images).shape == (2, 4, 4, 64)
    whole = model.logits(params, images, 0.0, None)
    np.testing.assert_allclose(head(features(images)), whole, atol=1e-5)


@pytest.mark.long
def test_series_without_flags_are_series_of_which_nothing_is_missing() -> None:
    model = namer_of(SeriesConfig(hidden_size=4, layers=1), 3, 2)
    params = init_namer(model, jax.random.key(0))
    xs, lengths = jax.random.normal(jax.random.key(1), (1, 5, 3)), jnp.array([4])
    whole = jnp.concatenate([xs, jnp.zeros_like(xs)], -1)
    one, other = (outputs(model, params, each, lengths) for each in (xs, whole))
    np.testing.assert_array_equal(one, other)


@pytest.mark.long
def test_the_odds_of_a_string_are_those_of_all_its_paths() -> None:
    """Two frames spell one digit by three paths: it twice, or beside the blank."""
    model = transcriber("gru", 4, 2, (2, 2))
    params = init_transcriber(model, 8, jax.random.key(0))
    xs, lengths = jax.random.normal(jax.random.key(1), (1, 8, 8)), jnp.array([8])
    from experiments.shared.transcribing import frame_logits

    logits, _ = frame_logits(model, params, xs.swapaxes(1, 2), lengths)
    p = np.asarray(jax.nn.softmax(logits[:, 0]), np.float64)
    expected = p[0, 2] * p[1, 2] + p[0, 0] * p[1, 2] + p[0, 2] * p[1, 0]
    found = jax.nn.softmax(odds(model, (1,), params, xs, lengths))
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-4)


def test_an_image_is_that_of_the_test_split_or_of_a_file(tmp_path: Path) -> None:
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    data = {"test": {"images": images, "labels": np.array([3, 7])}}
    image, title = chosen_image(ExplainImage(index=1), data, (4, 4))
    np.testing.assert_array_equal(image, images[1])
    assert title == "test image 1, a 7"
    with pytest.raises(UserError, match="--index: expected at most 1, got 2"):
        chosen_image(ExplainImage(index=2), data, (4, 4))
    Image.fromarray(images[0]).save(tmp_path / "i.png")
    flags = ExplainImage(image=str(tmp_path / "i.png"))
    np.testing.assert_array_equal(chosen_image(flags, data, (4, 4))[0], images[0])


@pytest.mark.parametrize(
    ("params", "layers"),
    [
        (["cell", "head"], ("head", "cell")),
        (["Conv_0", "Conv_1", "Dense_0", "Dense_1"], ("Dense_1", "Dense_0", "Conv_1", "Conv_0")),
        (["head", "layers"], ("head", "layers")),
    ],
)
def test_layers_come_from_the_output_down(params: list[str], layers: tuple[str, ...]) -> None:
    assert from_the_output(dict.fromkeys(params)) == layers


def test_padding_is_cut_off_before_drawing() -> None:
    assert cropped(np.zeros((5, 2)), np.array([3])).shape == (3, 2)
    assert cropped(np.zeros((5, 2)), None).shape == (5, 2)


@pytest.mark.long
@pytest.mark.parametrize("experiment", ["sequential_digits", "image_cnn"])
def test_a_trained_run_is_explained(
    experiment: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main([experiment, "--epochs=1", f"--workdir={tmp_path}"]) == 0
    capfd.readouterr()
    assert __main__.main(["explain", str(tmp_path), "--index=1", "--target=3"]) == 0
    assert f"explanation: {tmp_path / 'explanation.html'}" in capfd.readouterr().out
    page = (tmp_path / "explanation.html").read_text()
    assert "Why 3?" in page
    assert page.count("data:image/png") == 5
    assert __main__.main(["explain", str(tmp_path), "--index=9999"]) == 2
    assert "--index: expected at most 359, got 9999" in capfd.readouterr().err
