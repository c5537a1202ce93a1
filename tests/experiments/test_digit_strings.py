"""Strings of digits: how they are composed, what CTC makes of them, and a whole run."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import __main__
from experiments.data.images import ImageSet, load_images
from experiments.harness.errors import UserError
from experiments.shared import digit_strips, transcribing
from experiments.shared.digit_strips import HEIGHT, LONGEST, MARGIN, SIDE
from experiments.shared.photos import Photo, otsu, read_photo
from experiments.shared.transcribing import Reading, best_path
from experiments.shared.transcripts import confusions, said

compose, redrawn = jax.jit(digit_strips.compose), jax.jit(digit_strips.redrawn)
LAYOUT = {"height": HEIGHT, "ink_height": 21, "margin": MARGIN}


def blocks(count: int) -> ImageSet:
    """Images of a filled box each, of widths from 1 to 20, every one of another gray."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    for k in range(count):
        left, width = rng.integers(0, 8), rng.integers(1, 21)
        images[k, 4:24, left : left + width] = 65 + k
    return ImageSet(images, rng.integers(0, 10, count).astype(np.int32))


def test_each_image_of_a_split_stands_in_one_string() -> None:
    images = blocks(101)
    found = digit_strips.strings_of(images, [0, 1])
    real = np.arange(LONGEST) < found["counts"][:, None]
    assert real.sum() == 101
    grays = found["images"][real].max((1, 2))
    assert sorted(grays.tolist()) == list(range(65, 65 + 101))
    np.testing.assert_array_equal(found["classes"][real], images.labels[grays - 65])
    assert np.bincount(found["counts"], minlength=9)[1:8].min() >= 2
    other = digit_strips.strings_of(images, [0, 2])
    assert (other["images"] != found["images"]).any()


def composed_by_hand(images: Any, count: int, gaps: Any, drops: Any) -> np.ndarray:
    """Compose one string pixel by pixel, without pushing it together."""
    strip, x, end = np.zeros((HEIGHT, 400)), MARGIN, 0
    for k in range(count):
        columns = np.flatnonzero((images[k] >= 64).any(0))
        for c in range(columns[0], columns[-1] + 1):
            for y in range(SIDE):
                place = (y + drops[k], x + c - columns[0])
                strip[place] = max(strip[place], images[k, y, c])
        width = columns[-1] - columns[0] + 1
        end, x = x + width, x + max(width + gaps[k], 8)
    return strip[:, : end + MARGIN]


@pytest.mark.long
def test_strips_are_those_of_a_loop_over_pixels() -> None:
    data = digit_strips.strings_of(blocks(72), [3])
    strips, widths = compose(
        *(jnp.asarray(data[name]) for name in ("images", "counts", "gaps", "drops"))
    )
    same = 0
    for k, count in enumerate(data["counts"]):
        expected = composed_by_hand(data["images"][k], count, data["gaps"][k], data["drops"][k])
        assert widths[k] <= 22 * count + 2 * MARGIN + 2
        if expected.shape[1] <= 22 * count + 2 * MARGIN + 2:
            assert widths[k] == expected.shape[1]
            np.testing.assert_array_equal(strips[k, :, : widths[k]], expected)
            same += 1
        assert not strips[k, :, widths[k] :].any()
    assert same > len(widths) / 2


def test_a_string_too_wide_is_pushed_together_and_none_of_its_digits_lost() -> None:
    images = np.zeros((1, LONGEST, SIDE, SIDE), np.uint8)
    images[0, :, :, 4:24] = 100 + np.arange(LONGEST)[:, None, None]
    gaps, drops = np.full((1, LONGEST), 12), np.zeros((1, LONGEST), int)
    strips, widths = compose(
        jnp.asarray(images), jnp.array([LONGEST]), jnp.asarray(gaps), jnp.asarray(drops)
    )
    assert int(widths[0]) == digit_strips.widest(LONGEST) - 2
    assert {*np.unique(strips)} >= {*range(100, 100 + LONGEST)}


