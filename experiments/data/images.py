"""Load images of handwritten digits: scikit-learn's small ones, or MNIST."""

import gzip
import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.download import REMOTE_FILES, fetch
from experiments.data.idx import read_idx
from experiments.harness.errors import UserError, unknown

SHAPES = {"digits": (8, 8), "mnist": (28, 28)}  # height and width, by data set
DATASETS = tuple(SHAPES)
_CLASSES = 10
_DIGITS_TEST, _DIGITS_VALID = 360, 180
_MNIST_VALID = 5_000


class ImageSet(NamedTuple):
    """Hold images and their classes.

    Attributes:
      images: uint8 [N, H, W], from 0 (background) to 255 (ink).
      labels: int32 [N], from 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray


class Splits(NamedTuple):
    """Hold three disjoint sets: for training, for model selection, and for the reported result."""

    train: ImageSet
    valid: ImageSet
    test: ImageSet


def load_images(name: str, split_seed: int) -> Splits:
    """Load a data set, downloading it if needed, and split it.

    Random splits are stratified: the number of images of each class in each set is proportional,
    to within one image.

    - `digits`: scikit-learn's 1,797 images of 8x8 pixels: 1,257 train, 180 valid, 360 test, all
      drawn with the seed. The original values from 0 to 16 are scaled to 0 to 255 and rounded.
    - `mnist`: 28x28 pixels: the official 10,000 test images; of the 60,000 training images, 5,000
      drawn with the seed are valid and 55,000 are train.

    Args:
      name: one of `DATASETS`.
      split_seed: the seed of the random split, at least 0.

    Returns:
      The training, validation and test sets.

    Raises:
      UserError: if there is no such data set, the seed is negative, or a file is missing, damaged,
        or of the wrong type or shape.
    """
    if split_seed < 0:
        raise UserError(f"The split seed must be at least 0, got {split_seed}.")
    if name == "digits":
        return _load_digits(split_seed)
    if name == "mnist":
        return _load_mnist(split_seed)
    raise UserError(unknown("data set", name, DATASETS))


def _load_digits(split_seed: int) -> Splits:
    digits = _read_digits()
    order = _stratified_order(digits.labels, split_seed)
    test, valid, train = np.split(order, [_DIGITS_TEST, _DIGITS_TEST + _DIGITS_VALID])
    return Splits(_select(digits, train), _select(digits, valid), _select(digits, test))


def _read_digits() -> ImageSet:
    # Read the file without importing the package, which takes a second; the file takes 30 ms.
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("The digits come with scikit-learn: install it.")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.int32)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"Could not read scikit-learn's digits from {path}: {error}.") from error
    pixels, labels = table[:, :-1], table[:, -1]
    images = np.rint(pixels * (255 / 16)).astype(np.uint8)  # [N, 64]
    return ImageSet(images.reshape(-1, 8, 8), labels)  # [N, 8, 8]


def _load_mnist(split_seed: int) -> Splits:
    train_images, train_labels, test_images, test_labels = map(fetch, REMOTE_FILES["mnist"])
    official_train = _read_pair(train_images, train_labels)
    test = _read_pair(test_images, test_labels)
    height, width = SHAPES["mnist"]
    for path, images in ((train_images, official_train.images), (test_images, test.images)):
        if images.shape[1:] != (height, width):
            raise UserError(
                f"{path} should hold images of {height} x {width} pixels, but "
                f"holds {images.shape[1]} x {images.shape[2]}."
            )
    if len(official_train.labels) <= _MNIST_VALID:
        raise UserError(f"{train_images} must hold more than {_MNIST_VALID} images.")
    order = _stratified_order(official_train.labels, split_seed)
    valid, train = np.split(order, [_MNIST_VALID])
    return Splits(_select(official_train, train), _select(official_train, valid), test)


def _read_pair(images_path: Path, labels_path: Path) -> ImageSet:
    images = _read_bytes(images_path, rank=3)
    labels = _read_bytes(labels_path, rank=1)
    if len(images) != len(labels):
        raise UserError(
            f"{labels_path} holds {len(labels)} labels, but {images_path} {len(images)} images."
        )
    if labels.max() >= _CLASSES:
        raise UserError(f"{labels_path} holds the label {labels.max()}; they go from 0 to 9.")
    return ImageSet(images, labels.astype(np.int32))


def _read_bytes(path: Path, rank: int) -> np.ndarray:
    values = read_idx(path)
    if values.dtype != np.uint8 or values.ndim != rank:
        raise UserError(
            f"{path} should hold uint8 values of rank {rank}, "
            f"but holds {values.dtype} values of rank {values.ndim}."
        )
    return values


def _stratified_order(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return a random order in which every contiguous part has nearly the overall class balance.

    Each class is spread evenly over the order: example r of the n in a class is placed at the
    quantile (r + 1/2) / n, so every prefix holds each class's share to within one example.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    classes = labels[shuffled]
    of_class = classes[:, None] == np.arange(_CLASSES)  # [N, 10], one True in each row
    rank = np.cumsum(of_class, axis=0)[of_class] - 1  # [N]
    quantile = (rank + 0.5) / np.bincount(classes, minlength=_CLASSES)[classes]
    return shuffled[np.argsort(quantile, kind="stable")]


def _select(images: ImageSet, indices: np.ndarray) -> ImageSet:
    return ImageSet(images.images[indices], images.labels[indices])
