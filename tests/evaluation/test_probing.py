"""Features from a model to a file to a table: taps, files, the protocols' rows."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

import vitrail
from vitrail.api.probe import open_images
from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation import store
from vitrail.evaluation.embedding import Extraction, embed, parts_of
from vitrail.evaluation.feature_table import About, FeatureTable, join
from vitrail.evaluation.features import extract
from vitrail.evaluation.layers import AtLayers, Pixels
from vitrail.evaluation.probing import PROTOCOLS, Settings, probe, table
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import Splits, open_data
from vitrail.models import zoo

pytestmark = pytest.mark.oracle

TINY = {"width": 16, "depth": 5, "heads": 2, "mlp_width": 32, "patch": (4, 4), "image": (8, 8), "classes": 3}


def _model(**changes) -> torch.nn.Module:
    return zoo.build("vit-ti/16", **{**TINY, **changes}).eval()


@pytest.mark.parametrize("pool", ["cls", "mean"])
@pytest.mark.parametrize("final_norm", ["tokens", "pooled"])
def test_the_last_layer_is_what_the_head_reads(pool: str, final_norm: str) -> None:
    model, images = _model(pool=pool, final_norm=final_norm), torch.randn(2, 3, 12, 8)
    tapped = AtLayers(model, [-1])
    torch.testing.assert_close(tapped.pool(tapped.features(images)), model.pool(model.features(images)))


def test_an_earlier_layer_is_that_of_a_shorter_model() -> None:
    model, images = _model(), torch.randn(2, 3, 8, 8)
    short = zoo.build("vit-ti/16", **{**TINY, "depth": 3})
    short.load_state_dict({k: v for k, v in model.state_dict().items() if k in short.state_dict()})
    tapped = AtLayers(model, [3, 5], pool="cls+mean")
    found = tapped.pool(tapped.features(images))
    tokens = short.eval().features(images)
    expected = torch.cat([tokens.cls, tokens.patches.mean(1)], dim=1)
    torch.testing.assert_close(found[:, :32], expected)
    assert found.shape == (2, 64)
    assert not any(block._forward_hooks for block in model.blocks)


@pytest.mark.parametrize(("layer", "message"), [(6, "allowed: 1 to 5"), (0, "layer 0"), (-6, "layer -6")])
def test_layers_that_are_not_there_say_so(layer: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AtLayers(_model(), [layer])


def test_pixels_are_pixels() -> None:
    images = torch.randint(0, 256, (3, 1, 4, 5), dtype=torch.uint8)
    found = extract(
        Pixels((4, 5), 1), [Batch(images, torch.zeros(3, dtype=torch.long), ("a", "b", "c"))], what="features"
    )
    torch.testing.assert_close(found.features, images.flatten(1).float() / 127.5 - 1)


def _kept(n: int = 60, width: int = 6, **about) -> FeatureTable:
    draws = np.random.default_rng(0)
    labels = np.arange(n) % 3
    features = draws.standard_normal((n, width)) + 2 * np.random.default_rng(9).standard_normal((3, width))[labels]
    told = About(model="m", digest="d", layer="pooled", preprocess=Preprocess(), classes=("ä", "b", "c"), **about)
    return FeatureTable(
        torch.from_numpy(features.astype(np.float32)),
        torch.from_numpy(labels),
        torch.from_numpy((np.arange(n) % 5 == 0).astype(np.int64)),
        tuple(f"bild/{i}.png" for i in range(n)),
        told,
    )


@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_features_come_back_from_a_file_as_they_were(tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    kept, path = _kept(), tmp_path / "deep" / f"f.{ending}"
    store.save(path, kept)
    back = store.read(path)
    assert back.about == kept.about and back.keys == kept.keys
    for name in ("features", "labels", "splits"):
        assert torch.equal(getattr(back, name), getattr(kept, name))
    assert store.is_features(path)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("ending", ["safetensors", "parquet"])
def test_damaged_files_and_other_files_say_so(tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"f.{ending}"
    store.save(path, _kept())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="damaged"):
        store.read(path)
    with pytest.raises(DataError, match="no file"):
        store.read(tmp_path / "missing.safetensors")
    with pytest.raises(ConfigError, match=r"ends with .safetensors or .parquet"):
        store.save(tmp_path / "f.npz", _kept())


def test_weights_are_not_features(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert not store.is_features(tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="does not hold features"):
        store.read(tmp_path / "w.safetensors")


def test_features_of_another_model_are_not_mixed() -> None:
    with pytest.raises(DataError, match="of different models: m and other"):
        join(
            [_kept(), dataclasses.replace(_kept(), about=dataclasses.replace(_kept().about, digest="e", model="other"))]
        )


def test_every_protocol_gives_rows_and_missing_parts_say_so() -> None:
    kept = _kept()
    rows = list(probe(kept, [name for name in PROTOCOLS if name != "linear-4"], Settings(seeds=(0, 1))))
    assert {row.protocol for row in rows} == {"few-shot", "kNN", "nearest mean", "linear probe", "logistic regression"}
    assert all(row.spread.mean > 0.8 and row.tested == 12 for row in rows)
    assert [row.setting for row in rows if row.protocol == "few-shot"] == ["1 shot", "5 shot", "10 shot"]
    assert table([("m", row) for row in rows]).json()
    with pytest.raises(ConfigError, match="did you mean 'fewshot'"):
        next(probe(kept, ["fewshots"]))
    with pytest.raises(ConfigError, match="extract the last 4"):
        next(probe(kept, ["linear-4"]))
    with pytest.raises(DataError, match="no test images; allowed: train"):
        next(probe(dataclasses.replace(kept, splits=torch.zeros(60, dtype=torch.long)), ["knn"]))


def test_four_blocks_are_read_only_by_the_protocol_that_asks_for_them() -> None:
    narrow = _kept()
    about = dataclasses.replace(narrow.about, layer="1 2 3 4 cls")
    wide = FeatureTable(
        torch.cat([torch.randn(60, 18), narrow.features], dim=1), narrow.labels, narrow.splits, narrow.keys, about
    )
    (one,), (same,) = (list(probe(kept, ["nearest-mean"])) for kept in (narrow, wide))
    assert one == same
    assert [row.protocol for row in probe(wide, ["linear-4"], Settings(seeds=(0,)))] == ["linear probe, 4 blocks"]


def test_one_pass_is_kept_and_read_back(tmp_path: Path) -> None:
    splits = open_data("digits")
    small = {name: source.subset(range(40)) for name, source in parts_of(splits).items()}
    model = Pixels((8, 8), 1)
    first = embed(model, small, name="pixels", cache=tmp_path)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    second = embed(model, small, name="pixels", cache=tmp_path)
    assert file.stat().st_mtime_ns == written and torch.equal(first.features, second.features)
    assert len(first.part("train")) == len(first.part("test")) == 40
    embed(model, {"test": small["test"]}, name="pixels", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ConfigError, match="a pooling without a layer"):
        embed(model, small, how=Extraction(pool="mean"))


def test_images_with_several_labels_are_refused_before_the_pass() -> None:
    one = open_data("digits").test
    several = dataclasses.replace(one, labels=np.ones((len(one), 10), np.float32))
    with pytest.raises(DataError, match=r"digits have several labels; allowed: one class an image"):
        open_images(Splits(several, several, "given"), ["pixels"], 0, print)
    with pytest.raises(ConfigError, match="data of type ndarray"):
        vitrail.probe("pixels", np.zeros(3))
