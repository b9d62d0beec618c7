"""What a recipe returns: one frozen value that says all of a training run, saved whole beside every result.

Values that can be derived are derived, never stored: number of classes, steps, the model's image size, the scaled learning rate.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import vitrail.objectives.table  # noqa: F401  # fills the table that run.json is read by
from vitrail import config
from vitrail.batches.mixing import Mixing
from vitrail.config import ABOVE_ZERO, COUNT, NOT_NEGATIVE, SEED, SHARE, check_ranges
from vitrail.errors import ConfigError
from vitrail.hardware import Hardware
from vitrail.images.preprocess import Preprocess
from vitrail.images.transforms import Augment
from vitrail.models.vit import ViTConfig
from vitrail.models.zoo import ModelConfig
from vitrail.objectives.classify import Classify
from vitrail.objectives.objective import Objective

OLDEST = {"rules": 1}
"""Values of keys that run.json of Vitrail 0.1.0 lacks."""
LONGEST = 1e12
"""The largest number of a length."""
_LENGTH = re.compile(r"\s*(\d+\.?\d*(?:e[+-]?\d+)?)\s*(epochs?|steps?|%)\s*")


def check_length(text: str, name: str, *, some: bool = False) -> tuple[float, str]:
    """(number, first letter of its unit) of a length of training: "90 epochs", "10000 steps" or "5 %" of the whole run.

    Raises ConfigError for other text, and with `some` for a length of 0.
    """
    found = _LENGTH.fullmatch(text)
    if not found or float(found[1]) > LONGEST or (some and float(found[1]) == 0):
        more = ", more than 0" if some else ""
        raise ConfigError(f"{name} = {text!r} is no length", allowed=f"'90 epochs', '10000 steps' or '5 %'{more}")
    return float(found[1]), found[2][0]


def steps(length: str, *, steps_per_epoch: float, total: int = 0) -> int:
    """A length in optimiser steps; `%` is of `total`."""
    number, unit = check_length(length, "length")
    return round(number * {"e": steps_per_epoch, "s": 1.0, "%": total / 100}[unit])


def read_run(path: Path) -> "Run":
    """The Run in a file run.json. Raises ConfigError for one that is damaged or unknown."""
    return config.read_json(Run, path, missing=OLDEST)


@dataclass(frozen=True, kw_only=True)
class Optim:
    """Optimiser, learning-rate schedule and what they leave alone."""

    name: Literal["adamw", "adam", "sgd", "lars", "lamb", "muon"] = "adamw"
    """`muon` is Muon for the matrices of the blocks and AdamW for all else."""
    lr: float = 1e-3
    """Peak learning rate; of `lr_batch` images a step where that is given (then it scales with the batch)."""
    lr_batch: int | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    weight_decay: float = 0.05
    """On matrices and kernels only: never on biases, norms, class token or positions. `adamw` subtracts lr · decay · weight apart
    from the gradient, as the ViT papers do; `adam` and `sgd` add it to the gradient."""
    clip: float | None = 1.0
    """Largest global L2 norm of the gradient."""
    schedule: Literal["cosine", "linear", "rsqrt", "stair", "constant"] = "cosine"
    warmup: str = "5 %"
    cooldown: str = "0 steps"
    """Of `rsqrt`: a linear fall to zero at the end."""
    timescale: int = 10_000
    """Of `rsqrt`, in steps."""
    final_lr: float = 0.0
    """The last rate of `linear` and `cosine`: an absolute learning rate before layer decay."""
    power: float = 1.0
    """Of `linear`: 2 makes it a parabola."""
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)
    """Of `stair`: shares of the run at which the rate falls."""
    drop: float = 0.1
    """Of `stair`: the factor of each fall."""
    layer_decay: float = 1.0
    """Each stage towards the stem learns this much slower (MAE fine-tuning: 0.75)."""
    freeze: Literal["nothing", "backbone"] = "nothing"
    """`backbone`: only the head learns, a linear probe."""
    last_blocks: int = 0
    """Number of last blocks to train when the backbone is frozen (MAE's partial fine-tuning, Figure 9)."""

    def __post_init__(self) -> None:
        check_length(self.warmup, "warmup")
        check_length(self.cooldown, "cooldown")
        check_ranges(
            self,
            lr=NOT_NEGATIVE,
            lr_batch=COUNT,
            betas=SHARE,
            momentum=SHARE,
            weight_decay=NOT_NEGATIVE,
            clip=ABOVE_ZERO,
            timescale=COUNT,
            final_lr=NOT_NEGATIVE,
            layer_decay=ABOVE_ZERO,
            last_blocks=NOT_NEGATIVE,
        )
        if self.last_blocks and self.freeze != "backbone":
            raise ConfigError(
                f"last_blocks = {self.last_blocks} of a model that learns whole",
                next_step="add `optim.freeze='backbone'`",
            )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A whole training run. `model.classes`, `.image` and `.channels` are set from the data and `preprocess` when it is built."""

    recipe: str = ""
    data: str = ""
    """A folder, an IDX file's folder, or a named set."""
    holdout: float = 0.2
    """Share of the images held out where the data has no split of its own. 0 trains on all of them; there is no score."""
    follow_links: bool = False
    """Follow links that lead out of the folder of images."""
    fold: tuple[int, int] | None = None
    """(2, 5) holds out the second of five parts of the images, in place of `holdout`."""
    skip_unreadable: bool = False
    """Leave out all images that cannot be read, and list them. Without it, only 3 of them or 0.1 %."""
    model: ModelConfig = field(default_factory=ViTConfig)
    weights: str | None = None
    head: Literal["zero", "logistic"] = "zero"
    """The start of a new head on given weights: zero, as in the ViT paper, or logistic regression on the features of
    the frozen weights (LP-FT, arXiv 2202.10054)."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    augment: Augment = field(default_factory=Augment)
    check_flips: bool = False
    """Leave `augment.flip` out where mirrored images look like other classes: letters, digits, left and right hands."""
    mixing: Mixing = field(default_factory=Mixing)
    objective: Objective = field(default_factory=Classify)
    optim: Optim = field(default_factory=Optim)
    balance: Literal["none", "loss", "sampling"] = "none"
    """For classes of unequal size: `loss` weighs each image by N/(K·n) of its class, `sampling` shows rare classes more often."""
    ema: float | None = None
    """Decay of the moving average of the weights; evaluation and the saved best then use the average."""
    batch_size: int = 128
    length: str = "100 epochs"
    patience: float | None = None
    """Stop when so many epochs brought no better score. Without validation images, some training images become such."""
    evaluate_every: str = "1 epoch"
    save_every: str = "1 epoch"
    seed: int = 0
    rules: Literal[1, 2] = 2
    """Version of the rules of training, so that an old run resumes to the same bits. 1 is Vitrail 0.1.0: the first step has
    learning rate 0, and each micro-batch mixes its own images. 2: the first step learns, and mixing is that of the whole batch."""
    hardware: Hardware = field(default_factory=Hardware)

    def __post_init__(self) -> None:
        check_length(self.length, "length", some=self.head == "zero")
        for name in ("evaluate_every", "save_every"):
            check_length(getattr(self, name), name, some=True)
        if "%" in self.length:
            raise ConfigError(f"length = {self.length!r} of itself", allowed="'90 epochs' or '10000 steps'")
        if self.head == "logistic" and not self.weights:
            raise ConfigError("head = 'logistic' without weights", allowed="head = 'zero', or weights to start from")
        if self.fold and not 1 <= self.fold[0] <= self.fold[1]:
            raise ConfigError(f"fold = {self.fold}", allowed="(2, 5): the second of five")
        check_ranges(self, batch_size=COUNT, seed=SEED, ema=SHARE, patience=ABOVE_ZERO, holdout=SHARE)

    def steps(self, per_epoch: float) -> int:
        """Optimiser steps of the whole run, at least one; none of "0 steps": a logistic head, and nothing trained after it."""
        number, _ = check_length(self.length, "length")
        return max(1, steps(self.length, steps_per_epoch=per_epoch)) if number else 0
