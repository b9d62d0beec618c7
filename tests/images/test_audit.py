"""The audit finds what was planted, says nothing of what was not, and names both sides."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.photographs import encoded, photograph
from vitrail.errors import DataError
from vitrail.images.audit import Group, check, summary
from vitrail.images.sources import open_data


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    """Twelve sound pictures in each part, and one of every fault."""
    for part, first in (("train", 0), ("test", 50)):
        for k in range(12):
            put(tmp_path / part / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(first + k)))
    (tmp_path / "test/class0/leak.png").write_bytes((tmp_path / "train/class0/4.png").read_bytes())
    (tmp_path / "train/class1/conflict.png").write_bytes((tmp_path / "train/class0/6.png").read_bytes())
    (tmp_path / "train/class0/copy.png").write_bytes((tmp_path / "train/class0/8.png").read_bytes())
    put(tmp_path / "test/class1/near.jpg", Image.fromarray(scene(3)).resize((100, 80)), "JPEG")
    (tmp_path / "train/class1/cut.png").write_bytes((tmp_path / "train/class1/1.png").read_bytes()[:500])
    put(tmp_path / "train/class1/named.jpg", Image.fromarray(scene(40)), "PNG")
    return tmp_path


def scene(seed: int) -> np.ndarray:
    """A picture that has nothing in common with that of another seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((120, 96), Image.Resampling.BICUBIC))


def put(path: Path, image: Image.Image, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image, kind))


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
        "to learn from and to test on (exact)",
        "with two labels",
        "1 needless copy",
        "PNG",
    ):
        assert part in text


def test_the_quick_part_finds_exact_leaks_and_stops_on_them(dirty: Path) -> None:
    audit = check(open_data(dirty), quick=True)
    assert len(audit.leaks) == 1 and not audit.unreadable
    with pytest.raises(DataError, match=r"1 picture to learn from and to test on.*4\.png.*leak\.png"):
        audit.stop_on_leaks()


def test_a_sound_set_is_sound(tmp_path: Path) -> None:
    for k in range(20):
        put(tmp_path / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(k)))
    audit = check(open_data(tmp_path))
    assert list(audit.sentences()) == [] and not audit.groups
    audit.stop_on_leaks()


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
