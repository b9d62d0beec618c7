"""Token merging without training (ToMe, arXiv 2210.09461): each block joins the r pairs of patches that are most alike.

Between attention and MLP the patches are dealt into two sets by turns. Each patch of A finds the patch of B with the most
similar key. The r best pairs become their mean, weighted by the patches that each token holds (section 3 of the paper).
Class and register tokens take no part. In attention a token of s patches counts s times: log s is added to its logits.

At the end each patch gets the token that it is in. So `Features` have all patches of the grid, and a mean over them is weighted.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.models.layers import attend


def encode_merged(blocks: Any, z: Float[Tensor, "B N D"], r: int, prefix: int) -> Float[Tensor, "B N D"]:
    """z_L of z_0 through blocks that each merge `r` of the patches behind `prefix` tokens, or as many as there are pairs."""
    sizes: Tensor | None = None  # patches in each token; None: one in each
    members = torch.arange(z.shape[1], device=z.device).expand(z.shape[0], -1)  # the token that each patch is in
    for block in blocks:
        block.attn.members(members)
        q, k, v = block.attn.project(block.norm1(z))
        bias = None if sizes is None else rearrange(sizes.log(), "B M 1 -> B 1 1 M")
        heads = rearrange(attend(q, k, v, None if bias is None else bias.to(q.dtype)), "B A N d -> B N (A d)")
        z = z + block.drop_path1(block.ls1(block.attn.drop(block.attn.proj(block.attn.norm(heads)))))
        if few := min(r, (z.shape[1] - prefix) // 2):
            z, sizes, moved = merge(z, k.mean(1), sizes, few, prefix)
            members = moved.gather(1, members)
        z = z + block.drop_path2(block.ls2(block.mlp(block.norm2(z))))
    return expand(z, members)


def merge(
    z: Float[Tensor, "B N D"], keys: Float[Tensor, "B N d"], sizes: Float[Tensor, "B N 1"] | None, r: int, prefix: int
) -> tuple[Float[Tensor, "B M D"], Float[Tensor, "B M 1"], Int[Tensor, "B N"]]:
    """`r` tokens fewer: [prefix, the rest of A, B]; their sizes; and where each token went."""
    sizes = torch.ones_like(z[:, :, :1]) if sizes is None else sizes
    into, rank = match(keys[:, prefix:])
    a = rank.shape[1]
    kept, merged = (rank.argsort(1)[:, part] for part in (slice(r, None), slice(r)))
    joined = []
    for x in (z * sizes, sizes):  # a mean weighted by sizes is one sum over another
        in_a, in_b = x[:, prefix + 1 :: 2], x[:, prefix::2]
        target = repeat(into.gather(1, merged), "B r -> B r D", D=x.shape[2])
        sums = in_b.scatter_add(1, target, expand(in_a, merged))
        joined.append(torch.cat([x[:, :prefix], expand(in_a, kept), sums], dim=1))
    start = prefix + a - r  # of B
    of_a = torch.where(rank < r, start + into, prefix + rank - r)
    return joined[0] / joined[1], joined[1], _moved(of_a, start, z.shape[1] - prefix, prefix)


def match(keys: Float[Tensor, "B n d"]) -> tuple[Int[Tensor, "B a"], Int[Tensor, "B a"]]:
    """For each patch of A (every second one): the most similar patch of B, and the rank of that pair, 0 the most similar."""
    unit = F.normalize(keys.float(), dim=-1)
    similar, into = (unit[:, 1::2] @ unit[:, ::2].transpose(1, 2)).max(-1)
    return into, similar.argsort(1, descending=True).argsort(1)


def _moved(of_a: Int[Tensor, "B a"], start: int, patches: int, prefix: int) -> Int[Tensor, "B N"]:
    """The new place of each token: B stands at `start` and after, A and B were dealt by turns."""
    place = torch.arange(patches, device=of_a.device)
    of_b = (start + torch.arange(patches - of_a.shape[1], device=of_a.device)).expand(of_a.shape[0], -1)
    dealt = torch.cat([of_b, of_a], dim=1)[:, place // 2 + place % 2 * of_b.shape[1]]
    before = torch.arange(prefix, device=of_a.device).expand(of_a.shape[0], -1)
    return torch.cat([before, dealt], dim=1)


def expand(z: Float[Tensor, "B N D"], members: Int[Tensor, "B M"]) -> Float[Tensor, "B M D"]:
    """The rows of z that `members` name, image by image. Whole rows of one table: runtimes copy them as they lie."""
    images, tokens = z.shape[:2]
    rows = members + tokens * torch.arange(images, device=z.device)[:, None]
    return z.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, (images, -1))
