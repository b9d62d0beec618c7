"""Training steps beside timm's: the same ViT, optimiser and precision; and our defaults against timm's.

    python bench/train_step.py [--rounds 3] [--seconds 4] [--size fashion|digits] [--compiled] [--one-thread] [--json]

Claims on a CPU, two cores, 192×6 with 3 heads, patch 4 on 28×28, batch 128:
  at least timm's speed in float32 and in bf16 autocast; our defaults at least 1.5 times timm's (float32, eager, AdamW).
Ours is the whole of `learn`, loading, normalising, clipping, the guard against NaN and the log's sums included; timm's is
forward, backward and optimiser on a batch that is already there.

2026-11-21, two cores of an AMD EPYC (Zen 4), torch 2.15, timm 1.0.31, `--rounds 2 --seconds 2`, others kept 0.3 CPUs busy:
  our defaults 230.8 images/s against 137.3, 1.71 times in the median of pairs: holds.
  fp32 0.65 and bf16 0.92 times: undecided, for ours had chosen one thread beside the busy neighbour and timm's ran on two.
  By hand on equal threads: fp32 163 against 162, bf16 285 against 205 (docs/concepts/speed.md).
2026-11-30, torch 2.14, quiet, three rounds: fp32 1.12, bf16 1.40, our defaults 2.05 times: all hold.

On CUDA: ViT-B/16 and L/16 at 224, bf16, compiled both, with the share of the card's peak (MFU). Not yet run on a GPU.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence

from pairs import Measured, measure, report, take_turns

SIZES = {  # width, depth, heads, patch, image side, channels, classes, batch
    "fashion": (192, 6, 3, 4, 28, 1, 10, 128),
    "digits": (96, 4, 4, 2, 8, 1, 10, 128),
    "b16": (768, 12, 12, 16, 224, 3, 1000, 256),
    "l16": (1024, 24, 16, 16, 224, 3, 1000, 128),
}
CLAIMS = [
    ("vitrail fp32", "timm fp32", 1.0),
    ("vitrail bf16", "timm bf16", 1.0),
    ("vitrail defaults", "timm fp32", 1.5),
]
CUDA_CLAIMS = [("vitrail defaults", "timm bf16 compiled", 1.0)]
LR, DECAY = 1e-4, 0.05


def timm_step(size: str, precision: str, compiled: bool) -> Callable[[], object]:
    """As timm's own training script steps: its model, its AdamW, autocast where asked."""
    import torch
    import torch.nn.functional as F
    from timm.models.vision_transformer import VisionTransformer
    from timm.optim import create_optimizer_v2

    width, depth, heads, patch, side, channels, classes, batch = SIZES[size]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = VisionTransformer(side, patch, channels, classes, embed_dim=width, depth=depth, num_heads=heads).to(device)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=DECAY)
    forward = torch.compile(model) if compiled else model
    images = torch.randn(batch, channels, side, side, device=device)
    targets = torch.randint(0, classes, (batch,), device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.cross_entropy(forward(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def vitrail_step(size: str, precision: str, compiled: str) -> tuple[Callable[[], object], dict[str, float]]:
    """One step of the loop on the digits inside the package, resized: batches from the loader, then `learn`."""
    from vitrail.cli import settle_threads

    settle_threads()  # before torch is imported, as the command line does
    from vitrail import machine
    from vitrail.images.preprocess import Preprocess
    from vitrail.models.vit import ViTConfig
    from vitrail.processes.signals import StopSignals
    from vitrail.training.loop import learn
    from vitrail.training.nan_guard import FiniteGuard
    from vitrail.training.run import Hardware, Optim, Run
    from vitrail.training.setup import prepare

    width, depth, heads, patch, side, channels, _classes, batch = SIZES[size]
    run = Run(
        data="digits",
        model=ViTConfig(width=width, depth=depth, heads=heads, mlp_width=4 * width, patch=(patch, patch)),
        preprocess=Preprocess(size=(side, side), mean=(0.5,) * channels, std=(0.5,) * channels),
        optim=Optim(lr=LR, weight_decay=DECAY),
        batch_size=batch,
        length="100000 steps",
        hardware=Hardware(precision=precision, compile=compiled),  # pyrefly: ignore[bad-argument-type]
    )
    setup = prepare(run)
    state, guard, stop, batches = setup.state(), FiniteGuard(setup.device, None), StopSignals(), setup.batches(0)

    def step() -> None:
        learn(setup, state, next(batches), guard, stop)
        machine.synchronise(setup.device)

    peak = machine.peak_flops(setup.device, setup.dtype)
    return step, {"tflops_per_image": setup.flops_per_image / 1e12, "measured_peak_tflops": peak / 1e12}


def run_contender(name: str, size: str, seconds: float, one_thread: bool) -> None:
    who, how, *rest = name.split()
    batch = SIZES[size][-1]
    if who == "timm":
        measure(timm_step(size, how, bool(rest)), batch, seconds, one_thread=one_thread)
    else:
        precision, compiled = ("auto", "auto") if how == "defaults" else (how, "on" if rest else "off")
        step, extra = vitrail_step(size, precision, compiled)
        measure(step, batch, seconds, one_thread=one_thread, **extra)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="fashion on a CPU, b16 on CUDA unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--compiled", action="store_true", help="timm and ours compiled as well")
    parser.add_argument(
        "--one-thread", action="store_true", help="one thread, CPU time: for a machine that is never quiet"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contender:
        run_contender(asked.contender, asked.size, asked.seconds, asked.one_thread)
        return 0
    import torch

    from vitrail import hardware, machine

    cuda = torch.cuda.is_available()
    size = asked.size or ("b16" if cuda else "fashion")
    claims = CUDA_CLAIMS if cuda else CLAIMS
    names = list(dict.fromkeys(name for ours, peer, _ in claims for name in (peer, ours)))
    names += ["timm bf16 compiled", "vitrail bf16 compiled"] if asked.compiled and not cuda else []
    options = ["--size", size, "--seconds", str(asked.seconds), *["--one-thread"] * asked.one_thread]
    turns = take_turns(__file__, names, asked.rounds, options)
    facts = {"size": size, "machine": machine.describe(hardware.device()), "mfu": mfu(turns)}
    return report(turns, claims, as_json=asked.json, **facts)


def mfu(turns: Mapping[str, Sequence[Measured]]) -> dict[str, float]:
    """Share of the measured peak that each contender's useful FLOPs are; both do the same ones."""
    facts = turns["vitrail defaults"][-1].extra
    scale = facts["tflops_per_image"] / facts["measured_peak_tflops"]
    return {name: rows[-1].images_per_s * scale for name, rows in turns.items()}


if __name__ == "__main__":
    raise SystemExit(main())
