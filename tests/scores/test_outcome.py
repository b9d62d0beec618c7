"""The headline of an outcome beside cheap answers."""

import pytest

from vitrail.scores.outcome import Headline


@pytest.mark.parametrize(
    ("value", "higher", "cheap", "said"),
    [
        (0.5, True, {"majority": 0.4, "neighbours": 0.6}, "the model is worse than neighbours (50.00% against 60.0%)"),
        (0.5, True, {"majority": 0.4, "neighbours": 0.5}, ""),
        (0.5, False, {"mean": 0.4, "neighbours": 0.6}, "the model is worse than mean (0.5 against 0.4)"),
        (0.5, False, {"mean": 0.5 - 1e-8}, ""),
        (0.5, True, {}, ""),
    ],
)
def test_a_cheap_answer_that_is_better_is_said(value: float, higher: bool, cheap: dict, said: str) -> None:
    assert Headline("score", value, percent=higher, higher_is_better=higher).warn(cheap) == said
