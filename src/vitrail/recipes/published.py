"""Recipes that others published after the paper, with their numbers: AugReg, big_vision, DeiT, DeiT III, torchvision."""

from dataclasses import replace
from typing import Any

from vitrail.batches.mixing import Mixing
from vitrail.errors import ConfigError
from vitrail.images.transforms import Augment
from vitrail.objectives.classify import Classify
from vitrail.recipes.paper import CROP, STRONG
from vitrail.recipes.request import Given
from vitrail.training.run import Optim, Run

AUGREG = {
    # name: RandAugment layers and magnitude, mixup's alpha (arXiv 2106.10270, section 3.4)
    "none": (0, 0, 0.0),
    "light1": (2, 0, 0.0),
    "light2": (2, 10, 0.2),
    "medium1": (2, 15, 0.2),
    "medium2": (2, 15, 0.5),
    "strong1": (2, 20, 0.5),
    "strong2": (2, 20, 0.8),
}


def augreg(given: Given) -> Run:
    """How to train your ViT (arXiv 2106.10270): seven levels of augmentation × dropout × weight decay.

    command    vitrail train IMAGENET --recipe augreg:medium1-wd_0.1-do_0.0-sd_0.0 --model vit-b/16
    variants   none light1 light2 medium1 medium2 strong1 strong2, then -wd_0.1 or -wd_0.03, -do_0.0 or -do_0.1, -sd_0.0
               or -sd_0.1: the words of the published file names. Without one: light1 for Ti/16, medium1 for S/32, else
               medium2
    published  of ImageNet-21k, fine-tuned at 384 px, ImageNet top-1: l/16 85.59 · b/16 85.49 · s/16 83.73 ·
               b/32 83.59 · s/32 79.58 · ti/16 78.22
    differs    the original's RandAugment is TensorFlow's; ours has torchvision's operations
    """
    name = given.model or "vit-b/16"
    level, numbers = _augreg_words(given.variant or {"vit-ti/16": "light1", "vit-s/32": "medium1"}.get(name, "medium2"))
    layers, magnitude, mixup = AUGREG[level]
    noise: dict[str, Any] = {"dropout": numbers["do"], "drop_path": numbers["sd"]}
    return Run(
        model=given.config(name, **{key: value for key, value in noise.items() if value}),
        preprocess=given.preprocess((224, 224), resize="crop", crop_fraction=0.875),
        augment=replace(CROP, randaugment=(layers, magnitude) if layers else None),
        mixing=Mixing(mixup=mixup),
        objective=Classify(loss="sigmoid"),
        optim=Optim(lr=1e-3, weight_decay=numbers["wd"], clip=1.0, warmup="10000 steps"),
        batch_size=4096,
        length="300 epochs",
    )


def _augreg_words(variant: str) -> tuple[str, dict[str, float]]:
    """`medium1-wd_0.03-do_0.1` as ("medium1", {"wd": 0.03, "do": 0.1, "sd": 0.0})."""
    level, *settings = variant.removeprefix("aug_").split("-")
    numbers = {"wd": 0.1, "do": 0.0, "sd": 0.0}
    words = {word: value for word, _, value in (setting.partition("_") for setting in settings)}
    try:
        numbers |= {word: float(value) for word, value in words.items()}
    except ValueError:
        level = ""
    if level not in AUGREG or words.keys() - {"wd", "do", "sd"}:
        raise ConfigError(
            f"augreg has no variant {variant!r}",
            allowed=f"{', '.join(AUGREG)}, each with -wd_0.1, -do_0.1 or -sd_0.1 behind it",
            next_step="for example augreg:medium1-wd_0.03",
        )
    return level, numbers


