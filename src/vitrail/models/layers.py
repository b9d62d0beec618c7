"""What two or more families are built of: patches, attention, MLP, the pre-norm block, pooling by attention.

Names follow the paper (equations 1-4) and the field: B images, N tokens, D width, A heads, d = D / A.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models.checks import check_images, patch_grid
from vitrail.models.positions import Grid, resize_line

ACTIVATIONS = {
    "gelu": nn.GELU(),  # exact, with erf: the paper's text, timm, MAE, DeiT, DINOv2
    "gelu-tanh": nn.GELU(approximate="tanh"),  # what JAX computes: the published ViT weights want it
    "silu": nn.SiLU(),
}


def dropout(probability: float) -> nn.Module:
    """Dropout, or nothing at all: nn.Dropout(0) would still write a mask in training."""
    return nn.Dropout(probability) if probability else nn.Identity()


class DropPath(nn.Module):
    """Stochastic depth (Huang 2016): in training an image loses the branch with `probability`, else it is scaled up."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        if not self.training or not self.probability:
            return x
        keep = 1 - self.probability
        kept = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * kept.div_(keep)


class LayerScale(nn.Module):
    """A learned factor per channel on a branch (CaiT; DeiT III and DINOv2 have it)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return x * self.gamma


class PatchEmbed(nn.Module):
    """Equation 1's x_p E: each patch of pixels, flattened, through one linear map; `weight` is D C p q.

    It is a convolution whose stride is its kernel, computed as one matrix product: the tokens come out in memory order.
    """

    def __init__(self, patch: tuple[int, int], channels: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.weight = nn.Parameter(torch.empty(width, channels, *patch))
        self.bias = nn.Parameter(torch.empty(width))

    def grid(self, images: Float[Tensor, "B C H W"]) -> Grid:
        """Patch rows and columns of these images; ShapeError where channels or sizes do not fit."""
        check_images(images, self.weight.shape[1])
        return patch_grid((images.shape[2], images.shape[3]), self.patch)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        (h, w), (p, q) = self.grid(images), self.patch
        patches = images.unflatten(3, (w, q)).unflatten(2, (h, p)).permute(0, 2, 4, 1, 3, 5)  # B h w C p q
        return F.linear(patches.flatten(3).flatten(1, 2), self.weight.flatten(1), self.bias)


class RelativeKeys(nn.Module):
    """Relative positions as in the paper's Table 8 (Shaw 2018): an embedding per 1-D offset between query and key.

    The embeddings act as further keys: their product with the query is added to the logits of attention.
    """

    def __init__(self, tokens: int, head_width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(1, 2 * tokens - 1, head_width))

    def forward(self, q: Float[Tensor, "B A N d"]) -> Float[Tensor, "B A N N"]:
        tokens, head_width = q.shape[-2:]
        place = torch.arange(tokens, device=q.device)
        table = resize_line(self.table, 2 * tokens - 1)[0] * head_width**-0.5
        keys = table[place[:, None] - place[None, :] + tokens - 1]  # N N d
        return torch.einsum("baid,ijd->baij", q, keys.to(q.dtype))


def attend(
    q: Float[Tensor, "B A N d"],
    k: Float[Tensor, "B A M d"],
    v: Float[Tensor, "B A M d"],
    bias: Float[Tensor, "B A N M"] | None = None,
) -> Float[Tensor, "B A N d"]:
    """softmax(q kᵀ / √d + bias) v, by torch's fused attention, but for bfloat16 on a CPU.

    There the fused kernel is slow (its backward 2 to 12 times, at 17 to 1025 tokens: docs/concepts/speed.md), and
    two matrix products with a float32 softmax between them say the same up to rounding.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head self-attention, equations 5-8 (appendix A): softmax(q kᵀ / √d) v per head, then one projection."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        drop: float = 0.0,
        qkv_bias: bool = True,
        qk_norm_eps: float | None = None,
        relative_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        self.drop = dropout(drop)
        head_width = width // heads
        self.q_norm = nn.LayerNorm(head_width, eps=qk_norm_eps) if qk_norm_eps else nn.Identity()
        self.k_norm = nn.LayerNorm(head_width, eps=qk_norm_eps) if qk_norm_eps else nn.Identity()
        self.relative = RelativeKeys(relative_tokens, head_width) if relative_tokens else None

    def project(self, x: Float[Tensor, "B N D"]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v, each B A N d."""
        # split before the transpose: the backward pass then joins the three gradients in memory order, without a copy
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2)
        return self.q_norm(q).transpose(1, 2), self.k_norm(k).transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        q, k, v = self.project(x)
        x = attend(q, k, v, self.relative(q) if self.relative is not None else None)
        return self.drop(self.proj(x.transpose(1, 2).flatten(2)))


class Mlp(nn.Module):
    """Two dense layers with the activation between: D → mlp_width → D; dropout after both (B.1).

    `swiglu` (DINOv2) makes both halves of a gate in the first layer: silu(a) ⊙ b.
    """

    def __init__(self, width: int, hidden: int, *, activation: str, drop: float = 0.0) -> None:
        super().__init__()
        self.gated = activation == "swiglu"
        self.fc1 = nn.Linear(width, 2 * hidden if self.gated else hidden)
        self.act = nn.SiLU() if self.gated else ACTIVATIONS[activation]
        self.fc2 = nn.Linear(hidden, width)
        self.drop = dropout(drop)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        x = self.fc1(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = self.act(gate) * x
        else:
            x = self.act(x)
        return self.drop(self.fc2(self.drop(x)))


class Block(nn.Module):
    """Equations 2 and 3: z' = MSA(LN(z)) + z; z = MLP(LN(z')) + z'."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        *,
        activation: str = "gelu",
        eps: float = 1e-6,
        drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
        qk_norm: bool = False,
        qkv_bias: bool = True,
        relative_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(
            width,
            heads,
            drop=drop,
            qkv_bias=qkv_bias,
            qk_norm_eps=eps if qk_norm else None,
            relative_tokens=relative_tokens,
        )
        self.ls1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_width, activation=activation, drop=drop)
        self.ls2 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))  # (2)
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))  # (3)


