"""Each family's forward pass and training step beside timm's same model, with the same weights' shapes and inputs.

    python bench/families.py [NAME ...] [--pairs 7] [--batch 4] [--threads 1] [--channels-last] [--bf16] [--json]

Claim: at least timm's speed, forward and training step (forward, backward), eager. The two take turns call by call in one
process; the number is the median of the ratios of neighbours, so that a machine others use tells the truth too.

Last seen (2026-11-29, two quiet threads of an AMD EPYC (Zen 4), torch 2.14, timm 1.0.31): the claim holds for DINOv3; CLIP,
SigLIP, EVA-02 and PE-Core are between 0.96 and 1.06 (docs/concepts/speed.md).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from vitrail.models import zoo

PEERS = {
    "vit-s/16": "vit_small_patch16_224",
    "r50x1": "resnetv2_50x1_bit",
    "r26+vit-s/32": "vit_small_r26_s32_224",
    "r50+vit-b/16": "vit_base_r50_s16_224",
    "maxvit-t": "maxvit_tiny_tf_224",
    "clip-b/32": "vit_base_patch32_clip_quickgelu_224",
    "siglip-b/16": "vit_base_patch16_siglip_224",
    "dinov3-s/16": "vit_small_patch16_dinov3_qkvb",
    "eva02-s/14": "eva02_small_patch14_224",
    "pe-core-s/16": "vit_pe_core_small_patch16_384",
}
# what later weights add to a model of the zoo; timm's model gets as many classes and the same image
ADDED: dict[str, tuple[str, dict[str, object]]] = {
    "clip-b/32": ("vit-b/32", {"pre_norm": True, "activation": "gelu-quick"}),
    "siglip-b/16": ("vit-b/16", {"pool": "map"}),
    "dinov3-s/16": ("vit-s/16", {"positions": "rotary", "registers": 4, "layer_scale": 1e-5, "pool": "mean", "class_token": True}),
    "eva02-s/14": (
        "vit-s/14", {"rotary": "eva02", "rotary_grid": 16, "activation": "swiglu", "mlp_width": 1024, "pool": "mean",
                     "class_token": True, "final_norm": "pooled"}
    ),
    "pe-core-s/16": (
        "vit-s/16", {"rotary": "pe", "rotary_grid": 24, "pre_norm": True, "pool": "map", "class_token": True,
                     "pool_prefix": True, "pool_heads": 8, "image": 384}
    ),
}  # fmt: skip


def forward(model: torch.nn.Module, images: torch.Tensor, precision: torch.dtype | None) -> Callable[[], object]:
    model.eval()

    def call() -> object:
        with torch.inference_mode(), _autocast(images, precision):
            return model(images).sum().item()

    return call


def training(model: torch.nn.Module, images: torch.Tensor, precision: torch.dtype | None) -> Callable[[], object]:
    targets = torch.arange(len(images), device=images.device)

    def call() -> object:
        model.train()
        with _autocast(images, precision):
            loss = F.cross_entropy(model(images), targets)
        loss.backward()
        model.zero_grad()
        return loss.item()

    return call


def _autocast(images: torch.Tensor, precision: torch.dtype | None) -> torch.autocast:
    return torch.autocast(images.device.type, precision or torch.bfloat16, enabled=precision is not None)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()  # ends with .item(): what runs on a device has run
    return time.perf_counter() - start


def compare(ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> tuple[float, float, float]:
    """(seconds of Vitrail, seconds of the peer, median over pairs of peer / Vitrail)."""
    for call in (ours, theirs):
        call()
    times = [(seconds(ours), seconds(theirs)) for _ in range(pairs)]
    mine, others = (statistics.median(column) for column in zip(*times, strict=True))
    return mine, others, statistics.median(other / mine for mine, other in times)


def rows(asked: argparse.Namespace, device: torch.device) -> list[dict[str, object]]:
    import timm

    found = []
    for name in asked.names or PEERS:
        base, added = ADDED.get(name, (name, {}))
        ours = zoo.build(base, **added)
        models = ours.to(device), timm.create_model(PEERS[name], num_classes=1000).to(device)
        images = torch.randn(asked.batch, 3, *ours.config.image, device=device)
        if asked.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
            models = tuple(model.to(memory_format=torch.channels_last) for model in models)
        for what in (forward, training):
            calls = [what(model, images, torch.bfloat16 if asked.bf16 else None) for model in models]
            mine, others, ratio = compare(*calls, asked.pairs)
            found.append(dict(model=name, what=what.__name__, vitrail_ms=1e3 * mine, timm_ms=1e3 * others, ratio=ratio))
            print(
                f"{name:14} {what.__name__:9} {1e3 * mine:9.1f} {1e3 * others:9.1f} ms  {ratio:5.2f}×", file=sys.stderr
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PEERS))
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--bf16", action="store_true", help="autocast")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{'model':14} {'what':9} {'vitrail':>9} {'timm':>9}     timm / vitrail", file=sys.stderr)
    found = rows(asked, device)
    if asked.json:
        print(json.dumps(found, indent=2))
    return int(any(row["ratio"] < 1 for row in found))


if __name__ == "__main__":
    raise SystemExit(main())
