"""The settings of every study. Nothing here imports torch, so that `--help` answers at once."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from vitrail.api.words import SHORT
from vitrail.errors import ConfigError

WHERE = {"out", "at_once", "ray", "keep", "device", "precision", "threads", "workers"}
"""Settings that change no number of a study."""
_IMAGES, _END = "all cells have the images and the split of the study", "a cell is measured once, at its end"
TAKEN = {
    "seed": "`seeds` says how many a grid has, `seed` which one a search has",
    "hardware": "device, precision, threads and workers are settings of the whole study",
    **dict.fromkeys(("data", "holdout", "fold", "follow_links"), _IMAGES),
    **dict.fromkeys(("evaluate_every", "save_every"), _END),
}
"""Values of a run that a study sets itself."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """The settings of every study: its images, its folder, and where it computes."""

    name: ClassVar[str]
    axes: ClassVar[tuple[str, ...]] = ("seeds",)
    """Settings of which more values add cells to the same study."""

    data: str = field(kw_only=False)
    """A folder with a folder of images for each class, or a named set."""
    out: Path | str | None = None
    """A folder for results.jsonl, report.html and figures; by default runs/STUDY-DATA."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = 1
    """CPU threads of a training; 0 measures which number is fastest."""
    workers: int = -1
    """Loader processes of a training; -1 chooses."""

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError("no images were named", next_step=f"try `vitrail study {self.example} digits`")
        self.check()

    def check(self) -> None:
        """Raises ConfigError for values that no study can have."""

    @property
    def example(self) -> str:
        """The words of its command before the images."""
        return self.name

    @property
    def folder(self) -> Path:
        return Path(self.out or f"runs/{self.name}-{Path(self.data).name or 'data'}")

    @property
    def settings(self) -> dict[str, Any]:
        """The values that decide what is asked: a folder holds the answers to one such question."""
        left_out = {*WHERE, *self.axes}
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name not in left_out}


@dataclass(frozen=True, kw_only=True)
class Cells(Question):
    """A question with a grid of cells, each with several seeds."""

    seeds: int = 3
    """Trainings of each cell."""
    at_once: int = 0
    """Cells side by side, each in a process of its own; 0 is one a core on a CPU, and one a GPU."""
    ray: str = ""
    """The address of a Ray cluster that computes the cells; `local` starts Ray on this machine."""
    keep: bool = False
    """Keep the run folder of every cell, with its weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seeds < 1 or self.at_once < 0:
            raise ConfigError(
                f"seeds = {self.seeds}, at_once = {self.at_once}", allowed="one seed or more; at_once from 0"
            )


def read_word(text: str) -> Any:
    """A value of a run out of a word: JSON where it is JSON (1e-3, true), else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def check_run_values(names: Iterable[str]) -> None:
    """Raises ConfigError for values of a run that a study sets itself, and for two names of one value."""
    found: dict[str, str] = {}
    for name in names:
        whole = {**SHORT, "epochs": "length"}.get(name, name)
        if how := TAKEN.get(whole.partition(".")[0]):
            raise ConfigError(f"{name} is no value of a cell", next_step=how)
        if whole in found:
            raise ConfigError(f"{found[whole]} and {name} are one value", next_step="name one of them")
        found[whole] = name


