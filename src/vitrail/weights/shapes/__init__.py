"""The config of a model from the names and shapes of its tensors, one family a file."""

from vitrail.weights.shapes import hybrid, mae, maxvit, resnet, vit

__all__ = ["hybrid", "mae", "maxvit", "resnet", "vit"]