@pytest.mark.long
def test_training_strings_are_other_ones_of_the_same_digits() -> None:
    batch = jax.tree.map(jnp.asarray, digit_strips.strings_of(blocks(120), [0]))
    real = np.arange(LONGEST) < np.asarray(batch["counts"])[:, None]
    drawn = [redrawn(jax.random.key(k), batch) for k in (0, 0, 1)]
    for each in drawn:
        found = np.asarray(each["images"])[real].max((1, 2))
        assert sorted(found.tolist()) == list(range(65, 65 + 120))
        labels = np.asarray(batch["classes"])[real]
        grays = np.asarray(batch["images"])[real].max((1, 2))
        known = dict(zip(grays.tolist(), labels.tolist(), strict=True))
        assert [known[gray] for gray in found.tolist()] == np.asarray(each["classes"])[
            real
        ].tolist()
        assert each["gaps"].min() >= -2
        assert each["gaps"].max() <= 12
        assert each["drops"].min() >= 0
        assert each["drops"].max() <= 4
    jax.tree.map(np.testing.assert_array_equal, drawn[0], drawn[1])
    assert (drawn[0]["images"] != drawn[2]["images"]).any()


def by_all_paths(log_p: np.ndarray, labels: tuple[int, ...]) -> float:
    """Return minus the log of the sum over all paths ``[T]`` that spell the labels."""
    total = 0.0
    for path in np.ndindex(*[log_p.shape[1]] * len(log_p)):
        merged = [s for k, s in enumerate(path) if k == 0 or s != path[k - 1]]
        if tuple(s for s in merged if s) == labels:
            total += np.exp(sum(log_p[t, s] for t, s in enumerate(path)))
    return -np.log(total)


def test_costs_are_those_of_all_paths_and_impossible_strings_are_known() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 5, 3)).astype(np.float32)
    frames = np.array([5, 4, 3, 1, 2])
    labels = np.array([[1, 2], [2, 2], [2, 2], [1, 0], [1, 1]])
    counts = np.array([2, 2, 2, 0, 2])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    possible = jax.jit(transcribing.feasible)(frames, labels, counts)
    assert possible.tolist() == [True, True, True, True, False]
    costs = jax.jit(transcribing.ctc_costs)(*map(jnp.asarray, (logits, frames, labels, counts)))
    for k in np.flatnonzero(np.asarray(possible)):
        expected = by_all_paths(log_p[: frames[k], k], tuple(labels[k, : counts[k]]))
        assert float(costs[k]) == pytest.approx(expected, rel=1e-5)
    assert costs[4] > 9e4


@pytest.mark.long
def test_an_impossible_string_is_an_error_but_has_no_cost() -> None:
    logits = jnp.zeros((4, 3, 11)).at[:, :, 3].set(5)  # reads the class 2 everywhere
    classes, counts = jnp.array([[2, 0], [2, 2], [2, 0]]), jnp.array([1, 2, 1])
    frames, mask = jnp.array([4, 2, 4]), jnp.array([True, True, False])

    def cost(logits: Any) -> Any:
        found = transcribing.metrics(logits, frames, classes, counts, mask)
        return found["loss"].mean, found

    slope, found = jax.jit(jax.grad(cost, has_aux=True))(logits)
    assert float(found["loss"].weight) == 1
    assert float(found["loss"].mean) < 1
    assert np.isfinite(slope).all()
    assert not slope[:, 1:].any()
    assert (float(found["errors"].total), float(found["errors"].weight)) == (1, 3)
    assert float(found["exact"].mean) == 0.5
    broken = jax.jit(cost)(logits * jnp.nan)[1]
    assert float(broken["errors"].mean) == 1
    assert float(broken["exact"].mean) == 0


@pytest.mark.long
def test_more_padding_changes_no_reading_and_no_cost() -> None:
    model = transcribing.transcriber("gru", 6, 10, (2, 3, 4), features=8)
    params = jax.jit(partial(transcribing.init, model, HEIGHT))(jax.random.key(0))
    logits_of = jax.jit(partial(transcribing.frame_logits, model))
    rng = np.random.default_rng(0)
    strips, widths = rng.random((3, HEIGHT, 40), np.float32), jnp.array([40, 22, 9])
    wide = np.pad(strips, ((0, 0), (0, 0), (0, 24)), constant_values=7)
    narrow, frames = logits_of(params, strips, widths)
    found, _ = logits_of(params, wide, widths)
    assert frames.tolist() == [10, 6, 3]
    for k, count in enumerate(frames.tolist()):
        np.testing.assert_allclose(found[:count, k], narrow[:count, k], rtol=1e-5, atol=1e-6)


