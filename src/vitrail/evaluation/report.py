"""The sections of a report that say how good a classifier is."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

from vitrail.evaluation.classification import BINS, Scores
from vitrail.reports import figures
from vitrail.reports.page import Facts, FigureSection, Gallery, Picture, Section, TableSection
from vitrail.reports.tables import Column, Table

WORST = 24
PAIRS = 12


def classification_sections(
    scores: Scores, images_of: Callable[[int], UInt8[np.ndarray, "H W C"]], classes: Sequence[str]
) -> list[Section]:
    """Scores, confusions, classes, calibration and the worst mistakes. `images_of(index)` gives the picture scored."""
    return [
        Facts("Result", headline(scores), style="tiles"),
        FigureSection("Confusion", [figures.confusion(scores.confusion, classes)], note=CONFUSION),
        *_most_confused(scores),
        TableSection("Classes", per_class_table(scores)),
        FigureSection("Calibration", [reliability_diagram(scores)], note=CALIBRATION),
        Gallery("Worst mistakes", _mistakes(scores, images_of), note=MISTAKES),
    ]


CONFUSION = "Each row holds the images of one class. The shade is their share, on a root scale: rare mistakes show."
CALIBRATION = "Of the answers given with a confidence of 80 %, 80 % should be right: then the bars follow the diagonal."
MISTAKES = "The wrong answers the model was surest of. Some may be wrong labels."


def headline(scores: Scores) -> list[tuple[str, str]]:
    """The single numbers as people read them."""
    low, high = scores.interval
    right = scores.images - len(scores.worst)
    facts = [
        ("Accuracy (top-1)", f"{scores.top1:.2%}"),
        ("95 % interval", f"{low:.2%}–{high:.2%}"),
        ("Right", f"{right:,} of {scores.images:,}"),
        ("Top-5", "" if scores.top5 is None else f"{scores.top5:.2%}"),
        ("Mean over classes", f"{scores.balanced:.2%}"),
        ("Calibration error", f"{scores.ece:.2%}"),
        ("Log loss", f"{scores.nll:.4f}"),
        ("Brier score", f"{scores.brier:.4f}"),
    ]
    return [(name, value) for name, value in facts if value]


def scores_table(scores: Scores) -> Table:
    """The single numbers, one a row, with all their digits."""
    return Table((Column("score"), Column("value", "{:.6g}")), tuple(scores), title="Scores")


def per_class_table(scores: Scores) -> Table:
    """One row a class."""
    columns = (
        Column("class"),
        Column("images", "{:,}"),
        *(Column(name, "{:.2%}") for name in ("recall", "precision", "f1")),
    )
    rows = tuple((row.name, row.images, row.recall, row.precision, row.f1) for row in scores.per_class)
    return Table(columns, rows, title="Classes")


def confused_table(scores: Scores, most: int = PAIRS) -> Table:
    """Which class was taken for which, the most frequent first."""
    mistakes = scores.confusion.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
    pairs = [(*divmod(int(at), len(mistakes)), int(mistakes.flat[at])) for at in order if mistakes.flat[at]]
    rows = tuple(
        (scores.classes[i], scores.classes[j], count, count / scores.per_class[i].images) for i, j, count in pairs
    )
    columns = (Column("class"), Column("answered as"), Column("images", "{:,}"), Column("share of the class", "{:.1%}"))
    return Table(columns, rows, title="Most frequent mistakes")


def reliability_diagram(scores: Scores) -> figures.Drawing:
    bins = scores.bins
    edges = [k / BINS for k in range(BINS + 1)]
    return figures.reliability(edges, *zip(*((b.images, b.confidence, b.accuracy) for b in bins), strict=True))


def _most_confused(scores: Scores) -> list[Section]:
    table = confused_table(scores)
    return [TableSection("Most frequent mistakes", table)] if table.rows else []


def _mistakes(scores: Scores, images_of: Callable[[int], UInt8[np.ndarray, "H W C"]]) -> list[Picture]:
    pictures = []
    for index in scores.worst[:WORST].tolist():
        answer, right = (scores.classes[of[index]] for of in (scores.predicted, scores.targets))
        note = f"{scores.confidence[index]:.0%} sure; is {right}"
        pictures.append(Picture(images_of(index), answer, note, good=False))
    return pictures
