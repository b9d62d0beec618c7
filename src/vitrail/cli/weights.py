"""Weights of any origin: what is in a file, the same weights in another's format, and whether two are identical.

FILE is a run, a bundle, a published file (.npz .safetensors .pth .onnx), a folder with one, or hf:owner/name.

examples:
  vitrail weights show B_16.npz
  vitrail weights convert B_16.npz vit-b16 --to timm
  vitrail weights check B_16.npz vit-b16
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrail.cli.arguments import call, pairs, parse, run_group, say
from vitrail.cli.options import Show, options_of
from vitrail.errors import ConfigError
from vitrail.reports.tables import show

PAGE = 100
"""Columns of the tables here where no terminal says: configs and notes are prose."""


def main(words: Sequence[str]) -> int:
    return run_group(
        "weights", __doc__, {"show": show_weights, "convert": convert_weights, "check": check_weights}, words
    )


def parse_config(text: str | None) -> Mapping[str, Any] | None:
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
    """FILE · Says what a weights file holds, and what of that was in it, beside it, or is its origin's default.

    examples:
      vitrail weights show B_16.npz
      vitrail weights show mae_pretrain_vit_base_full.pth --tensors
      vitrail weights show odd.pth --config '{"heads": 4}'
    """
    asked = parse(options_of("show_weights", show_weights.__doc__, Show), words, command="weights show")
    from vitrail.api import weights

    show(pairs(call(weights.show_weights, asked, config=parse_config(asked.config))), asked.format, fold=PAGE)
    return 0


def convert_weights(words: Sequence[str]) -> int:
    """FILE OUT · Writes weights under another library's names, bit for bit; says what such a file cannot say.

    Refused where the other's code would compute something else of the same tensors.

    examples:
      vitrail weights convert B_16.npz vit-b16 --to transformers
      vitrail weights convert runs/photos-1 photos.safetensors --to timm
      vitrail weights convert dinov2_vits14_pretrain.pth dino --to vitrail --image 224
    """
    asked = parse(options_of("convert_weights", convert_weights.__doc__), words, command="weights convert")
    from vitrail.api import weights

    print(call(weights.convert_weights, asked, config=parse_config(asked.config), say=say))
    return 0


def check_weights(words: Sequence[str]) -> int:
    """A B · Runs two models in float64 on the same fixed images and compares all outputs; exit code 1 where they differ.

    examples:
      vitrail weights check B_16.npz converted/
      vitrail weights check one.pth two.safetensors --config '{"heads": 4}' --tolerance 1e-6
    """
    asked = parse(options_of("check_weights", check_weights.__doc__, Show), words, command="weights check")
    from vitrail.api import weights

    found = call(weights.check_weights, asked, config=parse_config(asked.config))
    show(pairs(found.rows()), asked.format, fold=PAGE)
    say("they are identical" if found.same else "they are not identical")
    return 0 if found.same else 1