class AttentionPool(nn.Module):
    """One learned probe attends to all patches, then an MLP: the MAP head of arXiv 2106.04560."""

    def __init__(self, width: int, heads: int, mlp_width: int, *, activation: str, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.probe = nn.Parameter(torch.empty(1, 1, width))
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = Mlp(width, mlp_width, activation=activation)

    def forward(self, tokens: Float[Tensor, "B N D"]) -> Float[Tensor, "B D"]:
        q = self.q(self.probe).unflatten(2, (self.heads, -1)).transpose(1, 2).expand(len(tokens), -1, -1, -1)
        k, v = self.kv(tokens).unflatten(2, (2, self.heads, -1)).unbind(2)
        x = attend(q, k.transpose(1, 2), v.transpose(1, 2))
        x = self.proj(x.transpose(1, 2).flatten(2))
        return (x + self.mlp(self.norm(x)))[:, 0]


class Head(nn.Linear):
    """The last linear map, in its weights' precision under autocast too: bf16 logits of 8 to 16 are 1/16 apart, and tie."""

    def forward(self, input: Float[Tensor, "B P"]) -> Float[Tensor, "B K"]:
        kind = input.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            return F.linear(input, self.weight, self.bias)
        with torch.autocast(kind, enabled=False):
            return F.linear(input.to(self.weight.dtype), self.weight, self.bias)


@torch.no_grad()
def zero_head(head: nn.Module, bias: float) -> None:
    """A zero head, in pre-training and fine-tuning alike (section 3.2): at the first step all classes are equal."""
    if isinstance(head, nn.Linear):
        head.weight.zero_()
        if head.bias is not None:
            head.bias.fill_(bias)


@torch.no_grad()
def initialise_layers(module: nn.Module, generator: torch.Generator) -> None:
    """The original's start of all in this file, in the order of the modules; flax's defaults where it names none."""
    for layer in module.modules():
        if isinstance(layer, PatchEmbed):  # flax's Conv: LeCun normal, truncated at two sigma
            lecun_normal_(layer.weight, generator)
            layer.bias.zero_()
        elif isinstance(layer, Attention | AttentionPool):
            for linear in layer.children():
                if isinstance(linear, nn.Linear):  # q, k, v are D → D each, also where one matrix holds them
                    xavier_uniform_(linear.weight, linear.in_features, linear.in_features, generator)
                    if linear.bias is not None:
                        linear.bias.zero_()
            if isinstance(layer, AttentionPool):
                xavier_uniform_(layer.probe, 1, layer.probe.shape[2], generator)
        elif isinstance(layer, Mlp):
            for linear in (layer.fc1, layer.fc2):
                xavier_uniform_(linear.weight, linear.in_features, linear.out_features, generator)
                linear.bias.normal_(std=1e-6, generator=generator)
        elif isinstance(layer, nn.LayerNorm):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
        elif isinstance(layer, LayerScale):
            layer.gamma.fill_(layer.start)
        elif isinstance(layer, RelativeKeys):
            layer.table.normal_(std=0.02, generator=generator)


def xavier_uniform_(weight: Tensor, fan_in: int, fan_out: int, generator: torch.Generator) -> None:
    bound = math.sqrt(6 / (fan_in + fan_out))
    weight.uniform_(-bound, bound, generator=generator)


def lecun_normal_(weight: Tensor, generator: torch.Generator) -> None:
    """Flax's default for kernels: a normal cut at two sigma, widened so that its variance is 1/fan_in again."""
    std = weight[0].numel() ** -0.5 / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)
