"""Show what a trained classifier looks at in an image: ``./launch.sh explain RUN --index=N``."""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.data.images import SHAPES, load_images
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.files import path_of
from experiments.harness.runs import Command, Run
from experiments.shared.classification import CLASSES, Classifier
from experiments.shared.predict import ModelOf, read_image
from recurrent import explain

BACKGROUND = 16  # training images that stand in for what is hidden, and whose mean is a baseline
ORDERS = 8  # random ones, beside the curves
STEPS = 20  # of a curve
WITHOUT_SIGN = ("gradient", "SmoothGrad")  # maps whose sign says nothing of what is there


@dataclasses.dataclass(frozen=True)
class Explain:
    """Hold the flags of ``./launch.sh explain``."""

    index: int = option(0, "which image of the test split", minimum=0)
    image: str = option("", "an image file in its place, of the size of the training images")
    target: int = option(
        -1,
        "the class to explain; -1 takes the network's answer",
        minimum=-1,
        maximum=CLASSES - 1,
    )
    explain_seed: int = option(0, "decides what is drawn at random", minimum=0, maximum=2**31 - 1)
    out: str = option("", "the PNG to write; explanation.png in the run directory by default")


class Explained(NamedTuple):
    """Hold maps of one image, and what tells whether to trust them.

    Attributes:
      maps: by name, ``[height, width]``.
      deletion: ``[baselines, methods + ORDERS, STEPS + 1]``, random orders last.
      insertion: the same.
      agreement: ``[methods, methods]``.
      sanity: by name, ``[layers]``.
      notes: numbers by what they mean.
    """

    maps: OrderedDict[str, Any]  # of which JAX keeps the order
    deletion: Any
    insertion: Any
    agreement: Any
    sanity: OrderedDict[str, Any]
    notes: OrderedDict[str, Any]


def explain_command(model_of: ModelOf) -> Command:
    """Return the command, for an experiment whose network is ``model_of(config, image shape)``."""

    def run_it(run: Run, flags: Explain) -> Iterator[str]:
        shape = SHAPES[run.config.data]
        model = model_of(run.config, shape)
        splits = load_images(run.config.data, run.config.split_seed)
        image = chosen_image(flags, splits.test.images, shape).astype(np.float32) / 255
        background = splits.train.images[:BACKGROUND].astype(np.float32) / 255
        probabilities = jax.nn.softmax(model.logits(run.kept, jnp.asarray(image[None]), 0.0, None))[
            0
        ]
        target = int(probabilities.argmax()) if flags.target < 0 else flags.target
        layers = from_the_output(run.kept)
        every = jax.jit(explained, static_argnums=(0, 1))
        key = jax.random.key(flags.explain_seed)
        found = every(model, tuple(layers), run.kept, image[None], background, target, key)
        found = jax.tree.map(np.asarray, found)
        out = path_of(flags.out, "--out: ") if flags.out else run.folder / "explanation.png"
        title = (
            f"Why {target}? probability {probabilities[target]:.3f}\n"
            "Red speaks for it, blue against. In brackets: what hidden pixels show"
        )
        write(out, title, image, found, layers)
        yield "\n".join([*as_text(found), f"explanation: {out}\n"])

    return Command(Explain, run_it, "show what the network looks at, and whether to trust it")


