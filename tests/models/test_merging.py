"""Token merging beside the paper's algorithm written with loops, one image and one pair at a time."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tests.support.zoo import FAMILIES, VITS
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.deit import DeiTConfig
from vitrail.models.merging import encode_merged, merge
from vitrail.models.vit import ViTConfig

pytestmark = pytest.mark.oracle

CONFIG = ViTConfig(width=32, depth=3, heads=2, mlp_width=48, patch=(4, 4), image=(20, 28), classes=5)


def random_model(config, merge: int = 0):
    extras = dataclasses.replace(config.extras, merge=merge)
    model = zoo.build(dataclasses.replace(config, extras=extras), seed=1).eval()
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draws))
    return model


def by_loops(model, images: torch.Tensor, r: int) -> torch.Tensor:
    """Section 3 of arXiv 2210.09461 for one image: lists of tokens, each with the patches that it stands for."""
    trunk = model.trunk
    prefix = trunk.config.prefix
    z = [row for row in trunk.embed(images)[0]]
    stands_for = [[place] for place in range(len(z))]
    for block in trunk.blocks:
        x = torch.stack(z)
        q, k, v = (part[0] for part in block.attn.project(block.norm1(x)[None]))
        sizes = torch.tensor([float(len(patches)) for patches in stands_for])
        weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5 + sizes.log()).softmax(-1)
        heads = (weights @ v).transpose(0, 1).flatten(1)
        z = list(x + block.ls1(block.attn.proj(heads)[None])[0])
        keys = F.normalize(k.mean(0), dim=-1)
        a, b = list(range(prefix + 1, len(z), 2)), list(range(prefix, len(z), 2))
        best = {i: max(b, key=lambda j, i=i: float(keys[i] @ keys[j])) for i in a}
        chosen = sorted(a, key=lambda i: -float(keys[i] @ keys[best[i]]))[: min(r, (len(z) - prefix) // 2)]
        rest = [i for i in sorted(a, key=lambda i: -float(keys[i] @ keys[best[i]])) if i not in chosen]
        groups = [[i] for i in (*range(prefix), *rest)] + [[j, *(i for i in chosen if best[i] == j)] for j in b]
        count = [[len(stands_for[i]) for i in group] for group in groups]
        z = [
            sum(n * z[i] for n, i in zip(few, group, strict=True)) / sum(few)
            for few, group in zip(count, groups, strict=True)
        ]
        stands_for = [[patch for i in group for patch in stands_for[i]] for group in groups]
        z = [row + block.ls2(block.mlp(block.norm2(row[None, None])))[0, 0] for row in z]
    whole = [None] * sum(map(len, stands_for))
    for row, patches in zip(z, stands_for, strict=True):
        for patch in patches:
            whole[patch] = row
    return trunk.norm(torch.stack(whole)) if trunk.config.extras.final_norm == "tokens" else torch.stack(whole)


@pytest.mark.parametrize("r", [1, 3, 8, 40])
@pytest.mark.parametrize(
    "config",
    [CONFIG, VITS["dinov2"], DeiTConfig(**{**CONFIG.__dict__, "extras": DeiTConfig().extras})],
    ids=["vit", "registers", "deit"],
)
@torch.no_grad()
def test_tokens_are_those_of_the_paper(config, r: int) -> None:
    model = random_model(config, r)
    images = torch.randn(3, 3, *config.image)
    found = model.features(images)
    for row in range(3):
        torch.testing.assert_close(found.tokens[row], by_loops(model, images[row : row + 1], r), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_none_merged_is_the_same_bits() -> None:
    model, images = random_model(CONFIG), torch.randn(2, 3, 20, 28)
    z = model.embed(images)
    assert torch.equal(model.norm(encode_merged(model.blocks, z, 0, 1)), model.encode(z, (5, 7)))
    assert torch.equal(random_model(CONFIG, 0)(images), model(images))


@torch.no_grad()
def test_class_and_register_tokens_are_never_merged() -> None:
    z, keys = torch.randn(2, 21, 8), torch.ones(2, 21, 4)  # all keys alike: any pair could merge
    merged, sizes, moved = merge(z, keys, None, 8, prefix=5)
    assert merged.shape[1] == 13 and torch.equal(merged[:, :5], z[:, :5]) and (sizes[:, :5] == 1).all()
    assert sizes.sum() == 2 * 21 and (moved[:, :5] == torch.arange(5)).all()


@torch.no_grad()
def test_the_mean_token_is_kept() -> None:
    """A mean weighted by sizes is the mean before, whatever is merged."""
    z, keys = torch.randn(3, 50, 8), torch.randn(3, 50, 4)
    sizes = None
    for _ in range(4):
        z_new, new_sizes, _ = merge(z, keys[:, : z.shape[1]], sizes, 6, prefix=1)
        before = (z * (1 if sizes is None else sizes)).sum(1)
        torch.testing.assert_close((z_new * new_sizes).sum(1), before)
        z, sizes = z_new, new_sizes


def test_training_through_merged_tokens_gives_every_weight_a_gradient() -> None:
    model = random_model(CONFIG, 4).train()
    model(torch.randn(2, 3, 20, 28)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@torch.no_grad()
def test_hybrids_merge_too() -> None:
    config = FAMILIES["r50+vit-b/16"]
    plain, merged = random_model(config), random_model(config, 2)
    merged.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 128, 96)
    assert merged(images).shape == plain(images).shape and not torch.equal(merged(images), plain(images))


@torch.no_grad()
def test_maps_show_the_members_of_merged_tokens() -> None:
    """With few merged, and a row of weights that sums to 1: all patches of a token have the same share."""
    from vitrail.inspection.attention_hooks import watch
    from vitrail.inspection.maps import rollout_of

    model, images = random_model(CONFIG, 6), torch.randn(2, 3, 20, 28)
    held: list[torch.Tensor] = []
    hooks = [
        block.attn.members.register_forward_hook(lambda _, __, value: held.append(value)) for block in model.blocks
    ]
    maps: list[torch.Tensor] = []
    out = watch(model, images, lambda tap: maps.append(tap.weights()))
    for hook in hooks:
        hook.remove()
    assert torch.equal(out, model(images)) and maps[2].shape == (2, 2, 36, 36)
    for weights, members in zip(maps, held, strict=True):
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 36))
        same = members[0][:, None] == members[0][None]
        first = same.float().argmax(1)  # the first patch of each token
        torch.testing.assert_close(weights[0], weights[0][:, first][:, :, first])
    assert (held[2][0].bincount() > 1).any()
    flow = rollout_of(model, images, preprocess=Preprocess(size=(20, 28)))
    assert flow.shape == (2, 5, 7) and (flow > 0).all()


def test_relative_positions_do_not_merge() -> None:
    with pytest.raises(ConfigError, match="relative or rotary positions"):
        dataclasses.replace(VITS["relative"], extras=dataclasses.replace(VITS["relative"].extras, merge=2))
