"""Weights of any origin: what is in a file, the same weights in another's format, and whether two say the same.

FILE is a run, a bundle, a published file (.npz .safetensors .pth .onnx), a folder with one, or hf:owner/name.

examples:
  vitrail weights show B_16.npz
  vitrail weights convert B_16.npz vit-b16 --to timm
  vitrail weights check B_16.npz vit-b16
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from vitrail.cli import options
from vitrail.cli.arguments import Switch, pairs, parse, run_group, say
from vitrail.errors import ConfigError
from vitrail.reports.tables import show

if TYPE_CHECKING:
    from vitrail.weights.record import Record, Weights

PAGE = 100
"""Columns of the tables here where no terminal says: configs and notes are prose."""


@dataclass(frozen=True, kw_only=True)
class ShowFile(options.Show):
    """Says what a weights file holds, and what of that was in it, beside it, or is its origin's default.

    examples:
      vitrail weights show B_16.npz
      vitrail weights show mae_pretrain_vit_base_full.pth --tensors
      vitrail weights show odd.pth --config '{"heads": 4}'
    """

    file: tyro.conf.Positional[str]
    config: str = ""
    """Fields of the model's config as JSON, or a JSON file: what a bare file cannot say."""
    tensors: Switch = False
    """List every tensor, under our names."""


@dataclass(frozen=True)
class Convert:
    """Writes weights under another library's names, bit for bit; says what such a file cannot say.

    Refused where the other's code would compute something else of the same tensors.

    examples:
      vitrail weights convert B_16.npz vit-b16 --to transformers
      vitrail weights convert runs/photos-1 photos.safetensors --to timm
      vitrail weights convert dinov2_vits14_pretrain.pth dino --to vitrail --image 224
    """

    file: tyro.conf.Positional[str]
    out: tyro.conf.Positional[Path]
    """A .npz (google, big_vision) or .safetensors file; a folder for timm, transformers and vitrail."""
    to: str = "vitrail"
    """google, big_vision, timm, transformers, torchvision, dinov2, mae, or vitrail for a bundle."""
    config: str = ""
    """Fields of the model's config as JSON, or a JSON file: what a bare file cannot say."""
    image: int = 0
    """Resize positions for square images of so many pixels; 0 leaves them."""


@dataclass(frozen=True, kw_only=True)
class Check(options.Show):
    """Runs two models in float64 on the same fixed images and compares all they say; exit code 1 where they differ.

    examples:
      vitrail weights check B_16.npz converted/
      vitrail weights check one.pth two.safetensors --config '{"heads": 4}' --tolerance 1e-6
    """

    first: tyro.conf.Positional[str]
    second: tyro.conf.Positional[str]
    config: str = ""
    """Fields of both configs as JSON, or a JSON file."""
    tolerance: float = 1e-9
    """How far outputs may differ, as a share of the largest."""


def main(words: Sequence[str]) -> int:
    return run_group(
        "weights", __doc__, {"show": show_weights, "convert": convert_weights, "check": check_weights}, words
    )


def parse_config(text: str) -> Mapping[str, Any] | None:
    """The fields in `--config`: JSON, or a file of it."""
    from vitrail import config

    if not text:
        return None
    try:
        found = config.parse_json(text) if text.lstrip().startswith("{") else config.read_object(Path(text))
    except ValueError as error:
        raise ConfigError(
            f"--config {text!r} ({error})", allowed='JSON such as {"heads": 12}, or a file of it'
        ) from None
    if not isinstance(found, dict):
        raise ConfigError(f"--config {text!r}", allowed='a JSON object such as {"heads": 12}')
    return found


def show_weights(words: Sequence[str]) -> int:
    """FILE · origin, architecture, preprocessing, classes, licence; every tensor with --tensors"""
    asked = parse(ShowFile, words, command="weights show")
    from vitrail.weights.bundle import read
    from vitrail.weights.fit import shape

    weights = read(asked.file, config=parse_config(asked.config))
    rows = list(facts(weights))
    if asked.tensors:
        rows += [(name, f"{shape(tensor)} {str(tensor.dtype)[6:]}") for name, tensor in weights.tensors.items()]
    show(pairs(rows), asked.format, fold=PAGE)
    return 0


