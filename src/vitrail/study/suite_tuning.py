"""Fine-tuning as a protocol of a suite: for VTAB as the ViT paper's Table 4 does it, 2,500 steps on 1000 images.

Where the suite names several learning rates, each is tried on the 800 images and judged by the 200 (for data of one's
own: by a fifth of the training images); the best is trained on all 1000 and meets the test set once for each seed."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from vitrail.errors import ConfigError
from vitrail.evaluation.probing import Row, row_of
from vitrail.hardware import Hardware
from vitrail.images.heldout import split
from vitrail.images.samples import Splits
from vitrail.recipes import Given, Pretrained, recipe
from vitrail.study.cells import train_to_end
from vitrail.study.suite_file import FineTune, ModelEntry, Opened
from vitrail.training.run import Run, steps
from vitrail.weights.bundle import read_record
from vitrail.weights.encoder import encoder_config

HELD_OUT = 0.2
"""Share of the training images to choose a learning rate by: VTAB's 200 of 1000."""


@dataclass(frozen=True, kw_only=True)
class Tuner:
    """Trains a suite's models on its tasks, every training in a run folder of its own, which goes on if it was stopped."""

    settings: FineTune
    seeds: int
    hardware: Hardware
    say: Callable[[str], object]

    def __call__(self, entry: ModelEntry, task: Opened, folder: Path) -> Row:
        """Test accuracy over the seeds; Row.images are those of the final training."""
        run = run_of(entry.path, task, self.settings, self.hardware)
        rates = self.settings.lr or (run.optim.lr,)
        lr = rates[0] if len(rates) == 1 else self.choose_rate(run, rates, task, folder)
        splits = Splits(task.parts["train"], task.parts["test"], "all images to learn from; the test set")
        right, tested = [], len(splits.test)
        for seed in range(self.seeds):
            self.say(f"  trains on {len(splits.train):,} images, lr {lr:g}, seed {seed}")
            tuned = replace(run, seed=seed, optim=replace(run.optim, lr=lr))
            scores = train_to_end(tuned, folder / f"seed-{seed}", splits).scores
            right.append(round(scores.headline.value * scores.images))
        if not self.settings.keep:
            self.clear(folder)
        total = steps(run.length, steps_per_epoch=len(splits.train) / run.batch_size)
        setting = f"{total:,} steps, {run.preprocess.size[1]} px"
        return row_of("fine-tuned", setting, right, len(splits.train), tested, note(lr, rates))

    def choose_rate(self, run: Run, rates: tuple[float, ...], task: Opened, folder: Path) -> float:
        """The learning rate that does best on the images held out from training."""
        splits = Splits(*task.tuning, "to choose by") if task.tuning else split(task.parts["train"], HELD_OUT, 0)
        found = {}
        for lr in rates:
            self.say(f"  tries lr {lr:g} on {len(splits.train):,} images, judged by {len(splits.test):,}")
            tuned = replace(run, optim=replace(run.optim, lr=lr))
            found[lr] = train_to_end(tuned, folder / f"lr-{lr:g}", splits).scores.headline.value
        return max(found, key=found.__getitem__)

    def clear(self, folder: Path) -> None:
        """Takes the weights away once nothing will go on from them; what was measured stays."""
        for part in ("checkpoints", "best", "last"):
            for path in folder.glob(f"*/{part}"):
                shutil.rmtree(path)


def run_of(path: str, task: Opened, settings: FineTune, hardware: Hardware) -> Run:
    """The recipe's Run for these weights and images, with the suite's own values in place of the recipe's."""
    record = read_record(path)
    start = Pretrained(path=path, config=encoder_config(record.config), preprocess=record.preprocess)
    source = task.parts["train"]
    given = Given(images=len(source), classes=len(source.classes), shape=source.shape, pretrained=start)
    run = recipe(settings.recipe, given)
    if run.weights is None:
        raise ConfigError(
            f"the recipe {settings.recipe} starts from nothing",
            allowed="one that fine-tunes: finetune:vtab, finetune_small",
        )
    changes = {
        name: getattr(settings, name) for name in ("length", "batch_size") if getattr(settings, name) is not None
    }
    size = (settings.image,) * 2 if settings.image else run.preprocess.size
    return replace(
        run,
        data=source.name,
        preprocess=replace(run.preprocess, size=size),
        hardware=replace(hardware, micro_batch=settings.micro_batch),
        evaluate_every="100 %",
        **changes,
    )


def note(lr: float, rates: tuple[float, ...]) -> str:
    return f"lr {lr:g}" + (f", the best of {len(rates)} on held-out training images" if len(rates) > 1 else "")
