"""A tiny run of each objective."""

import dataclasses
from pathlib import Path

import torch

from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.extras import Extras
from vitrail.models.vit import ViTConfig
from vitrail.objectives.classify import Classify
from vitrail.objectives.contrastive import Contrast
from vitrail.objectives.distill import Distill
from vitrail.objectives.masked_patches import MaskedPatches
from vitrail.objectives.probe import Probe
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.objectives.simmim import SimMIM
from vitrail.recipes.distillation import add_distillation_token
from vitrail.training.run import Hardware, Optim, Run
from vitrail.weights.bundle import Record, save_bundle

ENCODER = ViTConfig(
    width=32,
    depth=2,
    heads=2,
    mlp_width=64,
    patch=(2, 2),
    positions="sincos-mae",
    pool="mean",
    extras=Extras(drop_path=0.1),
)


TINY = Run(
    data="digits",
    model=ENCODER,
    preprocess=Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,)),
    objective=Reconstruct(decoder_width=16, decoder_depth=1, decoder_heads=2),
    optim=Optim(lr=2e-3, warmup="1 steps"),
    batch_size=64,
    length="6 steps",
    evaluate_every="3 steps",
    save_every="2 steps",
    hardware=Hardware(device="cpu", precision="fp32", compile="off", threads=1, workers=0),
)


OBJECTIVES = {
    "mae": TINY.objective,
    "masked_patches": MaskedPatches(),
    "simmim": SimMIM(),
    "contrast": Contrast(hidden=32, width=16),
}


CONFIG = dataclasses.replace(TINY.model, image=(8, 8), channels=1, classes=10)


DIGITS = tuple("0123456789")


def teacher(folder: Path, classes: tuple[str, ...] = DIGITS, preprocess: Preprocess = TINY.preprocess) -> Path:
    shape = {"classes": len(classes), "channels": preprocess.channels, "image": preprocess.size}
    model = zoo.build(dataclasses.replace(CONFIG, **shape), seed=3)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    save_bundle(folder, model, Record(config=model.config, preprocess=preprocess, classes=classes, source="a test"))
    return folder


def runs(folder: Path) -> dict[str, Run]:
    """One tiny run of each objective."""
    taught = Distill(teacher=str(teacher(folder / "teacher")))
    found = {name: dataclasses.replace(TINY, objective=objective) for name, objective in OBJECTIVES.items()}
    found["classify"] = dataclasses.replace(TINY, objective=Classify())
    found["probe"] = dataclasses.replace(TINY, objective=Probe())
    found["distill"] = dataclasses.replace(TINY, objective=taught, model=add_distillation_token(TINY.model))
    return {name: dataclasses.replace(run, length="4 steps", evaluate_every="4 steps") for name, run in found.items()}
