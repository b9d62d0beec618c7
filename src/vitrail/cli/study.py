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
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

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

    kind: ClassVar[type[Question]]
    """Its question."""

    def values(self) -> dict[str, Any]:
        """The settings of the question."""
        return {part.name: getattr(self, part.name) for part in fields(self.kind) if hasattr(self, part.name)}

    def read_file(self) -> dict[str, Any]:
        """The settings in a file that was named in place of the images; none without one."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Grid(Studied, questions.Cells):
    """Your own table: every combination of the values that vary, each with several seeds.

    Values of a run are named as in `vitrail train`; also recipe, model, weights, epochs, and images (how many to train on).
    A file FILE.toml in place of DATA holds the same settings: data, seeds, [vary] and [fixed]. Options that are typed go
    before those of the file.

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

    kind = questions.Grid

    def values(self) -> dict[str, Any]:
        """Those of words NAME=VALUES, which go before those of a file."""
        vary, fixed, read = read_each(self.vary), read_fixed(self.set), self.read_file()
        vary = {name: one for name, one in read.get("vary", {}).items() if name not in fixed} | vary
        fixed = {name: one for name, one in read.get("fixed", {}).items() if name not in vary} | fixed
        return super().values() | {"vary": vary, "fixed": fixed, "data": read.get("data", self.data)}

    def read_file(self) -> dict[str, Any]:
        return read_toml(Path(self.data)) if self.data.endswith(".toml") else {}


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

    kind = questions.Ablation


@dataclass(frozen=True, kw_only=True)
class DataSize(Studied, questions.DataSize):
    """How accuracy follows the number of training images: CNN, ViT and hybrid of the same cost (Figures 3 and 4).

    examples:
      vitrail study data-size fashion-mnist --sizes 600 2000 6000 20000 60000
      vitrail study data-size ./photos --models vit vit*4 resnet hybrid --reading regularised
    """

    kind = questions.DataSize


@dataclass(frozen=True, kw_only=True)
class Compute(Studied, questions.Compute):
    """How accuracy follows the compute of training: families × sizes × lengths, in exaFLOPs (Figure 5, Table 6).

    examples:
      vitrail study compute fashion-mnist
      vitrail study compute ./photos --scales 1 4 16 --lengths 0.1 1 10 --few-shot digits
    """

    kind = questions.Compute


@dataclass(frozen=True, kw_only=True)
class Transfer(Studied, questions.Transfer):
    """Checkpoints fine-tuned on many sets, the rate chosen on held-out training images (Tables 2 and 5).

    examples:
      vitrail study transfer digits,./leaves --models runs/photos-1 vit-b16.npz --scratch
      vitrail study transfer digits --models runs/fashion-mnist-1 --length "5 epochs" --rates 1
    """

    data: tyro.conf.Positional[str] = ""
    """Sets with commas between: folders of labelled images, or named sets."""

    kind = questions.Transfer


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

    kind = questions.Search

    def values(self) -> dict[str, Any]:
        """Those of words NAME=RANGE."""
        return super().values() | {"space": split_words(self.space), "fixed": read_fixed(self.set)}


@dataclass(frozen=True, kw_only=True)
class Pretraining(Studied, label_questions.Pretraining):
    """Compares ways of pre-training on your images: one small ViT, the same FLOPs, the same readouts, one report.

    examples:
      vitrail study pretraining digits
      vitrail study pretraining fashion-mnist --epochs 2 --labels 0.01 --methods none supervised mae
      vitrail study pretraining digits --seeds 1 --epochs 2 --ratios
    """

    kind = label_questions.Pretraining


@dataclass(frozen=True, kw_only=True)
class FewLabels(Studied, label_questions.FewLabels):
    """Pre-training on all images, then fine-tuning on a few labels; compared with those labels alone for the same FLOPs.

    examples:
      vitrail study few-labels fashion-mnist --labels 0.01
      vitrail study few-labels ./photos --labels 0.1 --method simmim --seeds 5
    """

    kind = label_questions.FewLabels


@dataclass(frozen=True, kw_only=True)
class SelfTrain(Studied, label_questions.SelfTrain):
    """Noisy Student: a teacher labels images that have no label, a noised student learns from all; then it is the teacher.

    examples:
      vitrail study self-train ./photos --unlabelled ./more
      vitrail study self-train digits --labels 0.1 --rounds 2
      vitrail study self-train ./photos --unlabelled ./more --teacher runs/photos-1
      vitrail study self-train ./photos --unlabelled ./more --threshold 0.5 --per-class 200 --no-soft
    """

    kind = label_questions.SelfTrain


def main(words: Sequence[str]) -> int:
    return run_group("study", __doc__ or "", {name: command(kind) for name, kind in STUDIES.items()}, words)


def command(kind: type[Studied]) -> Any:
    """The function of a study's command, with its docstring."""
    run = partial(ask, kind)
    run.__doc__ = kind.__doc__
    return run


def ask(kind: type[Studied], words: Sequence[str]) -> int:
    """Reads the options, answers the question, prints the table and what it shows."""
    asked = parse(kind, words, command=f"study {kind.kind.name}", default=unchecked(kind), check=False)
    if read := {name: one for name, one in asked.read_file().items() if name not in ("data", "vary", "fixed")}:
        asked = parse(kind, words, command=f"study {kind.kind.name}", default=unchecked(kind, **read), check=False)
    question = kind.kind(**asked.values())
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


def unchecked(kind: type[Any], **values: Any) -> Any:
    """These values and the defaults, before any images are named."""
    loose = type(kind.__name__, (kind,), {"__post_init__": lambda self: None, "__doc__": kind.__doc__})
    return loose(**values)


def read_fixed(words: Sequence[str]) -> dict[str, Any]:
    """The values of words NAME=VALUE. ConfigError for several values of one name."""
    found = read_each(words)
    if several := [name for name, values in found.items() if len(values) > 1]:
        name = several[0]
        raise ConfigError(
            f"{name} is fixed and has {len(found[name])} values",
            allowed=f"{name}=VALUE; a list has brackets: {name}=[A,B]",
        )
    return {name: values[0] for name, values in found.items()}


def read_each(words: Sequence[str]) -> dict[str, list[Any]]:
    """The values of words NAME=VALUE,VALUE: JSON where they are JSON, else text."""
    found: dict[str, list[Any]] = {}
    for name, text in split_words(words).items():
        try:
            found[name] = json.loads(f"[{text}]")
        except ValueError:
            found[name] = [questions.read_word(part.strip()) for part in text.split(",")]
    return found


def split_words(words: Sequence[str]) -> dict[str, str]:
    """The text behind each name of words NAME=TEXT. ConfigError for a word without both, and for a name twice."""
    found: dict[str, str] = {}
    for word in words:
        name, _, text = word.partition("=")
        if not name or not text:
            raise ConfigError(f"{word!r} names no value", allowed="NAME=VALUE or NAME=VALUE,VALUE")
        if name in found:
            raise ConfigError(f"{name} is named twice", allowed=f"{name} once, its values with commas between")
        found[name] = text
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a grid in a file. Raises ConfigError for one that is damaged, and for names that are not there."""
    from vitrail import config

    data = config.read_toml(path, next_step="see `vitrail study grid --help`")
    read = config.from_dict(questions.Grid, data, where=str(path))
    return {name: getattr(read, name) for name in data}


STUDIES: dict[str, type[Studied]] = {
    one.kind.name: one
    for one in (Grid, Ablation, DataSize, Compute, Transfer, Search, Pretraining, FewLabels, SelfTrain)
}
