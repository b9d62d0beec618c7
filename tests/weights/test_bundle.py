"""Bundles: whole at every moment, verified byte by byte, never half loaded."""

import contextlib
import dataclasses
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.bundles import CONFIG, RECORD, a_model
from vitrail import config
from vitrail.api.models import save
from vitrail.api.weights import convert_weights
from vitrail.errors import ConfigError, StorageError, WeightsError
from vitrail.models import zoo
from vitrail.models.mae import MAEConfig
from vitrail.weights import bundle, fit
from vitrail.weights.files.safe import check_header, read_safetensors


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    bundle.save_bundle(tmp_path / "best", a_model(), RECORD)
    return tmp_path / "best"


IMAGES = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("inside", ["", "best", "best/model.safetensors", "best/record.json"])
def test_round_trip_is_bit_equal_from_a_bundle_a_run_folder_or_its_files(saved: Path, inside: str) -> None:
    model = bundle.load(saved.parent / inside)
    assert not model.training
    assert torch.equal(model(IMAGES), a_model()(IMAGES))
    assert dataclasses.replace(model.record, sha256="") == RECORD
    assert bundle.read_record(saved.parent / inside) == model.record
    assert json.loads((saved / "record.json").read_text())["sha256"] == model.record.sha256


def test_loading_draws_nothing_and_owns_its_memory(saved: Path) -> None:
    before = torch.get_rng_state()
    model = bundle.load(saved)
    assert torch.equal(torch.get_rng_state(), before)
    bytes_before = (saved / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.requires_grad and parameter.is_contiguous()
            parameter.zero_()
    assert (saved / "model.safetensors").read_bytes() == bytes_before


def test_every_flipped_bit_is_found(saved: Path) -> None:
    path = saved / "model.safetensors"
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 150)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(WeightsError, match="damaged"):
            bundle.load(saved)
    path.write_bytes(content[:-1])
    with pytest.raises(WeightsError, match="damaged"):
        bundle.load(saved)


