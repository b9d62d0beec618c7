"""Figures of the inspection: each is drawn once and comes as a drawing for the page, an SVG file and a PNG file."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from vitrail.inspection.heads import Heads
from vitrail.reports.figures import GOOD, INK, Drawing, choose_fonts, png, styled, svg

Pixels = UInt8[np.ndarray, "H W C"]
Rgb = UInt8[np.ndarray, "_ _ 3"]
HEAT = matplotlib.colormaps["inferno"]
MAP = "viridis"
SIDE = 168
"""Pixels of the longer side of a picture in a figure."""


@dataclass(frozen=True)
class Plate:
    """One figure: `name` is the stem of its files."""

    name: str
    drawing: Drawing
    png: bytes


def finish(figure: Figure, name: str, alt: str, caption: str = "", *, wide: bool = False) -> Plate:
    """The plate of a figure; a wide one has the whole width of the page."""
    return Plate(name, Drawing(svg(figure), alt, caption, wide), png(figure))


def overlay(image: Pixels, values: Float[Tensor, "h w"]) -> Rgb:
    """The picture with a map laid over it: bright where the map is high, dark and grey where it is low."""
    height, width = image.shape[:2]
    heat = values.double() / values.double().max().clamp_min(1e-30)
    smooth = np.asarray(
        Image.fromarray(heat.numpy().astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    )
    smooth = np.clip(smooth, 0, 1)[..., None]
    grey = as_rgb(image).mean(-1, keepdims=True)
    colour = HEAT(smooth[..., 0])[..., :3] * 255
    return np.clip(0.45 * grey + 0.65 * colour * (0.25 + 0.75 * smooth), 0, 255).astype(np.uint8)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """H × W × 3 of any number of channels: one or two are shown grey, of more than three the first three."""
    if image.ndim == 2:
        image = image[..., None]
    shown = image[..., :1] if image.shape[2] < 3 else image[..., :3]
    return np.ascontiguousarray(np.broadcast_to(shown, (*image.shape[:2], 3)))


def shrink(image: Pixels, side: int = SIDE) -> Rgb:
    """No larger than `side`, in three channels; tiny pictures keep their every pixel."""
    picture = Image.fromarray(as_rgb(image))
    picture.thumbnail((side, side))
    return np.asarray(picture)


def sheet(name: str, rows: Sequence[Sequence[tuple[str, np.ndarray]]], alt: str, caption: str = "") -> Plate:
    """Pictures in rows, a few words over each; rows may differ in length. All pixels are one image, gaps see-through."""
    cells = [[(title, enlarge(picture)) for title, picture in row] for row in rows]
    heights, widths = zip(*(picture.shape[:2] for row in cells for _, picture in row), strict=True)
    height, width, head = max(heights) + 22, max(widths) + 8, 18
    canvas = np.zeros((height * len(rows), width * max(map(len, rows)), 4), np.uint8)
    fonts = choose_fonts(title for row in cells for title, _ in row)
    with styled(size=(canvas.shape[1] / 128, canvas.shape[0] / 128), family=fonts) as (figure, axes):
        figure.set_layout_engine("none")
        axes.set_position((0, 0, 1, 1))
        axes.set_axis_off()
        for top, row in enumerate(cells):
            for left, (title, picture) in enumerate(row):
                y, x = top * height + head, left * width + 4
                canvas[y : y + picture.shape[0], x : x + picture.shape[1], :3] = picture
                canvas[y : y + picture.shape[0], x : x + picture.shape[1], 3] = 255
                axes.text(x + picture.shape[1] / 2, y - 5, title, fontsize=7.5, ha="center", va="baseline")
        axes.imshow(canvas, interpolation="none", aspect="auto")
        return finish(figure, name, alt, caption, wide=len(max(rows, key=len)) > 3)


def enlarge(picture: np.ndarray, side: int = SIDE) -> Rgb:
    """Three channels of 8 bits; small pictures by a whole factor larger. Floats are colours from 0 to 1."""
    pixels = picture if picture.dtype == np.uint8 else np.clip(picture * 255, 0, 255).astype(np.uint8)
    factor = max(1, side // max(pixels.shape[:2]))
    return as_rgb(pixels).repeat(factor, 0).repeat(factor, 1)


def by_depth(
    name: str, layers: Sequence[Heads], what: str, label: str, *, title: str, most: float | None = None
) -> Plate:
    """Each head of each layer as a dot: the paper's figure 7 (right) and 11, and its like for other numbers."""
    with styled(size=(4.8, 3.4)) as (figure, axes):
        for layer in layers:
            values = getattr(layer, what).mean(0).tolist()
            axes.plot([layer.layer] * len(values), values, "o", color=GOOD, alpha=0.55, markersize=4, markeredgewidth=0)
        means = [float(getattr(layer, what).mean()) for layer in layers]
        axes.plot(
            [layer.layer for layer in layers], means, color=INK, linewidth=1, alpha=0.7, label="mean of the heads"
        )
        axes.set(xlabel="layer", ylabel=label, title=title)
        axes.set_ylim(0, most)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
        axes.legend()
        trend = f"{label} by layer, mean of the heads: " + ", ".join(f"{mean:.3g}" for mean in means)
        return finish(figure, name, f"{title}. {trend}.")


