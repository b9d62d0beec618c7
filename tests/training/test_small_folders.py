"""Options for small folders: early stopping, all images, balanced classes, unreadable files."""

import dataclasses
import json
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import vitrail
from tests.support.runs import TINY, assert_same_run, log, no_report, stop_after
from vitrail.api.folds import train_folds
from vitrail.batches.batch import Batch
from vitrail.cli import main
from vitrail.errors import ConfigError, DataError, Preempted, VitrailError
from vitrail.images.heldout import add_validation, draw_folds, repeat_rare
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.objectives.classify import Classify, balanced_weights
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.reports.journal import Journal
from vitrail.scores.outcome import Headline
from vitrail.training import loop
from vitrail.training.outcome import judge, weights_facts, write_report
from vitrail.training.run import Run
from vitrail.training.run_folder import RunFolder, next_free
from vitrail.training.setup import Setup, prepare
from vitrail.training.unseen import count_of, seen_by
from vitrail.training.verify import verify_run
from vitrail.weights.bundle import load

pytestmark = pytest.mark.flow

SMALL = dataclasses.replace(
    TINY, preprocess=Preprocess(size=(8, 8)), batch_size=16, length="4 epochs", evaluate_every="1 epoch",
    save_every="1 epoch", ema=None,
)  # fmt: skip


SHORT = {"model.width": 32, "model.depth": 1}


def write(root: Path, **counts: int) -> Path:
    """A folder of PNG files of noise, brighter from class to class."""
    rng = np.random.default_rng(0)
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.normal(60 + 60 * number, 20, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index:03d}.png")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write(tmp_path / "photos", dark=60, light=20)


def train(run: Run, out: Path, **options):
    with no_report():
        return loop.train(run, out=out, quiet=True, **options)


# --- early stopping ---------------------------------------------------------------------------------------------------


def test_patience_ends_a_run_that_no_longer_gets_better(photos: Path, tmp_path: Path) -> None:
    """At a rate of 0 no epoch is better than the first: with a patience of 2 it ends after the third of twenty."""
    still = dataclasses.replace(SMALL.optim, lr=0.0)
    run = dataclasses.replace(SMALL, data=str(photos), length="20 epochs", optim=still, patience=2)
    result = train(run, tmp_path / "run")
    rows = [row for row in log(tmp_path / "run") if "held_out_top1" in row]
    assert [round(row["epoch"]) for row in rows] == [1, 2, 3]
    assert result.best is not None and round(result.best.epoch) == 1 and result.best.validation
    again = train(None, tmp_path / "run", resume=True)
    assert again.scores.numbers == result.scores.numbers and len(log(tmp_path / "run")) == len(log(tmp_path / "run"))


def test_a_run_with_patience_resumes_to_the_same_bits(photos: Path, tmp_path: Path, monkeypatch) -> None:
    run = dataclasses.replace(SMALL, data=str(photos), patience=1)
    train(run, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(6, patched)
        with pytest.raises(Preempted):
            train(run, tmp_path / "stopped")
    train(None, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    assert verify_run(tmp_path / "whole").wrong_at is None


def test_validation_images_are_neither_trained_on_nor_tested_on(photos: Path) -> None:
    splits = open_data(photos)
    parts = add_validation(splits, 0.25)
    assert parts.val is not None
    train_, val, test = (set(source.keys) for source in (parts.train, parts.val, parts.test))
    assert train_ | val == set(splits.train.keys) and not train_ & val and test == set(splits.test.keys)
    assert parts.val.counts.tolist() == [12, 4]


def test_patience_without_a_score_is_refused(tmp_path: Path) -> None:
    run = dataclasses.replace(SMALL, data="digits", patience=3, objective=Reconstruct())
    with pytest.raises(ConfigError, match="patience without labels"):
        train(run, tmp_path / "run")


# --- all images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [None, 5])
def test_without_held_out_images_all_are_trained_on_and_nothing_is_scored(
    patience: float | None, photos: Path, tmp_path: Path
) -> None:
    run = dataclasses.replace(SMALL, data=str(photos), holdout=0.0, length="1 epoch", patience=patience)
    result = train(run, tmp_path / "run")
    trained_on = len(result.setup.splits.train) + len(result.setup.splits.val or ())
    assert trained_on == 80 and not result.scores.images and not result.baselines
    assert str(result.scores) == "none: every image was trained on"
    assert load(tmp_path / "run").record.classes == ("dark", "light")
    folder = RunFolder(tmp_path / "run", result.setup.run)
    judged = judge(result.setup, result.setup.model, result.setup.splits.test)
    write_report(result.setup, result.setup.model, judged, folder, Journal(folder.metrics))
    assert "none: every image was trained on" in folder.report.read_text("utf-8")


# --- balanced classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_class_weights_are_those_of_torch(loss: str) -> None:
    random = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(64, 5, generator=random), torch.randint(5, (64,), generator=random)
    weights = torch.rand(5, generator=random)
    found = Classify(loss=loss, class_weights=tuple(weights.tolist())).loss_of(logits, targets).value  # pyrefly: ignore
    if loss == "softmax":
        wanted = F.cross_entropy(logits, targets, weight=weights, reduction="none").mean()
    else:
        each = F.binary_cross_entropy_with_logits(logits, F.one_hot(targets, 5).float(), reduction="none").sum(1)
        wanted = (each * weights[targets]).mean()
    assert torch.allclose(found, wanted, atol=1e-6)


def test_of_several_labels_the_weight_is_their_mean_and_without_a_label_one() -> None:
    logits, targets = torch.zeros(4, 2), torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.5, 0.0]])
    plain, weighed = Classify(loss="sigmoid"), Classify(loss="sigmoid", class_weights=(3.0, 1.0))
    each = [
        weighed.loss_of(logits[[k]], targets[[k]]).value / plain.loss_of(logits[[k]], targets[[k]]).value
        for k in range(4)
    ]
    assert [float(weight) for weight in each] == pytest.approx([3, 2, 1, 2])