def check_above_zero(asked: Question, *names: str) -> None:
    """Raises ConfigError for a setting, or one of several values of it, that is not above zero."""
    for name in names:
        value = getattr(asked, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or not all(number > 0 for number in values):
            raise ConfigError(f"{name} = {value}", allowed="numbers above 0")


def check_share(asked: Question, *names: str) -> None:
    """Raises ConfigError for a setting that is no share above 0, up to 1."""
    for name in names:
        if not 0 < (value := getattr(asked, name)) <= 1:
            raise ConfigError(f"{name} = {value}", allowed="a share above 0, up to 1")


@dataclass(frozen=True, kw_only=True)
class Grid(Cells):
    """Your own table: every combination of the values that vary, each with several seeds."""

    name: ClassVar[str] = "grid"
    axes: ClassVar[tuple[str, ...]] = ("seeds", "vary", "readouts")

    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Values of a run by dotted name, as `vitrail train` takes them; also recipe, model, weights, epochs and images."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Values of a run that all cells share."""
    readouts: tuple[str, ...] = ()
    """More than the held-out accuracy: 5-shot, 10-NN, linear; with @DATA on other images."""

    def check(self) -> None:
        empty = [name for name, values in self.vary.items() if not len(values)]
        if not self.vary or empty:
            raise ConfigError(
                f"no values of {empty[0]} to vary" if empty else "nothing varies",
                next_step="name a value of a run, such as optim.lr, and two values of it in `vary`",
            )
        if both := sorted(self.vary.keys() & self.fixed.keys()):
            raise ConfigError(f"{both[0]} is fixed and varies", next_step="name it once")
        check_run_values([*self.vary, *self.fixed])


@dataclass(frozen=True, kw_only=True)
class Trainings(Cells):
    """A question that trains models of its own, all with the same fixed settings."""

    macs: float = 2.0
    """Million multiply-accumulates of one image that a model should cost; the nearest model of each family is taken."""
    steps: int = 600
    """Of each training; the same for all."""
    batch: int = 64
    lr: float = 1e-3
    """Peak learning rate of AdamW."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "macs", "steps", "batch", "lr")


AblationName = Literal[
    "positions", "head", "optimiser", "shape", "resolution", "patch-order", "equivariance", "regularisation"
]


@dataclass(frozen=True, kw_only=True)
class Ablation(Trainings):
    """One choice of the paper's appendix, changed while all else stays; the published numbers stand in the report."""

    name: ClassVar[str] = "ablation"

    which: AblationName
    """positions (Table 8), head (Figure 9), optimiser (Table 7), shape (Figure 8), resolution, patch-order, equivariance
    or regularisation."""

    @property
    def example(self) -> str:
        return f"ablation {self.which}"

    @property
    def folder(self) -> Path:
        return Path(self.out or f"runs/ablation-{self.which}-{Path(self.data).name}")


@dataclass(frozen=True, kw_only=True)
class DataSize(Trainings):
    """How accuracy follows the number of training images: CNN, ViT and hybrid of the same cost (Figures 3 and 4)."""

    name: ClassVar[str] = "data-size"
    axes: ClassVar[tuple[str, ...]] = ("seeds", "models", "sizes")

    models: tuple[str, ...] = ("vit", "resnet", "hybrid")
    """Families (vit, resnet, hybrid; vit*4 costs four times as much) or names of the zoo."""
    sizes: tuple[int, ...] = ()
    """Training images; none takes five sizes from a hundredth of the set to all."""
    reading: Literal["fixed", "regularised"] = "fixed"
    """fixed: no regularisation, early stopping (Figure 4). regularised: its strength is chosen for each cell on
    validation images (Figure 3)."""
    few_shot: str = ""
    """Another labelled set, read by 5-shot linear accuracy of the frozen features."""

    def check(self) -> None:
        if not self.models or any(size < 2 for size in self.sizes):
            raise ConfigError(
                f"models = {self.models}, sizes = {self.sizes}", allowed="one model or more, two images or more"
            )


@dataclass(frozen=True, kw_only=True)
class Compute(Trainings):
    """How accuracy follows the compute of training: families × sizes × lengths, in exaFLOPs (Figure 5, Table 6)."""

    name: ClassVar[str] = "compute"
    axes: ClassVar[tuple[str, ...]] = ("seeds", "families", "scales", "lengths")

    families: tuple[str, ...] = ("vit", "resnet", "hybrid")
    scales: tuple[float, ...] = (1.0, 4.0)
    """Sizes of the models: factors of `macs`."""
    lengths: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Lengths of the trainings: factors of `steps`."""
    few_shot: str = ""
    """Another labelled set, read by 5-shot linear accuracy of the frozen features."""

    def check(self) -> None:
        check_above_zero(self, "scales", "lengths")


@dataclass(frozen=True, kw_only=True)
class Transfer(Cells):
    """Checkpoints fine-tuned on many sets, the rate chosen on held-out training images (Tables 2 and 5)."""

    name: ClassVar[str] = "transfer"
    axes: ClassVar[tuple[str, ...]] = ("seeds", "models", "data", "scratch", "rates")

    data: str = field(kw_only=False)
    """Sets with commas between: folders of labelled images, or named sets."""
    models: tuple[str, ...] = ()
    """Weights of any origin: runs, bundles, published files."""
    scratch: bool = False
    """Also train the first model's kind from a new start."""
    recipe: str = ""
    """Of fine-tuning; chosen by the number of images where none is named. The paper's: finetune:NAME."""
    rates: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Factors of the recipe's learning rate; the best is chosen on validation images."""
    length: str = ""
    """Of each training, such as "10 epochs", in place of the recipe's."""

    def check(self) -> None:
        check_above_zero(self, "rates")
        if not self.models:
            raise ConfigError("no checkpoints were named", next_step="name runs or files as `models`")

    @property
    def sets(self) -> list[str]:
        return [name.strip() for name in self.data.split(",") if name.strip()]

    @property
    def folder(self) -> Path:
        return Path(self.out or "runs/transfer")


@dataclass(frozen=True, kw_only=True)
class Search(Question):
    """The best settings of a space, by Optuna, scored on held-out training images; the test images judge the best alone."""

    name: ClassVar[str] = "search"
    axes: ClassVar[tuple[str, ...]] = ("trials",)

    space: Mapping[str, str] = field(default_factory=dict)
    """Values of a run by dotted name: "1e-4..1e-2", "log 1e-4..1e-2", "2..8", or "a,b,c"."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Values of a run that all trials share."""
    trials: int = 20
    seed: int = 0

    def check(self) -> None:
        check_above_zero(self, "trials")
        if not self.space:
            raise ConfigError(
                "an empty space", next_step="name a value of a run, such as optim.lr, and its range in `space`"
            )
        if both := sorted(self.space.keys() & self.fixed.keys()):
            raise ConfigError(f"{both[0]} is fixed and in the space", next_step="name it once")
        check_run_values([*self.space, *self.fixed])
