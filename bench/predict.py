"""Prediction beside timm's: ViT-B/16 at 224 pixels, our default against timm in eager float32, and whether both say the same.

    python bench/predict.py [--rounds 3] [--seconds 6] [--batch 32] [--one-thread] [--json]
    python bench/predict.py --agreement PHOTOS [--model vit-b/16] [--images 800]

Claims on a CPU with bf16 instructions: at least 1.8 times timm's eager float32; top-1 agreement of bf16 with float32 at
least 99.5 % on real images.

Not yet measured on a quiet machine.

Agreement of untrained answers would mean nothing (their classes are near-ties), so a head is fitted first: ridge
regression from the float32 features of one half of the photographs to the names of their folders. Its answers on the
other half, from features in either precision, are compared. PHOTOS is a folder of class folders.
"""

import argparse
import json
from collections.abc import Callable

from pairs import measure, report, take_turns

CLAIMS = [("vitrail defaults", "timm fp32", 1.8), ("vitrail fp32", "timm fp32", 1.0)]
CUDA_CLAIMS = [("vitrail defaults", "timm bf16 compiled", 1.0)]


def timm_step(how: str, compiled: bool, batch: int) -> Callable[[], object]:
    import timm
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224").eval().to(device)
    model = torch.compile(model) if compiled else model
    images = torch.randn(batch, 3, 224, 224, device=device)

    def step() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=how == "bf16"):
            model(images).softmax(1).float().cpu()

    return step


def vitrail_step(precision: str, batch: int) -> Callable[[], object]:
    """The work of `vitrail predict` on a batch that has been read: 8-bit pixels in, the five likeliest classes out."""
    from vitrail.cli import settle_threads

    settle_threads()
    import torch

    from vitrail import hardware
    from vitrail.images.preprocess import Preprocess
    from vitrail.models import zoo
    from vitrail.prediction.engine import TorchEngine
    from vitrail.prediction.predict import best_classes

    device = hardware.device()
    model = zoo.build("vit-b/16").to(device)
    with torch.no_grad():
        model.head.weight.normal_(std=0.02)  # a new head is zero
    names = tuple(f"class {k}" for k in range(1000))
    predictor = TorchEngine(model, Preprocess(), names, device, hardware.precision(precision, device))
    images = torch.randint(256, (batch, 3, 224, 224), dtype=torch.uint8)
    return lambda: best_classes(predictor, images, 5)


def run_contender(name: str, batch: int, seconds: float, one_thread: bool) -> None:
    who, how, *rest = name.split()
    step = timm_step(how, bool(rest), batch) if who == "timm" else vitrail_step(precision_of(how), batch)
    measure(step, batch, seconds, one_thread=one_thread)


def precision_of(how: str) -> str:
    return "auto" if how == "defaults" else how


def agreement(photos: str, name: str, count: int) -> dict[str, float]:
    """Top-1 agreement of bf16 with float32 on photographs no head has seen, and the accuracy of both."""
    import torch

    from vitrail import hardware
    from vitrail.images.sources import open_data
    from vitrail.models import zoo
    from vitrail.prediction.engine import TorchEngine

    model, size = zoo.build(name), zoo.config(name).image
    splits = open_data(photos, holdout=0.5)
    half = count // 2
    seen, unseen = splits.train.subset(range(half)), splits.test.subset(range(half))
    device = hardware.device()

    def features(source, dtype):
        from vitrail.images.preprocess import Preprocess
        from vitrail.prediction.forward import answering, as_input

        predictor = TorchEngine(model, Preprocess(size=size), source.classes, device, dtype)
        rows = []
        for start in range(0, len(source), 16):
            images = torch.stack(
                [predictor.preprocess.read(source[k]) for k in range(start, min(start + 16, len(source)))]
            )
            with answering(model, device, dtype):
                inputs = as_input(model, images, device, predictor.preprocess)
                rows.append(model.pool(model.features(inputs)).float().cpu())
        return torch.cat(rows).double()

    known, exact = features(seen, torch.float32), features(unseen, torch.float32)
    rounded = features(unseen, torch.bfloat16)
    weight, bias = ridge(known, torch.as_tensor(seen.labels), len(splits.train.classes))
    truth = torch.as_tensor(unseen.labels)
    in32, in16 = ((rows @ weight + bias).argmax(1) for rows in (exact, rounded))
    return {
        "images": len(truth),
        "agreement": (in32 == in16).double().mean().item(),
        "accuracy_fp32": (in32 == truth).double().mean().item(),
        "accuracy_bf16": (in16 == truth).double().mean().item(),
        "feature_error": ((rounded - exact).norm() / (exact - exact.mean(0)).norm()).item(),
    }


def ridge(features, labels, classes: int):
    """Least squares to one-hot classes on standardised features, λ = 1; as weight and bias on the features as they are."""
    import torch

    mean, scale = features.mean(0), features.std(0)
    rows = (features - mean) / scale
    targets = torch.nn.functional.one_hot(labels, classes).double()
    gram = rows.T @ rows + torch.eye(rows.shape[1], dtype=rows.dtype)
    weight = torch.linalg.solve(gram, rows.T @ (targets - targets.mean(0))) / scale[:, None]
    return weight, targets.mean(0) - mean @ weight


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--one-thread", action="store_true", help="one thread, CPU time: for a machine that is never quiet"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--agreement", metavar="PHOTOS", help="a folder of class folders: compare answers, not speed")
    parser.add_argument("--model", default="vit-b/16")
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contender:
        run_contender(asked.contender, asked.batch, asked.seconds, asked.one_thread)
        return 0
    if asked.agreement:
        found = agreement(asked.agreement, asked.model, asked.images)
        print(json.dumps(found, indent=2))
        return int(found["agreement"] < 0.995)
    import torch

    from vitrail import hardware, machine

    claims = CUDA_CLAIMS if torch.cuda.is_available() else CLAIMS
    names = list(dict.fromkeys(name for ours, peer, _ in claims for name in (peer, ours)))
    options = ["--batch", str(asked.batch), "--seconds", str(asked.seconds), *["--one-thread"] * asked.one_thread]
    turns = take_turns(__file__, names, asked.rounds, options)
    return report(turns, claims, as_json=asked.json, machine=machine.describe(hardware.device()))


if __name__ == "__main__":
    raise SystemExit(main())
