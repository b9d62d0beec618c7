"""Folders, IDX files and named sets become sources; whatever is wrong with a tree is named before anything else happens."""

import gzip
import io
import json
import os
import pickle
import socket
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.support.photographs import encoded, jpeg_folder, photograph
from vitrail.errors import DataError, DecodeError
from vitrail.images.files import key_of, path_of, read_bytes
from vitrail.images.named import FASHION
from vitrail.images.sources import SOURCES, DataKind, open_data, open_images, open_unlabelled

PNG = encoded(photograph(0, (8, 6)), "PNG")


def tree(root: Path, *files: str) -> Path:
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(encoded(photograph(number, (8, 6)), "PNG"))
    return root


# --- digits and IDX ----------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns() -> None:
    splits, theirs = open_data("digits"), load_digits()
    images = np.zeros((1797, 8, 8, 1), np.uint8)
    labels = np.zeros(1797, np.int64)
    for source in (splits.train, splits.test):
        assert source.shape == (8, 8, 1) and source.classes == tuple("0123456789")
        images[source.rows], labels[source.rows] = source.in_memory, source.labels
    assert (images[..., 0] == np.rint(theirs.images * 255 / 16)).all()
    assert (labels == theirs.target).all()
    sample = splits.train[5]
    assert sample.key == f"digits/{splits.train.rows[5]:05d}" and (sample.content == splits.train.in_memory[5]).all()


def write_idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def idx_folder(root: Path, gz: str = "", *, test: bool = True, dot: bool = False) -> Path:
    random = np.random.default_rng(0)
    root.mkdir(parents=True, exist_ok=True)
    for part, count in [("train", 60), *([("t10k", 20)] if test else [])]:
        join = "." if dot else "-"
        write_idx(root / f"{part}-images{join}idx3-ubyte{gz}", random.integers(0, 256, (count, 5, 4), dtype=np.uint8))
        write_idx(root / f"{part}-labels{join}idx1-ubyte{gz}", np.arange(count, dtype=np.uint8) % 3)
    return root


def test_idx_packed_unpacked_and_by_either_name_are_the_same(tmp_path: Path) -> None:
    found = [
        open_data(idx_folder(tmp_path / name / "set", gz, dot=dot))
        for name, gz, dot in (("a", "", False), ("b", ".gz", False), ("c", "", True))
    ]
    for splits in found:
        assert splits.train.shape == (5, 4, 1) and len(splits.train) == 60 and len(splits.test) == 20
        assert splits.train.fingerprint == found[0].train.fingerprint
        assert (splits.test.in_memory == found[0].test.in_memory).all()
    assert "the set's own" in found[0].how


def test_idx_without_a_test_part_is_split(tmp_path: Path) -> None:
    splits = open_data(idx_folder(tmp_path / "one", test=False), holdout=0.25)
    assert len(splits.train) == 45 and len(splits.test) == 15
    assert splits.test.counts.tolist() == [5, 5, 5]


def test_fashion_mnist_of_debian_packed_and_unpacked_has_equal_batches(tmp_path: Path) -> None:
    packed = Path("/usr/share/datasets/fashion-mnist")
    if not packed.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    splits = open_data("fashion-mnist")
    assert (len(splits.train), len(splits.test), splits.train.classes) == (60_000, 10_000, FASHION)
    assert splits.train.counts.tolist() == [6000] * 10
    for path in packed.glob("*.gz"):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    unpacked = open_data(tmp_path)
    assert (unpacked.train.in_memory == splits.train.in_memory).all()
    assert (unpacked.test.labels == splits.test.labels).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "fewer bytes than its 60×5×4 values"),
        (lambda data: data + b"\0", "more bytes than its 60×5×4 values"),
        (lambda data: b"\x89PNG" + data[4:], "no IDX file of bytes"),
        (lambda data: data[:2] + b"\x0d\x03" + data[4:], "no IDX file of bytes"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "declares the shape"),
        (lambda data: b"", "no IDX file"),
    ],
)
@pytest.mark.parametrize("gz", ["", ".gz"])
def test_damaged_idx_files_are_named(tmp_path: Path, damage, message: str, gz: str) -> None:
    root = idx_folder(tmp_path / "set", gz)
    path = root / f"train-images-idx3-ubyte{gz}"
    data = path.read_bytes()
    path.write_bytes(gzip.compress(damage(gzip.decompress(data))) if gz else damage(data))
    with pytest.raises(DataError, match=rf"train-images-idx3-ubyte.*{message}"):
        open_data(root)


