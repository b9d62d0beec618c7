"""Few labels: both ways cost the same and see the same labels; what was measured stands and is not measured again."""

import itertools
import json
from pathlib import Path

import pytest

from tests.support.stopping import stopped_at
from vitrail.cli import main
from vitrail.errors import ConfigError, Preempted
from vitrail.images.sources import open_data
from vitrail.recipes.request import Given
from vitrail.study.cells import Row
from vitrail.study.label_questions import FewLabels
from vitrail.study.label_shares import answer, plan_runs, verdict
from vitrail.study.subsets import take_number, take_share

pytestmark = pytest.mark.flow

TINY = FewLabels(data="digits", labels=0.05, seeds=1, epochs=0.3, tuning=3, device="cpu", workers=0, at_once=1)


def test_a_share_of_labels_is_of_every_class_and_the_seeds_own() -> None:
    source = open_data("digits").train
    few = take_share(source, 0.05, 0)
    assert (few.counts == (0.05 * source.counts).round()).all() and set(few.keys) <= set(source.keys)
    assert list(few.keys) == list(take_share(source, 0.05, 0).keys) != list(take_share(source, 0.05, 1).keys)
    assert (take_share(source, 1e-9, 0).counts == 1).all()


def test_subsets_are_nested_and_balanced() -> None:
    source = open_data("digits").train
    parts = [take_number(source, images, 3) for images in (10, 57, 600, len(source))]
    for part, images in zip(parts, (10, 57, 600, len(source)), strict=True):
        assert len(part) == images and (images == len(source) or part.counts.max() - part.counts.min() <= 1)
    for small, large in itertools.pairwise(parts):
        assert set(small.keys) < set(large.keys)
    assert list(parts[-1].keys) == list(source.keys)


def test_both_ways_cost_the_same_to_a_steps_worth(in_folder: Path) -> None:
    arms = {row["way"]: row for row in answer(TINY).rows}
    assert list(arms) == ["mae", "from scratch"] and len({row["images"] for row in arms.values()}) == 1
    given = Given(images=1438, classes=10, shape=(8, 8, 1))
    _, _, scratch = plan_runs(TINY, given, arms["mae"]["images"], 0)
    step = arms["from scratch"]["flops"] / int(scratch.length.split()[0])
    assert abs(arms["mae"]["flops"] - arms["from scratch"]["flops"]) <= step / 2 + 1


def test_it_stops_on_a_signal_and_the_same_command_goes_on(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--labels", "0.05", "--seeds", "1", "--epochs", "0.3", "--tuning", "3"]
    words = ["study", "few-labels", "digits", *asked, "--json", "--at-once", "1"]
    assert main([*words, "--out", "whole", "--device", "cpu"]) == 0
    whole = json.loads(capsys.readouterr().out)
    with stopped_at(2):
        assert main([*words, "--out", "halved", "--device", "cpu"]) == Preempted.exit_code
        assert "the same command goes on from there" in capsys.readouterr().err
    assert main([*words, "--out", "halved", "--device", "cpu"]) == 0
    halved = json.loads(capsys.readouterr().out)
    rows = [[row["accuracy %"] for row in table] for table in (whole, halved)]
    assert rows[0] == rows[1] and len(rows[0]) == 2 and (in_folder / "halved/report.html").exists()


def test_the_verdict_weighs_the_margin_against_the_spread() -> None:
    def arms(ours: list[float], theirs: list[float]) -> list[Row]:
        pairs = [("mae", ours), ("from scratch", theirs)]
        return [
            Row(place={"way": way, "seed": seed}, numbers={"accuracy": accuracy})
            for way, values in pairs
            for seed, accuracy in enumerate(values)
        ]

    assert verdict(arms([0.80, 0.82], [0.70, 0.71])) == (
        "mae − from scratch: +10.50 points, more than the larger spread over seeds, 1.41"
    )
    assert "+0.50 points, no more than" in verdict(arms([0.70, 0.72], [0.70, 0.71]))
    assert verdict(arms([0.7], [0.8])).endswith("-10.00 points, of one seed")


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ConfigError, match=r"labels = 0\.0; allowed: a share above 0"):
        FewLabels(data="digits", labels=0.0)
