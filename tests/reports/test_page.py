"""The page is one file: complete in itself, escaped, structured for readers who cannot see it, small enough to send."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tests.support.browser import browse
from vitrail.errors import StorageError
from vitrail.reports.confusion import draw_confusion
from vitrail.reports.figures import curves
from vitrail.reports.page import (
    MOST_ROWS,
    Facts,
    FigureSection,
    Gallery,
    Picture,
    TableSection,
    Text,
    thumbnail,
    write_page,
)
from vitrail.reports.tables import Column, Table

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and collects them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def photograph(seed: int, height: int = 300, width: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def sections():
    matrix = np.eye(10, dtype=int) * 30
    table = Table((Column("class"), Column("recall", "{:.1%}")), ((EVIL, 0.5), ("b", None)))
    return [
        Facts("Result", [("accuracy", "98.1%"), (EVIL, EVIL)], style="tiles"),
        Text("Words", f"One.\n\n{EVIL}"),
        FigureSection("Confusion", [draw_confusion(matrix, [EVIL, *"bcdefghij"])], note=EVIL),
        FigureSection("Curves", curves([])),
        TableSection("Classes", table),
        Gallery("Mistakes", [Picture(photograph(k), EVIL, "12% sure; is b", good=False) for k in range(24)]),
        Gallery("None", []),
    ]


@pytest.fixture
def page(tmp_path, sections):
    path = write_page(tmp_path / "report.html", EVIL, sections)
    return Page(path.read_text("utf-8"))


def test_nothing_is_fetched_from_anywhere(tmp_path, sections, page):
    text = (tmp_path / "report.html").read_text("utf-8")
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"base64,[\w+/=]+", "", text))
    assert "default-src 'none'" in text
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed")
        for name in ("src", "href", "xlink:href"):
            address = attributes.get(name)
            assert address is None or address.startswith(("data:image/", "#")), (tag, address)


def test_text_from_outside_stays_text(page):
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert page.text.count(EVIL) >= 5


def test_it_can_be_read_without_seeing_it(page):
    assert all(image["alt"] for image in page.all("img")) and len(page.all("img")) == 24
    drawings = [figure for figure in page.all("figure") if figure.get("role") == "img"]
    assert len(drawings) == 1 and all(figure["aria-label"] for figure in drawings)
    assert {heading["scope"] for heading in page.all("th")} == {"col", "row"}
    assert page.all("html")[0]["lang"] == "en" and len(page.all("h1")) == 1


def test_links_lead_to_the_sections_and_empty_sections_are_left_out(page):
    targets = [attributes["href"].removeprefix("#") for attributes in page.all("a")]
    assert targets == [section["id"] for section in page.all("section")] and len(targets) == 5
    assert "Curves" not in page.text and "None" not in page.text


def test_a_thousand_classes_and_photographs_stay_under_a_megabyte_and_a_half(tmp_path):
    classes = [f"a class with quite a long name {k}" for k in range(1200)]
    columns = (Column("class"), Column("images"), *(Column(name, "{:.2%}") for name in ("recall", "precision", "f1")))
    sections = [
        FigureSection("Confusion", [draw_confusion(np.random.default_rng(0).integers(0, 9, (1200, 1200)), classes)]),
        TableSection("Classes", Table(columns, tuple((name, 50, 0.5, 0.5, 0.5) for name in classes))),
        Gallery("Mistakes", [Picture(photograph(k), "a") for k in range(24)]),
    ]
    path = write_page(tmp_path / "report.html", "Large", sections)
    assert path.stat().st_size < 1_500_000
    page = Page(path.read_text("utf-8"))
    assert len(page.all("tr")) == MOST_ROWS + 1 and "200 more rows are not shown." in page.text


def test_tiny_pictures_keep_every_pixel_and_large_ones_shrink():
    digit = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4
    assert (np.asarray(opened(thumbnail(digit))) == digit[..., 0]).all()
    assert max(opened(thumbnail(photograph(0, 1000, 2000))).size) == 112


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.split("base64,")[1])))


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, sections):
    with pytest.raises(StorageError, match="File exists"):
        (tmp_path / "file").touch()
        write_page(tmp_path / "file" / "report.html", "Title", sections)
    path = tmp_path / "report.html"
    path.write_text("old")
    (tmp_path / ".report.html.part").mkdir()
    with pytest.raises(StorageError, match="Is a directory"):
        write_page(path, "Title", sections)
    assert path.read_text() == "old"


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs a browser")
def test_a_browser_runs_it_without_complaint(tmp_path, sections):
    path = write_page(tmp_path / "report.html", "Title", sections)
    done = browse(path)
    assert "CONSOLE" not in done.stderr
    assert '<button id="theme" type="button">' in done.stdout, "the switch of themes is shown by its script"