def matrix(
    name: str, values: Float[Tensor, "m n"], rows: Sequence[str], columns: Sequence[str], *, title: str, alt: str
) -> Plate:
    """A matrix of cosines or alignments in colour, with a scale beside it."""
    with styled(size=(5.0, 4.4)) as (figure, axes):
        drawn = axes.imshow(
            values.numpy(), cmap=MAP, vmin=min(0.0, float(values.min())), vmax=1, interpolation="nearest"
        )
        figure.colorbar(drawn, ax=axes, shrink=0.8)
        size = max(4.0, min(8.0, 200 / max(len(rows), len(columns))))
        axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
        axes.set_yticks(range(len(rows)), rows, fontsize=size)
        axes.tick_params(length=0)
        axes.set(title=title)
        axes.spines[:].set_visible(False)
        return finish(figure, name, alt)


def similarity_grid(name: str, similarity: Float[Tensor, "h w h w"], *, title: str, alt: str, most: int = 14) -> Plate:
    """The paper's figure 7 (centre): at each place of the grid, the map of its cosines with all places."""
    h, w = similarity.shape[:2]
    tiles = places(h, min(h, most)), places(w, min(w, most))
    side = 6.2 / max(len(tiles[0]), len(tiles[1]))
    with styled(size=(side * len(tiles[1]) + 0.9, side * len(tiles[0]) + 0.7)) as (figure, axes):
        gap = max(1, round(max(h, w) / 8))
        canvas = np.full((len(tiles[0]) * (h + gap) - gap, len(tiles[1]) * (w + gap) - gap), np.nan)
        for y, row in enumerate(tiles[0]):
            for x, column in enumerate(tiles[1]):
                canvas[y * (h + gap) : y * (h + gap) + h, x * (w + gap) : x * (w + gap) + w] = similarity[
                    row, column
                ].numpy()
        low = float(np.nanmin(canvas))
        drawn = axes.imshow(canvas, cmap=MAP, vmin=low, vmax=1, interpolation="nearest")
        axes.set_xticks([x * (w + gap) + (w - 1) / 2 for x in range(len(tiles[1]))], tiles[1], fontsize=7)
        axes.set_yticks([y * (h + gap) + (h - 1) / 2 for y in range(len(tiles[0]))], tiles[0], fontsize=7)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="patch column", ylabel="patch row", title=title)
        figure.colorbar(drawn, ax=axes, shrink=0.7, label="cosine")
        return finish(figure, name, alt)


def tiles(
    name: str, maps: Sequence[np.ndarray], titles: Sequence[str], *, alt: str, caption: str = "", across: int = 7
) -> Plate:
    """Small maps or filters in rows: red is above nothing and blue below, or colours as they are in three channels."""
    pictures = [(title, _signed(one) if one.ndim == 2 else one) for title, one in zip(titles, maps, strict=True)]
    return sheet(name, [pictures[at : at + across] for at in range(0, len(pictures), across)], alt, caption)


def _signed(values: np.ndarray) -> np.ndarray:
    scaled = 0.5 + 0.5 * values / (float(np.abs(values).max()) or 1.0)
    return matplotlib.colormaps["RdBu_r"](scaled)[..., :3]


def places(size: int, count: int) -> list[int]:
    return torch.linspace(0, size - 1, count).round().int().tolist()
