"""The table of analyses. Each gives a finding: a sentence, figures and a table of numbers, or says why it does not apply."""

from collections.abc import Callable

from vitrail.inspection.attention_findings import describe_attention, explain_answers, measure_heads
from vitrail.inspection.patch_findings import align_layers, describe_patches, find_neighbours, paint_hidden
from vitrail.inspection.subject import Finding, Subject
from vitrail.inspection.weight_findings import describe_filters, describe_positions

ANALYSES: dict[str, tuple[str, Callable[[Subject], Finding]]] = {
    "attention": ("Attention of the class token", describe_attention),
    "flow": ("Why this answer", explain_answers),
    "heads": ("How far the heads look", measure_heads),
    "positions": ("Position embeddings", describe_positions),
    "filters": ("Patch embedding filters", describe_filters),
    "patches": ("Patch features", describe_patches),
    "neighbours": ("Nearest patches", find_neighbours),
    "reconstruction": ("Reconstruction", paint_hidden),
    "alignment": ("Alignment of layers", align_layers),
}
"""Every analysis: the stem of its files -> its title and its function."""
FIGURES = (
    "attention-layers", "attention-heads", "flow", "attention-distance", "view", "entropy", "prefix-share",
    "position-similarity", "position-components", "filters", "patch-components", "neighbours", "reconstruction", "cka",
)  # fmt: skip
"""Every figure that an analysis can draw: the stem of its files."""
