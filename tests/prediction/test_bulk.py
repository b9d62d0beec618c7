"""Predictions and features of many images, part by part: killed anywhere or shared by ranks, every image is there once.
Its bits are those of a job without a kill."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.trials import ended, in_child
from vitrail import storage
from vitrail.api.predict import predict_in_parts
from vitrail.cli import main
from vitrail.errors import ConfigError, StorageError
from vitrail.evaluation import store
from vitrail.images.preprocess import Preprocess
from vitrail.images.shards import pack
from vitrail.images.sources import open_all, open_data
from vitrail.models import zoo
from vitrail.prediction import bulk, parts
from vitrail.prediction.engine import TorchEngine
from vitrail.prediction.predict import predict
from vitrail.processes.world import World
from vitrail.weights.bundle import Record, load, save_bundle

pytestmark = pytest.mark.fault

parquet = pytest.importorskip("pyarrow.parquet")

IMAGES, BROKEN = 61, (7, 30, 31)


@pytest.fixture(scope="module")
def archive() -> Iterator[Path]:
    """A folder in memory where there is one, with a model `m` and two classes of `photos`, of which three are no pictures."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield made(Path(folder))


def made(root: Path) -> Path:
    draws = np.random.default_rng(0)
    small = {"width": 16, "depth": 1, "heads": 2, "mlp_width": 32, "patch": (4, 4), "image": (8, 8)}
    model = zoo.build("vit-ti/16", **small, classes=6)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    record = Record(config=model.config, preprocess=Preprocess(size=(8, 8)), classes=tuple("abcdef"))
    save_bundle(root / "m", model, record)
    for index in range(IMAGES):
        path = root / "photos" / ("left", "right")[index % 2] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (9, 12, 3), dtype=np.uint8)).save(path)
        if index in BROKEN:
            path.write_bytes(b"no picture")
    return root


def command(name: str, root: Path, out: Path):
    """What a child does: the command as it is typed, its words unheard."""

    def work() -> None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the child ends with it
        os._exit(main(words(name, root, out)))

    return work


def words(name: str, root: Path, out: Path) -> list[str]:
    return [name, str(root / "m"), str(root / "photos"), "--out", str(out), "--batch", "4", "--part", "8"]


def run(name: str, root: Path, out: Path, rank: int = 0, size: int = 1) -> int:
    """The command in a child, as one rank of `size`; gives its pid."""
    with pytest.MonkeyPatch.context() as told:
        told.setenv("RANK", str(rank))
        told.setenv("WORLD_SIZE", str(size))
        return in_child(command(name, root, out))


def content(out: Path) -> dict[str, bytes]:
    paths = [out] if out.is_file() else sorted(out.iterdir())
    return {path.name: path.read_bytes() for path in paths if not path.name.startswith(".")}


@pytest.mark.parametrize(("name", "out"), [("predict", "labels"), ("embed", "vectors"), ("embed", "f.parquet")])
@pytest.mark.timeout(1800)
def test_killed_at_random_on_one_and_two_ranks(name: str, out: str, archive: Path, sweep: int) -> None:
    """Every image once, in order, and the bytes of the untouched job, whoever was killed when."""
    folder = archive / f"{name} {out}"
    whole = folder / "whole" / out
    main(words(name, archive, folder / "warm" / out))  # in this process, so that its children start warm
    began = time.monotonic()
    assert ended(run(name, archive, whole)) == 0
    seconds, rng, kills, trials = time.monotonic() - began, random.Random(0), 0, 0
    assert content(whole)
    while kills < (40 if sweep > 1 else 2):
        mine, size = folder / str(trials) / out, rng.choice([1, 2])
        for _ in range(rng.choice([1, 1, 3])):
            pids = [run(name, archive, mine, rank, size) for rank in range(size)]
            time.sleep(rng.uniform(0, seconds))
            os.kill(pids[-1], signal.SIGKILL)
            kills += sum(ended(pid) == -signal.SIGKILL for pid in pids)
        size = rng.choice([1, 2])
        assert [ended(pid) for pid in [run(name, archive, mine, rank, size) for rank in range(size)]] == [0] * size
        found = content(mine)
        assert found.keys() == content(whole).keys()
        assert [file for file, bits in content(whole).items() if found[file] != bits] == []
        assert sorted(path.name for path in mine.parent.iterdir()) == [out]
        trials += 1
    print(f"{kills} kills in {trials} jobs, all with the bytes of the untouched one")


