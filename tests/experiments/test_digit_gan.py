"""Digits by two players: what an update moves, scores of known images, a whole training."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import __main__, digit_gan
from experiments.data.images import ImageSet, Splits
from experiments.harness.errors import UserError
from experiments.shared import drawn_digits, generators, judging, sheets
from experiments.shared.adversaries import Game, Players, evenly, game_task, logits_of
from recurrent.frechet import fit_gaussian
from recurrent.training import Task

FLAGS = (
    *("--data=digits", "--discriminator_channels=2", "--discriminator_features=4", "--samples=20"),
    *("--batch_size=4", "--evaluations=3", "--steps_per_evaluation=4"),
    # whose steps are as short as the gradient; Adam's are as long where it is all rounding
    *("--optimizer=sgd", "--discriminator_optimizer=sgd"),
)
HPARAMS = {"seed": 0, "penalty": 0.1, "average": 0.5, "ours": 0.1, "theirs": 0.1}
RATES = {"ours": 0.1, "theirs": 0.1}
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8)).astype(np.uint8)
DATA = {"images": jnp.asarray(IMAGES), "labels": jnp.arange(30, dtype=jnp.int32) % 3}


def players(
    kind: str = "conv",
    smooth: str = "r1",
    loss: str = "nonsaturating",
    classes: int = 0,
    penalty_every: int = 1,
) -> Players:
    size = (8, 8), 3 + classes
    made = {
        "conv": generators.convolutional(*size, 2, 6),
        "rows": generators.row_by_row(*size, "gru", 4, feedback=True),
        "noise": generators.row_by_row(*size, "gru", 4, feedback=False),
    }
    judge = generators.discriminator((8, 8), 2, 6, max(1, classes), smooth)
    return Players(made[kind], judge, 3, classes, loss, smooth, penalty_every)


@functools.cache
def training(kind: str = "conv", **others: Any) -> tuple[Players, Task, Any]:
    """Two `players`, their task, and two compiled steps of it at any rates of learning."""

    def sgd(name: str) -> Any:
        return lambda hparams: optax.sgd(hparams[name])

    both = players(kind, **others)
    task = game_task(
        both,
        (sgd("ours"), sgd("theirs")),
        lambda kept, hparams, data: {},
        batch_size=4,
        frames=3,
        steps_per_frame=2,
    )
    train = jax.jit(lambda game, given: task.train(game, HPARAMS | given, DATA, 2))
    return both, task, train


def same(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("smooth", "loss"),
    [
        ("r1", "nonsaturating"),
        pytest.param("spectral", "hinge", marks=pytest.mark.long),
        pytest.param("r1", "hinge", marks=pytest.mark.long),
    ],
)
def test_each_update_moves_its_own_player_alone_and_where_its_loss_falls(
    smooth: str, loss: str
) -> None:
    both, task, train = training(smooth=smooth, loss=loss)
    first = task.init(HPARAMS)
    noise = jax.random.normal(jax.random.key(5), (64, 3))

    @jax.jit
    def gap(game: Game) -> Any:
        drawn = both.generator.apply(game.generator.params, noise)
        logits = [
            both.discriminator.apply(game.discriminator.params, each).mean()
            for each in (DATA["images"] / 255.0, drawn)
        ]
        return logits[0] - logits[1]

    game = first
    for _ in range(10):
        game, _ = train(game, {"ours": 0.0, "theirs": 0.1})
    assert same(game.generator.params, first.generator.params)
    assert gap(game) > gap(first) + 0.01  # real and drawn images are told apart
    apart = game
    for _ in range(10):
        game, _ = train(game, {"ours": 0.5, "theirs": 0.0})
    assert same(game.discriminator.params, apart.discriminator.params)
    assert gap(game) < gap(apart)
    assert not same(game.generator.average, apart.generator.average)


@pytest.mark.long
def test_digits_are_drawn_as_they_are_asked_for() -> None:
    """Real images are bright at the top, in the middle or below, by their label."""
    images = np.zeros((30, 8, 8), np.uint8)
    for k in range(30):
        images[k, 3 * (k % 3) : 3 * (k % 3) + 2] = 255
    both, task, _ = training(classes=3)
    data = DATA | {"images": jnp.asarray(images)}
    hparams = HPARAMS | RATES | {"penalty": 1.0, "average": 0.98}
    train = jax.jit(lambda game: task.train(game, hparams, data, 1000)[0])
    game, labels = train(task.init(hparams)), evenly(both, 30)
    drawn = drawn_digits.draw(both, game.generator.weights, labels, 0).astype(jnp.float32)
    rows = jnp.stack([drawn[:, 3 * k : 3 * k + 2].mean((1, 2)) for k in range(3)], axis=1)
    assert (rows.argmax(1) == labels).mean() > 0.9


@pytest.mark.long
def test_a_penalty_of_every_second_step_is_twice_as_heavy_there() -> None:
    """Two steps with it are one with twice the penalty, then one without any."""
    _, rare, both_steps = training(penalty_every=2)
    _, task, _ = training()
    one = jax.jit(lambda game, penalty: task.train(game, HPARAMS | {"penalty": penalty}, DATA, 1))
    game = task.init(HPARAMS)
    first, with_it = one(game, 2 * HPARAMS["penalty"])
    expected, _ = one(first, 0.0)
    found, metrics = both_steps(rare.init(HPARAMS), RATES)
    slope = metrics["discriminator_slope"]
    np.testing.assert_allclose(slope.mean, with_it["discriminator_slope"].mean, rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        found.discriminator.params,
        expected.discriminator.params,
    )


@pytest.mark.long
def test_the_logit_that_counts_is_that_of_what_the_image_is_said_to_show() -> None:
    both = players(classes=4)
    params = both.discriminator.init(jax.random.key(0))
    images, labels = jnp.asarray(IMAGES[:5]) / 255.0, jnp.array([3, 0, 1, 1, 2])
    whole = np.asarray(both.discriminator.apply(params, images))
    expected = [whole[k, label] for k, label in enumerate(labels.tolist())]
    np.testing.assert_array_equal(logits_of(both, params, images, labels), expected)
    alone = players()
    params = alone.discriminator.init(jax.random.key(0))
    found = logits_of(alone, params, images, evenly(alone, 5))
    np.testing.assert_array_equal(found, alone.discriminator.apply(params, images)[:, 0])


@pytest.mark.long
def test_a_step_that_is_not_finite_changes_neither_player_and_is_counted() -> None:
    _, task, train = training()
    game = task.init(HPARAMS)
    broken, metrics = train(game, RATES | {"penalty": jnp.nan})
    assert same(broken.discriminator.params, game.discriminator.params)
    assert int(task.failures(broken)) == 2
    assert float(metrics["discriminator_skipped"].mean) == 1
    mended, _ = train(broken, RATES)
    assert int(task.failures(mended)) == 0


@pytest.mark.parametrize(
    "kind",
    ["conv", *(pytest.param(each, marks=pytest.mark.long) for each in ("rows", "noise"))],
)
def test_a_game_goes_on_from_its_arrays_alone_to_the_same_bits(kind: str) -> None:
    _, task, train = training(kind)
    first = train(task.init(HPARAMS), RATES)[0]
    whole = train(first, RATES)[0]
    again = train(jax.tree.map(by_its_arrays, first), RATES)[0]
    assert same(task.keep(again), task.keep(whole))
    assert [bool(each.any()) for each in whole.film] == [True, True, False]
    assert same(whole.film[0], first.film[0])


def by_its_arrays(leaf: Any) -> Any:
    """The leaf from what a checkpoint keeps of it; tests/faults/test_task_crash.py writes one."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(np.asarray(jax.random.key_data(leaf))))
    return jnp.asarray(np.asarray(leaf))


