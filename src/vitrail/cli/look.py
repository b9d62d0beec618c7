"""Lays a heat map over your photo: bright is what the model's answer rests on.

A map is an opinion of one method. Compare it with another before you believe it.

examples:
  vitrail look runs/photos-1 photo.jpg
  vitrail look runs/photos-1 photo.jpg --of cat --out cat.html
  vitrail look runs/photos-1 photo.jpg another.jpg --method rollout
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.cli.arguments import Switch, call, check_writable, parse, say
from vitrail.cli.options import options_of
from vitrail.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Json:
    """How the answers are printed."""

    json: Switch = False
    """The answers and the maps as JSON."""


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("look", __doc__, Json), words, command="look")

    from vitrail.api.look import look

    if not asked.images:
        raise ConfigError("no images were named", next_step=f"try `vitrail look {asked.model} photo.jpg`")
    out = asked.out or Path("look.png")
    if out.suffix not in (".png", ".html"):
        raise ConfigError(f"--out {out}", allowed="a name that ends with .png or .html")
    check_writable(out)
    found = call(look, asked, out=None)
    for one in found.looks:
        say(f"{one.key}: {one.answer} ({one.method})")
    if asked.json:
        names = ("key", "label", "probability", "value", "method")
        print(json.dumps([{n: getattr(one, n) for n in names} | {"map": one.map.tolist()} for one in found.looks]))
    page = found.write(out)
    if not asked.json:
        print(page)
    return 0
