"""Tables of what was read and of padding, against counts by hand."""

import jax
import numpy as np
import pytest

from experiments.data.chorales import NONE, VOICES, Songs
from experiments.data.text import Text
from experiments.harness.program import Finished, Table
from experiments.shared import composing, drawing, translating, translations, writing
from experiments.shared.data_tables import data_table, padding_table
from experiments.shared.language import LanguageConfig, model_of
from recurrent.training.bucketing import Buckets


def test_a_split_is_a_row_of_its_counts() -> None:
    table = data_table("said", ("things", "parts"), {"train": (12_345, 6), "test": (0, 1)})
    assert table.columns == ("split", "things", "parts")
    assert table.rows == [("train", "12345", "6"), ("test", "0", "1")]
    assert table.caption == "said"


def test_padding_is_that_of_a_loop() -> None:
    lengths = np.array([2, 2, 3, 9, 10, 4])
    table = padding_table({"lengths": lengths}, Buckets("lengths", (3, 10, 12), {}))
    # 2, 2, 3 in threes; 9, 10, 4 in tens; none in twelves; all in twelves
    assert table.rows == [("3", "3", "22%"), ("10", "3", "23%"), ("12", "0", "0%")]
    assert f"had one size, {1 - 30 / 72:.0%} of the steps" in table.caption


def test_songs_frames_and_pitches_are_counted() -> None:
    pitches = np.full((2, 5, VOICES), NONE)
    pitches[0, :3, :2] = 40
    pitches[1, 4, 0] = 0
    songs = Songs(pitches, np.array([3, 5]))
    assert composing.counted({"train": songs}).rows == [("train", "2", "8", "7")]


def test_images_and_their_black_pixels_are_counted() -> None:
    images = np.zeros((3, 4, 5), np.uint8)
    images[1, 2] = 1
    table = drawing.counted({"train": images, "test": images[:1]})
    assert table.rows == [("train", "3", "60", "5"), ("test", "1", "20", "0")]
    assert "4 x 5 pixels" in table.caption


def test_pairs_and_their_sources_are_counted() -> None:
    pairs = [(("a",), ("A",)), (("a",), ("B",)), (("a", "b"), ("A",)), (("a", "b"), ("A",))]
    _, data = translating.parts_of({"train": pairs, "test": pairs[:1]})
    assert translations.counts_of(data) == {"train": (4, 2), "test": (1, 1)}


@pytest.mark.long
def test_characters_are_counted() -> None:
    tokens = np.array([0, 1, 1, 0], np.int32)
    text = Text("abc", np.array([2, *tokens], np.int32), tokens, tokens[:3])
    model = model_of(LanguageConfig(hidden_size=2, embedding_size=2), 3)
    finished = Finished(model.init(jax.random.key(0)), {}, [], 0)
    (table,) = (each for each in writing.exhibits(model, text, finished) if isinstance(each, Table))
    assert table.rows == [("train", "5", "3"), ("valid", "4", "2"), ("test", "3", "2")]
    assert table.caption.startswith("The text has 12 characters, 3 different ones;")


@pytest.mark.parametrize("counts", [{}, {"train": ()}])
def test_nothing_to_count_is_an_empty_table(counts: dict[str, tuple[int, ...]]) -> None:
    assert data_table("", (), counts).columns == ("split",)
