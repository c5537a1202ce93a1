"""Write the page of a run: one HTML file that opens offline, wherever it is carried."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from experiments.harness.files import write_atomically
from experiments.harness.program import Exhibit
from experiments.report.exhibits import Embedded, save_all

TEMPLATE = "page.html.j2"
FORBIDDEN = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f]")  # what HTML may not hold
NEEDED = {"image": "img-src data:", "audio": "media-src data:"}


def write_report(
    path: Path,
    *,
    title: str,
    question: str,
    headline: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
    exhibits: Iterable[Exhibit],
    folder: Path,
    result: Mapping[str, object],
    config: Mapping[str, tuple[object, object, str]],
    commands: Mapping[str, str],
) -> None:
    """Write a self-contained page, all of it or nothing, and its exhibits as files.

    A reader of `path` sees the former page until the new one is complete. Any text may
    hold markup: it is shown, never obeyed.

    Args:
      path: the page; its folder exists.
      title: what was run.
      question: what the run was to answer.
      headline: the few numbers that answer it, as (label, value).
      notes: what a reader must know before these numbers are used, each a sentence that stands out.
      exhibits: shown in this order.
      folder: where the exhibits' files go; made if missing.
      result: name to final value.
      config: name to (value, default, help); values that differ from the default stand out.
      commands: heading to a command line, such as the one that repeats the run.

    Raises:
      ValueError: for an exhibit that cannot be saved; see `exhibits.save_all`.
    """
    shown = save_all(exhibits, folder)
    page = _render(
        title=title,
        policy=policy(shown),
        question=question,
        headline=headline,
        notes=notes,
        exhibits=shown,
        result=[(name, _text(value)) for name, value in result.items()],
        settings=[_setting(name, *entry) for name, entry in config.items()],
        commands=list(commands.items()),
    )
    write_atomically(path, page)


def policy(exhibits: Sequence[Embedded]) -> str:
    """Return the content security policy of a page: what its exhibits need, and no more."""
    kinds = {each.kind for each in exhibits}
    needed = [rule for kind, rule in NEEDED.items() if kind in kinds]
    return "; ".join(["default-src 'none'", *needed, "style-src 'unsafe-inline'"])


def _render(**values: object) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return FORBIDDEN.sub("\ufffd", environment.get_template(TEMPLATE).render(values))


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
