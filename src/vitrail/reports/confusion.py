"""The figure of a confusion matrix."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from matplotlib.axes import Axes

from vitrail.reports.figures import BAD, GOOD, Drawing, shorten, styled, svg


def draw_confusion(matrix: Int[np.ndarray, "K K"], classes: Sequence[str]) -> Drawing:
    """Confusions of classes: shares of each row, right answers in one colour, mistakes in another.

    Counts are written in the cells up to 20 classes, names on the axes up to 60.
    """
    count = len(classes)
    side = min(5.0, 2.4 + 0.28 * count) if count <= 20 else 7.4
    with styled(size=(side + 0.2, side)) as (figure, axes):
        axes.imshow(_shades(matrix), interpolation="nearest", aspect="equal")
        if count <= 20:
            _write_counts(axes, matrix)
        names = [shorten(name) for name in classes] if count <= 60 else []
        size = max(4.5, min(9.0, 300 / max(count, 1)))
        axes.set_xticks(
            range(len(names)), names, rotation=90 if max(map(len, names), default=0) > 2 else 0, fontsize=size
        )
        axes.set_yticks(range(len(names)), names, fontsize=size)
        axes.tick_params(length=0)
        axes.set(xlabel="answer", ylabel="class")
        axes.spines[:].set_visible(True)
        right, images = int(np.trace(matrix)), int(matrix.sum())
        return Drawing(
            svg(figure),
            f"Confusion matrix of {count} classes: {right:,} of {images:,} images on the diagonal.",
            wide=count > 12,
        )


def _shades(matrix: Int[np.ndarray, "K K"]) -> np.ndarray:
    """RGBA: the hue says right or wrong, the opacity how often, so that any page colour may lie under it."""
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    rgb = [[int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)] for colour in (BAD, GOOD)]
    pixels = np.empty((*matrix.shape, 4))
    pixels[..., :3] = np.where(np.eye(len(matrix), dtype=bool)[..., None], rgb[1], rgb[0])
    pixels[..., 3] = np.where(shares > 0, 0.2 + 0.45 * np.sqrt(shares), 0)  # one mistake in a thousand can be seen
    return pixels


def _write_counts(axes: Axes, matrix: Int[np.ndarray, "K K"]) -> None:
    size = max(5.0, min(9.0, 110 / len(matrix)))
    for (row, column), images in np.ndenumerate(matrix):
        if images:
            axes.text(column, row, f"{images}", ha="center", va="center", fontsize=size)
