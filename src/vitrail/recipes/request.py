"""The facts that a recipe decides by (number and shape of the images, model, weights), and how they are found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vitrail import hardware
from vitrail.errors import ConfigError, DecodeError
from vitrail.images.preprocess import IMAGENET, INCEPTION, Preprocess
from vitrail.images.samples import Source, Splits
from vitrail.models import zoo
from vitrail.models.extras import settings
from vitrail.models.zoo import ModelConfig
from vitrail.weights.bundle import read_record
from vitrail.weights.encoder import encoder_config


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Weights to start from: where they are, and what they say of themselves."""

    path: str
    config: ModelConfig
    preprocess: Preprocess


@dataclass(frozen=True, kw_only=True)
class Given:
    """The data's size and shape, and what was asked for by name. The defaults are ImageNet's."""

    images: int = 1_281_167
    """To learn from."""
    classes: int = 1000
    shape: tuple[int, int, int] | None = None
    """H W C, where all images have the same."""
    channels: int = 3
    """Of images that differ in height and width."""
    model: str | None = None
    """A name of the zoo, in place of the recipe's own model."""
    patch: tuple[int, int] | None = None
    """Height and width of a patch, in place of the model's own: the images' size follows from it."""
    variant: str = ""
    """The word after the colon in `--recipe finetune:cifar100`."""
    pretrained: Pretrained | None = None
    accelerator: bool = False
    """Whether there is a GPU."""

    def config(self, name: str, *, optional: Mapping[str, Any] | None = None, **changes: Any) -> ModelConfig:
        """The recipe's model, or the one asked for, with the recipe's changes.

        Raises ConfigError for a change that the model's family does not know. `optional` changes are left out there: a ResNet
        trains with `folder`, without stochastic depth.
        """
        chosen = zoo.config(self.model or name)
        known = settings(chosen).keys()
        changes = {key: value for key, value in (optional or {}).items() if key in known} | changes
        return zoo.change(chosen, **(changes | {"patch": self.patch} if self.patch else changes))

    def small_vit(self, *, patch: int, width: int, depth: int, heads: int, **changes: Any) -> ModelConfig:
        """A ViT below the paper's Table 1, mean-pooled: with few tokens a class token is one more thing to learn."""
        sizes = {"patch": (patch, patch), "width": width, "depth": depth, "heads": heads, "mlp_width": 4 * width}
        return self.config("vit-ti/16", **sizes, pool="mean", **changes)

    def start(self, recipe: str) -> Pretrained:
        """The weights that were given. Raises ConfigError where there are none."""
        if not self.pretrained:
            raise ConfigError(f"the recipe {recipe} starts from weights", next_step="name a run or a file as `weights`")
        return self.pretrained

    def preprocess(self, size: tuple[int, int], **changes: Any) -> Preprocess:
        """At `size`, with mean and deviation 0.5 (the ViT paper's) for as many channels as the images have."""
        channels = self.shape[2] if self.shape else self.channels
        base = Preprocess(size=size, mean=INCEPTION[0][:1] * channels, std=INCEPTION[1][:1] * channels)
        return replace(base, **changes)

    def imagenet(self, side: int, crop_fraction: float = 0.875) -> Preprocess:
        """A centre crop, bicubic, with ImageNet's mean and deviation where the images have three channels."""
        found = self.preprocess((side, side), resize="crop", crop_fraction=crop_fraction, interpolation="bicubic")
        return replace(found, mean=IMAGENET[0], std=IMAGENET[1]) if found.channels == 3 else found


def fit_side(side: int, model: ModelConfig) -> int:
    """The size nearest to `side` that fits: 384 is 384 for patch 16 and 378 for patch 14."""
    step = model.multiple
    return max(1, round(side / step)) * step


def request_for(
    splits: Splits, *, model: str | None = None, patch: Sequence[int] | None = None,
    weights: str | Pretrained | None = None, device: str = "auto",
) -> Given:  # fmt: skip
    """Makes a recipe's `Given` of images, model and weights. Only the first image is read."""
    start = read_pretrained(weights) if isinstance(weights, str) else weights
    channels = channels_of(splits.train)
    if start and channels != 3 and channels != start.preprocess.channels:
        start = replace(start, preprocess=in_channels(start.preprocess, channels))
    return Given(
        images=len(splits.train),
        classes=len(splits.train.classes),
        shape=splits.train.shape,
        channels=channels,
        model=model,
        patch=(patch[0], patch[-1]) if patch else None,
        pretrained=start,
        accelerator=hardware.device(device).type != "cpu",
    )


def read_pretrained(path: str) -> Pretrained:
    """Weights to start from, by their record; no tensor is read from a bundle."""
    record = read_record(path)
    config = encoder_config(record.config)
    if getattr(getattr(config, "extras", None), "normalise", False):  # a trained head reads features as they are
        config = zoo.change(config, normalise=False)
    return Pretrained(path=path, config=config, preprocess=record.preprocess)


def channels_of(source: Source) -> int:
    """Channels that a model of these images should read, by the first of them: 3 for grey and colour files."""
    try:
        channels = source.pixels(0).shape[2]
    except DecodeError:  # training names it
        return 3
    return 3 if channels == 1 else channels


def in_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """The same for images of another number of channels: each with the mean of the old means and deviations."""
    mean, std = (sum(values) / len(values) for values in (preprocess.mean, preprocess.std))
    return replace(preprocess, mean=(mean,) * channels, std=(std,) * channels)
