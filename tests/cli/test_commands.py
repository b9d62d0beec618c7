"""The main job by its commands: train on real digits, evaluate, predict, trace; what they print is true."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from vitrail.cli import main
from vitrail.images.sources import open_data

pytestmark = pytest.mark.flow

TINY = ["--model.depth", "1", "--model.width", "16", "--model.heads", "2", "--model.mlp-width", "32"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tiny"
    assert main(["train", "digits", "--out", str(folder), "--epochs", "2", "--quiet", *TINY]) == 0
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve held-out digits as PNG files, two folders deep."""
    folder = tmp_path_factory.mktemp("files")
    held_out = open_data("digits").test
    for index in range(12):
        place = folder / str(index % 2)
        place.mkdir(exist_ok=True)
        Image.fromarray(held_out[index].content[..., 0]).save(place / f"{index:02d}.png")
    return folder


def test_a_run_folder_holds_everything(trained: Path) -> None:
    for name in ("run.json", "metrics.jsonl", "report.html", "predictions.png", "best/record.json", "last/record.json"):
        assert (trained / name).is_file(), name
    run = json.loads((trained / "run.json").read_text())
    assert run["data"] == "digits" and run["recipe"] == "digits"
    assert run["model"]["depth"] == 1 and run["model"]["classes"] == 10 and run["model"]["channels"] == 1


@pytest.mark.report
def test_train_says_which_recipe_and_why_and_what_it_will_cost(in_folder: Path, capsys) -> None:
    assert main(["train", "digits", "--epochs", "1", *TINY]) == 0
    said = capsys.readouterr()
    assert "recipe digits: all images are 8×8 pixels" in said.err
    assert "1,438 to learn from, 359 held out, 10 classes" in said.err
    assert "exaFLOP" in said.err
    assert "held-out accuracy" in said.out and "on 359 images" in said.out
    assert "runs/digits-1/predictions.png" in said.out
    assert (in_folder / "runs/digits-1/run.json").is_file()


def test_seeds_train_one_run_each_and_print_their_spread(in_folder: Path, capsys) -> None:
    words = ["train", "digits", "--epochs", "1", "--seeds", "3", "--out", "three", "--json", "--quiet", *TINY]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["seed"] for one in found] == [0, 1, 2]
    assert [json.loads(Path(one["folder"], "run.json").read_text())["seed"] for one in found] == [0, 1, 2]
    assert len({one["nll"] for one in found}) == 3


def test_the_same_words_give_the_same_bits(in_folder: Path, capsys) -> None:
    for folder in ("one", "two"):
        words = ["train", "digits", "--epochs", "1", "--out", folder, "--quiet", "--hardware.threads", "1", *TINY]
        assert main(words) == 0
    one, two = (Path(folder, "last/model.safetensors").read_bytes() for folder in ("one", "two"))
    assert one == two


