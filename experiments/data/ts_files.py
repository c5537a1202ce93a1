"""Read the text files of the archives of time series: cases with a class, and series to forecast.

Lines that begin with ``#`` are comments; those that begin with ``@`` say what the file holds, up to
``@data``. Then comes one case a line, its parts separated by colons.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.numbers import number_of
from experiments.harness.errors import UserError
from experiments.harness.files import check_regular

LARGEST = 2**28  # bytes
MISSING = {"?", "nan"}  # in lower case


class Cases(NamedTuple):
    """Hold series of one or several channels, each with its class.

    Attributes:
      values: of each case, float32 [T, D]; NaN is missing.
      labels: the class of each case, a word; empty where the file has none.
    """

    values: list[np.ndarray]
    labels: list[str]


class Named(NamedTuple):
    """Hold a series to forecast: its name, and float64 [T]; NaN is missing."""

    name: str
    values: np.ndarray


def read_ts(file: Path) -> Cases:
    """Read the cases of a ``.ts`` file: channels separated by colons, the class last.

    Raises:
      UserError: for what is no such file, with the line.
    """
    header, rows = lines_of(file)
    if header.get("timestamps", "false").lower() == "true":
        raise UserError(f"{file}: values with time stamps cannot be read; write values alone.")
    classified = header.get("classlabel", "true").lower().startswith("true")
    values, labels = [], []
    for where, line in rows:
        channels = line.split(":")
        labels.append(channels.pop().strip() if classified else "")
        values.append(stacked([numbers_of(each, where) for each in channels], where))
        if values[-1].shape[1] != values[0].shape[1]:
            expected, got = values[0].shape[1], values[-1].shape[1]
            raise UserError(f"{where}: expected {expected} channels as before, got {got}.")
    return Cases(values, labels)


def read_tsf(file: Path) -> list[Named]:
    """Read the series of a ``.tsf`` file: their attributes, the name first, then their values.

    Raises:
      UserError: for what is no such file, with the line.
    """
    series = []
    for where, line in lines_of(file)[1]:
        *attributes, values = line.split(":")
        name = attributes[0].strip() if attributes else f"T{len(series) + 1}"
        series.append(Named(name, numbers_of(values, where)))
    return series


def lines_of(file: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return what a file says of itself, and the lines of its data, each with its place.

    Raises:
      UserError: for a file that cannot be read, or has no data.
    """
    check_regular(file, most_bytes=LARGEST)
    try:
        lines = file.read_text("utf-8", errors="replace").split("\n")  # comments in any encoding
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    header, rows, begun = {}, [], False
    for number, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("@") and not begun:
            word, _, rest = line[1:].partition(" ")
            begun = word.lower() == "data"
            header[word.lower()] = rest.strip()
        elif begun:
            rows.append((f"{file}, line {number}", line))
    if not rows:
        raise UserError(f"{file}: expected a line @data and cases below it, got none.")
    return header, rows


def numbers_of(text: str, where: str) -> np.ndarray:
    """Return the numbers of a text, separated by commas, as float64 [T]; NaN is missing.

    Raises:
      UserError: for another text, and for none.
    """
    words = [word.strip() for word in text.split(",")]
    found = [np.nan if word.lower() in MISSING else number_of(word) for word in words]
    for word, value in zip(words, found, strict=True):
        if value is None:
            raise UserError(f"{where}: expected numbers separated by commas, got {word[:40]!r}.")
    return np.array(found, float)


def stacked(channels: list[np.ndarray], where: str) -> np.ndarray:
    """Return the channels of a case as float32 [T, D].

    Raises:
      UserError: where there are none, or they differ in length.
    """
    if len({len(each) for each in channels}) != 1:
        lengths = [len(each) for each in channels]
        raise UserError(f"{where}: expected channels of one length and a class, got {lengths}.")
    return np.stack(channels, axis=1).astype(np.float32)
