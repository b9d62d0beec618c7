"""The gate: an exported graph is asked what the model is asked, and a wrong one is not written.

The graph lies on disk, in its runtime. Beside it stands the model in torch, float32. CHECKS is a table: each row
catches a fault of its own kind (tests/exporting/test_faults.py puts eight faults in, one by one).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from vitrail.errors import ShapeError, VitrailError, WeightsError
from vitrail.exporting.graph import TRACED, takes_every_size
from vitrail.exporting.odd_files import write_odd_files
from vitrail.exporting.reader import load_reader
from vitrail.prediction.artefact import Compared, Disagreement
from vitrail.prediction.engine import TorchEngine
from vitrail.prediction.exported_engine import ExportedEngine
from vitrail.prediction.predict import Prediction, predict
from vitrail.weights.record import Record

BOUNDS = {"float32": 1e-4, "bfloat16": 0.25}
"""The largest difference of a logit over the deviation of logits. Other formats are judged by their accuracy alone."""
TIE = 2e-4
"""Two classes so near, in deviations, may change places: rounding in float32 decides between them."""
BATCHES = (1, 2, 3, 7)
READER = 1e-4
"""The largest difference of a probability, from a file on disk through the generated reader."""


@dataclass(frozen=True, eq=False)
class Case:
    """A graph on trial."""

    candidate: ExportedEngine
    reference: TorchEngine
    record: Record
    """The model's own: the graph has to say the same."""
    images: UInt8[Tensor, "N C H W"] | None = None
    """Real images, as the model reads them."""
    reader: Path | None = None
    """The generated reader, next to the graph."""

    @property
    def size(self) -> tuple[int, int]:
        return self.record.preprocess.size

    @property
    def bound(self) -> float:
        exact = not self.candidate.exported.merge  # a rounding may merge other tokens: judged by accuracy alone
        return BOUNDS.get(self.candidate.precision, float("inf")) if exact else float("inf")

    @cached_property
    def deviation(self) -> float:
        """The deviation of logits over random images; 1 where all are equal, as of a model that was never trained.

        For a model of numbers it is at least a tenth of the answers' size, because rounding grows with the size.
        """
        answers = self.reference.logits(random_images(self, 7, self.size))
        size = 0.1 * float(answers.abs().mean()) if self.record.numeric else 0.0
        return max(float(answers.std()), size) or 1.0


def certify(case: Case, checks: "Mapping[str, Check] | None" = None) -> tuple[Compared, ...]:
    """All that was compared. Raises WeightsError at the first thing that is wrong."""
    found: list[Compared] = []
    for check in (CHECKS if checks is None else checks).values():
        found += check(case) or ()
    return tuple(found)


# --- the checks -------------------------------------------------------------------------------------------------------


def check_record(case: Case) -> None:
    """Preprocessing and class names in the file are the model's."""
    said = case.candidate.record
    for what in ("classes", "preprocess", "threshold", "temperature", "numeric"):
        if getattr(said, what) != getattr(case.record, what):
            raise refuse(f"its {what} are not the model's")


def check_runs(case: Case) -> None:
    """The graph takes images of the native size at all, in the batch it was traced with."""
    answer(case, random_images(case, TRACED, case.size), "images of its native size")


def check_repeats(case: Case) -> None:
    """The same images have the same answer twice: nothing in the graph is random."""
    images = random_images(case, TRACED, case.size)
    first, second = (answer(case, images, "the same images twice") for _ in range(2))
    if not torch.equal(first, second):
        raise refuse("it answers the same images differently the second time: dropout is on")


def check_native(case: Case) -> Iterator[Compared]:
    """Random, constant and extreme images of the native size."""
    what = "random, constant and extreme images"
    parts = hard_images(case).split(TRACED)  # other batches are another check
    right, given = (
        [ask(part) for part in parts] for ask in (case.reference.logits, lambda one: answer(case, one, what))
    )
    yield compare_logits(case, what, torch.cat(right), torch.cat(given))


