"""VTAB-1k: the table against the papers, bins at their edges, every file format with a few made images."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.errors import ConfigError, DataError
from vitrail.evaluation import vtab
from vitrail.evaluation.vtab import TASKS, task
from vitrail.evaluation.vtab_data import open_task
from vitrail.images.decode import decode

pytestmark = pytest.mark.oracle


def test_the_table_is_the_papers() -> None:
    assert [sum(t.group == g for t in TASKS) for g in ("natural", "specialised", "structured")] == [7, 4, 8]
    assert len({t.name for t in TASKS}) == 19 and len({t.folder for t in TASKS}) == 19
    assert sum(t.vit_l16 for t in TASKS) / 19 == pytest.approx(vtab.PUBLISHED["ViT-L/16 (ImageNet-21k)"], abs=0.06)
    with pytest.raises(ConfigError, match="did you mean 'cifar100'"):
        task("cifar10")


def test_means_say_what_they_are_over() -> None:
    found = {mean.name: mean for mean in vtab.means({"dtd": 0.5, "svhn": 0.7, "dmlab": 0.3})}
    assert (found["natural"].accuracy, found["natural"].ran, found["natural"].of) == (pytest.approx(0.6), 2, 7)
    assert found["specialised"].accuracy is None
    assert (found["all 19"].ran, found["all 19"].complete) == (3, False)
    assert vtab.means({t.name: 1.0 for t in TASKS})[-1].complete


def test_bins_are_closed_above() -> None:
    """As the original's max(where(edges - value < 0))."""

    def original(value: float, edges: tuple[float, ...]) -> int:
        return int(np.max(np.where(np.array(edges) - value < 0)))

    values = [0.1, 7.9, 8.0, 8.0001, 8.5, 9.2, 9.5, 10.0, 10.1, 99.0]
    assert [vtab.clevr_distance([50.0, v]) for v in values if v < 50] == [
        original(v, vtab.CLEVR_EDGES) for v in values[:-1]
    ]
    assert vtab.clevr_count(3) == 0 and vtab.clevr_count(10) == 7
    assert vtab.kitti_distance(["Car", "Pedestrian"], [8.0, 1.0]) == 0
    assert vtab.kitti_distance(["Van"], [8.1]) == 1
    assert vtab.kitti_distance(["Truck", "Tram"], [20.5, 3.0]) == 2
    assert vtab.kitti_distance(["Cyclist"], [3.0]) == vtab.kitti_distance([], []) == 3


def test_dsprites_bins_are_even_or_two_and_three() -> None:
    assert [vtab.dsprites_bin(v, 32) for v in range(32)] == [v // 2 for v in range(32)]
    angles = [vtab.dsprites_bin(v, 40) for v in range(40)]
    assert np.bincount(angles).tolist() == [3, 2] * 8


def _save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, 0, 0)).save(path)


def _red(source, row: int) -> int:
    content = source[row].content
    return int((decode(content) if isinstance(content, bytes) else content)[0, 0, 0])


def test_a_missing_task_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dtd is not in .*get it: torchvision.datasets.DTD"):
        open_task(task("dtd"), tmp_path)