def test_a_symbol_fires_in_the_frame_where_it_is_likeliest() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.9, 0.0], [0.3, 0.1, 0.6]])
    with np.errstate(divide="ignore"):
        log_p = np.log(p)[:, None]
    found = best_path(log_p, np.array([4]), 0)
    assert found.classes == [0, 1]
    assert found.places == [4 * 2.5, 4 * 3.5]
    assert found.probability == pytest.approx(0.9 * 0.8 * 0.9 * 0.6)
    assert best_path(log_p, np.array([0]), 0) == Reading([], [], 1.0)
    assert said(found, [0, 2]) == "read 01, is 02, p = 0.389"


def test_confusions_count_what_is_left_out_and_what_is_too_much() -> None:
    found = confusions([([0, 1, 1], [0, 1]), ([2], [1]), ([], [2])], 3)
    assert found.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]]


@pytest.fixture(scope="module")
def writing() -> np.ndarray:
    """A line of three of scikit-learn's digits, from 0 to 1."""
    images = digit_strips.enlarged(load_images("digits", 0).test.images[:3])
    return np.concatenate([*images], axis=1) / 255


def photo_of(pixels: np.ndarray, path: Path, **options: Any) -> Photo:
    Image.fromarray((255 * np.clip(pixels, 0, 1)).round().astype(np.uint8)).save(path, **options)
    return read_photo(str(path), "--image: ", **LAYOUT)


def looks_like(found: Photo, other: Photo) -> float:
    """The correlation of two strips, which must be about as wide."""
    width = max(found.strip.shape[1], other.strip.shape[1])
    assert abs(found.strip.shape[1] - other.strip.shape[1]) <= 3
    strips = [np.pad(x.strip, ((0, 0), (0, width - x.strip.shape[1]))) for x in (found, other)]
    return float(np.corrcoef(strips[0].ravel(), strips[1].ravel())[0, 1])


@pytest.mark.long
def test_a_picture_is_the_same_strip_in_any_color_size_and_light(
    writing: np.ndarray, tmp_path: Path
) -> None:
    plain = photo_of(writing, tmp_path / "plain.png")
    assert plain.strip.shape[0] == HEIGHT
    assert not plain.notes
    large = np.kron(np.pad(writing, 25), np.ones((9, 9)))
    y, x = np.mgrid[0 : large.shape[0], 0 : large.shape[1]] / max(large.shape)
    noise = np.random.default_rng(0).normal(0, 0.015, large.shape)
    lit = (0.75 - 0.25 * x - 0.2 * y) * (1 - 0.7 * large) + noise
    blue = np.stack([0.9 - 0.8 * large, 0.9 - 0.6 * large, 0.9 - 0 * large], -1)
    red_on_green = np.stack([0.2 + 0.3 * large, 0.5 - 0.3 * large, 0.2 + 0 * large], -1)
    clear = np.stack([0 * large] * 3 + [large], -1)
    gray = 0.45 + 0.2 * large
    pictures = {
        **{"lit.png": lit, "blue.webp": blue, "red.bmp": red_on_green},
        **{"clear.png": clear, "gray.jpg": gray, "dark.gif": 1 - large},
    }
    for name, pixels in pictures.items():
        assert looks_like(photo_of(pixels, tmp_path / name), plain) > 0.9, name


def test_what_was_done_to_a_picture_is_said(writing: np.ndarray, tmp_path: Path) -> None:
    clear = np.stack([1 - 0 * writing] * 3 + [writing], -1)
    assert photo_of(clear, tmp_path / "clear.png").notes == [
        "It is transparent; it was laid on black."
    ]
    frames = [Image.fromarray((255 * x).astype(np.uint8)) for x in (writing, writing[:, ::-1])]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    moving = read_photo(str(tmp_path / "two.gif"), "--image: ", **LAYOUT)
    assert moving.notes == [f"{tmp_path / 'two.gif'} has 2 frames; the first is read."]
    assert looks_like(moving, photo_of(writing, tmp_path / "plain.png")) > 0.95
    deep = Image.fromarray((1000 + 20000 * writing).astype(np.uint16))
    deep.save(tmp_path / "deep.png")
    found = read_photo(str(tmp_path / "deep.png"), "--image: ", **LAYOUT)
    assert looks_like(found, photo_of(writing, tmp_path / "plain.png")) > 0.95
    lightest = np.asarray(deep).max()
    assert found.notes == [
        f"{tmp_path / 'deep.png'} has shades up to {lightest}; 65535 is taken for white."
    ]


