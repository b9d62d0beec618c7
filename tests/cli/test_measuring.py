"""probe, embed, similar, compare, robustness and suite on real digits, with a model of a few parameters."""

import csv
import dataclasses
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.api.evaluate import open_part
from vitrail.cli import main
from vitrail.errors import ConfigError, DataError, StorageError
from vitrail.evaluation import embedding, store
from vitrail.images.content_keys import keys_of, unique_keys
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.inspection.relevance import relevance
from vitrail.models import cost, zoo
from vitrail.study.suite import costs
from vitrail.study.suite_file import ModelEntry
from vitrail.weights.bundle import Record, load, save_bundle


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
    sizes = _json(["probe", "a", "digits", "--protocols", "nearest-mean", "--size", "8", "16"], capsys)
    assert [row["features"] for row in sizes] == ["a, 8 px", "a, 16 px"]


def test_probe_save_makes_a_classifier_that_predict_and_evaluate_take(models: Path, capsys) -> None:
    found = _json(["probe", "a", "digits", "--save", "quick"], capsys)
    assert found["top1"] == pytest.approx(found["baselines"]["logistic on frozen features"])
    assert found["top1"] > found["baselines"]["majority class"]
    assert _json(["evaluate", "quick", "digits"], capsys)["top1"] == pytest.approx(found["top1"])


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


def test_layers_are_rows_and_kept_layers_are_read_as_those_of_the_model(models: Path, capsys) -> None:
    asked = ["--protocols", "knn,linear-4", "--k", "3", "--seeds", "1"]
    assert main(["embed", "a", "digits", "--layer", "1", "2", "3", "4", "--out", "all.safetensors"]) == 0
    capsys.readouterr()
    direct = _json(["probe", "a", "digits", "--layer", "4", *asked, "--beside", "pixels"], capsys)
    stored = _json(["probe", "all.safetensors", *asked], capsys)
    assert [row["accuracy_%"] for row in stored] == [row["accuracy_%"] for row in direct[:2]]
    assert [(row["features"], row["protocol"]) for row in direct] == [
        ("a", "kNN"), ("a", "linear probe, 4 blocks"), ("pixels", "kNN")
    ]  # fmt: skip
    both = _json(["probe", "a", "digits", "--layer", "2", "-1", "--protocols", "knn", "--k", "3"], capsys)
    kept = _json(["probe", "all.safetensors", "--layer", "2", "-1", "--protocols", "knn", "--k", "3"], capsys)
    assert [row["features"] for row in both] == ["a, layer 2", "a, layer 4"]
    assert [row["accuracy_%"] for row in kept] == [row["accuracy_%"] for row in both]
    assert both[1]["accuracy_%"] == direct[0]["accuracy_%"]
    assert main(["embed", "a", "digits", "--layer", "4", "--out", "one.safetensors"]) == 0
    assert main(["probe", "one.safetensors", *asked]) == 78
    said = " ".join(capsys.readouterr().err.split())
    assert "layer 1 of features of 4 auto" in said and "--layer 1 2 3 4" in said


