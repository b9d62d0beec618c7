"""ResNets against BiT's, big_vision's and timm's outputs, and live against timm; files both ways; the paper's compute."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.support.golden import (
    Golden,
    assert_bit_equal,
    assert_equal_in_float64,
    case,
    loaded,
    randomise,
    read,
    tensors_of,
)
from vitrail.errors import WeightsError
from vitrail.models import cost, zoo
from vitrail.models.conv_backbone import conv_same, same_padding
from vitrail.models.resnet import ResNetConfig, standardise_filters
from vitrail.weights.origin import ORIGINS
from vitrail.weights.recognise import read_foreign

pytestmark = pytest.mark.oracle

CASES = {
    "bit_torch_tfnpz/r_half_width": ("checkpoint.npz", ("google", "BiT")),
    "bit_bigvision/resnetv2_half_width": ("checkpoint.npz", ("big_vision", "BiT")),
    "bit_bigvision/resnetv1_gn_half_width": ("checkpoint.npz", ("big_vision", "BiT v1")),
    "timm_bit/resnetv2": ("checkpoint.pth", ("timm", "BiT")),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_the_original_s(golden: Golden, name: str) -> None:
    assert_equal_in_float64(loaded(read(golden / name / CASES[name][0])), golden / name)


@pytest.mark.parametrize("name", CASES)
def test_stages_equal_the_original_s(golden: Golden, name: str) -> None:
    """Each stage's map in float32, to the case's own tolerance: an error is found where it is made."""
    meta, io, images = case(golden / name)
    model = loaded(read(golden / name / CASES[name][0]))
    nchw = meta["input_layout"] == "NCHW"
    with torch.no_grad():
        x = model.stem(images)
        maps = {key: x for key in ("stem", "root") if key in io}
        for stage, units in enumerate(model.blocks, 1):
            for unit in units:
                x = unit(x)
            maps[f"stage_{stage}"] = x
    assert len(maps.keys() & set(io)) >= 3
    for key in maps.keys() & set(io):
        ours = maps[key] if nchw else maps[key].permute(0, 2, 3, 1)
        assert np.abs(ours.numpy() - io[key]).max() <= meta["io"]["outputs"][key]["atol"], key


@pytest.mark.parametrize("name", CASES)
def test_files_are_written_back_bit_for_bit(golden: Golden, name: str) -> None:
    file, (origin, style) = CASES[name]
    theirs, foreign = tensors_of(golden / name / file), read(golden / name / file)
    assert_bit_equal(ORIGINS[origin].write(foreign.tensors, foreign.config, style), theirs)


STYLES = [(name, style) for name, origin in ORIGINS.items() for style in origin.styles if "BiT" in style]


@pytest.mark.parametrize(("origin", "style"), STYLES)
def test_every_style_reads_what_it_writes(origin: str, style: str) -> None:
    """A model with its origin's habits, also without a head and of other channels: config and tensors come back."""
    habits = ORIGINS[origin].styles[style].habits
    for changes in ({}, {"classes": 0}, {"channels": 1}):
        shape = {"depths": (1, 2), "widths": (128, 256), "root_width": 32, "classes": 7, **changes}
        config = ResNetConfig(**shape, **habits)
        state = zoo.build(config, seed=1).state_dict()
        name, foreign = read_foreign(ORIGINS[origin].write(state, config, style), where="made")
        assert name == origin
        assert foreign.config == config
        assert_bit_equal(foreign.tensors, state)


def test_published_files_that_number_one_layer_more(golden: Golden) -> None:
    theirs = tensors_of(golden / "bit_torch_tfnpz/r_half_width/checkpoint.npz")
    odd = {
        name.replace("a/proj/standardized_conv2d/", "a/proj/standardized_conv2d_3/"): t for name, t in theirs.items()
    }
    assert odd.keys() != theirs.keys()
    assert_bit_equal(read_foreign(odd, where="odd")[1].tensors, read_foreign(theirs, where="even")[1].tensors)


def test_a_missing_key_is_named(golden: Golden) -> None:
    theirs = tensors_of(golden / "bit_torch_tfnpz/r_half_width/checkpoint.npz")
    del theirs["resnet/block3/unit02/b/group_norm/gamma"]
    with pytest.raises(WeightsError, match="missing resnet/block3/unit02/b/group_norm/gamma"):
        read_foreign(theirs, where="less.npz")


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (224, 160)])
@pytest.mark.parametrize("preact", [True, False])
def test_live_timm_in_float64(size: tuple[int, int], preact: bool) -> None:
    """timm's ResNetV2 with random weights; its `same` convolutions are TensorFlow's."""
    from functools import partial

    from timm.layers import StdConv2d, StdConv2dSame
    from timm.models.resnetv2 import ResNetV2

    conv = partial(StdConv2d, eps=1e-8) if preact else partial(StdConv2dSame, eps=1e-8)
    options = {"preact": preact, "stem_type": "fixed" if preact else "same", "conv_layer": conv}
    theirs = ResNetV2([1, 2], (128, 256), num_classes=5, stem_chs=32, **options).double().eval()
    randomise(theirs)
    habits = {"standardise_eps": 1e-8} if preact else {"order": "post", "padding": "same", "standardise_eps": 1e-8}
    config = ResNetConfig(depths=(1, 2), widths=(128, 256), root_width=32, classes=5, **habits)
    state = {name: tensor for name, tensor in theirs.state_dict().items()}
    model = zoo.build(config).double().eval()
    model.load_state_dict(read_foreign(state, where="timm", config=config)[1].tensors)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(images), theirs(images), rtol=0, atol=1e-11)


