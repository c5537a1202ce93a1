"""Read columns of numbers from a CSV file that a person or a spreadsheet has written."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.numbers import number_of
from experiments.harness.errors import UserError, did_you_mean
from experiments.harness.files import check_regular

LARGEST = 2**28  # bytes
LARGEST_VALUE = 1e100  # whose differences can be added up
MISSING = {"", "na", "n/a", "#n/a", "nan", "null", "none", "?"}
SEPARATORS = ",;\t"  # the first of those that make the most columns
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}([.,]\d{3})+")  # 1.000 or 1,000,000


class Columns(NamedTuple):
    """Hold columns of a file, row by row.

    Attributes:
      values: float64 [N, C]; NaN is missing.
      times: the words of the column of times [N]; none where there is no such column.
      lines: the line of each row, for messages [N].
      decimal: the decimal sign.
    """

    values: np.ndarray
    times: list[str]
    lines: list[int]
    decimal: str


def read_columns(file: Path, names: list[str], time: str = "", flag: str = "--csv: ") -> Columns:
    """Read columns by their names, which the first line has.

    Columns are separated by commas, semicolons or tabs; where semicolons or tabs separate, a number
    may have a decimal comma. An empty field, ``NA``, ``nan`` and the like are missing.

    Args:
      file: text in UTF-8, with or without a byte-order mark.
      names: of the columns of numbers.
      time: the name of the column of times; ``""`` for none.
      flag: what names the file, for messages.

    Raises:
      UserError: for a file that cannot be read, a column that is not there, a row with too few or
        too many fields, a text where a number is due, with its line and column, and for 1.000
        where that may be a thousand.
    """
    lines = text_of(file, flag).splitlines(keepends=True)
    head = next((line for line in lines if line.strip()), "")
    separator = max(SEPARATORS, key=lambda each: len(next(csv.reader([head], delimiter=each), [])))
    rows = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=separator)
    try:
        table = [(rows.line_num, row) for row in rows if any(word.strip() for word in row)]
    except csv.Error as error:
        raise UserError(f"{flag}{file}, line {rows.line_num}: {error}.") from error
    if len(table) < 2:
        raise UserError(f"{flag}{file}: expected a line of names and rows below it, got none.")
    return columns_of(f"{flag}{file}", table, names, time, separator)


def text_of(file: Path, flag: str) -> str:
    """Return what a file holds.

    Raises:
      UserError: for one that cannot be read, is too large, or holds no text.
    """
    check_regular(file, flag, LARGEST)
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{flag}{file} is no UTF-8 text: byte {error.start}; save it again as UTF-8."
        ) from error
    except OSError as error:
        raise UserError(f"{flag}{file} cannot be read: {error.strerror}.") from error
    if "\0" in text:
        raise UserError(f"{flag}{file} is no text: it holds a null character.")
    return text


def columns_of(
    where: str, table: list[tuple[int, list[str]]], names: list[str], time: str, separator: str
) -> Columns:
    """Return columns of a table whose first row has their names."""
    header = [word.strip() for word in table[0][1]]
    places = [place_of(name, header, where) for name in [*names, *([time] * bool(time))]]
    for line, row in table[1:]:
        if len(row) != len(header):
            raise UserError(
                f"{where}, line {line}: expected {len(header)} fields as in the first line, "
                f"got {len(row)}."
            )
    words = [row[place].strip() for _, row in table[1:] for place in places[: len(names)]]

    def spot(k: int) -> str:
        return f"{where}, line {table[1 + k // len(names)][0]}, column {names[k % len(names)]}"

    decimal = decimal_of(separator, words)
    if decimal == "," and (k := thousands_in(words)) is not None:
        raise UserError(
            f"{spot(k)}: {words[k]} may be a number of thousands or have a decimal dot; write "
            "numbers without a sign between thousands, or separate the columns by commas."
        )
    values = [value_of(word, decimal) for word in words]
    if None in values:
        k = values.index(None)
        raise UserError(f"{spot(k)}: expected a number, or nothing, got {words[k][:40]!r}.")
    return Columns(
        np.array(values, float).reshape(len(table) - 1, len(names)),
        [row[places[-1]].strip() for _, row in table[1:]] if time else [],
        [line for line, _ in table[1:]],
        decimal,
    )


def decimal_of(separator: str, words: Sequence[str]) -> str:
    r"""Return the decimal sign of a file's numbers.

    Between semicolons it is a comma, or a dot; between tabs a comma where numbers have commas, no
    dots, and not only groups of three digits after them.

    Example:
      >>> decimal_of(";", ["1"]), decimal_of("\t", ["0,5", "1,000"]), decimal_of("\t", ["1,000"])
      (',', ',', '.')
    """
    if separator != "\t":
        return "," if separator == ";" else "."
    commas = [word for word in words if "," in word]
    dots = any("." in word for word in words)
    return "," if commas and not dots and not all(map(GROUPED.fullmatch, commas)) else "."


def thousands_in(words: Sequence[str]) -> int | None:
    """Return the place of the first number with dots, where all dots may be between thousands.

    Example:
      >>> thousands_in(["900", "1.000"]), thousands_in(["0.5", "1.000"]), thousands_in(["900"])
      (1, None, None)
    """
    dotted = [k for k, word in enumerate(words) if "." in word]
    return dotted[0] if dotted and all(GROUPED.fullmatch(words[k]) for k in dotted) else None


def place_of(name: str, header: list[str], where: str) -> int:
    """Return where a column stands.

    Raises:
      UserError: where there is none of the name, or several.
    """
    count = header.count(name)
    if count == 1:
        return header.index(name)
    if count:
        raise UserError(f"{where}: expected one column {name!r}, got {count}; rename the others.")
    shown = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
    raise UserError(f"{where}: no column {name!r}; it has {shown}.{did_you_mean(name, header)}")


def value_of(word: str, decimal: str) -> float | None:
    """Return the number of a field, NaN where it is missing; None for another text."""
    if word.lower() in MISSING:
        return np.nan
    found = number_of(word, decimal)
    return None if found is None or abs(found) > LARGEST_VALUE else found
