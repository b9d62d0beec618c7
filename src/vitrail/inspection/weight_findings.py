"""Analyses of weights alone: position embeddings and the filters of the patch embedding (the paper's figure 7)."""

from dataclasses import fields

import numpy as np
from torch import Tensor

from vitrail.inspection import figures
from vitrail.inspection.filters import PAPER, embedding_filters, filter_components
from vitrail.inspection.positions import position_components, position_similarity, position_structure, position_table
from vitrail.inspection.subject import Finding, Subject, table_of


def describe_positions(subject: Subject) -> Finding:
    """The paper's figure 7 (centre), components, and structure as numbers."""
    table = position_table(subject.model)
    similarity, found, structure = position_similarity(table), position_components(table), position_structure(table)
    titles = [f"{share:.1%}" for share in found.explained]
    h, w = table.shape[:2]
    fixed = not any("positions" in name for name, _ in subject.model.trunk.named_parameters())
    origin = "computed from sines and cosines and not trained" if fixed else "learned"
    rows = [(spec.name.replace("_", " "), getattr(structure, spec.name)) for spec in fields(structure)]
    return Finding(
        f"The position embeddings are {origin}. "
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
        table_of(rows, {"what": "{}", "value": "{:.4f}"}),
        {
            "similarity": similarity[figures.places(h, min(h, 14))][:, figures.places(w, min(w, 14))],
            "explained": found.explained,
        },
    )


def describe_filters(subject: Subject) -> Finding:
    """The paper's figure 7 (left)."""
    weight = embedding_filters(subject.model)
    found = filter_components(weight, PAPER)
    pictures = [_stretch(one) for one in found.scores]
    return Finding(
        f"The first {len(pictures)} principal components of {len(weight)} filters explain "
        f"{float(found.explained.sum()):.0%} of their variance.",
        (
            figures.tiles(
                "filters",
                pictures,
                [f"{share:.1%}" for share in found.explained],
                alt=f"The first {len(pictures)} principal components of the embedding filters as small pictures.",
                caption="Principal components of the embedding filters, with their share of the variance",
            ),
        ),
        table_of(enumerate(found.explained.tolist(), 1), {"component": "{}", "share": "{:.4f}"}),
        {"explained": found.explained, "components": found.scores},
    )


def _stretch(component: Tensor) -> np.ndarray:
    """A component C p q as a picture: grey in the middle, its largest value black or white."""
    scaled = (0.5 + 0.5 * component / component.abs().max().clamp_min(1e-12)).permute(1, 2, 0).numpy()
    return scaled if scaled.shape[2] == 3 else 2 * scaled.mean(2) - 1
