"""Every analysis as a finding: a sentence, figures, a table of numbers. What does not apply to a model says so instead."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from vitrail.errors import DoesNotApply
from vitrail.inspection import figures
from vitrail.inspection.attention_hooks import attention_layers, layout_of, prepared
from vitrail.inspection.cka import cka
from vitrail.inspection.figures import Pixels, Plate, Rgb, fitted, overlay, sheet
from vitrail.inspection.filters import PAPER, embedding_filters, filter_components, shifted_lines
from vitrail.inspection.heads import Heads, heads
from vitrail.inspection.maps import attention, rollout_of
from vitrail.inspection.patches import high_norms, nearest_patches, patch_components, patch_features
from vitrail.inspection.positions import position_components, position_similarity, position_structure, position_table
from vitrail.inspection.reconstruction import reconstruct
from vitrail.inspection.relevance import grad_cam, relevance
from vitrail.models.backbone import Backbone
from vitrail.prediction.forward import answering, class_names, place
from vitrail.reports.tables import Column, Table

SHOWN = 4
"""Images in the figures; the numbers are of all."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and the images it is shown."""

    name: str
    model: Backbone
    images: UInt8[Tensor, "I C H W"]
    keys: Sequence[str] = ()
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None

    @property
    def few(self) -> UInt8[Tensor, "_ C H W"]:
        """Those in the figures. Raises DoesNotApply where there are none."""
        if not len(self.images):
            raise DoesNotApply("no images were given")
        return self.images[:SHOWN]

    @cached_property
    def pictures(self) -> list[Pixels]:
        return [_picture(image) for image in self.images[:SHOWN]]

    @cached_property
    def features(self) -> Tensor:
        """B h w D, of all images."""
        _ = self.few
        return patch_features(self.model, self.images)

    @cached_property
    def measured(self) -> list[Heads]:
        _ = self.few
        return heads(self.model, self.images, layers=self.layers)


@dataclass(frozen=True, eq=False)
class Finding:
    """What an analysis gave; `arrays` go into the JSON beside the table's rows."""

    text: str
    plates: Sequence[Plate]
    table: Table
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    heading: str = ""
    """Over it in the page, where the analysis's own title would not be true of this model."""


def seen_attention(subject: Subject) -> Finding:
    """Where the class token looks, layer by layer and head by head."""
    few = subject.few
    attention_layers(subject.model)  # a model without any says so
    prefix = layout_of(subject.model, few).prefix
    maps = attention(subject.model, few, layers=subject.layers, heads=subject.heads, queries=[0] if prefix else None)
    looks = [found.patches.mean(2) for found in maps]  # B a h w; without a class token, the mean of all patches
    who = "the class token" if prefix else "the mean patch"
    steps = sorted({round(k) for k in np.linspace(0, len(maps) - 1, min(7, len(maps)))})
    by_layer = [
        [("", picture), *((f"layer {maps[k].layer}", overlay(picture, looks[k][b].mean(0))) for k in steps)]
        for b, picture in enumerate(subject.pictures)
    ]
    last = [
        [
            ("", picture),
            *((f"head {head}", overlay(picture, looks[-1][b, a])) for a, head in enumerate(maps[-1].heads[:8])),
        ]
        for b, picture in enumerate(subject.pictures)
    ]
    rows = tuple(
        (_key(subject, b), found.layer, head, *_peak(looks[k][b, a]))
        for b in range(len(few))
        for k, found in enumerate(maps)
        for a, head in enumerate(found.heads)
    )
    names = ("image", "layer", "head", "on patches", "peak row", "peak column", "peak share")
    table = Table(
        tuple(Column(name, "{:.3f}" if name in ("on patches", "peak share") else "{}") for name in names), rows
    )
    alt = f"Pictures with the attention of {who} laid over them"
    return Finding(
        f"What {who} looks at. Above: the mean of the heads, through the layers; below: each head of layer "
        f"{maps[-1].layer}. Bright is much attention, each map scaled to its largest.",
        (
            sheet("attention-layers", by_layer, f"{alt}: {len(steps)} layers."),
            sheet("attention-heads", last, f"{alt}: the heads of layer {maps[-1].layer}."),
        ),
        table,
        heading=f"Attention of {who}",
    )


