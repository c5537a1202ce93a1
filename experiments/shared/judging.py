"""Judge drawn digits by a classifier: is it sure of them, which are they, how real do they look?"""

import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.cache import computed_once
from experiments.data.images import Splits
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.identity import hash_of_arrays
from experiments.harness.runs import config_of, weights_of
from experiments.shared.classification import CLASSES, as_arrays, metrics, unit_range
from recurrent import training
from recurrent.frechet import Gaussian, fit_gaussian, frechet_distance
from recurrent.losses import Average
from recurrent.training.minibatch import even_batch_size, steps_per_epoch
from recurrent.training.task import HParams, Metric, Metrics

FRECHET = Metric("frechet", higher_is_better=False)
SURE_SHARE = Metric("sure", higher_is_better=True, format="{:.1%}")
CLASS_KL = Metric("class_kl", higher_is_better=False)
AS_ASKED = Metric("as_asked", higher_is_better=True, format="{:.1%}")
RATIO = Metric("frechet_ratio", False, "{:.2f} times")
SURE = 0.9  # the probability from which on the classifier counts as sure of a digit
EPOCHS = {(8, 8): 10, (28, 28): 1}  # of the classifier that is trained where none is given
BATCH, RATE = 64, 2e-3  # of its training, by Adam with a cosine schedule
AT_A_TIME = 500  # images that it reads at once


@dataclasses.dataclass(frozen=True)
class JudgedConfig:
    """Hold the fields of experiments whose images a classifier judges."""

    classifier: str = option(
        "",
        "run directory of image_cnn, on the same images, whose network judges what is drawn; by "
        "default a small training of it, done once and kept in the user's cache",
        file=True,
    )


def judge(images: Array, params: Any, classes: int | None = CLASSES) -> Array:
    """Apply the classifier.

    Args:
      images: ``[B, H, W]`` from 0 to 1.
      params: of `recurrent.convnet.ConvNet`.
      classes: None for the features ``[B, 128]`` before its last layer; else it is logits.
    """
    from recurrent.convnet import ConvNet

    return ConvNet(classes).apply({"params": params}, images[..., None])  # pyright: ignore[reportReturnType]


def readout(features: Array, params: Any) -> Array:
    """Return the logits ``[B, 10]`` of the classifier from its features."""
    return features @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def judged(images: Array, data: dict[str, Any], labels: Array | None = None) -> Metrics:
    """Return how good drawn images are.

    - ``"frechet"``: the Frechet distance of the Gaussian of the classifier's features from that of
      real images; ``"frechet_ratio"``, that distance in units of the one from real training images;
    - ``"sure"``: the share of images of which the classifier is sure;
    - ``"class_kl"``: the Kullback-Leibler divergence in nats of the shares of the ten digits from
      those of an even draw, ``sum_k p_k log(10 p_k)``: log 10 where all images show one digit;
    - with labels ``"as_asked"``, the share of images that it takes for what they are to show.

    Args:
      images: uint8 ``[N, H, W]``.
      data: of a split, from `references`.
      labels: what they are to show ``[N]``, where that was said.
    """
    features = features_of(data["judge"], images)
    distance = frechet_distance(fit_gaussian(features), data["real"])
    probabilities = jax.nn.softmax(readout(features, data["judge"]))
    sure = (probabilities.max(axis=-1) >= SURE).mean()
    digits = probabilities.argmax(axis=-1)
    shares = jax.nn.one_hot(digits, CLASSES).mean(axis=0)
    found = {
        FRECHET.name: distance,
        RATIO.name: distance / data["real_distance"],
        SURE_SHARE.name: sure,
        CLASS_KL.name: class_kl(shares),
    }
    if labels is not None:
        found[AS_ASKED.name] = (digits == labels).mean()
    return {name: Average(value, jnp.float32(1)) for name, value in found.items()}


def class_kl(shares: Array) -> Array:
    """Return the divergence in nats of shares ``[K]`` from equal ones, ``sum_k p_k log(K p_k)``."""
    return jax.scipy.special.xlogy(shares, len(shares) * shares).sum()


