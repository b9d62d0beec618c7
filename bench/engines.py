"""The ways to run a ViT on a CPU, beside timm in eager float32: number formats, OpenVINO in int8, merged tokens.

    python bench/engines.py [--model vit-b/16|vit-s/16|small] [--merge 8] [--rounds 2] [--seconds 4] [--batch 8]
                            [--graphs FOLDER] [--only NAME,NAME] [--one-thread] [--json]

Claims for ViT-B/16 at 224 pixels, on a CPU with bf16 products and VNNI: our bf16 at least 1.9 times timm's eager float32,
OpenVINO's int8 3.8 times, int8 with 8 merged tokens a block 5.0 times and 1.25 times OpenVINO's own int8, and merging alone
1.3 times in bf16. The roof at equal FLOPs (35.1 GFLOP an image) is about 4.6 times in int8.

Measured on 2026-11-29 on two cores of an AMD EPYC (Zen 4), two threads, torch 2.14, OpenVINO 2026.4, three rounds of 3 s:
bf16 2.05 times, int8 3.96, int8 with merging 5.04 (1.246 times int8: just missed), merging in our bf16 1.22 (missed; in
OpenVINO's bf16 1.38). All rounds: docs/concepts/speed.md.

Weights are drawn, so that nothing need be fetched: speed does not depend on them, accuracy does. `vitrail tune` measures both.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pairs import measure, report, take_turns

CONTENDERS = (
    "timm fp32",
    "vitrail fp32",
    "vitrail bf16",
    "vitrail bf16 merged",
    "onnxruntime fp32",
    "openvino fp32",
    "openvino bf16",
    "openvino bf16 merged",
    "openvino int8",
    "openvino int8 merged",
)
CLAIMS = [
    ("vitrail bf16", "timm fp32", 1.9),
    ("openvino int8", "timm fp32", 3.8),
    ("openvino int8 merged", "timm fp32", 5.0),
    ("openvino int8 merged", "openvino int8", 1.25),
    ("vitrail bf16 merged", "vitrail bf16", 1.3),
]
TIMM = {"vit-b/16": "vit_base_patch16_224", "vit-s/16": "vit_small_patch16_224", "small": "vit_tiny_patch16_224"}
SMALL = {"img_size": 28, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3, "num_classes": 10}
"""`small` as timm says it: 28×28 pixels, 49 patches."""


def build(name: str) -> Any:
    """Our model with drawn weights."""
    from vitrail.models import zoo
    from vitrail.models.vit import ViTConfig

    if name != "small":
        return zoo.build(name).eval()
    return zoo.build(
        ViTConfig(image=(28, 28), patch=(4, 4), width=96, depth=4, heads=3, mlp_width=384, classes=10)
    ).eval()


def subject_of(name: str, merge: int) -> Any:
    """The model with drawn weights, and a few noise images that give int8 its scales."""
    import numpy as np

    from vitrail.exporting.subject import Subject, with_merging
    from vitrail.images.preprocess import Preprocess
    from vitrail.images.samples import from_arrays
    from vitrail.weights.record import Record

    model = build(name)
    model.head.weight.data.normal_(std=0.02)
    classes = tuple(f"class {k}" for k in range(model.config.classes))
    preprocess = Preprocess(size=model.config.image)
    model.record = Record(config=model.config, preprocess=preprocess, classes=classes)
    noise = np.random.default_rng(0).integers(0, 255, (32, *model.config.image, 3), dtype=np.uint8)
    source = from_arrays("noise", noise, np.arange(32) % len(classes), classes)
    return with_merging(Subject(model, model.record, None, source, "noise"), merge)


def prepare(name: str, merge: int, folder: Path) -> None:
    """The graphs on disk that are not there yet: ONNX, and OpenVINO's in int8, each plain and merged."""
    from vitrail.exporting.graph import to_onnx
    from vitrail.exporting.quantise import quantise
    from vitrail.prediction.openvino_engine import openvino

    folder.mkdir(parents=True, exist_ok=True)
    for few, word in ((0, ""), (merge, " merged")):
        if (folder / f"int8{word}.xml").is_file():
            continue
        subject = subject_of(name, few)
        file = folder / f"graph{word}.onnx"
        file.write_bytes(to_onnx(subject.exported, subject.record.preprocess, any_size=False))
        graph = quantise(openvino().Core().read_model(file), subject, 0, control=False)
        openvino().save_model(graph, folder / f"int8{word}.xml", compress_to_fp16=False)


def timm_step(name: str, images: Any) -> Callable[[], object]:
    import timm
    import torch

    model = timm.create_model(TIMM[name], **(SMALL if name == "small" else {})).eval()
    pixels = images.float() / 127.5 - 1

    def step() -> None:
        with torch.inference_mode():
            model(pixels)

    return step


def step_of(contender: str, asked: argparse.Namespace) -> Callable[[], object]:
    """8-bit pixels in, logits out."""
    import torch

    who, precision, *merged = contender.split()
    side = 28 if asked.model == "small" else 224
    images = torch.randint(256, (asked.batch, 3, side, side), dtype=torch.uint8)
    if who == "timm":
        return timm_step(asked.model, images)
    if who == "vitrail":
        from vitrail.prediction.engine import TorchEngine

        subject = subject_of(asked.model, asked.merge if merged else 0)
        engine = TorchEngine.of(subject.exported, device="cpu", precision=precision)
        return lambda: engine.logits(images)
    folder, word = Path(asked.folder), " merged" if merged else ""
    pixels = images.numpy()
    if who == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(folder / f"graph{word}.onnx"), options)
        return lambda: session.run(None, {"images": pixels})
    from vitrail.prediction.openvino_engine import NAMES, compile_graph, floats_of, openvino

    file = folder / (f"int8{word}.xml" if precision == "int8" else f"graph{word}.onnx")
    runs = compile_graph(openvino().Core().read_model(file), floats_of(NAMES.get(precision, precision)))
    return lambda: runs([pixels])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b/16", choices=TIMM)
    parser.add_argument("--merge", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--one-thread", action="store_true", help="one thread, CPU time: for a machine that is never quiet"
    )
    parser.add_argument("--graphs", help="a folder that keeps the graphs: int8 takes minutes")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas between")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one_thread:
        import torch

        torch.set_num_threads(1)
    if asked.contender:
        measure(step_of(asked.contender, asked), asked.batch, asked.seconds, one_thread=asked.one_thread)
        return 0
    from vitrail import hardware, machine

    with tempfile.TemporaryDirectory() as aside:
        folder = asked.graphs or aside
        prepare(asked.model, asked.merge, Path(folder))
        shared = ("model", "merge", "batch", "seconds")
        options = [word for name in shared for word in (f"--{name}", str(getattr(asked, name)))]
        options += ["--folder", folder, *["--one-thread"] * asked.one_thread]
        turns = take_turns(__file__, asked.only.split(","), asked.rounds, options)
    claims = CLAIMS if asked.model == "vit-b/16" else [(ours, peer, 1.0) for ours, peer, _ in CLAIMS]
    claims = [(ours, peer, least) for ours, peer, least in claims if ours in turns and peer in turns]
    return report(turns, claims, as_json=asked.json, machine=machine.describe(hardware.device()))


if __name__ == "__main__":
    raise SystemExit(main())