def test_a_cut_or_missing_idx_file_is_named(tmp_path: Path) -> None:
    root = idx_folder(tmp_path / "set", ".gz")
    path = root / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        open_data(root)
    path.unlink()
    with pytest.raises(DataError, match="has no train-images file"):
        open_data(root)


# --- class folders -----------------------------------------------------------------------------------------------------


def test_the_first_level_names_the_class_at_any_depth(tmp_path: Path) -> None:
    tree(tmp_path, "cat/a.png", "cat/old/b.PNG", "cat/old/x/c.jpeg", "dog/x/d.png", "dog/e")
    for path in (
        "cat/drawing.svg",
        "cat/old/sound.ogg",
        "dog/readme.txt",
        ".git/config",
        "__MACOSX/cat/f.png",
        "notes.md",
    ):
        (tmp_path / path).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / path).write_text("x")
    (tmp_path / "dog/.hidden.png").write_bytes(PNG)
    splits = open_data(tmp_path)
    assert splits.train.classes == ("cat", "dog")
    assert sorted([*splits.train.keys, *splits.test.keys]) == [
        "cat/a.png", "cat/old/b.PNG", "cat/old/x/c.jpeg", "dog/e", "dog/x/d.png",
    ]  # fmt: skip
    note, merged = splits.train.notes
    assert note.startswith("7 files skipped: ")
    for part in ("1 .svg", "1 .ogg", "1 .txt", "3 hidden", "1 beside the class folders"):
        assert part in note
    assert merged.startswith("3 subfolders were merged into 2 classes")  # cat/old, cat/old/x and dog/x


def test_tuxpaint_stamps_by_subject() -> None:
    root = Path("/usr/share/tuxpaint/stamps")
    if not root.is_dir():
        pytest.skip("Debian's tuxpaint-stamps-default is not installed")
    splits = open_data(root)
    assert "animals" in splits.train.classes and len(splits.train.classes) == sum(
        1 for folder in root.iterdir() if folder.is_dir() and any(folder.rglob("*.png"))
    )
    assert len(splits.train) + len(splits.test) == sum(1 for _ in root.rglob("*.png"))
    assert f"{sum(1 for _ in root.rglob('*.svg'))} .svg" in splits.train.notes[0]
    assert "byte for byte" in splits.how  # a fireman who is military and people


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (("train", "test"), (4, None, 2)),
        (("train", "val"), (4, None, 2)),
        (("Training", "valid", "Test"), (4, 2, 2)),
        (("train", "validation", "testing"), (4, 2, 2)),
    ],
)
def test_a_folders_own_split_is_kept(tmp_path: Path, parts: tuple[str, ...], sizes: tuple) -> None:
    for number, part in enumerate(parts):
        tree(
            tmp_path / part, *(f"{name}/{k}{number}.png" for name in ("a", "b") for k in range(2 if not number else 1))
        )
    splits = open_data(tmp_path)
    found = (len(splits.train), splits.val and len(splits.val), len(splits.test))
    assert found == sizes and "the folder's own" in splits.how
    assert all(key.startswith(parts[0]) for key in splits.train.keys)


def test_only_a_training_folder_is_split(tmp_path: Path) -> None:
    tree(tmp_path / "train", *(f"{name}/{k}.png" for name in "ab" for k in range(5)))
    assert len(open_data(tmp_path).test) == 2


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{name}/{k}.png" for name in ("bus", "car", "train") for k in range(3)))
    assert open_data(tmp_path).train.classes == ("bus", "car", "train")


TREES: dict[str, tuple[list[str], str]] = {
    "no folders": (["a.png", "b.png"], "holds no class folders"),
    "an empty class": (["a/1.png", "a/2.png", "b/"], "class 'b' has no images"),
    "a class of other files": (["a/1.png", "a/2.png", "b/x.svg"], r"class 'b' has no images.*1 .svg"),
    "split and classes": (["train/a/1.png", "test/a/2.png", "other/a/3.png"], "but also other"),
    "a class in test only": (
        ["train/a/1.png", "train/b/1.png", "test/a/1.png", "test/c/1.png"],
        "class 'c' is in .*test but not in the training images",
    ),
    "a part of the split twice": (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "one part of its split twice"),
    "names that differ in case": (["Cat/1.png", "cat/1.png", "dog/1.png"], "2 folders for one class"),
    "accents written two ways": (
        [unicodedata.normalize(form, "café") + "/1.png" for form in ("NFC", "NFD")] + ["tea/1.png"],
        "2 folders for one class",
    ),
    "one image a class": (["a/1.png", "b/1.png"], "too few to hold any out"),
}


