"""Pre-training without labels beside MAE: masked patches (the ViT paper), SimMIM, MoCo v3; and all of them at small size."""

from dataclasses import replace
from typing import Any

from vitrail.errors import ConfigError
from vitrail.images.transforms import Augment
from vitrail.models.vit import ViTConfig
from vitrail.objectives.contrastive import Contrast
from vitrail.objectives.masked_patches import MaskedPatches
from vitrail.objectives.objective import Objective
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.objectives.simmim import SimMIM
from vitrail.recipes.mae import as_vit, small_encoder
from vitrail.recipes.paper import CROP
from vitrail.recipes.request import Given, fit_side
from vitrail.training.run import Optim, Run

SMALL: dict[str, Any] = {
    # name: objective at small size, learning rate
    "mae": (Reconstruct(decoder_width=64, decoder_depth=2, decoder_heads=4), 1e-3),
    "masked_patches": (MaskedPatches(), 1e-3),
    "simmim": (SimMIM(), 1e-3),
    "contrast": (Contrast(hidden=256, width=64, crop=0.4, flip=False, blur=(0.0, 0.0), solarise=(0.0, 0.0)), 5e-4),
}


def mae_small(given: Given) -> Run:
    """MAE on small pictures in an hour of CPU at most: a small encoder, a decoder of two blocks.

    command    vitrail train fashion-mnist --recipe mae_small
               vitrail train fashion-mnist --weights runs/fashion-mnist-1 --recipe mae_finetune
    differs    from the paper: images of 64 pixels and less, patches of 4 (2 below 16 pixels), mean of the patches pooled
    """
    length = "100 epochs" if given.images < 10_000 else "20 epochs"
    return replace(small_run(given, *SMALL["mae"]), batch_size=256, length=length)


def masked_patches(given: Given) -> Run:
    """The ViT paper's masked patch prediction (appendix B.1.2): JFT without labels, 1 million steps of 4096 images.

    command    vitrail train JFT --recipe masked_patches --model vit-b/16
    variants   mean-colour, downsized, pixels: what is predicted of a patch
    published  then fine-tuned, b/16 reaches 79.9 % ImageNet top-1, 2 above training from scratch; 100,000 steps suffice
    """
    target: Any = given.variant or "mean-colour"
    return _run_at_224(
        given,
        replace(as_vit(given.config("vit-b/16")), classes=0),
        augment=CROP,
        objective=MaskedPatches(target=target),
        optim=Optim(lr=2e-4, weight_decay=0.0, clip=None, warmup="10000 steps"),
        batch_size=4096,
        length="1000000 steps",
        evaluate_every="1 %",
        save_every="1 %",
    )


def simmim(given: Given) -> Run:
    """SimMIM (arXiv 2111.09886) on ImageNet: b/16, 800 epochs.

    command    vitrail train IMAGENET --recipe simmim
    published  then fine-tuned at 224 px, b/16 reaches 83.8 % ImageNet top-1
    differs    absolute positions in place of the original's relative ones
    """
    return _run_at_224(
        given,
        replace(as_vit(given.config("vit-b/16")), classes=0, pool="mean"),
        augment=Augment(crop_area=(0.67, 1.0), flip=True),
        objective=SimMIM(),
        optim=Optim(lr=1e-4, lr_batch=512, weight_decay=0.05, clip=5.0, warmup="10 epochs"),
        batch_size=2048,
        length="800 epochs",
        evaluate_every="20 epochs",
        save_every="5 epochs",
    )


def moco(given: Given) -> Run:
    """MoCo v3 (arXiv 2104.02057) on ImageNet: s/16, 300 epochs, AdamW, a frozen patch embedding.

    command    vitrail train IMAGENET --recipe moco
    published  linear probe of s/16 73.2 %, of b/16 76.7 % ImageNet top-1
    differs    negatives come from one device's batch; hue turns about the axis of greys, not through HSV
    """
    return _run_at_224(
        given,
        replace(as_vit(given.config("vit-s/16", positions="sincos")), classes=0),
        objective=Contrast(),
        optim=Optim(lr=1.5e-4, lr_batch=256, weight_decay=0.1, clip=None, warmup="40 epochs"),
        batch_size=4096,
        length="300 epochs",
        evaluate_every="20 epochs",
        save_every="5 epochs",
    )


def _run_at_224(given: Given, model: ViTConfig, **values: Any) -> Run:
    side = fit_side(224, model)
    return Run(model=model, preprocess=given.preprocess((side, side)), **values)


def pretrain_small(given: Given) -> Run:
    """Any of the four on small pictures: the same encoder, the same optimiser, another objective.

    command    vitrail train digits --recipe pretrain_small:simmim
    variants   mae, masked_patches, simmim, contrast
    """
    objective, lr = SMALL[given.variant or "mae"]
    return small_run(given, objective, lr)


def small_run(given: Given, objective: Objective, lr: float) -> Run:
    model = small_encoder(given)
    if not isinstance(objective, Reconstruct | MaskedPatches | SimMIM | Contrast):
        raise ConfigError(f"{type(objective).__name__} needs labels", allowed=", ".join(SMALL))
    return Run(
        model=model,
        weights=given.pretrained.path if given.pretrained else None,
        preprocess=given.preprocess(model.image),
        augment=Augment(shift=0.08, scale=0.1, flip=max(model.image) > 16),
        objective=objective,
        optim=Optim(lr=lr, betas=(0.9, 0.95), weight_decay=0.05, clip=1.0, warmup="5 %"),
        batch_size=128,
        length="50 epochs" if given.images < 10_000 else "10 epochs",
        evaluate_every="10 %",
        save_every="10 %",
    )
