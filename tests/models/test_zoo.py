"""ViTs of every row of the zoo: parameters, starts, sizes, and what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.zoo import VITS, distinct, lively, pictures
from vitrail.errors import ConfigError, ShapeError
from vitrail.models import cost, zoo
from vitrail.models.vit import ViTConfig


@pytest.fixture(params=distinct(VITS).values(), ids=distinct(VITS).keys())
def model(request):
    return lively(request.param)


def test_every_parameter_is_in_one_stage(model) -> None:
    parts = [part for _, content in model.stages() for part in content]
    listed = [id(p) for part in parts for p in ([part] if isinstance(part, torch.nn.Parameter) else part.parameters())]
    assert sorted(listed) == sorted(map(id, model.parameters()))
    assert [name for name, _ in model.stages()] == ["stem", "block 1", "block 2", "head"]


def test_other_sizes_and_oblong_images(model) -> None:
    p, q = model.config.patch
    assert torch.isfinite(model(pictures(model, 1, (3 * p, 5 * q)))).all()
    if 224 % p == 0 and 160 % q == 0:
        assert model.features(pictures(model, 1, (224, 160))).grid == (224 // p, 160 // q)


def test_the_same_seed_gives_the_same_bits_and_no_global_draw() -> None:
    before = torch.get_rng_state()
    one, two, other = (zoo.build("vit-mu/16", seed=seed, image=32) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.patch_embed.weight, other.patch_embed.weight)


@pytest.mark.parametrize("name", zoo.list_models())
def test_exact_parameter_count(name: str) -> None:
    assert cost.count_parameters(zoo.config(name)) == zoo.ZOO[name].parameters


def test_initialisation_is_the_originals() -> None:
    """flax: LeCun normal patches, Xavier uniform dense kernels, 1e-6 MLP biases, 0.02 positions; zero class token."""
    model = zoo.build("vit-s/16", classes=10, head_bias=-2.0, pre_logits=384).requires_grad_(False)
    block = model.blocks[3]
    bound = (6 / (384 + 384)) ** 0.5
    assert block.attn.qkv.weight.abs().max() <= bound and block.attn.qkv.weight.std() == pytest.approx(
        bound / 3**0.5, rel=0.02
    )
    assert block.mlp.fc1.weight.abs().max() == pytest.approx((6 / (384 + 1536)) ** 0.5, rel=0.01)
    assert block.mlp.fc1.bias.std() == pytest.approx(1e-6, rel=0.1)
    assert not block.attn.qkv.bias.any() and not block.attn.proj.bias.any()
    assert model.positions.table.std() == pytest.approx(0.02, rel=0.02)
    for kernel, fan_in in ((model.patch_embed.weight, 768), (model.pre_logits.weight, 384)):
        assert kernel.std() == pytest.approx(fan_in**-0.5, rel=0.02)
        assert kernel.abs().max() <= 2 * fan_in**-0.5 / 0.8796 * 1.001
    assert not model.cls_token.any() and not model.head.weight.any() and (model.head.bias == -2.0).all()


def test_stochastic_depth_grows_linearly_and_drops_whole_branches() -> None:
    model = zoo.build("vit-mu/16", image=32, depth=5, drop_path=0.4)
    assert [getattr(block.drop_path1, "probability", 0.0) for block in model.blocks] == pytest.approx(
        [0.0, 0.1, 0.2, 0.3, 0.4]
    )
    drop = model.blocks[-1].drop_path1.train()
    branch = drop(torch.ones(4000, 2, 3))
    dropped = (branch == 0).all(dim=(1, 2))
    assert dropped.float().mean() == pytest.approx(0.4, abs=0.03)
    assert torch.allclose(branch[~dropped], torch.tensor(1 / 0.6))


def test_dropout_stands_where_the_paper_puts_it() -> None:
    """B.1: after every dense layer except qkv, and after adding positions; and nowhere when it is 0."""
    model = zoo.build("vit-mu/16", image=32, dropout=0.3)
    where = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)]
    assert where == ["drop", "blocks.0.attn.drop", "blocks.0.mlp.drop"]
    assert not any(isinstance(m, torch.nn.Dropout) for m in zoo.build("vit-mu/16", image=32).modules())


def test_an_image_that_does_not_divide_names_two_ways_out() -> None:
    model = zoo.build("vit-mu/16")
    with pytest.raises(ShapeError) as error:
        model(torch.zeros(1, 3, 225, 225))
    assert (
        str(error.value)
        == "image 225×225 does not divide into 16×16 patches; resize to 224×224, or build a model with patch=15"
    )
    with pytest.raises(ShapeError, match=r"resize to 224×224, or build a model with patch=\(15, 16\)"):
        model(torch.zeros(1, 3, 225, 224))
    with pytest.raises(ShapeError, match="2×1×224×224 for a model of 3 channels"):
        model(torch.zeros(2, 1, 224, 224))
    with pytest.raises(ShapeError, match="does not divide"):
        ViTConfig(image=(225, 224))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 100}, "width = 100 with 12 heads"),
        ({"width": 6, "heads": 1, "positions": "sincos"}, "a multiple of 4"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"depth": 0}, "depth = 0"),
        ({"pool": "cls", "class_token": False}, "without a class token"),
        ({"pach": 16}, "did you mean 'patch'"),
        ({"extras": {"registers": 4}}, "by name, such as registers=4"),
        ({"pool": "map", "pool_heads": 5}, "width = 768 with 5 pool_heads"),
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zoo.config("vit-b/16", **changes)


def test_names() -> None:
    assert zoo.config("vit-b/7").patch == (7, 7)
    assert zoo.config("vit-s/16", image=384).image == (384, 384)
    assert zoo.list_models("vit-?/32") == ("vit-s/32", "vit-b/32", "vit-l/32")
    assert zoo.config("vit-g/14").width == 1408 and zoo.config("vit-G/14").width == 1664
    with pytest.raises(ConfigError, match="did you mean 'vit-b/16'"):
        zoo.config("ViT-B/16")
    with pytest.raises(ConfigError, match="no model is called"):
        zoo.config("resnet")
    for theirs in ("vit_base_patch16_224", "vit_b_16", "google/vit-base-patch16-224", "deit_base_patch16_224"):
        with pytest.raises(ConfigError, match="did you mean 'vit-b/16'"):
            zoo.config(theirs)
    with pytest.raises(ConfigError, match="or 'timm:vit_base_patch16_224'"):
        zoo.config("vit_base_patch16_224")


COMPILED = """
import sys
import torch
from vitrail.models import zoo
torch.set_num_threads(1)
for changes in ({"pool": "cls"}, {"pool": "mean", "positions": "sincos", "registers": 2}):
    model = zoo.build("vit-mu/16", image=64, classes=5, depth=2, **changes)
    model.head.weight.data.normal_()
    for images in (torch.randn(3, 3, 64, 64), torch.randn(2, 3, 64, 96)):
        out = torch.compile(model, fullgraph=True, backend=sys.argv[1])(images)
        assert torch.allclose(out, model(images), atol=1e-4), (out - model(images)).abs().max()
        out.square().sum().backward()
