"""Say what of a trained run is explained: its network as a pure function, and one example."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.harness.program import Exhibit

Outputs = Callable[[Any, Array, Array | None], Array]  # params, xs, mask or None -> logits [B, C]
Inside = Callable[[Any], tuple[Callable[..., Array], Callable[..., Array]]]
BOXES = 7, 10, 4  # parts of an image's side, of the steps and of the features of a sequence


class Network(NamedTuple):
    """Hold a network as explanations need it; the same one compiles once.

    Functions that are made anew are others to JAX, so whoever makes one keeps it, such as by
    `functools.cache`.

    Attributes:
      outputs: ``(params, xs, mask) -> [B, C]``, whose softmax are probabilities. Of images the mask
        is None; of sequences it is booleans ``[B, T]``, as `leaving_out` makes it of lengths.
      init: ``key -> params``.
      layers: names of params from the output down.
      inside: ``params -> (features, head)``, where the maps of an inner layer are of use.
      together: how many steps it takes together, such as by pooling; they are held together.
      tokens: whether a step is one thing, such as a character, that is hidden as a whole; then maps
        have one number for each step.
      sequence: whether the axes are steps and features, so that maps by steps and then by features
        say something; False of images, whether or not they are read row by row.
    """

    outputs: Outputs
    init: Callable[[Array], Any]
    layers: tuple[str, ...]
    inside: Inside | None = None
    together: int = 1
    tokens: bool = False
    sequence: bool = True


class Example(NamedTuple):
    """Hold arrays, of which the batch is one.

    Attributes:
      xs: an image ``[1, H, W]`` or a sequence ``[1, T, F]``, floats.
      lengths: integers ``[1]`` of a sequence; None of an image.
      baselines: ``[2, ...]``, what is shown in place of what is hidden; the first is that of all
        methods, the second that of a second pair of curves.
      background: ``[N, ...]``, over which SHAP averages.
    """

    xs: Any
    lengths: Any
    baselines: Any
    background: Any


class Explainable(NamedTuple):
    """Hold what an experiment says of its input.

    Attributes:
      network: its network.
      params: trained.
      example: what is explained.
      answers: a word for each of the C outputs.
      baselines: a few words for each of the two, such as "black".
      axes: names of the two axes of an example, such as ``("step", "channel")``.
      what: "image", "series", "text" or "spectrogram", which says how it is drawn.
      title: what the example is.
      more: exhibits that stand before all others, such as the sound.
      letters: of a text, a character or word for each step.
      target: which answer is explained where none is asked for; -1 takes the network's own.
    """

    network: Network
    params: Any
    example: Example
    answers: Sequence[str]
    baselines: tuple[str, str]
    axes: tuple[str, str]
    what: str
    title: str
    more: tuple[Exhibit, ...] = ()
    letters: Sequence[str] = ""
    target: int = -1


def leaving_out(outputs: Callable[[Any, Array, Array], Array]) -> Outputs:
    """Return a network that is given a mask from one that is given lengths.

    The steps that the mask leaves out are cut out, so that any network, recurrent or not, is as if
    they had never been there: a recurrent one holds its state.

    Args:
      outputs: ``(params, xs [B, T, F], lengths [B]) -> [B, C]``.

    Example:
      >>> import jax.numpy as jnp
      >>> last = lambda params, xs, lengths: xs[jnp.arange(len(xs)), lengths - 1]
      >>> xs = jnp.array([[[1.0], [2.0], [3.0]]])
      >>> leaving_out(last)({}, xs, jnp.array([[True, True, False]])).tolist()
      [[2.0]]
    """

    def masked(params: Any, xs: Array, mask: Array | None) -> Array:
        if mask is None:
            mask = jnp.ones(xs.shape[:2], bool)
        order = jnp.argsort(~mask, axis=1, stable=True)
        found = jnp.take_along_axis(xs, order[..., None], 1)
        real = jnp.take_along_axis(mask, order, 1)
        return outputs(params, jnp.where(real[..., None], found, 0), mask.sum(1))

    return masked


def score_of(network: Network, params: Any, target: Any) -> Callable[..., Array]:
    """Return the logit of an answer as a function of inputs, and of a mask where there is one."""
    return lambda xs, mask=None: network.outputs(params, xs, mask)[:, target]


def probability_of(network: Network, params: Any, target: Any) -> Callable[..., Array]:
    """Return the probability of an answer as a function of inputs."""
    return lambda xs, mask=None: jax.nn.softmax(network.outputs(params, xs, mask))[:, target]


def box_sizes(example: Example, tokens: bool = False) -> tuple[int, int]:
    """Return the sides of the boxes that are hidden together."""
    shape = example.xs.shape[1:]
    if tokens:
        return 1, shape[1]
    if example.lengths is None or shape[0] == shape[1]:
        height, width = (max(2, side // BOXES[0]) for side in shape)
        return height, width
    return -(-shape[0] // BOXES[1]), -(-shape[1] // BOXES[2])


def from_the_output(params: Any) -> tuple[str, ...]:
    """Name the layers of a network from its output down: its head, then the last of the others."""
    return tuple(sorted(params, key=lambda name: (name == "head", name), reverse=True))


def cropped(values: Any, lengths: Any) -> np.ndarray:
    """Cut the padding off an array ``[T, ...]`` of one example, or leave an image as it is."""
    return values if lengths is None else values[: int(np.asarray(lengths)[0])]
