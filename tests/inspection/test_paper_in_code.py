"""The page "The paper in code": what it names is there, and every row of the trace that has an equation is on it."""

import importlib
import re
from pathlib import Path

import torch

import vitrail

PAGE = Path(__file__).parents[2] / "docs/concepts/paper-in-code.md"
LINES = [line.split(" | ") for line in PAGE.read_text("utf-8").splitlines() if re.match(r"\| \d", line)]


def test_the_code_of_each_equation_is_there() -> None:
    for *_, code, _rows in LINES:
        *module, first = re.split(r"\.(?=[A-Z]|attend)", code.strip("`"))
        found = importlib.import_module(f"vitrail.{module[0]}")
        for name in first.split("."):
            found = getattr(found, name)
        assert callable(found)


def test_the_page_names_every_step_that_has_an_equation() -> None:
    model = vitrail.build("vit-mu/16", image=32, classes=3)
    steps = {step.name: step.equation for step in vitrail.trace(model, torch.zeros(1, 3, 32, 32)) if step.equation}
    named = {name: line[0].strip("| ") for line in LINES for name in re.findall(r"`([^`]+)`", line[-1])}
    assert named.keys() == steps.keys()
    assert [name for name, equation in steps.items() if equation not in named[name]] == []
