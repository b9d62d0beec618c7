"""The audit finds what was planted, says nothing of what was not, and names both sides."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.photographs import dirty_folder, photograph, put, scene
from vitrail.errors import DataError
from vitrail.images.audit import Audit, Group, check, summary
from vitrail.images.audit_headers import Quick
from vitrail.images.sources import open_data


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    return dirty_folder(tmp_path)


def names(groups: tuple[Group, ...]) -> list[set[str]]:
    return [{str(member) for member in group.members} for group in groups]


def test_every_planted_fault_is_found_and_nothing_else(dirty: Path) -> None:
    audit = check(open_data(dirty))
    assert [str(member) for member, _ in audit.unreadable] == ["train: train/class1/cut.png"]
    assert names(audit.leaks) == [
        {"train: train/class0/4.png", "test: test/class0/leak.png"},
        {"train: train/class1/3.png", "test: test/class1/near.jpg"},
    ]
    assert names(audit.conflicts) == [{"train: train/class0/6.png", "train: train/class1/conflict.png"}]
    assert [str(member) for member, _ in audit.misnamed] == ["train: train/class1/named.jpg"]
    found = summary(audit)
    assert (found["images"], found["exact duplicates"], found["near duplicates"]) == (30, 3, 1)
    text = "\n".join(audit.sentences())
    for part in (
        "1 image cannot be read",
        "in training and test data (exact)",
        "with two labels",
        "1 needless copy",
        "PNG",
    ):
        assert part in text


def test_the_quick_part_finds_exact_leaks_and_stops_on_them(dirty: Path) -> None:
    audit = check(open_data(dirty), quick=True)
    assert len(audit.leaks) == 1 and not audit.unreadable
    with pytest.raises(DataError, match=r"1 picture in training and test data.*4\.png.*leak\.png"):
        stop(audit)


def stop(audit: Audit, **options) -> None:
    for error in audit.stops(lambda images: 0, **options):
        raise error


def test_leaks_can_be_allowed_and_a_published_split_is_kept(dirty: Path) -> None:
    splits = open_data(dirty)
    stop(check(splits, quick=True), allow_leaks=True)
    published = check(dataclasses.replace(splits, published=True), quick=True)
    assert len(published.leaks) == 1
    stop(published)


def test_more_unreadable_headers_than_allowed_in_a_part_stop(tmp_path: Path) -> None:
    for k in range(20):
        put(tmp_path / "train" / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(k)))
        put(tmp_path / "test" / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(50 + k)))
    (tmp_path / "train/class0/2.png").write_bytes(b"<!DOCTYPE html><html>")
    (error,) = check(open_data(tmp_path), quick=True).stops(lambda images: 0)
    assert "1 training image cannot be read: train/class0/2.png: a web page" in str(error)
    assert not check(open_data(tmp_path), quick=True).stops(lambda images: images // 20)
    (tmp_path / "test/class1/3.png").write_bytes(b"")
    audit = check(open_data(tmp_path), quick=True)
    training, held_out = audit.stops(lambda images: 0)
    assert "1 held-out image cannot be read: test/class1/3.png: an empty file" in str(held_out)
    assert "--skip-unreadable" in str(held_out) and "train/class0/2.png" in str(training)
    assert not audit.stops(None)


def test_without_time_nothing_is_claimed_and_held_out_images_come_first(dirty: Path) -> None:
    splits = open_data(dirty)
    hurried = check(splits, quick=True, seconds=0)
    assert not hurried.groups and "checked 0 of 30 images in 0 seconds" in next(hurried.sentences())
    quick = Quick({"train": splits.train, "test": splits.test})
    first = [str(quick.member(index)) for index in quick._order().tolist()]
    assert [name.startswith("test: ") for name in first] == [True] * 14 + [False] * 16
    assert first.index("train: train/class0/4.png") < 14 + 4  # of the size of a held-out one


def test_files_that_begin_alike_and_differ_later_are_no_copies(tmp_path: Path) -> None:
    for k in range(8):
        array = np.zeros((80, 80, 1), np.uint8)
        array[-1, -1] = k
        path = tmp_path / f"class{k % 2}" / f"{k}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, array)
    assert not check(open_data(tmp_path), quick=True).groups


def test_a_sound_set_is_sound(tmp_path: Path) -> None:
    for k in range(20):
        put(tmp_path / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(k)))
    audit = check(open_data(tmp_path))
    assert list(audit.sentences()) == [] and not audit.groups
    stop(audit)


def test_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    for k in range(6):
        put(tmp_path / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(k)))
    audit = check(open_data(tmp_path))
    pixels = np.stack([scene(k) for k in range(6)]).reshape(-1, 3) / 255
    assert audit.mean == pytest.approx(pixels.mean(0), abs=1e-3)
    assert audit.std == pytest.approx(pixels.std(0), abs=1e-3)
    assert audit.shapes.tolist() == [[96, 120, 3]] * 6


def test_imbalance_is_said(tmp_path: Path) -> None:
    for k in range(30):
        put(tmp_path / ("many" if k < 28 else "few") / f"{k}.png", Image.fromarray(scene(k)))
    assert any("'many' has 22 training images, 'few' 1" in line for line in check(open_data(tmp_path)).sentences())


def test_a_photograph_saved_again_smaller_is_nearly_the_same(tmp_path: Path) -> None:
    for k in range(8):
        put(tmp_path / "train/a" / f"{k}.png", photograph(k, (160, 120)))
        put(tmp_path / "train/b" / f"{k}.png", Image.fromarray(scene(k)))
    put(tmp_path / "test/a/again.jpg", photograph(5, (160, 120)).resize((90, 70)), "JPEG")
    put(tmp_path / "test/b/other.png", Image.fromarray(scene(99)))
    leaks = check(open_data(tmp_path)).leaks
    assert {"train: train/a/5.png", "test: test/a/again.jpg"} <= set().union(*names(leaks))


def test_digits_have_no_copies_and_are_too_small_for_near_ones() -> None:
    audit = check(open_data("digits"))
    assert not audit.groups and not audit.unreadable and len(audit.mean) == 1


def test_a_mirrored_copy_is_nearly_the_same(tmp_path: Path) -> None:
    for k in range(6):
        put(tmp_path / "train/a" / f"{k}.png", Image.fromarray(scene(k)))
    mirrored = Image.fromarray(scene(3)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    put(tmp_path / "test/a/mirrored.jpg", mirrored, "JPEG")
    put(tmp_path / "test/a/other.png", Image.fromarray(scene(99)))
    assert names(check(open_data(tmp_path)).leaks) == [{"train: train/a/3.png", "test: test/a/mirrored.jpg"}]


@pytest.mark.parametrize("kind", ["cropped", "mirrored", "brighter", "half"])
def test_copies_that_were_changed_are_found_and_no_others(tmp_path: Path, kind: str) -> None:
    """Cropped by 2 to 5 % at each edge, mirrored besides, a tenth brighter, or half as large as JPEG."""
    draws = np.random.default_rng(0)
    for k in range(30):
        put(tmp_path / "train/a" / f"{k}.png", Image.fromarray(scene(k)))
        put(tmp_path / "test/a" / f"{k}.png", Image.fromarray(scene(100 + k)))
    for k in range(10):
        image = Image.fromarray(scene(k))
        if kind in ("cropped", "mirrored"):
            left, top, right, bottom = draws.uniform(0.02, 0.05, 4) * (*image.size, *image.size)
            image = image.crop((int(left), int(top), int(image.width - right), int(image.height - bottom)))
        if kind == "mirrored":
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if kind == "brighter":
            image = image.point(lambda level: min(255, int(1.1 * level)))
        if kind == "half":
            image = image.resize((60, 48))
        put(tmp_path / "test/a" / f"copy{k}.jpg", image, "JPEG")
    found = names(check(open_data(tmp_path)).leaks)
    right = [{f"train: train/a/{k}.png", f"test: test/a/copy{k}.jpg"} for k in range(10)]
    assert all(group in right for group in found)
    assert len(found) >= 9
