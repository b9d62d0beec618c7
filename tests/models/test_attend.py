"""bfloat16 on a CPU: `attend` by matrix products, and a head in float32."""

import pytest
import torch
import torch.nn.functional as F

from vitrail.models.layers import attend
from vitrail.models.zoo import build

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize(("queries", "keys", "with_bias"), [(17, 17, False), (50, 50, True), (1, 197, False)])
def test_bfloat16_rounds_at_most_twice_as_much_as_torchs_fused_attention(queries, keys, with_bias):
    generator = torch.Generator().manual_seed(queries)
    q, k, v, towards = (
        torch.randn(2, 3, tokens, 32, generator=generator, dtype=torch.float64)
        for tokens in (queries, keys, keys, queries)
    )
    bias = torch.randn(2, 3, queries, keys, generator=generator, dtype=torch.float64) if with_bias else None

    def run(function, dtype):
        inputs = [tensor.detach().clone().to(dtype).requires_grad_() for tensor in (q, k, v)]
        out = function(*inputs, None if bias is None else bias.to(dtype))
        out.backward(towards.to(dtype))
        return [out.detach().double(), *(tensor.grad.double() for tensor in inputs)]

    exact = run(F.scaled_dot_product_attention, torch.float64)
    ours = run(attend, torch.bfloat16)
    theirs = run(F.scaled_dot_product_attention, torch.bfloat16)
    for true, our, their in zip(exact, ours, theirs, strict=True):
        assert (our - true).norm() <= 2 * (their - true).norm() + 1e-6
        assert (our - true).norm() < 0.01 * true.norm()


def test_float32_is_torchs_fused_attention_to_the_bit():
    q, k, v = torch.randn(3, 2, 3, 20, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_logits_are_float32_under_autocast_and_do_not_tie():
    model = build("vit-ti/16", image=(32, 32), classes=1000, depth=1)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu"):
            images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
            pooled = model.pool(model.features(images))
            logits = model(images)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, F.linear(pooled.float(), model.head.weight, model.head.bias))
