"""Layers that several families share: patches, attention, MLP, the pre-norm block, pooling by attention.

Names follow the paper (equations 1-4) and the field: B images, N tokens, D width, A heads, d = D / A.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models.checks import Grid, check_images, patch_grid
from vitrail.models.conv_stem import ConvStem
from vitrail.models.extras import PLAIN, Extras
from vitrail.models.positions import rotary_of, rotate
from vitrail.models.resize import resize_line


class QuickGELU(nn.Module):
    """x σ(1.702 x): what OpenAI's CLIP computes for GELU."""

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS = {
    "gelu": nn.GELU(),  # exact, with erf: the paper's text, timm, MAE, DeiT, DINOv2
    "gelu-tanh": nn.GELU(approximate="tanh"),  # what JAX computes: the published ViT weights want it
    "gelu-quick": QuickGELU(),
    "silu": nn.SiLU(),
}


def dropout(probability: float) -> nn.Module:
    """Dropout. Of probability 0 it is left out: nn.Dropout(0) would still write a mask in training."""
    return nn.Dropout(probability) if probability else nn.Identity()


class DropPath(nn.Module):
    """Stochastic depth (Huang 2016): in training an image loses the branch with `probability`, else it is scaled up.

    One module for each branch, so that branches are lost independently.
    """

    draws: Tensor | None = None
    """A number in [0, 1) for each image, which training sets for a batch; the branch is lost where it is too large. Without
    it, and for another number of images (views), torch draws."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        if not self.training or not self.probability:
            return x
        keep = 1 - self.probability
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        if self.draws is None or len(self.draws) != len(x):
            kept = x.new_empty(shape).bernoulli_(keep)
        else:
            kept = (self.draws < keep).to(x.dtype).view(shape)
        return x * kept.div_(keep)


def stochastic_depth(probability: float) -> nn.Module:
    """Stochastic depth of one branch; left out where the probability is 0."""
    return DropPath(probability) if probability else nn.Identity()


class LayerScale(nn.Module):
    """A trained factor per channel on a branch (CaiT, DeiT III, DINOv2)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        return x * self.gamma


class PatchEmbed(nn.Module):
    """Equation 1's x_p E: each patch of pixels, flattened, through one linear map. `weight` is D C p q.

    It equals a convolution whose stride is its kernel. One matrix product is faster on a CPU. Behind `convs` layers of
    a `ConvStem` the patches are of its map, and cover the same pixels.
    """

    def __init__(self, patch: tuple[int, int], channels: int, width: int, *, bias: bool = True, convs: int = 0) -> None:
        super().__init__()
        self.patch, self.channels = patch, channels
        self.stem = ConvStem(convs, channels, width) if convs else nn.Identity()
        self.inner = (patch[0] >> convs, patch[1] >> convs)
        self.weight = nn.Parameter(torch.empty(width, width if convs else channels, *self.inner))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def grid(self, images: Float[Tensor, "B C H W"]) -> Grid:
        """Patch rows and columns of these images; ShapeError where channels or sizes do not fit."""
        check_images(images, self.channels)
        return patch_grid((images.shape[2], images.shape[3]), self.patch)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B N D"]:
        self.grid(images)  # raises for sizes that do not fit
        x_p = rearrange(self.stem(images), "B C (h p) (w q) -> B (h w) (C p q)", p=self.inner[0], q=self.inner[1])
        return F.linear(x_p, rearrange(self.weight, "D C p q -> D (C p q)"), self.bias)


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
    bias: Float[Tensor, "#B #A #N M"] | None = None,
) -> Float[Tensor, "B A N d"]:
    """softmax(q kᵀ / √d + bias) v, by torch's fused attention, except for bfloat16 on a CPU.

    There the fused kernel is slow (docs/concepts/speed.md): two matrix products replace it, with a float32 softmax.
    """
    # the exporter to ONNX cannot take the fused kernel with a bias
    written = bias is not None and torch.compiler.is_exporting()
    if not written and (q.device.type != "cpu" or q.dtype != torch.bfloat16):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


Turns = Float[Tensor, "2 _ N d"] | None
"""Cosines and sines by which `positions.Rotation` turns queries and keys."""
Mask = Float[Tensor, "#B #A N N"] | None
"""Added to the logits: minus infinity where a query may not look."""