def chosen_image(flags: Explain, images: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return one image as bytes.

    Raises:
      UserError: for an index beyond the test split, or a file that cannot be read.
    """
    if flags.image:
        return read_image(flags.image, shape)
    if flags.index >= len(images):
        raise UserError(f"--index: expected at most {len(images) - 1}, got {flags.index}.")
    return images[flags.index]


def from_the_output(params: Any) -> list[str]:
    """Name the layers of a network from its output down: its head, then the last of the others."""
    return sorted(params, key=lambda name: (name == "head", name), reverse=True)


def explained(
    model: Classifier,
    layers: tuple[str, ...],
    params: Any,
    images: Array,
    background: Array,
    target: Array,
    key: Array,
) -> Explained:
    """Compute all of it for one image ``[1, height, width]``."""

    def logit(params: Any, xs: Array) -> Array:
        return model.logits(params, xs, 0.0, None)[:, target]

    def probability(xs: Array) -> Array:
        return jax.nn.softmax(model.logits(params, xs, 0.0, None))[:, target]

    keys = jax.random.split(key, 6)
    by_params = quick_maps(logit, images, background)
    maps, notes = all_maps(lambda xs: logit(params, xs), images, background, keys)
    maps = {name: method(params) for name, method in by_params.items()} | maps
    fresh = model.init(keys[4])
    sanity = {
        name: explain.randomize_layers(method, params, fresh, layers).rank_correlation[:, 0]
        for name, method in by_params.items()
    }
    stacked = jnp.stack(list(maps.values()))  # [methods, 1, height, width]
    signs = jnp.array([name in WITHOUT_SIGN for name in maps])[:, None, None, None]
    ranked = jnp.where(signs, abs(stacked), stacked)
    drawn = jax.random.uniform(keys[5], (ORDERS, *images.shape))
    orders = jnp.concatenate([ranked, drawn])
    baselines = jnp.stack([jnp.zeros_like(images[0]), background.mean(0)])

    def curve(method: Callable[..., Array]) -> Array:
        def at(base: Array, order: Array) -> Array:
            return method(probability, images, order, baseline=base, steps=STEPS)[:, 0]

        return jax.lax.map(
            lambda base: jax.lax.map(lambda order: at(base, order), orders), baselines
        )

    return Explained(
        maps=OrderedDict((name, values[0]) for name, values in maps.items()),
        deletion=curve(explain.deletion_curve),
        insertion=curve(explain.insertion_curve),
        agreement=explain.agreement_matrix(list(abs(stacked)))[..., 0],
        sanity=OrderedDict(sanity),
        notes=OrderedDict(notes),
    )


def quick_maps(
    logit: Callable[[Any, Array], Array], images: Array, background: Array
) -> dict[str, Callable[[Any], Array]]:
    """Return the methods that are cheap enough to be tried on random networks."""
    size = patch_size(images.shape[1:])

    def of(method: Callable[..., Array], **more: Any) -> Callable[[Any], Array]:
        return lambda params: method(lambda xs: logit(params, xs), images, **more)

    def integrated(params: Any) -> Array:
        f = lambda xs: logit(params, xs)  # noqa: E731
        return explain.integrated_gradients(f, images).map

    return {
        "gradient": of(explain.gradient),
        "gradient x input (black)": of(explain.gradient_times_input),
        "integrated (black)": integrated,
        "occlusion (black)": of(explain.sliding_occlusion, window=size),
    }


def all_maps(
    f: Callable[[Array], Array], images: Array, background: Array, keys: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the other maps, and the numbers that come with them."""
    shape = images.shape[1:]
    labels = explain.grid_labels(shape, patch_size(shape))
    smooth = explain.smooth_grad(f, images, keys[0])
    shap = explain.kernel_shap(
        f, images, keys[1], labels=labels, background=background, samples=400, batch_size=8
    )
    expected = explain.gradient_shap(f, images, keys[2], background=background)
    lime = explain.lime_weights(f, images, keys[3], labels=labels)
    rows_first = explain.two_step_map(lambda xs: explain.gradient(f, xs), images, each_step=False)
    maps = {
        "SmoothGrad": smooth,
        "gradient SHAP (digits)": expected.map,
        "kernel SHAP (digits)": shap.map,
        "LIME (black)": lime.map,
        "rows, then columns (black)": rows_first,
    }
    sensitivity = explain.max_sensitivity(lambda xs: explain.gradient(f, xs), images, keys[4])
    notes = {
        "integrated gradients leave unexplained": explain.integrated_gradients(f, images).gap[0],
        "kernel SHAP leaves unexplained": shap.gap[0],
        "gradient SHAP leaves unexplained": expected.gap[0],
        "local fit of LIME (R^2)": lime.fit[0],
        "largest relative change of the gradient within 0.02": sensitivity[0],
    }
    return maps, notes


def patch_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the sides of a patch: a seventh of the image's."""
    height, width = (max(2, side // 7) for side in shape)
    return height, width


def as_text(found: Explained) -> Iterator[str]:
    """Write areas under the curves, beside those of random orders, and the numbers."""
    deleted, inserted = (each.mean(0) for each in (found.deletion, found.insertion))
    methods = len(found.maps)

    def area(curves: np.ndarray) -> np.ndarray:
        return (curves[:, 1:] + curves[:, :-1]).mean(1) / 2

    yield f"{'':26}  deletion  insertion   (areas: low, high; mean of two baselines)"
    for name, low, high in zip(found.maps, area(deleted), area(inserted), strict=False):
        yield f"{name:26}  {low:8.3f}  {high:9.3f}"
    chance = area(deleted)[methods:].mean(), area(inserted)[methods:].mean()
    yield f"{'random orders':26}  {chance[0]:8.3f}  {chance[1]:9.3f}"
    for what, value in found.notes.items():
        yield f"{what}: {float(value):.2g}"


def write(out: Path, title: str, image: np.ndarray, found: Explained, layers: list[str]) -> None:
    """Draw the figure.

    Raises:
      UserError: where the file cannot be written.
    """
    from experiments.figures.explanations import Curves, explanation

    methods = len(found.maps)
    curves = [
        Curves(
            f"{what} ({base})",
            dict(zip(found.maps, each[k, :methods], strict=True)),
            each[k, methods:],
        )
        for what, each in (("Taken away", found.deletion), ("Given", found.insertion))
        for k, base in enumerate(("black", "mean image"))
    ]
    figure = explanation(
        title, image, found.maps, curves, found.agreement, found.sanity, list(layers)
    )
    try:
        figure.savefig(out)
    except OSError as error:
        raise UserError(f"--out: {out} cannot be written: {error.strerror}.") from error
