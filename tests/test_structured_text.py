"""The one reader of JSON, and seals: what a stranger or a rotten disk may put into run.json and record.json."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from vitrail import config
from vitrail.errors import ConfigError, MemoryRanOut
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.vit import ViTConfig
from vitrail.training.run import Run, read_run


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 200_000, "brackets"),
        ("[" * 65 + "]" * 65, "brackets"),
        ('{"a": 1, "a": 2}', "twice"),
        ("NaN", "not finite"),
        ("-Infinity", "not finite"),
        ("1e400", "not finite"),
        (f"{10**30}", "64 bits"),
        ("9" * 5000, "64 bits"),
        (b"\xff\xfe{}", "codec"),
        (r'"\ud800"', "surrogates"),
        ("{", "double quotes"),
        ("", "Expecting value"),
    ],
)  # fmt: skip
def test_json_that_was_made_to_harm_is_a_value_error(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        config.parse_json(text)


def test_other_json_is_what_python_reads() -> None:
    made = {"a": [1, -2.5e-7, True, None, "é\n\U0001f600"], "b": {"c": [[]] * 3}, "d": 2**64 - 1}
    for text in (json.dumps(made), json.dumps(made, ensure_ascii=False)):
        assert config.parse_json(text) == config.parse_json(text.encode()) == json.loads(text) == made
    assert config.parse_json("[" * 64 + "]" * 64)


def test_no_flipped_bit_of_a_sealed_file_is_another_setting(tmp_path: Path) -> None:
    """0.1.0 read 388 flips of run.json as other settings, without a word."""
    run, path, rng = Run(recipe="digits", data="digits"), tmp_path / "run.json", np.random.default_rng(0)
    text = config.sealed_json(run).encode()
    for bit in rng.choice(8 * len(text), 400, replace=False).tolist():
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert read_run(path) == run  # white space, or the seal's name: which is an unknown key
        except ConfigError as error:
            assert str(path) in str(error)


def test_an_edit_by_hand_takes_the_seal_off(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(config.sealed_json(Run()).replace('"seed": 0', '"seed": 7'))
    with pytest.raises(ConfigError, match='remove its line "seal"'):
        read_run(path)
    path.write_text("\n".join(line for line in path.read_text().splitlines() if '"seal"' not in line))
    assert read_run(path) == dataclasses.replace(Run(), seed=7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": 10**9}, {"depth": 10**18}, {"width": 10**12}, {"image": [10**9, 10**9]}, {"depth": "12"}, {"heads": True},
        {"classes": 1.5}, {"extras": {"norm_eps": -1.0}}, {"extras": {"norm_eps": 1e308}}, {"extras": {"norm_eps": 0.0}},
        {"extras": {"qkv_bias": "yes"}}, {"patch": [0, 0]}, {"patch": 16}, {"image": "16"},
    ],
)  # fmt: skip
def test_a_model_that_no_file_can_hold_is_refused_at_once(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        config.from_dict(ViTConfig, wrong)


@pytest.mark.parametrize(
    "wrong", [{"std": [1e-300] * 3}, {"mean": [1e30] * 3}, {"mean": "abc"}, {"mean": [float("nan")] * 3}]
)
def test_preprocessing_beyond_all_images_is_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        config.from_dict(Preprocess, wrong)


def test_a_model_larger_than_the_machine_is_not_begun() -> None:
    with pytest.raises(MemoryRanOut, match="does not fit"):
        zoo.build(ViTConfig(width=2**17, mlp_width=2**19, heads=16, depth=900))
