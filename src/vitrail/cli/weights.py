"""Weights of any origin: what is in a file, the same weights in another's format, and whether two say the same.

FILE is a run, a bundle, a published file (.npz .safetensors .pth .onnx), a folder with one, or hf:owner/name.

examples:
  vitrail weights show B_16.npz
  vitrail weights convert B_16.npz vit-b16 --to timm
  vitrail weights check B_16.npz vit-b16
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from vitrail.cli import options
from vitrail.cli.arguments import Switch, call, pairs, parse, run_group, say
from vitrail.errors import ConfigError
from vitrail.reports.tables import show

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
    from vitrail.api import weights

    show(pairs(call(weights.show_weights, asked, config=parse_config(asked.config))), asked.format, fold=PAGE)
    return 0


def convert_weights(words: Sequence[str]) -> int:
    """FILE OUT · --to google, big_vision, timm, transformers, torchvision, dinov2, mae or vitrail"""
    asked = parse(Convert, words, command="weights convert")
    from vitrail.api import weights

    print(call(weights.convert_weights, asked, config=parse_config(asked.config), say=say))
    return 0


def check_weights(words: Sequence[str]) -> int:
    """A B · the largest difference of any output, and of every tensor"""
    asked = parse(Check, words, command="weights check")
    from vitrail.api import weights

    found = call(weights.check_weights, asked, config=parse_config(asked.config))
    show(pairs(found.rows()), asked.format, fold=PAGE)
    say("they say the same" if found.same else "they do not say the same")
    return 0 if found.same else 1
