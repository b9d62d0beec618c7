"""The contract of prediction: 8-bit images in, logits out, whatever computes them.

`TorchEngine` is a model here. Another runtime (ONNX Runtime, OpenVINO, a server far away) is one class more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor, nn
from torch.func import functional_call

from vitrail import hardware
from vitrail.images.preprocess import Preprocess
from vitrail.prediction.forward import (
    answering,
    as_input,
    cast_weights,
    class_names,
    model_digest,
    place,
    preprocess_of,
)

T = TypeVar("T")


@runtime_checkable
class Engine(Protocol):
    """A classifier that is ready to answer."""

    @property
    def name(self) -> str:
        """The runtime and where it runs: "torch on cpu"."""
        ...

    @property
    def precision(self) -> str:
        """Number format of its products: "float32", "bfloat16", "int8"."""
        ...

    @property
    def digest(self) -> str:
        """A name for its weights: two engines with one digest answer alike."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """How an image becomes the 8-bit tensor that `logits` reads."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes; empty where they are not known."""
        ...

    def logits(self, images: UInt8[Tensor, "B C H W"]) -> Float32[Tensor, "B K"]:
        """Answers on the CPU, for images of one shape."""
        ...


def ready_engine(model: "nn.Module | Engine", **options: Any) -> "Engine":
    """The model as an engine, with the `options` of `TorchEngine.of`; an engine as it is."""
    return TorchEngine.of(model, **options) if isinstance(model, nn.Module) else model


class _Run(nn.Module):
    """A call of any function of a model, as `functional_call` wants it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        return function(self.model)


@dataclass(frozen=True)
class TorchEngine:
    """A model of this package with all it needs to answer. `TorchEngine.of` fills in what its record says."""

    model: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def of(
        cls,
        model: nn.Module,
        *,
        device: str | torch.device | None = None,
        precision: str = "auto",
        preprocess: Preprocess | None = None,
        classes: Sequence[str] | None = None,
    ) -> "TorchEngine":
        """On its device or the one named; preprocessing and class names are those of the model's record unless given."""
        where = place(model, device)
        names = tuple(classes or class_names(model))
        return cls(model, preprocess_of(model, preprocess), names, where, hardware.precision(precision, where))

    @property
    def name(self) -> str:
        return f"torch on {self.device.type}"

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @cached_property
    def digest(self) -> str:
        return model_digest(self.model)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The weights in `dtype`, of the model as it is at the first answer."""
        return cast_weights(self.model, self.dtype)

    def logits(self, images: UInt8[Tensor, "B C H W"]) -> Float32[Tensor, "B K"]:
        return self.run(lambda model: model(as_input(model, images, self.device, self.preprocess)).float().cpu())

    def run(self, function: Callable[[Any], T]) -> T:
        """The result of `function(model)`, the model having its weights in `dtype`: autocast need not cast them again."""
        weights = {f"model.{name}": weight for name, weight in self.weights.items()}
        with answering(self.model, self.device, self.dtype):
            return functional_call(_Run(self.model), weights, (function,))
