"""Noisy Student's labels: thresholded, balanced, soft or hard; and a student that learns from them."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.objectives import TINY
from vitrail.errors import ConfigError, DataError, WeightsError
from vitrail.images.sources import Splits, open_data
from vitrail.objectives.classify import Classify
from vitrail.study.cells import Row, open_labelled
from vitrail.study.label_questions import SelfTrain
from vitrail.study.noisy_student import Rounds, answer, label_by_teacher
from vitrail.study.pseudo_labels import PseudoLabels, pseudo_label
from vitrail.training import loop
from vitrail.weights.bundle import load

pytestmark = pytest.mark.oracle

PROBABILITIES = torch.tensor([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.2, 0.7, 0.1], [0.35, 0.33, 0.32], [0.7, 0.2, 0.1]])
LOGITS = PROBABILITIES.clamp(min=1e-9).log()


def test_the_unsure_are_left_out_and_classes_balanced_by_the_surest_and_by_copies() -> None:
    rows, targets = pseudo_label(LOGITS, PseudoLabels(threshold=0.5, per_class=2))
    assert rows.tolist() == [0, 4, 2, 2]  # the two surest of the first class, the only one of the second twice
    assert torch.allclose(targets, PROBABILITIES[rows], atol=1e-6)
    rows, targets = pseudo_label(LOGITS, PseudoLabels(threshold=0.3, per_class=None, soft=False))
    assert rows.tolist() == [0, 4, 1, 3, 2] and targets.argmax(1).tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(ConfigError, match=r"sure of none of 5 images \(the most: 0.90\)"):
        pseudo_label(LOGITS, PseudoLabels(threshold=0.95))


def test_a_student_learns_from_what_its_teacher_labelled(tmp_path: Path) -> None:
    splits = open_data("digits")
    few, rest = splits.train.subset(np.arange(200)), splits.train.subset(np.arange(200, len(splits.train)))
    unlabelled = dataclasses.replace(rest, labels=np.full(len(rest), -1, np.int64))
    run = dataclasses.replace(TINY, objective=Classify(), length="8 steps", evaluate_every="8 steps")
    how = PseudoLabels(threshold=0.0, per_class=50)
    rounds = Rounds(run, Splits(few, splits.test, "test"), unlabelled, tmp_path, how)
    rows = [row for name in ("teacher", "student-1") for row in rounds.train(name)]
    assert [row["taught by"] for row in rows] == ["labels", rows[1]["taught by"]]
    taught = label_by_teacher(tmp_path / "teacher", few, unlabelled, how)
    assert rows[1]["images"] == len(taught) and rows[1]["taught by"].endswith("unlabelled images got a label")
    assert taught.labels.shape == (len(taught), 10) and np.allclose(taught.labels.sum(1), 1, atol=1e-5)
    assert (taught.labels[:200].argmax(1) == few.labels).all()
    guessed = taught[len(taught) - 1]
    assert (guessed.content == rest[list(rest.keys).index(guessed.key)].content).all()


def test_a_teacher_that_is_named_teaches_and_is_not_trained(tmp_path: Path) -> None:
    splits = open_data("digits")
    few = splits.train.subset(np.arange(200))
    run = dataclasses.replace(TINY, objective=Classify(), length="8 steps", evaluate_every="8 steps")
    parts = Splits(few, splits.test, "test")
    trained = Rounds(run, parts, few, tmp_path / "own").train("teacher")
    how = PseudoLabels(threshold=0.0)
    given = Rounds(run, parts, few, tmp_path / "given", how, teacher=str(tmp_path / "own/teacher"))
    (row,) = given.train("teacher")
    assert row["accuracy"] == trained[0]["accuracy"] and row["taught by"].endswith("own/teacher")
    assert not (tmp_path / "given/teacher/run.json").exists()
    ours, theirs = load(tmp_path / "given/teacher").state_dict(), load(tmp_path / "own/teacher").state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert given.train("student-1")[0]["images"] >= len(few)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Noise in two folders of six pictures."""
    draws = np.random.default_rng(0)
    for name in [f"{animal}/{number}.png" for animal in ("cat", "dog") for number in range(6)]:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.fixture
def taught_with(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What each study handed to its rounds; nothing is trained."""
    told: list[tuple[Any, ...]] = []

    def rounds(*words: Any) -> Any:
        told.append(words)
        numbers = {"accuracy": 0.5, "images": 8}
        return SimpleNamespace(train=lambda name: [Row(place={"model": name, "taught by": "labels"}, numbers=numbers)])

    monkeypatch.setattr("vitrail.study.noisy_student.Rounds", rounds)
    return told


def test_no_student_learns_from_held_out_images(
    tmp_path: Path, photos: Path, taught_with: list[tuple[Any, ...]]
) -> None:
    (tmp_path / "more").mkdir()
    for number, path in enumerate(sorted(photos.glob("*/*.png"))):  # copies under other names
        (tmp_path / "more" / f"copy-{number}.png").write_bytes(path.read_bytes())
    answer(SelfTrain(data=str(photos), unlabelled=str(tmp_path / "more"), out=tmp_path / "out", rounds=1))
    _, splits, nameless, *_ = taught_with[0]
    held = len(splits.test)
    assert held and len(nameless) == 12 - held
    assert f"left out, because they or copies of them are held out: {held} of 12 images" in nameless.notes[-1]
    assert not {one.content for one in nameless} & {one.content for one in splits.test}


def test_other_unlabelled_images_are_another_question(
    tmp_path: Path, photos: Path, taught_with: list[tuple[Any, ...]]
) -> None:
    asked = SelfTrain(data=str(photos), unlabelled=str(photos), out=tmp_path / "out", rounds=1)
    answer(asked)
    Image.new("RGB", (9, 9)).save(photos / "cat/new.png")  # unlabelled now; the labelled ones are opened once
    with pytest.raises(ConfigError, match=r"other settings: unlabelled_images '\w+', not"):
        answer(asked)
    open_labelled.cache_clear()
    with pytest.raises(ConfigError, match=r"other settings: images '\w+', not"):
        answer(asked)
    assert len(taught_with) == 3


def test_a_teacher_is_not_scored_on_images_that_it_was_trained_on(tmp_path: Path) -> None:
    run = dataclasses.replace(TINY, objective=Classify(), data="digits", holdout=0.0, length="1 step")
    teacher = loop.train(run, out=tmp_path / "all", quiet=True, report=False).folder
    with pytest.raises(DataError, match="all 359 test images of digits were trained on"):
        answer(SelfTrain(data="digits", labels=0.1, teacher=str(teacher), out=tmp_path / "study"))


def test_a_teacher_that_is_not_there_is_told_first(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is nothing at nowhere"):
        answer(SelfTrain(data="digits", labels=0.1, teacher="nowhere", out=tmp_path))
    assert not list(tmp_path.iterdir())
