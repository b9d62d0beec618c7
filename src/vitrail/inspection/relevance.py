"""Which patches an answer rests on: gradient-weighted relevance for attention, Grad-CAM for maps of features."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitrail.errors import ConfigError, DoesNotApply
from vitrail.images.preprocess import Preprocess
from vitrail.inspection.attention_hooks import family, keep_until_end, layout_of, prepare_images
from vitrail.inspection.maps import readout
from vitrail.models.backbone import Backbone
from vitrail.models.features import Features
from vitrail.models.layers import Attention, Block, Turns


def relevance(
    model: Backbone,
    images: Shaped[Tensor, "B C H W"],
    *,
    classes: Sequence[int] | None = None,
    preprocess: Preprocess | None = None,
) -> Float[Tensor, "B h w"]:
    """Relevance of each patch for one class of each image (Chefer, Gur & Wolf, ICCV 2021; equations 5 and 6 of it).

    R ← R + Ā R over the layers, Ā the mean over heads of (∇A ⊙ A)⁺; what the head reads of R is given, on the patches.
    A head that reads the mean of the patches begins with the same share of each, which tells nothing: it is taken off.
    `classes` are the answers to explain, by default the likeliest. ∇A follows from the fused path's own output O = A V,
    as ∇O Vᵀ. Blocks are run again one at a time, last first, so one block's activations are held at most.
    """
    blocks = [module for module in model.trunk.modules() if isinstance(module, Block)]
    if not blocks:
        raise DoesNotApply(f"a {family(model)} has no blocks as a ViT's", next_step="use grad_cam")
    _check_head(model)
    pixels = prepare_images(model, images, preprocess)
    with _explaining(model):
        entered, turns, features, logits = _cut(model, blocks, pixels)
        (gradient,) = torch.autograd.grad(_answer(logits, classes), features.tokens, retain_graph=True)
        (gradient,) = torch.autograd.grad(features.tokens, entered[-1], gradient)
        flow = begin = readout(model, features).detach()
        for block, tokens in zip(reversed(blocks), reversed(entered[:-1]), strict=True):
            gradient, flow = _back(block, tokens, turns, gradient, flow)
    layout = layout_of(model, pixels)
    alike = begin[:, layout.prefix :].amin(1, keepdim=True)
    return (flow[:, layout.prefix :] - alike).clamp_min(0).unflatten(1, layout.grid).cpu()


def grad_cam(
    model: Backbone,
    images: Shaped[Tensor, "B C H W"],
    *,
    classes: Sequence[int] | None = None,
    preprocess: Preprocess | None = None,
) -> Float[Tensor, "B h w"]:
    """Grad-CAM (Selvaraju et al., ICCV 2017) on the last map, a hybrid's being its ResNet's: relu(Σ_c mean gradient of
    channel c · channel c).

    `classes` are the answers to explain, by default the likeliest. Raises DoesNotApply for a model whose answer reads
    no position of that map: a ViT with a class token (its relevance says more).
    """
    _check_head(model)
    pixels = prepare_images(model, images, preprocess).detach().clone().requires_grad_()
    last: list[Tensor] = []
    reader = model.map_reader
    hooks = [reader.register_forward_pre_hook(lambda _, entered: last.append(entered[0]))] if reader is not None else []
    with keep_until_end(hooks), _explaining(model):
        features = model.features(pixels)
        last.append(features.tokens)
        (gradient,) = torch.autograd.grad(_answer(_head(model, features), classes), last[0])
    channels = last[0]
    if reader is None:
        channels, gradient = (Features(one, features.prefix, features.grid).map for one in (channels, gradient))
    if not gradient.any():
        raise DoesNotApply(
            "the answer reads no position of the last map", next_step="use relevance, which goes through attention"
        )
    return torch.einsum("bdhw,bd->bhw", channels.detach(), gradient.mean((2, 3))).relu().cpu()


def _check_head(model: Backbone) -> None:
    if getattr(getattr(model.config, "extras", None), "merge", 0):
        raise DoesNotApply("relevance of merged tokens", next_step="look at the same weights without merging")
    if not model.config.classes:
        raise DoesNotApply("this model has no head, so there is no answer to explain")


@contextmanager
def _explaining(model: nn.Module) -> Iterator[None]:
    """Eval mode with gradients, whatever the caller's modes; every module's own mode is restored after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _head(model: Backbone, features: Features) -> Float[Tensor, "B K"]:
    return model.head(model.pool(features))