@pytest.mark.long
def test_players_side_by_side_are_those_trained_alone() -> None:
    _, task, train = training()
    game, rates = task.init(HPARAMS), jnp.array([0.01, 0.3])

    def kept(rate: Any) -> Any:
        return task.keep(train(game, {"ours": rate, "theirs": rate})[0]).generator

    together, alone = jax.jit(jax.vmap(kept))(rates), [kept(rate) for rate in rates]
    for k, one in enumerate(alone):
        jax.tree.map(
            lambda a, b, k=k: np.testing.assert_allclose(a[k], b, atol=1e-5), together, one
        )
    assert not same(*alone)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["conv", "rows", "noise"])
def test_an_image_depends_on_its_own_noise_alone(kind: str) -> None:
    generator = players(kind).generator
    params = generator.init(jax.random.key(1))
    noise = jax.random.normal(jax.random.key(2), (5, 3))
    images = generator.apply(params, noise)
    assert images.shape == (5, 8, 8)
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    np.testing.assert_allclose(generator.apply(params, noise[3:4])[0], images[3], atol=1e-6)
    assert float(jnp.abs(images[0] - images[1]).max()) > 1e-3


@pytest.mark.long
def test_rows_are_those_of_a_loop_over_the_cell() -> None:
    import recurrent

    params = players("rows").generator.init(jax.random.key(1))
    cell, noise = recurrent.gru(3 + 8, 4), jax.random.normal(jax.random.key(2), (2, 3))
    state, row, rows = cell.initial_state(params["cell"], (2,)), jnp.zeros((2, 8)), []
    for _ in range(8):
        state, ys = cell.step(params["cell"], state, jnp.concatenate([noise, row], -1))
        readout = params["readout"]
        row = 1 / (1 + jnp.exp(-(ys @ readout["kernel"] + readout["bias"])))
        rows.append(row)
    found = players("rows").generator.apply(params, noise)
    np.testing.assert_allclose(found, jnp.stack(rows, axis=1), atol=1e-6)


