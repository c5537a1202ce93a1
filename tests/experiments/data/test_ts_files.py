"""Cases and series of the archives: what is read, what is refused, how cases are split anew."""

from pathlib import Path

import numpy as np
import pytest

from experiments.data import classified
from experiments.data.classified import as_arrays, held_out, resampled
from experiments.data.ts_files import Cases, read_ts, read_tsf
from experiments.harness.errors import UserError

HEAD = "# any words\n@problemName P\n@classLabel true a b\n@data\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "file"
    file.write_text(text)
    return file


def test_cases_have_their_channels_lengths_and_classes(tmp_path: Path) -> None:
    found = read_ts(written(tmp_path, HEAD + "1,2,?:-1.5e1,0,3:b\n\n7:8:a\n"))
    assert found.labels == ["b", "a"]
    np.testing.assert_array_equal(found.values[0], [[1, -15], [2, 0], [np.nan, 3]])
    np.testing.assert_array_equal(found.values[1], [[7, 8]])
    missing = read_ts(written(tmp_path, HEAD + "1,NaN,nan:?,5,6:b\n")).values[0]
    np.testing.assert_array_equal(missing, [[1, np.nan], [np.nan, 5], [np.nan, 6]])


def test_cases_without_classes_are_read(tmp_path: Path) -> None:
    found = read_ts(written(tmp_path, "@classLabel false\n@data\n1,2:3,4\n"))
    assert found.labels == [""]
    assert found.values[0].shape == (2, 2)


def test_series_have_their_names(tmp_path: Path) -> None:
    text = "@relation r\n@attribute n string\n@data\nT1:1971-01-01 00-00-00:1,?,3\nT2:4,5\n"
    first, second = read_tsf(written(tmp_path, text))
    assert (first.name, second.name) == ("T1", "T2")
    np.testing.assert_array_equal(first.values, [1, np.nan, 3])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a line @data"),
        (HEAD, "expected a line @data"),
        (HEAD + "1,x:a\n", "line 5: expected numbers separated by commas, got 'x'"),
        (HEAD + "1,2:3:a\n", "line 5: expected channels of one length and a class, got [2, 1]"),
        (HEAD + "a\n", "line 5: expected channels of one length and a class, got []"),
        (HEAD + "1:2:a\n3:a\n", "line 6: expected 2 channels as before, got 1"),
        (HEAD + "1,inf:a\n", "got 'inf'"),
        ("@timeStamps true\n@data\n(0,1):a\n", "time stamps"),
    ],
)
def test_what_is_no_file_of_cases_is_refused_with_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(UserError) as error:
        read_ts(written(tmp_path, text))
    assert words in str(error.value)


LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 0, 0, 1, 1, 1, 2])


def test_another_split_keeps_size_and_classes_and_is_that_of_the_archives() -> None:
    """The rule, class after class by one generator: shuffle, then cut where the first split did."""
    size = 8
    for seed in (1, 2, 30):
        first, rest = resampled(LABELS, size, seed)
        np.testing.assert_array_equal(
            np.bincount(LABELS[first]), np.bincount(LABELS[:size], minlength=3)
        )
        assert sorted([*first, *rest]) == [*range(len(LABELS))]
        source, expected = np.random.RandomState(seed), []
        for label in range(3):
            rows = [k for k, each in enumerate(LABELS) if each == label]
            source.shuffle(rows)
            expected += rows[: sum(each == label for each in LABELS[:size])]
        assert [*first] == expected
    assert [*resampled(LABELS, size, 1)[0]] != [*resampled(LABELS, size, 2)[0]]


def test_some_training_cases_of_each_class_are_held_out() -> None:
    rows = np.arange(12)
    fit, held = held_out(LABELS, rows, 0.34)
    assert sorted([*fit, *held]) == [*rows]
    assert set(LABELS[held]) == set(LABELS[fit]) == {0, 1, 2}
    assert np.bincount(LABELS[held]).tolist() == [2, 1, 1]
    with pytest.raises(UserError, match="two training cases or more of each class"):
        held_out(LABELS, np.array([0, 1, 3]), 0.1)


def test_cases_are_filled_up_with_nan() -> None:
    cases = Cases([np.ones((3, 1), np.float32), np.zeros((1, 1), np.float32)], ["b", "a"])
    found = as_arrays(cases, ["a", "b"])
    np.testing.assert_array_equal(found.values[..., 0], [[1, 1, 1], [0, np.nan, np.nan]])
    assert (found.lengths.tolist(), found.labels.tolist()) == ([3, 1], [1, 0])


def test_the_official_split_has_the_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.data.cache import data_dir

    if not (data_dir() / "time_series" / "JapaneseVowels_TRAIN.ts").exists():
        pytest.skip("the data set has not been downloaded")
    for resample in (0, 3):
        found = classified.load_classified("JapaneseVowels", resample, 0.1)
        counts = {name: len(each.labels) for name, each in found.splits.items()}
        assert counts == {"train": 243, "valid": 27, "test": 370}
        lengths = np.concatenate([each.lengths for each in found.splits.values()])
        assert (lengths.min(), lengths.max(), len(found.classes)) == (7, 29, 9)
