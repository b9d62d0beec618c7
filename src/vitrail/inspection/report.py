"""The inspection of one model, or of two side by side: a folder with report.html, every figure and every number."""

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.errors import DoesNotApply
from vitrail.inspection.analyses import ANALYSES, FIGURES
from vitrail.inspection.attention_hooks import attention_layers, choose, family
from vitrail.inspection.cka import cka
from vitrail.inspection.explorer import explorer, read_attention
from vitrail.inspection.figures import Plate, matrix
from vitrail.inspection.subject import SHOWN, Finding, Subject
from vitrail.models.backbone import Backbone
from vitrail.models.cost import count_parameters
from vitrail.reports.figures import standalone
from vitrail.reports.page import Facts, FigureSection, Html, Section, TableSection, write_page
from vitrail.reports.progress import progress
from vitrail.storage import storage_errors, write_whole

EXPLORED = 3
"""Images one can point at; their maps are most of the page's bytes."""
LONG = 12
"""Rows of a table in the page; the files have all."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """The findings as values; `write` makes the folder."""

    subjects: tuple[Subject, ...]
    findings: dict[str, tuple[Finding | None, ...]]
    """Analysis -> its finding for each subject; None where it does not apply."""
    missing: tuple[tuple[str, str], ...]
    """(which analysis, why it does not apply)."""

    def write(self, folder: str | Path) -> Path:
        """Writes report.html, figures/ and numbers/ into the folder, and gives the page's path. Raises StorageError.

        An earlier report there is replaced whole; other files stay.
        """
        folder = Path(folder)
        if (folder / "report.html").exists():
            _remove_findings(folder)
        for mark, name, finding in self._each():
            _write_finding(folder, f"{mark}{name}", mark, finding)
        names = " and ".join(subject.name for subject in self.subjects)
        return write_page(folder / "report.html", f"Inside {names}", list(_sections(self)))

    def _each(self) -> Iterator[tuple[str, str, Finding]]:
        for name, found in self.findings.items():
            for mark, finding in zip(("", "against-"), found, strict=False):
                if finding is not None:
                    yield mark, name, finding


def inspect(
    model: Backbone,
    images: UInt8[Tensor, "I C H W"] | None = None,
    *,
    name: str = "model",
    keys: Sequence[str] = (),
    against: Backbone | None = None,
    against_images: UInt8[Tensor, "I C H W"] | None = None,
    against_name: str = "other",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    truths: Sequence[str] = (),
    quiet: bool = False,
) -> Inspection:
    """Every analysis that applies to the model, over 8-bit images of its size (without any: of its weights alone).

    `against` is a second model, shown the same images as it reads them. `layers` and `heads` choose among those with
    attention, counted from 1; ConfigError for one that is not there.
    """
    none = torch.empty(0, model.config.channels, *model.config.image, dtype=torch.uint8)
    one = Subject(name, model, none if images is None else images, keys, layers, heads, truths)
    subjects = [one]
    if against is not None:
        other = against_images if against_images is not None else one.images
        subjects.append(replace(one, name=against_name, model=against, images=other))
    for subject in subjects:
        _check(subject)
    findings: dict[str, tuple[Finding | None, ...]] = {}
    missing: list[tuple[str, str]] = []
    with progress(len(ANALYSES), "Looking", quiet=quiet) as bar:
        for done, (key, (title, analyse)) in enumerate(ANALYSES.items(), 1):
            findings[key] = tuple(_analyse(title, analyse, subject, len(subjects) > 1, missing) for subject in subjects)
            bar.update(done)
    return Inspection(tuple(subjects), findings, tuple(missing))


def _check(subject: Subject) -> None:
    """A layer or head that is not there is the caller's mistake, not a reason to leave something out."""
    with contextlib.suppress(DoesNotApply):
        found = attention_layers(subject.model)
        choose(subject.layers, len(found), "layer")
        count = getattr(subject.model.config.encoder, "heads", None)
        if count is not None:
            choose(subject.heads, count, "head")


def _analyse(title: str, analyse, subject: Subject, several: bool, missing: list[tuple[str, str]]) -> Finding | None:
    try:
        return analyse(subject)
    except DoesNotApply as reason:
        missing.append((f"{title} ({subject.name})" if several else title, reason.found))
        return None


def _remove_findings(folder: Path) -> None:
    """Removes the figures and numbers of an earlier report, and nothing else: another model's would lie beside the new."""
    figures = itertools.product(("figures",), FIGURES, ("svg", "png"))
    numbers = itertools.product(("numbers",), ANALYSES, ("csv", "json"))
    for inner, stem, kind in (*figures, *numbers):
        for mark in ("", "against-"):
            path = folder / inner / f"{mark}{stem}.{kind}"
            with storage_errors(path):
                path.unlink(missing_ok=True)