def test_a_pass_that_was_stopped_goes_on(models: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("vitrail.evaluation.embedding.CHUNK", 300)
    words = ["probe", "pixels", "digits", "--protocols", "knn", "--k", "3"]
    whole, passes, real = _json(words, capsys), [], embedding._some

    def some(*asked):
        passes.append(asked)
        if len(passes) == 4:
            raise DataError("stopped here")
        return real(*asked)

    monkeypatch.setattr("vitrail.evaluation.embedding._some", some)
    assert main([*words, "--cache", "kept"]) == 65
    assert len(list(Path("kept").rglob("*.safetensors"))) == 3
    capsys.readouterr()
    again = _json([*words, "--cache", "kept"], capsys)
    assert len(passes) == 4 + 4  # of 5 + 2 pieces, 3 were there
    assert [row["accuracy_%"] for row in again] == [row["accuracy_%"] for row in whole]
    assert [path.is_file() for path in Path("kept").iterdir()] == [True]


def test_what_cannot_be_measured_says_so_and_writes_nothing(models: Path, capsys) -> None:
    said = {
        ("probe", "a"): (78, "no images were named"),
        ("probe", "a", "digits", "--protocols", "svm"): (78, "no protocol is called 'svm'"),
        ("probe", "a", "digits", "--protocols", "fewshot", "--shots", "500"): (65, "too few for 500 shots"),
        ("probe", "a", "digits", "--layer", "5"): (78, "layer 5 of a model of 4 blocks"),
        ("probe", "a", "digits", "--layer", "3", "--protocols", "linear-4"): (78, "4 blocks that end with layer 3"),
        ("embed", "a", "digits", "--out", "f.npz"): (78, "ends with .safetensors or"),
        ("embed", "a", "digits", "--layer", "9", "--out", "f.safetensors"): (78, "layer 9"),
    }
    for words, (code, text) in said.items():
        assert main(list(words)) == code, words
        assert text in " ".join(capsys.readouterr().err.split()), words
    assert not list(Path().glob("f.*"))


def test_small_classes_are_left_out_aloud_and_damaged_features_refused(models: Path, capsys) -> None:
    source, shown = open_data("digits").train, {"big": 12, "other": 9, "small": 2}
    for label, (name, count) in enumerate(shown.items()):
        Path("d", name).mkdir(parents=True)
        for place in np.flatnonzero(source.labels == label)[:count]:
            Image.fromarray(source[int(place)].content[..., 0]).save(Path("d", name, f"{place}.png"))
    words = ["probe", "a", "d", "--protocols", "fewshot", "--shots", "5"]
    assert main(words) == 65
    assert "class 2 has 1" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--at-least", "9", "--json"]) == 0
    found = capsys.readouterr()
    assert "1 of 3 classes are left out, of fewer than 9 images: small (2)" in " ".join(found.err.split())
    (row,) = json.loads(found.out)
    assert row["trained_on"] == 10 and row["tested_on"] == 4
    assert main([*words, "--at-least", "12"]) == 65
    assert "allowed: at_least=9" in " ".join(capsys.readouterr().err.split())
    assert main(["embed", "a", "d", "--out", "f.safetensors"]) == 0
    kept = store.read("f.safetensors")
    kept.features[3, 2] = float("nan")
    store.save("nan.safetensors", kept)
    for words in (
        ["probe", "nan.safetensors", "--protocols", "knn"],
        ["similar", "nan.safetensors", "--duplicates", "0.9"],
    ):
        assert main(words) == 70 and "not finite" in capsys.readouterr().err
    kept.features[3, 2], kept.labels[:] = 0, 1
    store.save("one.safetensors", kept)
    said = {
        ("one.safetensors", "--protocols", "linear"): "all training images are of one class",
        ("f.safetensors", "--layer", "2"): "layer 2 of features of pooled; allowed: no layer",
        ("f.safetensors", "--protocols", "linear-4"): "--layer -4 -3 -2 -1",
        ("pixels", "d", "--protocols", "linear-4"): "none of linear-4 applies to pixels",
    }
    capsys.readouterr()
    for more, text in said.items():
        assert main(["probe", *more]) in (65, 78)
        assert text in " ".join(capsys.readouterr().err.split()), more
    with pytest.raises(DataError, match="splits 0 train, 1 test"):
        dataclasses.replace(kept, splits=kept.splits + 7)


def test_compare_pairs_the_answers(models: Path, capsys) -> None:
    found = _json(["compare", "a", "b", "digits"], capsys)
    assert found["both"] + found["only_first"] + found["only_second"] + found["neither"] == found["images"] == 1797
    assert found["difference"] == pytest.approx((found["only_second"] - found["only_first"]) / 1797)
    same = _json(["compare", "a", "a", "digits"], capsys)
    assert same["difference"] == 0 and same["exact"] == same["mid_p"] == 1


def test_an_opened_source_is_measured_without_what_was_trained_on() -> None:
    source, heard = open_data("digits").test.thin(5), []
    trained = SimpleNamespace(trained_keys=unique_keys(keys_of(source.subset([0]))))
    assert open_part(source, [trained], "auto", say=heard.append).source.keys[0] == source.keys[1]
    assert heard == ["4 images that were not trained on (test of digits); 1 others were, and are left out"]


def test_robustness_and_suite_end_with_tables(models: Path, capsys) -> None:
    rows = _json(["robustness", "a", "digits", "--corruptions", "contrast", "--severities", "1", "5"], capsys)
    assert [(row["corruption"], row["severity"]) for row in rows] == [("none", 0), ("contrast", 1), ("contrast", 5)]
    suite = 'protocols = ["knn"]\n[[models]]\npath = "a"\n[[models]]\npath = "pixels"\n[[tasks]]\ndata = "digits"\n'
    Path("s.toml").write_text(suite)
    first = _json(["suite", "s.toml"], capsys)
    assert set(first[0]) == {"protocol", "task", "a", "pixels"} and Path("runs/s/report.html").is_file()
    assert _json(["suite", "s.toml"], capsys) == first


def test_a_suite_fine_tunes_and_says_what_does_not_apply(models: Path, capsys) -> None:
    words = 'protocols = ["nearest-mean", "linear-4", "finetune"]\nseeds = 2\n[[tasks]]\ndata = "digits"\n'
    words += '[[models]]\npath = "a"\n[[models]]\npath = "pixels"\n'
    Path("s.toml").write_text(words + '[finetune]\nrecipe = "finetune_small"\nlength = "2 steps"\nbatch_size = 16\n')
    assert main(["suite", "s.toml", "--json"]) == 0
    found = capsys.readouterr()
    rows = json.loads(found.out)
    assert "pixels: finetune does not apply" in found.err and "pixels: linear-4 does not apply" in found.err
    (tuned,) = [row for row in rows if row["protocol"] == "fine-tuned, 2 steps, 8 px"]
    assert 0 < tuned["a"] < 100 and tuned["a ±"] is not None and tuned["pixels"] is None
    assert not list(Path("runs/s/finetune").rglob("*.safetensors"))
    assert _json(["suite", "s.toml"], capsys) == rows


def test_similar_lists_few_pairs_and_takes_a_new_image(models: Path, capsys) -> None:
    assert main(["embed", "a", "digits", "--out", "f.safetensors"]) == 0
    capsys.readouterr()
    assert main(["similar", "f.safetensors"]) == 0
    screen = capsys.readouterr()
    assert len(screen.out.splitlines()) < 30 and "the 20 most similar pairs are shown" in screen.err
    digits = open_data("digits").train
    Image.fromarray(digits[5].content[..., 0]).save("new.png")
    near = _json(["similar", "f.safetensors", "--of", "new.png", "--k", "3"], capsys)
    assert near[0]["cosine"] > 0.9999 and near[0]["class"] == digits.classes[digits.labels[5]]
    assert main(["similar", "f.safetensors", "--of", "new.png", "--model", "b"]) == 65
    assert "different models" in capsys.readouterr().err
    assert main(["similar", "f.safetensors", "--of", "new.png", "--duplicates", "0.9"]) == 78
    assert "--of new.png and --duplicates 0.9 together" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="k = 0"):
        vitrail.similar("f.safetensors", "new.png", k=0)


