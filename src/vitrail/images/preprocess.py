"""The evaluation transform as data: saved with the weights, read by evaluation, prediction, serving and export."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.images.decode import Box, as_channels, resize

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

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise ConfigError(f"size = {self.size}", allowed="a height and a width of 1 pixel or more")
        if not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction = {self.crop_fraction}", allowed="0 < crop_fraction ≤ 1")
        if len(self.mean) != len(self.std) or not self.mean or min(self.std) <= 0:
            raise ConfigError(
                f"mean = {self.mean}, std = {self.std}", allowed="one mean and one positive std a channel"
            )

    @property
    def channels(self) -> int:
        return len(self.mean)

    def resize_image(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[Tensor, "c h w"]:
        """To `channels` and `size`, antialiased (Pillow's filters); an image that has them is only laid out anew."""
        image = as_channels(image, self.channels)
        if image.shape[:2] != self.size:
            image = self._crop(image) if self.resize == "crop" else resize(image, self.size, self.interpolation)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    def _crop(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "h w C"]:
        """As torchvision: resize until the image covers size / crop_fraction, whole pixels, then the centre."""
        height, width = self.size
        cover = max(height / image.shape[0], width / image.shape[1]) / self.crop_fraction
        resized = resize(image, self._covering(image.shape[0] * cover, image.shape[1] * cover), self.interpolation)
        top, left = (round((have - want) / 2) for have, want in zip(resized.shape[:2], self.size, strict=True))
        return resized[top : top + height, left : left + width]

    def _covering(self, height: float, width: float) -> tuple[int, int]:
        return max(self.size[0], int(height + 1e-6)), max(self.size[1], int(width + 1e-6))

    def region(self, height: int, width: int) -> Box:
        """The part of an image of this height and width that the model sees, in its pixels."""
        if self.resize == "squash":
            return 0, 0, width, height
        cover = max(self.size[0] / height, self.size[1] / width) / self.crop_fraction
        h, w = self.size[0] / cover, self.size[1] / cover
        return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2

    def normalise(self, images: UInt8[Tensor, "B C H W"]) -> Float32[Tensor, "B C H W"]:
        """(x / 255 - mean) / std for each channel, on the images' device, as one multiplication and one addition."""
        scale, shift = self._affine(images.device)
        return torch.addcmul(shift, images.to(torch.float32), scale)

    def denormalise(self, images: Float32[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
        """Back to 8-bit pixels, rounded, for pictures of what a model saw."""
        scale, shift = self._affine(images.device)
        return ((images - shift) / scale).round().clamp(0, 255).to(torch.uint8)

    def _affine(self, device: torch.device) -> tuple[Float32[Tensor, "C 1 1"], Float32[Tensor, "C 1 1"]]:
        std, mean = (np.array(values, np.float64) for values in (self.std, self.mean))
        pair = np.stack([1 / (255 * std), -mean / std]).astype(np.float32)
        scale, shift = torch.from_numpy(pair).to(device, non_blocking=True).view(2, -1, 1, 1)
        return scale, shift
