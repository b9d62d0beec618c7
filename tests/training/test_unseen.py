"""No score on images that were trained on, whatever they are called now.

The images are noise with labels by chance: a model that has seen them knows all of them, another guesses.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitrail
from tests.support.runs import assert_same_run, no_report, stop_after
from vitrail.cli import main
from vitrail.errors import ConfigError, DataError, Preempted
from vitrail.images.content_keys import NO_KEYS, contained, keys_of, read_keys, write_keys
from vitrail.images.samples import Source
from vitrail.images.shards import pack
from vitrail.images.sources import open_data
from vitrail.training.unseen import choose_part, keep_unseen, seen_by
from vitrail.weights.trained_on import TRAINED_KEYS

EACH = 50
"""Images of each of two classes."""


def write_noise(folder: Path, *, seed: int, each: int = EACH) -> Path:
    random = np.random.default_rng(seed)
    for label in ("even", "odd"):
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            image = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / label / f"{seed}-{number:03d}.png")
    return folder


def train(data: Path, out: Path, **options) -> Path:
    still = {
        "augment": {"shift": 0.0, "scale": 0.0, "rotate": 0.0},
        "mixing.mixup": 0.0,
        "objective.label_smoothing": 0.0,
    }
    more = {
        "model.depth": 2,
        "hardware.workers": 0,
        "hardware.threads": 1,
        "evaluate_every": "1000 epochs",
        "ema": None,
    }
    with no_report():
        return vitrail.train(data, out=out, quiet=True, save_every="1000 epochs", **{**still, **more, **options}).folder


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("noise") / "noise", seed=0)


@pytest.fixture(scope="module", params=[0.02, 0.05])
def run(request: pytest.FixtureRequest, noise: Path) -> Path:
    return train(noise, noise.parent / f"run-{request.param}", holdout=request.param, epochs=1)


def number_held_out(run: Path) -> int:
    return 2 * max(1, round(json.loads((run / "run.json").read_text())["holdout"] * EACH))


def moved(noise: Path, place: Path) -> Path:
    """Another folder, other names."""
    for number, path in enumerate(sorted(noise.rglob("*.png"))):
        there = place / "moved" / path.parent.name / f"{number * 7919 % 1000:03d}.png"
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    return place / "moved"


def packed(noise: Path, place: Path) -> Path:
    return pack(open_data(noise), place / "packed")


def in_memory(noise: Path, place: Path) -> Path:
    """The pixels as .npy files: no byte of the PNG is left."""
    for path in noise.rglob("*.png"):
        there = place / "arrays" / path.parent.name / f"{path.stem}.npy"
        there.parent.mkdir(parents=True, exist_ok=True)
        np.save(there, np.asarray(Image.open(path)))
    return place / "arrays"


def linked(noise: Path, place: Path) -> Path:
    (place / "linked").symlink_to(noise, target_is_directory=True)
    return place / "linked"


PLACES: dict[str, Callable[[Path, Path], Path]] = {
    "same": lambda noise, place: noise,
    "moved": moved,
    "packed": packed,
    "linked": linked,
}


@pytest.mark.parametrize(
    ("place", "weights"), [*((place, "run") for place in PLACES), ("moved", "last"), ("same", "bundle")]
)
def test_only_held_out_images_are_left(
    run: Path, noise: Path, place: str, weights: str, tmp_path: Path, monkeypatch
) -> None:
    model = run if weights == "run" else run / "last" if weights == "last" else tmp_path / "bundle"
    if weights == "bundle":
        assert main(["run", "export", str(run), "--out", str(model)]) == 0
    monkeypatch.chdir(tmp_path)
    splits = open_data(PLACES[place](noise, tmp_path))
    part = choose_part(splits, [model])
    assert len(part.source) == number_held_out(run) and part.trained_on == 0
    test = keep_unseen(splits, model)[0].test
    seen = read_keys(run / TRAINED_KEYS)
    for source in (part.source, test):
        assert len(source) and not contained(keys_of(source), seen).any()


def test_a_run_resumes_without_the_weights_it_started_from(noise: Path, tmp_path: Path, monkeypatch) -> None:
    """Which images they were trained on is noted at the start: the same ones are left out of the score."""
    first = train(noise, tmp_path / "first", holdout=0.05, epochs=1)
    options: dict[str, Any] = {"holdout": 0.4, "weights": first, "epochs": 2}
    whole = train(noise, tmp_path / "whole", **options)
    with monkeypatch.context() as patched, pytest.raises(Preempted):
        stop_after(3, patched)
        train(noise, tmp_path / "run", **options)
    first.rename(tmp_path / "moved")
    with no_report():
        with pytest.raises(ConfigError, match="keeps its recipe, model, weights"):
            vitrail.train(resume=tmp_path / "run", weights=tmp_path / "moved", quiet=True)
        assert main(["train", "--resume", str(tmp_path / "run"), "--weights", str(tmp_path / "moved")]) == 78
        found = vitrail.train(resume=tmp_path / "run", quiet=True)
    assert_same_run(whole, found.folder)
    assert found.scores.images == number_held_out(tmp_path / "moved")


def test_a_run_on_opened_images_resumes_with_them(noise: Path, tmp_path: Path, monkeypatch) -> None:
    splits = open_data(noise)
    some = dataclasses.replace(splits, train=splits.train.subset(range(0, 40, 2)))
    with monkeypatch.context() as patched, pytest.raises(Preempted):
        stop_after(1, patched)
        train(some, tmp_path / "run", epochs=3)
    with pytest.raises(DataError, match="there is no file or folder 'noise'"):
        vitrail.train(resume=tmp_path / "run", quiet=True)
    with no_report():
        assert vitrail.train(some, resume=tmp_path / "run", quiet=True).run.data == "noise"


def test_every_command_measures_the_same_unseen_images(
    run: Path, noise: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    """Called from another directory than the training was."""
    monkeypatch.chdir(tmp_path)
    model, data, held = os.path.relpath(run), os.path.relpath(noise), number_held_out(run)
    commands = {
        f"evaluate {model} {data} --json": lambda found: found["images"],
        f"compare {model} {model} {data} --json": lambda found: found["images"],
        f"probe {model} {data} --protocols nearest-mean --json": lambda found: found[0]["tested_on"],
    }
    for command, count in commands.items():
        assert main(command.split()) == 0
        assert count(json.loads(capsys.readouterr().out)) == held, command
    assert main(f"robustness {model} {data} --corruptions contrast --severities 1 --json".split()) == 0
    assert f"{held:,} images that were not trained on" in capsys.readouterr().err
    kept = vitrail.embed(model, data)
    assert int((kept.splits == 1).sum()) == held
    suite = tmp_path / "s.toml"
    suite.write_text(f'protocols = ["nearest-mean"]\n[[models]]\npath = "{model}"\n[[tasks]]\ndata = "{data}"\n')
    assert main(["suite", str(suite), "--out", str(tmp_path / "suite")]) == 0
    assert "test images were trained on and are left out" in capsys.readouterr().err


def test_a_leak_is_seen_in_the_score(noise: Path, tmp_path: Path) -> None:
    """A model knows its training images by heart, and guesses the new images of an extended folder."""
    grown = write_noise(tmp_path / "grown", seed=0, each=15)
    run = train(
        grown, tmp_path / "run", epochs=100, holdout=0.02, batch_size=14, recipe="digits", **{"optim.weight_decay": 0.0}
    )
    first = shutil.copytree(grown, tmp_path / "first")
    write_noise(grown, seed=1)
    unseen = vitrail.evaluate(run, grown)
    assert unseen.images == 2 * EACH + 2
    assert unseen.top1 < 0.75
    assert vitrail.evaluate(run, first, split="all").top1 > 0.9


def test_a_part_that_is_named_is_measured_whole_and_counted(run: Path, noise: Path, capsys) -> None:
    assert main(["evaluate", str(run), str(noise), "--split", "all"]) == 0
    assert f"; {2 * EACH - number_held_out(run)} of them were trained on" in capsys.readouterr().err


def test_nothing_left_is_an_error(run: Path, noise: Path, tmp_path: Path) -> None:
    train_part = open_data(noise, holdout=json.loads((run / "run.json").read_text())["holdout"]).train
    for index in range(len(train_part)):
        path = tmp_path / train_part.classes[train_part.labels[index]] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(train_part[index].content)
    with pytest.raises(DataError, match="were trained on"):
        vitrail.evaluate(run, tmp_path)


def test_weights_that_start_from_a_run_have_its_keys_too(run: Path, noise: Path, tmp_path: Path) -> None:
    """The second run holds out a fifth, of which the first has trained on all but its own few."""
    second = train(noise, tmp_path / "second", weights=run, epochs=1, holdout=0.2, recipe="finetune_small", model=None)
    scores = json.loads((second / "last" / "record.json").read_text())["scores"]
    assert scores["images"] == number_held_out(run)
    assert set(read_keys(run / TRAINED_KEYS)) < set(read_keys(second / TRAINED_KEYS)) | {b""}
    assert vitrail.evaluate(second, noise).images == number_held_out(run)


def test_pixels_in_memory_and_their_packed_copy_are_the_same_images(tmp_path: Path) -> None:
    digits = open_data("digits")
    copy = open_data(pack(digits, tmp_path / "packed"))
    assert contained(keys_of(copy.train), np.unique(keys_of(digits.train))).all()
    assert contained(keys_of(digits.train), np.unique(keys_of(copy.train))).all()
    assert not contained(keys_of(copy.test), np.unique(keys_of(digits.train))).any()


def test_damaged_keys_are_refused(tmp_path: Path) -> None:
    write_keys(tmp_path / "k", np.unique(keys_of(open_data("digits").test)))
    assert len(read_keys(tmp_path / "k")) == 359
    content = (tmp_path / "k").read_bytes()
    for damaged in (content[:-1], content[16:32] + content[:16] + content[32:]):
        (tmp_path / "k").write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            read_keys(tmp_path / "k")


def test_a_run_without_keys_is_found_again_by_its_fingerprint(run: Path, noise: Path, tmp_path: Path, capsys) -> None:
    """As 0.1.0 wrote it: the keys are made again where the data is what it was; else it is said."""
    old = shutil.copytree(run, tmp_path / "old")
    for path in old.rglob(TRAINED_KEYS):
        path.unlink()
    part = choose_part(open_data(noise), [old])
    assert len(part.source) == number_held_out(run)
    settings = json.loads((old / "run.json").read_text())
    del settings["seal"]  # 0.1.0 wrote none
    (old / "run.json").write_text(json.dumps({**settings, "data": "gone"}))
    part = choose_part(open_data(noise), [old])
    assert len(part.source) == 2 * EACH and "is not known" in part.sentences[-1]
    shutil.move(old / "last", tmp_path / "alone")
    assert "is not known" in choose_part(open_data(noise), [tmp_path / "alone"]).sentences[-1]


def test_a_model_in_memory_knows_where_it_came_from(run: Path, noise: Path) -> None:
    assert vitrail.evaluate(vitrail.load(run), noise).images == number_held_out(run)


def test_unreadable_images_have_no_twin(tmp_path: Path) -> None:
    source: Source = open_data(write_noise(tmp_path / "d", seed=3, each=4)).train
    Path(tmp_path / "d" / source.keys[0]).unlink()
    assert len(np.unique(keys_of(source))) >= len(source)


def test_the_best_weights_are_said_to_flatter(tmp_path: Path) -> None:
    for folder in (tmp_path / "run" / "best", tmp_path / "run" / "last"):
        folder.mkdir(parents=True)
        write_keys(folder / TRAINED_KEYS, NO_KEYS)
        (folder.parent / "run.json").touch()
    assert "the score flatters" in seen_by(tmp_path / "run" / "best").note
    assert seen_by(tmp_path / "run" / "last").note == ""
