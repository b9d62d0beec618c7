"""probe, embed, similar, compare, robustness and suite on real digits, with a model of a few parameters."""

import json
from pathlib import Path

import pytest
import torch

from vitrail.cli import main
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.weights.bundle import Record, save_bundle


@pytest.fixture
def models(in_folder: Path) -> Path:
    for seed, name in enumerate("ab"):
        config = {"width": 16, "depth": 4, "heads": 2, "mlp_width": 32, "patch": (4, 4), "image": (8, 8), "channels": 1}
        model = zoo.build("vit-ti/16", **config, classes=10, seed=seed)
        torch.nn.init.normal_(model.head.weight, std=0.5, generator=torch.Generator().manual_seed(seed))
        preprocess = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))
        save_bundle(Path(name), model, Record(config=model.config, preprocess=preprocess, classes=tuple("0123456789")))
    return in_folder


def _json(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_probe_measures_models_layers_sizes_and_pixels_in_one_table(models: Path, capsys) -> None:
    words = ["probe", "a", "digits", "--protocols", "fewshot,knn", "--shots", "1", "5", "--k", "3", "--cache", "kept"]
    rows = _json([*words, "--beside", "pixels"], capsys)
    assert [(row["features"], row["setting"]) for row in rows] == [
        (name, setting) for name in ("a", "pixels") for setting in ("1 shot", "5 shot", "k = 3")
    ]
    assert rows[0]["n"] == 3 and rows[-1]["accuracy_%"] > 97
    assert _json([*words, "--beside", "pixels"], capsys)[0]["accuracy_%"] == rows[0]["accuracy_%"]
    assert len(list(Path("kept").iterdir())) == 2
    (at_last,) = {row["accuracy_%"] for row in _json([*words, "--layer", "4"], capsys) if row["setting"] == "k = 3"}
    assert at_last == rows[2]["accuracy_%"]
    sizes = _json(["probe", "a", "digits", "--protocols", "nearest-mean", "--image", "8", "16"], capsys)
    assert [row["features"] for row in sizes] == ["a, 8 px", "a, 16 px"]


def test_embed_keeps_what_probe_and_similar_read(models: Path, capsys) -> None:
    assert main(["embed", "a", "digits", "--out", "f.safetensors"]) == 0
    capsys.readouterr()
    direct = _json(["probe", "a", "digits", "--protocols", "nearest-mean"], capsys)
    stored = _json(["probe", "f.safetensors", "--protocols", "nearest-mean"], capsys)
    assert stored[0]["accuracy_%"] == direct[0]["accuracy_%"]
    near = _json(["similar", "f.safetensors", "--of", "digits/00003", "--k", "4"], capsys)
    assert len(near) == 4 and near[0]["cosine"] >= near[-1]["cosine"]
    twins = _json(["similar", "f.safetensors", "--duplicates", "0.9999"], capsys)
    assert all(pair["cosine"] >= 0.9999 for pair in twins)
    assert main(["similar", "f.safetensors", "--of", "nothing"]) == 65
    assert "0 images are called 'nothing'" in capsys.readouterr().err


def test_what_cannot_be_measured_says_so_and_writes_nothing(models: Path, capsys) -> None:
    said = {
        ("probe", "a"): (78, "no images were named"),
        ("probe", "a", "digits", "--protocols", "svm"): (78, "protocol 'svm' is unknown"),
        ("probe", "a", "digits", "--protocols", "fewshot", "--shots", "500"): (65, "too few for 500 shots"),
        ("probe", "a", "digits", "--layer", "5"): (78, "layer 5 of a model of 4 blocks"),
        ("embed", "a", "digits", "--out", "f.npz"): (78, "ends with .safetensors or"),
        ("embed", "a", "digits", "--layer", "9", "--out", "f.safetensors"): (78, "layer 9"),
    }
    for words, (code, text) in said.items():
        assert main(list(words)) == code, words
        assert text in " ".join(capsys.readouterr().err.split()), words
    assert not list(Path().glob("f.*"))


def test_compare_pairs_the_answers(models: Path, capsys) -> None:
    found = _json(["compare", "a", "b", "digits"], capsys)
    assert found["both"] + found["only_first"] + found["only_second"] + found["neither"] == found["images"] == 359
    assert found["difference"] == pytest.approx((found["only_second"] - found["only_first"]) / 359)
    same = _json(["compare", "a", "a", "digits"], capsys)
    assert same["difference"] == 0 and same["exact"] == same["mid_p"] == 1


def test_robustness_and_suite_end_with_tables(models: Path, capsys) -> None:
    rows = _json(["robustness", "a", "digits", "--corruptions", "contrast", "--severities", "1", "5"], capsys)
    assert [(row["corruption"], row["severity"]) for row in rows] == [("none", 0), ("contrast", 1), ("contrast", 5)]
    suite = 'protocols = ["knn"]\n[[models]]\npath = "a"\n[[models]]\npath = "pixels"\n[[tasks]]\ndata = "digits"\n'
    Path("s.toml").write_text(suite)
    first = _json(["suite", "s.toml"], capsys)
    assert set(first[0]) == {"protocol", "task", "a", "pixels"} and Path("runs/s/report.html").is_file()
    assert _json(["suite", "s.toml"], capsys) == first