def test_a_suite_counts_the_cost_at_the_size_that_is_read() -> None:
    model = zoo.build("vit-ti/16", image=(32, 32), classes=10)
    model.record = Record(config=model.config, preprocess=Preprocess(size=(64, 64)))
    found = costs(model, ModelEntry(path="a"))
    assert found["gmacs"] == pytest.approx(cost.macs(model, (64, 64)) / 1e9)
    assert found["gmacs"] > 3 * cost.macs(model) / 1e9


def test_a_model_without_a_head_gives_no_answers(models: Path, capsys) -> None:
    model = zoo.build("vit-ti/16", width=16, depth=1, heads=2, mlp_width=32, patch=(4, 4), image=(8, 8), classes=0)
    save_bundle(Path("bare"), model, Record(config=model.config, preprocess=Preprocess(size=(8, 8))))
    Image.new("RGB", (8, 8)).save("x.png")
    for words in (["predict", "bare", "x.png"], ["predict", "bare", "x.png", "--out", "answers"]):
        assert main(words) == 78
        assert "no head" in (said := capsys.readouterr().err) and "probe --save" in said and "embed" in said


@pytest.mark.parametrize("words", [["predict", "a"], ["evaluate", "a"], ["train"]], ids=lambda words: words[0])
def test_an_address_is_no_path(words: list[str], models: Path, capsys) -> None:
    assert main([*words, "https://example.com/a.jpg"]) == 65
    assert "https://example.com/a.jpg is an address" in (said := capsys.readouterr().err) and "download it" in said


