"""Averages over views: against crops and mirror images made by torchvision, and by hand through the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms import v2

import vitrail
from tests.support.photographs import photograph, put
from vitrail.cli import main
from vitrail.errors import ConfigError
from vitrail.evaluation.evaluate import evaluate
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.prediction.predict import predict
from vitrail.prediction.views import average_views, larger
from vitrail.weights.bundle import Record

CUT = Preprocess(size=(32, 32), resize="crop", crop_fraction=0.8)
WHOLE = Preprocess(size=(28, 42))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for k in range(10):
        put(root / f"class{k % 2}" / f"{k}.png", photograph(k, (90, 60)))
    return root


def model(preprocess: Preprocess) -> torch.nn.Module:
    built = vitrail.build("vit-ti/16", classes=2, depth=2, patch=(2, 2), image=preprocess.size, seed=3)
    torch.nn.init.normal_(built.head.weight, generator=torch.Generator().manual_seed(0))
    built.record = Record(config=built.config, preprocess=preprocess, classes=("class0", "class1"))
    return built.eval()


@torch.no_grad()
def by_hand(classifier, images: torch.Tensor) -> torch.Tensor:
    return torch.stack([classifier(view[None]).softmax(1)[0] for view in images]).mean(0)


@pytest.mark.parametrize("preprocess", [CUT, WHOLE], ids=["cut", "whole"])
@pytest.mark.parametrize("views", ["five", "ten"])
def test_crops_are_torchvisions(views: str, preprocess: Preprocess) -> None:
    classifier = model(preprocess)
    images = torch.randn(2, 3, *larger(preprocess, views).size, generator=torch.Generator().manual_seed(0))
    crops = (F.ten_crop if views == "ten" else F.five_crop)(images, list(preprocess.size))
    with torch.no_grad():
        found = average_views(classifier, views)(images).softmax(1)
    for index in range(2):
        wanted = by_hand(classifier, torch.stack([crop[index] for crop in crops]))
        assert torch.allclose(found[index], wanted, atol=1e-6)


def test_the_larger_square_is_the_records_margin() -> None:
    assert larger(CUT, "ten").size == (40, 40) and larger(CUT, "ten").crop_fraction == 1
    assert larger(WHOLE, "five").size == (32, 48)
    assert larger(CUT, "flip") is CUT
    image = np.array(photograph(1, (90, 60)))
    centre = larger(CUT, "ten").resize_image(image)[:, 4:36, 4:36]
    assert torch.equal(centre, CUT.resize_image(image))


@pytest.mark.parametrize("views", ["flip", "ten"])
def test_evaluation_and_prediction_average_the_same_probabilities(views: str, photos: Path) -> None:
    classifier, splits = model(CUT), open_data(photos)
    _, found = evaluate(
        average_views(classifier, views), splits.test, batch_size=2, precision="fp32", workers=0, watch=iter
    )
    answers = list(predict(average_views(classifier, views), splits.test, precision="fp32", quiet=True))
    for row in range(len(splits.test)):
        prepared = larger(CUT, views).resize_image(splits.test.picture(row))
        image = CUT.normalise(prepared[None])[0]
        many = [image, image.flip(-1)] if views == "flip" else v2.functional.ten_crop(image, [32, 32])
        wanted = by_hand(classifier, torch.stack(list(many)))
        assert torch.allclose(found.features[row].softmax(0), wanted, atol=1e-5)
        best = int(wanted.argmax())
        assert answers[row].labels[0] == f"class{best}"
        assert answers[row].probabilities[0] == pytest.approx(float(wanted[best]), abs=1e-5)


def test_numbers_are_averaged_as_they_are() -> None:
    answers = vitrail.build("vit-ti/16", classes=1, depth=1, patch=(2, 2), image=CUT.size, seed=3).eval()
    torch.nn.init.normal_(answers.head.weight, generator=torch.Generator().manual_seed(0))
    answers.record = Record(config=answers.config, preprocess=CUT, classes=("age",), numeric=True)
    image = np.array(photograph(1, (90, 60)))
    pixels = CUT.normalise(CUT.resize_image(image)[None])
    with torch.no_grad():
        wanted = float((answers(pixels) + answers(pixels.flip(-1))) / 2)
    found = vitrail.predict(answers, image, views="flip", precision="fp32", quiet=True)[0].value
    assert abs(wanted) > 1e-3 and found == pytest.approx(wanted, abs=1e-5)


def test_one_view_is_the_model_and_native_images_have_no_crops() -> None:
    classifier = model(CUT)
    assert average_views(classifier, "one") is classifier
    with pytest.raises(ConfigError, match="views five of images at their native aspect"):
        average_views(model(Preprocess(size=(32, 32), resize="native", multiple=2)), "five")


def test_the_commands_take_views(in_folder: Path, capsys) -> None:
    tiny = ["--model.depth", "1", "--model.width", "16", "--model.heads", "2", "--model.mlp-width", "32"]
    assert main(["train", "digits", "--out", "run", "--epochs", "1", "--quiet", *tiny]) == 0
    Image.fromarray(open_data("digits").test[0].content[..., 0]).save("one.png")
    capsys.readouterr()
    scores = {}
    for views in ("one", "flip", "ten"):
        assert main(["evaluate", "run", "digits", "--views", views, "--json"]) == 0
        scores[views] = json.loads(capsys.readouterr().out)
        assert scores[views]["views"] == views and scores[views]["images"] == 359
        assert main(["predict", "run", "one.png", "--views", views, "--format", "json"]) == 0
        assert len(json.loads(capsys.readouterr().out)[0]["labels"]) == 5
    assert len({score["nll"] for score in scores.values()}) == 3
    assert main(["evaluate", "run", "digits", "--views", "nine"]) == 2
    assert "invalid choice 'nine' for argument '--views'" in capsys.readouterr().err
