"""The door's functions refuse arguments of another kind in words; the kinds that fit, numpy's among them, pass."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

import vitrail
from vitrail.api.request import choose_run
from vitrail.arguments import check_arguments, fits
from vitrail.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (int, [3, np.int64(3)], [True, 3.0, "3", None]),
        (float, [3, 3.5, np.float32(3), float("nan")], [True, "3", None]),
        (str | Path | None, ["a", Path("a"), None], [3, b"a"]),
        (bool, [True], [1, "yes"]),
        (Literal["one", "flip"], ["one"], ["two", 1, ["one"]]),
        (tuple[int, int] | int, [(3, 4), [3, 4], np.array([3, 4]), 5], [(3,), "34", (3, "4")]),
        (tuple[str, ...], [(), ("a",), {"a"}], ["a", ("a", 1)]),
        (Any, [object()], []),
        (dict[str, int], [object()], []),
    ],
)
def test_kinds(kind: Any, right: list, wrong: list) -> None:
    assert [value for value in right if not fits(value, kind)] == []
    assert [value for value in wrong if fits(value, kind)] == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: vitrail.build("vit-ti/16", seed="x"), "seed = 'x', a str; allowed: a whole number"),
        (lambda: vitrail.build("vit-ti/16", image="x"), "image = 'x', a str; allowed: several, each a whole number"),
        (lambda: vitrail.build("vit-ti/16", drop_path="x"), "drop_path = 'x', a str; allowed: a number"),
        (lambda: vitrail.predict("run", "x.png", top=2.5), "top = '2.5', a float; allowed: a whole number"),
        (lambda: vitrail.predict("run", "x.png", views="all"), "views = 'all', a str; allowed: 'one', 'flip'"),
        (lambda: vitrail.load("run", image="16"), "image = '16', a str; allowed: several, each a whole number or "),
        (lambda: vitrail.train("digits", epochs="3"), "epochs = '3', a str; allowed: a number or None"),
        (lambda: vitrail.train("digits", size="64"), "train: preprocess.size = '64'; allowed: a list"),
        (lambda: vitrail.train("digits", lr="1e-3"), "train: optim.lr = '1e-3'; allowed: a number"),
        (lambda: vitrail.train("digits", batch=0), "train: batch_size = 0; allowed: 1 or more"),
        (lambda: vitrail.train("digits", **{"optim.lr": -1}), "train: optim: lr = -1.0; allowed: 0 or more"),
        (lambda: vitrail.open_data("digits", holdout=None), "holdout = 'None', a NoneType; allowed: a number"),
        (lambda: vitrail.train(np.zeros(3)), "data of type ndarray; allowed: a path, a named set, or"),
        (lambda: vitrail.open_data(np.zeros(3)), "data of type ndarray; allowed: a path, a named set, or"),
    ],
)
def test_a_wrong_kind_is_named_before_anything_is_opened(call: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value).startswith(said)


def test_a_device_of_torch_is_its_name() -> None:
    @check_arguments
    def asked(device: str = "auto") -> str:
        return device

    assert asked(torch.device("cpu")) == asked(device=torch.device("cpu")) == "cpu"
    assert asked(torch.device("cuda", 1)) == "cuda:1"
    assert choose_run("digits", changes={"device": torch.device("cpu")}).run.hardware.device == "cpu"


def test_nothing_to_look_at_is_said() -> None:
    with pytest.raises(DataError, match="no images were named"):
        vitrail.trace("vit-ti/16", [])


def test_a_function_of_the_door_is_one_and_keeps_its_signature() -> None:
    assert vitrail.predict is vitrail.predict
    assert vitrail.predict.__module__ == "vitrail.api.predict" and "top" in vitrail.predict.__doc__