def test_a_record_of_other_weights_is_refused_and_an_edit_by_hand_is_said(
    saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tensors hold the digest of the record they were saved with."""
    path = saved / "record.json"
    own = bundle.load(saved).record
    other = dataclasses.replace(own, preprocess=dataclasses.replace(own.preprocess, mean=(0.7,)))
    path.write_text(config.sealed_json(other))
    with pytest.raises(WeightsError, match=r"record.json is not the record that model.safetensors was saved with"):
        bundle.load(saved)
    facts = json.loads(path.read_text())
    facts.pop("seal")
    path.write_text(json.dumps(facts))
    assert bundle.load(saved).record == other
    assert "was edited by hand after the weights were saved" in caplog.text


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"temperature": 1e-320}, {"threshold": 7.0}])
def test_a_record_beyond_reason_is_refused(saved: Path, wrong: dict) -> None:
    facts = {name: value for name, value in json.loads((saved / "record.json").read_text()).items() if name != "seal"}
    (saved / "record.json").write_text(json.dumps(facts | wrong))
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        bundle.load(saved)


def test_a_crash_at_any_step_of_saving_leaves_the_old_or_the_new(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rename, write and sync fails in turn, as at a kill: afterwards a whole bundle loads, old or new."""
    old, new = a_model()(IMAGES), a_model(1)(IMAGES)
    seen = set()
    for fails_at in range(12):
        bundle.save_bundle(saved, a_model(), RECORD)
        calls = iter(range(100))

        def dies(real, calls=calls, fails_at=fails_at):
            def step(*arguments, **named):
                if next(calls) == fails_at:
                    raise KeyboardInterrupt
                return real(*arguments, **named)

            return step

        with monkeypatch.context() as patch:
            for owner, name in ((os, "replace"), (os, "fsync"), (os, "open"), (Path, "unlink")):
                patch.setattr(owner, name, dies(getattr(owner, name)))
            with contextlib.suppress(KeyboardInterrupt):
                bundle.save_bundle(saved, a_model(1), RECORD)
        out = bundle.load(saved)(IMAGES)
        assert torch.equal(out, old) or torch.equal(out, new)
        seen.add(torch.equal(out, new))
    assert seen == {False, True}


def test_a_disk_that_says_no_leaves_the_old_bundle(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            bundle.save_bundle(saved, a_model(1), RECORD)
    assert torch.equal(bundle.load(saved)(IMAGES), a_model()(IMAGES))


def test_another_size_and_other_names_on_loading(saved: Path) -> None:
    model = bundle.load(saved, image=(16, 12), classes=("a", "b", "c"))
    assert model.config.image == model.record.preprocess.size == (16, 12)
    assert model.positions.table.shape == (1, 1 + 4 * 3, 32)
    images = torch.randn(1, 1, 16, 12)
    assert torch.allclose(model(images), bundle.load(saved)(images), atol=1e-6)  # resized once, or on the way
    for size in (np.int64(16), [16, 16]):
        assert bundle.load(saved, image=size).config.image == (16, 16)
    with pytest.raises(ConfigError, match="2 class names for a model of 3"):
        bundle.load(saved, classes=("a", "b"))


@pytest.fixture(scope="module")
def painter() -> zoo.Backbone:
    """A masked autoencoder whose encoder has two settings of its own."""
    extras = dataclasses.replace(CONFIG.extras, pre_logits=0, layer_scale=0.1, norm_eps=1e-3)
    encoder = zoo.change(CONFIG, classes=0, positions="sincos-mae", extras=extras)
    sizes = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "decoder_mlp_width": 16}
    return zoo.build(MAEConfig(encoder=encoder, **sizes))


def test_a_masked_autoencoder_at_another_size(painter: zoo.Backbone, tmp_path: Path) -> None:
    save(painter, tmp_path)
    model = bundle.load(tmp_path, image=16)
    assert model.config.image == model.record.preprocess.size == (16, 16)
    images = torch.randn(1, 1, 16, 16)
    assert torch.equal(model.features(images).tokens, painter.eval().features(images).tokens)


def test_a_nested_setting_that_is_told_leaves_its_neighbours(painter: zoo.Backbone, tmp_path: Path) -> None:
    save(painter, tmp_path)
    told = {"encoder": {"extras": {"activation": "gelu-tanh"}}}
    extras = bundle.load(tmp_path, config=told).config.encoder.extras
    assert extras == dataclasses.replace(painter.config.encoder.extras, activation="gelu-tanh")


def test_a_stopped_save_has_one_record_for_all_readers(saved: Path) -> None:
    old = (saved / "record.json").read_text()
    bundle.save_bundle(saved, a_model(1), dataclasses.replace(RECORD, classes=("x", "y", "z")))
    (saved / "record.json").rename(saved / "record.next.json")
    (saved / "record.json").write_text(old)
    assert bundle.read_record(saved).classes == bundle.load(saved).record.classes == ("x", "y", "z")


def test_a_file_that_is_named_is_read_also_beside_best(saved: Path) -> None:
    bundle.save_bundle(saved.parent, a_model(1), RECORD)
    (saved.parent / "record.json").unlink()  # as a file of another library
    with pytest.raises(WeightsError, match="no known origin"):
        bundle.load(saved.parent / "model.safetensors")
    assert torch.equal(bundle.load(saved.parent)(IMAGES), a_model()(IMAGES))


def test_saving_a_model_that_could_not_be_loaded_leaves_the_old_bundle(saved: Path) -> None:
    model = bundle.load(saved)
    model.head = torch.nn.Linear(16, 7)
    with pytest.raises(ConfigError, match=r"head\.weight is 7×16, the model has 3×16"):
        save(model, saved)
    with pytest.raises(ConfigError, match="2 class names for a model of 3 outputs"):
        save(a_model(), saved, classes=("a", "b"))
    assert torch.equal(bundle.load(saved)(IMAGES), a_model()(IMAGES))


def test_a_new_model_of_one_channel_is_saved_with_one_mean(tmp_path: Path) -> None:
    save(a_model(), tmp_path)
    assert bundle.load(tmp_path).record.preprocess.channels == 1


def test_saved_weights_keep_the_keys_of_those_they_came_from(saved: Path, tmp_path: Path) -> None:
    (saved / "trained.keys").write_bytes(bytes(16))
    save(bundle.load(saved), tmp_path / "copy")
    convert_weights(saved, tmp_path / "converted")
    for folder in ("copy", "converted"):
        assert (tmp_path / folder / "trained.keys").read_bytes() == bytes(16)
    save(a_model(), tmp_path / "copy")  # of which nothing is known
    assert not (tmp_path / "copy/trained.keys").exists()


def test_the_folder_of_a_run_is_not_written_into(saved: Path) -> None:
    (saved / "run.json").write_text("{}")
    for write in (lambda: save(a_model(), saved), lambda: convert_weights(saved, saved)):
        with pytest.raises(ConfigError, match="is a run folder"):
            write()


def test_what_is_not_there_or_not_ours_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="there is nothing at"):
        bundle.load(tmp_path / "nowhere")
    (tmp_path / "model.h5").write_bytes(b"\x80\x04")
    with pytest.raises(WeightsError, match="a program of Keras"):
        bundle.load(tmp_path / "model.h5")
    (tmp_path / "model.txt").write_bytes(b"x")
    with pytest.raises(WeightsError, match="is not a weights file that Vitrail reads"):
        bundle.load(tmp_path / "model.txt")


