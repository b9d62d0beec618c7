"""Analyses of patch features: components, neighbours, agreement of layers, and reconstruction."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vitrail.errors import DoesNotApply
from vitrail.inspection import figures
from vitrail.inspection.cka import cka
from vitrail.inspection.figures import Pixels, Rgb, overlay, sheet
from vitrail.inspection.patches import high_norms, nearest_patches, patch_components
from vitrail.inspection.reconstruction import reconstruct
from vitrail.inspection.subject import Finding, Subject, picture_of, table_of

NORMS = {"image": "{}", "median norm": "{:.2f}", "largest norm": "{:.2f}", "outliers": "{:.1%}"}
NEIGHBOURS = {"image": "{}", "rank": "{}", "neighbour": "{}", "row": "{}", "column": "{}", "cosine": "{:.3f}"}


def describe_patches(subject: Subject) -> Finding:
    """Principal components of the patch features as colours, and tokens of high norm."""
    features = subject.features
    found, norms = patch_components(features), high_norms(features)
    low, high = (torch.quantile(found.scores.flatten(0, 2), q, dim=0) for q in (0.02, 0.98))
    colours = ((found.scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    rows = [
        [
            ("", picture),
            ("components", _as_large(colours[b], picture)),
            ("norm", overlay(picture, norms.norms[b] - norms.norms.min())),
        ]
        for b, picture in enumerate(subject.pictures)
    ]
    pairs = [one + other for one, other in zip(rows[::2], [*rows[1::2], *([[]] if len(rows) % 2 else [])], strict=True)]
    numbers = (
        (subject.key(b), float(one.median()), float(one.max()), float(norms.high[b].double().mean()))
        for b, one in enumerate(norms.norms)
    )
    return Finding(
        "Three principal components of the patch features of all images, as red, green and blue: "
        f"{float(found.explained.sum()):.0%} of the variance. Like colours are like features. {norms.share:.2%} of the "
        f"tokens have an outlying norm, above {norms.cutoff:.1f}: the artefacts of Darcet et al. 2024, where they lie in smooth "
        "areas.",
        (
            sheet(
                "patch-components",
                pairs,
                "Pictures, the principal components of their patch features, and their norms.",
            ),
        ),
        table_of(numbers, NORMS),
        {"explained": found.explained},
    )


def find_neighbours(subject: Subject) -> Finding:
    """The patches most like the middle one of each image, among all images."""
    features, rows, numbers = subject.features, [], []
    h, w = features.shape[1:3]
    if h * w < 2:
        raise DoesNotApply("an image is one patch")
    for image in range(len(subject.few)):
        place = (image, h // 2, w // 2)
        line = [("asked", _cut(subject, *place))]
        for rank, one in enumerate(nearest_patches(features, *place, count=7), 1):
            line.append((f"{one.cosine:.2f}", _cut(subject, one.image, one.row, one.column)))
            numbers.append((subject.key(image), rank, subject.key(one.image), one.row, one.column, one.cosine))
        rows.append(line)
    return Finding(
        "The middle patch of each image, then the patches of all images whose features are most like it. The number above "
        "is their cosine. Each patch is shown with its surroundings.",
        (sheet("neighbours", rows, "Patches and their nearest neighbours, with cosines."),),
        table_of(numbers, NEIGHBOURS),
    )


def align_layers(subject: Subject) -> Finding:
    """CKA between all pairs of layers."""
    if len(subject.images) < 4:
        raise DoesNotApply(f"CKA needs four images or more, and there are {len(subject.images)}")
    found = cka(subject.model, subject.images)
    neighbours = found.values.diagonal(1)
    rows = [(name, *map(float, line)) for name, line in zip(found.rows, found.values, strict=True)]
    title = "Alignment of the layers (CKA)"
    alt = f"{title}: consecutive layers have a mean of {float(neighbours.mean()):.2f}."
    return Finding(
        f"How alike two layers see the {len(subject.images)} images: 1 is the same up to rotation and scale. Consecutive layers "
        f"have {float(neighbours.mean()):.2f} on average, the first and the last {float(found.values[0, -1]):.2f}.",
        (figures.matrix("cka", found.values, found.rows, found.columns, title=title, alt=alt),),
        table_of(rows, {"layer": "{}", **dict.fromkeys(found.columns, "{:.3f}")}),
    )


def paint_hidden(subject: Subject) -> Finding:
    """The hidden patches as a masked autoencoder paints them."""
    few = subject.few
    found = reconstruct(subject.model, few)
    rows = [
        [
            ("", picture),
            ("seen", picture_of(found.masked[b])),
            (f"painted, {float(found.error[b]):.4f}", picture_of(found.painted[b])),
        ]
        for b, picture in enumerate(subject.pictures)
    ]
    numbers = [(subject.key(b), float(error)) for b, error in enumerate(found.error)]
    return Finding(
        "Three quarters of the patches are hidden. The number is the mean squared error over the hidden ones, of pixels from 0 to "
        f"1: {float(found.error.mean()):.4f} on average."
        + (" The model predicts patches without mean and contrast; the true image lends both." * found.lent),
        (sheet("reconstruction", rows, "Pictures, what was left to see, and what the model painted."),),
        table_of(numbers, {"image": "{}", "error": "{:.5f}"}),
    )


def _as_large(colours: Tensor, picture: Pixels) -> Rgb:
    """A map of colours, one for each patch, as large as the picture beside it."""
    image = Image.fromarray((colours * 255).round().byte().numpy())
    return np.asarray(image.resize(picture.shape[1::-1], Image.Resampling.NEAREST))


def _cut(subject: Subject, image: int, row: int, column: int) -> Rgb:
    """A patch with its surroundings, its border drawn."""
    pixels = subject.images[image].permute(1, 2, 0).numpy()
    h, w = subject.features.shape[1:3]
    p, q = pixels.shape[0] / h, pixels.shape[1] / w
    top, left = round(row * p), round(column * q)
    padded = np.pad(figures.as_rgb(pixels), ((round(p),) * 2, (round(q),) * 2, (0, 0)), constant_values=128)
    cut = padded[top : top + 3 * round(p), left : left + 3 * round(q)]
    zoom = max(1, 96 // max(cut.shape[:2]))
    picture = Image.fromarray(cut.repeat(zoom, 0).repeat(zoom, 1))
    corners = (round(q) * zoom, round(p) * zoom, 2 * round(q) * zoom - 1, 2 * round(p) * zoom - 1)
    ImageDraw.Draw(picture).rectangle(corners, outline=(255, 96, 0), width=zoom)
    return np.asarray(picture)