def test_prepared_lists_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "dmlab"
    for name, labels in {"train800": [0, 5], "val200": [1], "test": [2, 3, 4]}.items():
        for index, _ in enumerate(labels):
            _save(folder / "images" / name / f"{index} x.png", 10 * index)
        lines = [f"images/{name}/{index} x.png {label}" for index, label in enumerate(labels)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    found = open_task(task("dmlab"), tmp_path)
    assert found.train1000.labels.tolist() == [0, 5, 1] and found.test.labels.tolist() == [2, 3, 4]
    assert [_red(found.test, row) for row in range(3)] == [0, 10, 20]
    assert _red(found.train1000, 2) == 0 and len(found.train1000.classes) == 6
    (folder / "test.txt").write_text("images/test/0 x.png 6\n")
    with pytest.raises(DataError, match="outside the task's 6 classes"):
        open_task(task("dmlab"), tmp_path)


def test_class_folders_are_cut_and_the_draw_repeats(tmp_path: Path) -> None:
    for index in range(2000):
        path = tmp_path / "eurosat" / "2750" / f"c{index % 10}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found, again = (open_task(task("eurosat"), tmp_path, seed=s) for s in (0, 0))
    assert (len(found.train), len(found.val), len(found.test)) == (800, 200, 400)
    parts = [set(part.keys) for part in (found.train, found.val, found.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert list(found.train.keys) == list(again.train.keys) and "60%/20%/20%" in found.how
    assert list(open_task(task("eurosat"), tmp_path, seed=1).train.keys) != list(found.train.keys)


def test_cifar_is_read_from_its_binary_version(tmp_path: Path) -> None:
    folder = tmp_path / "cifar" / "cifar-100-binary"
    folder.mkdir(parents=True)
    for name, count in {"train": 20, "test": 4}.items():
        rows = np.zeros((count, 3074), np.uint8)
        rows[:, 1], rows[:, 2] = np.arange(count), 7
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    found = open_task(task("cifar100"), tmp_path)
    assert found.test.labels.tolist() == [0, 1, 2, 3] and found.test.shape == (32, 32, 3)
    assert _red(found.test, 1) == 7 and (len(found.train), len(found.val)) == (18, 2)


@pytest.mark.parametrize(("name", "label"), [("clevr-count", 1), ("clevr-distance", 3)])
def test_clevr_labels_come_from_its_scenes(tmp_path: Path, name: str, label: int) -> None:
    root = tmp_path / "CLEVR_v1.0"
    for split in ("train", "val"):
        objects = [{"pixel_coords": [1, 1, depth]} for depth in (9.4, 12.0, 9.2, 11.0)]
        scenes = [{"image_filename": f"{split}{i}.png", "objects": objects} for i in range(10)]
        (root / "scenes").mkdir(parents=True, exist_ok=True)
        (root / "scenes" / f"CLEVR_{split}_scenes.json").write_text(json.dumps({"scenes": scenes}))
        _save(root / "images" / split / f"{split}3.png", 30)
    found = open_task(task(name), tmp_path)
    assert set(found.train1000.labels.tolist()) == {label} and len(found.train1000) == 10
    assert _red(found.test, 3) == 30


def test_kitti_labels_come_from_its_annotations(tmp_path: Path) -> None:
    root = tmp_path / "kitti" / "training"
    (root / "label_2").mkdir(parents=True)
    for index in range(10):
        kind = "Car" if index % 2 else "DontCare"
        line = f"{kind} 0 0 0 1 2 3 4 1 1 1 0.5 1.5 {6 if index == 1 else 30} 0\n"
        (root / "label_2" / f"{index:06d}.txt").write_text(line)
    found = open_task(task("kitti-distance"), tmp_path)
    labels = dict(
        zip([*found.train1000.keys, *found.test.keys], [*found.train1000.labels, *found.test.labels], strict=True)
    )
    assert labels["image_2/000001.png"] == 0 and labels["image_2/000003.png"] == 2 and labels["image_2/000000.png"] == 3
    assert "not by drive" in found.how


def test_dsprites_latents_become_sixteen_classes(tmp_path: Path) -> None:
    (tmp_path / "dsprites").mkdir()
    latents = np.zeros((40, 6), np.int64)
    latents[:, 3], latents[:, 4] = np.arange(40), np.arange(40) % 32
    images = np.zeros((40, 64, 64), np.uint8)
    images[:, 0, 0] = 1
    np.savez(tmp_path / "dsprites" / "d.npz", imgs=images, latents_classes=latents)
    for name, values, width in (
        ("dsprites-orientation", [*range(40)], 40),
        ("dsprites-location", [*range(32), *range(8)], 32),
    ):
        found = open_task(task(name), tmp_path)
        whole = {
            key: label
            for part in (found.train1000, found.test)
            for key, label in zip(part.keys, part.labels, strict=True)
        }
        assert [whole[f"{name}/{i:05d}"] for i in range(40)] == [vtab.dsprites_bin(v, width) for v in values]
        assert found.test[0].content[0, 0, 0] == 255


def _norb(values: np.ndarray, magic: int) -> bytes:
    lengths = [*values.shape, *[1] * (3 - values.ndim)]
    return struct.pack(f"<ii{len(lengths)}i", magic, values.ndim, *lengths) + values.tobytes()


def test_smallnorb_matrices_are_read_packed_or_not(tmp_path: Path) -> None:
    folder = tmp_path / "smallnorb"
    folder.mkdir()
    for split, packed in (("training", True), ("testing", False)):
        images = np.stack([np.full((2, 4, 4), index, np.uint8) for index in range(6)])
        info = np.array([[0, index, 2 * index, 0] for index in range(6)], np.int32)
        for kind, content in (("dat", _norb(images, 0x1E3D4C55)), ("info", _norb(info, 0x1E3D4C54))):
            name = f"smallnorb-5x{split}-{kind}.mat"
            (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    for name in ("smallnorb-azimuth", "smallnorb-elevation"):
        found = open_task(task(name), tmp_path)
        assert found.train.labels.tolist() == list(range(6)) and len(found.val) == len(found.test) == 3
        assert [found.train[i].content[0, 0, 0] for i in range(6)] == list(range(6))
    (folder / "smallnorb-5xtesting-dat.mat").write_bytes(b"\0" * 40)
    with pytest.raises(DataError, match="not a NORB matrix"):
        open_task(task("smallnorb-azimuth"), tmp_path)


def test_torchvisions_own_folders_are_read(tmp_path: Path) -> None:
    root = tmp_path / "dtd" / "dtd" / "dtd"
    for index, split in enumerate(("train1", "val1", "test1")):
        (root / "labels").mkdir(parents=True, exist_ok=True)
        names = [f"{kind}/{kind}_{index}.jpg" for kind in ("banded", "dotted")]
        (root / "labels" / f"{split}.txt").write_text("\n".join(names))
        for name in names:
            _save(root / "images" / name, 10)
    (root / "images").mkdir(exist_ok=True)
    found = open_task(task("dtd"), tmp_path)
    assert [part.labels.tolist() for part in (found.train, found.val, found.test)] == [[0, 1]] * 3
    assert found.test[0].content.shape == (5, 6, 3) and "official" in found.how