def check_batches(case: Case) -> Iterator[Compared]:
    """Batches of several lengths."""
    for batch in BATCHES:
        yield compare(case, f"batch of {batch}", random_images(case, batch, case.size))


def check_sizes(case: Case) -> Iterator[Compared]:
    """Smaller, larger and oblong images, where the graph takes any size."""
    for height, width in other_sizes(case):
        yield compare(case, f"images of {height}×{width}", random_images(case, 2, (height, width)))


def check_refusals(case: Case) -> None:
    """A size that the graph does not take is an error, and no answer."""
    for height, width in refused_sizes(case):
        images = random_images(case, 2, (height, width)).numpy()
        try:
            case.candidate.run(images.astype(np.float32) if case.candidate.exported.floats else images)
        except Exception:  # each runtime has its own
            continue
        raise refuse(f"it answers images of {height}×{width}, which the model does not take")


def check_real(case: Case) -> Iterator[Compared]:
    """The person's own images."""
    if case.images is not None and len(case.images):
        yield compare(case, "real images", case.images)


def check_reader(case: Case) -> Iterator[Compared]:
    """From files on disk to probabilities, through the generated reader: EXIF, CMYK, grey, 16 bits, transparency, oblong."""
    if case.reader is None:
        return
    read = load_reader(case.reader)["answer"]
    files = write_odd_files(case.reader.parent / "odd", case.images)
    found = predict(case.candidate, files, top_k=max(1, len(case.record.classes)), quiet=True)
    both = [_beside(read(file), one, case.record.classes) for file, one in zip(files, found, strict=True)]
    worst = max(difference for difference, _ in both)
    if worst > READER:
        name = next(file.name for file, (difference, _) in zip(files, both, strict=True) if difference == worst)
        raise refuse(f"its reader gives other probabilities than `vitrail predict` for {name}, by {worst:.2g}")
    agreement = sum(same for _, same in both) / len(both)
    yield Compared(what="files through the reader", images=len(both), difference=worst, agreement=agreement)


def _beside(given: np.ndarray, right: Prediction, classes: tuple[str, ...]) -> tuple[float, bool]:
    """The largest difference of a probability (or of the number that is the answer); whether the first class is the same."""
    if right.value is not None:
        return abs(float(given[0]) - right.value), True
    ours = dict(zip(classes or [f"class {k}" for k in range(len(given))], given.tolist(), strict=True))
    differences = [abs(ours[name] - p) for name, p in zip(right.labels, right.probabilities, strict=True)]
    return max(differences, default=0.0), not differences or max(ours, key=ours.__getitem__) == right.labels[0]


Check = Callable[[Case], Iterator[Compared] | None]
CHECKS: dict[str, Check] = {
    "record": check_record,
    "runs": check_runs,
    "repeats": check_repeats,
    "native": check_native,
    "batches": check_batches,
    "sizes": check_sizes,
    "refusals": check_refusals,
    "real": check_real,
    "reader": check_reader,
}
"""In the order they are made: the first that fails is told."""


# --- how answers are compared -----------------------------------------------------------------------------------------


def refuse(why: str) -> WeightsError:
    return WeightsError(f"the exported graph is wrong and was not written: {why}", next_step="please report this model")


def answer(case: Case, images: UInt8[Tensor, "B C H W"], what: str) -> Float32[Tensor, "B K"]:
    """The graph's logits. WeightsError where the runtime refuses."""
    try:
        return case.candidate.logits(images)
    except VitrailError:
        raise
    except Exception as error:  # each runtime has its own
        raise refuse(f"it cannot answer {what} ({str(error).strip().splitlines()[0]})") from error


def compare(case: Case, what: str, images: UInt8[Tensor, "B C H W"]) -> Compared:
    """Both answers to the images. WeightsError where they differ by more than the precision allows."""
    return compare_logits(case, what, case.reference.logits(images), answer(case, images, what))