def predictor(root: Path) -> TorchEngine:
    return TorchEngine.of(load(root / "m"), precision="fp32")


def written(root: Path, out: Path, **options) -> parts.Done | None:
    job = bulk.predictions(predictor(root), open_all([root / "photos"]), **{"batch": 4, "part": 8} | options)
    return job.write(out, World(), quiet=True)


def test_rows_are_the_answers_of_predict_and_unreadable_images_say_why(archive: Path, tmp_path: Path) -> None:
    assert written(archive, tmp_path / "labels", top_k=3) == parts.Done(IMAGES, len(BROKEN), 8)
    rows = parquet.read_table(tmp_path / "labels").to_pylist()  # a folder, as any tool reads it
    answers = predict(load(archive / "m"), archive / "photos", top_k=3, precision="fp32", on_error="skip", quiet=True)
    for row, answer in zip(rows, answers, strict=True):
        assert row["key"] == answer.key and row["error"] == answer.error
        if answer.error:
            assert row["label"] is None and row["labels"] is None and answer.key in row["error"]
        else:
            assert tuple(row["labels"]) == answer.labels and row["label"] == answer.labels[0]
            assert row["probabilities"] == pytest.approx(answer.probabilities, abs=1e-5)
    assert sum(row["error"] is not None for row in rows) == len(BROKEN)


def test_no_answer_an_image_is_refused_and_one_path_is_no_list(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="top = 0"):
        predict_in_parts(archive / "m", [archive / "photos"], tmp_path / "none.parquet", top=0)
    assert not (tmp_path / "none.parquet").exists()
    said = predict_in_parts(archive / "m", str(archive / "photos"), tmp_path / "labels.parquet", precision="fp32")
    assert said.startswith(f"{IMAGES} images, each once")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux lists threads")
