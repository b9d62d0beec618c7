"""Crossings, fronts and laws against closed forms; models matched in cost; claims weighed against the spread."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from vitrail.errors import DataError
from vitrail.models import cost
from vitrail.recipes.request import Given
from vitrail.study.ablations import Claim, judge
from vitrail.study.cells import Row
from vitrail.study.compute_scaling import equal_accuracy, paper_chart
from vitrail.study.data_sizes import cross_of, sizes_of
from vitrail.study.families import FAMILIES, climb, model_of, side_of
from vitrail.study.questions import DataSize
from vitrail.study.report import choose
from vitrail.study.scaling import (
    PowerLaw,
    find_crossing,
    first_crossing,
    fit_power_law,
    interval_of_exponent,
    pareto_front,
)

pytestmark = pytest.mark.oracle

FASHION = Given(images=60_000, classes=10, shape=(28, 28, 1))


def test_straight_lines_over_log_x_cross_where_they_should() -> None:
    """gap = log10(x) − 3.5 on 100, 1000, 10000: zero at 10^3.5."""
    x = [100.0, 1000.0, 10_000.0]
    gap = [math.log10(value) - 3.5 for value in x]
    assert first_crossing(x, gap) == pytest.approx(10**3.5)
    assert first_crossing(x, [-value for value in gap]) is None and first_crossing(x, [1, 2, 3]) is None


def test_a_crossing_has_an_interval_of_its_seeds() -> None:
    x = [100.0, 1000.0, 10_000.0]
    exact = find_crossing(x, [[0.5] * 3, [0.6] * 3, [0.8] * 3], [[0.7] * 3] * 3)
    assert exact.at == exact.low == exact.high == pytest.approx(10**3.5) and exact.share == 1
    noisy = find_crossing(x, [[0.45, 0.55], [0.55, 0.65], [0.75, 0.85]], [[0.65, 0.75]] * 3)
    assert noisy.low < noisy.at < noisy.high and 0.5 < noisy.share <= 1
    never = find_crossing(x, [[0.1] * 2] * 3, [[0.9] * 2] * 3)
    assert never.at is None and never.low is None and never.share == 0


def test_the_front_is_what_nothing_cheaper_beats() -> None:
    assert pareto_front([4, 1, 2, 3, 2], [0.8, 0.5, 0.7, 0.6, 0.7]) == [1, 2, 0]
    assert pareto_front([1, 1], [0.2, 0.4]) == [1]


@pytest.mark.parametrize("law", [PowerLaw(0.1, 3.0, 0.5), PowerLaw(0.0, 50.0, 0.25)])
def test_a_saturating_law_is_found_again(law: PowerLaw) -> None:
    costs = list(np.geomspace(1e2, 1e6, 9))
    found = fit_power_law(costs, [law.error(at) for at in costs])
    assert found.exponent == pytest.approx(law.exponent, rel=0.02) and found.floor == pytest.approx(law.floor, abs=0.02)
    assert found.cost(law.error(5e3)) == pytest.approx(5e3, rel=0.02) and law.cost(law.floor) is None
    low, high = interval_of_exponent(costs, [law.error(at) for at in costs], repeats=20)
    assert low == pytest.approx(high, rel=0.05)
    with pytest.raises(DataError, match="a law through 2 costs"):
        fit_power_law([1, 2], [0.5, 0.4])


def test_errors_that_rise_give_a_constant() -> None:
    found = fit_power_law([1, 2, 4], [0.1, 0.2, 0.3])
    assert (found.scale, found.floor) == (0, pytest.approx(0.2))


def test_families_are_matched_in_counted_cost() -> None:
    asked = 4e5
    macs = {name: cost.macs(model_of(name, FASHION, 28, asked)) for name in FAMILIES}
    for name, found in macs.items():
        rungs = [cost.macs(rung) for rung in itertools.islice(climb(name, 28), 3)]
        # the counts of the rungs differ a little in their channels and classes
        assert abs(math.log(found / asked)) <= min(abs(math.log(rung / asked)) for rung in rungs) + 0.1
    assert cost.macs(model_of("vit*4", FASHION, 28, asked / 4)) == macs["vit"]
    assert side_of(Given(shape=(8, 8, 1))) == 32 and side_of(Given()) == 64 and side_of(FASHION) == 28


def row(model: str, images: int, seed: int, accuracy: float, **more: float) -> Row:
    place = {"model": model, "images": images, "seed": seed}
    if "strength" in more:
        place["regularisation"] = f"s{more['strength']:g}"
    return Row(place=place, numbers={"accuracy": accuracy, "validation": more.get("validation", accuracy)})


def test_validation_images_choose_the_regularisation_and_never_the_test_images() -> None:
    rows = [row("vit", 100, 0, 0.9, strength=1, validation=0.5), row("vit", 100, 0, 0.6, strength=2, validation=0.7)]
    assert [one["accuracy"] for one in choose(rows, ("model", "images", "seed")).values()] == [0.6]


def test_sizes_span_the_set_and_curves_cross() -> None:
    asked = DataSize(data="fashion-mnist")
    assert sizes_of(asked, FASHION) == (600, 1897, 6000, 18974, 60000)
    rows = [row("vit", size, s, 0.1 * at) for at, size in enumerate((10, 100, 1000)) for s in (0, 1)]
    rows += [row("resnet", size, s, 0.15) for size in (10, 100, 1000) for s in (0, 1)]
    crossing, margins = cross_of(rows, "vit", "resnet")
    assert crossing.at == pytest.approx(10**2.5) and margins == pytest.approx([-0.15, -0.05, 0.05])


def test_claims_are_weighed_against_the_spread() -> None:
    def rows(first: list[float], second: list[float]) -> list[Row]:
        pairs = (("a", first), ("b", second))
        return [
            Row(place={"kind": kind, "seed": s}, numbers={"accuracy": v})
            for kind, vs in pairs
            for s, v in enumerate(vs)
        ]

    better = Claim("a is better", {"kind": "a"}, {"kind": "b"})
    assert "confirmed at this scale" in judge(better, rows([0.9, 0.91], [0.8, 0.81]))
    assert "not seen at this scale" in judge(better, rows([0.9, 0.7], [0.8, 0.79]))
    assert "contrary at this scale" in judge(better, rows([0.7, 0.71], [0.8, 0.81]))
    alike = Claim("alike", {"kind": "a"}, {"kind": "b"}, kind="alike")
    assert "confirmed" in judge(alike, rows([0.9, 0.7], [0.8, 0.79]))
    assert judge(Claim("c", {"kind": "c"}, {"kind": "b"}), rows([0.9], [0.8])) == ""


@pytest.mark.parametrize("kind", ["better", "alike", "no worse"])
@pytest.mark.parametrize(("first", "second"), [([0.9], [0.8]), ([0.8], [0.9]), ([0.9, 0.91], [0.8])])
def test_one_seed_cannot_tell(kind: str, first: list[float], second: list[float]) -> None:
    rows = [
        Row(place={"kind": name, "seed": seed}, numbers={"accuracy": value})
        for name, values in (("a", first), ("b", second))
        for seed, value in enumerate(values)
    ]
    said = judge(Claim("a claim", {"kind": "a"}, {"kind": "b"}, kind=kind), rows)
    assert "; one seed cannot tell: a − b: " in said and said.endswith("points, of one seed.")
    assert not any(word in said for word in ("confirmed", "contrary", "not seen"))


def test_equal_accuracy_compares_two_laws() -> None:
    """The ViT's law is the ResNet's at half the compute."""
    resnet, vit = PowerLaw(0.0, 1.0, 0.5), PowerLaw(0.0, 0.5**0.5, 0.5)
    rows = [
        Row(place={"family": f, "scale": 1.0, "length": n, "seed": 0}, numbers={"accuracy": 1 - law.error(n), "flops": n})
        for f, law in (("vit", vit), ("resnet", resnet)) for n in (10.0, 100.0, 1000.0)
    ]  # fmt: skip
    assert equal_accuracy(rows, vit, resnet).endswith("The paper: 0.25 to 0.5 times; one seed cannot tell.")
    rows += [dataclasses.replace(row, place={**row.place, "seed": 1}) for row in rows]
    said = equal_accuracy(rows, vit, resnet)
    assert "the ViT needs 0.5 times" in said and said.endswith("confirmed at this scale.")
    assert [len(one.x) for one in paper_chart().series] == [6, 7, 5]