def _write_finding(folder: Path, stem: str, mark: str, finding: Finding) -> None:
    for plate in finding.plates:
        write_whole(folder / "figures" / f"{mark}{plate.name}.svg", standalone(plate.drawing))
        write_whole(folder / "figures" / f"{mark}{plate.name}.png", plate.png)
    write_whole(folder / "numbers" / f"{stem}.csv", finding.table.csv())
    arrays = {name: _rounded(array) for name, array in finding.arrays.items()}
    content = {"what": finding.text, "rows": json.loads(finding.table.json()), **arrays}
    write_whole(folder / "numbers" / f"{stem}.json", json.dumps(content, ensure_ascii=False))


def _rounded(array: Tensor) -> list:
    """Nested lists of numbers with six digits."""
    return json.loads(json.dumps(array.double().tolist()), parse_float=lambda text: float(f"{float(text):.6g}"))


def _sections(found: Inspection) -> Iterator[Section]:
    several = len(found.subjects) > 1
    for subject in found.subjects:
        yield Facts(f"Model: {subject.name}" if several else "Model", _facts(subject))
    if touched := _explorer(found.subjects):
        yield touched
    for key, (title, _) in ANALYSES.items():
        if key == "alignment" and several:
            yield from _compare(found.subjects)
        named = [(s, f) for s, f in zip(found.subjects, found.findings[key], strict=True) if f is not None]
        for number, (subject, finding) in enumerate(named):
            heading = "" if number else finding.heading or title  # one entry of the contents, the models one by one
            yield from _figures(heading, finding.plates, f"{subject.name}: {finding.text}" if several else finding.text)
            rows = finding.table.rows[:LONG]
            left = len(finding.table.rows) - len(rows)
            note = f"The first {LONG} rows; numbers/{key}.csv has {left:,} more." if left else ""
            yield TableSection("", replace(finding.table, rows=rows), note=note)
    if found.missing:
        yield Facts("What does not apply", found.missing)


def _figures(heading: str, plates: Sequence[Plate], text: str) -> Iterator[Section]:
    """The figures of a finding side by side, those that are wide each on its own."""
    small = [plate.drawing for plate in plates if not plate.drawing.wide]
    groups = [[plate.drawing] for plate in plates if plate.drawing.wide] + ([small] if small else [])
    for number, group in enumerate(groups):
        yield FigureSection("" if number else heading, group, note="" if number else text)


def _facts(subject: Subject) -> list[tuple[str, str]]:
    model = subject.model
    config = model.config.encoder
    record = model.record
    facts = [
        ("family", family(model)),
        ("parameters", f"{count_parameters(model):,}"),
        ("layers with attention", str(len(model.attention_layers()) or "")),
        ("heads", str(getattr(config, "heads", ""))),
        ("width", str(getattr(config, "width", ""))),
        ("patch", " × ".join(map(str, getattr(config, "patch", ())))),
        ("images measured", f"{len(subject.images):,}"),
        ("images in the figures", f"{min(SHOWN, len(subject.images)):,}" if len(subject.images) else ""),
        ("size in pixels", " × ".join(map(str, subject.images.shape[2:]))),
        ("classes", str(model.config.classes or "no head")),
        ("weights", getattr(record, "source", "")),
        ("licence", getattr(record, "licence", "")),
    ]
    return [(name, value) for name, value in facts if value]


def _explorer(subjects: Sequence[Subject]) -> Html | None:
    models = []
    for subject in subjects:
        with contextlib.suppress(DoesNotApply):
            seen = [
                read_attention(subject.model, image, layers=subject.layers, heads=subject.heads)
                for image in subject.images[:EXPLORED]
            ]
            if seen and all(one.maps for one in seen):
                models.append((subject.name, seen))
    if not models:
        return None
    names = [Path(key).name for key in subjects[0].keys[:EXPLORED]] or [f"image {k}" for k in range(len(models[0][1]))]
    return Html(
        "Where a patch looks",
        explorer(models, names),
        note="Point at a patch, or choose it with the arrow keys: bright is where it looks. A click keeps it; Home, or the "
        "button, lets it go. Each map is scaled to its largest.",
    )


def _compare(subjects: Sequence[Subject]) -> Iterator[Section]:
    """CKA of each layer of one model with each of the other."""
    one, other = subjects
    if len(one.images) < 4:
        return
    found = cka(one.model, one.images, other.model, other_images=other.images)
    best = found.values.max(1)
    title = f"{one.name} (rows) and {other.name} (columns)"
    said = f"The layers of {one.name} have a mean CKA of {float(best.values.mean()):.2f} with their nearest in {other.name}."
    plate: Plate = matrix("across", found.values, found.rows, found.columns, title="CKA", alt=f"{title}. {said}")
    yield FigureSection("One model's layers beside the other's", [plate.drawing], note=f"{title}. {said}")
