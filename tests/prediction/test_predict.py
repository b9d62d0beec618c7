"""Predictions are the model's own softmax, in order, at any batch size; unreadable files are named, not skipped."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from vitrail.api.images import open_any
from vitrail.errors import ConfigError, DataError, DecodeError, NonFiniteError, ShapeError
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import from_arrays
from vitrail.images.sources import open_data
from vitrail.models.zoo import build
from vitrail.prediction.engine import Engine
from vitrail.prediction.predict import predict

CLASSES = ("cat", "dog", "owl", "fox", "bee", "ant")
SQUASH = Preprocess(size=(16, 16))


@pytest.fixture
def model():
    model = build("vit-s/16", image=(16, 16), patch=(4, 4), classes=6, width=32, depth=1, heads=2, mlp_width=64)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    model.record = SimpleNamespace(preprocess=SQUASH, classes=CLASSES)
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    """Photographs of several sizes and kinds in nested folders, and a text file that is none."""
    draws = np.random.default_rng(0)
    for index, (name, mode) in enumerate([("a.png", "RGB"), ("b.jpg", "RGB"), ("in/c.png", "L"), ("in/d.png", "RGBA")]):
        shape = (20 + index, 33, {"RGB": 3, "L": 1, "RGBA": 4}[mode])
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, shape, dtype=np.uint8).squeeze(), mode=None).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    return tmp_path / "photos"


def by_hand(model, path):
    """Pillow and torchvision alone, for an RGB file without transparency."""
    pixels = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)
    small = resize(pixels, [16, 16], antialias=True)
    with torch.no_grad():
        return model(small[None] / 127.5 - 1).softmax(1)[0]


def test_answers_are_the_models_softmax_the_likeliest_first(model, folder):
    (found,) = predict(model, folder / "a.png", precision="fp32")
    p = by_hand(model, folder / "a.png")
    assert found.key == str(folder / "a.png") and len(found.labels) == 5
    for label, probability in zip(found.labels, found.probabilities, strict=True):
        assert probability == pytest.approx(float(p[CLASSES.index(label)]), abs=1e-5)
    assert (
        found.labels[0] == CLASSES[int(p.argmax())] and list(found.probabilities) == sorted(found.probabilities)[::-1]
    )


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_folders_are_searched_and_come_in_order_at_any_batch_size(model, folder, batch_size):
    found = list(predict(model, [folder], batch_size=batch_size, precision="fp32"))
    assert [p.key.removeprefix(f"{folder}/") for p in found] == ["a.png", "b.jpg", "in/c.png", "in/d.png"]
    alone = [next(iter(predict(model, p.key, precision="fp32"))) for p in found]
    for one, other in zip(found, alone, strict=True):
        assert one.labels == other.labels and one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_a_source_in_memory_can_be_predicted(model):
    images = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), dtype=np.uint8)
    source = from_arrays("some", images, np.full(5, -1), ())
    assert [p.key for p in predict(model, source)] == list(source.keys)


def test_an_unreadable_file_stops_by_name_before_anything_later(model, folder):
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:300])
    found = predict(model, folder, batch_size=1)
    assert next(found).key.endswith("a.png")
    with pytest.raises(DecodeError, match=r"b\.jpg"):
        next(found)


def test_skipped_files_are_listed_in_their_place(model, folder):
    (folder / "b.jpg").write_bytes(b"not an image")
    (folder / "in" / "c.png").write_bytes(b"")
    found = list(predict(model, folder, on_error="skip", batch_size=2))
    assert [bool(p.error) for p in found] == [False, True, True, False]
    assert "b.jpg" in found[1].error and found[1].labels == () and len(found[3].labels) == 5
    assert len(list(predict(model, [folder / "b.jpg"], on_error="skip"))) == 1


def test_an_image_with_channels_the_model_does_not_know_is_named(model, tmp_path):
    np.save(tmp_path / "five.npy", np.zeros((8, 8, 5), np.uint8))
    with pytest.raises(DecodeError, match=r"five\.npy"):
        list(predict(model, tmp_path / "five.npy"))


def test_fewer_classes_than_top_k_give_all_of_them(model, folder):
    (found,) = predict(model, folder / "a.png", top_k=50)
    assert sorted(found.labels) == sorted(CLASSES) and sum(found.probabilities) == pytest.approx(1)


def test_a_model_without_names_answers_by_number(model, folder):
    del model.record
    (found,) = predict(model, folder / "a.png", top_k=1, preprocess=SQUASH)
    assert found.labels[0].startswith("class ")


def test_bf16_gives_the_same_answers_but_for_rounding(model, folder):
    for exact, rounded in zip(
        predict(model, folder, precision="fp32"), predict(model, folder, precision="bf16"), strict=True
    ):
        near = dict(zip(rounded.labels, rounded.probabilities, strict=True))
        for label, probability in zip(exact.labels[:2], exact.probabilities, strict=False):
            assert near[label] == pytest.approx(probability, abs=0.03)


def test_asking_changes_nothing_outside(model, folder):
    model.train()
    found = predict(model, folder, batch_size=1)
    next(found)
    assert torch.is_grad_enabled() and model.training, "not even between two answers"
    found.close()


def test_mistakes_in_asking_are_said_at_once(model, folder):
    with pytest.raises(ConfigError, match="top = 0"):
        predict(model, folder, top_k=0)
    with pytest.raises(DataError, match="there is no file or folder"):
        predict(model, folder / "missing.png")
    with pytest.raises(ConfigError, match="6 classes, but 2 names"):
        list(predict(model, folder, classes=("a", "b")))
    del model.record
    with pytest.raises(ConfigError, match="no record"):
        predict(model, folder)


def test_answers_that_are_not_numbers_are_an_error(model, folder):
    with torch.no_grad():
        model.head.bias.fill_(float("nan"))
    with pytest.raises(NonFiniteError):
        list(predict(model, folder))


def test_stdout_stays_clean(model, folder, capfd):
    list(predict(model, folder))
    out, err = capfd.readouterr()
    assert out == "" and "Predicting 4/4" in err
    list(predict(model, folder, quiet=True))
    assert capfd.readouterr() == ("", "")


class Counting:
    """An engine that is no torch model: its answer is the mean brightness of each image."""

    name, precision, digest = "counting on paper", "float32", "0"
    preprocess, classes = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,)), ("dark", "bright")

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.float().mean((1, 2, 3)) / 255
        return torch.stack([1 - bright, bright], dim=1)


def test_any_engine_answers_through_predict(tmp_path: Path) -> None:
    for shade in (0, 255):
        Image.new("L", (20, 10), shade).save(tmp_path / f"{shade}.png")
    assert isinstance(Counting(), Engine)
    found = list(predict(Counting(), tmp_path, top_k=1, quiet=True))
    assert [prediction.labels for prediction in found] == [("dark",), ("bright",)]


def test_least_auto_is_that_of_the_record_at_its_temperature(model, folder):
    """Images below the stored probability are none of the classes; without one in the record that is an error."""
    with pytest.raises(ConfigError, match="does not say below which probability"):
        list(predict(model, folder, least="auto"))
    images = sorted(folder.rglob("*.png"))
    sure = [found.probabilities[0] for found in predict(model, images, calibrated=False, precision="fp32")]
    middle = sorted(sure)[1]
    model.record = SimpleNamespace(preprocess=SQUASH, classes=CLASSES, temperature=1.0, least=middle, threshold=None)
    found = list(predict(model, images, least="auto", precision="fp32", top_k=1))
    assert [bool(one.labels) for one in found] == [one >= middle for one in sure]
    model.record.temperature = 1e3  # nearly uniform: nothing is sure
    assert not any(one.labels for one in predict(model, images, least="auto", precision="fp32"))


def test_least_raises_the_threshold_of_several_labels(model, folder):
    model.record = SimpleNamespace(preprocess=SQUASH, classes=CLASSES, temperature=None, threshold=0.2)
    every = list(predict(model, folder, precision="fp32"))
    least = sorted(number for one in every for number in one.probabilities)[-3]
    found = list(predict(model, folder, precision="fp32", least=least))
    assert sum(len(one.labels) for one in found) == 3
    assert all(number >= least for one in found for number in one.probabilities)
    assert list(predict(model, folder, precision="fp32", least=0.1)) == every


@pytest.mark.parametrize("kind", ["transparent", "palette", "turned", "deep", "inks"])
def test_a_picture_of_pillow_is_read_as_its_file(kind: str, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    colours = Image.fromarray(draws.integers(0, 256, (20, 30, 4), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = {
        "transparent": (colours, "a.png", {}),
        "palette": (colours.convert("RGB").quantize(16), "a.png", {"transparency": 3}),
        "turned": (colours.convert("RGB"), "a.jpg", {"exif": turned}),
        "deep": (Image.fromarray(draws.integers(0, 65536, (20, 30)).astype(np.uint16)), "a.png", {}),
        "inks": (colours.convert("CMYK"), "a.jpg", {}),
    }
    picture, name, options = kinds[kind]
    picture.save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as opened:
        found = open_any(opened)[0].pixels(0)
    assert np.array_equal(found, open_any(tmp_path / name)[0].pixels(0))


def test_what_is_no_image_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="images of type int"):
        open_any(3)
    with pytest.raises(ShapeError, match=r"shape \(0, 5, 3\)"):
        open_any(np.zeros((0, 5, 3), np.uint8))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    with Image.open(tmp_path / "a.jpg") as opened, pytest.raises(DecodeError, match="image 0: the picture is damaged"):
        open_any(opened)
    assert [len(part) for part in open_any(open_data("digits"))] == [len(p) for p in open_data("digits").parts.values()]
