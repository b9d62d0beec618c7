"""Fine-tuning starts from logistic regression on frozen features; cheap answers stand beside the result."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.runs import TINY, assert_same_run, no_report, stop_after
from vitrail.errors import ConfigError, Preempted
from vitrail.evaluation.feature_set import labelled
from vitrail.evaluation.logistic import cross_validated
from vitrail.images.transforms import Augment
from vitrail.objectives.probe import Probe
from vitrail.training import loop
from vitrail.training.head_start import head_start, looks_alike_mirrored
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import prepare
from vitrail.weights import bundle


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = dataclasses.replace(TINY, length="60 steps", evaluate_every="60 steps", save_every="60 steps")
    return loop.train(run, out=tmp_path_factory.mktemp("start") / "run", quiet=True).folder


@pytest.fixture(scope="module")
def tuned(trained: Path) -> object:
    return dataclasses.replace(TINY, weights=str(trained), head="logistic")


def test_the_head_answers_as_logistic_regression_on_the_frozen_features(tuned) -> None:
    """scikit-learn, with the C that was chosen, finds the same weights.

    Our fit ends where a step lowers the loss by less than 1e-9: probabilities may then be 2e-3 from the end.
    """
    sklearn = pytest.importorskip("sklearn.linear_model")
    setup = prepare(tuned)
    start = head_start(setup)
    assert "cross-validation" in start.notes[0]
    images = torch.from_numpy(setup.splits.train.in_memory.transpose(0, 3, 1, 2).copy())
    model = setup.model.eval()
    with torch.no_grad():
        pixels = tuned.preprocess.normalise(images)
        features = model.pool(model.features(pixels))
        answers = model(pixels)
    fit, _ = cross_validated(labelled(features, setup.splits.train.labels, 10), seed=tuned.seed)
    theirs = sklearn.LogisticRegression(C=fit.c, tol=1e-8, max_iter=5000).fit(
        features.double().numpy(), setup.splits.train.labels
    )
    assert np.abs(theirs.predict_proba(features.double().numpy()) - answers.softmax(1).numpy()).max() < 5e-3


def test_the_chosen_c_is_that_of_the_smallest_loss_on_images_left_out() -> None:
    """On noise the strongest regularisation wins, on well separated classes a weak one."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    noise = torch.randn(90, 8, generator=random)
    clear = noise + 8 * torch.eye(8)[labels]
    weak, strong = (cross_validated(labelled(features, labels, 3)) for features in (clear, noise))
    assert weak[0].c * clear.var() > 50 * strong[0].c * noise.var()
    assert weak[1] == 1.0
    assert strong[1] < 0.6


def test_resumed_is_the_same_run(tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loop.train(tuned, out=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched:
        stop_after(5, patched)
        with pytest.raises(Preempted):
            loop.train(tuned, out=tmp_path / "run", quiet=True)
    resumed = loop.train(None, out=tmp_path / "run", resume=True, quiet=True)
    assert_same_run(whole.folder, resumed.folder)
    assert resumed.baselines == whole.baselines == json.loads((whole.folder / "baselines.json").read_text())
    assert set(whole.baselines) == {
        "majority class", "nearest neighbour, raw pixels", "kNN on frozen features", "logistic on frozen features",
    }  # fmt: skip


def test_without_weights_the_baselines_are_majority_and_pixels() -> None:
    """The neighbour against an exhaustive search in numpy."""
    setup = prepare(TINY)
    found = head_start(setup).baselines
    train, test = (
        source.in_memory.reshape(len(source), -1).astype(np.float64)
        for source in (setup.splits.train, setup.splits.test)
    )
    train, test = train - train.mean(0), test - train.mean(0)
    cosine = (test @ train.T) / np.linalg.norm(train, axis=1)
    labels, truth = setup.splits.train.labels, setup.splits.test.labels
    assert found == {
        "majority class": pytest.approx((truth == np.bincount(labels).argmax()).mean()),
        "nearest neighbour, raw pixels": pytest.approx((labels[cosine.argmax(1)] == truth).mean()),
    }


def test_a_logistic_head_needs_weights() -> None:
    with pytest.raises(ConfigError, match="without weights"):
        dataclasses.replace(TINY, head="logistic")


def test_a_run_of_no_steps_is_its_head(tuned, tmp_path: Path) -> None:
    """`probe --save`: the weights stay, the head is fitted, and the bundle answers as the baseline did."""
    result = loop.train(dataclasses.replace(tuned, length="0 steps", ema=None), out=tmp_path / "head", quiet=True)
    assert result.scores.top1 == pytest.approx(result.baselines["logistic on frozen features"])
    before, after = (bundle.load(path) for path in (tuned.weights, result.folder))
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]) or name.startswith("head.")
    with pytest.raises(ConfigError, match="length = '0 steps'"):
        dataclasses.replace(TINY, length="0 steps")


