"""From words to a Run: one word changes one value and no other; what cannot mean anything is refused."""

import functools
import re
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

from vitrail.api.request import choose_run
from vitrail.api.words import SHORT
from vitrail.cli import main
from vitrail.cli.run_options import Asked, understand
from vitrail.cli.short_help import SHORT_HELP
from vitrail.errors import ConfigError
from vitrail.recipes import Given, recipe


def flat(config: Any, path: str = "") -> dict[str, Any]:
    """Every value by its dotted name."""
    found = {}
    for part in fields(config):
        value = getattr(config, part.name)
        found |= flat(value, f"{path}{part.name}.") if is_dataclass(value) else {path + part.name: value}
    return found


@functools.cache
def asked(words: str) -> dict[str, Any]:
    return flat(understand(Asked, words.split(), command="plan")[1].run)


OVERRIDES = [
    ("--optim.lr 0.5", "optim.lr", 0.5),
    ("--optim.clip None", "optim.clip", None),
    ("--optim.betas 0.8 0.95", "optim.betas", (0.8, 0.95)),
    ("--optim.name sgd", "optim.name", "sgd"),
    ("--augment.flip", "augment.flip", True),
    # an optional pair takes all the words after it, so another option stands between it and the data
    ("--augment.crop-area 0.05 1 --augment.interpolation None", "augment.crop_area", (0.05, 1.0)),
    ("--mixing.mixup 0.8", "mixing.mixup", 0.8),
    ("--objective.loss sigmoid", "objective.loss", "sigmoid"),
    ("--model.depth 3", "model.depth", 3),
    ("--model.width 80", "model.width", 80),
    ("--model.pool cls", "model.pool", "cls"),
    ("--preprocess.interpolation bicubic", "preprocess.interpolation", "bicubic"),
    ("--hardware.micro-batch 32", "hardware.micro_batch", 32),
    ("--ema 0.9", "ema", 0.9),
    ("--seed 7", "seed", 7),
    ("--holdout 0.1", "holdout", 0.1),
    ("--batch-size 96", "batch_size", 96),
    ("--epochs 3", "length", "3 epochs"),
    ("--epochs 2.5", "length", "2.5 epochs"),
]


@pytest.mark.parametrize(("option", "name", "value"), OVERRIDES, ids=lambda value: str(value))
def test_one_word_changes_one_value(option: str, name: str, value: Any) -> None:
    before, after = asked("digits"), asked(f"digits {option}")
    assert after[name] == value
    assert {key for key in after if after[key] != before[key]} == {name}


def test_the_images_may_be_named_last() -> None:
    words = " ".join(option for option, name, _ in OVERRIDES if name not in ("model.width", "objective.loss", "length"))
    assert asked(f"{words} digits") == asked(f"digits {words}")


def test_a_named_recipe_is_taken_whole() -> None:
    given = Given(images=1438, classes=10, shape=(8, 8, 1))
    expected = flat(recipe("fashion_mnist_gpu", given)) | {"data": "digits"}
    assert asked("digits --recipe fashion_mnist_gpu") == expected
    assert asked("digits --recipe=fashion_mnist_gpu") == expected


def test_a_model_by_name_keeps_the_recipe_and_takes_overrides() -> None:
    found, plain = asked("digits --model vit-ti/4 --model.depth 2"), asked("digits")
    assert (found["model.width"], found["model.patch"], found["model.depth"]) == (192, (4, 4), 2)
    assert {key for key in found if found[key] != plain[key] and not key.startswith("model.")} == set()


@pytest.mark.parametrize("model", ["--model vit-ti/16", ""])
def test_the_size_of_the_images_follows_from_the_patch_that_was_named(model: str) -> None:
    """vit-ti/16 alone reads digits of 8×8 at 16×16; in patches of 4×4 they keep their own size."""
    found = asked(f"digits {model} --model.patch 4")
    assert (found["preprocess.size"], found["model.patch"]) == ((8, 8), (4, 4))
    name = model.removeprefix("--model ") or None
    assert choose_run("digits", model=name, changes={"model.patch": 4}).run.preprocess.size == (8, 8)


