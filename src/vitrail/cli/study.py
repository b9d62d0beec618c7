"""`vitrail study`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from vitrail.cli.arguments import Switch, parse, run_group, say
from vitrail.cli.options import Show
from vitrail.errors import ConfigError
from vitrail.images.sources import open_data
from vitrail.reports.progress import progress
from vitrail.reports.tables import show
from vitrail.study import few_labels, noisy_student, report
from vitrail.study.pretraining import Arena, jobs, run_arena

HELP = """\
usage: vitrail study STUDY DATA …

Questions that take many runs to answer, each as one command and one report. A study that was stopped goes on with the
same command.

studies:
  pretraining  ways of pre-training: one small ViT, the same FLOPs, the same readouts
  few-labels   pre-training on all images and fine-tuning on a few labels, beside the same compute from scratch
  self-train   Noisy Student: a teacher labels images that have no label, a noised student learns from all of them

examples:
  vitrail study pretraining digits
  vitrail study few-labels fashion-mnist --labels 0.01
  vitrail study self-train ./photos --unlabelled ./more
  vitrail study STUDY --help"""


@dataclass(frozen=True, kw_only=True)
class Studied(Show):
    """The options of every study."""

    data: tyro.conf.Positional[str] = ""
    """A folder with a folder of images for each class, or a named set."""
    download: Switch = False
    """Fetch a named set, or one of the Hugging Face Hub (hf:owner/name), where it is not on this machine."""


@dataclass(frozen=True, kw_only=True)
class Pretraining(Studied, Arena):
    """Compares ways of pre-training on your images: one small ViT, the same FLOPs, the same readouts, one report.

    examples:
      vitrail study pretraining digits
      vitrail study pretraining fashion-mnist --epochs 2 --labels 0.01 --methods none supervised mae
      vitrail study pretraining digits --seeds 1 --epochs 2 --ratios
    """

    out: Path = Path("runs/study")
    """A folder for report.html and results.jsonl."""


@dataclass(frozen=True, kw_only=True)
class FewLabels(Studied, few_labels.FewLabels):
    """Pre-training on all images, then fine-tuning on a few labels; beside training on those labels for the same FLOPs.

    examples:
      vitrail study few-labels fashion-mnist --labels 0.01
      vitrail study few-labels ./photos --labels 0.1 --method simmim --seeds 5
    """

    out: Path = Path("runs/few-labels")
    """A folder for report.html, results.jsonl and the runs."""


@dataclass(frozen=True, kw_only=True)
class SelfTrain(Studied, noisy_student.SelfTrain):
    """Noisy Student: a teacher labels images that have no label, a noised student learns from all; then it is the teacher.

    examples:
      vitrail study self-train ./photos --unlabelled ./more
      vitrail study self-train digits --labels 0.1 --rounds 2
      vitrail study self-train ./photos --unlabelled ./more --threshold 0.5 --per-class 200 --no-soft
    """

    out: Path = Path("runs/self-train")
    """A folder for teacher/, student-1/, … and report.html."""


def main(words: Sequence[str]) -> int:
    studies = {"pretraining": pretraining, "few-labels": few, "self-train": self_training}
    return run_group("study", HELP, studies, words)


def pretraining(words: Sequence[str]) -> int:
    asked = parse(Pretraining, words, command="study pretraining", default=Pretraining())
    _fetch(asked.data, asked.download, "pretraining")
    with progress(len(list(jobs(asked))), "arena") as bar:

        def watch(done: int, total: int, text: str) -> None:
            bar.update(done)
            if text:
                bar.note(text)

        cells = run_arena(asked, asked.out, watch)
    page = report.write_report(asked, cells, asked.out / "report.html")
    show(report.table(cells), asked.format)
    say(f"report: {page}")
    return 0


def few(words: Sequence[str]) -> int:
    asked = parse(FewLabels, words, command="study few-labels", default=FewLabels())
    _fetch(asked.data, asked.download, "few-labels")
    arms = []
    for arm in few_labels.few_labels(asked, asked.out):
        arms.append(arm)
        say(f"{arm.way}, seed {arm.seed}: {arm.accuracy:.2%} after {arm.flops / 1e12:.3g} TFLOP, {arm.seconds:.0f} s")
    page = report.write_few_labels(asked, arms, asked.out / "report.html")
    show(report.few_labels_table(arms), asked.format)
    say(few_labels.verdict(arms))
    say(f"report: {page}")
    return 0


def self_training(words: Sequence[str]) -> int:
    asked = parse(SelfTrain, words, command="study self-train", default=SelfTrain())
    _fetch(asked.data, asked.download, "self-train")
    results = []
    for result in noisy_student.self_train(asked, asked.out):
        results.append(result)
        say(f"{result.folder.name}: {result.scores}")
    page = report.write_self_train(asked, results, asked.out / "report.html")
    show(report.self_train_table(results), asked.format)
    say(f"report: {page}")
    return 0


def _fetch(data: str, download: bool, study: str) -> None:
    """Fetches the images where that is asked for; the study opens them."""
    if not data:
        raise ConfigError("no images were named", next_step=f"try `vitrail study {study} digits`")
    if download:
        open_data(data, download=True)