def test_no_thread_of_pyarrow_is_left_when_a_file_is_counted(archive: Path, tmp_path: Path) -> None:
    """One that holds a buffer when Python ends would abort the command after its work."""
    out = tmp_path / "labels.parquet"
    written(archive, out)
    count = "threads = lambda: len(os.listdir('/proc/self/task')); before = threads()"
    code = f"import os, pathlib, pyarrow.parquet; from vitrail.prediction import parts; {count}; "
    code += f"parts._count_rows(pathlib.Path({str(out)!r})); assert threads() == before, threads() - before"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_model_other_images_and_other_options_are_refused(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    written(archive, out)
    before = content(out)
    assert written(archive, out) is not None and content(out) == before  # asked again, it has nothing to do
    with pytest.raises(ConfigError, match=r"another job: options top 5, not top 2"):
        written(archive, out, top_k=2)
    with pytest.raises(ConfigError, match="another job: batch 4, not 3, part 8, not 9"):
        written(archive, out, batch=3, part=9)
    model = load(archive / "m")
    with torch.no_grad():
        model.head.bias += 1
    with pytest.raises(ConfigError, match="another job: model"):
        job = bulk.predictions(TorchEngine.of(model, precision="fp32"), open_all([archive / "photos"]), batch=4, part=8)
        job.write(out, World(), quiet=True)
    shutil.copytree(archive / "photos", tmp_path / "photos")
    (tmp_path / "photos" / "right" / "more.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="another job: images"):
        job = bulk.predictions(predictor(archive), open_all([tmp_path / "photos"]), batch=4, part=8)
        job.write(out, World(), quiet=True)
    assert content(out) == before


def test_a_file_or_folder_of_something_else_is_left_alone(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        written(archive, tmp_path / "other")
    (tmp_path / "x.parquet").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="is there already"):
        written(archive, tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").read_bytes() == b"mine"
    assert [path.name for path in (tmp_path / "other").iterdir() if path.suffix] == ["diary.txt"]


def test_two_jobs_of_one_rank_do_not_meet_in_a_folder(archive: Path, tmp_path: Path) -> None:
    job = bulk.predictions(predictor(archive), open_all([archive / "photos"]), batch=4, part=8)
    with (
        parts.Parts(tmp_path / "out", job.job).hold(0),
        pytest.raises(ConfigError, match="another process is at work"),
    ):
        job.write(tmp_path / "out", World(), quiet=True)


def test_a_damaged_part_is_made_again_and_rotten_bytes_are_found(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    written(archive, out)
    before = content(out)
    victim = out / "part-00003-of-00008.parquet"
    victim.write_bytes(before[victim.name][:-40])  # a footer that is cut is seen at the start
    assert written(archive, out) is not None and content(out) == before
    place = before[victim.name].index(b"left")  # a key, in the middle of a page
    victim.write_bytes(before[victim.name][:place] + b"LEFT" + before[victim.name][place + 4 :])
    one, other = out / "part-00001-of-00008.parquet", out / "part-00002-of-00008.parquet"
    one.write_bytes(before[other.name])  # two parts that changed places
    other.write_bytes(before[one.name])
    assert written(archive, out) is not None and content(out) == before  # all three in one start


def test_a_full_disk_keeps_what_is_finished(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, room = tmp_path / "labels", iter(range(4))
    really = storage._write_new

    def full(path: Path, content: storage.Content) -> None:
        if next(room, None) is None:
            raise OSError(28, "No space left on device")
        really(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "_write_new", full)
        with pytest.raises(StorageError, match=r"No space left.*same command again"):
            written(archive, out)
    assert len(list(out.glob("part-*"))) == 3 and not list(out.glob(".*.part"))
    assert written(archive, out) == parts.Done(IMAGES, len(BROKEN), 8)


def test_shards_are_read_as_they_are(archive: Path, tmp_path: Path) -> None:
    shards = pack(open_data(archive / "photos"), tmp_path / "shards")
    job = bulk.predictions(predictor(archive), open_all([shards]), batch=4, part=8)
    assert job.write(tmp_path / "labels.parquet", World(), quiet=True).images == IMAGES
    rows = parquet.read_table(tmp_path / "labels.parquet").to_pylist()
    assert {row["split"] for row in rows} == {"train", "test"}
    assert len({(row["split"], row["key"]) for row in rows}) == IMAGES


def test_features_in_parts_are_those_of_one_pass(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """And are read back as such, without the images that could not be read."""
    for out in ("f", "f.parquet"):
        assert main([*words("embed", archive, tmp_path / out), "--precision", "fp32"]) == 0
    assert "61 images, each once" in capsys.readouterr().err
    folder, file = store.read(tmp_path / "f"), store.read(tmp_path / "f.parquet")
    assert store.is_features(tmp_path / "f") and len(folder.keys) == IMAGES - len(BROKEN)
    assert torch.equal(folder.features, file.features) and folder.keys == file.keys and folder.about == file.about
    model, splits = load(archive / "m"), open_data(archive / "photos")
    for row, key in list(enumerate(folder.keys))[::7]:
        source = splits.train if key in set(splits.train.keys) else splits.test
        sample = source[list(source.keys).index(key)]
        pixels = model.record.preprocess.normalise(predictor(archive).preprocess.read(sample)[None])
        with torch.no_grad():
            wanted = model.pool(model.features(pixels))[0]
        assert torch.allclose(folder.features[row], wanted, atol=1e-5)
        assert int(folder.labels[row]) == sample.label
    (tmp_path / "f" / "_done.json").unlink()
    with pytest.raises(Exception, match="is not finished"):
        store.read(tmp_path / "f")


@pytest.mark.parametrize(("lock", "turn"), [(".process-0", 1), (".lock", 3)])
def test_a_process_finds_the_file_that_another_joined_meanwhile(
    lock: str, turn: int, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other takes the folder of parts away between its making and its lock: as it enters, and as it joins."""
    out, real, turns = tmp_path / "f.parquet", parts.hold_lock, itertools.count(1)

    def late(path: Path, **options):
        if path.name == lock and next(turns) == turn:
            monkeypatch.setattr(parts, "hold_lock", real)
            assert written(archive, out)
            raise StorageError("the folder of the lock is gone", next_step="")
        return real(path, **options)

    monkeypatch.setattr(parts, "hold_lock", late)
    done = written(archive, out)
    assert done and done.images == 61 and [path.name for path in tmp_path.iterdir()] == ["f.parquet"]