def one_sided(digit: int) -> Any:
    """A classifier that is sure of one digit whatever it sees."""
    params = judging.initial((8, 8), jax.random.key(0))
    bias = jnp.zeros(10).at[digit].set(50.0)
    return params | {"Dense_1": {"kernel": jnp.zeros((128, 10)), "bias": bias}}


@pytest.mark.long
def test_a_collapsed_generator_shows_in_the_divergence() -> None:
    params = one_sided(3)
    real = fit_gaussian(judging.features_of(params, jnp.asarray(IMAGES)))
    data = {"judge": params, "real": real, "real_distance": jnp.float32(2)}
    found = {k: float(v.mean) for k, v in judging.judged(jnp.asarray(IMAGES), data).items()}
    assert found["class_kl"] == pytest.approx(math.log(10), abs=1e-5)
    assert found["sure"] == 1
    assert found["frechet"] == pytest.approx(0, abs=1e-4 * float(jnp.square(real.root).sum()))
    constant = jnp.broadcast_to(jnp.asarray(IMAGES[0]), IMAGES.shape)
    worse = {k: float(v.mean) for k, v in judging.judged(constant, data).items()}
    assert worse["frechet"] > 0.5 * float(jnp.square(real.root).sum())
    assert worse["frechet_ratio"] == pytest.approx(worse["frechet"] / 2)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([0.25] * 4, 0), ([1, 0, 0, 0], math.log(4)), ([0.5, 0.5, 0, 0], math.log(2))],
)
def test_the_divergence_from_equal_shares(shares: list[float], expected: float) -> None:
    assert float(judging.class_kl(jnp.array(shares))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.long
def test_images_are_judged_alike_however_they_are_batched(monkeypatch: Any) -> None:
    params = judging.initial((8, 8), jax.random.key(0))
    whole = judging.judge(jnp.asarray(IMAGES) / 255.0, params, None)
    monkeypatch.setattr(judging, "AT_A_TIME", 8)
    found = judging.features_of(params, jnp.asarray(IMAGES))
    np.testing.assert_allclose(found, whole, atol=1e-5)
    np.testing.assert_allclose(
        judging.readout(found, params),
        judging.judge(jnp.asarray(IMAGES) / 255.0, params),
        atol=1e-5,
    )


@pytest.mark.long
def test_the_test_judges_other_draws_than_those_that_chose_the_weights(quick: None) -> None:
    data = judging.references(judging.JudgedConfig(), Splits(split(200), split(40), split(50)))
    both = players()
    params = both.generator.init(jax.random.key(0))
    drawn = [
        drawn_digits.draw(both, params, evenly(both, 6), data[name]["seed"])
        for name in ("valid", "test", "test")
    ]
    assert not np.array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[1], drawn[2])


def test_the_nearest_image_is_that_of_a_loop() -> None:
    others = np.random.default_rng(1).integers(0, 256, (40, 8, 8)).astype(np.uint8)
    index, distance = drawn_digits.nearest(IMAGES, others)
    each = np.linalg.norm((IMAGES[:, None] / 255.0 - others / 255.0).reshape(30, 40, -1), axis=-1)
    np.testing.assert_array_equal(index, each.argmin(1))
    np.testing.assert_allclose(distance, each.min(1), rtol=1e-5)
    assert drawn_digits.nearest(others, others)[1].max() == 0


