"""Looking inside: what attention distance and attention maps cost beside the forward pass they watch.

    python bench/inspection.py [distance] [maps] [large] [--images 128] [--threads 2] [--json]

distance: attention distance of ViT-B/16 on 128 images at 224 pixels, beside a plain forward pass of them; aim: at most 1.5×.
maps: attention maps of all layers, beside timm's forward with fused attention off, which has the same maps; aim: at most 1.3×.
large: maps of a layer, distances and rollout of one image of 1024 pixels; aim: under 2 GiB, weights and torch included.

The two sides alternate in one process, batch by batch; the ratio is that of the medians.
"""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the command line does: waiting threads must not spin

import torch

from vitrail.inspection.heads import heads
from vitrail.inspection.maps import attention, rollout_of
from vitrail.models.zoo import build

BATCH = 16


def paired(ours: Callable[[], object], theirs: Callable[[], object], times: int) -> tuple[float, float]:
    """Median seconds of each; one call of both first, then in turns."""
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(times + 1):
        for work, seconds in zip((ours, theirs), found, strict=True):
            began = time.perf_counter()
            work()
            if turn:
                seconds.append(time.perf_counter() - began)
    return statistics.median(found[0]), statistics.median(found[1])


def distance(images: int) -> dict[str, float | str]:
    model, batch = build("vit-b/16").eval(), torch.randn(BATCH, 3, 224, 224)

    @torch.no_grad()
    def forward() -> None:
        model(batch)

    watched, plain = paired(lambda: heads(model, batch), forward, images // BATCH)
    return {"claim": "attention distance / plain forward", "ratio": watched / plain, "aim": 1.5, "seconds": plain}


def maps(images: int) -> dict[str, float | str]:
    import timm.layers

    timm.layers.set_fused_attn(False)
    theirs = timm.create_model("vit_base_patch16_224").eval()
    ours, batch = build("vit-b/16").eval(), torch.randn(8, 3, 224, 224)

    @torch.no_grad()
    def forward() -> None:
        theirs(batch)

    seen, plain = paired(lambda: attention(ours, batch), forward, max(3, images // 16))
    return {
        "claim": "all attention maps / timm without fused attention",
        "ratio": seen / plain,
        "aim": 1.3,
        "seconds": plain,
    }


def large(_: int) -> dict[str, float | str]:
    model, image = build("vit-b/16", image=1024).eval(), torch.randn(1, 3, 1024, 1024)
    attention(model, image, layers=[-1], queries=[0, 2048])
    heads(model, image)
    rollout_of(model, image)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"claim": "peak GiB of one image of 1024 pixels", "ratio": peak, "aim": 2.0, "seconds": 0.0}


CLAIMS = {"large": large, "distance": distance, "maps": maps}  # the first one measures the peak of the process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", default=[*CLAIMS])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, claim in CLAIMS.items():
        if name in arguments.which:
            found = claim(arguments.images)
            line = f"{found['claim']}: {found['ratio']:.2f} (aim: at most {found['aim']})"
            print(json.dumps(found) if arguments.json else line, flush=True)


if __name__ == "__main__":
    main()
