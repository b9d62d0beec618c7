"""Questions that take many runs to answer, each as one command, one function and one report.

    from vitrail import study

    answer = study.grid("digits", vary={"optim.lr": [1e-3, 3e-3]}, seeds=3)
    answer.table, answer.rows, answer.says, answer.page

Each function takes the images first, and the settings of its question by name (`questions.py`). The same call goes on
where it was stopped, and adds what is new: more seeds, more values.
"""

import importlib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, get_args, get_origin, get_type_hints

from vitrail.arguments import check_values
from vitrail.errors import ConfigError
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
    importlib.import_module("vitrail.study.cells").open_labelled.cache_clear()  # images may have changed since
    return importlib.import_module(f"vitrail.study.{ANSWERED_BY[asked.name]}").answer(asked)


def _function_of(kind: Callable[P, Question]) -> "Callable[P, Answer]":
    """The study as a function of its images and the settings of its question. Another kind of value is a ConfigError."""
    signature, hints = inspect.signature(kind), get_type_hints(kind)

    def ask(*words: P.args, **settings: P.kwargs) -> "Answer":
        given = signature.bind(*words, **settings)
        given.arguments = {name: as_setting(value, hints[name]) for name, value in given.arguments.items()}
        check_values(given.arguments, hints)
        return answer(kind(*given.args, **given.kwargs))

    ask.__doc__ = kind.__doc__
    return ask


def as_setting(value: Any, kind: Any) -> Any:
    """A value as a question holds it: one value of several as a tuple of one. ConfigError for a table that is none."""
    value, origin = as_json(value), get_origin(kind)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise ConfigError(f"{value!r} in place of names and their values", allowed="a dict")
        inner = get_args(kind)[1]
        found = {name: as_setting(one, inner) for name, one in value.items()}
        check_values(found, dict.fromkeys(found, inner))
        return found
    return (value,) if origin in (tuple, Sequence) and not isinstance(value, tuple) else value


def as_json(value: Any) -> Any:
    """Lists and arrays as tuples, numpy's numbers as Python's, paths as text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {name: as_json(one) for name, one in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    return tuple(map(as_json, value)) if isinstance(value, list | tuple) else value


pretraining = _function_of(Pretraining)
few_labels = _function_of(FewLabels)
self_train = _function_of(SelfTrain)
grid = _function_of(Grid)
ablation = _function_of(Ablation)
data_size = _function_of(DataSize)
compute = _function_of(Compute)
transfer = _function_of(Transfer)
search = _function_of(Search)
