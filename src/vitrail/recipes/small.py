"""Runs for one machine: digits, Fashion-MNIST, and a folder of your own photographs."""

from collections.abc import Mapping
from typing import Any

from vitrail.batches.mixing import Mixing
from vitrail.images.transforms import Augment
from vitrail.models.zoo import ModelConfig
from vitrail.objectives.classify import Classify
from vitrail.recipes.request import Given, fit_side
from vitrail.training.run import Optim, Run


def digits(given: Given) -> Run:
    """Handwritten digits of 8×8 pixels: the smallest run that shows everything.

    command    vitrail train digits --seeds 3
    data       1,797 real digits inside the package (UCI Optical Recognition of Handwritten Digits), a fifth held out
    result     99.35 ± 0.64 % of 359 held-out digits with two threads (seeds 0, 1, 2: 98.61, 99.72, 99.72). With
               `--optim.name adamw` 98.98 ± 0.32 %; another number of threads rounds otherwise, and is another run
    """
    model = _tiny(given, patch=2, width=64, depth=4, heads=4)
    return Run(
        model=model,
        preprocess=given.preprocess(_size(given, model, default=8)),
        augment=Augment(shift=0.08, scale=0.1, rotate=10.0),
        mixing=Mixing(mixup=0.2),
        objective=Classify(label_smoothing=0.1),
        optim=Optim(name="muon", lr=3e-3, weight_decay=0.05, warmup="5 %"),
        ema=0.99,
        batch_size=64,
        length="60 epochs",
        evaluate_every="5 epochs",
        save_every="20 epochs",
    )


def fashion_mnist_cpu(given: Given) -> Run:
    """Small pictures (28×28, 32×32) in tens of thousands, on a CPU, in half an hour of two cores.

    Two convolutions stand before the patches (CCT, arXiv 2104.05704): early convolutions learn from fewer epochs
    (arXiv 2106.14881) and cost a tenth of a step.

    command    vitrail train fashion-mnist --recipe fashion_mnist_cpu
    data       60,000 pictures of clothes to learn from, 10,000 to test
    result     93.62 ± 0.07 % (seeds 0, 1, 2: 93.64, 93.68, 93.54). The first two took 45 and 57 minutes of one core of
               an Intel Xeon with AMX. Patches alone (`--model.extras.convs 0 --epochs 24`): 93.12 ± 0.23 % (92.95,
               93.38, 93.04), the first in 43 minutes of one such core. More rows: docs/studies/learn-faster.md
    """
    model = _tiny(given, patch=4, width=96, depth=6, heads=3, convs=2, drop_path=0.05)
    return Run(
        model=model,
        preprocess=given.preprocess(_size(given, model, default=28)),
        augment=Augment(shift=0.05, scale=0.05, flip=True),
        objective=Classify(label_smoothing=0.1),
        optim=Optim(name="muon", lr=4e-3, schedule="linear", weight_decay=0.1, warmup="5 %"),
        ema=0.999,
        batch_size=128,
        length="22 epochs",
        evaluate_every="5 epochs",
        save_every="2 epochs",
    )


def fashion_mnist_gpu(given: Given) -> Run:
    """Small pictures in tens of thousands, on a GPU: a larger model, a longer run, stronger augmentation.

    command    vitrail train fashion-mnist --recipe fashion_mnist_gpu
    data       60,000 pictures of clothes to learn from, 10,000 to test
    """
    model = _tiny(given, patch=2, width=256, depth=8, heads=8, drop_path=0.1)
    return Run(
        model=model,
        preprocess=given.preprocess(_size(given, model, default=28)),
        augment=Augment(shift=0.1, scale=0.1, rotate=5.0, flip=True, erase=0.25),
        mixing=Mixing(mixup=0.2, cutmix=1.0, probability=0.5),
        objective=Classify(label_smoothing=0.1),
        optim=Optim(lr=1e-3, weight_decay=0.1, warmup="5 %"),
        ema=0.999,
        batch_size=512,
        length="100 epochs",
        evaluate_every="5 epochs",
        save_every="5 epochs",
    )


FOLDER = {"drop_path": 0.1, "pool": "mean", "positions": "sincos"}
"""Of models that have them."""


