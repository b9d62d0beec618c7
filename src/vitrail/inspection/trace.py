"""One image's way through a model, step by step in the paper's words: what `vitrail trace` prints.

The model is only watched, by forward hooks that are gone afterwards; its outputs are the same bits.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import DoesNotApply
from vitrail.inspection.attention_hooks import keep_until_end
from vitrail.models.backbone import Backbone
from vitrail.models.vit import ViT
from vitrail.prediction.forward import answering, place


@dataclass(frozen=True, eq=False)
class Step:
    """One tensor on the way."""

    name: str
    """Its name in the paper: x_p, z_0, z'_1, y."""
    shape: tuple[int, ...]
    axes: str
    """A letter for each dimension, from `vitrail.axes`; products as P²C."""
    equation: str
    """Number of the paper's equation, or empty."""
    note: str
    """How it is made, in one line."""
    block: int = 0
    """Number of the encoder block it is made in, from 1; 0 before and after them."""
    value: Tensor | None = field(default=None, repr=False)
    """The tensor itself; None for attention weights, which the fused path never stores."""


@dataclass
class Seen:
    """The first input and the output of each module, by its name."""

    entered: dict[str, Tensor] = field(default_factory=dict)
    left: dict[str, Tensor] = field(default_factory=dict)


def trace(model: Backbone, images: Float[Tensor, "B C H W"]) -> list[Step]:
    """Every step from pixels to logits, in order. A ViT gives the paper's equations; other families their stages."""
    if getattr(getattr(model.config, "extras", None), "merge", 0):
        raise DoesNotApply("a trace of merged tokens", next_step="look at the same weights without merging")
    with answering(model, place(model), torch.float32):
        seen, logits = _watch(model, images)
    return list(TRACES.get(model.config.family, trace_stages)(model, images, seen, logits))


def _watch(model: Backbone, images: Tensor) -> tuple[Seen, Tensor]:
    """One forward pass with every module's first input and output kept."""
    seen = Seen()

    def keep(name: str):
        def hook(module: nn.Module, entered: tuple, left: object) -> None:
            if entered and isinstance(entered[0], Tensor):
                seen.entered[name] = entered[0]
            if isinstance(left, Tensor):
                seen.left[name] = left

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    with keep_until_end(hooks):
        return seen, model(images)


def trace_vit(model: ViT, images: Tensor, seen: Seen, logits: Tensor) -> Iterator[Step]:
    """The tensors of equations 1 to 4."""
    yield from _equation_1(model, images, seen)
    for index in range(len(model.blocks)):
        for step in _block(model, seen.entered, seen.left, index):
            yield replace(step, block=index + 1)
    yield from _equation_4(model, seen)
    yield _step("logits", logits, "B K", "", "the linear head")


def _equation_1(model: ViT, images: Tensor, seen: Seen) -> Iterator[Step]:
    p, q = model.patch_embed.inner
    h, w = model.patch_embed.grid(images)
    yield _step("x", images, "B C H W", "", "the normalised image")
    if convs := model.config.extras.convs:
        images = model.patch_embed.stem(images)
        yield _step("x stem", images, "B D H W", "", f"behind {convs} convolutions, each of which halves the image")
    patches = rearrange(images, "B C (h p) (w q) -> B (h w) p q C", p=p, q=q)
    yield _step("patches", patches, "B N P P C", "1", f"{h}×{w} patches of {p}×{q}")
    yield _step("x_p", patches.flatten(2), "B N P²C", "1", "each patch flattened")
    tokens = seen.left["patch_embed"]
    yield _step("x_p E", tokens, "B N D", "1", f"times E, {p * q * images.shape[1]} × {tokens.shape[2]}")
    z = seen.entered["drop"]
    registers = model.config.extras.registers
    prefix = ["class token"] * model.config.has_class_token + [f"{registers} registers"] * bool(registers)
    if prefix:
        shape = (tokens.shape[0], tokens.shape[1] + model.config.prefix, tokens.shape[2])
        note = f"{' and '.join(prefix)} first: {model.config.prefix} + {tokens.shape[1]}"
        yield Step("[x_class; x_p E]", shape, "B N D", "1", note)
    yield _step("z_0", z, "B N D", "1", _positions(model))