def seen_flow(subject: Subject) -> Finding:
    """Rollout, relevance and Grad-CAM beside one another, for the likeliest answer."""
    few, found, why = subject.few, {}, []
    methods: dict[str, Callable[..., Tensor]] = {"rollout": rollout_of, "relevance": relevance, "Grad-CAM": grad_cam}
    for name, method in methods.items():
        try:
            found[name] = method(subject.model, few)
        except DoesNotApply as reason:
            why.append(f"No {name}: {reason.found}.")
    if not found:
        raise DoesNotApply(" ".join(why))
    answers = _answers(subject)
    rows = [
        [(answers[b], picture), *((name, overlay(picture, maps[b])) for name, maps in found.items())]
        for b, picture in enumerate(subject.pictures)
    ]
    peaks = tuple((_key(subject, b), name, *_peak(maps[b])) for name, maps in found.items() for b in range(len(few)))
    names = ("image", "method", "sum", "peak row", "peak column", "peak")
    table = Table(tuple(Column(name, "{:.4g}" if name in ("sum", "peak") else "{}") for name in names), peaks)
    text = (
        "Rollout multiplies the layers' attention, whatever the answer. Relevance (Chefer et al. 2021) weighs attention by its "
        "gradient towards the answer, Grad-CAM the channels of the last map. They are opinions: where they differ, believe none."
    )
    text = " ".join([text, *why])
    arrays = {name: maps for name, maps in found.items()}
    return Finding(text, (sheet("flow", rows, f"Pictures beside {', '.join(found)} laid over them."),), table, arrays)


def seen_heads(subject: Subject) -> Finding:
    """Attention distance, view and prefix share by layer."""
    layers = subject.measured
    height, width = subject.images.shape[2:]
    most = float(max(layer.distance.mean(0).max() for layer in layers))
    first, last = layers[0].distance.mean(0), layers[-1].distance.mean(0)
    plates = [
        figures.by_depth(
            "attention-distance", layers, "distance", "pixels", title="Mean attention distance", most=1.15 * most
        ),
        figures.by_depth("view", layers, "view", "share of the image", title="How much a head sees", most=1.02),
        figures.by_depth("entropy", layers, "entropy", "nats", title="Entropy of attention"),
    ]
    if any(float(layer.prefix.max()) for layer in layers):
        title = "Attention that goes to class and register tokens"
        plates.append(figures.by_depth("prefix-share", layers, "prefix", "share", title=title, most=1.02))
    columns = ("layer", "head", "distance", "distance_std", "entropy", "view", "prefix")
    formats = ("{}", "{}", "{:.1f}", "{:.1f}", "{:.3f}", "{:.3f}", "{:.3f}")
    rows = tuple(
        (
            layer.layer,
            head + 1,
            float(layer.distance[:, head].mean()),
            float(layer.distance[:, head].std(correction=0)),
            *(float(getattr(layer, name)[:, head].mean()) for name in ("entropy", "view", "prefix")),
        )
        for layer in layers
        for head in range(layer.distance.shape[1])
    )
    return Finding(
        f"Each dot is a head, its mean over {len(subject.images)} images of {height} × {width} pixels. In layer "
        f"{layers[0].layer} the heads look {float(first.min()):.0f} to {float(first.max()):.0f} pixels far, in layer "
        f"{layers[-1].layer} {float(last.min()):.0f} to {float(last.max()):.0f}. What goes to tokens that are no patches counts "
        "as no distance, as in the paper's figure 11.",
        plates,
        Table(tuple(map(Column, columns, formats)), rows),
    )


def seen_positions(subject: Subject) -> Finding:
    """The paper's figure 7 (centre), components, and structure as numbers."""
    table = position_table(subject.model)
    similarity, found, structure = position_similarity(table), position_components(table), position_structure(table)
    titles = [f"{share:.1%}" for share in found.explained]
    h, w = table.shape[:2]
    rows = tuple((spec.name.replace("_", " "), getattr(structure, spec.name)) for spec in fields(structure))
    return Finding(
        f"Each tile belongs to one of {h} × {w} places and shows its cosine with all places. Patches that touch have a mean "
        f"cosine of {structure.neighbours:.2f}, those in the same row or column {structure.same_line:.2f}, others "
        f"{structure.elsewhere:.2f}. Rows explain {structure.rows:.0%} of the variance, columns {structure.columns:.0%}; one "
        f"plane wave each explains {structure.waves:.0%} of the first {len(found.scores)} components.",
        (
            figures.similarity_grid(
                "position-similarity",
                similarity,
                title="Similarity of position embeddings",
                alt=f"A grid of tiles; neighbours have a mean cosine of {structure.neighbours:.2f}, others of "
                f"{structure.elsewhere:.2f}.",
            ),
            figures.tiles(
                "position-components",
                [score.numpy() for score in found.scores],
                titles,
                alt="The first principal components of the position embeddings as maps, with their shares of the variance: "
                + ", ".join(titles),
                caption="Principal components of the position embeddings, with their share of the variance",
                across=6,
            ),
        ),
        Table((Column("what"), Column("value", "{:.4f}")), rows),
        {
            "similarity": similarity[figures.places(h, min(h, 14))][:, figures.places(w, min(w, 14))],
            "explained": found.explained,
        },
    )