def _answer(logits: Float[Tensor, "B K"], classes: Sequence[int] | None) -> Float[Tensor, ""]:
    """The sum over images of the explained logits. Raises ConfigError for classes that are not there."""
    chosen = logits.argmax(1) if classes is None else torch.tensor(list(classes), device=logits.device)
    if len(chosen) != len(logits):
        raise ConfigError(f"{len(chosen)} classes for {len(logits)} images", allowed="one class for each image")
    if chosen.min() < 0 or chosen.max() >= logits.shape[1]:
        raise ConfigError(
            f"classes {chosen.tolist()} of a model with {logits.shape[1]} outputs",
            allowed=f"0 to {logits.shape[1] - 1}",
        )
    return logits.gather(1, chosen[:, None]).sum()


def _cut(model: Backbone, blocks: Sequence[nn.Module], pixels: Tensor) -> tuple[list[Tensor], Turns, Features, Tensor]:
    """(input of each block and output of the last, turns of rotary positions, features, logits).

    The graph is cut at every block: a hook gives its output back as a leaf. Nothing then holds the block's activations,
    and they are freed.
    """
    leaves: list[Tensor] = []
    turns: list[Turns] = []

    def leaf(tensor: Tensor) -> Tensor:
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1]

    def enter(_: nn.Module, entered: tuple[Any, ...]) -> tuple[Any, ...]:
        turns.append((*entered, None)[1])
        return leaf(entered[0]), *entered[1:]

    hooks = [blocks[0].register_forward_pre_hook(enter)]
    hooks += [block.register_forward_hook(lambda _, __, left: leaf(left)) for block in blocks]
    with keep_until_end(hooks):
        features = model.features(pixels)
    return leaves, turns[0], features, _head(model, features)


def _back(block: Block, tokens: Tensor, turns: Turns, gradient: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient and the row of relevance, carried from behind a block to before it."""
    kept: dict[str, Tensor] = {}
    hooks = [
        block.attn.register_forward_pre_hook(lambda _, entered: kept.update(x=entered[0])),
        block.attn.norm.register_forward_pre_hook(lambda _, entered: kept.update(out=entered[0])),
    ]
    with keep_until_end(hooks):
        left = block(tokens, turns)
    before, out = torch.autograd.grad(left, (tokens, kept["out"]), gradient)
    with torch.no_grad():
        return before, flow + _weigh(block.attn, kept["x"], turns, out, flow)


def _weigh(attn: Attention, x: Tensor, turns: Turns, out: Tensor, flow: Tensor) -> Float[Tensor, "B N"]:
    """flow · Ā, where Ā is the mean over heads of (∇A ⊙ A)⁺ and ∇A = ∇O Vᵀ."""
    q, k, v = attn.project(x, turns)
    towards = rearrange(out, "B N (A d) -> B A N d", A=attn.heads)
    bias = attn.bias(q)
    passed = torch.zeros_like(flow)
    for rows in torch.arange(q.shape[2]).split(max(1, (8 << 20) // (8 * q[..., 0].numel()))):
        logits = (q[:, :, rows] * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        weights = (logits if bias is None else logits + bias[:, :, rows]).softmax(-1)
        slope = towards[:, :, rows] @ v.transpose(-2, -1)
        passed += torch.einsum("bn,bnm->bm", flow[:, rows], (slope * weights).relu().mean(1))
    return passed