def test_misfits_are_listed_all_at_once_and_the_model_stays_untouched() -> None:
    model = a_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor + 1 for name, tensor in before.items()}
    del tensors["norm.bias"]
    tensors["norm.extra"] = torch.zeros(2)
    tensors["head.weight"] = torch.zeros(4, 16)
    tensors["cls_token"] = torch.zeros(1, 1, 32, dtype=torch.int64)
    with pytest.raises(WeightsError) as error:
        fit.fit(model, tensors, where="file")
    message = str(error.value)
    for words in (
        "norm.bias is missing",
        "norm.extra is not part",
        "head.weight is 4×16, the model has 3×16",
        "cls_token is torch.int64",
    ):
        assert words in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_each_single_mutated_key_is_caught(saved: Path) -> None:
    state = a_model().state_dict()
    for name in state:
        for mutated in (
            {k: v for k, v in state.items() if k != name},
            {**state, name: state[name][..., :-1]},
            {(k + "x" if k == name else k): v for k, v in state.items()},
        ):
            with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
                fit.fit(zoo.skeleton(CONFIG), mutated, where="file")


# --- fine-tuning


def test_finetuning_reports_every_tensor_once(saved: Path) -> None:
    task = zoo.change(CONFIG, image=(16, 16), classes=7, pre_logits=0, dropout=0.1)
    model, report = bundle.load_for_finetuning(task, saved)
    assert set(report.kept) | {"positions.table"} == {n for n in model.state_dict() if not n.startswith("head.")}
    assert report.resized == ("positions.table 1×7×32 → 1×17×32",)
    assert set(report.dropped) == {"head.weight", "head.bias", "pre_logits.weight", "pre_logits.bias"}
    assert set(report.new) == {"head.weight", "head.bias"}
    assert model.head.weight.shape == (7, 32) and not model.head.weight.any()
    source = a_model().state_dict()
    assert all(torch.equal(model.state_dict()[name], source[name]) for name in report.kept)
    assert "resized positions.table 1×7×32 → 1×17×32" in " ".join(report.lines())


def test_finetuning_to_mean_pooling_and_back_says_what_it_drops(saved: Path) -> None:
    task = dataclasses.replace(CONFIG, pool="mean")
    model, report = bundle.load_for_finetuning(task, saved)
    assert "cls_token" in report.dropped and model.positions.table.shape == (1, 6, 32)
    assert torch.equal(model.positions.table, a_model().positions.table[:, 1:])


