"""EfficientNet through torchvision: the same outputs, files both ways, and the counts torchvision and the paper give."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torchvision.models import EfficientNet_B0_Weights, get_model, get_model_weights

from tests.support.golden import assert_bit_equal, randomise
from vitrail.errors import WeightsError
from vitrail.models import cost, zoo
from vitrail.weights import bundle
from vitrail.weights.convert import convert
from vitrail.weights.files.readers import read_any
from vitrail.weights.origins import efficientnet as source
from vitrail.weights.origins import read_foreign

pytestmark = pytest.mark.oracle

SIZES = tuple(f"b{number}" for number in range(8))


@pytest.mark.parametrize("size", ["b0", "b5"])  # whose norms have another epsilon
def test_outputs_and_files_equal_torchvision_s(tmp_path: Path, size: str) -> None:
    theirs = get_model(f"efficientnet_{size}", num_classes=7).eval()
    randomise(theirs)
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    ours = bundle.load(tmp_path / "x.pth")
    assert ours.config.size == size and ours.config.image == (theirs_size(size),) * 2
    images = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(ours.double()(images), theirs.double()(images), rtol=1e-11, atol=1e-11)
    convert(bundle.read(tmp_path / "x.pth"), tmp_path / "back.safetensors", "torchvision")
    assert_bit_equal(read_any(tmp_path / "back.safetensors").tensors, theirs.float().state_dict())


def theirs_size(size: str) -> int:
    return get_model_weights(f"efficientnet_{size}").IMAGENET1K_V1.transforms.keywords["crop_size"]


def test_counts_equal_torchvision_s_and_the_paper_s() -> None:
    """Table 2's FLOPs are multiply-accumulates; torchvision counted at its own image sizes."""
    paper = (0.39, 0.70, 1.0, 1.8, 4.2, 9.9, 19, 37)
    for size, published in zip(SIZES, paper, strict=True):
        config, meta = zoo.config(f"efficientnet-{size}"), get_model_weights(f"efficientnet_{size}").IMAGENET1K_V1.meta
        assert cost.count_parameters(config) == meta["num_params"]
        assert cost.macs(config) / 1e9 == pytest.approx(published, rel=0.05)
        side = theirs_size(size)
        assert cost.macs(config, (side, side)) / 1e9 == pytest.approx(meta["_ops"], rel=0.01)


@pytest.mark.parametrize("size", SIZES)
def test_each_size_is_recognised_by_its_shapes(size: str) -> None:
    config = zoo.config(f"efficientnet-{size}")
    state = source.write(zoo.skeleton(config).state_dict(), config)
    found = read_foreign(state, where="file")[1].config
    assert found == dataclasses.replace(config, image=(theirs_size(size),) * 2)


def test_a_published_file_brings_its_classes_and_preprocessing(tmp_path: Path) -> None:
    path = tmp_path / "efficientnet_b0_rwightman-7f5810bc.pth"
    torch.save(get_model("efficientnet_b0").state_dict(), path)
    record = bundle.read_record(path)
    assert record.classes == tuple(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])
    assert record.preprocess.crop_fraction == 224 / 256 and record.preprocess.interpolation == "bicubic"


def test_a_missing_tensor_and_another_size_are_refused() -> None:
    state = get_model("efficientnet_b0", num_classes=2).state_dict()
    lacking = {name: tensor for name, tensor in state.items() if name != "features.3.0.block.0.0.weight"}
    with pytest.raises(WeightsError, match=r"missing features\.3\.0\.block\.0\.0\.weight"):
        read_foreign(lacking, where="file")
    shorter = {name: tensor for name, tensor in state.items() if not name.startswith("features.5.2.")}
    with pytest.raises(WeightsError, match="as no EfficientNet"):
        read_foreign(shorter, where="file")


def test_the_original_start_and_a_zero_head() -> None:
    model = zoo.build("efficientnet-b0").requires_grad_(False)
    kernel = model.blocks[4][1].block[0][0].weight
    assert kernel.std() == pytest.approx((2 / len(kernel)) ** 0.5, rel=0.05)
    assert not model.head.weight.any() and not model.head.bias.any()