def seen_filters(subject: Subject) -> Finding:
    """The paper's figure 7 (left), and lines that are shifted."""
    weight = embedding_filters(subject.model)
    found = filter_components(weight, PAPER)
    pictures = [_stretched(one) for one in found.scores]
    lines = {"upright": shifted_lines(weight), "level": shifted_lines(weight, upright=False)}
    curves = {"pixels": _by_shift(lines["upright"].raw)}
    curves |= {f"embedded, {name} line": _by_shift(cosines.embedded) for name, cosines in lines.items()}
    raw, near = lines["upright"].between(1)
    rows = tuple(
        (name, shift, *cosines.between(shift))
        for name, cosines in lines.items()
        for shift in range(1, len(cosines.raw))
    )
    return Finding(
        f"The first {len(pictures)} principal components of {len(weight)} filters explain "
        f"{float(found.explained.sum()):.0%} of their variance. Lines one pixel apart share {raw:.0%} as pixels (they are "
        f"orthogonal) and have a mean |cosine| of {near:.2f} once embedded. Of random filters that would be "
        f"{(2 / np.pi / len(weight)) ** 0.5:.2f}; what is above it was learnt: that neighbouring pixels belong together.",
        (
            figures.tiles(
                "filters",
                pictures,
                [f"{share:.1%}" for share in found.explained],
                alt=f"The first {len(pictures)} principal components of the embedding filters as small pictures.",
                caption="Principal components of the embedding filters, with their share of the variance",
            ),
            figures.cosines_by_shift("shifted-lines", curves, title="One line, shifted"),
        ),
        Table((Column("line"), Column("shift"), Column("raw", "{:.3f}"), Column("embedded", "{:.3f}")), rows),
        {"explained": found.explained, "components": found.scores},
    )


def seen_patches(subject: Subject) -> Finding:
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
    numbers = tuple(
        (_key(subject, b), float(one.median()), float(one.max()), float(norms.high[b].double().mean()))
        for b, one in enumerate(norms.norms)
    )
    formats = ("{}", "{:.2f}", "{:.2f}", "{:.1%}")
    return Finding(
        "Three principal components of the patch features of all images, as red, green and blue: "
        f"{float(found.explained.sum()):.0%} of the variance. Like colours are like features. {norms.share:.2%} of the "
        f"tokens have an outlying norm, above {norms.cutoff:.1f}: the artefacts of Darcet et al. 2024, where they lie in smooth "
        "areas.",
        (
            sheet(
                "patch-components",
                pairs,
                "Pictures beside the principal components of their patch features, and their norms.",
            ),
        ),
        Table(tuple(map(Column, ("image", "median norm", "largest norm", "outliers"), formats)), numbers),
        {"explained": found.explained},
    )


def seen_neighbours(subject: Subject) -> Finding:
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
            numbers.append((_key(subject, image), rank, _key(subject, one.image), one.row, one.column, one.cosine))
        rows.append(line)
    names = ("image", "rank", "neighbour", "row", "column", "cosine")
    return Finding(
        "The middle patch of each image and, of all patches of all images, those whose features are most like it (cosine above "
        "each). Each is shown with what lies around it.",
        (sheet("neighbours", rows, "Patches and their nearest neighbours, with cosines."),),
        Table(tuple(Column(name, "{:.3f}" if name == "cosine" else "{}") for name in names), tuple(numbers)),
    )


def seen_alignment(subject: Subject) -> Finding:
    """CKA between all pairs of layers."""
    if len(subject.images) < 4:
        raise DoesNotApply(f"CKA needs four images or more, and there are {len(subject.images)}")
    found = cka(subject.model, subject.images)
    neighbours = found.values.diagonal(1)
    rows = tuple((name, *map(float, line)) for name, line in zip(found.rows, found.values, strict=True))
    title = "Alignment of the layers (CKA)"
    alt = f"{title}: consecutive layers have a mean of {float(neighbours.mean()):.2f}."
    return Finding(
        f"How alike two layers see the {len(subject.images)} images: 1 is the same up to rotation and scale. Consecutive layers "
        f"have {float(neighbours.mean()):.2f} on average, the first and the last {float(found.values[0, -1]):.2f}.",
        (figures.matrix("cka", found.values, found.rows, found.columns, title=title, alt=alt),),
        Table((Column("layer"), *(Column(name, "{:.3f}") for name in found.columns)), rows),
    )


