"""ResNets, hybrids, MaxViT: what is theirs alone."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.zoo import FAMILIES, distinct, lively, pictures
from vitrail.errors import ConfigError, ShapeError
from vitrail.models import maxvit, zoo
from vitrail.models.hybrid import HybridConfig
from vitrail.models.resnet import ResNetConfig


@pytest.fixture(params=[pytest.param(config, id=name) for name, config in distinct(FAMILIES).items()])
def model(request):
    return lively(request.param)


def test_every_parameter_is_in_one_stage_stem_first_and_head_last(model) -> None:
    stages = model.stages()
    parts = [part for _, content in stages for part in content]
    listed = [id(p) for part in parts for p in ([part] if isinstance(part, torch.nn.Parameter) else part.parameters())]
    assert sorted(listed) == sorted(map(id, model.parameters()))
    names = [name for name, _ in stages]
    assert (names[0], names[-1]) == ("stem", "head") and len(set(names)) == len(names)
    assert any(parameter is model.head.weight for part in stages[-1][1] for parameter in part.parameters())


@pytest.mark.parametrize("size", [(224, 160), (96, 64), (32, 64)])
def test_other_sizes_and_oblong_images(model, size: tuple[int, int]) -> None:
    if isinstance(model.config, HybridConfig):
        assert model.features(pictures(model, 1, size)).grid == model.config.grid_at(size)
    assert torch.isfinite(model(pictures(model, 1, size))).all()


def test_without_a_head_forward_gives_the_pooled_features(model) -> None:
    bare = zoo.build(model.config, classes=0).eval()
    bare.load_state_dict({name: t for name, t in model.state_dict().items() if "head." not in name})
    images = pictures(model)
    assert torch.equal(bare(images), model.pool(model.features(images)))


@pytest.mark.parametrize("name", ["r50x1", "r50+vit-b/16", "maxvit-t"])
def test_the_same_seed_gives_the_same_bits_and_no_global_draw(name: str) -> None:
    before = torch.get_rng_state()
    one, two, other = (zoo.build(FAMILIES[name], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not one.head.weight.any()


@pytest.mark.parametrize("name", ["r50x1", "v1", "maxvit-t"])
def test_any_size_at_all(name: str) -> None:
    """Odd sizes too, down to one pixel: every stride rounds up."""
    model = zoo.build(FAMILIES[name]).eval()
    for size in ((1, 1), (33, 47), (61, 7)):
        h, w = (-(-side // 32) for side in size)
        assert model.features(pictures(model, 1, size)).grid == (h, w)


@pytest.mark.parametrize("name", ["maxvit-t"])
def test_running_statistics_move_once_a_step_also_when_activations_are_recomputed(name: str) -> None:
    plain, saving = (zoo.build(FAMILIES[name], drop_path=0.0).train() for _ in range(2))
    saving.checkpoint_activations = True
    images = pictures(plain)
    for model in (plain, saving):
        model(images).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), saving.buffers(), strict=True))
    assert all(buffer.abs().sum() > 0 for buffer in plain.buffers())


def test_no_token_attends_to_padding() -> None:
    """A map that does not divide gives what the same attention gives token by token, written out with the offsets."""
    config = dataclasses.replace(FAMILIES["maxvit-t"], window=(3, 4))
    generator = torch.Generator().manual_seed(0)
    for kind in ("window", "grid"):
        with torch.device("cpu"):
            block = maxvit.WindowBlock(config, 16, kind=kind, drop_path=0.0).double()
        block.attn.table.data.normal_(generator=generator)
        x = torch.randn(2, 16, 5, 7, generator=generator, dtype=torch.float64)
        assert torch.allclose(block(x), slowly(block, x), atol=1e-12)


def slowly(block: maxvit.WindowBlock, x: torch.Tensor) -> torch.Tensor:
    """The block, one query at a time: its keys are the real positions of its window, nothing is padded."""
    (p, q), (h, w) = block.window, x.shape[2:]
    rows, columns = -(-h // p), -(-w // q)  # how many windows; a grid's rows lie that far apart

    def place(y: int, z: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """(which window, where in it)"""
        if block.kind == "window":
            return (y // p, z // q), (y % p, z % q)
        return (y % rows, z % columns), (y // rows, z // columns)

    tokens = x.permute(0, 2, 3, 1)
    q_, k_, v_ = block.attn.qkv(block.norm1(tokens)).unflatten(3, (3, block.attn.heads, -1)).unbind(3)
    out = torch.empty_like(tokens)
    cells = [(y, z) for y in range(h) for z in range(w)]
    for y, z in cells:
        window, at = place(y, z)
        keys = [(a, b) for a, b in cells if place(a, b)[0] == window]
        bias = torch.stack(
            [block.attn.table[:, place(a, b)[1][0] - at[0] + p - 1, place(a, b)[1][1] - at[1] + q - 1] for a, b in keys]
        )
        k, v = (torch.stack([part[:, a, b] for a, b in keys], 1) for part in (k_, v_))  # B M A d
        logits = torch.einsum("bad,bmad->bma", q_[:, y, z], k) * k.shape[-1] ** -0.5 + bias
        out[:, y, z] = block.attn.proj(torch.einsum("bma,bmad->bad", logits.softmax(1), v).flatten(1))
    tokens = tokens + out
    tokens = tokens + block.mlp(block.norm2(tokens).flatten(1, 2)).view_as(tokens)
    return tokens.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("r50x1", {"widths": (256, 512)}, "4 depths and 2 widths"),
        ("r50x1", {"root_width": 48}, "each norm has 32 groups"),
        ("r50x1", {"depths": (3, 0, 6, 3)}, "depths = "),
        ("r50x1", {"dropout": 0.1}, "a resnet has no 'dropout'"),
        ("r50+vit-b/16", {"heads": 7}, "width = 768 with 7 heads"),
        ("maxvit-t", {"depths": (1, 1)}, "2 depths and 4 widths"),
        ("maxvit-t", {"head_width": 48}, "multiples of head_width"),
        ("maxvit-t", {"window": (0, 7)}, "window = "),
        ("maxvit-t", {"drop_path": 1.0}, "drop_path = 1.0"),
    ],
)
def test_a_config_that_cannot_be_is_refused(name: str, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zoo.config(name, **changes)


def test_images_that_do_not_fit_are_refused_in_pixels() -> None:
    with pytest.raises(ShapeError, match=r"image 225×225 gives a map of 57×57.*multiples of 32×32"):
        zoo.config("r+vit-ti/16", image=225)
    for name in ("r50x1", "r50+vit-b/16", "maxvit-t"):
        model = zoo.build(FAMILIES[name])
        with pytest.raises(ShapeError, match="2×1×64×64 for a model of 3 channels"):
            model(torch.zeros(2, 1, 64, 64))


def test_the_original_starts() -> None:
    """LeCun normal for the ResNets, whose v1 units begin as identities; N(0, 0.02) for MaxViT."""
    resnet = zoo.build(ResNetConfig(depths=(1,), widths=(256,))).requires_grad_(False)
    assert resnet.root.weight.std() == pytest.approx((3 * 49) ** -0.5, rel=0.05)
    hybrid = zoo.build(FAMILIES["r50+vit-b/16"])
    assert not any(unit.norm3.weight.any() for _, unit in hybrid.resnet.units())
    model = zoo.build(FAMILIES["maxvit-t"]).requires_grad_(False)
    kernel = model.blocks[1][0].attn_grid.mlp.fc1.weight
    assert kernel.std() == pytest.approx(0.02, rel=0.1) and model.stem.conv2.weight.std() == pytest.approx(
        0.02, rel=0.1
    )
    assert (model.stem.norm.running_var == 1).all() and not model.stem.norm.running_mean.any()


def test_stochastic_depth_grows_over_all_blocks_of_maxvit() -> None:
    model = zoo.build(FAMILIES["maxvit-t"], drop_path=0.5)
    rates = [getattr(block.conv.drop_path, "probability", 0.0) for _, block in model.units()]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


COMPILED = """
import sys
import torch
from tests.support.zoo import FAMILIES
from vitrail.models import zoo
torch.set_num_threads(1)
one = {"depths": (1,), "widths": (128,)}
TINY = {"r50+vit-b/16": {**one, "depth": 1}, "maxvit-t": one}  # a ResNet is the hybrid's first half
for name, changes in TINY.items():
    model = zoo.build(FAMILIES[name], **changes)
    model.head.weight.data.normal_()
    images = torch.randn(2, 3, 32, 48)
    out = torch.compile(model.eval(), fullgraph=True, backend=sys.argv[1])(images)
    assert torch.allclose(out, model(images), atol=1e-3), (name, (out - model(images)).abs().max())
    out.square().sum().backward()
"""


BACKENDS = ["aot_eager", pytest.param("inductor", marks=[pytest.mark.deep, pytest.mark.timeout(1800)])]


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_equals_eager(backend: str) -> None:
    """In a process of its own: the shape checks of the tests cannot be compiled. No graph breaks."""
    words = [sys.executable, "-c", COMPILED, backend]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]
