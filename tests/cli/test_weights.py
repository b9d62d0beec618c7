"""`vitrail weights`: show, convert, check, as typed."""

import json
from pathlib import Path

import pytest

from tests.support.golden import Golden
from vitrail.cli import main

HEADS = '{"heads": 4}'


def test_show_says_origin_sizes_defaults_and_every_tensor(golden: Golden, capsys: pytest.CaptureFixture) -> None:
    path = golden / "timm_vit/token/checkpoint.pth"
    assert main(["weights", "show", str(path), "--config", HEADS, "--tensors", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    facts = {row["what"]: row["value"] for row in rows}
    assert facts["source"] == "checkpoint.pth (timm)" and facts["inside"] == "encoder, head of 10 outputs"
    assert "heads 4" in facts["config"] and facts["NaN or infinite"] == "none"
    assert facts["blocks.0.attn.qkv.weight"] == "144×48 float32"
    notes = [row["value"] for row in rows if row["what"] == "note"]
    assert any(note.startswith("not in the file, the default of timm: activation gelu") for note in notes)


def test_show_says_what_a_decoder_predicts(golden: Golden, capsys: pytest.CaptureFixture) -> None:
    assert main(["weights", "show", str(golden / "hf_vitmae/plain"), "--format", "json"]) == 0
    assert "encoder and decoder, which predicts pixels" in capsys.readouterr().out
    path = golden / "mae_pretrain/plain/checkpoint.pth"
    meta = json.loads((path.parent / "meta.json").read_text())["model"]
    said = {"encoder": {"heads": meta["num_heads"]}, "decoder_heads": meta["decoder_num_heads"]}
    assert main(["weights", "show", str(path), "--config", json.dumps(said)]) == 0
    assert "which predicts unknown" in capsys.readouterr().out


def test_convert_and_check(golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, out = str(golden / "google_vit/token/checkpoint.npz"), str(tmp_path / "made")
    assert main(["weights", "convert", path, out, "--to", "transformers"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == out and "tensors kept bit for bit" in said.err
    assert main(["weights", "check", path, out]) == 0
    assert "they are identical" in capsys.readouterr().err
    assert main(["weights", "check", path, out, "--config", '{"activation": "gelu"}']) == 0  # of both
    other = str(golden / "google_vit/token_linen_names/checkpoint.npz")
    assert main(["weights", "check", path, other]) != 0


def test_check_finds_one_changed_number(golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from vitrail.weights import bundle
    from vitrail.weights.convert import convert

    path = golden / "hf_vit/classification"
    weights = bundle.read(path)
    weights.tensors["head.bias"][0] += 1e-3
    convert(weights, tmp_path / "made", "vitrail")
    assert main(["weights", "check", str(path), str(tmp_path / "made")]) == 1
    said = capsys.readouterr()
    assert "head.bias by 0.001" in said.out and "they are not identical" in said.err


def test_a_resized_conversion_says_so(golden: Golden, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = str(golden / "hf_dinov2/model_interpolated")
    assert main(["weights", "convert", path, str(tmp_path / "made"), "--image", "84"]) == 0
    assert "resized positions.table 1×26×32 → 1×37×32" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["weights", "shw", "x"], "did you mean 'show'"),
        (["weights", "show", "nowhere.npz"], "there is nothing at nowhere.npz"),
        (["weights", "show", "x", "--config", "[1"], "JSON such as"),
        (["weights", "convert", "FILE", "x.npz", "--to", "timm"], "allowed: a folder x or a file x.safetensors"),
        (["weights", "show", "FILE", "--config", '{"hed": 1}'], "unknown key 'hed'"),
    ],
)
def test_mistakes_are_one_sentence(golden: Golden, in_folder: Path, capsys, words: list[str], sentence: str) -> None:
    file = str(golden / "torchvision_vit/plain/checkpoint.pth")
    heads = ["--config", HEADS] if "FILE" in words and "--config" not in words else []
    assert main([file if word == "FILE" else word for word in words] + heads) not in (0, 1)
    assert sentence in capsys.readouterr().err


def test_models_lists_checkpoints_with_licence_and_accuracy(capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "vit-b/16", "--published", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["licence"] for row in rows} >= {"Apache-2.0", "CC-BY-NC-4.0", "BSD-3-Clause"}
    best = max(rows, key=lambda row: row["ImageNet top-1"] or 0)
    assert best["name"].startswith("B_16-i21k-300ep") and best["ImageNet top-1"] == 85.49
    assert main(["models", "siglip2-b*", "--published", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "siglip2-b/16" and rows[0]["how"] == "zero-shot" and rows[0]["texts"] == "yes"
    assert rows[0]["where"] == "hf:google/siglip2-base-patch16-224"
    assert main(["models", "vit-b/16"]) == 0
    said = capsys.readouterr()
    assert "86,567,656" in said.out and "vitrail models --published" in said.err


def test_help_needs_no_file(capsys: pytest.CaptureFixture) -> None:
    assert main(["weights"]) == 0
    assert "convert  FILE OUT" in capsys.readouterr().out
    assert main(["weights", "convert", "--help"]) == 0


@pytest.mark.parametrize("size", ["0", "-5"])
def test_models_of_no_pixels_are_not_counted(size: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "r50x1", "--size", size]) != 0
    assert f"size = {size}; allowed: 1 pixel or more" in capsys.readouterr().err