def _positions(model: ViT) -> str:
    kinds = {
        "learned": "plus E_pos, learned",
        "learned-2d": "plus E_pos, learned in 2-D",
        "none": "no positions are added",
        "relative": "no positions: they act in attention",
        "rotary": "no positions: they turn q and k in attention",
    }
    return kinds.get(model.config.positions, "plus E_pos, sin-cos")


def _block(model: ViT, entered: Mapping[str, Tensor], left: Mapping[str, Tensor], index: int) -> Iterator[Step]:
    """Equations 2 and 3 of block l = index + 1, and the attention inside it (5 to 8, appendix A)."""
    name, number, before = f"blocks.{index}", index + 1, index
    normed = left[f"{name}.norm1"]
    heads = model.config.heads
    yield _step(f"LN(z_{before})", normed, "B N D", "2", "layer norm")
    qkv = left[f"{name}.attn.qkv"].unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    for letter, value in zip("qkv", qkv, strict=True):
        yield _step(f"{letter}_{number}", value, "B A N d", "5", f"{heads} heads of {value.shape[3]}")
    images, tokens = normed.shape[:2]
    yield Step(f"A_{number}", (images, heads, tokens, tokens), "B A N N", "6", "softmax(q kᵀ / √d)")
    yield _step(f"MSA_{number}", left[f"{name}.attn"], "B N D", "8", "A v of all heads · U_msa")
    yield _step(f"z'_{number}", entered[f"{name}.norm2"], "B N D", "2", f"MSA(LN(z_{before})) + z_{before}")
    yield _step(f"LN(z'_{number})", left[f"{name}.norm2"], "B N D", "3", "layer norm")
    hidden = entered[f"{name}.mlp.fc2"]
    note = f"{model.config.width} → {hidden.shape[2]}, {model.config.extras.activation}"
    yield _step(f"GELU_{number}", hidden, "B N mlp", "3", note)
    yield _step(f"z_{number}", left[name], "B N D", "3", f"MLP(LN(z'_{number})) + z'_{number}")


def _equation_4(model: ViT, seen: Seen) -> Iterator[Step]:
    last, config = len(model.blocks), model.config
    if config.extras.final_norm == "tokens":
        yield _step(f"LN(z_{last})", seen.left["norm"], "B N D", "4", "the final layer norm")
    pooled = {"cls": "the class token", "mean": "the mean of the patches", "map": "what a trained probe gathers"} | {
        "cls-mean": "the class token and the mean of the patches, side by side"
    }
    y = seen.entered.get("pre_logits", seen.entered.get("projection", seen.entered["head"]))
    yield _step("y", y, "B D", "4", pooled[config.pool])
    if "pre_logits" in seen.left:
        yield _step("pre-logits", seen.left["pre_logits"].tanh(), "B P", "", "dense and tanh")
    if config.extras.projection:
        yield _step("projection", seen.left["projection"], "B P", "", "linear, into the space of texts")


def trace_stages(model: Backbone, images: Tensor, seen: Seen, logits: Tensor) -> Iterator[Step]:
    """Another family: the output of each part of each stage."""
    names = {id(module): name for name, module in model.named_modules()}
    yield _step("x", images, "B C H W", "", "the normalised image")
    for stage, parts in model.stages():
        for part in [parts] if isinstance(parts, nn.Module) else parts:
            name = names.get(id(part), "")
            if name in seen.left:
                value = seen.left[name]
                axes = {2: "B D", 3: "B N D", 4: "B D h w"}.get(value.ndim, "")
                yield _step(name, value, axes, "", f"{type(part).__name__}, {stage}")
    yield _step("logits", logits, "B K", "", "the answer")


def _step(name: str, value: Tensor, axes: str, equation: str, note: str) -> Step:
    return Step(name, tuple(value.shape), axes, equation, note, value=value)


TRACES: dict[str, Callable[[Any, Tensor, Seen, Tensor], Iterator[Step]]] = {"vit": trace_vit, "deit": trace_vit}
"""Family -> its steps by equation. Families that are not here are traced by their stages."""
