"""One pass over images: the same numbers as the model called by hand, every image once, and nothing left changed."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from vitrail.batches.loader import Batch, eval_batches
from vitrail.errors import ConfigError, DataError, NonFiniteError
from vitrail.evaluation.evaluate import evaluate
from vitrail.evaluation.features import extract
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import from_arrays
from vitrail.models.zoo import build

GREY = Preprocess(size=(8, 8), mean=(0.5,), std=(0.25,))
TEN = tuple("0123456789")


def digits(count: int = 100):
    images, labels = load_digits(return_X_y=True)
    pixels = (images[:count].reshape(-1, 8, 8, 1) * 15).astype(np.uint8)
    return from_arrays("digits", pixels, labels[:count].astype(np.int64), TEN)


@pytest.fixture
def model():
    model = build(
        "vit-s/16",
        image=(8, 8),
        patch=(2, 2),
        channels=1,
        classes=10,
        width=32,
        depth=2,
        heads=2,
        mlp_width=64,
        dropout=0.5,
    )
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    return model.eval()


def batches(source, size: int = 32):
    return eval_batches(source, preprocess=GREY, batch_size=size)


def by_hand(model, source):
    images = GREY.normalise(torch.from_numpy(source.in_memory).permute(0, 3, 1, 2))
    with torch.no_grad():
        return model.pool(model.features(images)), model(images)


def test_logits_and_features_are_the_models_own(model):
    source = digits()
    features, logits = by_hand(model, source)
    for what, wanted in (("features", features), ("logits", logits)):
        found = extract(model, batches(source), what=what, preprocess=GREY, precision="fp32")
        torch.testing.assert_close(found.features, wanted, rtol=1e-5, atol=1e-5)
        assert found.keys == tuple(source.keys) and found.labels.tolist() == source.labels.tolist()


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_every_image_is_there_once_at_any_batch_size(model, size):
    source = digits(100)
    found = extract(model, batches(source, size), preprocess=GREY, precision="fp32")
    assert found.features.shape == (100, 10) and len(set(found.keys)) == 100
    torch.testing.assert_close(found.features, by_hand(model, source)[1], rtol=1e-4, atol=1e-5)


def test_features_come_as_float32(model):
    found = extract(model, batches(digits(5)), what="features", preprocess=GREY)
    assert found.features.shape == (5, 32) and found.features.dtype == torch.float32


def test_float_images_are_taken_as_they_are(model):
    images = torch.randn(4, 1, 8, 8)
    batch = Batch(images, torch.zeros(4, dtype=torch.long), tuple("abcd"))
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(extract(model, [batch], precision="fp32").features, expected)


def test_bf16_answers_are_near_and_come_as_float32(model):
    source = digits()
    found = extract(model, batches(source), preprocess=GREY, precision="bf16").features
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, by_hand(model, source)[1], rtol=0.1, atol=0.15)


def test_the_model_is_left_as_it_was(model):
    model.train()
    model.blocks[0].eval()  # a frozen part of a model in training
    modes = [module.training for module in model.modules()]
    grads = torch.is_grad_enabled()
    first = extract(model, batches(digits()), preprocess=GREY).features
    assert [module.training for module in model.modules()] == modes and torch.is_grad_enabled() == grads
    assert torch.equal(first, extract(model, batches(digits()), preprocess=GREY).features), "dropout is off"
    model(torch.randn(2, 1, 8, 8)).sum().backward()


def test_what_is_extracted_can_be_trained_on(model):
    found = extract(model, batches(digits(5)), what="features", preprocess=GREY)
    weight = torch.zeros(32, requires_grad=True)
    (found.features @ weight).sum().backward()
    assert weight.grad is not None


def test_an_interrupted_pass_restores_the_model(model):
    model.train()

    def broken():
        yield from batches(digits(40))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(model, broken(), preprocess=GREY)
    assert model.training and torch.is_grad_enabled()


def test_answers_that_are_not_numbers_name_the_image(model):
    images = torch.zeros(3, 1, 8, 8)
    images[1] = float("nan")
    batch = Batch(images, torch.zeros(3, dtype=torch.long), ("a.png", "b.png", "c.png"))
    with pytest.raises(NonFiniteError, match=r"1 of 3 images are not finite, the first: b\.png"):
        extract(model, [batch])


def test_without_a_record_the_preprocessing_has_to_be_given(model):
    with pytest.raises(ConfigError, match="no record that says how its images are prepared"):
        extract(model, batches(digits(3)))


def test_evaluate_scores_every_image_and_hands_the_logits_on(model, capfd):
    source = digits(100)
    scores, found = evaluate(model, source, preprocess=GREY, batch_size=16, workers=0)
    assert scores.images == 100 and found.features.shape == (100, 10)
    assert scores.top1 == float((found.features.argmax(1).numpy() == source.labels).mean())
    assert "Evaluating" in capfd.readouterr().err


def test_a_watch_takes_the_place_of_the_progress(model, capfd):
    seen = []

    def watch(items):
        for item in items:
            seen.append(len(item))
            yield item

    evaluate(model, digits(40), preprocess=GREY, batch_size=16, workers=0, watch=watch)
    assert seen == [16, 16, 8] and capfd.readouterr().err == ""


def test_a_model_with_a_record_is_asked_by_class_name(model):
    """The same images under classes in another order, and only some of them, give the same answers."""
    source = digits(100)
    model.record = SimpleNamespace(preprocess=GREY, classes=TEN)
    expected, _ = evaluate(model, source, workers=0)
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    shuffled = from_arrays("digits", source.in_memory, np.argsort(order)[source.labels], tuple(TEN[k] for k in order))
    scores, _ = evaluate(model, shuffled, workers=0)
    assert scores.numbers == expected.numbers and (scores.confusion == expected.confusion).all()
    low = source.subset(np.flatnonzero(source.labels < 4))
    few = from_arrays("low", low.in_memory, low.labels, TEN[:4])
    scores, _ = evaluate(model, few, workers=0)
    assert scores.images == len(low) and scores.confusion.shape == (10, 10)


def test_classes_the_model_does_not_know_are_named(model):
    model.record = SimpleNamespace(preprocess=GREY, classes=TEN)
    source = digits(40)
    other = from_arrays("other", source.in_memory, source.labels, ("zero", *TEN[1:9], "nine"))
    with pytest.raises(DataError, match="does not know 2 of the data's 10 classes: zero, nine"):
        evaluate(model, other, workers=0)


def test_unlabelled_images_cannot_be_scored(model):
    source = digits(10)
    labels = source.labels.copy()
    labels[4] = -1
    with pytest.raises(DataError, match="image 4 has the label -1"):
        evaluate(model, from_arrays("some", source.in_memory, labels, TEN), preprocess=GREY, workers=0)


def test_a_source_without_images_says_so(model):
    with pytest.raises(DataError, match="no images to score"):
        evaluate(model, digits(10).subset([]), preprocess=GREY, workers=0)
