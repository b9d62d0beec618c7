"""A model as it answers, whoever asks: eval mode, no gradients, its device, its precision, its own preprocessing."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitrail import hardware, machine
from vitrail.errors import ConfigError, DoesNotApply
from vitrail.images.preprocess import Preprocess


def preprocess_of(model: object, preprocess: Preprocess | None = None) -> Preprocess:
    """The given one, else the one in the model's record, or the engine's own. Raises ConfigError where there is neither."""
    found = preprocess or getattr(_told(model), "preprocess", None)
    if found is None:
        raise ConfigError(
            "this model has no record that says how its images are prepared",
            next_step="load it with vitrail.load, or give preprocess=Preprocess(…)",
        )
    return found


def check_head(model: object) -> None:
    """Raises DoesNotApply for a model without a head: its outputs are features, not classes."""
    both = (model, getattr(model, "model", None))  # an engine holds its model
    if any(getattr(getattr(one, "config", None), "classes", None) == 0 for one in both):
        raise DoesNotApply(
            "this model has no head: it names no classes",
            next_step="`vitrail probe --save` trains a head on labelled images, `vitrail embed` writes its features",
        )


def class_names(model: object) -> tuple[str, ...]:
    """The names in the model's record, or the engine's own; empty where there are none."""
    return getattr(_told(model), "classes", ())


def _told(model: object) -> object:
    """The holder of preprocessing and class names: a model's record, or the engine itself."""
    return getattr(model, "record", None) if isinstance(model, nn.Module) else model


def place(model: nn.Module, device: str | torch.device | None = None) -> torch.device:
    """The device the model is on, after moving it to `device` where one is named ("auto": the fastest there is)."""
    if device is not None:
        model.to(hardware.device(str(device)))
    where = next(model.parameters()).device
    if where.type == "cpu":
        machine.keep_freed_memory()  # 14 % of ViT-B/16's time at 32 images
    return where


def cast_weights(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of the matrices that autocast would cast to `dtype` again for every batch; none in float32.

    `functional_call(model, weights, images)` inside `answering` then gives the same bits, 3 % sooner with 8 images and
    12 % with one (ViT-B/16 on a CPU), for half the model's memory again.
    """
    if dtype == torch.float32:
        return {}
    # exactly Linear: a Head stays in float32, other layers may first compute with their weights
    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    return {
        f"{name}.{kind}": parameter.detach().to(dtype)
        for name, module in linear.items()
        for kind, parameter in module.named_parameters(recurse=False)
    }


def model_digest(model: nn.Module) -> str:
    """sha256 over names, shapes, types and bytes of a model's tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def as_input(
    model: nn.Module,
    images: UInt8[Tensor, "B C H W"] | Float[Tensor, "B C H W"],
    device: torch.device,
    preprocess: Preprocess | None = None,
) -> Float[Tensor, "B C H W"]:
    """Images on the device as the model reads them; 8-bit ones are normalised there, a quarter of the bytes to move."""
    images = images.to(device, non_blocking=True)
    return preprocess_of(model, preprocess).normalise(images) if images.dtype == torch.uint8 else images


@contextlib.contextmanager
def answering(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Eval mode, no gradients and matrix products in `dtype` inside; every module's own mode is restored after."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        # not inference_mode: what a model may cache here is used in training later
        with torch.no_grad(), hardware.autocast(device, dtype):
            yield
    finally:
        for module in training:
            module.training = True
