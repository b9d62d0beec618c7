"""What a model learns from: the one thing that differs between ways of training.

An objective is a frozen dataclass of plain values, told apart by `family`, and a callable
`(learner, batch, generator) -> Loss`. It knows nothing of devices, DDP, precision or files. The learner is the backbone
itself, or the backbone and what the objective adds to it (`build`); what is measured and kept in the end is `kept`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.images.preprocess import Preprocess


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, a mean over images, and named numbers beside it (detached scalars, means over images)."""

    value: Float[Tensor, ""]
    report: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What an objective may know of the run around it when it builds its learner."""

    weights: str | None = None
    """Where the backbone came from: a file may hold more than that."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    """How the images are normalised."""
    classes: tuple[str, ...] = ()
    seed: int = 0


class Objective:
    """What every objective offers; the answers here are those of one that trains the backbone alone, with labels."""

    labelled: ClassVar[bool] = True
    """Whether it makes a classifier out of labelled images, so that accuracy is what it is known by."""

    def build(self, backbone: Any, generator: torch.Generator | None = None, task: Task | None = None) -> nn.Module:
        """The module that the loop trains. `generator` draws what is new; without one, shapes alone, to be counted."""
        return backbone

    def kept(self, learner: Any) -> Any:
        """Of a learner, the model that is measured and saved."""
        return learner

    def after_step(self, learner: Any, progress: float) -> None:
        """What moves without a gradient, such as a teacher that follows; `progress` is the share of the run done."""

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        raise NotImplementedError


class Learner(nn.Module):
    """A backbone and what its objective adds: heads, mask tokens, a decoder, a teacher."""

    notes: tuple[str, ...] = ()
    """Sentences on how it was built."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    @property
    def checkpoint_activations(self) -> bool:
        return self.backbone.checkpoint_activations

    @checkpoint_activations.setter
    def checkpoint_activations(self, on: bool) -> None:
        self.backbone.checkpoint_activations = on

    def stages(self) -> Sequence[tuple[str, Sequence[nn.Module | nn.Parameter]]]:
        """The backbone's, with all else beside its head."""
        *body, (name, head) = self.backbone.stages()
        own = [part for child, part in self.named_children() if child != "backbone"]
        return [*body, (name, [*head, *own, *self.parameters(recurse=False)])]


def draw(module: nn.Module, generator: torch.Generator | None) -> None:
    """N(0, 0.02²) for the weights of linear maps, zero for biases; without a generator all stays as torch made it."""
    if generator is None:
        return
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(std=0.02, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()


def unwrapped(model: Any) -> Any:
    """The learner inside what distributes it (`module`) or compiles it (`_orig_mod`)."""
    for name in ("module", "_orig_mod"):
        model = getattr(model, name, model)
    return model
