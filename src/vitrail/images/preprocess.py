"""The evaluation transform as data: saved with the weights, read by evaluation, prediction, serving and export."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from vitrail.config import COUNT, Range, check_ranges
from vitrail.errors import ConfigError, DecodeError
from vitrail.images.decode import LIMIT, as_channels, naming
from vitrail.images.samples import Sample

_CUT: Range = (lambda share: 0 < share <= 1, "0 < crop_fraction ≤ 1")
_MOST = 1e5  # a mean or a std, in parts of 255; and one over the least std
_CACHED = 2**17  # float32 numbers: half a MiB
INCEPTION = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # the original ViT weights: (x - 127.5) / 127.5
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # MAE, DeiT, torchvision, DINOv2
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # OpenAI's CLIP and most of its kind

ASPECTS = (1 / 2, 2 / 3, 3 / 4, 1, 4 / 3, 3 / 2, 2)
"""Width over height of the shapes of `native`: what cameras give. A longer image is squashed to the last."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """From an upright 8-bit image H W C to the tensor a model reads: resize, crop, normalise."""

    size: tuple[int, int] = (224, 224)
    """Height and width the model gets, in pixels."""
    resize: Literal["squash", "crop", "pad", "native"] = "squash"
    """`squash`: straight to `size` (the ViT paper). `crop`: the short side to size / crop_fraction, then the centre.
    `pad`: as large as fits, its shape kept, on the background.
    `native`: to that one of `shapes`, all about `size`'s area, whose aspect is nearest the image's own."""
    multiple: int = 16
    """Of `native`: what heights and widths are multiples of, the model's patch; a run sets it."""
    crop_fraction: float = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    background: tuple[int, int, int] = (255, 255, 255)
    """Colour behind transparent pixels, and of the margins of `pad`."""

    def __post_init__(self) -> None:
        if min(self.size) < 1 or math.prod(self.size) > LIMIT:
            allowed = f"a height and a width of 1 pixel or more, of {LIMIT:,} pixels at most"
            raise ConfigError(f"size = {self.size}", allowed=allowed)
        check_ranges(self, crop_fraction=_CUT, multiple=COUNT)
        small = all(-_MOST <= mean <= _MOST for mean in self.mean) and all(
            1 / _MOST <= std <= _MOST for std in self.std
        )
        if len(self.mean) != len(self.std) or not self.mean or not small:
            raise ConfigError(
                f"mean = {self.mean}, std = {self.std}",
                allowed=f"one mean and one positive std a channel, of {_MOST:,.0f} at most",
            )

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The heights and widths at which images come: `size`, and of `native` those for the other aspects."""
        if self.resize != "native":
            return (self.size,)
        cells = self.size[0] * self.size[1] / self.multiple**2
        rows = [max(1, round(math.sqrt(cells / aspect))) for aspect in ASPECTS]
        found = [(row * self.multiple, max(1, round(cells / row)) * self.multiple) for row in rows]
        return tuple(dict.fromkeys((self.size, *found)))

    @property
    def frame(self) -> tuple[int, int]:
        """The height and width that hold an image of any of the shapes."""
        heights, widths = zip(*self.shapes, strict=True)
        return max(heights), max(widths)

    def shape_for(self, height: int, width: int) -> tuple[int, int]:
        """The shape that an upright image of this height and width comes at."""
        return min(self.shapes, key=lambda shape: abs(math.log(shape[1] / shape[0] * height / width)))

    def read(self, sample: Sample) -> UInt8[Tensor, "c h w"]:
        """An image as it is stored, decoded and resized. Raises DecodeError that names it, for wrong channels too."""
        with naming(sample.key):
            return self.resize_image(sample.pixels(self.background))

    def resize_image(self, image: UInt8[np.ndarray, "H W C"], limit: int = LIMIT) -> UInt8[Tensor, "c h w"]:
        """To `channels` and `size` (of `native`: its shape), antialiased.

        Raises ShapeError for wrong channels, DecodeError for a `crop` out of more pixels than `limit`.
        """
        image = as_channels(image, self.channels)
        if self.resize in ("squash", "native") or image.shape[:2] == self.size:
            return resize(image, self.shape_for(*image.shape[:2]), self.interpolation)
        return self._crop(image, limit) if self.resize == "crop" else self._pad(image)

    def _crop(self, image: UInt8[np.ndarray, "H W C"], limit: int) -> UInt8[Tensor, "C h w"]:
        """As torchvision: resized until it covers size / crop_fraction, in whole pixels, then the centre."""
        height, width = self.size
        whole = self._covering(*image.shape[:2])
        if math.prod(whole) > limit:  # a line of 8,000 pixels would become 256 × 2,048,000
            raise DecodeError(
                f"{image.shape[0]:,}×{image.shape[1]:,} pixels become {whole[0]:,}×{whole[1]:,} before the centre is cut out",
                allowed=f"{limit:,} pixels",
                next_step="cut the image, or prepare it by squash or pad",
            )
        resized = resize(image, whole, self.interpolation)
        top, left = round((whole[0] - height) / 2), round((whole[1] - width) / 2)
        return resized[:, top : top + height, left : left + width].contiguous()

    def _covering(self, height: int, width: int) -> tuple[int, int]:
        """The size of the resized image: the side that just covers is rounded down first, the other follows from it."""
        if self.size[0] / height >= self.size[1] / width:
            h = int(self.size[0] / self.crop_fraction + 1e-6)
            return h, max(self.size[1], int(h * width / height))
        w = int(self.size[1] / self.crop_fraction + 1e-6)
        return max(self.size[0], int(w * height / width)), w

    def _pad(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[Tensor, "C h w"]:
        """The whole image, its shape kept, in the middle of the background."""
        height, width = self.size
        fit = min(height / image.shape[0], width / image.shape[1])
        h, w = (max(1, min(side, round(have * fit))) for side, have in zip(self.size, image.shape, strict=False))
        canvas = torch.tensor(self.fill, dtype=torch.uint8).view(-1, 1, 1).expand(-1, height, width).contiguous()
        top, left = (height - h) // 2, (width - w) // 2
        canvas[:, top : top + h, left : left + w] = resize(image, (h, w), self.interpolation)
        return canvas

    @property
    def fill(self) -> tuple[int, ...]:
        """The background in the channels of the model."""
        if self.channels in (1, 3):
            return tuple(as_channels(np.array([[self.background]], np.uint8), self.channels)[0, 0].tolist())
        return (self.background[0],) * self.channels

    def normalise(self, images: UInt8[Tensor, "B C H W"]) -> Float32[Tensor, "B C H W"]:
        """(x / 255 - mean) / std for each channel, on the images' device, as one multiplication and one addition."""
        scale, shift = self._affine(images.device)
        found = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        # on a CPU in parts that stay in the cache from the first pass to the second
        step = _CACHED // max(1, images[:1].numel()) if images.device.type == "cpu" else len(images)
        for pixels, out in zip(images.split(max(1, step)), found.split(max(1, step)), strict=True):
            torch.addcmul(shift, out.copy_(pixels), scale, out=out)
        return found

    def denormalise(self, images: Float32[Tensor, "B C H W"]) -> UInt8[Tensor, "B C H W"]:
        """Back to 8-bit pixels, rounded, for pictures of what a model saw."""
        scale, shift = self._affine(images.device)
        return ((images - shift) / scale).round().clamp(0, 255).to(torch.uint8)

    def to_pixels(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalised images back to 0 … 1, not rounded: x · std + mean."""
        mean, std = self._moments(images)
        return images * std + mean

    def from_pixels(self, pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Pixels in 0 … 1 as a model reads them: (x - mean) / std."""
        mean, std = self._moments(pixels)
        return (pixels - mean) / std

    def _moments(self, like: Float[Tensor, "B C H W"]) -> Float[Tensor, "two C 1 1"]:
        return torch.tensor([self.mean, self.std], device=like.device, dtype=like.dtype)[:, :, None, None]

    def _affine(self, device: torch.device) -> tuple[Float32[Tensor, "C 1 1"], Float32[Tensor, "C 1 1"]]:
        std, mean = (np.array(values, np.float64) for values in (self.std, self.mean))
        pair = np.stack([1 / (255 * std), -mean / std]).astype(np.float32)
        scale, shift = torch.from_numpy(pair).to(device, non_blocking=True).view(2, -1, 1, 1)
        return scale, shift


_MODES = {"nearest": "nearest-exact", "bilinear": "bilinear", "bicubic": "bicubic"}


def resize(
    image: UInt8[np.ndarray, "H W C"], size: tuple[int, ...], interpolation: Literal["nearest", "bilinear", "bicubic"]
) -> UInt8[Tensor, "C h w"]:
    """Antialiased as by Pillow (within two levels) in a quarter of the time: torch's kernel for 8-bit images."""
    # a file that is mapped into memory cannot be written, and torch warns of arrays that cannot
    pixels = torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)
    if image.shape[:2] == tuple(size):
        return pixels.contiguous()
    return F.interpolate(pixels[None], size, mode=_MODES[interpolation], antialias=interpolation != "nearest")[0]
