"""MaxViT against the outputs of TensorFlow and of timm's port; files both ways; counts as published."""

import json

import numpy as np
import pytest
import torch

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
from vitrail.config import from_dict, to_dict
from vitrail.errors import ConfigError, WeightsError
from vitrail.models import cost, zoo
from vitrail.models.backbone import ModelConfig
from vitrail.models.maxvit import MaxViTConfig, relative_bias, resize_bias
from vitrail.weights.fit import adapt, at_size
from vitrail.weights.origin import ORIGINS
from vitrail.weights.recognise import read_foreign

pytestmark = pytest.mark.oracle

# (file, what it cannot say, how it names its tensors)
CASES = [
    *(
        (f"maxvit/{name}", file, {}, style)
        for name in ("four_stages", "two_stages_window7")
        for file, style in (("tf_variables.npz", "google"), ("timm_state_dict.pth", "timm"))
    ),
    # fine-tuned at a larger image: the stored biases are of the window of pre-training
    ("maxvit/scale_ratio", "tf_variables.npz", {"image": [48, 48]}, "google"),
    ("maxvit/scale_ratio", "timm_state_dict.pth", {}, "timm"),
]
IDS = [f"{name} {file}" for name, file, *_ in CASES]


@pytest.mark.parametrize(("name", "file", "told", "style"), CASES, ids=IDS)
def test_outputs_equal_the_original_s(golden: Golden, name: str, file: str, told: dict, style: str) -> None:
    assert_equal_in_float64(loaded(read(golden / name / file, told)), golden / name)


@pytest.mark.parametrize(("name", "file", "told", "style"), CASES, ids=IDS)
def test_stages_equal_the_original_s(golden: Golden, name: str, file: str, told: dict, style: str) -> None:
    meta, io, images = case(golden / name)
    model = loaded(read(golden / name / file, told))
    with torch.no_grad():
        x = model.stem(images)
        found = {"stem": x}
        for stage, blocks in enumerate(model.blocks, 1):
            for block in blocks:
                x = block(x)
            found[f"stage_{stage}"] = found[f"block_{stage - 1}"] = x
        found["pooled_features"] = x.mean((2, 3))
    keys = found.keys() & set(io)
    assert len(keys) >= 3
    for key in keys:
        ours = found[key].permute(0, 2, 3, 1) if meta["input_layout"] == "NHWC" and found[key].ndim == 4 else found[key]
        assert np.abs(ours.numpy() - io[key]).max() <= meta["io"]["outputs"][key]["atol"], key


@pytest.mark.parametrize(("name", "file", "told", "style"), CASES, ids=IDS)
def test_files_are_written_back_bit_for_bit(golden: Golden, name: str, file: str, told: dict, style: str) -> None:
    """Counts of batches as 0."""
    theirs, foreign = tensors_of(golden / name / file), read(golden / name / file, told)
    assert_bit_equal(ORIGINS[style].write(foreign.tensors, foreign.config), theirs)


def test_resized_biases_equal_tensorflow_s(golden: Golden) -> None:
    folder = golden / "maxvit/scale_ratio"
    stored, io = tensors_of(folder / "tf_variables.npz"), np.load(folder / "io.npz")
    keys = [key for key in io if key.startswith("resized_bias/")]
    assert len(keys) == 4
    for key in keys:
        ours = resize_bias(stored[key.removeprefix("resized_bias/")], (6, 6))
        assert np.abs(ours.numpy() - io[key]).max() < 2e-5


