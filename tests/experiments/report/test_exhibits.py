"""Each kind of exhibit becomes a file that other software reads; the page allows what it needs."""

import csv
import re
import wave
from pathlib import Path
from typing import Any

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from experiments.harness.program import Animation, Audio, Exhibit, Figure, Table, Text
from experiments.report.exhibits import save_all
from experiments.report.page import write_report

TONE = np.sin(np.linspace(0, 60, 800)).astype(np.float32)
FRAMES = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5) * 4


def figure(name: str = "drawn") -> Figure:
    return Figure(name, "A figure", "", matplotlib.figure.Figure((3, 2), 100))


def table(name: str = "rows") -> Table:
    return Table(name, "A table", "of two", ["a", "b"], [["1", 'x "y", z'], ["2", "<b>"]])


KINDS: dict[str, Exhibit] = {
    "figure": figure(),
    "table": table(),
    "text": Text("words", "A text", "", "one\ntwo <script>alert(1)</script>"),
    "audio": Audio("tone", "A tone", "", TONE, 8000),
    "animation": Animation("film", "A film", "", FRAMES, 5.0),
}


def page_of(folder: Path, *exhibits: Exhibit) -> str:
    write_report(
        folder / "page.html",
        title="t",
        question="q",
        headline=[],
        exhibits=exhibits,
        folder=folder / "figures",
        result={},
        config={},
        commands={},
    )
    return (folder / "page.html").read_text()


