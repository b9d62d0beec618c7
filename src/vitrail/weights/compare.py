"""Two weights beside each other: tensor by tensor in our names, and what they answer to the same images."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitrail.errors import ShapeError
from vitrail.models import zoo
from vitrail.weights.fit import fit, shape
from vitrail.weights.record import Weights

IMAGES, SEED = 4, 20_101_929


@dataclass(frozen=True)
class Difference:
    """The largest difference of any output, and the largest output, over the fixed images."""

    logits: float
    largest: float
    equal: tuple[str, ...]
    """Tensors with the same bits."""
    other: tuple[str, ...]
    """Tensors with other numbers or shapes, each with how much."""
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    config: tuple[str, ...]
    """Fields of the configs that differ."""
    prepared: tuple[str, ...]
    """Fields of the preprocessing that differ: the same photo would not be the same tensor."""


def compare(first: Weights, second: Weights) -> Difference:
    """Both in float64, on the same fixed noise at the first one's image size. ShapeError where outputs differ in number."""
    image, channels = first.record.config.image, first.record.config.channels
    images = torch.randn(IMAGES, channels, *image, generator=torch.Generator().manual_seed(SEED)).double()
    one, two = (_answers(weights, images) for weights in (first, second))
    if one.shape != two.shape:
        raise ShapeError(f"outputs of {shape(one)} and of {shape(two)}", next_step="compare models of the same classes")
    a, b = first.tensors, second.tensors
    both = [name for name in a if name in b]
    equal = tuple(name for name in both if torch.equal(a[name], b[name]))
    return Difference(
        logits=float((one - two).abs().max()),
        largest=float(one.abs().max()),
        equal=equal,
        other=tuple(_how(name, a[name], b[name]) for name in both if name not in equal),
        only_first=tuple(name for name in a if name not in b),
        only_second=tuple(name for name in b if name not in a),
        config=tuple(_fields(first.record.config, second.record.config)),
        prepared=tuple(_fields(first.record.preprocess, second.record.preprocess)),
    )


@torch.no_grad()
def _answers(weights: Weights, images: Tensor) -> Tensor:
    model: nn.Module = zoo.skeleton(weights.record.config)
    fit(model, weights.tensors, where="the weights")
    return model.eval().double()(images)


def _how(name: str, one: Tensor, two: Tensor) -> str:
    if one.shape != two.shape:
        return f"{name} {shape(one)} and {shape(two)}"
    return f"{name} by {float((one.double() - two.double()).abs().max()):.2g}"


def _fields(one: object, two: object) -> Iterator[str]:
    for name in [field.name for field in dataclasses.fields(one)]:  # pyrefly: ignore[bad-argument-type]
        a, b = getattr(one, name), getattr(two, name, None)
        if a != b:
            yield f"{name} {a} and {b}"
