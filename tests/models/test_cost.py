"""Parameters and multiply-accumulates against published models, and training compute against the paper's Table 6."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.support.golden import Golden
from vitrail.models import cost, zoo
from vitrail.models.deit import DeiTConfig
from vitrail.models.mae import MAEConfig, Masking

pytestmark = pytest.mark.oracle

# Table 6: epochs over JFT's 303 M images, exaFLOPs
TABLE_6 = [
    ("vit-b/32", 7, 55),
    ("vit-b/16", 7, 224),
    ("vit-l/32", 7, 196),
    ("vit-l/16", 7, 783),
    ("vit-l/16", 14, 1567),
    ("vit-h/14", 14, 4262),
]


@pytest.mark.parametrize(("name", "epochs", "published"), TABLE_6)
def test_training_compute_reproduces_table_6_within_3_percent(name: str, epochs: int, published: float) -> None:
    assert cost.exaflops(zoo.config(name), epochs * 303e6) == pytest.approx(published, rel=0.03)


def test_parameters_and_macs_of_every_plain_vit_equal_timms_to_the_unit(golden: Golden) -> None:
    facts = json.loads((golden / "model_facts/subset/facts.json").read_text())["timm"]
    plain = {name: row for name, row in facts.items() if name.startswith("ViT-") and name.lower() in zoo.ZOO}
    assert len(plain) >= 5
    for name, row in plain.items():
        config = zoo.config(name.lower(), image=tuple(row["input"][2:]))
        assert (cost.count_parameters(config), cost.macs(config)) == (row["params"], row["macs"]), name


def test_parameters_equal_vit_jax_with_either_head(golden: Golden) -> None:
    facts = json.loads((golden / "model_facts/subset/facts.json").read_text())["vit_jax_params"]
    for name, row in facts.items():
        if name.startswith("ViT-"):
            for classes in (1000, 21843):
                config = zoo.config(name.lower().replace("_", "/"), classes=classes)
                assert cost.count_parameters(config) == row[f"num_classes_{classes}"]


def test_the_paper_s_two_counts() -> None:
    assert cost.count_parameters(zoo.config("vit-b/16")) == 86_567_656
    assert cost.count_parameters(zoo.config("vit-h/14")) == 632_045_800


def test_macs_written_out_for_an_oblong_image() -> None:
    """Patches, then per block qkv + q kᵀ + a v + projection + MLP over N = 1 + 14·10 tokens, then the head."""
    n, d, m = 141, 192, 768
    block = n * d * 3 * d + 2 * n * n * d + n * d * d + 2 * n * d * m
    assert cost.macs(zoo.config("vit-ti/16"), (224, 160)) == 140 * 768 * d + 12 * block + d * 1000


def test_a_built_model_counts_as_its_config_does() -> None:
    model = zoo.build("vit-mu/16", image=32)
    assert cost.macs(model) == cost.macs(model.config)
    assert (
        cost.count_parameters(model)
        == cost.count_parameters(model.config)
        == sum(p.numel() for p in model.parameters())
    )
    assert cost.train_flops(model) == 6 * cost.macs(model)


DINOV2 = {"image": 518, "classes": 0, "layer_scale": 1e-5}
OTHERS = {
    "DeiT-S/16 distilled": DeiTConfig(width=384, depth=12, heads=6, mlp_width=1536),
    "DeiT3-B/16": zoo.config("vit-b/16", layer_scale=1e-6, positions_on="patches"),
    "DINOv2 ViT-S/14": zoo.config("vit-s/14", **DINOV2),
    "DINOv2 ViT-S/14 reg4": zoo.config("vit-s/14", registers=4, positions_on="patches", **DINOV2),
    "ViT-B/16 384": zoo.config("vit-b/16", image=384),
}


@pytest.mark.parametrize("name", OTHERS)
def test_variants_of_the_vit_count_as_timm_s(golden: Golden, name: str) -> None:
    row = json.loads((golden / "model_facts/subset/facts.json").read_text())["timm"][name]
    assert (cost.count_parameters(OTHERS[name]), cost.macs(OTHERS[name])) == (row["params"], row["macs"])


def test_mae_counts_as_the_original(golden: Golden) -> None:
    facts = json.loads((golden / "model_facts/subset/facts.json").read_text())
    row, config = facts["mae_pretrain"]["MAE-B/16"], MAEConfig()
    assert cost.count_parameters(config) == row["params_trainable"]
    with torch.device("meta"):
        model, images = zoo.skeleton(config), torch.empty(1, 3, 224, 224)
        masking = Masking(torch.zeros(1, 49, dtype=torch.long), torch.zeros(1, 147, dtype=torch.long))
        encoder, decoder = FlopCounterMode(display=False), FlopCounterMode(display=False)
        with encoder:
            latent = model.encode(images, masking.visible)
        with decoder:
            model.decoder.read(model.decode(latent, masking, (14, 14))[:, 1:])
    # the original embeds the hidden patches too, and predicts pixels for the class token; neither is read
    assert encoder.get_total_flops() // 2 == row["macs_encoder_mask_0_75"] - 147 * 768 * 768
    assert decoder.get_total_flops() // 2 == row["macs_decoder"] - 512 * 768
    for tuned in facts["mae_finetune"].values():
        config = zoo.config("vit-b/16", pool="mean", class_token=True, final_norm="pooled")
        assert (cost.count_parameters(config), cost.macs(config)) == (tuned["params"], tuned["macs"])
