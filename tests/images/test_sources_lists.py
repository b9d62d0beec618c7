"""CSV and TSV lists: training reads what they say, and one error names everything that is wrong."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.photographs import jpeg_folder
from vitrail.errors import DataError
from vitrail.images.sources import open_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jpeg_folder(tmp_path_factory.mktemp("listed"), 12, size=(16, 12))


def write(root: Path, text: str, name: str = "list.csv") -> Path:
    path = root / name
    path.write_text(text, encoding="utf-8")
    return path


def lines(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.jpg"))]


def test_a_list_names_files_and_labels(root: Path) -> None:
    text = "Path,Label\n" + "".join(f"{key},{k % 3 * 5}\n" for k, key in enumerate(lines(root)))
    splits = open_data(write(root, text), holdout=0.25)
    assert splits.train.classes == ("0", "5", "10")  # by value, not by spelling
    assert splits.test.counts.tolist() == [1, 1, 1]
    for source in (splits.train, splits.test):
        for k, key in enumerate(source.keys):
            assert source.labels[k] == lines(root).index(key) % 3
            assert source[k].content == (root / key).read_bytes()


def test_tabs_quotes_and_a_split_of_its_own(root: Path) -> None:
    parts = ["train"] * 8 + ["val"] * 2 + ["test"] * 2
    text = "class\tfile\tsplit\n" + "".join(
        f'"a, b{k % 2}"\t{key}\t{part}\n' for k, (key, part) in enumerate(zip(lines(root), parts, strict=True))
    )
    splits = open_data(write(root, text, "list.tsv"))
    assert (len(splits.train), splits.val and len(splits.val), len(splits.test)) == (8, 2, 2)
    assert splits.train.classes == ("a, b0", "a, b1") and "the list's own" in splits.how


def test_several_labels_an_image(root: Path) -> None:
    labels = ["sea|sky", "sky", "", "sea; sky;boat"]
    text = "path,labels\n" + "".join(f"{key},{labels[k % 4]}\n" for k, key in enumerate(lines(root)))
    splits = open_data(write(root, text))
    assert splits.train.classes == ("boat", "sea", "sky") and splits.train.multi_label
    for k, key in enumerate(splits.train.keys):
        expected = [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1]][lines(root).index(key) % 4]
        sample = splits.train[k]
        assert isinstance(sample.label, np.ndarray) and sample.label.tolist() == expected


def test_a_split_column_without_words_is_no_split(root: Path) -> None:
    text = "path,label,split\n" + "".join(f"{key},{k % 2},\n" for k, key in enumerate(lines(root)))
    assert open_data(write(root, text), holdout=0.25).drawn


def test_everything_wrong_with_a_list_is_said_at_once(root: Path) -> None:
    one, two, three, *_ = lines(root)
    text = f"path,label,split\n{one},a,train\n{one},b,train\nnone.jpg,a,train\n{two},,train\n{three},c,tset\n{three},c,tset\n"
    with pytest.raises(DataError) as caught:
        open_data(write(root, text))
    for part in (
        f"lines 2, 3: '{one}' is listed with different labels",
        "line 4: there is no file 'none.jpg'",
        f"line 5: no label for '{two}'",
        f"lines 6, 7: '{three}' is listed twice",
        "line 6: split 'tset' is not train, val or test",
        "neither val nor test",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "lists no images"),
        ("file_name,lable\na,b\n", "did you mean 'label'"),
        ("path,label,labels\na,b,c\n", "one of label, labels and value"),
        ("path,label\na\n", r"lines \[2\]: not 2 cells"),
        ('path,label\n"a,b\n', "not a readable table"),
        ("path;value\na.jpg;1,5\n", "its columns are parted by ';': save it with commas"),
    ],
)
def test_a_list_that_is_no_table_is_explained(root: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(write(root, text))


def test_whole_numbers_that_are_hardly_classes_are_questioned(root: Path) -> None:
    numbers = "path,label\n" + "".join(f"{key},{k}\n" for k, key in enumerate(lines(root)))
    (note,) = open_data(write(root, numbers), holdout=0).train.notes
    assert note.startswith("the labels are 12 different numbers") and "value" in note
    names = numbers.replace(",1\n", ",one\n")
    assert open_data(write(root, names), holdout=0).train.notes == ()


def test_a_class_that_is_only_tested_on_is_refused(root: Path) -> None:
    one, two, *_ = lines(root)
    with pytest.raises(DataError, match="class 'b' is not among the training images"):
        open_data(write(root, f"path,label,split\n{one},a,train\n{two},b,test\n"))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_no_list_is_silently_accepted(root: Path, data: st.DataObject) -> None:
    """Lists with faults drawn at random: accepted exactly where there is none."""
    keys, rows, sound = lines(root), [], True
    for key in data.draw(st.lists(st.sampled_from([*keys, "missing.jpg"]), min_size=4, max_size=12)):
        rows.append((key, data.draw(st.sampled_from(["a", "b", "a", "b", ""]))))
    names = [key for key, _ in rows]
    sound = "missing.jpg" not in names and len(set(names)) == len(names) and all(label for _, label in rows)
    path = write(root, "path,label\n" + "".join(f"{key},{label}\n" for key, label in rows))
    labels = [label for _, label in rows]
    sound = sound and max(labels.count("a"), labels.count("b")) > 1
    if sound:
        splits = open_data(path)
        assert sorted([*splits.train.keys, *splits.test.keys]) == sorted(names)
    else:
        with pytest.raises(DataError):
            open_data(path)


def test_numbers_beyond_float32_and_other_encodings_are_named(root: Path) -> None:
    text = "path,value\n" + "".join(f"{key},{1e39 if k == 3 else k}\n" for k, key in enumerate(lines(root)))
    with pytest.raises(DataError, match=r"line 5: '1e\+39' is no number"):
        open_data(write(root, text, "large.csv"))
    (root / "excel.csv").write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError) as error:
        open_data(root / "excel.csv")
    assert "save it as UTF-8" in error.value.next_step
