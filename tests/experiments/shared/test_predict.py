"""What ``predict`` is given is read or refused in a sentence."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.harness.errors import UserError
from experiments.shared.predict import Predict, read_image, read_images

SHAPE = (8, 8)
IMAGE = np.arange(64, dtype=np.uint8).reshape(SHAPE)


def read(folder: Path, array: np.ndarray) -> np.ndarray:
    np.save(folder / "a.npy", array)
    return read_images(Predict(array=str(folder / "a.npy")), SHAPE)


@pytest.mark.parametrize("kind", ["uint8", "int64", "uint16", "float32", "float64", "float16"])
def test_arrays_of_numbers_become_bytes(tmp_path: Path, kind: str) -> None:
    given = (IMAGE / 255).astype(kind) if kind.startswith("float") else IMAGE.astype(kind)
    np.testing.assert_array_equal(read(tmp_path, given), IMAGE[None])
    np.testing.assert_array_equal(read(tmp_path, np.stack([given] * 2)), np.stack([IMAGE] * 2))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P"])
def test_images_of_any_mode_become_gray(tmp_path: Path, mode: str) -> None:
    black_and_white = np.where(IMAGE > 30, 255, 0).astype(np.uint8)
    Image.fromarray(black_and_white).convert(mode).save(tmp_path / "i.png")
    found = read_images(Predict(image=str(tmp_path / "i.png")), SHAPE)
    np.testing.assert_array_equal(found, black_and_white[None])


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((9, 9)), "reads images of 8 x 8 pixels, and .* has 9 x 9; resize it"),
        (np.zeros((1, 1, 8, 8)), r"expected .* to hold one array \[N, height, width\]"),
        (np.zeros((0, 8, 8)), r"expected .* to hold one array \[N, height, width\]"),
        (np.full(SHAPE, 256), "whole numbers from 0 to 255"),
        (np.full(SHAPE, -1), "whole numbers from 0 to 255"),
        (np.full(SHAPE, np.nan), "from 0 to 1"),
        (np.full(SHAPE, 3.0), "from 0 to 1"),
        (np.full(SHAPE, "x"), "holds <U1"),
        (np.full(SHAPE, None), "cannot be read as a .npy file"),
        (np.full(SHAPE, 1j), "complex128"),
    ],
)
def test_another_array_is_refused(tmp_path: Path, array: np.ndarray, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(tmp_path, array)


NPY = "\x93NUMPY\x01\x00"  # how a .npy file begins, before the length of its header


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no image",
        "\x89PNG\r\n\x1a\n",
        "PK\x03\x04",
        f"{NPY}\x09\x00{{'a': (((",
        f"{NPY}\xff\xff{{",
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, text: str) -> None:
    for flag in ("image", "array"):
        (tmp_path / "file.png").write_text(text, encoding="latin-1")
        for name in ("file.png", "nowhere.png"):
            given = dataclasses.replace(Predict(), **{flag: str(tmp_path / name)})
            with pytest.raises(UserError, match=f"--{flag}: .* cannot be read"):
                read_images(given, SHAPE)


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(IMAGE).resize((16, 8)).save(tmp_path / "wide.png")
    with pytest.raises(UserError, match=r"--image: the network reads .* 8 x 8 .* has 8 x 16"):
        read_images(Predict(image=str(tmp_path / "wide.png")), SHAPE)


def test_either_an_image_or_an_array_is_given() -> None:
    for flags in (Predict(), Predict(image="a", array="b")):
        with pytest.raises(UserError, match=r"expected either --image=FILE or --array=FILE.npy"):
            read_images(flags, SHAPE)


@pytest.mark.parametrize(
    ("stored", "name", "white"),
    [
        (IMAGE.astype(np.uint16) * 257, "i.png", "65535"),
        (IMAGE.astype(np.float32) / 255, "i.tiff", "1"),
        (IMAGE.astype(np.int32) * 257, "i.tiff", "65535"),
        (IMAGE.astype(np.uint16), "i.png", "255"),
    ],
)
def test_shades_of_more_than_eight_bits_are_those_of_eight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stored: np.ndarray, name: str, white: str
) -> None:
    """Pillow would cut them off at 255, which turns 16 bits white and floats black."""
    Image.fromarray(stored).save(tmp_path / name)
    np.testing.assert_array_equal(read_image(str(tmp_path / name), SHAPE), IMAGE)
    assert f"; {white} is taken for white." in capsys.readouterr().err


def test_of_several_frames_the_first_is_read_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.fromarray(IMAGE), Image.fromarray(255 - IMAGE)]
    frames[0].save(tmp_path / "i.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(str(tmp_path / "i.gif"), SHAPE), IMAGE)
    assert "has 2 frames; the first is read." in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_refused(tmp_path: Path, mode: str) -> None:
    """Black ink on nothing would be read as black on black."""
    image = Image.new(mode, (8, 8))
    if mode == "P":
        image.info["transparency"] = 0
    image.save(tmp_path / "ink.png")
    with pytest.raises(UserError, match=r"ink.png has transparent pixels.*; save it without"):
        read_images(Predict(image=str(tmp_path / "ink.png")), SHAPE)
