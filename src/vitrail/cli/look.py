"""`vitrail look`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vitrail.cli.arguments import Switch, call, check_writable, parse, say
from vitrail.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LookWords:
    """Lays a heat map over your photo: bright is what the model's answer rests on.

    A map is an opinion of one method. Compare it with another before you believe it.

    examples:
      vitrail look runs/photos-1 photo.jpg
      vitrail look runs/photos-1 photo.jpg --of cat --out cat.html
      vitrail look runs/photos-1 photo.jpg another.jpg --method rollout
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files and folders."""
    of: str | None = None
    """The class that is explained, in place of the model's answer."""
    method: Literal["auto", "relevance", "grad-cam", "rollout"] = "auto"
    """auto: relevance for a ViT, else grad-cam."""
    size: tuple[int, int] | None = None
    """Height and width in pixels the images are brought to, in place of the model's own."""
    out: Path = Path("look.png")
    """A picture (.png) or a page (.html)."""
    device: str = "auto"
    json: Switch = False
    """The answers and the maps as JSON."""


def main(words: Sequence[str]) -> int:
    asked = parse(LookWords, words, command="look")

    from vitrail.api.look import look

    if not asked.images:
        raise ConfigError("no images were named", next_step=f"try `vitrail look {asked.model} photo.jpg`")
    if asked.out.suffix not in (".png", ".html"):
        raise ConfigError(f"--out {asked.out}", allowed="a name that ends with .png or .html")
    check_writable(asked.out)
    found = call(look, asked, out=None)
    for one in found.looks:
        say(f"{one.key}: {one.label} {one.probability:.1%} ({one.method})")
    if asked.json:
        names = ("key", "label", "probability", "method")
        print(json.dumps([{n: getattr(one, n) for n in names} | {"map": one.map.tolist()} for one in found.looks]))
    page = found.write(asked.out)
    if not asked.json:
        print(page)
    return 0
