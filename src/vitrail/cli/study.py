"""Questions that take many runs to answer, each as one command and one report.

The same command goes on where it was stopped, and adds what is new: more seeds, more values.

examples:
  vitrail study grid digits --vary optim.lr=1e-3,3e-3 --vary model.depth=2,4
  vitrail study data-size fashion-mnist
  vitrail study ablation positions digits
  vitrail study pretraining digits
  vitrail study few-labels fashion-mnist --labels 0.01
  vitrail study self-train ./photos --unlabelled ./more
"""

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from vitrail import config
from vitrail.cli.arguments import Switch, parse, run_group, say
from vitrail.cli.options import Show
from vitrail.errors import ConfigError
from vitrail.reports.tables import show
from vitrail.study import label_questions, questions
from vitrail.study.questions import Question

Words = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(frozen=True, kw_only=True)
class Studied(Show):
    """The options of every study."""

    data: tyro.conf.Positional[str] = ""
    """A folder with a folder of images for each class, or a named set."""
    download: Switch = False
    """Fetch a named set, or one of the Hugging Face Hub (hf:owner/name), where it is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Grid(Studied, questions.Cells):
    """Your own table: every combination of the values that vary, each with several seeds.

    Values of a run are named as in `vitrail train`; also recipe, model, weights, epochs, and images (how many to train on).
    A file FILE.toml in place of DATA holds the same settings: data, seeds, [vary] and [fixed].

    examples:
      vitrail study grid digits --vary optim.lr=1e-3,3e-3 --vary model.depth=2,4 --set epochs=20
      vitrail study grid fashion-mnist --vary model=vit-ti/4,r50x1 --vary images=600,6000 --set size=28 --seeds 3
      vitrail study grid my_grid.toml --at-once 2
    """

    vary: Words = ()
    """NAME=VALUE,VALUE: values to combine with all others."""
    set: Words = ()
    """NAME=VALUE: a value of all cells."""
    readouts: tuple[str, ...] = ()
    """More than the held-out accuracy: 5-shot, 10-NN, linear; with @DATA on other images."""


@dataclass(frozen=True, kw_only=True)
class Which:
    """Comes before the images on the command line."""

    which: tyro.conf.Positional[questions.AblationName] = "positions"


@dataclass(frozen=True, kw_only=True)
class Ablation(Studied, questions.Ablation, Which):
    """One choice of the paper's appendix, changed while all else stays; the published numbers stand in the report.

    examples:
      vitrail study ablation positions fashion-mnist
      vitrail study ablation equivariance digits --seeds 5 --steps 1000
    """

    which: tyro.conf.Positional[questions.AblationName] = "positions"
    """positions (Table 8), head (Figure 9), optimiser (Table 7), shape (Figure 8), resolution, patch-order, equivariance
    or regularisation."""


@dataclass(frozen=True, kw_only=True)
class DataSize(Studied, questions.DataSize):
    """How accuracy follows the number of training images: CNN, ViT and hybrid of the same cost (Figures 3 and 4).

    examples:
      vitrail study data-size fashion-mnist --sizes 600 2000 6000 20000 60000
      vitrail study data-size ./photos --models vit vit*4 resnet hybrid --reading regularised
    """


@dataclass(frozen=True, kw_only=True)
class Compute(Studied, questions.Compute):
    """How accuracy follows the compute of training: families × sizes × lengths, in exaFLOPs (Figure 5, Table 6).

    examples:
      vitrail study compute fashion-mnist
      vitrail study compute ./photos --scales 1 4 16 --lengths 0.1 1 10 --few-shot digits
    """


@dataclass(frozen=True, kw_only=True)
class Transfer(Studied, questions.Transfer):
    """Checkpoints fine-tuned on many sets, the rate chosen on held-out training images (Tables 2 and 5).

    examples:
      vitrail study transfer digits,./leaves --models runs/photos-1 vit-b16.npz --scratch
      vitrail study transfer digits --models runs/fashion-mnist-1 --length "5 epochs" --rates 1
    """

    data: tyro.conf.Positional[str] = ""
    """Sets with commas between: folders of labelled images, or named sets."""


@dataclass(frozen=True, kw_only=True)
class Search(Studied, questions.Question):
    """The best settings of a space, by Optuna, scored on held-out training images; the test images judge the best alone.

    examples:
      vitrail study search digits --space "optim.lr=log 1e-4..1e-2" --space model.depth=2..6 --set epochs=10
      vitrail study search ./photos --space "optim.weight_decay=log 1e-3..1" --space augment.flip=true,false --trials 40
    """

    space: Words = ()
    """NAME=RANGE: 1e-4..1e-2, "log 1e-4..1e-2", 2..8, or A,B,C."""
    set: Words = ()
    """NAME=VALUE: a value of all trials."""
    trials: int = 20
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Pretraining(Studied, label_questions.Pretraining):
    """Compares ways of pre-training on your images: one small ViT, the same FLOPs, the same readouts, one report.

    examples:
      vitrail study pretraining digits
      vitrail study pretraining fashion-mnist --epochs 2 --labels 0.01 --methods none supervised mae
      vitrail study pretraining digits --seeds 1 --epochs 2 --ratios
    """


@dataclass(frozen=True, kw_only=True)
class FewLabels(Studied, label_questions.FewLabels):
    """Pre-training on all images, then fine-tuning on a few labels; compared with those labels alone for the same FLOPs.

    examples:
      vitrail study few-labels fashion-mnist --labels 0.01
      vitrail study few-labels ./photos --labels 0.1 --method simmim --seeds 5
    """


@dataclass(frozen=True, kw_only=True)
class SelfTrain(Studied, label_questions.SelfTrain):
    """Noisy Student: a teacher labels images that have no label, a noised student learns from all; then it is the teacher.

    examples:
      vitrail study self-train ./photos --unlabelled ./more
      vitrail study self-train digits --labels 0.1 --rounds 2
      vitrail study self-train ./photos --unlabelled ./more --threshold 0.5 --per-class 200 --no-soft
    """


def main(words: Sequence[str]) -> int:
    return run_group("study", __doc__ or "", {name: command(*known) for name, known in STUDIES.items()}, words)


def command(about: str, words: type[Studied], kind: type[Question], make: Callable[..., Question]) -> Any:
    """The function of a study's command; its docstring is its line in the help of the group."""
    run = partial(ask, words, kind, make)
    run.__doc__ = about
    return run