def test_pages_of_compare_robustness_and_probe(models: Path, capsys) -> None:
    assert main(["compare", "a", "b", "digits", "--html", "c.html", "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert verdict in Path("c.html").read_text("utf-8")
    words = ["robustness", "a", "digits", "--corruptions", "contrast", "--severities", "1", "5", "--html", "r.html"]
    assert main(words) == 0
    assert "Accuracy over severity" in Path("r.html").read_text("utf-8")
    said = capsys.readouterr().err
    assert "Contrast" in said and said.count("Evaluating 0/") <= 1
    assert main(["probe", "a", "digits", "--protocols", "nearest-mean", "--html", "p.html"]) == 0
    assert "Accuracies with intervals" in Path("p.html").read_text("utf-8")


def test_answers_to_each_image_stand_beside_its_truth(models: Path, capsys) -> None:
    """Against the model called by hand."""
    assert (
        main(["evaluate", "a", "digits", "--answers", "all.csv", "--split", "test", "--precision", "fp32", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(io.StringIO(Path("all.csv").read_text("utf-8"))))
    model, test = load("a"), open_data("digits").test
    pixels = torch.from_numpy(test.in_memory).permute(0, 3, 1, 2)
    with torch.no_grad():
        sure = model(model.record.preprocess.normalise(pixels)).softmax(1)
    by_key = dict(zip(test.keys, range(len(test)), strict=True))
    assert len(rows) == len(test) and sum(row["right"] == "True" for row in rows) == round(found["top1"] * len(test))
    for row in rows:
        index = by_key[row["image"]]
        assert row["truth"] == test.classes[test.labels[index]]
        assert row["answer"] == test.classes[int(sure[index].argmax())]
        assert float(row["probability_of_truth"]) == pytest.approx(float(sure[index, test.labels[index]]), abs=1e-5)


def test_the_numbers_are_printed_before_a_disk_refuses(models: Path, capsys, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr("vitrail.api.evaluate.write_page", refuse)
    assert main(["evaluate", "a", "digits", "--html", "x.html"]) == 74
    assert "Accuracy (top-1)" in capsys.readouterr().out


def test_look_lays_a_map_over_a_photo(models: Path, capsys) -> None:
    digits = open_data("digits").test
    Image.fromarray(digits[5].content[..., 0]).save("photo.png")
    found = _json(["look", "a", "photo.png", "--of", "3", "--out", "map.html"], capsys)
    model = load("a")
    pixels = torch.from_numpy(digits[5].content[None]).permute(0, 3, 1, 2)
    expected = relevance(model, pixels, classes=[3])[0]
    assert found[0]["label"] == "3" and np.allclose(found[0]["map"], expected, atol=1e-6)
    assert "<svg" in Path("map.html").read_text("utf-8")
    assert main(["look", "a", "photo.png"]) == 0
    with Image.open("look.png") as picture:
        assert picture.width > picture.height > 100
    assert main(["look", "a", "photo.png", "--of", "x"]) == 78
    assert "no class 'x'" in capsys.readouterr().err


def test_looks_have_the_names_of_their_images_and_the_answer_of_predict(models: Path, capsys) -> None:
    digits = open_data("digits").test
    found = vitrail.look("a", digits, method="rollout").looks
    assert len(found) == 128 < len(digits) and found[1].key == digits.keys[3] and found[-1].key == digits.keys[-1]
    model = load("a")
    several = dataclasses.replace(model.record, threshold=0.1)
    for record in (several, dataclasses.replace(model.record, numeric=True)):
        model.record = record
        (one,) = vitrail.look(model, digits.subset([3])).looks
        (wanted,) = vitrail.predict(model, digits.subset([3]), precision="fp32", quiet=True)
        assert one.value == pytest.approx(wanted.value, abs=1e-5) if record.numeric else one.value is None
        assert one.probability == (None if record.numeric else pytest.approx(wanted.probabilities[0], abs=1e-5))


def test_doubtful_labels_are_those_that_were_changed(models: Path, capsys) -> None:
    """An oracle model, right on all images: labels that were changed by hand are what it doubts."""
    test = open_data("digits").test
    wrong = {3, 50, 77}
    rows = ["path,label,split"]
    model = load("a")
    pixels = torch.from_numpy(test.in_memory[:100]).permute(0, 3, 1, 2)
    with torch.no_grad():
        answers = model(model.record.preprocess.normalise(pixels)).argmax(1).tolist()
    for index, answer in enumerate(answers):
        Image.fromarray(test[index].content[..., 0]).save(f"{index}.png")
        label = (answer + 1) % 10 if index in wrong else answer
        part = "test" if index % 7 == 0 and any(row.endswith(f",{label},train") for row in rows) else "train"
        rows.append(f"{index}.png,{label},{part}")
    Path("set.csv").write_text("\n".join(rows))
    before = {path: path.read_bytes() for path in Path().glob("*.png")}
    words = ["data", "clean", "a", "set.csv", "--out", "doubts.csv", "--html", "doubts.html", "--precision", "fp32"]
    assert main(words) == 0
    listed = list(csv.DictReader(io.StringIO(Path("doubts.csv").read_text("utf-8"))))
    assert {Path(row["image"]).stem for row in listed} == set(map(str, wrong))
    assert all(int(row["label"]) == (int(row["answer"]) + 1) % 10 for row in listed)
    assert "Labelled" in Path("doubts.html").read_text("utf-8")
    assert before == {path: path.read_bytes() for path in Path().glob("*.png")}


def test_an_image_that_is_none_of_these_has_no_label(models: Path, capsys) -> None:
    digits = open_data("digits").test
    for index in range(8):
        Image.fromarray(digits[index].content[..., 0]).save(f"{index}.png")
    files = [f"{index}.png" for index in range(8)]
    every = _json(["predict", "a", *files, "--top", "1"], capsys)
    middle = float(np.median([one["probabilities"][0] for one in every]))
    some = _json(["predict", "a", *files, "--top", "1", "--least", str(middle)], capsys)
    for one, other in zip(every, some, strict=True):
        assert other["labels"] == (one["labels"] if one["probabilities"][0] >= middle else [])
    assert main(["predict", "a", *files, "--calibrated"]) == 78
    assert "no temperature" in capsys.readouterr().err