def compare_logits(
    case: Case, what: str, right: Float32[Tensor, "B K"], given: Float32[Tensor, "B K"], keys: tuple[str, ...] = ()
) -> Compared:
    """The comparison of two tables of logits; `keys` name the images in it."""
    if given.shape != right.shape or not torch.isfinite(given).all():
        raise refuse(
            f"for {what} it gives {tuple(given.shape)} numbers, not all of them finite or not so many as wanted"
        )
    difference = float((given - right).abs().max()) / case.deviation
    if difference > case.bound:
        raise refuse(f"for {what} a logit differs by {difference:.2g} deviations, of {case.bound:g} allowed")
    found = tuple(disagreements(case, right, given, keys))
    if found and case.bound <= BOUNDS["float32"]:
        raise refuse(f"for {what} it answers {found[0].image} with {found[0].after}, not {found[0].before}")
    return Compared(
        what=what,
        images=len(right),
        difference=difference,
        agreement=1 - len(found) / max(1, len(right)),
        disagreements=found,
    )


def disagreements(
    case: Case, right: Float32[Tensor, "B K"], given: Float32[Tensor, "B K"], keys: tuple[str, ...]
) -> Iterator[Disagreement]:
    """Images whose first class changed, but for ties."""
    names = case.record.classes or tuple(f"class {k}" for k in range(right.shape[1]))
    for row in (right.argmax(1) != given.argmax(1)).nonzero()[:, 0].tolist():
        before, after = int(right[row].argmax()), int(given[row].argmax())
        margin = float(right[row, before] - right[row, after]) / case.deviation
        if margin > TIE:
            image = keys[row] if keys else f"image {row}"
            yield Disagreement(image=image, before=names[before], after=names[after], margin=margin)


# --- images -----------------------------------------------------------------------------------------------------------


def random_images(case: Case, batch: int, size: tuple[int, int]) -> UInt8[Tensor, "B C H W"]:
    """Coarse noise, the same each time: fine noise is averaged away by a patch."""
    draws = torch.Generator().manual_seed(batch)
    coarse = torch.rand(batch, case.record.preprocess.channels, 5, 7, generator=draws)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bilinear")
    fine = torch.rand(smooth.shape, generator=draws)
    return (255 * (0.7 * smooth + 0.3 * fine)).to(torch.uint8)


def hard_images(case: Case) -> UInt8[Tensor, "B C H W"]:
    """Noise, all black, all grey, all white, and a chess board of black and white pixels."""
    noise = random_images(case, 2, case.size)
    flat = [torch.full_like(noise[:1], value) for value in (0, 128, 255)]
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in case.size), indexing="ij")
    board = (255 * ((rows + columns) % 2)).to(torch.uint8).expand_as(noise[:1])
    return torch.cat([noise, *flat, board])


def other_sizes(case: Case) -> list[tuple[int, int]]:
    """Smaller, larger, oblong; and one that no step divides, where the model takes it."""
    if not case.candidate.exported.any_size:
        return []
    step = case.record.config.multiple
    rows, columns = (max(1, side // step) for side in case.size)
    grids = [(max(1, rows // 2), max(1, columns // 2) + 1), (rows + 1, columns + 2), (max(1, rows // 2), columns * 2)]
    sizes = [(h * step, w * step) for h, w in grids]
    return sizes + ([(rows * step + 3, columns * step + 5)] if takes_every_size(case.record.config) else [])


def refused_sizes(case: Case) -> list[tuple[int, int]]:
    """Sizes that must not be answered."""
    height, width = case.size
    step = case.record.config.multiple
    if not case.candidate.exported.any_size:
        return [(height + step, width), (height, max(step, width - step)) if width > step else (height, width + step)]
    odd = (height + 1, width)
    try:
        case.record.config.grid_at(odd)
    except ShapeError:
        return [odd]
    return []