def seen_reconstruction(subject: Subject) -> Finding:
    """What a masked autoencoder paints."""
    few = subject.few
    found = reconstruct(subject.model, few)
    rows = [
        [
            ("", picture),
            ("seen", _picture(found.masked[b])),
            (f"painted, {float(found.error[b]):.4f}", _picture(found.painted[b])),
        ]
        for b, picture in enumerate(subject.pictures)
    ]
    numbers = tuple((_key(subject, b), float(error)) for b, error in enumerate(found.error))
    lent = subject.model.config.target == "normalised"  # pyrefly: ignore[missing-attribute]
    return Finding(
        "Three quarters of the patches are hidden. The number is the mean squared error over the hidden ones, of pixels from 0 to "
        f"1: {float(found.error.mean()):.4f} on average."
        + (
            " The model predicts patches without their mean and contrast; both are lent by the true image."
            if lent
            else ""
        ),
        (sheet("reconstruction", rows, "Pictures, what was left to see, and what the model painted."),),
        Table((Column("image"), Column("error", "{:.5f}")), numbers),
    )


def _as_large(colours: Tensor, picture: Pixels) -> Rgb:
    """A map of colours, one for each patch, as large as the picture beside it."""
    image = Image.fromarray((colours * 255).round().byte().numpy())
    return np.asarray(image.resize(picture.shape[1::-1], Image.Resampling.NEAREST))


ANALYSES: dict[str, tuple[str, Callable[[Subject], Finding]]] = {
    "attention": ("Attention of the class token", seen_attention),
    "flow": ("What the answer rests on", seen_flow),
    "heads": ("How far the heads look", seen_heads),
    "positions": ("Position embeddings", seen_positions),
    "filters": ("Patch embedding filters", seen_filters),
    "patches": ("Patch features", seen_patches),
    "neighbours": ("Nearest patches", seen_neighbours),
    "reconstruction": ("What it paints", seen_reconstruction),
    "alignment": ("Layers beside layers", seen_alignment),
}
"""Every analysis: the stem of its files, its title, and what makes it."""


def _key(subject: Subject, index: int) -> str:
    return subject.keys[index] if index < len(subject.keys) else f"image {index}"


def _peak(values: Tensor) -> tuple[float, int, int, float]:
    """(sum, row, column, value at the largest)."""
    row, column = divmod(int(values.argmax()), values.shape[1])
    return float(values.sum()), row, column, float(values.max())


def _answers(subject: Subject) -> list[str]:
    """What the model says to each shown image; nothing for one without a head."""
    if not subject.model.config.classes:
        return [""] * len(subject.few)
    with answering(subject.model, place(subject.model), torch.float32):
        best = subject.model(prepared(subject.model, subject.few)).argmax(1).tolist()
    names = class_names(subject.model)
    return [names[k] if names else f"class {k}" for k in best]


def _stretched(component: Tensor) -> np.ndarray:
    """A component C p q as a picture: grey in the middle, its largest value black or white."""
    scaled = (0.5 + 0.5 * component / component.abs().max().clamp_min(1e-12)).permute(1, 2, 0).numpy()
    return scaled if scaled.shape[2] == 3 else 2 * scaled.mean(2) - 1


def _picture(image: UInt8[Tensor, "C H W"]) -> Rgb:
    return fitted(image.permute(1, 2, 0).numpy())


def _by_shift(cosines: Tensor) -> list[float]:
    return [float(cosines.diagonal(shift).abs().mean()) for shift in range(len(cosines))]


def _cut(subject: Subject, image: int, row: int, column: int) -> Rgb:
    """A patch with as much around it, its border drawn."""
    pixels = subject.images[image].permute(1, 2, 0).numpy()
    h, w = subject.features.shape[1:3]
    p, q = pixels.shape[0] / h, pixels.shape[1] / w
    top, left = round(row * p), round(column * q)
    padded = np.pad(figures.as_rgb(pixels), ((round(p),) * 2, (round(q),) * 2, (0, 0)), constant_values=128)
    cut = padded[top : top + 3 * round(p), left : left + 3 * round(q)]
    zoom = max(1, 96 // max(cut.shape[:2]))
    cut = cut.repeat(zoom, 0).repeat(zoom, 1)
    inner = (slice(round(p) * zoom, 2 * round(p) * zoom), slice(round(q) * zoom, 2 * round(q) * zoom))
    framed = cut.copy()
    framed[inner] = (255, 96, 0)
    edge = max(1, zoom)
    shrunk = (slice(inner[0].start + edge, inner[0].stop - edge), slice(inner[1].start + edge, inner[1].stop - edge))
    framed[shrunk] = cut[shrunk]
    return framed