def test_grey_weights_on_colour_and_back_give_the_same_tokens(saved: Path) -> None:
    task = dataclasses.replace(CONFIG, channels=3)
    model, report = bundle.load_for_finetuning(task, saved)
    assert any(line.startswith("patch_embed.weight") for line in report.resized)
    grey = a_model().features(IMAGES).tokens
    assert torch.allclose(model.eval().features(IMAGES.expand(-1, 3, -1, -1)).tokens, grey, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"heads": 4}, {"activation": "gelu-tanh"}, {"norm_eps": 1e-5}, {"width": 64}, {"depth": 3}, {"qk_norm": True}],
)
def test_another_body_is_refused_even_where_shapes_agree(saved: Path, change: dict) -> None:
    with pytest.raises(WeightsError, match=f"trained in another model: {next(iter(change))}"):
        bundle.load_for_finetuning(zoo.change(CONFIG, **change), saved)


# --- the header of a file that was made to harm


def file_of(path: Path, header: bytes, body: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def entry(shape: list, start: int, stop: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


HARMFUL = {
    "name with a path": {"../../x": entry([1], 0, 4)},
    "name too long": {"a" * 201: entry([1], 0, 4)},
    "name with a slash": {"a/b": entry([1], 0, 4)},
    "empty name": {"": entry([1], 0, 4)},
    "overlap": {"a": entry([1], 0, 4), "b": entry([1], 0, 4)},
    "gap": {"a": entry([0], 0, 0), "b": entry([1], 1, 5)},
    "too short for its shape": {"a": entry([2], 0, 4)},
    "past the end": {"a": entry([2], 0, 8)},
    "negative": {"a": entry([1], -4, 0)},
    "huge": {"a": entry([2**40, 2**40], 0, 4)},
    "true for one": {"a": entry([True], 0, 4)},
    "unknown type": {"a": entry([1], 0, 4, "F31")},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 4]}},
    "a list": [1, 2],
    "a number": 3,
    "metadata not text": {"__metadata__": {"a": 1}, "b": entry([1], 0, 4)},
    "shorter than the file": {},
    "too many": {f"t{i}": entry([0], 0, 0) for i in range(20_001)},
}


@pytest.mark.parametrize("header", HARMFUL.values(), ids=HARMFUL.keys())
def test_a_harmful_header_is_refused(tmp_path: Path, header: object) -> None:
    path = file_of(tmp_path / "x.safetensors", json.dumps(header).encode(), b"\0\0\0\0")
    with pytest.raises(WeightsError, match="not a sound weights file"):
        check_header(path)


def test_duplicates_deep_nesting_and_false_lengths_are_refused(tmp_path: Path) -> None:
    one = json.dumps(entry([1], 0, 4))
    contents = [
        (b'{"a": %s, "a": %s}' % (one.encode(), one.encode()), b"\0" * 4),
        (b"[" * 100_000, b""),
        (b"\xff\xfe", b""),
    ]
    for header, body in contents:
        with pytest.raises(WeightsError):
            check_header(file_of(tmp_path / "x.safetensors", header, body))
    for content in (b"", b"\0\0\0", struct.pack("<Q", 1 << 63), struct.pack("<Q", 100) + b"{}"):
        (tmp_path / "y.safetensors").write_bytes(content)
        with pytest.raises(WeightsError):
            check_header(tmp_path / "y.safetensors")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mutation_loads_the_same_names_or_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Random damage to a sound file never crashes, and never gives tensors of other names or sizes in silence."""
    tensors = {
        "a.weight": torch.arange(6.0).view(2, 3),
        "b": torch.ones(4, dtype=torch.bfloat16),
        "c": torch.tensor(1.0),
    }
    content = bytearray(safetensors.torch.save(tensors))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "m.safetensors").write_bytes(bytes(content))
    try:
        read = read_safetensors(tmp_path / "m.safetensors")
    except WeightsError:
        return
    assert sum(t.numel() * t.element_size() for t in read.values()) == 24 + 8 + 4