def big_vision_s16(given: Given) -> Run:
    """big_vision's S/16 on ImageNet: the strongest cheap baseline (configs/vit_s16_i1k).

    command    vitrail train IMAGENET --recipe big_vision_s16
    variants   90 or 300 epochs
    published  76.5 % ImageNet top-1 after 90 epochs, 6 to 7 hours on eight TPU v3 cores
    """
    epochs = given.variant or "90"
    return Run(
        model=given.config("vit-s/16", pool="mean", positions="sincos", pre_logits=384, activation="gelu-tanh"),
        preprocess=given.preprocess((224, 224), resize="crop", crop_fraction=0.875),
        augment=replace(CROP, randaugment=(2, 10)),
        mixing=Mixing(mixup=0.2),
        # its decay of 1e-4 is multiplied by the schedule alone; AdamW's by the learning rate: 0.1 × 1e-3
        optim=Optim(lr=1e-3, weight_decay=0.1, clip=1.0, warmup="10000 steps"),
        batch_size=1024,
        length=f"{epochs} epochs",
    )


def deit(given: Given) -> Run:
    """DeiT without its teacher (arXiv 2012.12877): ImageNet alone, 300 epochs, strong augmentation.

    command    vitrail train IMAGENET --recipe deit --model vit-b/16
    differs    RandAugment is torchvision's, without noise on the magnitude
    """
    return Run(
        model=given.config("vit-b/16", optional={"drop_path": 0.1}),
        preprocess=given.imagenet(224, 0.875),
        augment=replace(STRONG, repeats=3),
        mixing=Mixing(mixup=0.8, cutmix=1.0),
        objective=Classify(label_smoothing=0.1),
        optim=Optim(lr=5e-4, lr_batch=512, weight_decay=0.05, clip=None, warmup="5 epochs", final_lr=1e-5),
        ema=0.99996,
        batch_size=1024,
        length="300 epochs",
    )


def deit3(given: Given) -> Run:
    """DeiT III (arXiv 2204.07118): binary cross-entropy and 3-Augment, 800 epochs at a lower resolution.

    command    vitrail train IMAGENET --recipe deit3 --model vit-b/16
    published  with 20 more epochs at 224 px, ImageNet top-1: s/16 81.4 · b/16 83.8 · l/16 84.9 · h/14 85.2
    differs    the original's optimiser is a fused LAMB of another library: the same formula, other rounding
    """
    name = given.model or "vit-b/16"
    rows = {
        # resolution, stochastic depth, learning rate of LAMB (whatever the batch)
        "vit-s/16": (224, 0.05, 4e-3),
        "vit-b/16": (192, 0.2, 3e-3),
        "vit-l/16": (192, 0.45, 3e-3),
        "vit-h/14": (154, 0.6, 3e-3),
    }
    side, drop_path, lr = rows.get(name, (224, 0.05, 4e-3))
    return Run(
        model=given.config(name, drop_path=drop_path),
        preprocess=given.imagenet(side, 1.0),
        augment=Augment(
            crop_area=(0.08, 1.0), flip=True, interpolation="bicubic", three_augment=True, jitter=0.3, repeats=3
        ),
        mixing=Mixing(mixup=0.8, cutmix=1.0),
        objective=Classify(loss="sigmoid"),
        optim=Optim(name="lamb", lr=lr, weight_decay=0.05, clip=1.0, warmup="5 epochs", final_lr=1e-5),
        batch_size=2048,
        length="800 epochs",
    )


def torchvision_b16(given: Given) -> Run:
    """torchvision's reference training of B/16: the best of PyTorch alone without a teacher.

    command    vitrail train IMAGENET --recipe torchvision_b16
    published  81.07 % ImageNet top-1
    """
    return Run(
        model=given.config("vit-b/16"),
        preprocess=given.imagenet(224, 0.875),
        augment=Augment(crop_area=(0.08, 1.0), flip=True, randaugment=(2, 9), repeats=3),
        mixing=Mixing(mixup=0.2, cutmix=1.0),
        objective=Classify(label_smoothing=0.11),
        optim=Optim(lr=3e-3, weight_decay=0.3, clip=1.0, warmup="30 epochs"),
        # .99998 every 32 steps, which torchvision scales by 4096 × 32 / 300: about this much a step
        ema=0.9997,
        batch_size=4096,
        length="300 epochs",
    )
