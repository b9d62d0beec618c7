"""Shards, Parquet and named sets: the same images and labels as the files they were made of, and damage is found."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.photographs import encoded, jpeg_folder, photograph
from vitrail.batches.loader import eval_batches, train_batches
from vitrail.errors import DataError, DecodeError, StorageError
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Splits
from vitrail.images.shards import pack
from vitrail.images.sources import NAMED, open_data
from vitrail.images.transforms import Augment

SMALL = Preprocess(size=(16, 16))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jpeg_folder(tmp_path_factory.mktemp("photos"), 40)


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    return pack(open_data(folder), tmp_path / "shards", shard_bytes=20_000)


def images(splits: Splits) -> list[bytes]:
    return [
        batch.images.numpy().tobytes()
        for source in (splits.train, splits.test)
        for batch in eval_batches(source, preprocess=SMALL, batch_size=8)
    ]


def test_shards_hold_the_very_same_set(folder: Path, packed: Path) -> None:
    one, two = open_data(folder), open_data(packed)
    for ours, theirs in ((one.train, two.train), (one.test, two.test)):
        assert list(ours.keys) == list(theirs.keys) and ours.classes == theirs.classes
        assert (ours.labels == theirs.labels).all() and ours.fingerprint == theirs.fingerprint
        assert all(ours[k].content == theirs[k].content for k in range(len(ours)))
    assert len(list(packed.glob("*.tar"))) > 2 and one.how == two.how


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_shards_has_the_same_batches(folder: Path, packed: Path, workers: int) -> None:
    settings = dict(
        preprocess=SMALL,
        augment=Augment(crop_area=(0.2, 1.0)),
        seed=0,
        batch_size=16,
        start=0,
        stop=64,
        workers=workers,
    )
    ours, theirs = (list(train_batches(open_data(path).train, **settings)) for path in (folder, packed))
    assert [batch.keys for batch in ours] == [batch.keys for batch in theirs]
    assert all((a.images == b.images).all() for a, b in zip(ours, theirs, strict=True))


def test_any_tar_can_unpack_shards(folder: Path, packed: Path, tmp_path: Path) -> None:
    splits = open_data(folder)
    packed_names = []
    for path in packed.glob("*.tar"):
        with tarfile.open(path) as tar:
            packed_names += tar.getnames()
            tar.extractall(tmp_path / "out", filter="data")
    names = [f"{part}/{key}" for part, source in splits.parts.items() for key in source.keys]
    assert sorted(packed_names) == sorted(names)
    key = splits.train.keys[3]
    assert (tmp_path / "out/train" / key).read_bytes() == (folder / key).read_bytes()


def test_a_set_in_memory_packed_has_the_same_pixels(tmp_path: Path) -> None:
    digits = open_data("digits")
    again = open_data(pack(digits, tmp_path / "digits"))
    grey = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))
    for ours, theirs in ((digits.train, again.train), (digits.test, again.test)):
        a, b = (list(eval_batches(source, preprocess=grey, batch_size=2000)) for source in (ours, theirs))
        assert (a[0].images == b[0].images).all() and (a[0].targets == b[0].targets).all() and a[0].keys == b[0].keys


def test_a_source_of_shards_travels_to_another_process(packed: Path) -> None:
    source = open_data(packed).train
    first = source[0].content
    assert pickle.loads(pickle.dumps(source))[0].content == first


def test_every_flipped_byte_of_an_image_is_found(packed: Path) -> None:
    """By the checksum, before the decoder sees it."""
    path = sorted(packed.glob("*.tar"))[0]
    data = bytearray(path.read_bytes())
    data[700] ^= 1  # inside the first image: its header is one block of 512
    path.write_bytes(bytes(data))
    with pytest.raises(DecodeError, match="not those that were packed"):
        list(eval_batches(open_data(packed).train, preprocess=SMALL, batch_size=8))


@pytest.mark.parametrize("damage", ["cut", "gone", "index", "format"])
def test_shards_that_are_not_whole_are_refused_when_opened(packed: Path, damage: str) -> None:
    path = sorted(packed.glob("*.tar"))[1]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "gone":
        path.unlink()
    elif damage == "index":
        (packed / "index.npz").write_bytes((packed / "index.npz").read_bytes()[:200])
    else:
        facts = json.loads((packed / "index.json").read_text())
        (packed / "index.json").write_text(json.dumps({**facts, "format": "vitrail shards 9"}))
    with pytest.raises(DataError, match="shard"):
        open_data(packed)


def test_shards_are_written_whole_or_not_at_all(folder: Path, tmp_path: Path) -> None:
    splits = open_data(folder)
    with pytest.raises(StorageError, match="is there already"):
        pack(splits, tmp_path)
    splits.train.contents.keys[int(splits.train.rows[5])] = "class0/none.jpg"
    with pytest.raises(DecodeError, match=r"^class0/.*: the file cannot be read"):
        pack(splits, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- Parquet -----------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, count: int, *, names: tuple[str, ...] = (), words: bool = False) -> list[bytes]:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    contents = [encoded(photograph(k, (20, 16)), "PNG") for k in range(count)]
    labels = [["cat", "dog"][k % 2] if words else k % 2 for k in range(count)]
    table = arrow.table({"image": [{"bytes": content, "path": None} for content in contents], "label": labels})
    if names:
        features = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=7)
    return contents


def test_parquet_of_the_hub_with_its_parts_and_class_names(tmp_path: Path) -> None:
    contents = write_parquet(tmp_path / "pets/data/train-00000-of-00001.parquet", 20, names=("cat", "dog"))
    write_parquet(tmp_path / "pets/data/test-00000-of-00001.parquet", 6, names=("cat", "dog"))
    splits = open_data(tmp_path / "pets")
    assert (len(splits.train), len(splits.test), splits.train.classes) == (20, 6, ("cat", "dog"))
    assert [splits.train[k].content for k in (0, 6, 7, 19)] == [contents[k] for k in (0, 6, 7, 19)]
    assert splits.train.labels.tolist() == [k % 2 for k in range(20)]


def test_one_parquet_file_of_words_is_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "pets.parquet", 20, words=True)
    splits = open_data(tmp_path / "pets.parquet")
    assert splits.train.classes == ("cat", "dog") and splits.test.counts.tolist() == [2, 2]
    assert len(images(splits)) == 3


@pytest.mark.parametrize("labels", [["cat", "dog", "owl"], [0, 1, 2]])
def test_a_part_of_parquet_may_lack_classes_but_has_none_of_its_own(tmp_path: Path, labels: list) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(part: str, cells: list) -> None:
        table = arrow.table({"image": [b"picture"] * len(cells), "label": cells})
        parquet.write_table(table, tmp_path / f"{part}.parquet")

    write("train", labels[:2] * 2)
    write("test", labels[1:2])
    splits = open_data(tmp_path)
    assert splits.train.classes == splits.test.classes == tuple(map(str, labels[:2])) and splits.test.labels == [1]
    write("test", labels[1:])
    with pytest.raises(DataError, match="do not have the same classes"):
        open_data(tmp_path)


def test_parquet_that_holds_no_images_is_explained(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": ["a"], "label": [0]}), tmp_path / "text.parquet")
    with pytest.raises(DataError, match="has the columns text, label"):
        open_data(tmp_path / "text.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        open_data(tmp_path / "bad.parquet")


# --- sets by name ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITRAIL_DATA", str(tmp_path / "sets"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "sets"


def jpeg(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(photograph(index, (20, 16))))


@pytest.mark.parametrize(("name", "label_bytes"), [("cifar10", 1), ("cifar100", 2)])
def test_cifar_is_read_from_its_binary_version(sets: Path, name: str, label_bytes: int) -> None:
    kind = NAMED[name]
    (sets / kind.folder).mkdir(parents=True)
    (sets / kind.folder / kind.names).write_text("\n".join(f"word{k}" for k in range(10)) + "\n\n")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    records = [bytes([9] * (label_bytes - 1) + [k]) + image.tobytes() for k, image in enumerate(pixels)]
    for file in (*kind.train, *kind.test):
        (sets / kind.folder / file).write_bytes(b"".join(records))
    splits = open_data(name)
    assert len(splits.train) == 4 * len(kind.train) and splits.train.classes[3] == "word3"
    assert splits.train.labels[:4].tolist() == [0, 1, 2, 3]
    assert (splits.train.in_memory[:4] == pixels.transpose(0, 2, 3, 1)).all()
    (sets / kind.folder / kind.test[0]).write_bytes(records[0][:-1])
    with pytest.raises(DataError, match="do not hold records of"):
        open_data(name)


def test_torchvisions_copies_are_listed_and_read(sets: Path) -> None:
    for part in ("train", "val", "test"):
        for name in ("banded", "dotted"):
            jpeg(sets / f"dtd/dtd/images/{name}/{name}_{part}.jpg", len(part))
        label = sets / f"dtd/dtd/labels/{part}1.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"banded/banded_{part}.jpg\ndotted/dotted_{part}.jpg\n")
    splits = open_data("dtd")
    assert splits.train.classes == ("banded", "dotted") and splits.val is not None
    assert list(splits.test.keys) == ["dtd/dtd/images/banded/banded_test.jpg", "dtd/dtd/images/dotted/dotted_test.jpg"]
    assert Image.open(io.BytesIO(splits.test[0].content)).size == (20, 16)


def test_food101_pets_and_eurosat_by_their_own_lists(sets: Path) -> None:
    for part in ("train", "test"):
        jpeg(sets / f"food-101/images/soup/{part}.jpg", 0)
        meta = sets / f"food-101/meta/{part}.json"
        meta.parent.mkdir(parents=True, exist_ok=True)
        meta.write_text(json.dumps({"soup": [f"soup/{part}"]}))
        jpeg(sets / f"oxford-iiit-pet/images/great_dane_{part}.jpg", 1)
    for part in ("trainval", "test"):
        notes = sets / f"oxford-iiit-pet/annotations/{part}.txt"
        notes.parent.mkdir(parents=True, exist_ok=True)
        notes.write_text(f"great_dane_{part.removesuffix('val')} 1 2 1\n")
    for k in range(4):
        jpeg(sets / f"eurosat/2750/{('Forest', 'River')[k % 2]}/{k}.jpg", k)
    assert open_data("food101").train.classes == ("soup",)
    assert open_data("oxford-pets").test.classes == ("Great Dane",)
    assert open_data("eurosat").train.classes == ("Forest", "River")


@pytest.mark.parametrize("name", sorted(set(NAMED) - {"digits", "fashion-mnist"}))
def test_a_set_that_is_not_here_says_how_to_get_it(sets: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"{name} is not on this machine.*`download=True`"):
        open_data(name)


def test_a_set_of_the_hub_that_is_not_here_says_so(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"cannot be opened.*`download=True`"):
        open_data("hf:nobody/nothing")


DAMAGES = {
    "classes a number": lambda facts, columns: facts.update(classes=3),
    "index a list": lambda facts, columns: facts.update(shards=[]),
    "a shape that is a number": lambda facts, columns: facts.update(shape=8),
    "a part missing": lambda facts, columns: facts["parts"].pop("test"),
    "a negative part": lambda facts, columns: facts["parts"].update(test=-1),
    "too few keys": lambda facts, columns: columns.update(keys=columns["keys"][:30]),
    "keys not UTF-8": lambda facts, columns: columns.update(keys=np.full(9, 255, np.uint8)),
    "labels too few": lambda facts, columns: columns.update(labels=columns["labels"][:-1]),
    "labels out of range": lambda facts, columns: columns.update(labels=columns["labels"] + 9),
    "labels with a point": lambda facts, columns: columns.update(labels=columns["labels"] + 0.5),
    "an offset behind the end": lambda facts, columns: columns.update(offsets=columns["offsets"] + 10**9),
    "a shard that is not there": lambda facts, columns: columns.update(shards=columns["shards"] + 7),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_index_that_does_not_fit_is_a_typed_error(folder: Path, tmp_path: Path, damage: str) -> None:
    out = pack(open_data(folder), tmp_path / "packed")
    facts = json.loads((out / "index.json").read_text())
    with np.load(out / "index.npz") as stored:
        columns = dict(stored)
    DAMAGES[damage](facts, columns)
    (out / "index.json").write_text(json.dumps(facts))
    np.savez(out / "index.npz", **columns)
    with pytest.raises(DataError, match=r"index\.json|not whole"):
        open_data(out)


@pytest.mark.parametrize("name", ["ArrowNotImplementedError", "ArrowCapacityError", "ArrowKeyError", "ArrowInvalid"])
def test_whatever_pyarrow_raises_of_a_file_is_told_in_words(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged header ended as `ArrowNotImplementedError: Integers with more than 64 bits`."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def fail(path: Path) -> None:
        raise getattr(pyarrow.lib, name)("Integers with more than 64 bits\nmore")

    monkeypatch.setattr(parquet, "ParquetFile", fail)
    (tmp_path / "x.parquet").touch()
    with pytest.raises(
        DataError, match=r"x.parquet is not a readable Parquet file \(.*Integers with more than 64 bits"
    ):
        open_data(tmp_path / "x.parquet")
