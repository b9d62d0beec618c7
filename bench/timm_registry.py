"""How many of timm's published ViTs are read exactly: every name of its registry, outputs compared in float64.

    python bench/timm_registry.py [PATTERN ...] [--modules eva …] [--json FILE]

Each architecture is built by timm with random weights, an image of four patches a side and two blocks (all blocks where
its constructor takes no depth: a column says how many), and is read from its own tensors and the config.json that timm
would write. Read exactly: the outputs differ by 1e-12 of the largest at most. Refused: an error names the reason. None may
be read as another function.

timm 1.0.31, torch 2.14, one thread of an AMD EPYC (Zen 4), 2026-11-29, a process each (--modules): 281 of 309 in
vision_transformer, 70 of 83 in eva (PE-Core G in a run of its own, after its switch), 24 of 24 in deit, 11 of 14 in
vision_transformer_hybrid, 0 of 62 in the others; none read as another function. 2.8 minutes and 1.9 GB for the first.
Before rotary positions, CLIP's first norm and inner norms: 220 of 467 (counted in timm's source).
"""

import argparse
import collections
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from vitrail.errors import VitrailError
from vitrail.models import zoo
from vitrail.weights import recognise  # fills ORIGINS
from vitrail.weights.fit import fit
from vitrail.weights.origin import ORIGINS
from vitrail.weights.origins.timm_config import read_architecture

MODULES = (
    "vision_transformer", "eva", "deit", "beit", "vision_transformer_relpos", "vision_transformer_sam", "hiera", "cait",
    "naflexvit", "vision_transformer_hybrid",
)  # fmt: skip
LIMIT = 1e-12


def build(name: str) -> tuple[Any, int | None]:
    """timm's model with random weights, small where its constructor allows it; and the side of its image if that is small."""
    import timm

    patch = None
    with contextlib.suppress(Exception):
        patch = timm.create_model(name, depth=1, device="meta").patch_embed
    side = 4 * patch.patch_size[0] if hasattr(patch, "patch_size") else None
    two, any_size = {"depth": 2}, {"dynamic_img_size": True}  # else rotary positions are kept in float32
    small = {"img_size": side}
    for wanted in (two | small | any_size, two | small, two, small, {}) if side else (two, {}):
        with contextlib.suppress(TypeError, AssertionError, RuntimeError, ValueError):
            return timm.create_model(name, **wanted), wanted.get("img_size")
    raise ValueError("timm cannot build it")


def shaken(name: str) -> tuple[Any, int | None]:
    """`build`, with no parameter at zero or one, where it would hide, and cosines of rotary positions in float64."""
    model, side = build(name)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.normal_(std=0.2, generator=generator)
    if (rope := getattr(model, "rope", None)) is not None:  # timm rounds cosines and sines to float32 in any model
        get = rope.get_embed
        rope.get_embed = lambda shape=None, **_: get(shape, dtype=torch.float64)
    return model.eval(), side


def read(name: str, model: Any, side: int | None) -> Any:
    """Vitrail's model of timm's tensors, and of what its config.json says."""
    told: dict[str, Any] = {"architecture": name.partition(".")[0]}
    told |= {"pretrained_cfg": timm_facts(name), "num_classes": model.num_classes}
    told |= {"global_pool": getattr(model, "global_pool", "")} | ({"model_args": {"img_size": side}} if side else {})
    facts = ORIGINS["timm"].read_json(told, Path("config.json"))
    _, foreign = recognise.read_foreign(dict(model.state_dict()), where=name, told=facts.config if facts else {})
    ours = zoo.skeleton(foreign.config)
    fit(ours, foreign.tensors, where=name)
    return ours.eval()


def timm_facts(name: str) -> dict[str, Any]:
    import timm

    return timm.get_pretrained_cfg(name).to_dict()


@torch.no_grad()
def compare(name: str) -> tuple[str, int]:
    """("exact", or why not; the blocks that were built, 0 where the name was enough to refuse it)."""
    read_architecture(name.partition(".")[0])  # refused by name: giants need not be built
    model, side = shaken(name)
    depth = len(getattr(model, "blocks", ()))
    try:
        ours = read(name, model, side)
    except VitrailError as error:
        return str(error).removeprefix(f"{name}: ").removeprefix(name).strip(), depth
    images = torch.randn(1, 3, *ours.config.image, generator=torch.Generator().manual_seed(2)).double()
    one = ours.double()(images)
    del ours
    two = model.double()(images)
    difference = float((one - two).abs().max() / two.abs().max().clamp_min(1.0))
    return ("exact" if difference <= LIMIT else f"another function: outputs differ by {difference:.1e}"), depth


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patterns", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--modules", nargs="+", default=MODULES, metavar="MODULE", help=", ".join(MODULES))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    import timm

    torch.set_num_threads(1)
    found: dict[str, dict[str, tuple[str, int]]] = collections.defaultdict(dict)
    done: dict[str, tuple[str, int]] = {}
    for module in asked.modules:
        for name in sorted({n for p in asked.patterns for n in timm.list_models(p, module=module, pretrained=True)}):
            key = name.partition(".")[0]
            if key not in done:
                try:
                    done[key] = compare(name)
                except VitrailError as error:
                    done[key] = str(error), 0
            found[module][name] = done[key]
            print(f"{name:60} {done[key][1]:3} blocks  {done[key][0][:160]}", file=sys.stderr, flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))
    return report(found)


def report(found: dict[str, dict[str, tuple[str, int]]]) -> int:
    """Prints a line for each module of timm; 1 where a file was read as another function."""
    print(f"{'module of timm':28} {'exact':>5} {'of':>5} {'other function':>15}")
    found = {**found, "all": {name: row for rows in found.values() for name, row in rows.items()}}
    wrong = 0
    for module, rows in found.items():
        exact = sum(what == "exact" for what, _ in rows.values())
        wrong = sum(what.startswith("another function") for what, _ in rows.values())
        print(f"{module:28} {exact:5} {len(rows):5} {wrong:15}")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