def test_values_are_checked_together_and_once_known() -> None:
    """Width 64 fits the recipe's 4 heads, though not the 12 of ViT-B: only what would run is judged."""
    assert asked("digits --model.width 64")["model.heads"] == 4
    with pytest.raises(ConfigError, match="width = 66 with 4 heads"):
        asked("digits --model.width 66")


@pytest.mark.parametrize(
    "option", ["--model.classes 5", "--model.image 8 8", "--model.channels=1", "--model.family vit"]
)
def test_what_follows_from_other_values_is_not_taken_by_hand(option: str) -> None:
    with pytest.raises(ConfigError, match="it follows from"):
        asked(f"digits {option}")


def test_unknown_options_exit_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        asked("digits --optim.lrr 3")
    assert "--optim.lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    ["--optim.lr abc", "--hardware.micro-batch x", "--optim.name adagrad", "--nothing 1"],
)
def test_words_that_mean_nothing_exit_with_2(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        asked(f"digits {words}")
    assert words.split()[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "ours"),
    [("--imgsz", "--size"), ("--wd", "--optim.weight-decay"), ("--output", "--out"), ("--opt=x", "--optim.name")],
)
def test_words_of_other_toolkits_are_translated(word: str, ours: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked(f"digits {word} 3")
    assert f"is {ours} here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--lr 0.5", "optim.lr", 0.5),
        ("--batch=96", "batch_size", 96),
        ("--size 16", "preprocess.size", (16, 16)),
        ("--size 16 12", "preprocess.size", (16, 12)),
        ("--threads 1", "hardware.threads", 1),
        ("--device cpu", "hardware.device", "cpu"),
    ],
)
def test_short_words_are_values_of_the_run(words: str, name: str, value: Any) -> None:
    assert asked(f"digits {words}")[name] == value


def test_python_takes_the_same_words() -> None:
    run = choose_run(
        "digits", epochs=3, changes={"lr": 0.5, "size": 16, "optim": {"momentum": 0.5}, "augment.flip": True}
    ).run
    assert flat(run) == asked("digits --epochs 3 --lr 0.5 --size 16 --optim.momentum 0.5 --augment.flip")
    for wrong, said in {
        "epoch": "did you mean 'epochs'",
        "optim.lrr": "did you mean 'lr'",
        "imgsz": "it is 'size' here",
        "model.classes": "it follows from",
    }.items():
        with pytest.raises(ConfigError, match=said):
            choose_run("digits", changes={wrong: 3})


@pytest.mark.parametrize("command", SHORT_HELP)
def test_the_short_help_names_options_that_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    short = capsys.readouterr().out
    assert short.count("\n") < 60
    assert main([*command.split(), "--help-all"]) == 0
    everything = capsys.readouterr().out
    for option in set(re.findall(r"--[a-z][a-z.-]+", short)) - {"--help-all", "--json"}:
        full = SHORT.get(option.removeprefix("--"), option.removeprefix("--")).replace("_", "-")
        assert f"--{full}" in everything, option


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--batch-size 0", "batch_size = 0; allowed: 1 or more"),
        ("--optim.lr -1", "lr = -1.0; allowed: 0 or more"),
        ("--optim.lr nan", "lr = nan"),
        ("--optim.betas 0.9 1.0", r"betas = \(0.9, 1.0\)"),
        ("--optim.clip 0", "clip = 0.0; allowed: a number above 0"),
        ("--ema 1", "ema = 1.0; allowed: 0 or more, and below 1"),
        ("--seed -1", "seed = -1"),
        ("--epochs 0", "length = '0 epochs' is no length"),
        ("--length 5%", "length = '5%' of itself"),
        ("--evaluate-every 0steps", "evaluate_every = '0steps' is no length"),
        ("--hardware.workers -3", "workers = -3; allowed: -1, which chooses"),
        ("--hardware.micro-batch 0", "micro_batch = 0; allowed: 1 or more"),
    ],
)
def test_numbers_that_can_mean_nothing_are_refused(words: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        asked(f"digits {words}")


def test_large_numbers_of_epochs_are_lengths() -> None:
    assert asked("digits --epochs 1e7")["length"] == "1e+07 epochs"