class Attention(nn.Module):
    """Multi-head self-attention, equations 5-8 (appendix A): softmax(q kᵀ / √d) v per head, then one projection."""

    def __init__(
        self, width: int, heads: int, extras: Extras = PLAIN, *, drop: float = 0.0, relative_tokens: int = 0
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=extras.qkv_bias)
        self.proj = nn.Linear(width, width)
        self.drop = dropout(drop)
        d = width // heads
        self.q_norm, self.k_norm = (
            nn.LayerNorm(d, eps=extras.norm_eps) if extras.qk_norm else nn.Identity() for _ in range(2)
        )
        self.relative = RelativeKeys(relative_tokens, d) if relative_tokens else None
        self.members = nn.Identity()  # merged tokens pass it: which patches they hold (`merging.py`), for onlookers
        self.halves = rotary_of(extras.rotary).halves
        self.norm = nn.LayerNorm(width, eps=extras.norm_eps) if extras.inner_norm == "both" else nn.Identity()

    def project(self, x: Float[Tensor, "B N D"], turns: Turns = None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of equation 5, each B A N d; q and k turned by their place where positions are rotary."""
        # unbind before the axes are swapped: the backward pass then needs no copy
        q, k, v = rearrange(self.qkv(x), "B N (three A d) -> B N three A d", three=3, A=self.heads).unbind(2)
        q, k, v = (rearrange(y, "B N A d -> B A N d") for y in (self.q_norm(q), self.k_norm(k), v))
        return self.turn(q, turns), self.turn(k, turns), v

    def turn(self, x: Float[Tensor, "B A N d"], turns: Turns) -> Float[Tensor, "B A N d"]:
        """Queries or keys turned by their place; as they came where there is nothing to turn them by."""
        return x if turns is None else rotate(x, turns, halves=self.halves)

    def bias(self, q: Float[Tensor, "B A N d"], mask: Mask = None) -> Float[Tensor, "#B #A N N"] | None:
        """The term added to the logits: relative positions, or a mask."""
        return mask if self.relative is None else self.relative(q)

    def forward(self, x: Float[Tensor, "B N D"], turns: Turns = None, mask: Mask = None) -> Float[Tensor, "B N D"]:
        q, k, v = self.project(x, turns)
        heads = attend(q, k, v, self.bias(q, mask))  # (6) (7)
        return self.drop(self.proj(self.norm(rearrange(heads, "B A N d -> B N (A d)"))))  # (8)


class Mlp(nn.Module):
    """Two dense layers with the activation between: D → mlp_width → D; dropout after both (B.1).

    With `swiglu` (DINOv2) the first layer gives two halves a and b: silu(a) ⊙ b. With `eps` a norm follows (EVA-02).
    """

    def __init__(
        self, width: int, hidden: int, *, activation: str, drop: float = 0.0, eps: float | None = None
    ) -> None:
        super().__init__()
        self.gated = activation == "swiglu"
        self.fc1 = nn.Linear(width, 2 * hidden if self.gated else hidden)
        self.act = nn.SiLU() if self.gated else ACTIVATIONS[activation]
        self.norm = nn.LayerNorm(hidden, eps=eps) if eps else nn.Identity()
        self.fc2 = nn.Linear(hidden, width)
        self.drop = dropout(drop)

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        x = self.fc1(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            x = self.act(gate) * x
        else:
            x = self.act(x)
        return self.drop(self.fc2(self.norm(self.drop(x))))


class Block(nn.Module):
    """Equations 2 and 3: z' = MSA(LN(z)) + z; z = MLP(LN(z')) + z'."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        extras: Extras = PLAIN,
        *,
        drop: float = 0.0,
        drop_path: float = 0.0,
        relative_tokens: int = 0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=extras.norm_eps)
        self.attn = Attention(width, heads, extras, drop=drop, relative_tokens=relative_tokens)
        self.ls1 = LayerScale(width, extras.layer_scale) if extras.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=extras.norm_eps)
        eps = None if extras.inner_norm == "none" else extras.norm_eps
        self.mlp = Mlp(width, mlp_width, activation=extras.activation, drop=drop, eps=eps)
        self.ls2 = LayerScale(width, extras.layer_scale) if extras.layer_scale else nn.Identity()
        self.drop_path1, self.drop_path2 = stochastic_depth(drop_path), stochastic_depth(drop_path)

    def forward(self, x: Float[Tensor, "B N D"], turns: Turns = None, mask: Mask = None) -> Float[Tensor, "B N D"]:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), turns, mask)))  # (2)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))  # (3)


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
        q = repeat(self.q(self.probe), "1 1 (A d) -> B A 1 d", A=self.heads, B=tokens.shape[0])
        k, v = rearrange(self.kv(tokens), "B N (two A d) -> two B A N d", two=2, A=self.heads)
        x = self.proj(rearrange(attend(q, k, v), "B A 1 d -> B 1 (A d)"))
        return (x + self.mlp(self.norm(x)))[:, 0]


class Head(nn.Linear):
    """The last linear map. Autocast does not touch it: bf16 rounds large logits so coarsely that classes tie.

    With `normalise` it reads features of length 1: rows of unit length times a scale then make scaled cosines (CLIP).
    """

    def __init__(self, width: int, classes: int, *, normalise: bool = False) -> None:
        super().__init__(width, classes)
        self.normalise = normalise

    def forward(self, input: Float[Tensor, "B P"]) -> Float[Tensor, "B K"]:
        kind = input.device.type
        if input.is_meta or not torch.is_autocast_enabled(kind):  # meta tensors know no autocast
            return self._logits(input)
        with torch.autocast(kind, enabled=False):
            return self._logits(input.to(self.weight.dtype))

    def _logits(self, features: Float[Tensor, "B P"]) -> Float[Tensor, "B K"]:
        return F.linear(F.normalize(features, dim=-1) if self.normalise else features, self.weight, self.bias)


def make_head(width: int, classes: int, *, normalise: bool = False) -> nn.Module:
    """A head of so many classes; Identity for none."""
    return Head(width, classes, normalise=normalise) if classes else nn.Identity()
