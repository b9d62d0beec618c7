"""Weights cast once for many batches: not a bit of an answer differs from autocast's, which casts them every time."""

import torch
from torch.func import functional_call

from vitrail.models import zoo
from vitrail.prediction.forward import answering, cast_weights

CPU = torch.device("cpu")


def test_weights_cast_once_give_the_bits_of_autocast():
    model = zoo.build("vit-ti/16", image=(32, 32), classes=7, depth=2, pool="map")
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    weights = cast_weights(model, torch.bfloat16)
    assert "head.weight" not in weights
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    with answering(model, CPU, torch.bfloat16):
        assert torch.equal(functional_call(model, weights, (images,)), model(images))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_float32_needs_no_copies():
    assert cast_weights(zoo.build("vit-ti/16", depth=1), torch.float32) == {}