def facts(weights: "Weights") -> Iterator[tuple[str, Any]]:
    """The rows of `show`."""
    from vitrail import config
    from vitrail.models import cost
    from vitrail.weights.files.safe import not_finite

    record, tensors = weights.record, weights.tensors
    made = record.config
    yield "source", record.source
    yield "inside", made.contents
    yield "family", made.family
    yield "model", find_name(record)
    yield "parameters", f"{cost.count_parameters(made):,}"
    yield "config", ", ".join(f"{name} {value}" for name, value in config.to_dict(made).items() if name != "family")
    yield "preprocessing", ", ".join(f"{name} {value}" for name, value in config.to_dict(record.preprocess).items())
    yield "classes", ", ".join(record.classes[:5]) + (" …" if len(record.classes) > 5 else "") or "no names"
    yield "licence", record.licence or "unknown"
    yield from {**record.training, **record.scores}.items()
    yield "tensors", ", ".join(f"{n} {str(kind)[6:]}" for kind, n in Counter(t.dtype for t in tensors.values()).items())
    bad = not_finite(tensors)
    yield "NaN or infinite", ", ".join(f"{name} ({count:,})" for name, count in bad.items()) or "none"
    yield "sha256", record.sha256
    for note in record.notes:
        yield "note", note


def find_name(record: "Record") -> str:
    """The name of the zoo with the same sizes, if one has them."""
    from vitrail.models import zoo

    sizes = ("width", "depth", "heads", "mlp_width", "patch", "depths", "widths", "root_width", "stem")

    def of(made: object) -> list[Any]:
        return [getattr(made, name, None) for name in sizes]

    wanted = of(record.config.encoder)
    return next((name for name, entry in zoo.ZOO.items() if of(entry.config) == wanted), "of no name")


def convert_weights(words: Sequence[str]) -> int:
    """FILE OUT · --to google, big_vision, timm, transformers, torchvision, dinov2, mae or vitrail"""
    asked = parse(Convert, words, command="weights convert")
    from vitrail.weights.bundle import read, refuse_nonfinite, resized
    from vitrail.weights.convert import convert

    weights = read(asked.file, config=parse_config(asked.config))
    refuse_nonfinite(weights, asked.file)
    changed = resized(weights, asked.image or None)
    notes = convert(changed, asked.out, asked.to)
    for line in (*dict.fromkeys((*weights.record.notes, *notes)), *changes(weights, changed)):
        say(line)
    print(asked.out)
    return 0


def changes(old: "Weights", new: "Weights") -> Iterator[str]:
    """The tensors that were kept and those that were resized."""
    from vitrail.weights.fit import shape

    pairs_of = [(name, tensor, new.tensors[name]) for name, tensor in old.tensors.items()]
    other = [f"{name} {shape(one)} → {shape(two)}" for name, one, two in pairs_of if one is not two]
    yield f"{len(pairs_of) - len(other)} tensors kept bit for bit"
    if other:
        yield f"resized {', '.join(other)}"


def check_weights(words: Sequence[str]) -> int:
    """A B · the largest difference of any output, and of every tensor"""
    asked = parse(Check, words, command="weights check")
    from vitrail.weights.bundle import read
    from vitrail.weights.compare import compare

    first, second = (read(path, config=parse_config(asked.config)) for path in (asked.first, asked.second))
    found = compare(first, second)
    same = found.logits <= asked.tolerance * max(1.0, found.largest)
    rows: list[tuple[str, Any]] = [
        ("largest difference of an output", f"{found.logits:.3g}"),
        ("largest output", f"{found.largest:.3g}"),
        ("tensors with the same bits", len(found.equal)),
    ]
    rest = {name: value for name, value in asdict(found).items() if isinstance(value, tuple) and name != "equal"}
    rows += [(name.replace("_", " "), "; ".join(value) or "none") for name, value in rest.items()]
    show(pairs(rows), asked.format, fold=PAGE)
    say("they say the same" if same else "they do not say the same")
    return 0 if same else 1
