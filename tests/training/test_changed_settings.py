"""Resuming with other settings: harmless ones pass with a note, ones that change the result are refused, none is left out."""

import dataclasses

import pytest

from tests.support.runs import TINY
from vitrail import config
from vitrail.batches.mixing import Mixing
from vitrail.errors import ConfigError
from vitrail.images.transforms import Augment
from vitrail.models import zoo
from vitrail.objectives.probe import Probe
from vitrail.objectives.simmim import SimMIM
from vitrail.training.resume_rules import KEYS, check_changes, differences, kind_of, leaves
from vitrail.training.run import Run

pytestmark = pytest.mark.fault


def changed(key: str, value: object):
    """TINY with one leaf set, by its full name."""
    *path, last = key.split(".")
    parts = [TINY]
    for name in path:
        parts.append(getattr(parts[-1], name))
    new = dataclasses.replace(parts[-1], **{last: value})
    for part, name in zip(reversed(parts[:-1]), reversed(path), strict=True):
        new = dataclasses.replace(part, **{name: new})
    return new


def test_every_key_of_a_run_is_classified() -> None:
    """A new option must be put in a row of `KEYS` before it can be merged."""
    unclassified = [key for key, _ in leaves(config.to_dict(TINY)) if kind_of(key) is None]
    assert unclassified == []
    names = {key for key, _ in leaves(config.to_dict(TINY))}
    stale = [key for key in KEYS if not any(name == key or name.startswith(key + ".") for name in names)]
    assert stale == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("optim.lr", 0.5), ("batch_size", 32), ("seed", 7), ("model.depth", 3), ("length", "99 steps"), ("ema", None),
     ("augment", Augment(flip=True)), ("objective.label_smoothing", 0.0), ("mixing.mixup", 0.9)],
)  # fmt: skip
def test_a_changed_trajectory_is_refused_and_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"other settings: .*{key}") as refused:
        check_changes(TINY, changed(key, value))
    assert "`override=True`" in str(refused.value)
    run, said = check_changes(TINY, changed(key, value), override=True)
    assert run == changed(key, value) and key in said[0]


@pytest.mark.parametrize(
    ("key", "value"), [("hardware.workers", 3), ("save_every", "2 steps"), ("hardware.threads", 2)]
)
def test_safe_keys_pass_and_are_said(key: str, value: object) -> None:
    run, said = check_changes(TINY, changed(key, value))
    assert run == changed(key, value)
    assert len(said) == 1 and key in said[0]


PLAIN = dataclasses.replace(TINY, model=zoo.change(TINY.model, dropout=0.0, drop_path=0.0))


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (PLAIN, "rounding"),
        (dataclasses.replace(PLAIN, model=zoo.change(PLAIN.model, dropout=0.1)), "trajectory"),
        (dataclasses.replace(PLAIN, model=zoo.change(PLAIN.model, drop_path=0.1)), "rounding"),
        (dataclasses.replace(PLAIN, model=zoo.change(PLAIN.model, drop_path=0.1), rules=1), "trajectory"),
        (dataclasses.replace(PLAIN, model=zoo.config("maxvit-t")), "trajectory"),  # BatchNorm
        (dataclasses.replace(PLAIN, objective=SimMIM()), "trajectory"),
        (dataclasses.replace(PLAIN, objective=Probe()), "trajectory"),
        (dataclasses.replace(PLAIN, mixing=Mixing(mixup=0.2)), "rounding"),
        (dataclasses.replace(PLAIN, mixing=Mixing(mixup=0.2), rules=1), "trajectory"),
    ],
)
def test_the_size_of_micro_batches_is_refused_where_random_numbers_are_drawn_for_each(run: Run, kind: str) -> None:
    after = dataclasses.replace(run, hardware=dataclasses.replace(run.hardware, micro_batch=8))
    if kind == "rounding":
        assert check_changes(run, after)[1] == ("changed on resuming: hardware.micro_batch None → 8 (rounding)",)
        return
    with pytest.raises(ConfigError, match=r"hardware\.micro_batch None → 8"):
        check_changes(run, after)


def test_all_refused_keys_are_listed_at_once() -> None:
    both = dataclasses.replace(TINY, seed=5, batch_size=32)
    assert [key for key, _, _ in differences(TINY, both)] == ["batch_size", "seed"]
    with pytest.raises(ConfigError, match="batch_size 64 → 32, seed 0 → 5"):
        check_changes(TINY, both)
