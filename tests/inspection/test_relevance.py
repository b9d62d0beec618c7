"""Relevance and Grad-CAM against automatic differentiation of attention written out, in float64."""

import dataclasses

import pytest
import torch

from tests.support.models import HYBRID, MASKED, MAXVIT, RESNET, VIT, lively, noise
from vitrail.errors import ConfigError, DoesNotApply
from vitrail.inspection.relevance import grad_cam, relevance
from vitrail.models import zoo
from vitrail.models.features import Features


def written_out(model, images, classes):
    """R ← R + E_h((∇A ⊙ A)⁺) R, with every attention matrix in the graph."""
    tokens, maps = model.pre_norm(model.embed(images)), []
    turns = model.rotation(model.config.grid, tokens) if model.rotation is not None else None
    for block in model.blocks:
        attn, x = block.attn, block.norm1(tokens)
        q, k, v = attn.project(x, turns)
        logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        weights = (logits if attn.relative is None else logits + attn.relative(q)).softmax(-1)
        maps.append(weights)
        tokens = tokens + block.ls1(attn.proj(attn.norm((weights @ v).transpose(1, 2).flatten(2))))
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))
    if model.config.extras.final_norm == "tokens":
        tokens = model.norm(tokens)
    logits = model.head(model.pool(Features(tokens, model.config.prefix, model.config.grid)))
    slopes = torch.autograd.grad(logits[range(len(images)), classes].sum(), maps)
    flow = torch.eye(tokens.shape[1], dtype=tokens.dtype).expand(len(images), -1, -1)
    for weights, slope in zip(maps, slopes, strict=True):
        flow = flow + (weights * slope).relu().mean(1) @ flow
    return flow.detach()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool": "mean"},
        {"qk_norm": True, "layer_scale": 0.5},
        {"positions": "relative"},
        {"registers": 2},
        {"positions": "rotary", "inner_norm": "both"},
    ],
    ids=str,
)
def test_relevance_is_the_papers_rule(changes):
    config = zoo.change(VIT, **changes)
    model, images = lively(config).double(), noise(2, 3, 224, 160).double()
    flow = written_out(model, images, [3, 5])[:, :, config.prefix :]
    expected = flow[:, 0] if config.pool == "cls" else flow[:, config.prefix :].mean(1) - 1 / flow.shape[2]
    found = relevance(model, images, classes=[3, 5])
    torch.testing.assert_close(found, expected.unflatten(1, (14, 10)))


def test_the_likeliest_class_is_explained_and_the_model_is_left_as_it_was():
    model, images = lively(VIT).train(), noise(2, 3, 224, 160)
    model.blocks[0].requires_grad_(False)
    before = {name: (tensor.clone(), tensor.requires_grad) for name, tensor in model.named_parameters()}
    with torch.no_grad():
        found = relevance(model, images)
        likeliest = model.eval()(images).argmax(1).tolist()
    model.train()
    torch.testing.assert_close(relevance(model, images, classes=likeliest), found)
    assert model.training and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name][0]) and tensor.requires_grad == before[name][1] and tensor.grad is None


def test_a_frozen_model_can_be_explained():
    model = lively(VIT).requires_grad_(False)
    assert relevance(model, noise(1, 3, 224, 160)).isfinite().all()


@pytest.mark.parametrize("config", [RESNET, MAXVIT, HYBRID, dataclasses.replace(VIT, pool="mean")], ids=str)
def test_grad_cam_is_its_formula_in_every_family_that_reads_a_map(config):
    model, images = lively(config).double(), noise(2, 3, *config.image).double()
    if config is HYBRID:
        last = model.resnet.map(images)
        logits = model.head(model.pool(model.vit.features(last)))
    else:
        features = model.features(images)
        last = features.map
        logits = model.head(
            model.pool(
                dataclasses.replace(
                    features,
                    tokens=torch.cat([features.tokens[:, : features.prefix], last.flatten(2).transpose(1, 2)], 1),
                )
            )
        )
    (slope,) = torch.autograd.grad(logits[range(2), [1, 2]].sum(), last)
    expected = (slope.mean((2, 3))[:, :, None, None] * last).sum(1).relu().detach()
    torch.testing.assert_close(grad_cam(model, images, classes=[1, 2]), expected)


def test_what_does_not_apply_is_said():
    with pytest.raises(DoesNotApply, match="reads no position of the last map"):
        grad_cam(lively(VIT), noise(1, 3, 224, 160))
    with pytest.raises(DoesNotApply, match="a ResNet has no blocks"):
        relevance(lively(RESNET), noise(1, 3, 64, 48))
    for method in (relevance, grad_cam):
        with pytest.raises(DoesNotApply, match="has no head"):
            method(lively(MASKED), noise(1, 3, 64, 48))
    for classes, message in (([7], "0 to 6"), ([1, 2], "one class for each image")):
        with pytest.raises(ConfigError, match=message):
            relevance(lively(VIT), noise(1, 3, 224, 160), classes=classes)
