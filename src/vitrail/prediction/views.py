"""Test-time views: an image looked at several times, the probabilities (or numbers) averaged.

| views  | what the model sees                                                                                   |
|--------|-------------------------------------------------------------------------------------------------------|
| `one`  | the image as its record prepares it: resized and cut to the centre, or resized directly                |
| `flip` | that and its mirror image                                                                             |
| `five` | four corners and the centre of a larger square (Krizhevsky 2012): the record's own margin where it cuts |
|        | the centre out, else the image at size / 0.875                                                        |
| `ten`  | those five and their mirror images                                                                    |
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from torch import Tensor, nn

from vitrail.arguments import Views
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.prediction.engine import Engine
from vitrail.prediction.forward import preprocess_of

MARGIN = 0.875
"""Side of a crop over that of the larger square, by default."""


class Averaged(nn.Module):
    """A classifier that answers with the mean of its probabilities over the views of an image.

    It stands in for the model in `evaluate` and `predict`: its record asks for the images that the views are cut from.
    """

    def __init__(self, model: nn.Module, views: Views, preprocess: Preprocess) -> None:
        super().__init__()
        self.model, self.views, self.preprocess = model, views, preprocess
        self.config: Any = getattr(model, "config", None)
        record: Any = getattr(model, "record", None)
        self.record = record and dataclasses.replace(record, preprocess=larger(preprocess, views))

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Logarithms of the mean probabilities: their softmax is that mean, or their sigmoid where an image has several labels.

        A model of numbers gives the mean of the numbers.
        """
        return average(self.model, cut(images, self.views, self.preprocess.size), self.record)


@dataclass(frozen=True, eq=False)
class AveragedEngine:
    """The same around an engine, whose views are cut from 8-bit images."""

    engine: Engine
    views: Views
    preprocess: Preprocess
    """How the images are prepared that views are cut from."""
    name: str
    precision: str
    digest: str
    classes: tuple[str, ...]
    record: Any

    def logits(self, images: UInt8[Tensor, "B C H W"]) -> Float32[Tensor, "B K"]:
        return average(self.engine.logits, cut(images, self.views, self.engine.preprocess.size), self.record)


def cut(images: Shaped[Tensor, "B C H W"], views: Views, size: tuple[int, int]) -> Iterator[Shaped[Tensor, "B C h w"]]:
    """The views of prepared images."""
    crops = list(_crops(images, size)) if views in ("five", "ten") else [images]
    yield from crops
    if views in ("flip", "ten"):
        yield from (crop.flip(-1) for crop in crops)


def average(
    answer: Callable[[Tensor], Tensor], views: Iterator[Shaped[Tensor, "B C h w"]], record: Any
) -> Float[Tensor, "B K"]:
    """Logarithms of the mean probabilities. With several labels an image: their logits. With numbers: the mean."""
    answers = [answer(view).float() for view in views]
    if getattr(record, "numeric", False):
        return torch.stack(answers).mean(0)
    if getattr(record, "threshold", None) is not None:
        return torch.stack([one.sigmoid() for one in answers]).mean(0).logit(eps=1e-7)
    return torch.stack([one.log_softmax(1) for one in answers]).logsumexp(0) - math.log(len(answers))


def average_views(model: Any, views: Views, preprocess: Preprocess | None = None) -> Any:
    """The model or engine as it answers over `views`; itself for `one`.

    Raises ConfigError where views and preprocessing do not go together.
    """
    if views == "one":
        return model
    prepared = preprocess_of(model, preprocess)
    if isinstance(model, nn.Module):
        return Averaged(model, views, prepared).eval()
    same: Any = {name: getattr(model, name, None) for name in ("name", "precision", "digest", "classes", "record")}
    return AveragedEngine(model, views, larger(prepared, views), **same)


def larger(preprocess: Preprocess, views: Views) -> Preprocess:
    """How images are prepared before views are cut from them."""
    if views in ("one", "flip"):
        return preprocess
    if preprocess.resize == "native":
        raise ConfigError(
            f"views {views} of images at their native aspect", allowed="one or flip", next_step="try `views='flip'`"
        )
    margin = preprocess.crop_fraction if preprocess.resize == "crop" and preprocess.crop_fraction < 1 else MARGIN
    height, width = (int(side / margin + 1e-6) for side in preprocess.size)
    return dataclasses.replace(preprocess, size=(height, width), crop_fraction=1.0)


def _crops(images: Shaped[Tensor, "B C H W"], size: tuple[int, int]) -> Iterator[Shaped[Tensor, "B C h w"]]:
    """Top left, top right, bottom left, bottom right, centre."""
    down, right = (have - want for have, want in zip(images.shape[-2:], size, strict=True))
    for top, left in ((0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))):
        yield images[..., top : top + size[0], left : left + size[1]]