def test_balanced_weights_give_every_class_the_same_sum() -> None:
    counts = np.array([60, 20, 0, 5])
    weights = np.array(balanced_weights(counts))
    assert np.allclose((weights * counts)[counts > 0], counts.sum() / 3)


def test_balanced_loss_is_the_gradient_of_weighted_cross_entropy(photos: Path) -> None:
    """Whatever the micro-batch."""
    gradients, images = [], torch.rand(16, 3, 8, 8)
    for micro in (None, 4):
        hardware = dataclasses.replace(SMALL.hardware, micro_batch=micro)
        plain = dataclasses.replace(SMALL, data=str(photos), balance="loss", hardware=hardware, batch_size=16)
        setup = prepare(plain)
        assert setup.run.objective.class_weights == pytest.approx([64 / (2 * 48), 64 / (2 * 16)])  # pyrefly: ignore
        batch = Batch(images, torch.arange(16) % 2, ("",) * 16)
        setup.model.eval()
        for part in batch.split(micro or 16):
            (setup.run.objective(setup.model, part).value * len(part) / 16).backward()
        gradients.append([parameter.grad.clone() for parameter in setup.model.parameters()])  # pyrefly: ignore
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*gradients, strict=True))


def test_balanced_sampling_shows_every_class_as_often(photos: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(SMALL, data=str(photos), balance="sampling", batch_size=48, length="1 epoch")
    setup = prepare(run)
    assert setup.total_steps == 2
    batches = list(setup.batches(0))
    assert torch.cat([batch.targets for batch in batches]).bincount().tolist() == [48, 48]
    keys = [key for batch in batches for key in batch.keys]
    assert set(keys) == set(setup.splits.train.keys)
    assert {keys.count(key) for key in keys if key.startswith("light")} == {3}
    train(run, tmp_path / "run")
    assert verify_run(tmp_path / "run").wrong_at is None


def test_repeated_images_differ_by_one_at_most() -> None:
    digits = open_data("digits").train
    uneven = digits.subset(np.r_[np.flatnonzero(digits.labels == 0)[:7], np.flatnonzero(digits.labels == 1)[:3]])
    keys = list(repeat_rare(uneven).keys)
    assert len(keys) == 14 and sorted(keys.count(key) for key in set(keys)) == [1] * 7 + [2, 2, 3]


def test_objectives_that_cannot_weigh_classes_say_so(photos: Path) -> None:
    run = dataclasses.replace(SMALL, data=str(photos), balance="loss", objective=Reconstruct())
    with pytest.raises(ConfigError, match="does not weigh classes"):
        prepare(run)


# --- unreadable files -------------------------------------------------------------------------------------------------


def damage(root: Path, count: int) -> list[str]:
    """Cuts so many files of each class short."""
    names = [f"{folder}/{index:03d}.png" for folder in ("dark", "light") for index in range(count)]
    for name in names:
        (root / name).write_bytes((root / name).read_bytes()[:60])
    return names


def test_one_file_of_eighty_may_be_unreadable(photos: Path, tmp_path: Path) -> None:
    damage(photos, 1)
    result = train(dataclasses.replace(SMALL, data=str(photos), length="1 epoch"), tmp_path / "run")
    named = [json.loads(line)["key"] for line in (tmp_path / "run/bad_samples.jsonl").read_text().splitlines()]
    assert sorted(named) == ["dark/000.png", "light/000.png"]
    held = set(result.setup.splits.test.keys)
    assert result.scores.images == len(held) - len(held & set(named))


def test_many_unreadable_files_stop_a_run_unless_they_are_skipped(photos: Path, tmp_path: Path) -> None:
    names = damage(photos, 8)
    run = dataclasses.replace(SMALL, data=str(photos), length="1 epoch")
    with pytest.raises(DataError, match=r"cannot be read.*--skip-unreadable"):
        train(run, tmp_path / "stops", check_images=False)
    result = train(dataclasses.replace(run, skip_unreadable=True), tmp_path / "run")
    held = set(result.setup.splits.test.keys)
    assert result.scores.images == len(held - set(names)) < len(held)
    assert len((tmp_path / "run/bad_samples.jsonl").read_text().splitlines()) == 16
    assert verify_run(tmp_path / "run").wrong_at is None


def test_folders_below_class_folders_are_said(tmp_path: Path) -> None:
    for name in ("bird/owl", "bird/crow", "cat"):
        write(tmp_path / name, **{"x": 2} if name == "cat" else {"a": 2})
    notes = open_data(tmp_path, holdout=0).train.notes
    assert "3 subfolders were merged into 2 classes; --classes leaf makes each a class" in notes


# --- leaf folders -----------------------------------------------------------------------------------------------------


def test_each_folder_that_holds_images_is_a_class(tmp_path: Path) -> None:
    """Folders of one name are one class, wherever they are; images beside folders belong to the folder around them."""
    for name in ("day1/owl", "day1/crow", "day2/owl", "cat"):
        write(tmp_path / name, a=2, b=1) if name == "cat" else write(tmp_path / "made", **{name: 2})
    for name in ("day1", "day2"):
        (tmp_path / "made" / name).rename(tmp_path / name)
    (tmp_path / "made").rmdir()
    whole = open_data(f"{tmp_path}/**", holdout=0).train
    assert whole.classes == ("a", "b", "crow", "owl") and whole.counts.tolist() == [2, 1, 2, 4]
    assert {Path(key).parent.name for key in whole.keys} == set(whole.classes)
    assert not any("merged" in note for note in whole.notes)
    assert open_data(tmp_path, holdout=0).train.classes == ("cat", "day1", "day2")


def test_a_run_on_leaf_folders_resumes_and_is_evaluated_from_anywhere(tmp_path: Path, monkeypatch, capsys) -> None:
    write(tmp_path / "photos", **{"x/dark": 9, "y/light": 9})
    monkeypatch.chdir(tmp_path)
    found = vitrail.train(
        "photos", classes="leaf", quiet=True, epochs=1, out="r", **{"model.width": 32, "model.depth": 1}
    )
    assert found.scores.classes == ("dark", "light")
    assert found.run.data == f"{tmp_path}/photos/**"
    monkeypatch.chdir("/")
    scores = vitrail.evaluate(tmp_path / "r", found.run.data)
    assert scores.images == found.scores.images == 4
    again = vitrail.train(like=tmp_path / "r", classes="leaf", quiet=True, epochs=1, out=tmp_path / "again")
    assert again.run.data == found.run.data and again.scores.classes == ("dark", "light")


def test_the_classes_of_another_run_without_data_are_chosen_too(tmp_path: Path) -> None:
    write(tmp_path / "photos", **{"x/dark": 9, "y/light": 9, "y/grey": 9})
    tops = train(dataclasses.replace(SMALL, data=f"{tmp_path}/photos", length="1 epoch"), tmp_path / "r")
    assert tops.setup.classes == ("x", "y")
    leaves = vitrail.train(like=tmp_path / "r", classes="leaf", quiet=True, out=tmp_path / "leaves")
    assert leaves.scores.classes == ("dark", "grey", "light")
    with pytest.raises(VitrailError, match="images changed"):
        vitrail.train(resume=tmp_path / "r", classes="leaf", epochs=2, override=True, quiet=True)
    (tmp_path / "photos/x/dark/000.png").unlink()
    with pytest.raises(DataError, match="are not those that"):
        verify_run(tmp_path / "r")


def test_images_that_are_open_are_held_out_as_asked(photos: Path, tmp_path: Path) -> None:
    found = vitrail.train(open_data(photos), holdout=0, epochs=1, quiet=True, out=tmp_path / "r", **SHORT)
    assert not found.scores.images and len(found.results[0].setup.splits.train) == 80


# --- k-fold cross-validation ------------------------------------------------------------------------------------------


def test_every_image_is_held_out_once_and_classes_and_copies_stay_together(photos: Path) -> None:
    copy = (photos / "dark/000.png").read_bytes()
    for name in ("dark/x.png", "dark/y.png"):
        (photos / name).write_bytes(copy)
    (photos / "lone").mkdir()
    (photos / "light/000.png").rename(photos / "lone/a.png")
    parts = draw_folds(open_data(photos, holdout=0.3), 5)
    held = [key for part in parts for key in part.test.keys]
    assert sorted(held) == sorted(set(held)) and len(held) == 62 + 19
    for part in parts:
        assert not set(part.train.keys) & set(part.test.keys)
        assert len(part.train) + len(part.test) == 82 and "lone/a.png" in part.train.keys
        assert part.test.counts[0] in range(9, 16) and part.test.counts[1] in (3, 4)
        copies = {"dark/000.png", "dark/x.png", "dark/y.png"} & set(part.test.keys)
        assert len(copies) in (0, 3)
    again = draw_folds(open_data(photos, holdout=0.1), 5)
    assert [part.test.keys for part in again] == [part.test.keys for part in parts]


def test_folds_score_every_image_with_the_model_that_did_not_see_it(photos: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(SMALL, data=str(photos), length="1 epoch", evaluate_every="1 epoch")
    with no_report():
        found = train_folds(run, open_data(photos), 3, tmp_path / "k", quiet=True)
    assert found.scores.images == 80 and len(found.results) == 3
    right = sum(result.scores.top1 * result.scores.images for result in found.results)
    assert found.scores.top1 * 80 == pytest.approx(right)
    assert set(found.source.keys) == set(open_data(photos, holdout=0).train.keys)
    for number, result in enumerate(found.results, 1):
        seen = seen_by(result.folder)
        assert not count_of(result.setup.splits.test, seen).any()
        assert RunFolder.read(tmp_path / f"k/fold-{number}").fold == (number, 3)
    assert "Folds" in (tmp_path / "k/report.html").read_text()
    assert found.baselines.keys() == found.results[0].baselines.keys()


def test_a_fold_resumes_on_its_own_images(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = dataclasses.replace(SMALL, data=str(photos), fold=(2, 4))
    whole = train(run, tmp_path / "whole")
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        with pytest.raises(Preempted):
            train(run, tmp_path / "run")
    with no_report():
        resumed = loop.train(None, out=tmp_path / "run", resume=True, quiet=True)
    assert_same_run(whole.folder, resumed.folder)
    assert whole.setup.splits.test.keys == draw_folds(open_data(photos), 4)[1].test.keys


def test_stopped_folds_go_on_as_one_command(photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """A signal in the second fold; `--resume` of the whole folder ends it to the same bits, and trains the third."""
    run = dataclasses.replace(SMALL, data=str(photos), length="1 epoch")
    learn, folder = loop.learn, tmp_path / "k"

    def stop(setup, state, *rest) -> None:
        learn(setup, state, *rest)
        if setup.run.fold == (2, 3) and state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with no_report():
        whole = train_folds(run, open_data(photos), 3, tmp_path / "whole", quiet=True)
        with monkeypatch.context() as patched, pytest.raises(Preempted, match=re.escape(f"resume='{folder}'")):
            patched.setattr(loop, "learn", stop)
            train_folds(run, open_data(photos), 3, folder, quiet=True)
        assert not (folder / "fold-3").exists()
        assert main(["train", "--resume", str(folder), "--quiet", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["top1"] == whole.scores.top1 and len(found["folds"]) == 3
    for result in whole.results:
        assert_same_run(result.folder, folder / result.folder.name)
    with pytest.raises(ConfigError, match="folds go on with their own images and settings"):
        vitrail.train(resume=folder, epochs=2)
    with pytest.raises(ConfigError, match="already holds a run"):
        train_folds(run, open_data(photos), 3, folder)


def test_a_fold_without_images_is_refused_before_training(tmp_path: Path) -> None:
    write(tmp_path / "photos", dark=3, light=3)
    for path in (tmp_path / "photos").rglob("00[12].png"):
        path.write_bytes(path.with_name("000.png").read_bytes())
    with pytest.raises(DataError, match="a fold would hold out no image"):
        draw_folds(open_data(tmp_path / "photos", holdout=0), 3)


def test_folds_of_images_that_the_weights_know_say_so(photos: Path, tmp_path: Path, capsys) -> None:
    first = train(dataclasses.replace(SMALL, data=str(photos), holdout=0.0, length="1 epoch"), tmp_path / "first")
    words = [
        "train",
        str(photos),
        "--weights",
        str(first.folder),
        "--epochs",
        "1",
        "--quiet",
        "--preprocess.size",
        "8",
        "8",
    ]
    assert main([*words, "--folds", "2", "--out", str(tmp_path / "k")]) == 0
    said = capsys.readouterr().out
    assert "80 of 80 images were trained on by the starting weights" in said and "not trained on it" not in said
    assert "80 of 80 images" in (tmp_path / "k/report.html").read_text()
    assert main([*words, "--out", str(tmp_path / "one"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trained_on"] == 16
    page = tmp_path / "page.html"
    assert main(["evaluate", str(tmp_path / "one"), str(photos), "--split", "test", "--json", "--html", str(page)]) == 0
    assert json.loads(capsys.readouterr().out)["trained_on"] == 16
    assert "16 of 16 images were trained on" in page.read_text()
    assert main(["predict", str(tmp_path / "k"), str(photos / "dark/000.png")]) != 0
    assert "name one of them" in capsys.readouterr().err
    assert main(["run", "verify", str(tmp_path / "k")]) != 0
    assert "name one of them" in capsys.readouterr().err


def test_data_with_its_own_split_has_no_folds(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="split of their own"):
        draw_folds(dataclasses.replace(open_data(photos), drawn=False), 5)
    with pytest.raises(ConfigError, match="2 or more"):
        draw_folds(open_data(photos), 81)
    with pytest.raises(ConfigError, match="folds = 5 with seeds = 2"):
        vitrail.train(photos, folds=5, seeds=2, quiet=True, out=tmp_path / "x")


@pytest.mark.parametrize("per_epoch", [1, 57 / 7, 8.5, 29.4])
def test_epochs_that_were_asked_for_are_whole_numbers(per_epoch: float) -> None:
    """57 images in batches of 7: 98 steps are 12 epochs, though 8 1/7 steps an epoch make them 12.04."""
    setup: Any = SimpleNamespace(steps_per_epoch=per_epoch)
    for epochs in range(1, 150):
        assert Setup.epochs(setup, round(epochs * per_epoch)) == epochs
    assert Setup.epochs(setup, 0) == 0
    assert Setup.epochs(setup, 486) in (486, 59.7, 57.2, 16.5)
    if per_epoch > 8:
        assert Setup.epochs(setup, 4) == 4 / per_epoch


def test_a_run_is_named_after_its_folder_in_any_script(tmp_path: Path) -> None:
    assert next_free(tmp_path, Run(data="日本 語/写真")).name == "写真-1"
    assert next_free(tmp_path, Run(data="été/Mes photos_2")).name == "mes-photos-2-1"


@pytest.mark.parametrize(("higher", "epoch"), [(True, 2), (False, 1)])
def test_the_page_names_the_epoch_that_best_is_of(higher: bool, epoch: int) -> None:
    """best/ is kept until a score is better: of equal ones the first."""
    rows = [{"step": step, "held_out_top1": value} for step, value in ((10, 0.4), (20, 0.9), (30, 0.4), (40, 0.9))]
    setup: Any = SimpleNamespace(splits=SimpleNamespace(val=None), epochs=lambda step: step // 10)
    scores: Any = SimpleNamespace(
        headline_key="top1", chooses_best=True, headline=Headline("accuracy", 0.9, higher_is_better=higher)
    )
    assert f"at epoch {epoch}," in dict(weights_facts(setup, rows, scores))["best/"]