def test_standardised_filters_in_numpy() -> None:
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64)
    rows = weight.numpy().reshape(6, -1)
    for form, over in (("variance", np.sqrt(rows.var(1) + 1e-2)), ("deviation", rows.std(1) + 1e-2)):
        expected = (rows - rows.mean(1)[:, None]) / over[:, None]
        assert np.abs(standardise_filters(weight, form, 1e-2).numpy().reshape(6, -1) - expected).max() < 1e-14


def test_a_constant_filter_has_a_gradient() -> None:
    for form in ("variance", "deviation"):
        weight = torch.ones(2, 3, 3, 3, requires_grad=True)
        standardise_filters(weight, form, 1e-5).square().sum().backward()
        assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (1, 2), (2, 2)])
def test_same_padding_as_tensorflow_defines_it(kernel: int, stride: int) -> None:
    for size in range(1, 20):
        before, after = same_padding(size, kernel, stride)
        out = -(-size // stride)
        assert before <= after <= before + 1 and max(0, (out - 1) * stride + kernel - size) == before + after
        x, weight = torch.randn(1, 2, size, size + 1), torch.randn(3, 2, kernel, kernel)
        top = same_padding(size, kernel, stride)
        left = same_padding(size + 1, kernel, stride)
        expected = F.conv2d(F.pad(x, (*left, *top)), weight, stride=stride)
        assert torch.allclose(conv_same(x, weight, stride=stride), expected, atol=1e-5)


def test_the_three_paddings_differ() -> None:
    """Zeros or -inf around the max-pool change a v2's logits by about a hundredth: the option is no formality."""
    config = ResNetConfig(depths=(1,), widths=(128,), root_width=32, classes=5)
    model = zoo.build(config)
    model.head.weight.data.normal_()
    images = torch.randn(1, 3, 64, 64)
    outs = []
    for padding in ("bit", "symmetric", "same"):
        other = zoo.build(dataclasses.replace(config, padding=padding)).eval()
        other.load_state_dict(model.state_dict())
        outs.append(other(images))
    assert all((a - b).abs().max() > 1e-3 for a, b in ((outs[0], outs[1]), (outs[1], outs[2]), (outs[0], outs[2])))


TABLE_6 = [
    ("r50x1", 7, 50),
    ("r50x2", 7, 199),
    ("r101x1", 7, 96),
    ("r152x1", 7, 141),
    ("r152x2", 7, 563),
    ("r152x2", 14, 1126),
    ("r200x3", 14, 3306),
]


@pytest.mark.parametrize(("name", "epochs", "published"), TABLE_6)
def test_training_compute_reproduces_table_6_within_5_5_percent(name: str, epochs: int, published: float) -> None:
    """The paper counts 3 to 4 percent less for each ResNet."""
    assert cost.exaflops(zoo.config(name), epochs * 303e6) == pytest.approx(published, rel=0.055)


def test_parameters_and_macs_equal_bit_pytorch_s_to_the_unit(golden: Golden) -> None:
    facts = json.loads((golden / "model_facts/subset/facts.json").read_text())["bit_pytorch"]
    for name, row in facts.items():
        for classes in (1000, 21843):
            fact, config = row[f"num_classes_{classes}"], zoo.config(name.lower(), classes=classes)
            assert (cost.count_parameters(config), cost.macs(config)) == (fact["params"], fact["macs"]), name


def test_standardising_by_the_deviation_has_the_gradient_of_its_formula() -> None:
    """Large ε, so that a term with it that was forgotten would show."""
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    for eps in (1e-5, 0.3):
        plain = (weight - weight.mean((1, 2, 3), True)) / (weight.std((1, 2, 3), correction=0, keepdim=True) + eps)
        ours = standardise_filters(weight, "deviation", eps)
        assert torch.allclose(ours, plain, rtol=0, atol=1e-12)
        assert torch.autograd.gradcheck(lambda w, eps=eps: standardise_filters(w, "deviation", eps), weight)
    assert not standardise_filters(torch.ones(1, 3, 2, 2), "deviation", 1e-5).any()
