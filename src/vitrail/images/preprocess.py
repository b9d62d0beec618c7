"""The evaluation transform as data: saved with the weights, read by evaluation, prediction, serving and export alike."""

from dataclasses import dataclass
from typing import Literal

INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # the original ViT weights: (x - 127.5) / 127.5
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # MAE, DeiT, torchvision, DINOv2


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From an upright 8-bit image H W C to the tensor a model reads: resize, crop, normalise."""

    size: tuple[int, int] = (224, 224)
    """Height and width the model gets, in pixels."""
    resize: Literal["squash", "crop"] = "squash"
    """`squash`: straight to `size` (the ViT paper). `crop`: the short side to size / crop_fraction, then the centre."""
    crop_fraction: float = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    background: tuple[int, int, int] = (255, 255, 255)
    """What transparent pixels are laid on."""

    @property
    def channels(self) -> int:
        return len(self.mean)