def ask(words: type[Studied], kind: type[Question], make: Callable[..., Question], given: Sequence[str]) -> int:
    """Reads the options, answers the question, prints the table and what it shows."""
    asked: Any = parse(words, given, command=f"study {kind.name}", default=unchecked(words), check=False)
    question = make(kind, asked)
    from vitrail import study
    from vitrail.images.sources import open_data

    if asked.download:
        for data in getattr(question, "sets", [question.data]):
            open_data(data, download=True)
    answer = study.answer(question)
    show(answer.table, asked.format)
    say(answer.says)
    for place, why in answer.failed.items():
        say(f"failed: {place}: {why}")
    say(f"report: {answer.page.as_posix()}")
    return answer.exit_code


def unchecked(kind: type[Any]) -> Any:
    """The defaults, before any images are named."""
    loose = type(kind.__name__, (kind,), {"__post_init__": lambda self: None, "__doc__": kind.__doc__})
    return loose()


def question_of(kind: type[Question], asked: Any) -> Question:
    """The question in the options that are its settings."""
    return kind(**{part.name: getattr(asked, part.name) for part in fields(kind)})


def grid_of(kind: type[Question], asked: Any) -> Question:
    """The grid of words NAME=VALUES, or of a file."""
    values = {part.name: getattr(asked, part.name) for part in fields(kind) if hasattr(asked, part.name)}
    values |= {"vary": dict(map(read_values, asked.vary)), "fixed": {n: v[0] for n, v in map(read_values, asked.set)}}
    if asked.data.endswith(".toml"):
        values |= read_toml(Path(asked.data))
    return kind(**values)


def search_of(kind: type[Question], asked: Any) -> Question:
    """The search of words NAME=RANGE."""
    values = {part.name: getattr(asked, part.name) for part in fields(kind) if hasattr(asked, part.name)}
    space = {name: text for name, _, text in (word.partition("=") for word in asked.space)}
    return kind(**values | {"space": space, "fixed": {n: v[0] for n, v in map(read_values, asked.set)}})


def read_values(word: str) -> tuple[str, list[Any]]:
    """ "optim.lr=1e-3,3e-3" as a name and its values: JSON where they are JSON, else text."""
    name, equals, text = word.partition("=")
    if not equals or not text:
        raise ConfigError(f"{word!r} names no value", allowed="NAME=VALUE or NAME=VALUE,VALUE")
    try:
        return name, json.loads(f"[{text}]")
    except ValueError:
        return name, [_plain(part.strip()) for part in text.split(",")]


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_toml(path: Path) -> Mapping[str, Any]:
    """The settings of a grid in a file. Raises ConfigError for one that is damaged, and for names that are not there."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a readable TOML file ({error})", next_step="see `vitrail study grid --help`"
        ) from None
    read = config.from_dict(questions.Grid, data, where=str(path))
    return {name: getattr(read, name) for name in data}


STUDIES: dict[str, tuple[str, Any, type[Question], Callable[..., Question]]] = {
    "grid": ("DATA · your own table: every combination of the values you name", Grid, questions.Grid, grid_of),
    "ablation": (
        "NAME DATA · one choice of the paper's appendix, with the published numbers",
        Ablation, questions.Ablation, question_of,
    ),
    "data-size": (
        "DATA · accuracy over the number of training images: ViT, CNN and hybrid of the same cost",
        DataSize, questions.DataSize, question_of,
    ),
    "compute": (
        "DATA · accuracy over the compute of training: families, sizes and lengths",
        Compute, questions.Compute, question_of,
    ),
    "transfer": (
        "DATA,DATA · checkpoints fine-tuned on many sets, with the published numbers",
        Transfer, questions.Transfer, question_of,
    ),
    "search": (
        "DATA · the best settings of a space, by Optuna, scored on held-out training images",
        Search, questions.Search, search_of,
    ),
    "pretraining": (
        "DATA · ways of pre-training: one small ViT, the same FLOPs, the same readouts",
        Pretraining, label_questions.Pretraining, question_of,
    ),
    "few-labels": (
        "DATA · pre-training on all images and fine-tuning on a few labels, against the same compute from scratch",
        FewLabels, label_questions.FewLabels, question_of,
    ),
    "self-train": (
        "DATA · Noisy Student: a teacher labels images that have no label, a noised student learns from all of them",
        SelfTrain, label_questions.SelfTrain, question_of,
    ),
}  # fmt: skip
"""The options of each study, its question, and how the one becomes the other."""
