"""Training on pictures that are not square, without squashing: by shape, in the same exact order, end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from tests.support.photographs import encoded, photograph
from tests.support.streams import joined, same, stream
from vitrail.batches.batch import groups
from vitrail.batches.loader import eval_batches
from vitrail.cli import main
from vitrail.errors import ConfigError
from vitrail.evaluation.features import extract
from vitrail.images.folders import read_classes
from vitrail.images.preprocess import ASPECTS, Preprocess
from vitrail.images.samples import Source
from vitrail.images.sources import open_data
from vitrail.images.transforms import Augment
from vitrail.prediction.predict import predict
from vitrail.weights.bundle import Record

pytestmark = pytest.mark.flow

NATIVE = Preprocess(size=(32, 32), resize="native", multiple=4)
CROPS = Augment(crop_area=(0.3, 1.0), flip=True, jitter=0.2, rotate=10, erase=0.5)
SIZES = ((120, 60), (60, 120), (90, 60), (64, 64), (80, 60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("aspects")
    for k in range(60):
        place = root / f"class{k % 2}"
        place.mkdir(exist_ok=True)
        (place / f"{k:02d}.jpg").write_bytes(encoded(photograph(k, SIZES[k % 5]), quality=90))
    return root


@pytest.fixture
def photos(folder: Path) -> Source:
    return read_classes(folder)


@pytest.mark.parametrize(("size", "multiple"), [((224, 224), 16), ((112, 112), 14), ((28, 28), 4), ((224, 160), 32)])
def test_shapes_have_the_aspects_of_cameras_and_about_one_area(size: tuple[int, int], multiple: int) -> None:
    preprocess = Preprocess(size=size, resize="native", multiple=multiple)
    assert size in preprocess.shapes and len(preprocess.shapes) <= len(ASPECTS) + 1
    for height, width in preprocess.shapes:
        assert height % multiple == width % multiple == 0
        assert height * width == pytest.approx(size[0] * size[1], rel=0.2)
        assert height <= preprocess.frame[0] and width <= preprocess.frame[1]
        assert preprocess.shape_for(3 * height, 3 * width) == (height, width)


def test_an_image_keeps_its_aspect_as_nearly_as_the_shapes_allow(photos: Source) -> None:
    for index in range(10):
        image = photos.picture(index)
        height, width = NATIVE.resize_image(image).shape[1:]
        assert abs(np.log(width / height * image.shape[0] / image.shape[1])) < 0.16


def test_each_image_is_what_preprocessing_makes_of_it_and_the_frame_is_black_around(photos: Source) -> None:
    for batch in stream(photos, preprocess=NATIVE, augment=Augment(), stop=60):
        assert batch.shapes is not None and len({tuple(shape) for shape in batch.shapes}) >= 3
        for image, key, (height, width) in zip(batch.images, batch.keys, batch.shapes.tolist(), strict=True):
            wanted = NATIVE.resize_image(photos.picture(list(photos.keys).index(key)))
            assert torch.equal(image[:, :height, :width], wanted)
            assert not image[:, height:].any() and not image[:, :, width:].any()


def test_the_order_is_that_of_square_batches_and_nothing_depends_on_workers_ranks_or_the_entry(photos: Source) -> None:
    def native(**changes):
        return stream(photos, **{"preprocess": NATIVE, "augment": CROPS, **changes})

    whole = native()
    assert [batch.keys for batch in whole] == [batch.keys for batch in stream(photos)]
    assert same(whole, native(workers=2))
    assert same(whole[3:], native(start=60))
    ranks = [native(rank=rank, world=2) for rank in range(2)]
    assert same(whole, [joined(list(parts)) for parts in zip(*ranks, strict=True)])
    for one, two in zip(whole, native(batch_size=10)[::2], strict=True):
        assert (one.shapes[:10] == two.shapes).all() and torch.equal(one.images[:10], two.images)


def test_parts_are_of_one_shape_and_together_the_batch(photos: Source) -> None:
    (batch,) = stream(photos, preprocess=NATIVE, augment=CROPS, stop=20)
    parts = batch.split(4)
    assert all(len(part) <= 4 and part.shapes is None for part in parts)
    assert sorted(key for part in parts for key in part.keys) == sorted(batch.keys)
    rows = np.concatenate([rows for rows, _ in batch.apart()])
    assert sorted(rows.tolist()) == list(range(20))
    assert len(batch.apart()) == len(groups(batch.shapes))


def test_answers_come_in_the_order_of_the_images_and_equal_those_one_by_one(photos: Source) -> None:
    model = vitrail.build("vit-ti/16", classes=2, depth=2, patch=(4, 4), image=(32, 32), seed=1)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    model.record = Record(config=model.config, preprocess=NATIVE, classes=photos.classes)
    model.eval()
    batches = eval_batches(photos, preprocess=NATIVE, batch_size=20)
    found = extract(model, batches, precision="fp32")
    assert found.keys == tuple(photos.keys)
    answers = list(predict(model, photos, precision="fp32", batch_size=16, quiet=True))
    for index in range(0, 60, 7):
        image = NATIVE.normalise(NATIVE.resize_image(photos.picture(index))[None])
        with torch.no_grad():
            logits = model(image)[0]
        assert torch.allclose(found.features[index], logits, atol=1e-4)
        assert answers[index].key == photos.keys[index]
        assert answers[index].labels[0] == photos.classes[int(logits.argmax())]


def test_trained_evaluated_and_predicted_by_the_commands(folder: Path, in_folder: Path, capsys) -> None:
    words = [
        "--model", "vit-ti/16", "--model.depth", "1", "--model.width", "16", "--model.heads", "2", "--model.mlp-width", "32",
        "--preprocess.size", "64", "64", "--preprocess.resize", "native", "--batch-size", "16", "--length", "6 steps",
        "--hardware.workers", "0", "--quiet",
    ]  # fmt: skip
    assert main(["train", str(folder), "--out", "run", *words]) == 0
    stored = json.loads(Path("run/last/record.json").read_text())["preprocess"]
    assert (stored["resize"], stored["multiple"]) == ("native", 16)
    capsys.readouterr()
    assert main(["evaluate", "run", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == len(open_data(folder).test) == 12
    assert main(["predict", "run", str(folder), "--format", "json", "--top", "1"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 60 and [a["file"] for a in answers] == sorted(a["file"] for a in answers)
    assert main(["data", "show", str(folder), "--preprocess.resize", "native", "--rows", "2", "--passes", "2"]) == 0


def test_stopped_and_resumed_gives_the_same_bits(folder: Path, in_folder: Path) -> None:
    words = [
        "train", str(folder), "--model", "vit-ti/16", "--model.depth", "1", "--model.width", "16", "--model.heads", "2",
        "--model.mlp-width", "32", "--preprocess.size", "32", "32", "--preprocess.resize", "native", "--batch-size", "16",
        "--hardware.workers", "0", "--hardware.threads", "1", "--hardware.micro-batch", "8", "--quiet", "--save-every",
        "3 steps", "--length", "6 steps", "--augment.flip",
    ]  # fmt: skip
    assert main([*words, "--out", "whole"]) == 0
    assert main([*words, "--out", "halves"]) == 0
    for name in sorted(Path("halves/checkpoints").iterdir())[1:]:  # as if killed after the third step
        for file in name.iterdir():
            file.unlink()
        name.rmdir()
    assert main(["train", "--resume", "halves", "--quiet"]) == 0
    one, two = (Path(run, "last/model.safetensors").read_bytes() for run in ("whole", "halves"))
    assert one == two


def test_what_cannot_go_together_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match="multiple = 0"):
        Preprocess(resize="native", multiple=0)
    image = Image.new("RGB", (1000, 10))
    assert NATIVE.resize_image(np.array(image)).shape == (3, *NATIVE.shape_for(10, 1000))
