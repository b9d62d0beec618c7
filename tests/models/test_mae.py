"""The masked autoencoder against the numbers of facebookresearch/mae and transformers, to 1e-7 and better in float64."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.golden import Golden
from vitrail.errors import ConfigError, WeightsError
from vitrail.models import zoo
from vitrail.models.mae import MAEConfig, from_target, masking, patchify, pixel_target, unpatchify, visible_patches
from vitrail.models.positions import sincos
from vitrail.models.vit import ViTConfig
from vitrail.weights.fit import fit
from vitrail.weights.origin import ORIGINS
from vitrail.weights.recognise import read_foreign

pytestmark = pytest.mark.oracle

ORIGINAL = ("norm_pix", "plain")


def case(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    return json.loads((folder / "meta.json").read_text()), dict(np.load(folder / "io.npz"))


def config_of(model: dict) -> MAEConfig:
    encoder = ViTConfig(
        width=model["embed_dim"],
        depth=model["depth"],
        heads=model["num_heads"],
        mlp_width=int(model["embed_dim"] * model["mlp_ratio"]),
        patch=(model["patch_size"],) * 2,
        image=(model["img_size"],) * 2,
        classes=0,
        positions="sincos-mae",
    )
    return MAEConfig(
        encoder=encoder,
        decoder_width=model["decoder_embed_dim"],
        decoder_depth=model["decoder_depth"],
        decoder_heads=model["decoder_num_heads"],
        decoder_mlp_width=int(model["decoder_embed_dim"] * model["mlp_ratio"]),
        target="normalised" if model["norm_pix_loss"] else "pixels",
    )


def loaded(folder: Path, config: MAEConfig) -> torch.nn.Module:
    tensors = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
    model = zoo.skeleton(config)
    fit(model, read_foreign(tensors, where=str(folder), config=config)[1].tensors, where=str(folder))
    return model


@pytest.mark.parametrize("variant", ORIGINAL)
def test_latent_mask_prediction_loss_and_gradients_equal_the_originals(golden: Golden, variant: str) -> None:
    folder = golden / "mae_pretrain" / variant
    meta, io = case(folder)
    config, limits = config_of(meta["model"]), meta["io"]["outputs"]
    model = loaded(folder, config)
    images, noise = torch.from_numpy(io["input"]), torch.from_numpy(io["noise"])
    chosen = masking(noise, meta["model"]["mask_ratio"])
    assert np.array_equal(chosen.mask.numpy(), io["mask"])
    assert np.array_equal(torch.cat([chosen.visible, chosen.hidden], 1).argsort(1).numpy(), io["ids_restore"])
    for suffix, dtype in (("", torch.float32), ("_f64", torch.float64)):
        model.to(dtype)
        x = images.to(dtype)
        found = {"latent": model.encode(x, chosen.visible), "pred": model.predict(x, chosen)}
        hidden, pixels = model.predict_hidden(x, chosen)
        for name, target in (("loss_norm_pix", "normalised"), ("loss_plain", "pixels"), ("loss", config.target)):
            found[name] = (hidden - pixel_target(pixels, target)).square().mean()
        for name, ours in found.items():
            if name + suffix in io:
                limit = limits[name + suffix]["atol"]
                assert np.abs(ours.detach().numpy() - io[name + suffix]).max() <= limit, name + suffix
    found["loss"].backward()
    theirs = ORIGINS["mae"].write({n: p.grad for n, p in model.named_parameters()}, config)
    for name, norm in meta["gradient_l2_norms_f64"].items():
        assert float(theirs[name].norm()) == pytest.approx(norm, rel=1e-9), name


@pytest.mark.parametrize("variant", ORIGINAL)
def test_patches_and_pictures_equal_the_originals(golden: Golden, variant: str) -> None:
    meta, io = case(golden / "mae_pretrain" / variant)
    patch, grid = (meta["model"]["patch_size"],) * 2, (meta["model"]["img_size"] // meta["model"]["patch_size"],) * 2
    images = torch.from_numpy(io["input"])
    patches = patchify(images, patch)
    assert torch.equal(unpatchify(patches, patch, grid), images)
    assert np.array_equal(patches.numpy(), io["target_patches"])
    picture = unpatchify(torch.from_numpy(io["pred"]), patch, grid)
    assert np.array_equal(picture.numpy(), io["unpatchified_pred"])


def test_sincos_tables_equal_the_originals(golden: Golden) -> None:
    tables = dict(np.load(golden / "mae_sincos/tables/io.npz"))
    for name, table in tables.items():
        side = int(np.sqrt(len(table)))
        ours = sincos((side, side), table.shape[1], "sincos-mae")[0].numpy()
        assert np.abs(ours - table[len(table) - side * side :]).max() <= 1e-6, name


@pytest.mark.parametrize("variant", ("norm_pix", "plain"))
def test_transformers_files_give_transformers_outputs(golden: Golden, variant: str) -> None:
    folder = golden / "hf_vitmae" / variant
    meta, io = case(folder)
    theirs = json.loads((folder / "config.json").read_text())
    renamed = {
        "embed_dim": theirs["hidden_size"],
        "depth": theirs["num_hidden_layers"],
        "num_heads": theirs["num_attention_heads"],
        "mlp_ratio": theirs["intermediate_size"] / theirs["hidden_size"],
        "patch_size": theirs["patch_size"],
        "img_size": theirs["image_size"],
        "decoder_embed_dim": theirs["decoder_hidden_size"],
        "decoder_depth": theirs["decoder_num_hidden_layers"],
        "decoder_num_heads": theirs["decoder_num_attention_heads"],
        "norm_pix_loss": theirs["norm_pix_loss"],
    }
    config = config_of(renamed)
    config = dataclasses.replace(config, encoder=zoo.change(config.encoder, norm_eps=theirs["layer_norm_eps"]))
    config = dataclasses.replace(config, decoder_mlp_width=theirs["decoder_intermediate_size"])
    tensors = load_file(folder / "model.safetensors")
    model = zoo.skeleton(config)
    fit(model, read_foreign(tensors, where="file", config=config)[1].tensors, where="file")
    chosen = masking(torch.from_numpy(io["noise"]), theirs["mask_ratio"])
    model.double()
    predicted = model.predict(torch.from_numpy(io["input"]).double(), chosen).detach().numpy()
    assert np.abs(predicted - io["logits_f64"]).max() <= meta["io"]["outputs"]["logits_f64"]["atol"]
    back = ORIGINS["transformers"].write(model.float().state_dict(), config)
    assert back.keys() == tensors.keys()
    assert all(torch.allclose(back[name], tensors[name], atol=1e-6) for name in tensors)


def test_the_table_is_a_bijection_and_a_strange_key_is_named(golden: Golden) -> None:
    folder = golden / "mae_pretrain/plain"
    meta, _ = case(folder)
    config = config_of(meta["model"])
    theirs = torch.load(folder / "checkpoint.pth", weights_only=True)["model"]
    back = ORIGINS["mae"].write(loaded(folder, config).state_dict(), config)
    assert back.keys() == theirs.keys()
    assert all(torch.allclose(back[name], theirs[name], atol=1e-6) for name in theirs)
    moved = {**theirs, "pos_embed": theirs["pos_embed"] + 1e-3}
    with pytest.raises(WeightsError, match="pos_embed is not the sin-cos table"):
        read_foreign(moved, where="file", config=config)
    with pytest.raises(WeightsError, match="unknown odd"):
        read_foreign({**theirs, "odd": torch.zeros(1)}, where="file", config=config)
    with pytest.raises(WeightsError, match="none of the published models"):
        read_foreign(theirs, where="file")


def test_kept_patches_are_counted_in_floating_point() -> None:
    assert visible_patches(25, 0.8) == 4 and visible_patches(196, 0.75) == 49 and visible_patches(49, 0.75) == 12
    with pytest.raises(ConfigError, match="leaves none of them"):
        visible_patches(16, 0.99)
    with pytest.raises(ConfigError, match="leaves all of them"):
        visible_patches(16, 0.0)


@pytest.mark.parametrize(
    ("image", "patch", "channels"), [((24, 40), (8, 8), 3), ((16, 32), (4, 8), 1), ((16, 16), (4, 4), 5)]
)
@pytest.mark.parametrize("prefix", [{}, {"pool": "mean"}, {"registers": 2}])
def test_any_size_channels_and_prefix(image, patch, channels, prefix) -> None:
    encoder = ViTConfig(
        width=32,
        depth=1,
        heads=2,
        mlp_width=32,
        image=image,
        patch=patch,
        channels=channels,
        classes=0,
        positions="sincos-mae",
    )
    model = zoo.build(
        MAEConfig(
            encoder=zoo.change(encoder, **prefix),
            decoder_width=16,
            decoder_heads=2,
            decoder_depth=1,
            decoder_mlp_width=16,
        )
    )
    images = torch.randn(3, channels, *image)
    (h, w) = encoder.grid
    chosen = masking(torch.rand(3, h * w), 0.75)
    assert model.predict(images, chosen).shape == (3, h * w, patch[0] * patch[1] * channels)
    hidden, pixels = model.predict_hidden(images, chosen)
    both = chosen.hidden[:, :, None].expand_as(hidden)
    assert torch.allclose(hidden, model.predict(images, chosen).gather(1, both), atol=1e-5)
    assert torch.equal(pixels, patchify(images, patch).gather(1, both))
    # what was hidden is not seen: other pixels there, the same latent
    elsewhere = patchify(images, patch).scatter(1, both, torch.randn_like(pixels))
    changed = unpatchify(elsewhere, patch, (h, w))
    assert torch.equal(model.encode(images, chosen.visible), model.encode(changed, chosen.visible))


def test_all_patches_visible_is_the_plain_vit() -> None:
    encoder = ViTConfig(
        width=32, depth=2, heads=2, mlp_width=64, image=(16, 24), patch=(4, 4), classes=0, positions="sincos-mae"
    )
    model = zoo.build(MAEConfig(encoder=encoder, decoder_width=16, decoder_heads=2, decoder_depth=1))
    images = torch.randn(2, 3, 16, 24)
    every = torch.arange(24).expand(2, -1)
    assert torch.allclose(model.encode(images, every), model.encoder.features(images).tokens, atol=1e-5)


def test_a_normalised_prediction_becomes_pixels_again_and_an_unknown_target_is_refused() -> None:
    pixels = torch.randn(2, 5, 48)
    assert torch.allclose(from_target(pixel_target(pixels, "normalised"), pixels, "normalised"), pixels, atol=1e-5)
    with pytest.raises(ConfigError, match="do not say whether their decoder predicts"):
        from_target(pixels, pixels, "unknown")
