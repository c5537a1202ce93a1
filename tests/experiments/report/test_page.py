"""The page is parsed as a browser would: what it shows, what it loads, what it obeys."""

import base64
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest

from experiments.harness.program import Figure, Text
from experiments.report.page import write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags with their attributes, and the text inside each kind of tag."""

    def __init__(self, path: Path):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.cells: list[tuple[str, str]] = []
        self.feed(path.read_text("utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open:
            self.cells.append((self.open[-1], data.strip()))

    def texts(self, tag: str) -> list[str]:
        return [text for name, text in self.cells if name == tag]


def drawn(name: str, heading: str, caption: str) -> Figure:
    return Figure(name, heading, caption, matplotlib.figure.Figure((3, 2), dpi=100))


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    return {
        "title": "sequential_digits",
        "question": "Can it read?",
        "headline": [("test accuracy", "98.1 %"), ("parameters", "19,338")],
        "notes": ["The best is the largest that was tried."],
        "exhibits": [drawn("curves", "Learning curves", "After each evaluation.")],
        "folder": tmp_path / "figures",
        "result": {"test_accuracy": 0.98125, "seed": 0, "best": None},
        "config": {
            "cell": ("gru", "lstm", "The recurrent cell."),
            "hidden_size": (64, 64, "Hidden features."),
            "name": ("", "", "Name of the run."),
            "clip": (float("nan"), float("nan"), "Largest norm."),
            "rate": (1.0, 1, "Learning rate."),
        },
        "commands": {"Run it again": "./launch.sh sequential_digits --cell=gru"},
    }


def test_everything_given_is_on_the_page(tmp_path: Path, content: dict[str, Any]):
    write_report(tmp_path / "report.html", **content)
    page = Page(tmp_path / "report.html")
    assert page.open == []
    assert page.texts("h1") == page.texts("title") == ["sequential_digits"]
    assert list(zip(page.texts("dt"), page.texts("dd"), strict=True)) == content["headline"]
    assert page.texts("h3") == ["Learning curves"]
    text = (tmp_path / "report.html").read_text()
    positions = [text.index(each) for each in ("Can it read?", content["notes"][0], "98.1 %")]
    assert positions == sorted(positions)
    assert page.texts("figcaption") == ["After each evaluation."]
    assert page.texts("pre") == ["./launch.sh sequential_digits --cell=gru"]
    assert page.texts("td") == [
        *("gru", "lstm", "The recurrent cell."),
        *("64", "64", "Hidden features."),
        *('""', '""', "Name of the run."),
        *("nan", "nan", "Largest norm."),
        *("1.0", "1", "Learning rate."),
        *("0.98125", "0", "None"),
    ]


def test_only_settings_that_differ_are_highlighted(tmp_path: Path, content: dict[str, Any]):
    write_report(tmp_path / "report.html", **content)
    page = Page(tmp_path / "report.html")
    rows = [attributes.get("class") for tag, attributes in page.tags if tag == "tr"]
    assert rows[:6] == [None, "changed", None, None, None, None]
    assert "1 of 5 differ from the default; they are highlighted." in page.texts("p")


def test_a_page_says_that_all_settings_are_at_their_defaults(
    tmp_path: Path, content: dict[str, Any]
):
    content["config"] = {"seed": (0, 0, "Seed.")}
    write_report(tmp_path / "report.html", **content)
    assert "All 1 are at their defaults." in Page(tmp_path / "report.html").texts("p")


def test_a_figure_is_inside_at_half_its_pixels(tmp_path: Path, content: dict[str, Any]):
    write_report(tmp_path / "report.html", **content)
    (image,) = [a for tag, a in Page(tmp_path / "report.html").tags if tag == "img"]
    head, _, data = (image["src"] or "").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == (tmp_path / "figures/curves.png").read_bytes()
    assert (image["width"], image["height"]) == ("150", "100")


def test_the_page_loads_nothing(tmp_path: Path, content: dict[str, Any]):
    write_report(tmp_path / "report.html", **content)
    page = Page(tmp_path / "report.html")
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {t for t, _ in page.tags}
    loaded = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "data", "action", "poster"}
    ]
    assert len(loaded) == 1
    assert loaded[0].startswith("data:image/png;base64,")
    (style,) = ["".join(page.texts("style"))]
    assert "url(" not in style
    assert "@import" not in style
    assert "{" in style


HOSTILE = "</pre></title><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;{{ 7*7 }}"


def test_hostile_text_is_shown_and_not_obeyed(tmp_path: Path):
    write_report(
        tmp_path / "report.html",
        title=HOSTILE,
        question=HOSTILE,
        headline=[(HOSTILE, HOSTILE)],
        notes=[HOSTILE],
        exhibits=[drawn("curves", HOSTILE, HOSTILE)],
        folder=tmp_path / "figures",
        result={HOSTILE: HOSTILE},
        config={HOSTILE: (HOSTILE, "calm", HOSTILE)},
        commands={"Run it again": HOSTILE},
    )
    page = Page(tmp_path / "report.html")
    assert "script" not in {tag for tag, _ in page.tags}
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == HOSTILE
    assert "onerror" not in image
    assert page.texts("p").count(HOSTILE) == 2
    for tag in ("title", "h1", "dt", "dd", "h3", "figcaption", "pre", "code"):
        assert HOSTILE in page.texts(tag)


def test_a_command_that_is_not_unicode_is_still_written(tmp_path: Path, content: dict[str, Any]):
    content["commands"] = {"Run it again": os.fsdecode(b"./launch.sh --workdir=\xff")}
    write_report(tmp_path / "report.html", **content)
    assert Page(tmp_path / "report.html").texts("pre") == [r"./launch.sh --workdir=\udcff"]


def test_a_page_holds_no_character_that_html_forbids(tmp_path: Path, content: dict[str, Any]):
    path = tmp_path / "report.html"
    text = Text("odd", "Odd", "", "a\x00b\x1b\tc\n\x9f")
    content["exhibits"] = [text]
    write_report(path, **content)
    assert "a\ufffdb\ufffd\tc\n\ufffd" in path.read_text("utf-8")


def test_a_page_without_figures_or_headline(tmp_path: Path, content: dict[str, Any]):
    content.update(exhibits=[], headline=[])
    write_report(tmp_path / "report.html", **content)
    page = Page(tmp_path / "report.html")
    assert page.texts("h2") == ["Run it again", "Settings", "All results"]


def test_a_failed_replacement_leaves_the_former_page_alone(
    tmp_path: Path, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "report.html"
    path.write_text("former")
    complete: list[bool] = []

    def fail(source: Path, target: Path) -> None:
        complete.append(Path(source).read_text().rstrip().endswith("</html>"))
        assert Path(target) == path
        assert Path(source).parent == folder
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, **content)
    assert complete == [True]
    assert path.read_text() == "former"
    assert os.listdir(folder) == ["report.html"]


def test_a_page_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path, content: dict[str, Any]):
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "report.html"
    path.write_text("former")
    with path.open() as reader:
        write_report(path, **content)
        assert reader.read() == "former"
    assert Page(path).texts("h1") == ["sequential_digits"]
    assert os.listdir(folder) == ["report.html"]


def test_an_exhibit_that_cannot_be_saved_leaves_the_former_page_alone(
    tmp_path: Path, content: dict[str, Any]
):
    path = tmp_path / "report.html"
    path.write_text("former")
    content["exhibits"] = [drawn("../lost", "Lost", "")]
    with pytest.raises(ValueError, match="expected a name of letters"):
        write_report(path, **content)
    assert path.read_text() == "former"
