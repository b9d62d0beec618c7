"""`attend` in bfloat16 on a CPU takes its own path: it must say what torch's fused attention says, both ways."""

import pytest
import torch
import torch.nn.functional as F

from vitrail.models.layers import attend


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
