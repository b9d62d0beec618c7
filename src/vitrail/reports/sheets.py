"""Sheets of pictures as PNG files: answers of a model, and rows of one image as it changes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitrail.reports.figures import BAD, GOOD, choose_fonts, png, shorten, styled

ACROSS = 8
"""Pictures in a row of answers."""
PLAIN = "#222222"
Cell = tuple[str, UInt8[np.ndarray, "_ _ _"], str]
"""(words over the picture, one line or two; the picture; the colour of the words)."""


def prediction_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ _"]], titles: Sequence[str], correct: Sequence[bool], *, title: str = ""
) -> bytes:
    """Pictures with their answers; a mistake is marked by a cross and its colour. A title may have two lines."""
    cells = [
        (f"{'✓' if right else '✗'} {text}", image, GOOD if right else BAD)
        for image, text, right in zip(images, titles, correct, strict=True)
    ]
    return _draw([cells[at : at + ACROSS] for at in range(0, len(cells), ACROSS)] or [[]], title)


def picture_rows(
    rows: Sequence[tuple[str, Sequence[UInt8[np.ndarray, "_ _ _"]]]], headings: Sequence[str], *, title: str = ""
) -> bytes:
    """Rows of pictures, each with a name, under headings."""
    words = [*headings, *[""] * max(len(pictures) for _, pictures in rows)]
    cells = [
        [("" if row else word, picture, PLAIN) for word, picture in zip(words, pictures, strict=False)]
        for row, (_, pictures) in enumerate(rows)
    ]
    return _draw(cells, title, [name for name, _ in rows])


def _draw(rows: Sequence[Sequence[Cell]], title: str, names: Sequence[str] = ()) -> bytes:
    across, texts = max(1, *map(len, rows)), [text for row in rows for text, _, _ in row]
    high = 1.4 if names else 1.7 if any("\n" in text for text in texts) else 1.55
    size = (1.3 * across + 0.6 * bool(names), high * len(rows) + (0.5 if title else 0.2))
    with styled(size=size, rows=len(rows), columns=across, family=choose_fonts([*texts, *names, title])) as (
        figure,
        grid,
    ):
        cells = np.asarray(grid, dtype=object).reshape(len(rows), across)
        for axes in cells.ravel():
            axes.set(xticks=[], yticks=[])  # the layout would measure ticks that nothing shows
            axes.set_axis_off()
        for line, row in zip(cells, rows, strict=True):
            for axes, (text, picture, colour) in zip(line, row, strict=False):
                axes.imshow(_fitted(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
                words, weight = (
                    "\n".join(shorten(part, 22) for part in text.splitlines()),
                    "bold" if colour == BAD else "normal",
                )
                axes.set_title(words, color=colour, fontsize=8.5, pad=3, fontweight=weight)
        for axes, name in zip(cells[:, 0], names, strict=False):
            axes.text(
                -0.08, 0.5, shorten(name), transform=axes.transAxes, fontsize=8, rotation=90, ha="right", va="center"
            )
        if title:
            figure.suptitle(title, fontsize=11, color=PLAIN)
        return png(figure)


def _fitted(image: UInt8[np.ndarray, "H W C"], side: int = 192) -> np.ndarray:
    """The picture no larger than it will be drawn; grey ones without their channel."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((side, side))
    return np.asarray(picture)