@pytest.mark.parametrize("kind", TREES)
def test_trees_that_cannot_be_learnt_from_are_explained(tmp_path: Path, kind: str) -> None:
    files, message = TREES[kind]
    for file in files:
        if file.endswith("/"):
            (tmp_path / file).mkdir(parents=True)
        else:
            tree(tmp_path, file)
    with pytest.raises(DataError, match=message) as caught:
        open_data(tmp_path)
    assert str(tmp_path) in str(caught.value) or tmp_path.name in str(caught.value)


def test_an_empty_class_can_be_allowed_and_keeps_its_index(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.png", "a/2.png", "c/1.png", "c/2.png")
    (tmp_path / "b").mkdir()
    train = open_data(tmp_path, allow_empty=True).train
    assert train.classes == ("a", "b", "c") and set(train.labels.tolist()) == {0, 2}
    assert "class 'b' has no images" in train.notes


def test_a_class_that_the_test_part_lacks_is_noted(tmp_path: Path) -> None:
    tree(tmp_path, "train/a/1.png", "train/b/1.png", "test/a/2.png")
    assert any("has no images of b" in note for note in open_data(tmp_path).test.notes)


@pytest.mark.parametrize("spec", ["./nowhere", "", "digit", "fashion-minst"])
def test_a_name_that_is_nothing_gets_a_suggestion(spec: str) -> None:
    with pytest.raises(DataError, match="no file or folder") as caught:
        open_data(spec)
    if spec.isalpha() or "-" in spec:
        assert "did you mean" in str(caught.value)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a file"):
        open_data(tree(tmp_path, "a.png") / "a.png")


# --- names, links and things that are no files -------------------------------------------------------------------------


def test_two_hundred_random_byte_names_are_listed_read_and_written_down(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    names = {b"-rf", b"a\nb", b"\xff\xfe", "‮gpj.exe".encode(), b"x" * 251, b"back\\slash", b"\\xff", "é".encode(), b" "}
    while len(names) < 200:
        name = bytes(random.integers(1, 256, random.integers(1, 40), dtype=np.uint8)).replace(b"/", b"_")
        names.add(name if not name.startswith(b".") else b"_" + name)
    folder = os.fsencode(tmp_path / "a")
    os.mkdir(folder)
    for name in names:
        with open(folder + b"/" + name + b".png", "wb") as file:
            file.write(PNG + os.urandom(4))
    tree(tmp_path, "b/1.png", "b/2.png")
    splits = open_data(tmp_path)
    found = [source[k] for source in (splits.train, splits.test) for k in range(len(source))]
    assert {os.fsencode(path_of(sample.key)) for sample in found if sample.label == 0} == {
        b"a/" + n + b".png" for n in names
    }
    for sample in found:
        assert isinstance(sample.content, bytes) and sample.key.isprintable()
        assert json.loads(json.dumps({"key": sample.key}, ensure_ascii=False).encode("utf-8"))["key"] == sample.key


@pytest.mark.parametrize(
    "path", ["plain/é.png", "new\nline", "\udcff\udc80", "‮", "a\\b", "\\xff", "\\\udcff", "\U000e0001"]
)
def test_keys_stand_for_paths_one_to_one(path: str) -> None:
    key = key_of(path)
    assert key.isprintable() and key.encode() and path_of(key) == path


def test_links_loops_pipes_and_sockets(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    outside = tree(tmp_path / "outside", "secret.png", "more/x.png")
    (root / "a/up").symlink_to(root / "a")  # a loop
    (root / "a/out.png").symlink_to(outside / "secret.png")
    (root / "a/outdir").symlink_to(outside)
    (root / "a/broken.png").symlink_to(root / "nothing.png")
    (root / "a/inside.png").symlink_to(root / "b/1.png")
    os.link(root / "b/2.png", root / "b/hard.png")
    os.mkfifo(root / "b/pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "b/socket.png"))
        splits = open_data(root, holdout=0.3)
    keys = sorted([*splits.train.keys, *splits.test.keys])
    assert keys == ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/hard.png"]
    note = splits.train.notes[0]
    for part in (
        "2 links out of the folder (a/out.png, …)",
        "2 links to what is listed already (a/inside.png, …)",
        "1 broken links (a/broken.png)",
        "2 pipes, sockets or devices",
    ):
        assert part in note


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    root = tree(tmp_path / "real", "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    (tmp_path / "link").symlink_to(root)
    assert len(open_data(tmp_path / "link").train) == 2


def test_an_unreadable_file_and_a_folder_that_cannot_be_listed_are_named(tmp_path: Path) -> None:
    splits = open_data(tree(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png"))
    (tmp_path / splits.train.keys[0]).unlink()
    with pytest.raises(DecodeError, match=r"^a/.\.png: the file cannot be read \(No such file"):
        splits.train[0]


def test_a_read_that_fails_for_a_moment_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrail.images import files

    splits = open_data(tree(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png"))
    opened, tries = files.open_regular, []

    def flaky(path):
        tries.append(path)
        if len(tries) < 4:
            raise OSError(5, "Input/output error")
        return opened(path)

    monkeypatch.setattr(files, "open_regular", flaky)
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    assert splits.train[0].content and len(tries) == 4
    tries.clear()
    monkeypatch.setattr(files, "open_regular", lambda path: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    with pytest.raises(DecodeError, match="Input/output error"):
        splits.train[0]


# --- the split and the fingerprint --------------------------------------------------------------------------------------


def test_the_split_is_stratified_repeats_and_does_not_depend_on_listing_order(tmp_path: Path, monkeypatch) -> None:
    jpeg_folder(tmp_path, 60, size=(16, 12), classes=3)
    one = open_data(tmp_path, holdout=0.25)
    assert one.test.counts.tolist() == [5, 5, 5] and one.train.counts.tolist() == [15, 15, 15]
    assert set(one.train.keys).isdisjoint(one.test.keys)
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: Backwards(real(path)))
    two = open_data(tmp_path, holdout=0.25)
    assert (list(one.train.keys), list(one.test.keys)) == (list(two.train.keys), list(two.test.keys))
    assert one.train.fingerprint == two.train.fingerprint
    other = open_data(tmp_path, holdout=0.25, seed=1)
    assert list(other.test.keys) != list(one.test.keys)


class Backwards(list):
    """A scandir that lists from the end."""

    def __init__(self, entries) -> None:
        super().__init__(reversed(list(entries)))

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None: ...


def test_an_image_more_moves_few_others(tmp_path: Path) -> None:
    jpeg_folder(tmp_path, 100, size=(16, 12), classes=1)
    (tmp_path / "b").mkdir()
    tree(tmp_path, "b/1.png", "b/2.png")
    before = set(open_data(tmp_path).test.keys)
    tree(tmp_path, "class0/new.png")
    assert len(before ^ set(open_data(tmp_path).test.keys)) <= 2


def test_copies_are_kept_on_one_side_of_our_own_split(tmp_path: Path) -> None:
    jpeg_folder(tmp_path, 40, size=(16, 12))
    for path in list(tmp_path.glob("class0/*.jpg")):
        path.with_name("copy" + path.name).write_bytes(path.read_bytes())
    splits = open_data(tmp_path)
    contents = [{source[k].content for k in range(len(source))} for source in (splits.train, splits.test)]
    assert contents[0].isdisjoint(contents[1]) and "byte for byte" in splits.how


EDITS = {
    "a file more": lambda root: tree(root, "a/9.png"),
    "a file less": lambda root: (root / "a/1.png").unlink(),
    "another size": lambda root: (root / "a/1.png").write_bytes(PNG + b"\0"),
    "another name": lambda root: (root / "a/1.png").rename(root / "a/0.png"),
    "another class": lambda root: (root / "a/1.png").rename(root / "b/7.png"),
    "a renamed class": lambda root: (root / "a").rename(root / "z"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_every_edit_changes_the_fingerprint(tmp_path: Path, kind: str) -> None:
    tree(tmp_path, *(f"{name}/{k}.png" for name in "ab" for k in range(4)))

    def fingerprints() -> tuple[str, str]:
        splits = open_data(tmp_path)
        return splits.train.fingerprint, splits.test.fingerprint

    before = fingerprints()
    assert before == fingerprints()
    EDITS[kind](tmp_path)
    assert before != fingerprints()


def test_a_changed_pixel_in_memory_changes_the_fingerprint(tmp_path: Path) -> None:
    root = idx_folder(tmp_path / "set")
    before = open_data(root).train.fingerprint
    path = root / "train-images-idx3-ubyte"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    assert open_data(root).train.fingerprint != before


def test_a_subset_keeps_classes_and_labels() -> None:
    digits = open_data("digits").train
    part = digits.subset([7, 3, 3])
    assert len(part) == 3 and part.classes == digits.classes
    assert part.keys[1] == part.keys[2] == digits.keys[3] and part[0].label == digits[7].label
    assert part.in_memory is not None and (part.in_memory[0] == digits.in_memory[7]).all()


# --- images to predict --------------------------------------------------------------------------------------------------


def test_files_are_taken_as_named_and_folders_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "x/1.png", "x/y/2.jpg", "odd.dat")
    (tmp_path / "x/readme.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    source = open_images(["odd.dat", "x"])
    assert list(source.keys) == ["odd.dat", "x/1.png", "x/y/2.jpg"]
    assert [source[k].label for k in range(3)] == [-1, -1, -1]
    assert all(source[k].content.startswith(b"\x89PNG") for k in range(3))
    assert source.notes == ("x: 1 files skipped: 1 .txt (readme.txt)",)
    absolute = open_images([tmp_path / "x"])
    assert absolute.keys[0] == f"{tmp_path}/x/1.png" and absolute[0].content


def test_images_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder .*/none.png'"):
        open_images([tmp_path / "none.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in"):
        open_images([tmp_path / "empty"])
    with pytest.raises(DataError, match="no images in nothing"):
        open_images([])


def test_an_error_carries_its_key_and_reason_apart_and_survives_a_process(tmp_path: Path) -> None:
    """A key may hold ": " itself, so whoever lists unreadable images must not split the message."""
    tree(tmp_path, "a/1.png", "a/scan: 5.png", "b/1.png", "b/2.png")
    (tmp_path / "a/scan: 5.png").write_bytes(b"rubbish")
    source = open_images([tmp_path])
    with pytest.raises(DecodeError) as caught:
        for index in range(len(source)):
            source.pixels(index)
    sent = pickle.loads(pickle.dumps(caught.value))
    for error in (caught.value, sent):
        assert error.key.endswith("a/scan: 5.png") and error.reason.startswith("not a picture"), error
        assert error.found == f"{error.key}: {error.reason}" and error.allowed.startswith("JPEG")


def test_a_picture_has_one_label_whatever_links_there_are(tmp_path: Path) -> None:
    """A link to the root, to another class or into one gives no picture a second label; a pool beside is used once."""
    root = tree(tmp_path / "set", "a/1.png", "a/2.png", "b/1.png", "b/deep/2.png", ".pool/x.png", ".pool/y.png")
    for name, target in {"a/up": "..", "a/b": "../b/deep", "z": "b", "a/x.png": "../.pool/x.png"}.items():
        (root / name).symlink_to(target)
    (root / "b/pool").symlink_to("../.pool")
    splits = open_data(root, holdout=0.3)
    labels = {
        key: part.classes[label]
        for part in (splits.train, splits.test)
        for key, label in zip(part.keys, part.labels.tolist(), strict=True)
    }
    assert labels == {"a/1.png": "a", "a/2.png": "a", "a/x.png": "a", "b/1.png": "b", "b/deep/2.png": "b"}
    assert "4 links to what is listed already" in splits.train.notes[0]


def test_an_image_is_in_one_part_whatever_links_there_are(tmp_path: Path) -> None:
    """A test image that is a link to a training image would be trained on and tested on."""
    names = [f"{part}/{label}/{n}.png" for part in ("train", "test") for label in "ab" for n in (1, 2)]
    root = tree(tmp_path / "set", *names, ".pool/x.png")
    (root / "test/a/leak.png").symlink_to("../../train/a/1.png")
    (root / "train/b/more").symlink_to("../../test/b")
    (root / "test/c").symlink_to("../train/a")
    for part in ("train", "test"):
        (root / part / "a/x.png").symlink_to("../../.pool/x.png")
    (root / "readme.txt").touch()
    splits = open_data(root)
    assert sorted([*splits.train.keys, *splits.test.keys]) == sorted([*names, "train/a/x.png"])
    again = "links to what is listed already"
    assert dict(splits.skipped) == {
        "test/a/leak.png": again, "test/a/x.png": again, "train/b/more": again, "test/c": again,
        ".pool": "hidden", "readme.txt": "beside the class folders",
    }  # fmt: skip


def test_every_skipped_file_is_named_with_its_reason(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    wanted = {f"a/{n}.txt": ".txt" for n in range(9)} | {"b/.hidden": "hidden", ".DS_Store": "hidden"}
    for name in wanted:
        (root / name).touch()
    assert dict(open_data(root).skipped) == wanted
    assert dict(open_unlabelled(root).skipped) == {f"{root}/{name}": reason for name, reason in wanted.items()}


def test_a_class_that_is_a_link_out_of_the_folder_is_refused_unless_asked_for(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", "1.png", "2.png")
    root = tree(tmp_path / "set", "a/1.png", "a/2.png")
    (root / "b").symlink_to(outside)
    with pytest.raises(DataError, match=r"set/b is a link out of the folder, to .*outside; .*follow_links=True"):
        open_data(root)
    followed = open_data(root, follow_links=True)
    assert sorted([*followed.train.keys, *followed.test.keys]) == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]


@pytest.mark.parametrize("name", ["x.png", "x.parquet", "train-images-idx3-ubyte"])
def test_pipes_and_devices_are_errors_at_once(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / "list.csv").write_text(f"path,label\n{name},a\n/dev/zero,b\n")
    with pytest.raises(DataError, match=r"line 2: .* is a folder, a pipe or a device.*line 3: '/dev/zero' is a folder"):
        open_data(tmp_path / "list.csv")
    with pytest.raises(DecodeError, match=r"cannot be read \(it is a pipe, not a file"):
        read_bytes(tmp_path / name)
    if name != "x.png":
        with pytest.raises(DataError, match="pipe"):
            open_data(tmp_path)


def test_a_list_names_an_image_once_and_spells_a_label_one_way(tmp_path: Path) -> None:
    tree(tmp_path, "1.png", "2.png", "3.png", "4.png")
    rows = ["1.png,a", "2.png,b", "3.png,A", "./1.png,a", f"{tmp_path}/2.png,a"]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "list.csv")
    for problem in ("lines 2, 5: '1.png' is listed twice", "lines 3, 6: '2.png' is listed with different labels"):
        assert problem in caught.value.found
    assert "lines 2, 4: one label in 2 spellings, 'a', 'A'" in caught.value.found


def test_idx_files_that_do_not_fit_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    """3 MB that unpack to 3 GB: the header is compared with the labels, and with what gzip can pack, first."""

    def write(what: str, shape: tuple[int, ...], values: bytes) -> None:
        head = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        (tmp_path / f"train-{what}-ubyte.gz").write_bytes(gzip.compress(head + values))

    write("images-idx3", (50_000, 28, 28), bytes(50_000 * 28 * 28))
    write("labels-idx1", (3,), bytes(3))
    with pytest.raises(DataError, match=r"shape \(50000, 28, 28\) and train-labels"):
        open_data(tmp_path)
    write("images-idx3", (3, 28_000, 28_000), b"")
    with pytest.raises(DataError, match=r"declares the shape \(3, 28000, 28000\); allowed: 1 to"):
        open_data(tmp_path)


def test_a_plug_in_may_add_a_kind_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a/1.png", "a/2.png")
    (tmp_path / "all.mine").write_text("")
    kind = DataKind(lambda asked: asked.path.suffix == ".mine", lambda asked: open_data(asked.path.parent))
    monkeypatch.setitem(SOURCES._values, "mine", kind)
    assert open_data(tmp_path / "all.mine").train.classes == ("a",)


@pytest.mark.parametrize("kind", ["bmp", "parquet"])
def test_the_fingerprint_knows_pictures_that_sizes_do_not(tmp_path: Path, kind: str) -> None:
    prints = []
    for shade in (10, 200):
        contents = []
        for index in range(4):
            file = io.BytesIO()
            Image.new("RGB", (6, 6), (shade, index, 0)).save(file, "BMP")
            contents.append(file.getvalue())
        root = tmp_path / str(shade)
        if kind == "bmp":
            for index, content in enumerate(contents):
                (root / "set" / "ab"[index % 2]).mkdir(parents=True, exist_ok=True)
                (root / "set" / "ab"[index % 2] / f"{index}.bmp").write_bytes(content)
            prints.append(open_data(root / "set").train.fingerprint)
        else:
            pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            root.mkdir()
            parquet.write_table(pyarrow.table({"image": contents, "label": [0, 1, 0, 1]}), root / "set.parquet")
            prints.append(open_data(root / "set.parquet").train.fingerprint)
    assert prints[0] != prints[1]
