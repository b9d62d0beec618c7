"""One contract over every row of the zoo: what anything downstream may rely on, whichever family it is.

Wide models stand in as narrow ones with the row's patch; their full selves are counted on the meta device.
"""

import dataclasses
import subprocess
import sys

import pytest
import torch

from vitrail.errors import ConfigError, ShapeError
from vitrail.models import cost, zoo
from vitrail.models.features import Backbone
from vitrail.models.vit import ViTConfig

TINY = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 48, "classes": 5}

VARIANTS: dict[str, dict] = {
    "mean": {"pool": "mean"},
    "mean with class token, norm after": {"pool": "mean", "class_token": True, "final_norm": "pooled"},
    "map": {"pool": "map"},
    "pre_logits": {"pre_logits": 24},
    "no positions": {"positions": "none"},
    "2-D": {"positions": "learned-2d"},
    "sincos": {"positions": "sincos", "pool": "mean"},
    "sincos-mae": {"positions": "sincos-mae"},
    "relative": {"positions": "relative"},
    "positions on patches": {"positions_on": "patches"},
    "dinov2": {
        "registers": 4, "positions_on": "class", "position_resize": "dinov2", "layer_scale": 0.1, "activation": "swiglu"
    },
    "qk norm": {"qk_norm": True, "activation": "gelu-tanh", "position_resize": "bicubic-antialias"},
    "no qkv biases": {"qkv_bias": False},
    "nine channels": {"channels": 9},
    "oblong patch": {"patch": (16, 8), "image": (32, 48)},
}  # fmt: skip


def narrow(config: ViTConfig, **changes) -> ViTConfig:
    side = 2 * config.patch[0]
    return dataclasses.replace(config, **{**TINY, "image": (side, side), **changes})


CONFIGS = {name: narrow(zoo.config(name)) for name in zoo.names("vit-*")}
CONFIGS |= {name: narrow(zoo.config("vit-b/16"), **changes) for name, changes in VARIANTS.items()}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def model(request):
    """The config's model with a random head, so that outputs say something."""
    generator = torch.Generator().manual_seed(1)
    built = zoo.build(request.param, generator=generator)
    built.head.weight.data.normal_(generator=generator)
    return built.eval()


def pictures(model, count: int = 3, size: tuple[int, int] | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, model.config.channels, *(size or model.config.image), generator=generator)


def test_surface(model) -> None:
    assert isinstance(model, Backbone)
    images = pictures(model)
    features = model.features(images)
    h, w = features.grid
    assert features.tokens.shape == (3, features.prefix + h * w, model.config.width)
    assert features.map.shape == (3, model.config.width, h, w)
    assert torch.equal(features.map.flatten(2).transpose(1, 2), features.patches)
    assert torch.equal(model.head(model.pool(features)), model(images))
    assert model(images).shape == (3, 5)
    assert torch.isfinite(model(images)).all()


def test_every_parameter_gets_a_gradient(model) -> None:
    model(pictures(model)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_every_parameter_is_in_one_stage(model) -> None:
    parts = [part for _, content in model.stages() for part in content]
    listed = [id(p) for part in parts for p in ([part] if isinstance(part, torch.nn.Parameter) else part.parameters())]
    assert sorted(listed) == sorted(map(id, model.parameters()))
    assert [name for name, _ in model.stages()] == ["stem", "block 1", "block 2", "head"]


def test_an_image_does_not_depend_on_its_batch(model) -> None:
    model, images = model.double(), pictures(model).double()
    assert torch.allclose(model(images)[1:2], model(images[1:2]), rtol=0, atol=1e-10)


def test_other_sizes_and_oblong_images(model) -> None:
    p, q = model.config.patch
    assert torch.isfinite(model(pictures(model, 1, (3 * p, 5 * q)))).all()
    if 224 % p == 0 and 160 % q == 0:
        assert model.features(pictures(model, 1, (224, 160))).grid == (224 // p, 160 // q)


def test_checkpointed_activations_change_no_bit(model) -> None:
    images = pictures(model)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(images).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    model.train()
    plain, out = gradients(), model(images)
    model.checkpoint_activations = True
    assert torch.equal(model(images), out)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))


def test_state_round_trip_is_bit_equal(model) -> None:
    images = pictures(model)
    other = zoo.build(model.config, seed=99).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), model(images))


def test_the_same_seed_gives_the_same_bits_and_no_global_draw() -> None:
    before = torch.get_rng_state()
    one, two, other = (zoo.build("vit-mu/16", seed=seed, image=32) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.patch_embed.weight, other.patch_embed.weight)


@pytest.mark.parametrize("name", zoo.names())
def test_exact_parameter_count(name: str) -> None:
    assert cost.parameters(zoo.config(name)) == zoo.ZOO[name].parameters


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
    assert [getattr(block.drop_path, "probability", 0.0) for block in model.blocks] == pytest.approx(
        [0.0, 0.1, 0.2, 0.3, 0.4]
    )
    drop = model.blocks[-1].drop_path.train()
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
    assert str(error.value) == "image 225×225 does not divide into 16×16 patches; resize to 224×224 or use patch=15"
    with pytest.raises(ShapeError, match=r"resize to 224×224 or use patch=\(15, 16\)"):
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
    ],
)
def test_a_config_that_cannot_be_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        zoo.config("vit-b/16", **changes)


def test_names() -> None:
    assert zoo.config("vit-b/7").patch == (7, 7)
    assert zoo.config("vit-s/16", image=384).image == (384, 384)
    assert zoo.names("vit-?/32") == ("vit-s/32", "vit-b/32", "vit-l/32")
    assert zoo.config("vit-g/14").width == 1408 and zoo.config("vit-G/14").width == 1664
    with pytest.raises(ConfigError, match="did you mean 'vit-b/16'"):
        zoo.config("ViT-B/16")
    with pytest.raises(ConfigError, match="no model is called"):
        zoo.config("resnet")


COMPILED = """
import torch
from vitrail.models import zoo
torch.set_num_threads(1)
for changes in ({"pool": "cls"}, {"pool": "mean", "positions": "sincos", "registers": 2}):
    model = zoo.build("vit-mu/16", image=64, classes=5, depth=2, **changes)
    model.head.weight.data.normal_()
    for images in (torch.randn(3, 3, 64, 64), torch.randn(2, 3, 64, 96)):
        out = torch.compile(model, fullgraph=True)(images)
        assert torch.allclose(out, model(images), atol=1e-4), (out - model(images)).abs().max()
        out.square().sum().backward()
"""


def test_compiled_equals_eager() -> None:
    """In a process of its own: the shape checks of the tests cannot be compiled. No graph breaks."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("build(12)", "a model 12; allowed: a name, such as 'vit-b/16'"),
        ("build('vit-mu/16', classes='ten')", "classes = 'ten'; allowed: a number"),
        ("build('vit-mu/16')([1, 2])", "images as a list; allowed: a tensor"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_words(call: str, said: str) -> None:
    """In a process of its own: here the types are checked before Vitrail looks."""
    answer = subprocess.run([sys.executable, "-c", f"import vitrail; vitrail.{call}"], capture_output=True, text=True)
    assert said in answer.stderr.splitlines()[-1]


def test_features_say_their_shape_and_not_their_numbers() -> None:
    features = zoo.build("vit-mu/16").features(torch.zeros(2, 3, 32, 64))
    assert repr(features) == "Features(2 images × 9 tokens × 32: 1 before 2×4 patches)"