def test_audio_is_a_wav_of_the_same_samples(tmp_path: Path) -> None:
    stereo = np.stack([TONE, -2 * TONE], axis=1)  # clipped to 1
    save_all([KINDS["audio"], Audio("two", "", "", stereo, 8000)], tmp_path)
    with wave.open(str(tmp_path / "tone.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8000, 1, 800)
        read = np.frombuffer(file.readframes(800), "<i2") / 32767
    np.testing.assert_allclose(read, TONE, atol=2e-5)
    with wave.open(str(tmp_path / "two.wav")) as file:
        read = np.frombuffer(file.readframes(800), "<i2").reshape(800, 2) / 32767
    np.testing.assert_allclose(read, np.clip(stereo, -1, 1), atol=2e-5)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_animation_has_its_very_frames_and_repeats(mode: str, tmp_path: Path) -> None:
    shape = (3, 40, 50) if mode == "L" else (3, 40, 50, 3)  # more colors than a palette has
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    save_all([Animation("film", "", "", frames, 5.0)], tmp_path)
    with Image.open(tmp_path / "film.png") as opened:
        film: Any = opened
        assert (film.n_frames, film.info["loop"], film.info["duration"]) == (3, 0, 200)
        for k in range(3):
            film.seek(k)
            np.testing.assert_array_equal(np.asarray(film.convert(mode)), frames[k])


@pytest.mark.parametrize(("rate", "milliseconds"), [(0.5, 2000), (30, 33), (1000, 20)])
def test_a_frame_lasts_as_the_rate_says_but_no_less_than_browsers_allow(
    rate: float, milliseconds: int, tmp_path: Path
) -> None:
    save_all([Animation("film", "", "", FRAMES, rate)], tmp_path)
    with Image.open(tmp_path / "film.png") as film:
        assert film.info["duration"] == pytest.approx(milliseconds, abs=0.5)


def test_a_small_animation_is_enlarged_and_a_large_one_is_not(tmp_path: Path) -> None:
    small = page_of(tmp_path, Animation("film", "", "", np.zeros((2, 28, 20), np.uint8), 5))
    assert 'class="enlarged"' in small
    assert 'width="220" height="308"' in small
    large = page_of(tmp_path, Animation("film", "", "", np.zeros((2, 100, 300), np.uint8), 5))
    assert 'class="enlarged"' not in large
    assert 'width="300" height="100"' in large


def test_a_table_is_a_csv_of_the_same_cells(tmp_path: Path) -> None:
    save_all([KINDS["table"]], tmp_path)
    with open(tmp_path / "rows.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [["a", "b"], ["1", 'x "y", z'], ["2", "<b>"]]


def test_a_text_and_a_figure_are_files_too(tmp_path: Path) -> None:
    save_all([KINDS["text"], KINDS["figure"]], tmp_path)
    assert (tmp_path / "words.txt").read_text() == "one\ntwo <script>alert(1)</script>"
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (300, 200)


@pytest.mark.parametrize("kinds", [(), *((kind,) for kind in KINDS), tuple(KINDS)])
def test_the_page_allows_what_its_exhibits_need_and_no_more(
    kinds: tuple[str, ...], tmp_path: Path
) -> None:
    page = page_of(tmp_path, *(KINDS[kind] for kind in kinds))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    policy = policy.replace("&#39;", "'")
    assert ("img-src data:" in policy) == bool({"figure", "animation"} & set(kinds))
    assert ("media-src data:" in policy) == ("audio" in kinds)
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert page.count("data:image/") == len({"figure", "animation"} & set(kinds))
    assert page.count("data:audio/wav") == ("audio" in kinds)


def test_a_text_keeps_its_first_line_break_and_what_is_not_unicode(tmp_path: Path) -> None:
    page = page_of(tmp_path, Text("words", "", "", "\n\udcffone"))
    assert '<pre class="text" tabindex="0">\n\n\\udcffone</pre>' in page  # browsers drop one
    assert (tmp_path / "figures/words.txt").read_text() == "\n\\udcffone"


def test_an_empty_caption_leaves_no_gap(tmp_path: Path) -> None:
    assert "<figcaption>" not in page_of(tmp_path, KINDS["text"])


def test_exhibits_stand_in_their_order_and_markup_is_shown(tmp_path: Path) -> None:
    page = page_of(tmp_path, KINDS["text"], KINDS["table"], KINDS["audio"])
    assert page.index("A text") < page.index("A table") < page.index("A tone")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;" in page


def test_the_first_row_of_a_ranking_alone_stands_out(tmp_path: Path) -> None:
    assert 'table class="ranking"' in page_of(tmp_path, table("ranking"))
    assert 'table class="ranking"' not in page_of(tmp_path, table("other"))


@pytest.mark.parametrize(
    ("exhibit", "words"),
    [
        (figure("../x"), "expected a name of letters"),
        (figure(""), "expected a name of letters"),
        (Audio("a", "", "", np.zeros((3, 4)), 8000), r"expected samples \[N\] or \[N, 2\]"),
        (Audio("a", "", "", np.zeros(0), 8000), "expected samples"),
        (Audio("a", "", "", np.zeros(3, np.int16), 8000), "divide integers"),
        (Audio("a", "", "", np.array([np.nan]), 8000), "expected finite samples, got NaN"),
        (Audio("a", "", "", TONE, 0), "expected a rate of at least 1, got 0; give samples"),
        (Audio("a", "", "", TONE, -8000), "expected a rate of at least 1"),
        (table()._replace(columns=[], rows=[]), "expected at least one column, got none"),
        (table()._replace(rows=[["1"]]), "expected 2 cells a row, got 1 in row 1; fill gaps"),
        (Animation("a", "", "", FRAMES.astype(float), 5), "expected uint8"),
        (Animation("a", "", "", FRAMES[0], 5), r"expected frames \[F, H, W\]"),
        (Animation("a", "", "", FRAMES[:0], 5), "expected frames"),
        (Animation("a", "", "", np.zeros((2, 4, 5, 4), np.uint8), 5), "expected frames"),
        (Animation("a", "", "", FRAMES, 0), "expected a rate above 0, got 0; give frames"),
        (Animation("a", "", "", FRAMES, np.nan), "expected a rate above 0, got nan"),
    ],
)
def test_an_exhibit_that_cannot_be_shown_is_refused(
    exhibit: Exhibit, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        save_all([exhibit], tmp_path)
    assert not list(tmp_path.iterdir())


def test_two_exhibits_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected each name once, got 'drawn' twice"):
        save_all([figure(), figure()], tmp_path)
