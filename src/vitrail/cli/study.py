"""Questions that take many runs to answer, each as one command and one report.

A study that was stopped goes on with the same command.

examples:
  vitrail study pretraining digits
  vitrail study few-labels fashion-mnist --labels 0.01
  vitrail study self-train ./photos --unlabelled ./more
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tyro

from vitrail.cli.arguments import Switch, parse, run_group, say
from vitrail.cli.options import Show
from vitrail.errors import ConfigError
from vitrail.images.sources import open_data
from vitrail.reports.progress import progress
from vitrail.reports.tables import Table, show
from vitrail.study import few_labels, noisy_student, report
from vitrail.study.pretraining import Arena, jobs, run_arena

K = TypeVar("K", bound="Studied")


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
    return run_group("study", __doc__ or "", studies, words)


def pretraining(words: Sequence[str]) -> int:
    """DATA · ways of pre-training: one small ViT, the same FLOPs, the same readouts"""
    asked = start("pretraining", Pretraining(), words)
    with progress(len(list(jobs(asked))), "arena") as bar:

        def watch(done: int, total: int, text: str) -> None:
            bar.update(done)
            if text:
                bar.note(text)

        cells = run_arena(asked, asked.out, watch)
    return end(asked, report.table(cells), report.write_report(asked, cells, asked.out / "report.html"))


def few(words: Sequence[str]) -> int:
    """DATA · pre-training on all images and fine-tuning on a few labels, beside the same compute from scratch"""
    asked, arms = start("few-labels", FewLabels(), words), []
    for arm in few_labels.few_labels(asked, asked.out):
        arms.append(arm)
        say(f"{arm.way}, seed {arm.seed}: {arm.accuracy:.2%} after {arm.flops / 1e12:.3g} TFLOP, {arm.seconds:.0f} s")
    page = report.write_few_labels(asked, arms, asked.out / "report.html")
    return end(asked, report.few_labels_table(arms), page, few_labels.verdict(arms))


def self_training(words: Sequence[str]) -> int:
    """DATA · Noisy Student: a teacher labels images that have no label, a noised student learns from all of them"""
    asked, results = start("self-train", SelfTrain(), words), []
    for result in noisy_student.self_train(asked, asked.out):
        results.append(result)
        say(f"{result.folder.name}: {result.scores}")
    page = report.write_self_train(asked, results, asked.out / "report.html")
    return end(asked, report.self_train_table(results), page)


def start(study: str, default: K, words: Sequence[str]) -> K:
    """The options of a study; its images are fetched where that is asked for, and the study opens them."""
    asked = parse(type(default), words, command=f"study {study}", default=default)
    if not asked.data:
        raise ConfigError("no images were named", next_step=f"try `vitrail study {study} digits`")
    if asked.download:
        open_data(asked.data, download=True)
    return asked


def end(asked: Studied, found: Table, page: Path, *sentences: str) -> int:
    show(found, asked.format)
    for sentence in (*sentences, f"report: {page}"):
        say(sentence)
    return 0
