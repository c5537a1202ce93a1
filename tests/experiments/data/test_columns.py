"""CSV files as people write them: columns of numbers, and times on a grid."""

from pathlib import Path

import numpy as np
import pytest

from experiments.data.columns import read_columns
from experiments.data.forecast import Panel, continued, load_csv
from experiments.data.times import ROWS, Grid, gridded, seconds_of
from experiments.harness.errors import UserError


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    file = folder / "file.csv"
    file.write_bytes(text.encode(encoding))
    return file


@pytest.mark.parametrize(
    "text",
    [
        "t,a,b\n1,1.5,7\n2,,-8e0\n",
        "t;a;b\r\n1;1,5;7\r\n2;NA;-8\r\n",
        "t\ta\tb\n\n1\t1.5\t7\n2\tnan\t-8\n\n",
        '"t","a","b"\n1,"1.5",7\n2,"?",-8\n',
        't,"a","b, with c","x;y;z"\n1,1.5,9,9\n2,null,9,9\n'.replace('"b, with c"', "b"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_columns_are_read_in_the_usual_forms(tmp_path: Path, text: str, encoding: str) -> None:
    found = read_columns(written(tmp_path, text, encoding), ["a"], "t")
    np.testing.assert_array_equal(found.values[:, 0], [1.5, np.nan])
    assert found.times == ["1", "2"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a line of names and rows"),
        ("a,b\n", "expected a line of names and rows"),
        ("a,b\n1,2\nx,3\n", "line 3, column a: expected a number, or nothing, got 'x'"),
        ("a,b\n1_0,3\n", "line 2, column a"),
        ("a,b\ninf,3\n", "line 2, column a"),
        ("a,b\n1\n", "line 2: expected 2 fields as in the first line, got 1"),
        ("a,b\n1,2,3\n", "line 2: expected 2 fields as in the first line, got 3"),
        ("load,b\n1,2\n", "no column 'a'; it has load, b."),
        ("a,a\n1,2\n", "expected one column 'a', got 2"),
        ("a,b\n1,\0\n", "null character"),
        ('a,b\n"1,2\n', "line 2"),
    ],
)
def test_what_cannot_be_read_is_refused_with_line_and_column(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(UserError) as error:
        read_columns(written(tmp_path, text), ["a"])
    assert words in str(error.value)


def test_a_misspelt_column_has_a_suggestion_and_other_bytes_are_no_text(tmp_path: Path) -> None:
    file = written(tmp_path, "price,date\n1,2\n")
    with pytest.raises(UserError, match='Did you mean "price"'):
        read_columns(file, ["prise"])
    file.write_bytes(b"a\n\xff\xfe\n")
    with pytest.raises(UserError, match="no UTF-8 text: byte 2"):
        read_columns(file, ["a"])
    with pytest.raises(UserError, match=r"--csv: .* cannot be read: No such file"):
        read_columns(tmp_path / "none.csv", ["a"])


def grid(*words: str):
    return gridded([*words], [*range(2, len(words) + 2)], "file, column t")


@pytest.mark.parametrize(
    ("words", "season", "next_words"),
    [
        (["2024-01-01 22:00", "2024-01-01 23:00", "2024-01-02 00:00"], 24, "2024-01-02 01:00"),
        (["2024-02-27", "2024-02-28", "2024-02-29"], 7, "2024-03-01"),
        (["2024-01-01", "2024-01-08", "2024-01-15"], 52, "2024-01-22"),
        (["2023-11-01", "2023-12-01", "2024-01-01"], 12, "2024-02-01"),
        (["2023-11-30", "2023-12-31", "2024-01-31"], 12, "2024-02-29"),
        (["2023-10", "2023-11", "2023-12"], 12, "2024-01"),
        (["2023-03-15", "2023-06-15", "2023-09-15"], 4, "2023-12-15"),
        (["1990", "1991", "1992"], 1, "1993"),
        (["0.5", "1", "1.5"], 1, "2"),
        (["2020-01-01", "2021-01-01", "2022-01-01"], 1, "2023-01-01"),
        (["1999-07", "1999-10", "2000-01"], 4, "2000-04"),
    ],
)
def test_the_spacing_of_times_gives_season_and_next_time(
    words: list[str], season: int, next_words: str
) -> None:
    found, steps, said = grid(*words)
    assert steps.tolist() == [0, 1, 2]
    assert not said
    assert found.season == season
    assert found.text(3) == next_words
    assert [found.text(k) for k in range(3)] == words


@pytest.mark.parametrize(
    ("words", "season", "next_words", "first"),
    [
        (["20240228", "20240229", "20240301"], 7, "2024-03-02", "2024-02-28"),
        (["20231130", "20231231", "20240131"], 12, "2024-02-29", "2023-11-30"),
        (["202311", "202312", "202401"], 12, "2024-02", "2023-11"),
    ],
)
def test_dates_without_signs_are_dates_which_is_said(
    words: list[str], season: int, next_words: str, first: str
) -> None:
    found, steps, said = grid(*words)
    assert steps.tolist() == [0, 1, 2]
    assert said == [f"file, column t: {words[0]} and the like are read as dates, not as numbers."]
    assert (found.season, found.text(3), found.text(0)) == (season, next_words, first)


@pytest.mark.parametrize(
    ("words", "season", "shown"),
    [
        (["1999Q4", "2000Q1", "2000Q2"], 4, ["1999-10", "2000-01", "2000-07"]),
        (["1999 Q4", "2000-Q1", "2000 Q2"], 4, ["1999-10", "2000-01", "2000-07"]),
        # the last weekday of each month, and the first
        (["2024-02-29", "2024-03-29", "2024-04-30"], 12, ["2024-02", "2024-03", "2024-05"]),
        (["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"], 12,
         ["2024-01-01", "2024-02-01", "2024-04-01"]),
        (["2023-12-01", "2024-01-02", "2024-02-01"], 12, ["2023-12", "2024-01", "2024-03"]),
    ],
)  # fmt: skip
def test_dates_of_months_and_quarters_stand_on_them(
    words: list[str], season: int, shown: list[str]
) -> None:
    found, steps, said = grid(*words)
    assert steps.tolist() == [*range(len(words))]
    assert not said
    assert (found.unit, found.season) == ("month", season)
    assert [found.text(k) for k in (0, 1, 3)] == shown


def test_dates_every_35_days_or_so_are_no_months() -> None:
    assert grid("2024-01-01", "2024-02-05", "2024-03-11", "2024-04-15")[0].unit == "second"


@pytest.mark.parametrize("form", ["%s", "%s000"], ids=["seconds", "thousandths"])
def test_seconds_since_1970_are_times_which_is_said(form: str) -> None:
    words = [form % (1704067200 + 3600 * k) for k in range(3)]
    found, steps, said = grid(*words)
    assert (found.season, steps.tolist()) == (24, [0, 1, 2])
    assert found.text(3) == "2024-01-01 03:00:00"
    assert said == [f"file, column t: {words[0]} and the like are read as seconds since 1970."]
    assert grid("100", "200", "300")[0].unit == "number"


def business_days(first: str, count: int) -> list[str]:
    days = np.busday_offset(first, np.arange(count), roll="forward")
    return [str(day) for day in days]


def test_a_step_leads_from_friday_to_monday_where_no_row_is_of_a_weekend() -> None:
    words = business_days("1969-12-25", 40)
    del words[20]  # a holiday
    found, steps, said = grid(*words)
    assert (found.unit, found.season) == ("weekday", 5)
    assert [found.text(k) for k in range(45)] == business_days("1969-12-25", 45)
    assert steps.tolist() == [*range(20), *range(21, 40)]
    assert "no row is of a weekend; steps lead from Friday to Monday" in said[0]
    assert "1 step has no row, and counts as missing" in said[1]
    assert grid(*words[:8])[0].unit == "second"  # one weekend is a gap
    assert grid(*words, "1970-02-28")[0].unit == "second"  # a Saturday


def test_one_time_of_day_by_the_local_clock_is_a_day_in_summer_too() -> None:
    zones = ["+01:00", "+01:00", "+02:00", "+02:00"]
    words = [f"2024-03-{29 + k}T08:00{zone}" for k, zone in enumerate(zones[:3])]
    found, steps, said = grid(*words, "2024-04-01T08:00+02:00")
    assert (found.season, steps.tolist()) == (7, [0, 1, 2, 3])
    assert found.text(4) == "2024-04-02 08:00:00"
    assert said == ["file, column t: times of other zones are shown by their own clocks."]
    summer = ["2024-07-01T08:00+02:00", "2024-07-02T08:00+02:00"]  # of one zone by themselves
    assert gridded(summer, [2, 3], "file, column t", found)[1].tolist() == [94, 95]
    hours = ["2024-03-31T01:00+01:00", "2024-03-31T03:00+02:00", "2024-03-31T04:00+02:00"]
    found, steps, said = grid(*hours)
    assert (found.season, steps.tolist()) == (24, [0, 1, 2])
    assert "shown in UTC" in said[0]
    noon = gridded(["2024-03-31T12:00+02:00"], [2], "file, column t", found)[1]
    assert noon.tolist() == [10]  # UTC, as on the grid, also where it stands alone


def test_rows_that_were_steps_in_training_are_steps_which_is_said() -> None:
    found, steps, said = gridded(["3", "1", "2"], [2, 3, 4], "file, column t", ROWS)
    assert (found, steps.tolist()) == (ROWS, [2, 0, 1])
    assert "rows are steps, as in training" in said[-1]


def test_times_stand_on_the_grid_that_is_given_or_are_refused() -> None:
    first = grid("2024-01-01", "2024-01-02", "2024-01-03")[0]

    def on(*words: str) -> list[int]:
        lines = [*range(2, len(words) + 2)]
        return gridded([*words], lines, "file, column t", first)[1].tolist()

    assert on("2024-01-06") == [5]
    assert on("2023-12-31", "2024-01-02") == [-1, 1]
    with pytest.raises(UserError, match="a step is 3600 second, but was 86400 second in training"):
        on("2024-01-01 00:00", "2024-01-01 01:00")
    for words in (["2024-01-06 12:00"], ["2024-01-06 12:00", "2024-01-07 12:00"]):
        with pytest.raises(UserError, match="a whole number of steps from 2024-01-01"):
            on(*words)


@pytest.mark.parametrize("words", [["20240228", "20240229", "20240230"], ["202411", "202413"]])
def test_numbers_that_are_not_all_dates_are_numbers(words: list[str]) -> None:
    assert grid(*words)[0].unit == "number"


def test_times_of_a_zone_are_shown_in_utc_which_is_said() -> None:
    found, _, said = grid("2024-03-01T00:00+01:00", "2024-03-01T01:00+01:00")
    assert found.text(0) == "2024-02-29 23:00:00"
    assert said == ["file, column t: times of other zones are shown in UTC."]
    assert not grid("2024-03-01T00:00Z", "2024-03-01T01:00+00:00")[2]


def test_gaps_are_missing_steps_and_rows_are_sorted_which_is_said() -> None:
    _, steps, said = grid("2024-01-05", "2024-01-01", "2024-01-02", "2024-01-03")
    assert steps.tolist() == [4, 0, 1, 2]
    assert len(said) == 2
    assert "sorted by time" in said[0]
    assert "1 step has no row, and counts as missing" in said[1]


def test_uneven_times_count_as_rows_in_their_order_which_is_said() -> None:
    found, steps, said = grid("10", "0", "1.7", "3")
    assert found == ROWS
    assert steps.tolist() == [3, 0, 1, 2]
    assert "not evenly spaced" in said[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1", "2", "1"], "'1' stands in lines 2 and 4; give each time once, and one series"),
        (["2024-01-01T00:00Z", "2024-01-01T01:00+01:00"], "stands in lines 2 and 3"),
        (["2024-01-01", "soon"], "line 3: expected a date such as 2024-01-31"),
        (["2024-01-01", "5"], "line 3"),
        (["2024-01-01", ""], "line 3"),
        (["0", "1", "2", "1e6"], "leave most of it empty"),
    ],
)
def test_times_that_cannot_be_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        grid(*words)
    assert said in str(error.value)


def test_dates_without_a_zone_are_utc() -> None:
    assert seconds_of("2024-01-01T12:00") == seconds_of("2024-01-01 14:00+02:00")
    assert seconds_of("1.1.2024") is None


def test_a_series_has_its_covariates_and_its_gaps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, "d,y,x\n2024-01-04,4,40\n2024-01-01,1,10\n2024-01-02,,20\n")
    panel = load_csv(str(file), "y", "d", "x", horizon=1)
    np.testing.assert_array_equal(
        panel.values[0], [[1, 10], [np.nan, 20], [np.nan, np.nan], [4, 40]]
    )
    assert panel.season == 7
    out, err = capsys.readouterr()
    assert out == ""
    assert "sorted by time" in err
    assert "1 step has no row, and counts as missing" in err
    assert load_csv(str(file), "y", "d", horizon=1, season=3).season == 3
    for columns in (("", "d"), ("y", "y"), ("y", "d", "x,y")):
        with pytest.raises(UserError, match="--target"):
            load_csv(str(file), *columns, horizon=1)


def days(first: int, values: list[float]) -> Panel:
    columns = np.array(values, float)[:, None]
    return Panel(["y"], [columns], 1, 7, Grid("second", first * 86400.0, 86400.0))


def test_rows_that_follow_those_of_training_continue_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, nan = days(10, [1, 2, 3, 4]), float("nan")
    for after, expected, read in (
        (days(14, [5]), [1, 2, 3, 4, 5], 4),
        (days(15, [6, 7]), [1, 2, 3, 4, nan, 6, 7], 4),
        (days(12, [3, 4, 5]), [1, 2, 3, 4, 5], 2),
        (days(12, [nan, 4, 5]), [1, 2, nan, 4, 5], 2),
        (days(11, [2, 3]), [1, 2, 3], 1),
    ):
        found = continued(before, after)
        np.testing.assert_array_equal(found.values[0][:, 0], expected)
        assert found.grid == before.grid
        assert f"the {read} steps of training before " in capsys.readouterr().err
    others = days(12, [8, 9]), days(10, [1, 2]), days(8, [0, 0, 1])
    for after in (*others, days(14, [5])._replace(grid=ROWS)):
        assert continued(before._replace(grid=after.grid), after) is after
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("y;z\n1,5;1.5\n", [1.5, 1.5]),
        ("y;z\n1.000;0.5\n", [1.0, 0.5]),  # 0.5 tells that dots are decimal
        ("y;z\n0.250;1.000\n", [0.25, 1.0]),
        ("y\tz\n1,5\t2\n", [1.5, 2.0]),
        ("y\tz\n1.000\t2\n", [1.0, 2.0]),
        ("y,z\n1.000,2\n", [1.0, 2.0]),
    ],
)
def test_decimal_signs_are_those_that_the_separator_and_other_numbers_tell(
    tmp_path: Path, text: str, found: list[float]
) -> None:
    assert read_columns(written(tmp_path, text), ["y", "z"]).values.tolist() == [found]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("y;z\n900;1\n1.000;2\n", "line 3, column y: 1.000 may be a number of thousands"),
        ("y;z\n1.000;1,5\n", "line 2, column y: 1.000 may be a number of thousands"),
        ("y;z\n-1.000.000;1\n", "line 2, column y: -1.000.000 may be"),
        ("y\tz\n1,000\t2\n", "line 2, column y: expected a number, or nothing, got '1,000'"),
        ("y\tz\n1,5\t2.5\n", "line 2, column y: expected a number, or nothing, got '1,5'"),
    ],
)
def test_numbers_that_may_be_thousands_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        read_columns(written(tmp_path, text), ["y", "z"])
    assert said in str(error.value)