"""


@pytest.mark.deep  # a hybrid, compiled in test_families.py, has the same blocks
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager(backend: str) -> None:
    """In a process of its own: the shape checks of the tests cannot be compiled. No graph breaks."""
    words = [sys.executable, "-c", COMPILED, backend]
    done = subprocess.run(words, capture_output=True, text=True, timeout=1800, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-2000:]


REFUSED = {
    "build(12)": "a model 12; allowed: a name, such as 'vit-b/16'",
    "build('vit-mu/16', classes='ten')": "classes = 'ten', a str; allowed: a whole number",
    "build('vit-mu/16', pretrained=True)": "a vit has no 'pretrained'; vitrail.load(name or path) gives a trained model",
    "build('vit-mu/16')([1, 2])": "images as a list; allowed: a tensor",
    "build('r+vit-ti/16', depth=1)('cat.jpg')": "images as a str; allowed: a tensor",
    "build('r+vit-ti/16', depth=1)(torch.zeros(3, 32, 32))": "images of shape 3×32×32 for a model of 3 channels",
    "build('vit-mu/16')(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))": "images of uint8; allowed: numbers with a point",
}
ASKS = """
import sys, torch, vitrail
for call in sys.argv[1:]:
    try:
        eval(f"vitrail.{call}")
    except vitrail.errors.ConfigError as error:
        print(error)
"""


def test_arguments_of_another_kind_are_refused_in_words() -> None:
    """In a process of its own: here the types are checked before Vitrail looks."""
    answer = subprocess.run([sys.executable, "-c", ASKS, *REFUSED], capture_output=True, text=True)
    found = answer.stdout.splitlines()
    assert [said in line for said, line in zip(REFUSED.values(), found, strict=True)] == [True] * len(REFUSED)


def test_features_say_their_shape_and_not_their_numbers() -> None:
    features = zoo.build("vit-mu/16").features(torch.zeros(2, 3, 32, 64))
    assert repr(features) == "Features(2 images × 9 tokens × 32: 1 before 2×4 patches)"
