"""Test the contents and the splits of the image data sets."""

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.data.cache import data_dir
from experiments.data.download import REMOTE_FILES
from experiments.data.images import DATASETS, ImageSet, Splits, load_images
from experiments.harness.errors import UserError

REPOSITORY = Path(__file__).parents[3]
MNIST_TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def joined(*sets: ImageSet) -> ImageSet:
    return ImageSet(*(np.concatenate(parts) for parts in zip(*sets, strict=True)))


def rows(images: ImageSet) -> np.ndarray:
    """Return each image with its label as a row, sorted, so that equal sets compare equal."""
    table = np.column_stack([images.images.reshape(len(images.labels), -1), images.labels])
    return table[np.lexsort(table.T)]


def assert_same(left: Splits, right: Splits) -> None:
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


def assert_stratified(part: ImageSet, whole_counts: np.ndarray, whole_size: int) -> None:
    share = whole_counts * len(part.labels) / whole_size
    assert np.abs(np.bincount(part.labels, minlength=10) - share).max() <= 1


def test_digits_are_those_of_scikit_learn_each_once():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    expected = ImageSet(np.rint(np.asarray(pixels) * 255 / 16), np.asarray(labels))
    splits = load_images("digits", 0)
    np.testing.assert_array_equal(rows(joined(*splits)), rows(expected))
    assert splits.train.images.max() == 255


def test_digits_splits():
    splits = load_images("digits", 0)
    whole = joined(*splits)
    for part, size in zip(splits, (1257, 180, 360), strict=True):
        assert part.images.shape == (size, 8, 8)
        assert part.images.dtype == np.uint8
        assert part.labels.shape == (size,)
        assert part.labels.dtype == np.int32
        assert_stratified(part, np.bincount(whole.labels), 1797)


@pytest.mark.parametrize("part", Splits._fields)
def test_the_split_depends_on_the_seed_alone(part: str):
    assert_same(load_images("digits", 3), load_images("digits", 3))
    one, other = (getattr(load_images("digits", seed), part) for seed in (3, 4))
    assert not np.array_equal(rows(one), rows(other))


def test_classes_are_mixed_within_a_split():
    labels = load_images("digits", 0).train.labels
    assert all(len(set(run)) >= 7 for run in np.split(labels[:1250], 25))


def test_digits_do_not_import_scikit_learn():
    code = (
        "import sys; from experiments.data.images import load_images; load_images('digits', 0);"
        "sys.exit(any(name in sys.modules for name in ('sklearn', 'scipy', 'jax', 'tqdm')))"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False)
    assert process.returncode == 0


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="scikit-learn: install it"):
        load_images("digits", 0)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("minst", 'Did you mean "mnist"'), ("digit", 'Did you mean "digits"'), ("", "digits, mnist")],
)
def test_unknown_name(name: str, sentence: str):
    with pytest.raises(UserError, match=sentence):
        load_images(name, 0)


def test_negative_seed():
    with pytest.raises(UserError, match="at least 0, got -1"):
        load_images("digits", -1)


def test_every_data_set_can_be_downloaded():
    assert set(DATASETS) <= set(REMOTE_FILES)


def test_real_mnist():
    folder = data_dir() / "mnist"
    names = [Path(file.path).name for file in REMOTE_FILES["mnist"]]
    if not all((folder / name).is_file() for name in names):
        pytest.skip("MNIST is not in the data folder: ./launch.sh download mnist puts it there")
    splits = load_images("mnist", 0)
    official_train = joined(splits.train, splits.valid)
    assert [len(part.labels) for part in splits] == [55_000, 5_000, 10_000]
    assert official_train.images.shape == (60_000, 28, 28)
    assert splits.test.images.shape == (10_000, 28, 28)
    assert np.bincount(official_train.labels).tolist() == MNIST_TRAIN_COUNTS
    assert np.bincount(splits.test.labels).tolist() == MNIST_TEST_COUNTS
    assert_stratified(splits.valid, np.array(MNIST_TRAIN_COUNTS), 60_000)
    # The published mean and standard deviation of the training pixels.
    assert official_train.images.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert official_train.images.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def idx(array: np.ndarray, code: int = 8) -> bytes:
    sizes = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return sizes + array.tobytes()


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a small MNIST in which the first two pixels of image i hold i in base 256."""
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(tmp_path))
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, size in (("train", 5_500), ("t10k", 30)):
        images = np.zeros((size, 28, 28), np.uint8)
        images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(size), 256)
        labels = (np.arange(size) % 10).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


def number(images: np.ndarray) -> np.ndarray:
    return images[:, 0, 0].astype(int) * 256 + images[:, 0, 1]


def test_mnist_splits_hold_every_image_once_with_its_label(small_mnist: Path):
    splits = load_images("mnist", 0)
    numbers = [number(part.images) for part in splits]
    np.testing.assert_array_equal(np.sort(np.concatenate(numbers[:2])), np.arange(5_500))
    np.testing.assert_array_equal(numbers[2], np.arange(30))
    assert [len(part) for part in numbers] == [500, 5_000, 30]
    for part, indices in zip(splits, numbers, strict=True):
        np.testing.assert_array_equal(part.labels, indices % 10)
    np.testing.assert_array_equal(np.bincount(splits.valid.labels), [500] * 10)


def test_mnist_uncompressed(small_mnist: Path):
    packed = load_images("mnist", 1)
    for path in list(small_mnist.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert_same(load_images("mnist", 1), packed)


IMAGES, LABELS = np.zeros((30, 28, 28), np.uint8), np.zeros(30, np.uint8)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t10k-images-idx3-ubyte", idx(LABELS), r"rank 3.*rank 1"),
        ("t10k-labels-idx1-ubyte", idx(IMAGES), r"rank 1.*rank 3"),
        ("t10k-images-idx3-ubyte", idx(IMAGES.astype(">i4"), 12), "int32"),
        ("t10k-labels-idx1-ubyte", idx(LABELS.astype(np.int8), 9), "int8"),
        ("t10k-labels-idx1-ubyte", idx(LABELS[:-1]), r"29 labels.*30 images"),
        ("t10k-labels-idx1-ubyte", idx(LABELS + 10), "label 10"),
        ("t10k-images-idx3-ubyte", idx(IMAGES[:, :, :2]), "28 x 28 pixels, but holds 28 x 2"),
        ("t10k-images-idx3-ubyte", idx(IMAGES)[:-1], "not a valid IDX file"),
        ("train-images-idx3-ubyte", idx(IMAGES), r"5500 labels.*30 images"),
    ],
)
@pytest.mark.fault("S2", "N8")
def test_a_wrong_mnist_file_is_named(small_mnist: Path, name: str, content: bytes, sentence: str):
    (small_mnist / f"{name}.gz").write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        load_images("mnist", 0)
    assert name in str(caught.value)


def test_mnist_with_too_few_training_images(small_mnist: Path):
    (small_mnist / "train-images-idx3-ubyte.gz").write_bytes(idx(IMAGES))
    (small_mnist / "train-labels-idx1-ubyte.gz").write_bytes(idx(LABELS))
    with pytest.raises(UserError, match="more than 5000 images"):
        load_images("mnist", 0)