def test_resume_of_a_finished_run_gives_its_scores_again(trained: Path, capsys) -> None:
    assert main(["train", "--resume", str(trained), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 359


def test_resume_knows_the_short_options(trained: Path, capsys) -> None:
    assert main(["train", "--resume", str(trained), "--workers", "0", "--json", "--quiet"]) == 0
    assert main(["train", "--resume", str(trained), "--lr", "1"]) == 78
    assert "optim.lr" in capsys.readouterr().err


def test_resume_refuses_other_settings(trained: Path, capsys) -> None:
    assert main(["train", "--resume", str(trained), "--optim.lr", "1"]) == 78
    assert "optim.lr" in capsys.readouterr().err


def test_a_folder_that_holds_a_run_is_not_overwritten(trained: Path, capsys) -> None:
    assert main(["train", "digits", "--out", str(trained), "--epochs", "1", "--quiet", *TINY]) == 78
    assert f"go on with --resume {trained}" in capsys.readouterr().err


def test_plan_counts_and_trains_nothing(in_folder: Path, capsys) -> None:
    assert main(["plan", "digits", "--epochs", "10", "--batch-size", "128", "--json", *TINY]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["held_out"], found["classes"]) == (1438, 359, 10)
    assert found["steps"] == round(10 * 1438 / 128)
    assert found["flops_per_step"] == 6 * 128 * found["macs_per_image"]
    assert found["exaflops"] == pytest.approx(found["flops_per_step"] * found["steps"] / 1e18)
    assert found["seconds_per_step"] > 0
    assert not list(in_folder.iterdir())


def test_evaluate_measures_what_the_run_did_not_see(trained: Path, capsys) -> None:
    """Against the model called by hand."""
    assert main(["evaluate", str(trained), "digits", "--json", "--precision", "fp32"]) == 0
    found = json.loads(capsys.readouterr().out)
    model, held_out = vitrail.load(trained), open_data("digits").test
    pixels = torch.from_numpy(held_out.in_memory).permute(0, 3, 1, 2)
    with torch.no_grad():
        answers = model(model.record.preprocess.normalise(pixels)).argmax(1)
    right = int((answers == torch.from_numpy(held_out.labels)).sum())
    assert found["images"] == len(held_out) == 359
    assert found["top1"] == pytest.approx(right / 359)
    assert found["top1_low"] < found["top1"] < found["top1_high"]
    assert np.array(found["confusion"]).trace() == right
    assert [row["name"] for row in found["per_class"]] == list("0123456789")


@pytest.mark.parametrize(("split", "images"), [("train", 1438), ("test", 359), ("all", 1797)])
def test_evaluate_takes_the_part_it_is_asked_for(trained: Path, split: str, images: int, capsys) -> None:
    assert main(["evaluate", str(trained), "digits", "--split", split, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == images == sum(row["images"] for row in found["per_class"])


def test_evaluate_of_other_data_takes_all_of_it(trained: Path, tmp_path: Path, capsys) -> None:
    """The same pixels as files that the run has never seen under these names are known by their contents."""
    digits = open_data("digits").test
    for index in range(40):
        place = tmp_path / digits.classes[digits.labels[index]]
        place.mkdir(exist_ok=True)
        Image.fromarray(digits[index].content[..., 0]).save(place / f"{index}.png")
    assert main(["evaluate", str(trained), str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 40


def test_evaluate_writes_classes_as_csv_and_a_page(trained: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "scores.html"
    assert main(["evaluate", str(trained), "digits", "--csv", "--html", str(page)]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sum(int(row["images"]) for row in rows) == 359
    assert "<html" in page.read_text("utf-8")


def test_predict_answers_alike_in_every_format(trained: Path, files: Path, capsys) -> None:
    said = {}
    for form in ("json", "csv", "table"):
        assert main(["predict", str(trained), str(files), "--format", form, "--top", "3", "--batch", "5"]) == 0
        said[form] = capsys.readouterr().out
    objects = json.loads(said["json"])
    rows = list(csv.DictReader(io.StringIO(said["csv"])))
    assert len(objects) == 12 and len(rows) == 36
    assert [label for one in objects for label in one["labels"]] == [row["label"] for row in rows]
    assert all(one["probabilities"] == sorted(one["probabilities"], reverse=True) for one in objects)
    assert said["table"].count(".png") == 12


def test_an_image_that_is_none_of_the_classes_has_its_line(trained: Path, files: Path, capsys) -> None:
    assert main(["predict", str(trained), str(files), "--csv", "--least", "0.99999"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len({row["file"] for row in rows}) == 12
    assert {row["probability"] for row in rows if row["label"] == "none of these"} == {""}


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_switch_says_the_format_too(form: str, capsys) -> None:
    assert main(["models", "vit-b/16", "--format", form]) == main(["models", "vit-b/16", f"--{form}"]) == 0
    said = capsys.readouterr().out
    assert said and said[: len(said) // 2] == said[len(said) // 2 :]


def test_predict_agrees_with_the_model(trained: Path, files: Path, capsys) -> None:
    assert main(["predict", str(trained), str(files), "--format", "json", "--precision", "fp32"]) == 0
    found = {Path(one["file"]).stem: one for one in json.loads(capsys.readouterr().out)}
    model, held_out = vitrail.load(trained), open_data("digits").test
    pixels = torch.from_numpy(held_out.in_memory[:12]).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = model(model.record.preprocess.normalise(pixels)).softmax(1)
    for index, row in enumerate(expected):
        assert found[f"{index:02d}"]["labels"][0] == str(int(row.argmax()))
        assert found[f"{index:02d}"]["probabilities"][0] == pytest.approx(float(row.max()), abs=1e-5)


def test_predict_stops_at_a_file_it_cannot_read_or_lists_it(trained: Path, files: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert main(["predict", str(trained), str(files), str(broken)]) == 65
    assert "broken.png" in capsys.readouterr().err
    words = ["predict", str(trained), str(files), str(broken), "--skip-unreadable", "--format", "json"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "1 of 13 files could not be read" in said.err
    assert [one["file"] for one in json.loads(said.out) if "error" in one] == [str(broken)]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("predict RUN nowhere.jpg", 65, "nowhere.jpg"),
        ("predict RUN", 78, "no images were named"),
        ("predict nowhere photo.jpg", 65, "nowhere"),
        ("evaluate RUN nowhere", 65, "nowhere"),
        ("evaluate RUN digits --split val", 78, "no validation part"),
        ("train nowhere", 65, "nowhere"),
        ("train digitz", 65, "did you mean 'digits'?"),
        ("train", 78, "vitrail train ./photos"),
        ("train digits --recipe digit", 78, "did you mean 'digits'?"),
        ("train digits --recipe finetune", 78, "a file as --weights"),
        ("train digits --recipe finetune:cifer10 --weights RUN", 78, "did you mean 'cifar10'?"),
        ("train digits --model vit-b/61x", 78, "vit-b/16"),
        ("train digits --weights nowhere", 65, "nowhere"),
        ("train digits --model.classes 5", 78, "follows from the data"),
        ("train digits --seeds 0", 78, "1 or more"),
        ("train digits --epochs 1 --model.width 17", 78, "a multiple of 4"),
        ("train digits --length 3", 78, "'90 epochs'"),
        ("trace nowhere.png", 65, "nowhere.png"),
        ("trace RUN/report.html --html RUN", 78, "is a folder; allowed: the name of a file"),
        ("models vit-bb", 78, "did you mean"),
        ("recipes deit4", 78, "did you mean 'deit"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_paragraph(
    words: str, code: int, message: str, trained: Path, capsys
) -> None:
    assert main([word.replace("RUN", str(trained)) for word in words.split()]) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said and said.startswith("error: ") and said.count("\n") == 1


def test_trace_lists_every_block_as_json(files: Path, trained: Path, capsys) -> None:
    assert main(["trace", str(files / "0/00.png"), "--weights", str(trained), "--format", "json"]) == 0
    steps = {row["tensor"]: row for row in json.loads(capsys.readouterr().out)}
    assert steps["x"]["shape"] == "1×1×8×8"
    assert steps["z_1"]["shape"] == "1×16×16" and steps["z_1"]["eq."] == "3"
    assert steps["logits"]["shape"] == "1×10"


def test_trace_takes_any_size_the_patch_divides(files: Path, capsys) -> None:
    assert main(["trace", str(files / "0/00.png"), "--model", "vit-ti/16", "--size", "224", "160"]) == 0
    assert "1×141×192" in capsys.readouterr().out
    assert main(["trace", str(files / "0/00.png"), "--model", "vit-ti/16", "--size", "225", "160"]) == 78
    assert "does not divide" in capsys.readouterr().err


def test_models_counts_to_the_unit(capsys) -> None:
    assert main(["models", "vit-[bh]/1[46]", "--format", "json"]) == 0
    found = {row["name"]: row["parameters"] for row in json.loads(capsys.readouterr().out)}
    assert found["vit-b/16"] == 86_567_656
    assert found["vit-h/14"] == 632_045_800


def test_fine_tuning_from_a_run_starts_from_its_weights(trained: Path, in_folder: Path, capsys) -> None:
    """At twice the resolution, with a head for other classes: the paper's section 3.2."""
    source = open_data("digits").train
    for index in range(60):
        place = Path("pairs", "even" if source.labels[index] % 2 == 0 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source[index].content[..., 0]).resize((16, 16)).save(place / f"{index}.png")
    words = f"train pairs --weights {trained} --preprocess.size 16 16 --epochs 1 --json --hardware.workers 0".split()
    assert main(words) == 0
    said = capsys.readouterr()
    assert "recipe finetune_small: weights were given" in said.err
    run = json.loads(Path(json.loads(said.out)["folder"], "run.json").read_text())
    assert run["model"]["image"] == [16, 16] and run["model"]["classes"] == 2 and run["model"]["width"] == 16
