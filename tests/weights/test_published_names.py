"""Names that lead to weights, from a stand-in of the hub on this machine: the real client and the real loading code."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import safetensors.torch
import torch

import vitrail
from tests.support.hub import Hub, hub_at
from vitrail.cli import main
from vitrail.errors import WeightsError
from vitrail.images.preprocess import CLIP, Preprocess
from vitrail.models import zoo
from vitrail.weights import bundle, published
from vitrail.weights.convert import rename
from vitrail.weights.origin import ORIGINS
from vitrail.weights.published import PUBLISHED, Published
from vitrail.weights.record import Record, Weights
from vitrail.weights.texts import read_pair

NAME, REPO = "clip-mu/16-test", "someone/clip-tiny"
TENSORS = "model.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub with one repository, a CLIP tower under transformers' names, and an empty cache."""
    config = zoo.config(
        "vit-mu/16", image=32, classes=0, pre_norm=True, activation="gelu-quick", norm_eps=1e-5, final_norm="pooled",
        position_resize="bicubic", projection=8, heads=2,
    )  # fmt: skip
    model = zoo.build(config)
    record = Record(config=config, preprocess=Preprocess(size=(32, 32), mean=CLIP[0], std=CLIP[1]))
    tensors, about, _ = rename(Weights(dict(model.state_dict()), record), ORIGINS["transformers"])
    row = Published(REPO, "a few pixels", "MIT", "12.5 zero-shot", 32)
    monkeypatch.setitem(PUBLISHED, NAME, row)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with hub_at(REPO) as (address, there):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        there.files = {TENSORS: safetensors.torch.save(tensors)}
        there.files |= {name: json.dumps(data).encode() for name, data in about.items()}
        there.large = frozenset({TENSORS})
        yield there


def test_a_name_loads_and_its_licence_is_said_once_and_kept(hub: type[Hub], caplog: pytest.LogCaptureFixture) -> None:
    model = vitrail.load(NAME)
    assert f"{TENSORS} of {REPO}, licence: MIT" in caplog.text
    assert model.record.licence == "MIT" and model.record.source.startswith(f"{NAME} (hf:{REPO}/")
    assert model.record.preprocess.mean == CLIP[0] and model.config.extras.activation == "gelu-quick"
    caplog.clear()
    again = vitrail.load(NAME)
    assert "licence" not in caplog.text
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    fetched = [path for path, _ in hub.asked if path.endswith(TENSORS)]
    assert len([path for path in fetched if "resolve" in path]) <= 3  # asked about again, sent once


def test_from_the_cache_with_the_hub_gone(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    first = vitrail.load(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    assert torch.equal(vitrail.load(NAME).projection.weight, first.projection.weight)
    assert bundle.read_record(NAME).config == first.config
    with pytest.raises(WeightsError, match="not in the cache and the hub cannot be reached"):
        vitrail.load("hf:someone/else")


def test_hf_owner_name_is_the_same_file(hub: type[Hub]) -> None:
    assert torch.equal(vitrail.load(f"hf:{REPO}").projection.weight, vitrail.load(NAME).projection.weight)


def test_a_damaged_download_is_seen(hub: type[Hub]) -> None:
    hub.damage = frozenset({TENSORS})
    with pytest.raises(WeightsError, match=r"was damaged on its way.*remove"):
        vitrail.load(NAME)


def test_half_a_download_is_seen_and_gone_on_with(hub: type[Hub]) -> None:
    whole = hub.files[TENSORS]
    hub.files = {**hub.files, TENSORS: whole[: len(whole) // 2]}
    with pytest.raises(WeightsError, match=r"header claims|damaged|no sound|not a sound|tensors of"):
        vitrail.load(NAME)


def test_another_file_than_the_published_one_is_refused(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, NAME, dataclasses.replace(PUBLISHED[NAME], sha256="ab" * 32))
    with pytest.raises(WeightsError, match=r"another file than the published one.*hf:someone/clip-tiny"):
        vitrail.load(NAME)


def test_a_repository_without_the_file(hub: type[Hub]) -> None:
    hub.files = {name: content for name, content in hub.files.items() if name != TENSORS}
    with pytest.raises(WeightsError, match=f"has no {TENSORS}"):
        vitrail.load(NAME)


def test_gated_weights_say_how_to_ask_for_them(hub: type[Hub], capsys: pytest.CaptureFixture) -> None:
    hub.status = 401
    with pytest.raises(WeightsError, match=rf"is gated.*huggingface\.co/{REPO}.*hf auth login"):
        vitrail.load(NAME)
    assert main(["predict", NAME, "x.png"]) == 65
    assert "is gated" in capsys.readouterr().err


def test_a_slow_hub_is_waited_for(hub: type[Hub]) -> None:
    hub.pause = 0.05
    assert vitrail.load(NAME).config.classes == 0


@pytest.mark.parametrize("silent", ["", "/tree/", "resolve/"], ids=["all", "list of files", "files"])
def test_a_hub_that_never_answers_ends_in_one_sentence(
    hub: type[Hub], monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    """Without the limit the client's own waits for the first two have no end."""
    hub.silent = silent
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.2)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's trials
    with pytest.raises(WeightsError, match="the hub cannot be reached, or does not answer"):
        vitrail.load(NAME)


def test_weights_in_the_cache_need_no_answer(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    first = vitrail.load(NAME)
    hub.silent = ""
    for name in ("HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        monkeypatch.setattr(constants, name, 0.2)
    assert torch.equal(vitrail.load(NAME).projection.weight, first.projection.weight)


def test_every_name_is_a_file_of_a_repository_with_a_licence() -> None:
    assert len({(one.hub, one.file) for one in PUBLISHED.values()}) == len(PUBLISHED)
    for name, one in PUBLISHED.items():
        assert one.hub.count("/") == 1 and one.licence and one.data and 200 < one.image < 600, name
        assert one.top1 is None or (50 < one.top1 < 95 and one.how), name
        assert name not in zoo.list_models() and bundle.is_remote(name)
    assert published.find_published("./dinov2-s/14") is None


def test_every_name_of_the_guide_leads_somewhere() -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/weights.md").read_text()
    named = re.findall(r'vitrail\.(?:load|name)\("([^"]+)"', guide)
    assert len(named) > 8
    assert not [name for name in named if not bundle.is_remote(name) and not name.endswith(".pth")]


@pytest.mark.parametrize(
    ("asked", "step"),
    [
        ("clip-b/32", "published are clip-b/32-openai, clip-b/32-laion2b"),
        ("dinov2-s/15", "did you mean 'dinov2-s/14'?"),
        ("vit-mu/16", "vit-mu/16 is a model's name, its weights are a file"),
    ],
)
def test_a_name_that_leads_nowhere_names_those_that_are_near(asked: str, step: str) -> None:
    for read in (bundle.read, read_pair):
        with pytest.raises(WeightsError, match=f"nothing at {asked}") as found:
            read(asked)
        assert step in str(found.value)
