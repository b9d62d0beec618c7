"""Ablations: one choice changes and all else stays; images that are changed on purpose are changed as they should be."""

import dataclasses
from pathlib import Path
from typing import get_args

import pytest
import torch

from vitrail.models import cost
from vitrail.models.extras import PLAIN
from vitrail.recipes.request import Given
from vitrail.study import ablation
from vitrail.study.ablations import LESSONS, plan
from vitrail.study.cells import flops_of
from vitrail.study.published import TABLE_8
from vitrail.study.questions import Ablation, AblationName
from vitrail.study.readouts import shift_right, shifts, shuffle_patches

pytestmark = pytest.mark.flow

DIGITS = Given(images=1438, classes=10, shape=(8, 8, 1))


def asked(which: str, **more) -> Ablation:
    return Ablation(data="digits", which=which, seeds=1, macs=0.3, steps=40, device="cpu", **more)


def test_every_ablation_has_a_lesson() -> None:
    assert tuple(LESSONS) == get_args(AblationName)


@pytest.mark.parametrize(("which", "cells"), [("positions", 9), ("head", 6), ("patch-order", 2), ("regularisation", 8)])
def test_one_choice_changes_and_the_rest_stays(which: str, cells: int) -> None:
    found = list(plan(asked(which)))
    assert len(found) == len({cell.key for cell in found}) == cells
    runs = [cell.stages[-1].run for cell in found]
    assert len({(run.length, run.batch_size, run.preprocess, run.augment, run.seed) for run in runs}) == 1
    if which == "positions":
        assert len({dataclasses.replace(run.model, positions="none", extras=PLAIN) for run in runs}) == 1


def test_shapes_are_halved_and_doubled() -> None:
    found = {tuple(cell.place.values())[:2]: cell.stages[0].run.model for cell in plan(asked("shape"))}
    base = found["nothing", "base"]
    assert found["depth", str(2 * base.depth)].depth == 2 * base.depth
    patches = [model for (changed, _), model in found.items() if changed == "patch"]
    assert {model.patch[0] for model in patches} == {base.patch[0] // 2, 2 * base.patch[0]}
    assert all(cost.count_parameters(model) > 0 for model in found.values())


def test_both_ways_to_high_resolution_cost_the_same() -> None:
    low, both, high = (cell.stages for cell in plan(asked("resolution")))
    spent = sum(flops_of(stage.run, DIGITS) for stage in both)
    assert low[0].run.preprocess.size < high[0].run.preprocess.size == both[1].run.preprocess.size
    step = flops_of(high[0].run, DIGITS) / int(high[0].run.length.split()[0])
    assert abs(flops_of(high[0].run, DIGITS) - spent) <= step / 2 + 1


def test_patches_in_another_order_are_the_same_patches() -> None:
    images = torch.arange(2 * 1 * 6 * 8, dtype=torch.uint8).view(2, 1, 6, 8)
    mixed = shuffle_patches(images, 3, 2, seed=1)
    assert mixed.shape == images.shape and not torch.equal(mixed, images)
    cut = [
        {tuple(one[0, y : y + 3, x : x + 2].flatten().tolist()) for y in (0, 3) for x in (0, 2, 4, 6)}
        for one in (images[0:1][0], mixed[0:1][0])
    ]
    assert cut[0] == cut[1] and torch.equal(shuffle_patches(images, 6, 8, seed=1), images)


def test_a_shift_moves_pixels_to_the_right() -> None:
    images = torch.tensor([[[[1, 2, 3, 4]]]], dtype=torch.uint8)
    assert shift_right(images, 1).tolist() == [[[[1, 1, 2, 3]]]] and torch.equal(shift_right(images, 0), images)
    assert shifts(28) == [1, 2, 3, 4, 6] and shifts(3) == [1]


def test_from_images_to_a_page_with_the_published_table(in_folder: Path) -> None:
    found = ablation(data="digits", which="patch-order", seeds=1, macs=0.2, steps=2, batch=32, device="cpu", at_once=1)
    assert [row["positions"] for row in found.rows] == ["none", "learned"]
    assert all(0 <= row["shuffled patches"] <= 1 for row in found.rows) and "The paper: with positions" in found.says
    assert found.page == Path("runs/ablation-patch-order-digits/report.html") and found.page.exists()
    assert "0.64206" in TABLE_8.table.csv()