def folder(given: Given) -> Run:
    """A folder of photographs, from scratch: as much model as the number of images can teach.

    command    vitrail train ./photos
    variants   tiny (below 2,000 images: 64 px, behind a ResNet's root), small (below 20,000: 112 px), medium (224 px)
    """
    variant = given.variant or folder_size(given.images)
    return {"tiny": _tiny_folder, "small": _small_folder, "medium": _medium_folder}[variant](given)


def folder_size(images: int) -> str:
    """The variant of `folder` for so many images."""
    return "tiny" if images < 2_000 else "small" if images < 20_000 else "medium"


def _tiny_folder(given: Given) -> Run:
    """A convolution learns from fewer images than a patch projection does, and small batches give more steps."""
    model = _behind_a_root(given, FOLDER, width=128, depth=4, heads=4, patch=(2, 2), image=(64, 64))
    side = fit_side(64, model)
    return Run(
        model=model,
        preprocess=given.preprocess((side, side)),
        augment=Augment(crop_area=(0.5, 1.0), flip=True, rotate=5.0, outside="border", jitter=0.3),
        check_flips=True,
        mixing=Mixing(cutmix=1.0, probability=0.5),
        objective=Classify(label_smoothing=0.1),
        optim=Optim(lr=1e-3, weight_decay=0.05, warmup="5 %"),
        ema=0.99,
        batch_size=max(2, min(32, given.images // 8)),
        length="150 epochs",
        evaluate_every="10 epochs",
        save_every="10 epochs",
    )


def _small_folder(given: Given) -> Run:
    half = {} if given.model else {"depth": 6}
    model = given.config("vit-ti/14", optional=FOLDER, **half)
    side = fit_side(112, model)
    return Run(
        model=model,
        preprocess=given.preprocess((side, side), resize="crop", crop_fraction=0.875),
        augment=Augment(crop_area=(0.25, 1.0), flip=True),
        check_flips=True,
        mixing=Mixing(cutmix=1.0, mixup=0.2, probability=0.5),
        objective=Classify(label_smoothing=0.1),
        optim=Optim(lr=1e-3, weight_decay=0.05, warmup="5 %"),
        batch_size=64,
        length="100 epochs",
        evaluate_every="2 epochs",
        save_every="2 epochs",
    )


def _medium_folder(given: Given) -> Run:
    model = given.config("vit-s/16", optional=FOLDER)
    side = fit_side(224, model)
    return Run(
        model=model,
        preprocess=given.preprocess((side, side), resize="crop", crop_fraction=0.875),
        augment=Augment(crop_area=(0.08, 1.0), flip=True, randaugment=(2, 9)),
        mixing=Mixing(mixup=0.2, cutmix=1.0),
        objective=Classify(label_smoothing=0.1),
        optim=Optim(lr=1e-3, weight_decay=0.05, warmup="5 epochs"),
        ema=0.9998,
        batch_size=512,
        length="100 epochs",
    )


def _tiny(given: Given, *, drop_path: float = 0.0, **sizes: int) -> ModelConfig:
    if given.model:
        return given.config(given.model, optional={"drop_path": drop_path})
    return given.small_vit(**sizes, drop_path=drop_path)


TIMMS = {"standardise": "variance", "standardise_eps": 1e-8, "group_norm_eps": 1e-5}
"""Weights of convolutions are standardised as timm does it, so that timm reads the trained weights."""


def _behind_a_root(given: Given, optional: Mapping[str, Any], *, width: int, **changes: Any) -> ModelConfig:
    """A ViT whose tokens are patches of what a 7×7 convolution and a max-pool make, one pixel there for 4×4 of the image.

    A model that is asked for by name takes its place, with the `optional` changes.
    """
    if given.model:
        return given.config(given.model, optional=optional)
    sizes: dict[str, Any] = {"patch": (1, 1), "image": (28, 28), "width": width, "mlp_width": 4 * width, **changes}
    return given.config("r+vit-ti/16", **TIMMS, **sizes, pool="mean", drop_path=0.05)


def _size(given: Given, model: ModelConfig, *, default: int) -> tuple[int, int]:
    """The images' own size, or the nearest that fits the model."""
    height, width = given.shape[:2] if given.shape else (default, default)
    return fit_side(height, model), fit_side(width, model)