def test_images_lie_on_a_sheet_row_by_row() -> None:
    found = sheets.sheet(np.arange(1, 6)[:, None, None] * np.ones((1, 2, 3), int))
    assert found[::2, ::3].tolist() == [[1, 2, 3], [4, 5, 0]]


def split(size: int) -> ImageSet:
    rng = np.random.default_rng(size)
    labels = rng.integers(0, 10, size).astype(np.int32)
    images = np.repeat(np.repeat(labels[:, None, None] * 25, 8, 1), 8, 2)
    return ImageSet(images.astype(np.uint8), labels)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the classifier train for one pass over few images."""
    monkeypatch.setattr(judging, "EPOCHS", {(8, 8): 1})
    monkeypatch.setattr(
        digit_gan, "load_images", lambda *_: Splits(split(200), split(40), split(50))
    )


@pytest.mark.long
def test_the_classifier_is_trained_once(quick: None, capfd: pytest.CaptureFixture[str]) -> None:
    config, splits = judging.JudgedConfig(), Splits(split(67), split(40), split(50))
    first = judging.classifier(config, splits)
    assert "training the classifier" in capfd.readouterr().err
    assert same(judging.classifier(config, splits), first)
    assert capfd.readouterr().err == ""


@pytest.mark.long
@pytest.mark.parametrize("kind", generators.KINDS)
@pytest.mark.parametrize("conditional", [False, True])
def test_it_trains_sweeps_and_draws(
    quick: None, tmp_path: Path, kind: str, conditional: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    run = tmp_path / "run"
    sizes = {"conv": ["--channels=2", "--features=4"], "rows": ["--hidden_size=4"]}
    told = ["--conditional"] * conditional
    flags = [*FLAGS, f"--generator={kind}", *sizes[kind], *told]
    assert __main__.main(["digit_gan", *flags, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["select"] == "frechet"
    assert {"test_frechet_ratio", "test_sure", "test_class_kl"} <= result.keys()
    assert ("test_as_asked" in result) == conditional
    assert {file.name for file in (run / "figures").iterdir()} == {
        *("learning_curves.png", "samples.png", "film.png", "nearest.png"),
        *("classes.png", "doubtful.png", "scores.csv"),
    }
    swept = ["--sweep=penalty=0.2,0.7", f"--workdir={tmp_path / 'sweep'}"]
    assert __main__.main(["sweep", "digit_gan", *flags, *swept]) == 0
    rows = [json.loads(each) for each in (tmp_path / "sweep/sweep.jsonl").read_text().splitlines()]
    ours = next(row for row in rows if row["penalty"] == 0.2)
    assert ours["valid_frechet"] == pytest.approx(result["valid_frechet"], rel=1e-3)
    capfd.readouterr()
    file = tmp_path / "digits.png"
    assert __main__.main(["sample", str(run), "--count=5", f"--output={file}"]) == 0
    with Image.open(file) as image:
        assert image.size == (24, 16)
    status = __main__.main(["sample", str(run), "--digit=7", f"--output={file}"])
    refused = "--digit: the networks of this run do not know" in capfd.readouterr().err
    assert (status, refused) == ((0, False) if conditional else (2, True))
    for bad, said in [
        ("--output=digits.jpg", "ends in .png"),
        (f"--output={tmp_path}/none/x.png", "cannot be written"),
    ]:
        assert __main__.main(["sample", str(run), bad]) == 2
        assert said in capfd.readouterr().err


@pytest.mark.parametrize(("field", "value"), [("data", "mnist"), ("split_seed", 1)])
def test_a_classifier_of_another_split_is_refused(
    quick: None, tmp_path: Path, field: str, value: Any
) -> None:
    """It may have been trained on the images that are held out here."""
    config = {"data": "digits", "split_seed": 0} | {field: value}
    identity = {"experiment": "image_cnn", "config": config, "sources": {}}
    (tmp_path / "config.json").write_text(json.dumps(identity))
    asked = digit_gan.Config(data="digits", classifier=str(tmp_path))
    with pytest.raises(UserError, match=rf"^--classifier: expected a run with --{field}="):
        digit_gan.program(asked)


@pytest.mark.long
def test_a_classifier_that_is_none_is_refused(quick: None, tmp_path: Path) -> None:
    config = digit_gan.Config(data="digits", classifier=str(tmp_path))
    with pytest.raises(UserError, match=r"^--classifier: There is no trained run in"):
        digit_gan.program(config)
