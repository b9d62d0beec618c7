"""One self-contained HTML file out of sections: light and dark, readable without scripts, nothing ever fetched."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import jinja2
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from vitrail.reports.figures import Drawing
from vitrail.reports.tables import Table
from vitrail.storage import write_whole

THUMBNAIL = 112  # pixels of the longer side
MOST_ROWS = 1000


@dataclass(frozen=True)
class Facts:
    """Short names with short values: "tiles" for the few that matter most, "list" for the rest."""

    title: str
    facts: Sequence[tuple[str, str]]
    style: str = "list"
    kind: str = "facts"


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines; plain text."""

    title: str
    text: str
    kind: str = "text"

    @property
    def paragraphs(self) -> list[str]:
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


def warning(text: str) -> list[Text]:
    """A section for the top of a page; none without a text."""
    return [Text("Warning", text)] if text else []


@dataclass(frozen=True)
class TableSection:
    """A table, its first column naming the row; a click on a heading sorts it. At most MOST_ROWS rows are written."""

    title: str
    table: Table
    note: str = ""
    kind: str = "table"

    def rows(self) -> Iterator[tuple[str, ...]]:
        yield from list(self.table.written())[:MOST_ROWS]

    @property
    def is_long(self) -> bool:
        """Whether it is a box that scrolls: no page of a person is longer."""
        return len(self.table.rows) > 100

    @property
    def left_out(self) -> int:
        return max(0, len(self.table.rows) - MOST_ROWS)


@dataclass(frozen=True)
class FigureSection:
    """Drawings side by side where there is room."""

    title: str
    drawings: Sequence[Drawing]
    note: str = ""
    kind: str = "figures"


@dataclass(frozen=True)
class Picture:
    """One image of a gallery with two lines under it; `good` False marks it as a mistake."""

    image: UInt8[np.ndarray, "H W C"]
    caption: str
    note: str = ""
    good: bool = True

    @property
    def source(self) -> str:
        return thumbnail(self.image)


@dataclass(frozen=True)
class Gallery:
    """Pictures in a grid."""

    title: str
    pictures: Sequence[Picture]
    note: str = ""
    kind: str = "gallery"


@dataclass(frozen=True)
class Html:
    """Markup of our own, with what script and style it needs: complete in itself, written into the page as it is."""

    title: str
    html: str
    note: str = ""
    kind: str = "html"


Section = Facts | Text | TableSection | FigureSection | Gallery | Html


def write_page(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes the page, whole or not at all, and gives its path. A disk that refuses is a StorageError."""
    write_whole(path, render(title, sections))
    return Path(path)


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML; empty sections are left out."""
    shown = [section for section in sections if not isinstance(section, FigureSection | Gallery) or _filled(section)]
    return template("vitrail.reports", "page").render(title=title, sections=shown, drawn=Markup)


def thumbnail(image: UInt8[np.ndarray, "H W C"]) -> str:
    """A picture as a data: address, at most THUMBNAIL pixels wide and high; tiny ones keep their every pixel."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_address(picture, "png" if max(picture.size) <= 64 else "jpeg")


def data_address(picture: Image.Image, kind: Literal["png", "jpeg"]) -> str:
    """A picture as a data: address, so that a page needs no other file."""
    file = io.BytesIO()
    picture.save(file, kind, **({"optimize": True} if kind == "png" else {"quality": 82}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _filled(section: FigureSection | Gallery) -> bool:
    return bool(section.drawings if isinstance(section, FigureSection) else section.pictures)


@cache
def template(package: str, name: str) -> jinja2.Template:
    """The file `name`.html.jinja of a package, as a template that escapes what it is given."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(files(package).joinpath(f"{name}.html.jinja").read_text("utf-8"))
