"""VTAB-1k: the table against the papers, and prepared copies."""

from pathlib import Path

import pytest
from PIL import Image

from vitrail.errors import ConfigError, DataError
from vitrail.evaluation import vtab
from vitrail.evaluation.vtab import TASKS, open_task, task
from vitrail.images.chain import join

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


def _save(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (value, 0, 0)).save(path)


def _red(source, row: int) -> int:
    return int(source.pixels(row)[0, 0, 0])


def test_a_missing_task_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dtd is not in .*train800.txt, val200.txt and test.txt"):
        open_task(task("dtd"), tmp_path)


def test_prepared_lists_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "dmlab"
    for name, labels in {"train800": [0, 5], "val200": [1], "test": [2, 3, 4]}.items():
        for index, _ in enumerate(labels):
            _save(folder / "images" / name / f"{index} x.png", 10 * index)
        lines = [f"images/{name}/{index} x.png {label}" for index, label in enumerate(labels)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
    found = open_task(task("dmlab"), tmp_path)
    whole = join([found.train, found.val])
    assert whole.labels.tolist() == [0, 5, 1] and found.test.labels.tolist() == [2, 3, 4]
    assert [_red(found.test, row) for row in range(3)] == [0, 10, 20]
    assert _red(whole, 2) == 0 and len(whole.classes) == 6
    (folder / "test.txt").write_text("images/test/0 x.png 6\n")
    with pytest.raises(DataError, match="outside the task's 6 classes"):
        open_task(task("dmlab"), tmp_path)