def test_the_bias_of_a_pair_is_that_of_key_minus_query() -> None:
    table = torch.randn(2, 5, 7)
    bias = relative_bias(table, (3, 4))[0]
    for q in range(12):
        for k in range(12):
            assert torch.equal(bias[:, q, k], table[:, k // 4 - q // 4 + 2, k % 4 - q % 4 + 3])


@pytest.mark.parametrize("image", [64, (64, 96)])
def test_live_timm_maxvit_of_tensorflow_in_float64(image) -> None:
    """timm's port, random weights; oblong images with an oblong window."""
    from timm.models.maxxvit import MaxxVit, MaxxVitCfg, _tf_cfg

    size = (image, image) if isinstance(image, int) else image
    cfg = MaxxVitCfg(
        embed_dim=(16, 24),
        depths=(1, 2),
        block_type=("M", "M"),
        stem_width=16,
        stem_bias=True,
        head_hidden_size=24,
        **_tf_cfg(),
    )
    options = {"transformer_dim_head": 8, "transformer_partition_ratio": 8}
    theirs = MaxxVit(cfg, img_size=size, num_classes=5, **options).double().eval()
    randomise(theirs)
    config = MaxViTConfig(
        depths=(1, 2), widths=(16, 24), stem=(16, 16), head_width=8, image=size, classes=5, pre_logits=24
    )
    assert_equal_live(theirs, config, size)


def assert_equal_live(theirs: torch.nn.Module, config: MaxViTConfig, size: tuple[int, int]) -> None:
    foreign = read_foreign(theirs.state_dict(), where="live", config=config)[1]
    model = zoo.build(config).double().eval()
    model.load_state_dict(foreign.tensors)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(images), theirs(images), rtol=0, atol=1e-11)


def test_fine_tuning_at_a_larger_image_resizes_the_biases() -> None:
    """Stored for the new window, or resized at every call from the old: the same model."""
    tiny = {"depths": (1, 1), "widths": (8, 16), "stem": (8, 8), "head_width": 8, "pre_logits": 0}
    old = zoo.config("maxvit-t", **tiny, image=32, classes=3)
    state = zoo.build(old, seed=1).state_dict()
    new = zoo.build(old, image=48, classes=5)
    assert old.partition == (4, 4) and new.config.partition == (6, 6)
    fitted, report = adapt(state, old, new.state_dict(), new.config, where="here")
    assert len(report.resized) == 4 and all(
        "1×7×7 → 1×11×11" in line or "2×7×7 → 2×11×11" in line for line in report.resized
    )
    new.load_state_dict({**fitted, "head.weight": torch.randn(5, 16)})
    kept = zoo.build(new.config, bias_window=(4, 4)).eval()
    kept.load_state_dict(
        {**at_size(state, old, kept.config), "head.weight": new.head.weight, "head.bias": new.head.bias}
    )
    images = torch.randn(2, 3, 48, 48)
    assert torch.allclose(kept(images), new.eval()(images), atol=1e-5)


def test_parameters_macs_and_statistics_equal_the_published(golden: Golden) -> None:
    facts = json.loads((golden / "model_facts/subset/facts.json").read_text())
    for name, published in facts["maxvit_tensorflow_params"].items():
        config, row = zoo.config(name.lower()), facts["timm"][name]
        assert cost.count_parameters(config) == published["params_trainable"] == row["params"]
        statistics = sum(buffer.numel() for buffer in zoo.skeleton(config).buffers())
        assert statistics == published["non_trainable (BN statistics)"]
        # timm looks its biases up by two products with zeros and ones, which its count has
        heads = sum(2 * depth * width // 32 for depth, width in zip(config.depths, config.widths, strict=True))
        assert cost.macs(config) == row["macs"] - heads * (13 * 13 * 49 + 49 * 13 * 49)


@pytest.mark.parametrize(
    ("name", "millions", "gigaflops"),
    [
        ("maxvit-t", 31, 5.6),
        ("maxvit-s", 69, 11.7),
        ("maxvit-b", 119, 24.2),
        ("maxvit-l", 212, 43.9),
        ("maxvit-xl", 475, 97.8),
    ],
)
def test_the_paper_s_table_of_sizes(name: str, millions: float, gigaflops: float) -> None:
    """Its FLOPs are multiply-accumulates, norms and pooling counted too: 1 to 2 percent more than ours."""
    config = zoo.config(name)
    assert round(cost.count_parameters(config) / 1e6) == millions
    assert cost.macs(config) / 1e9 == pytest.approx(gigaflops, rel=0.02)


@pytest.mark.parametrize("name", ["maxvit_rw_style", "coatnet_bias_style"])
def test_what_timm_trained_itself_is_refused_with_the_way_to_load_it(golden: Golden, name: str) -> None:
    with pytest.raises(WeightsError, match=r"timm"):
        read_foreign(tensors_of(golden / "timm_maxxvit" / name / "checkpoint.pth"), where="file")


def test_a_config_of_0_1_0_is_read_without_its_kinds_and_dialect() -> None:
    old = {**to_dict(zoo.config("maxvit-t")), "kinds": "MMMM", "dialect": {"conv_activation": "gelu-tanh"}}
    assert from_dict(ModelConfig, old) == zoo.config("maxvit-t")
    for other in ({"kinds": "CCTT"}, {"dialect": {"conv_activation": "silu"}}):
        with pytest.raises(ConfigError, match="unknown key"):
            from_dict(ModelConfig, {**old, **other})
