"""`push` to a stand-in of the hub on this machine, and `hf:` from there: the real client speaks to both ends."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.hub import Hub, hub_at
from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.weights.bundle import read, read_record, save_bundle
from vitrail.weights.model_card import write_card
from vitrail.weights.push import push, record_file
from vitrail.weights.record import Record


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    with hub_at("me/photos") as there:
        yield there


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    model = zoo.build("vit-mu/16", image=32, classes=3, seed=1)
    record = Record(
        config=model.config,
        preprocess=Preprocess(size=(32, 32), mean=(0.1, 0.2, 0.3)),
        classes=("cat", "dog", "fish"),
        licence="Apache-2.0",
        scores={"top1": 0.875},
    )
    save_bundle(tmp_path / "run/best", model, record)
    (tmp_path / "run/best/trained.keys").write_bytes(bytes(16))
    return tmp_path / "run"


def run(address: str, home: Path, code: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, whose hub is at `address`."""
    world = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": "hf_word", "HF_HUB_OFFLINE": "0"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=world)


def test_what_is_pushed_is_loaded_again_bit_for_bit(hub, bundle: Path, tmp_path: Path) -> None:
    address, server = hub
    done = run(
        address,
        tmp_path / "home",
        f"from vitrail.cli import main; raise SystemExit(main(['push', {str(bundle)!r}, 'me/photos', '--private']))",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("/me/photos")
    assert server.files.keys() == {"model.safetensors", "record.json", "README.md", "trained.keys"}
    assert server.files["trained.keys"] == (bundle / "best/trained.keys").read_bytes()
    assert server.files["model.safetensors"] == (bundle / "best/model.safetensors").read_bytes()
    made = next(about for path, about in server.asked if path == "/api/repos/create")
    assert made.get("private") or made.get("visibility") == "private"  # by version of the client
    assert made["token"] == "Bearer hf_word"
    assert len([path for path, _ in server.asked if "/commit/" in path]) == 1
    back = run(
        address,
        tmp_path / "home",
        "from vitrail.weights.bundle import load\nmodel = load('hf:me/photos')\nprint(*model.record.classes)\n"
        f"import torch\ntorch.save(model.state_dict(), {str(tmp_path / 'back.pt')!r})",
    )
    assert back.returncode == 0, back.stderr
    assert back.stdout.strip() == "cat dog fish"
    from vitrail.weights.bundle import load

    there, here = torch.load(tmp_path / "back.pt", weights_only=True), load(bundle).state_dict()
    assert there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in here)


@pytest.mark.parametrize(("status", "sentence"), [(401, "hf auth login"), (403, "may write there"), (500, "try again")])
def test_a_refusal_of_the_hub_is_one_sentence(hub, bundle: Path, tmp_path: Path, status: int, sentence: str) -> None:
    address, server = hub
    server.status = status
    done = run(
        address,
        tmp_path / "home",
        f"from vitrail.cli import main; raise SystemExit(main(['push', {str(bundle)!r}, 'me/photos']))",
    )
    assert done.returncode == 65 and sentence in done.stderr and "could not be uploaded" in done.stderr


def test_a_hub_that_cannot_be_reached_is_one_sentence(bundle: Path, tmp_path: Path) -> None:
    with socket.socket() as nothing_listens:
        nothing_listens.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nothing_listens.getsockname()[1]}"
        code = f"from vitrail.cli import main; raise SystemExit(main(['push', {str(bundle)!r}, 'me/photos']))"
        done = run(address, tmp_path / "home", code)
    assert done.returncode == 65 and "could not be uploaded" in done.stderr and "check the network" in done.stderr


def test_a_damaged_bundle_does_not_leave(bundle: Path) -> None:
    file = bundle / "best/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="damaged"):
        push(bundle, "me/photos")


def test_the_record_of_the_tensors_leaves_also_after_a_stopped_save(bundle: Path) -> None:
    best = bundle / "best"
    old = (best / "record.json").read_text()
    model = zoo.build("vit-mu/16", image=32, classes=3, seed=2)
    save_bundle(best, model, read_record(best))
    (best / "record.json").rename(best / "record.next.json")
    (best / "record.json").write_text(old)
    assert record_file(best, read(best).record).name == "record.next.json"


@pytest.mark.parametrize("name", ["photos", "a/b/c", "hf:a/b", "a/b@main", "../x", ""])
def test_odd_names_are_refused_before_anything_is_read(bundle: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="is not a name of the hub"):
        push(bundle, name)
    with pytest.raises(WeightsError, match="there is no bundle"):
        push(bundle.parent, "me/photos")


def test_the_card_says_licence_scores_preprocessing_and_classes(bundle: Path) -> None:
    from huggingface_hub import ModelCard

    record = read_record(bundle)
    card = ModelCard(write_card(record, "me/photos"))
    assert card.data.license == "apache-2.0" and card.data.library_name == "vitrail"
    assert card.data.pipeline_tag == "image-classification"
    for words in ('vitrail.load("hf:me/photos")', "| top1 | 0.875 |", "cat, dog, fish", "[0.1, 0.2, 0.3]"):
        assert words in card.text
    import dataclasses

    other = dataclasses.replace(record, licence="CC-BY-NC-4.0 (facebookresearch/mae)", classes=("x",) * 1000)
    assert ModelCard(write_card(other, "me/x")).data.license == "cc-by-nc-4.0"
    assert "and 950 more" in write_card(other, "me/x")
    odd = ModelCard(write_card(dataclasses.replace(record, licence="Mine alone"), "me/x")).data
    assert (odd.license, odd.license_name) == ("other", "Mine alone")