@pytest.mark.parametrize("blank", ["even", "slope", "dot", "dark", "noise", "floats"])
def test_a_blank_page_of_many_shades_shows_no_writing(tmp_path: Path, blank: str) -> None:
    """Were its shades stretched from the darkest to the lightest, noise would be writing."""
    page = np.full((60, 200), 40_000, np.uint16)
    pages = {
        "even": page,
        "slope": page + np.arange(200, dtype=np.uint16),
        "dot": page + (np.arange(200) == 100).astype(np.uint16),
        "dark": (page > 50_000) + (np.arange(200) == 100).astype(np.uint16),
        "noise": page + np.random.default_rng(0).integers(0, 200, page.shape, np.uint16),
        "floats": (page / 2**16 + (np.arange(200) == 100) * 1e-3).astype(np.float32),
    }
    path = tmp_path / ("page.tiff" if blank == "floats" else "page.png")
    Image.fromarray(pages[blank]).save(path)
    with pytest.raises(UserError, match="shows no writing"):
        read_photo(str(path), "--image: ", **LAYOUT)


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_what_lies_along_an_edge_is_left_out_and_said(
    writing: np.ndarray, tmp_path: Path, side: str
) -> None:
    page = np.pad(writing, 20)
    dark = {"top": np.s_[:9], "bottom": np.s_[-9:], "left": np.s_[:, :9], "right": np.s_[:, -9:]}
    framed = page.copy()
    framed[dark[side]] = 1
    found = photo_of(framed, tmp_path / "framed.png")
    assert found.notes == ["What lies along its edge is taken for its surroundings, and left out."]
    assert looks_like(found, photo_of(page, tmp_path / "page.png")) > 0.95


def test_a_single_stroke_is_writing_wherever_it_lies(tmp_path: Path) -> None:
    stroke = np.zeros((30, 20))
    stroke[:, :4] = 1
    found = photo_of(stroke, tmp_path / "one.png")
    assert not found.notes
    assert found.strip.max() == 1


def test_two_lines_of_writing_are_refused(writing: np.ndarray, tmp_path: Path) -> None:
    page = np.concatenate([np.pad(writing, 8)] * 2)
    with pytest.raises(UserError, match="shows 2 lines of writing, one below another"):
        photo_of(page, tmp_path / "two.png")


def test_pictures_that_cannot_be_read_are_one_clear_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(np.eye(50, dtype=np.uint8) * 255).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:60])
    Image.new("L", (40, 30), 128).save(tmp_path / "blank.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("7")
    Image.new("1", (9000, 9000)).save(tmp_path / "huge.png")
    line = np.zeros((40, 12000), np.uint8)
    line[18:20, 5:-5] = 255
    Image.fromarray(line).save(tmp_path / "line.png")
    expected = {
        "cut.png": "cannot be read as an image",
        "blank.png": "shows no writing",
        "empty.png": "cannot be read as an image",
        "text.png": "cannot be read as an image",
        "huge.png": "9000 x 9000 pixels",
        "line.png": "times as wide as it is high",
        "missing.png": "cannot be read as an image",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message) as error:
            read_photo(str(tmp_path / name), "--image: ", **LAYOUT)
        assert str(error.value).startswith("--image: ")
        assert "\n" not in str(error.value)


def test_otsu_parts_two_groups() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.03, 900), rng.normal(0.8, 0.03, 100)])
    assert 0.3 < otsu(values) < 0.7


@pytest.mark.long
def test_it_trains_reads_and_is_used(
    tmp_path: Path, writing: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    flags = ["--data=digits", "--epochs=2", "--hidden_size=8", "--channels=2"]
    assert __main__.main(["digit_strings", *flags, f"--workdir={run}"]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["test_errors"] <= 1
    names = {file.name for file in (run / "figures").iterdir()}
    assert names >= {"alignment.png", "mistakes.png", "confusion_matrix.png", "decoding.csv"}
    photo_of(writing, tmp_path / "three.png")
    capsys.readouterr()
    for beam in (1, 3):
        command = ["predict", str(run), f"--image={tmp_path / 'three.png'}", f"--beam={beam}"]
        assert __main__.main(command) == 0
        assert "probability" in capsys.readouterr().out
    assert __main__.main(["predict", str(run)]) == 2
    assert "expected --image=FILE" in capsys.readouterr().err
