"""A model of timm in a training, as a bundle, in probes, comparisons and predictions, as any other family."""

from pathlib import Path

import pytest

import vitrail
from vitrail.cli import main

pytest.importorskip("timm")


@pytest.mark.flow
def test_a_run_of_a_timm_model_trains_scores_predicts_and_is_probed(in_folder: Path, capsys) -> None:
    words = ["train", "digits", "--model", "timm:test_resnet", "--length", "2 steps", "--batch-size", "8"]
    assert main([*words, "--preprocess.size", "32", "32", "--out", "run", "--hardware.device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "test_resnet" in (in_folder / "run/run.json").read_text(), said
    model = vitrail.load("run")
    assert model.config.name == "test_resnet" and model.config.classes == 10
    assert main(["probe", "run", "digits", "--protocols", "knn", "--device", "cpu"]) == 0
    assert "features on digits" in capsys.readouterr().out
    assert main(["evaluate", "run", "digits", "--device", "cpu"]) == 0
    assert "359 images that were not trained on" in capsys.readouterr().err
    assert main(["inspect", "run", "digits", "--out", "page", "--device", "cpu"]) == 0
    assert (in_folder / "page/report.html").is_file()
