"""Names of the 1000 classes of ImageNet."""


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 names of ILSVRC 2012 in the order all origins use, which torchvision carries."""
    from torchvision.models import ViT_B_16_Weights

    return tuple(ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"])
