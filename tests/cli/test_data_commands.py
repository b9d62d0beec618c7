"""`vitrail data` by its commands, on a folder damaged on purpose, on real stamps, on Fashion-MNIST packed and unpacked."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.photographs import dirty_folder, put, scene
from vitrail.api.show_data import over_epochs, seen
from vitrail.batches.loader import train_batches
from vitrail.batches.order import Order
from vitrail.cli import main
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.images.transforms import Augment
from vitrail.training.run import Run

pytestmark = pytest.mark.flow

TINY = ["--model.depth", "1", "--model.width", "16", "--model.heads", "2", "--model.mlp-width", "32", "--quiet"]
SMALL = ["--preprocess.size", "32", "32", "--batch-size", "8", "--epochs", "1", "--hardware.workers", "0"]
STAMPS = Path("/usr/share/tuxpaint/stamps")
FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def dirty(tmp_path: Path) -> Path:
    return dirty_folder(tmp_path / "dirty")


def sound_folder(root: Path) -> Path:
    for k in range(20):
        put(root / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(k)))
    return root


def test_check_names_every_fault_and_exits_65(dirty: Path, in_folder: Path, capsys) -> None:
    (dirty / "train/class0/readme.txt").write_text("not an image")
    for k in (3, 5, 7):  # with cut.png four: three may be unreadable
        (dirty / f"train/class1/cut{k}.png").write_bytes((dirty / f"train/class1/{k}.png").read_bytes()[:500])
    assert main(["data", "check", str(dirty), "--json", "--html", "page.html"]) == 65
    found = json.loads(capsys.readouterr().out)
    counts = {name: found[name] for name in ("images", "unreadable", "exact_duplicates", "near_duplicates", "leaks")}
    assert counts == {"images": 33, "unreadable": 4, "exact_duplicates": 3, "near_duplicates": 1, "leaks": 2}
    assert found["unreadable_images"][0]["key"] == "train/class1/cut.png"
    assert found["conflicting_labels"] == 1 and found["misnamed"][0]["key"] == "train/class1/named.jpg"
    assert len(found["stops"]) == 2 and "leak.png" in found["stops"][0] and "cut.png" in found["stops"][1]
    assert "4 training images cannot be read" in found["stops"][1]
    assert any("1 .txt" in sentence for sentence in found["sentences"])
    page = Path("page.html").read_text("utf-8")
    assert "leak.png" in page and "cut.png" in page and "Contact sheet" in page and "data:image" in page
    assert 'src="http' not in page and "<link" not in page


def test_check_of_a_sound_folder_exits_0_and_describes_it(tmp_path: Path, capsys) -> None:
    assert main(["data", "check", str(sound_folder(tmp_path))]) == 0
    said = capsys.readouterr()
    assert "96" in said.out and "120" in said.out and "3 (20 images)" in said.out
    assert "Checking 20/20" in said.err


def test_the_quick_check_decodes_nothing(dirty: Path, capsys) -> None:
    assert main(["data", "check", str(dirty), "--quick", "--json"]) == 65
    found = json.loads(capsys.readouterr().out)
    assert (found["leaks"], found["unreadable"], found["sizes"]) == (1, 0, 0)
    assert main(["data", "check", str(dirty), "--quick"]) == 65
    said = capsys.readouterr()
    assert "near duplicates" not in said.out and "not looked at: near duplicates" in said.err


def test_a_single_class_is_named_as_a_training_names_it(tmp_path: Path, capsys) -> None:
    put(tmp_path / "set/cat/a.png", Image.fromarray(scene(0)))
    put(tmp_path / "set/cat/b.png", Image.fromarray(scene(1)))
    assert main(["data", "check", str(tmp_path / "set"), "--json"]) == 65
    assert json.loads(capsys.readouterr().out)["stops"] == ["set has 1 class"]
    assert main(["data", "check", str(tmp_path / "set"), "--unlabelled"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["data"], 0, ""),
        (["data", "chekc", "x"], 78, "did you mean 'check'?"),
        (["data", "check", "./nowhere"], 65, "there is no file or folder"),
        (["data", "pack", "digits", "."], 74, "is there already"),
        (["data", "pack", "digits", "out", "--shard-mib", "0"], 78, "1 or more"),
        (["data", "show", "digits", "--out", "sheet.bmp"], 78, ".png or .html"),
        (["data", "show", "digits", "--rows", "0"], 78, "1 or more"),
    ],
)
def test_words_that_mean_nothing_are_explained(
    words: list[str], code: int, message: str, in_folder: Path, capsys
) -> None:
    assert main(words) == code
    assert message in capsys.readouterr().err


def test_train_stops_on_a_leak_unless_it_is_allowed(tmp_path: Path, in_folder: Path, capsys) -> None:
    for part, first in (("train", 0), ("test", 50)):
        for k in range(16):
            put(tmp_path / "set" / part / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(first + k)))
    (tmp_path / "set/test/class0/leak.png").write_bytes((tmp_path / "set/train/class0/4.png").read_bytes())
    words = ["train", str(tmp_path / "set"), *SMALL, *TINY, "--out", "run"]
    assert main([word for word in words if word != "--quiet"]) == 65  # before the plan, which reads images
    said = capsys.readouterr().err
    assert "leak.png" in said and "4.png" in said and "--allow-leaks" in said and "allowed: " in said
    assert main([*words, "--allow-leaks"]) == 0


def test_train_stops_at_held_out_files_that_are_no_pictures(tmp_path: Path, in_folder: Path, capsys) -> None:
    folder = sound_folder(tmp_path / "set")
    for key in open_data(folder).test.keys[:4]:  # three may be unreadable
        (folder / key).write_bytes(b"\xff\xd8 nothing " + key.encode())
    assert main(["train", str(folder), *SMALL, *TINY]) == 65
    assert "4 held-out images cannot be read" in capsys.readouterr().err


# --- pack --------------------------------------------------------------------------------------------------------------


def idx_folder(root: Path) -> Path:
    """The first images of Fashion-MNIST, as IDX files."""
    root.mkdir()
    for part, count in (("train", 400), ("t10k", 120)):
        for what, dims in (("images-idx3", (28, 28)), ("labels-idx1", ())):
            with gzip.open(FASHION / f"{part}-{what}-ubyte.gz") as file:
                file.read(8 + 4 * len(dims))
                data = file.read(count * int(np.prod(dims)))
            header = struct.pack(f">HBB{1 + len(dims)}I", 0, 8, 1 + len(dims), count, *dims)
            (root / f"{part}-{what}-ubyte").write_bytes(header + data)
    return root


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_packed_and_unpacked_learns_the_same_bits(tmp_path: Path, in_folder: Path, capsys) -> None:
    assert main(["data", "pack", str(idx_folder(tmp_path / "idx")), "shards"]) == 0
    assert "520" in capsys.readouterr().out
    for data, run in ((str(tmp_path / "idx"), "one"), ("shards", "two")):
        words = ["--epochs", "2", "--out", run, "--hardware.workers", "0", "--hardware.threads", "1", *TINY]
        assert main(["train", data, *words]) == 0
    one, two = (Path(run, "last/model.safetensors").read_bytes() for run in ("one", "two"))
    assert one == two
    capsys.readouterr()
    scores = []
    for data in (str(tmp_path / "idx"), "shards"):
        assert main(["evaluate", "one", data, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        scores.append({name: value for name, value in found.items() if name != "data"})
    assert scores[0] == scores[1] and scores[0]["images"] == 120


@pytest.mark.parametrize("kind", ["folder", "split", "csv", "parquet"])
def test_what_is_packed_opens_as_it_was(kind: str, tmp_path: Path, in_folder: Path) -> None:
    spec = listed(kind, tmp_path / "set")
    assert main(["data", "pack", str(spec), "shards", "--shard-mib", "1"]) == 0
    before, after = open_data(spec), open_data("shards")
    assert (before.drawn, before.how) == (after.drawn, after.how)
    for part in ("train", "test"):
        one, two = getattr(before, part), getattr(after, part)
        assert (list(one.keys), one.classes) == (list(two.keys), two.classes)
        assert (one.labels == two.labels).all()
        assert all(one[k].content == two[k].content for k in range(len(one)))


def listed(kind: str, root: Path) -> Path:
    if kind == "split":
        for part in ("train", "test"):
            sound_folder(root / part)
        return root
    sound_folder(root)
    if kind == "folder":
        return root
    files = sorted(path for path in root.rglob("*.png"))
    if kind == "csv":
        rows = [
            f"{path.relative_to(root)},{path.parent.name},{'test' if k % 5 == 0 else 'train'}"
            for k, path in enumerate(files)
        ]
        (root / "list.csv").write_text("\n".join(["path,label,split", *rows]))
        return root / "list.csv"
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table(
        {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path in files],
            "label": [p.parent.name for p in files],
        }
    )
    parquet.write_table(table, root / "images.parquet")
    return root / "images.parquet"


@pytest.mark.skipif(not STAMPS.is_dir(), reason="Debian's tuxpaint-stamps-default is not installed")
def test_real_stamps_with_alpha_are_checked_and_packed_and_svg_is_counted(in_folder: Path, capsys) -> None:
    folder = STAMPS / "animals"
    svgs = len(list(folder.glob("*/**/*.svg")))
    code = main(["data", "check", str(folder), "--json", "--html", "stamps.html"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["unreadable"] == 0 and found["images"] == len(list(folder.glob("*/**/*.png")))
    assert any(f"{svgs} .svg" in sentence for sentence in found["sentences"])
    assert main(["data", "pack", str(folder), "shards"]) == 0
    before, after = open_data(folder).test, open_data("shards").test
    assert all(before[k].content == after[k].content for k in range(len(before)))


# --- show --------------------------------------------------------------------------------------------------------------


def test_show_draws_what_the_stream_gives(tmp_path: Path) -> None:
    source = open_data(sound_folder(tmp_path)).train
    augment = Augment(crop_area=(0.2, 1.0), flip=True, jitter=0.2, repeats=2)
    run = Run(preprocess=Preprocess(size=(24, 24)), augment=augment, seed=5)
    stop = 3 * 2 * len(source)
    stream = list(
        train_batches(source, preprocess=run.preprocess, augment=augment, seed=5, batch_size=8, start=0, stop=stop)
    )
    images = {}
    for batch in stream:
        for image, key in zip(batch.images, batch.keys, strict=True):
            images.setdefault(key, []).append(image)
    shown = list(over_epochs(run, source, 4, 3))
    assert all((one == other).all() for one, other in zip(shown, images[source.keys[4]][::2], strict=True))
    name, row = seen(run, source, 4, 3)
    assert name == source.keys[4] and len(row) == 4 and row[0].shape == (24, 24, 3)
    assert Order(len(source), 5).num_samples == len(source)


@pytest.mark.parametrize("out", ["sheet.png", "sheet.html"])
def test_show_writes_a_sheet(out: str, in_folder: Path, capsys) -> None:
    assert main(["data", "show", "digits", "--recipe", "digits", "--rows", "2", "--passes", "2", "--out", out]) == 0
    assert f"sheet: {out}" in capsys.readouterr().err
    if out.endswith("png"):
        with Image.open(out) as sheet:
            assert sheet.width > 300
    else:
        assert Path(out).read_text("utf-8").count("data:image/png") == 2 * 3 + 3


# --- channels ----------------------------------------------------------------------------------------------------------


def test_five_channels_are_learnt_and_weights_of_three_are_spread_over_them_aloud(in_folder: Path, capsys) -> None:
    for k in range(12):
        folder = Path("five") / f"class{k % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{k}.npy", np.dstack([scene(k), scene(k)[..., :2]]))
        put(Path("rgb") / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(k)))
    words = ["--length", "2 steps", "--batch-size", "4", "--hardware.workers", "0"]
    small = ["--model", "vit-ti/16", "--model.depth", "1", "--preprocess.size", "32", "32", *words]
    assert main(["train", "rgb", *small, "--out", "three", "--quiet"]) == 0
    assert main(["train", "five", *words, "--weights", "three", "--out", "run"]) == 0
    assert "patch_embed.weight 192×3×16×16 → 192×5×16×16" in capsys.readouterr().err
    assert len(json.loads(Path("run/run.json").read_text())["preprocess"]["mean"]) == 5
    assert main(["evaluate", "run", "five", "--html", "page.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == len(open_data("five").test)
    assert main(["predict", "run", "five/class0/0.npy", "--format", "json"]) == 0
    assert main(["evaluate", "three", "five"]) == 65
    assert "class0/0.npy: an image of 5 channels where 3 are wanted" in capsys.readouterr().err


def test_unreadable_files_are_moved_and_nothing_else(in_folder: Path, capsys) -> None:
    for name in ("cat", "dog"):
        Path("set", name).mkdir(parents=True)
        for index in range(6):
            image = np.random.default_rng(index + len(name) * (name == "dog")).integers(0, 256, (40, 400, 3), np.uint8)
            Image.fromarray(image).save(f"set/{name}/{index}.png")
    bad = [Path("set/cat/bad.png"), Path("set/dog/b\\a\nd.jpg")]
    for path in bad:
        path.write_bytes(b"no image")
    Path("link").symlink_to("set")
    for place, reason in (("set/aside", "lies in the folder of the images"), ("link", "is a link")):
        assert main(["data", "check", "set", "--move-bad", place]) == 65
        assert reason in capsys.readouterr().err
    main(["data", "check", "set/**", "--move-bad", "aside"])
    assert "times as long as wide" in capsys.readouterr().err
    assert not any(path.exists() for path in bad)
    assert sorted(path.relative_to("aside").as_posix() for path in Path("aside").rglob("*.*")) == [
        "cat/bad.png",
        "dog/b\\a\nd.jpg",
    ]
    assert len(list(Path("set").rglob("*.png"))) == 12
    assert main(["data", "check", "set", "--json"]) == 0
