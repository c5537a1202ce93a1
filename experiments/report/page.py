"""The page of a run: one HTML file that opens offline, wherever it is carried."""

import base64
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.harness.files import write_atomically

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TEMPLATE = "page.html.j2"


class Table(NamedTuple):
    """A table of texts: its heading, the names of its columns, and its rows."""

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_report(
    path: Path,
    *,
    title: str,
    question: str,
    headline: Sequence[tuple[str, str]],
    figures: Sequence[tuple[str, Path, str]],
    result: Mapping[str, object],
    config: Mapping[str, tuple[object, object, str]],
    commands: Mapping[str, str],
    tables: Sequence[Table] = (),
) -> None:
    """Writes a self-contained page, all of it or nothing.

    A reader of `path` sees the former page until the new one is complete. Any text may
    hold markup: it is shown, never obeyed.

    Args:
      path: The page; its folder exists.
      title: What was run.
      question: What the run was to answer.
      headline: The few numbers that answer it, as (label, value).
      figures: (heading, PNG file, caption); half its pixels is a picture's natural size.
      result: Name to final value.
      config: Name to (value, default, help); values that differ from the default stand out.
      commands: Heading to a command line, such as the one that repeats the run.
      tables: Shown before the figures.

    Raises:
      FileNotFoundError: If a picture does not exist.
      ValueError: If a picture is not a PNG file.
    """
    page = _render(
        title=title,
        question=question,
        headline=headline,
        figures=[_embed(*figure) for figure in figures],
        result=[(name, _text(value)) for name, value in result.items()],
        settings=[_setting(name, *entry) for name, entry in config.items()],
        commands=list(commands.items()),
        tables=tables,
    )
    write_atomically(path, page)


def _render(**values: object) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(values)


def _embed(heading: str, path: Path, caption: str) -> dict[str, object]:
    data = Path(path).read_bytes()
    if not data.startswith(PNG_SIGNATURE) or len(data) < 24:
        raise ValueError(f"Expected a PNG file at {path}: save the figure with the suffix .png.")
    width, height = struct.unpack(">II", data[16:24])
    return {
        "heading": heading,
        "caption": caption,
        "source": "data:image/png;base64," + base64.b64encode(data).decode("ascii"),
        "width": width // 2,
        "height": height // 2,
    }


def _setting(name: str, value: object, default: object, meaning: str) -> dict[str, object]:
    return {
        "name": name,
        "value": _text(value),
        "default": _text(default),
        "meaning": meaning,
        "changed": value != default and _text(value) != _text(default),
    }


def _text(value: object) -> str:
    return '""' if value == "" else str(value)
