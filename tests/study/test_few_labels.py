"""Few labels: both ways cost the same and see the same labels; what was measured stands and is not measured again."""

import json
from pathlib import Path

import pytest

from tests.support.stopping import stopped_at
from vitrail.cli import main
from vitrail.errors import ConfigError, Preempted
from vitrail.images.sources import open_data
from vitrail.recipes.request import Given
from vitrail.study.few_labels import Arm, FewLabels, few_labels, plan_arms, verdict
from vitrail.study.protocols import label_share
from vitrail.training.run import Hardware

pytestmark = pytest.mark.flow

TINY = FewLabels(
    data="digits", labels=0.05, seeds=1, epochs=0.3, tuning=3, hardware=Hardware(device="cpu", threads=1, workers=0)
)


def test_a_share_of_labels_is_of_every_class_and_the_seeds_own() -> None:
    source = open_data("digits").train
    few = label_share(source, 0.05, 0)
    assert (few.counts == (0.05 * source.counts).round()).all() and set(few.keys) <= set(source.keys)
    assert list(few.keys) == list(label_share(source, 0.05, 0).keys) != list(label_share(source, 0.05, 1).keys)
    assert (label_share(source, 1e-9, 0).counts == 1).all()


def test_both_ways_cost_the_same_to_a_steps_worth(tmp_path: Path) -> None:
    arms = {arm.way: arm for arm in few_labels(TINY, tmp_path)}
    assert list(arms) == ["mae", "from scratch"] and len({arm.labelled for arm in arms.values()}) == 1
    given = Given(images=1438, classes=10, shape=(8, 8, 1))
    _, _, scratch = plan_arms(TINY, given, arms["mae"].labelled, 0)
    step = arms["from scratch"].flops / int(scratch.length.split()[0])
    assert abs(arms["mae"].flops - arms["from scratch"].flops) <= step / 2 + 1


def test_it_stops_on_a_signal_and_the_same_command_goes_on(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--labels", "0.05", "--seeds", "1", "--epochs", "0.3", "--tuning", "3"]
    words = ["study", "few-labels", "digits", *asked, "--json", "--hardware.threads", "1"]
    assert main([*words, "--out", "whole", "--hardware.device", "cpu"]) == 0
    whole = json.loads(capsys.readouterr().out)
    with stopped_at(2):
        assert main([*words, "--out", "halved", "--hardware.device", "cpu"]) == Preempted.exit_code
        assert "the same command goes on from there" in capsys.readouterr().err
    assert main([*words, "--out", "halved", "--hardware.device", "cpu"]) == 0
    halved = json.loads(capsys.readouterr().out)
    rows = [[row["held-out accuracy, %"] for row in (t["rows"] if isinstance(t, dict) else t)] for t in (whole, halved)]
    assert rows[0] == rows[1] and (in_folder / "halved/report.html").exists()


def test_the_verdict_weighs_the_margin_against_the_spread() -> None:
    def arms(ours: list[float], theirs: list[float]) -> list[Arm]:
        pairs = [("mae", ours), ("from scratch", theirs)]
        return [
            Arm(way=way, seed=seed, labelled=10, flops=1.0, seconds=1.0, accuracy=accuracy)
            for way, values in pairs
            for seed, accuracy in enumerate(values)
        ]

    assert verdict(arms([0.80, 0.82], [0.70, 0.71])) == (
        "mae − from scratch: +10.50 points, more than the larger spread over seeds, 1.41"
    )
    assert "+0.50 points, no more than" in verdict(arms([0.70, 0.72], [0.70, 0.71]))
    assert verdict(arms([0.7], [0.8])).endswith("-10.00 points, of one seed")


def test_what_cannot_be_asked() -> None:
    with pytest.raises(ConfigError, match="a share of the labels above 0"):
        FewLabels(data="digits", labels=0.0)
    with pytest.raises(ConfigError, match="no method 'may'"):
        FewLabels(data="digits", method="may")
