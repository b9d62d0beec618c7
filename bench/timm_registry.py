"""How many of timm's published ViTs are read exactly: every name of its registry, outputs compared in float64.

    python bench/timm_registry.py [PATTERN ...] [--modules eva …] [--json FILE]

Each architecture is built by timm with random weights, two blocks and an image of four patches a side, and is read from
its own tensors and the config.json that timm would write. Read exactly: the outputs differ by 1e-12 of the largest at most.
Refused: an error names the reason. None may be read as another function.
"""

import argparse
import collections
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch

from vitrail.models import zoo
from vitrail.weights import recognise  # fills ORIGINS
from vitrail.weights.fit import fit
from vitrail.weights.origin import ORIGINS

MODULES = (
    "vision_transformer", "eva", "deit", "beit", "vision_transformer_relpos", "vision_transformer_sam", "hiera", "cait", "naflexvit"
)  # fmt: skip
LIMIT = 1e-12


def build(name: str) -> tuple[torch.nn.Module, int | None]:
    """timm's model with random weights, small where its constructor allows it; and the side of its image if that is small."""
    import timm

    patch = (
        getattr(timm.create_model(name, depth=1, device="meta"), "patch_embed", None) if _takes(name, "depth") else None
    )
    side = 4 * patch.patch_size[0] if patch is not None and hasattr(patch, "patch_size") else None
    any_size = {"dynamic_img_size": True}  # else rotary positions are kept in float32
    for wanted in ({"depth": 2, "img_size": side, **any_size}, {"depth": 2, "img_size": side}, {"img_size": side}, {}):
        if None in wanted.values():
            continue
        try:
            return timm.create_model(name, **wanted), wanted.get("img_size")
        except (TypeError, AssertionError, RuntimeError):
            continue
    raise ValueError("timm cannot build it")


def _takes(name: str, argument: str) -> bool:
    import timm

    try:
        timm.create_model(name, **{argument: 1}, device="meta")
    except Exception:
        return False
    return True


@torch.no_grad()
def compare(name: str) -> str:
    """ "exact", or why not."""
    import timm

    model, side = build(name)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.normal_(std=0.2, generator=generator)
    model.eval()
    if (rope := getattr(model, "rope", None)) is not None:  # timm rounds cosines and sines to float32 in any model
        get = rope.get_embed
        rope.get_embed = lambda shape=None, **_: get(shape, dtype=torch.float64)
    about = timm.get_pretrained_cfg(name).to_dict()
    told: dict[str, Any] = {"architecture": name.partition(".")[0], "pretrained_cfg": about}
    told |= {"num_classes": model.num_classes, "global_pool": getattr(model, "global_pool", "")}
    told |= {"model_args": {"img_size": side}} if side else {}
    facts = ORIGINS["timm"].read_json(told, Path("config.json"))
    tensors = dict(model.state_dict())
    _, foreign = recognise.read_foreign(tensors, where=name, told=facts.config if facts else {})
    ours: Any = zoo.skeleton(foreign.config)
    fit(ours, foreign.tensors, where=name)
    images = torch.randn(1, foreign.config.channels, *foreign.config.image, generator=generator).double()
    one, two = ours.eval().double()(images), model.double()(images)
    difference = float((one - two).abs().max() / two.abs().max().clamp_min(1.0))
    return "exact" if difference <= LIMIT else f"another function: outputs differ by {difference:.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--modules", nargs="+", default=MODULES, metavar="MODULE", help=", ".join(MODULES))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    import timm

    torch.set_num_threads(1)
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    done: dict[str, str] = {}
    for module in asked.modules:
        for name in timm.list_models(asked.patterns, module=module, pretrained=True):
            key = name.partition(".")[0]
            if key not in done:
                try:
                    done[key] = compare(name)
                except Exception as error:
                    done[key] = re.sub(r"^\S+ ", "", f"{name}: {error}".removeprefix(f"{name}: "))[:160]
            found[module][name] = done[key]
            print(f"{name:60} {done[key]}", file=sys.stderr, flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))
    wrong = 0
    for module, rows in found.items():
        exact = sum(what == "exact" for what in rows.values())
        wrong += sum(what.startswith("another function") for what in rows.values())
        print(f"{module:28} {exact:4} of {len(rows):4} read exactly")
    total, exact = sum(map(len, found.values())), sum(w == "exact" for rows in found.values() for w in rows.values())
    print(f"{'all':28} {exact:4} of {total:4} read exactly, {wrong} read as another function")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