def references(config: JudgedConfig, splits: Splits) -> dict[str, Any]:
    """Return what drawn images are compared with, for the validation and for the test split.

    Each has the classifier's weights ``"judge"``; the Gaussian ``"real"`` of the features of the
    split's images; ``"real_distance"``, the Frechet distance of training images from it; and
    ``"seed"``, which decides what is drawn, so that the test judges other draws than those that
    chose the weights.
    """
    params = classifier(config, splits)
    gaussians = computed_once(
        "gaussians", hash_of_arrays((params, splits)), partial(fitted, params, splits)
    )
    train, *others = (Gaussian(*map(jnp.asarray, gaussians[k : k + 2])) for k in (0, 2, 4))
    return {
        name: {
            "judge": params,
            "real": real,
            "real_distance": frechet_distance(train, real),
            "seed": jnp.int32(seed),
        }
        for seed, (name, real) in enumerate(zip(("valid", "test"), others, strict=True))
    }


def fitted(params: Any, splits: Splits) -> list[Array]:
    """Return means and roots of the Gaussians of the splits' features, one after the other."""
    fit = jax.jit(lambda images: fit_gaussian(features_of(params, images)))
    return [each for split in splits for each in fit(jnp.asarray(split.images))]


def features_of(params: Any, images: Array) -> Array:
    """Return the classifier's features ``[N, 128]`` of images uint8 ``[N, H, W]``."""
    return in_batches(lambda batch: judge(unit_range(batch), params, None), images)


def in_batches(function: Callable[[Array], Array], xs: Array) -> Array:
    """Apply a function of a batch to ``[N, ...]``, in batches of one size one after the other."""
    size = even_batch_size(len(xs), AT_A_TIME)
    filled = jnp.concatenate([xs, jnp.zeros((-len(xs) % size, *xs.shape[1:]), xs.dtype)])
    ys = jax.lax.map(function, filled.reshape(-1, size, *xs.shape[1:]))
    return ys.reshape(-1, *ys.shape[2:])[: len(xs)]


def classifier(config: JudgedConfig, splits: Splits) -> Any:
    """Return the weights of the classifier: those of a run, or of a short training.

    Raises:
      UserError: where the run has none, or such of images of another size, or was trained on images
        that others are held out from here.
    """
    shape = splits.train.images.shape[1:]
    like = jax.eval_shape(partial(initial, shape), jax.random.key(0))
    if config.classifier:
        check_held_out(config)
        return jax.tree.map(jnp.asarray, weights_of(config.classifier, like, "--classifier"))
    key = hash_of_arrays((splits.train, EPOCHS[shape], BATCH, RATE))
    leaves = computed_once("classifier", key, lambda: jax.tree.leaves(trained(splits)))
    return jax.tree.unflatten(jax.tree.structure(like), map(jnp.asarray, leaves))


def check_held_out(config: JudgedConfig) -> None:
    """Raise `UserError` for a classifier that may have been trained on images of the test here."""
    judge = config_of(config.classifier, "--classifier")
    for field in ("data", "split_seed"):
        ours, theirs = getattr(config, field, None), judge.get(field)
        if ours != theirs:
            raise UserError(
                f"--classifier: expected a run with --{field}={ours}, so that the images held out "
                f"here are held out there, and {config.classifier} has {theirs!r}; train one with "
                "the same, or leave the flag out."
            )


def initial(shape: tuple[int, int], key: Array) -> Any:
    """Draw the weights of the classifier."""
    from recurrent.convnet import ConvNet

    return ConvNet(CLASSES).init(key, np.zeros((1, *shape, 1), np.float32))["params"]


def trained(splits: Splits) -> Any:
    """Train the classifier for a short while, always in the same way."""
    print("training the classifier that judges, once ...", file=sys.stderr, flush=True)
    data, shape = as_arrays(splits.train), splits.train.images.shape[1:]
    steps = steps_per_epoch(len(splits.train.labels), BATCH)

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        return metrics(judge(unit_range(batch["images"]), params), batch)

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        found = measure(params, batch, hparams)
        return found["loss"].mean, found

    def adam(hparams: HParams) -> Any:
        return training.optimizer(
            "adam", RATE, schedule="cosine", total_steps=EPOCHS[shape] * steps
        )

    task = training.minibatch_task(partial(initial, shape), loss, measure, adam, batch_size=BATCH)
    train = jax.jit(lambda state: task.train(state, {}, data, steps)[0])
    state = task.init({"seed": 0})
    for _ in range(EPOCHS[shape]):
        state = train(state)
    return state.params