def test_an_epoch_is_an_epoch_although_the_batch_is_larger_than_the_set() -> None:
    setup = prepare(dataclasses.replace(TINY, batch_size=100_000, length="3 epochs"))
    assert setup.total_steps == 3
    assert setup.run.batch_size == len(setup.splits.train)


@pytest.mark.parametrize(("flips", "alike"), [("letters", False), ("symmetric", True)])
def test_flips_are_left_out_where_mirrored_images_are_another_class(flips: str, alike: bool) -> None:
    """Bars on the left and bars on the right are two classes; bars above and below are two that flips leave alone."""
    random = torch.Generator().manual_seed(0)
    images, labels = 0.3 * torch.randn(80, 8, 8, 3, generator=random), torch.arange(80) % 2
    for image, label in zip(images, labels.tolist(), strict=True):
        image[(slice(None), -2 * label) if flips == "letters" else (-2 * label, slice(None))] += 2
    assert looks_alike_mirrored(labelled(images.flatten(1), labels, 2), 3) is alike


def test_digits_are_not_flipped(tmp_path: Path) -> None:
    run = dataclasses.replace(TINY, augment=Augment(flip=True), check_flips=True, length="1 steps")
    result = loop.train(run, out=tmp_path / "run", quiet=True)
    assert not RunFolder.read(result.folder).augment.flip


def test_a_probe_has_baselines_and_takes_no_logistic_head(tuned) -> None:
    """The learner around a frozen backbone has no features of its own."""
    found = head_start(prepare(dataclasses.replace(tuned, objective=Probe(), head="zero"))).baselines
    assert found["logistic on frozen features"] > found["majority class"]
    with pytest.raises(ConfigError, match="no linear head is trained"):
        head_start(prepare(dataclasses.replace(tuned, objective=Probe())))


def test_validation_images_choose_the_fitted_head_where_training_makes_it_worse(tuned, tmp_path: Path) -> None:
    """At a rate that destroys the weights best/ is the frozen model with its logistic head; no test image chose it."""
    worse = dataclasses.replace(tuned.optim, lr=5.0, clip=None, warmup="0 steps")
    run = dataclasses.replace(tuned, optim=worse, patience=1, ema=None, length="2 epochs", evaluate_every="1 epoch")
    result = loop.train(run, out=tmp_path / "run", quiet=True)
    assert result.best is not None and result.best.epoch == 0 and result.best.validation
    assert "before the first step, with the fitted head" in str(result.best)
    assert result.scores.top1 == pytest.approx(result.baselines["logistic on frozen features"])
    kept = bundle.load(result.folder)
    start = head_start(prepare(run)).setup.model
    assert torch.equal(kept.head.weight, start.head.weight)


def test_a_run_killed_before_its_first_checkpoint_has_its_head_again(tuned, tmp_path: Path) -> None:
    """Only run.json is there: the resumed run fits the head again, to the same bits."""
    with no_report():
        whole = loop.train(tuned, out=tmp_path / "whole", quiet=True)
        (tmp_path / "killed").mkdir()
        shutil.copy(tmp_path / "whole/run.json", tmp_path / "killed")
        again = loop.train(None, out=tmp_path / "killed", resume=True, quiet=True)
    assert_same_run(whole.folder, again.folder)
    assert again.baselines == whole.baselines
