"""`vitrail.show_weights`, `convert_weights` and `check_weights`: what is in a file, its formats, and whether two are the same."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitrail import config as configs
from vitrail.arguments import Say
from vitrail.models import cost, zoo
from vitrail.weights.bundle import read, refuse_nonfinite, resized
from vitrail.weights.compare import Difference, compare
from vitrail.weights.convert import convert
from vitrail.weights.files.safe import not_finite
from vitrail.weights.fit import shape
from vitrail.weights.record import Record, Weights
from vitrail.weights.trained_on import copy_trained_keys, refuse_run

Told = Mapping[str, Any] | None
"""Fields of the model's config that a bare file cannot say."""


def show_weights(file: str | Path, *, config: Told = None, tensors: bool = False) -> list[tuple[str, Any]]:
    """The contents of a weights file as rows (what, value): origin, sizes, preprocessing, classes, licence, damaged numbers, notes.

        dict(vitrail.show_weights("B_16.npz"))["parameters"]

    Raises WeightsError.

    Args:
        tensors: List every tensor, under our names.
    """
    weights = read(file, config=config)
    rows = list(facts(weights))
    if tensors:
        rows += [(name, f"{shape(tensor)} {str(tensor.dtype)[6:]}") for name, tensor in weights.tensors.items()]
    return rows


def facts(weights: Weights) -> Iterator[tuple[str, Any]]:
    """The rows on a file as a whole."""
    record, tensors = weights.record, weights.tensors
    made = record.config
    yield "source", record.source
    yield "inside", made.contents
    yield "family", made.family
    yield "model", find_name(record)
    yield "parameters", f"{cost.count_parameters(made):,}"
    yield "config", ", ".join(f"{name} {value}" for name, value in configs.to_dict(made).items() if name != "family")
    yield "preprocessing", ", ".join(f"{name} {value}" for name, value in configs.to_dict(record.preprocess).items())
    yield "classes", ", ".join(record.classes[:5]) + (" …" if len(record.classes) > 5 else "") or "no names"
    yield "licence", record.licence or "unknown"
    yield from {**record.training, **record.scores}.items()
    yield "tensors", ", ".join(f"{n} {str(kind)[6:]}" for kind, n in Counter(t.dtype for t in tensors.values()).items())
    bad = not_finite(tensors)
    yield "NaN or infinite", ", ".join(f"{name} ({count:,})" for name, count in bad.items()) or "none"
    yield "sha256", record.sha256
    for note in record.notes:
        yield "note", note


def find_name(record: Record) -> str:
    """The name of the zoo with the same sizes, if one has them."""
    sizes = ("width", "depth", "heads", "mlp_width", "patch", "depths", "widths", "root_width", "stem")

    def of(made: object) -> list[Any]:
        return [getattr(made, name, None) for name in sizes]

    wanted = of(record.config.encoder)
    return next((name for name, entry in zoo.ZOO.items() if of(entry.config) == wanted), "of no name")


def convert_weights(
    file: str | Path, out: str | Path, *, to: str = "vitrail", config: Told = None, image: int = 0,
    say: Say = lambda text: None,
) -> Path:  # fmt: skip
    """Writes weights under another library's names, bit for bit, and gives `out`.

        vitrail.convert_weights("B_16.npz", "vit-b16", to="timm")

    `say` hears what such a file cannot say. A folder also gets trained.keys, where the weights have it. Raises WeightsError,
    and ConfigError for the folder of a run or of other weights.

    Args:
        out: A .npz (google, big_vision) or .safetensors file; a folder for timm, transformers and vitrail.
        to: google, big_vision, timm, transformers, torchvision, dinov2, mae, or vitrail for a bundle.
        image: Resize positions for square images of so many pixels; 0 leaves them.
    """
    weights = read(file, config=config)
    refuse_nonfinite(weights, str(file))
    changed = resized(weights, image or None)
    refuse_run(Path(out))
    notes = convert(changed, Path(out), to)
    if Path(out).is_dir():
        copy_trained_keys(file, Path(out))
    for line in (*dict.fromkeys((*weights.record.notes, *notes)), *changes(weights, changed)):
        say(line)
    return Path(out)


def changes(old: Weights, new: Weights) -> Iterator[str]:
    """The tensors that were kept and those that were resized."""
    pairs_of = [(name, tensor, new.tensors[name]) for name, tensor in old.tensors.items()]
    other = [f"{name} {shape(one)} → {shape(two)}" for name, one, two in pairs_of if one is not two]
    yield f"{len(pairs_of) - len(other)} tensors kept bit for bit"
    if other:
        yield f"resized {', '.join(other)}"


@dataclass(frozen=True)
class Checked:
    """How far the answers of two models are from each other."""

    found: Difference
    same: bool
    """Whether all outputs are within the tolerance."""

    def rows(self) -> list[tuple[str, Any]]:
        found = self.found
        lists = {name: value for name, value in asdict(found).items() if isinstance(value, tuple) and name != "equal"}
        return [
            ("largest difference of an output", f"{found.logits:.3g}"),
            ("largest output", f"{found.largest:.3g}"),
            ("tensors with the same bits", len(found.equal)),
            *((name.replace("_", " "), "; ".join(value) or "none") for name, value in lists.items()),
        ]


def check_weights(first: str | Path, second: str | Path, *, config: Told = None, tolerance: float = 1e-9) -> Checked:
    """Runs two models in float64 on the same fixed images and compares all their outputs.

        vitrail.check_weights("B_16.npz", "converted").same

    Raises WeightsError.

    Args:
        config: Fields of both configs as JSON, or a JSON file.
        tolerance: How far outputs may differ, as a share of the largest.
    """
    one, two = (read(path, config=config) for path in (first, second))
    found = compare(one, two)
    return Checked(found, found.logits <= tolerance * max(1.0, found.largest))
