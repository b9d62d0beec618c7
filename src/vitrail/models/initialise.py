"""The original's start of all weights. Every number comes from the generator: the same state gives the same bits."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vitrail.models.conv_stem import ConvStem
from vitrail.models.layers import Attention, AttentionPool, LayerScale, Mlp, PatchEmbed, RelativeKeys
from vitrail.models.positions import LearnedPositions, LearnedPositions2d

if TYPE_CHECKING:
    from vitrail.models.vit import ViT


@torch.no_grad()
def initialise_vit(model: "ViT", generator: torch.Generator) -> None:
    """The start of a whole ViT, as in google-research/vision_transformer."""
    initialise_layers(model, generator)
    for token in (model.cls_token, model.mask_token):
        if token is not None:
            token.zero_()
    if model.registers is not None:
        model.registers.normal_(std=1e-6, generator=generator)
    for positions in (model.positions, *model.layer_positions):
        if isinstance(positions, LearnedPositions | LearnedPositions2d):
            positions.initialise(generator)
    if model.pre_logits is not None:
        lecun_normal_(model.pre_logits.weight, generator)
        model.pre_logits.bias.zero_()
    if isinstance(model.projection, nn.Linear):
        lecun_normal_(model.projection.weight, generator)
    model.initialise_head()


@torch.no_grad()
def zero_head(head: nn.Module, bias: float) -> None:
    """A zero head, in pre-training and fine-tuning alike (section 3.2): at the first step all classes are equal."""
    if isinstance(head, nn.Linear):
        head.weight.zero_()
        if head.bias is not None:
            head.bias.fill_(bias)


@torch.no_grad()
def initialise_layers(module: nn.Module, generator: torch.Generator) -> None:
    """The original's start of the layers in this file, in the order of the modules; flax's defaults where it is silent."""
    for layer in module.modules():
        if isinstance(layer, PatchEmbed):  # flax's Conv: LeCun normal, truncated at two sigma
            lecun_normal_(layer.weight, generator)
            if layer.bias is not None:
                layer.bias.zero_()
        elif isinstance(layer, ConvStem):
            layer.initialise(generator)
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
