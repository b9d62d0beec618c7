"""Questions that take many runs to answer, each as one command, one function and one report.

    from vitrail import study

    answer = study.grid("digits", vary={"optim.lr": [1e-3, 3e-3]}, seeds=3)
    answer.table, answer.rows, answer.says, answer.page

Each function takes the settings of its question (`questions.py`). The same call goes on where it was stopped, and adds
what is new: more seeds, more values.
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec

from vitrail.study.label_questions import FewLabels, Pretraining, SelfTrain
from vitrail.study.questions import Ablation, Compute, DataSize, Grid, Question, Search, Transfer

if TYPE_CHECKING:
    from vitrail.study.report import Answer

P = ParamSpec("P")

ANSWERED_BY = {
    "pretraining": "arena",
    "few-labels": "label_shares",
    "self-train": "noisy_student",
    "grid": "variations",
    "ablation": "ablations",
    "data-size": "data_sizes",
    "compute": "compute_scaling",
    "transfer": "fine_tuning",
    "search": "optuna_search",
}
"""The module that answers each question."""


def answer(asked: Question) -> "Answer":
    """Computes what is missing, and writes the report. Raises ConfigError where the folder answers another question."""
    return importlib.import_module(f"vitrail.study.{ANSWERED_BY[asked.name]}").answer(asked)


def _function_of(kind: Callable[P, Question]) -> "Callable[P, Answer]":
    """The study as a function, with the settings of its question as keywords."""

    def ask(*words: P.args, **settings: P.kwargs) -> "Answer":
        return answer(kind(*words, **settings))

    ask.__doc__ = kind.__doc__
    return ask


pretraining = _function_of(Pretraining)
few_labels = _function_of(FewLabels)
self_train = _function_of(SelfTrain)
grid = _function_of(Grid)
ablation = _function_of(Ablation)
data_size = _function_of(DataSize)
compute = _function_of(Compute)
transfer = _function_of(Transfer)
search = _function_of(Search)
