"""From what a person names (images, a model, weights, some values) to the Run it asks for, and its opened images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from vitrail.api.words import SHORT, translate_peer
from vitrail.arguments import name_device
from vitrail.config import with_changes
from vitrail.errors import ConfigError, suggest
from vitrail.hardware import Hardware
from vitrail.images.folders import LEAVES
from vitrail.images.heldout import draw_again
from vitrail.images.sources import Splits
from vitrail.models import zoo
from vitrail.recipes import Given, Pretrained, choose
from vitrail.recipes import recipe as make_run
from vitrail.recipes.request import read_pretrained, request_for
from vitrail.training.run import Run, read_run
from vitrail.training.run_data import choose_fold, open_for
from vitrail.training.run_folder import RunFolder

DERIVED = {
    "model.classes": "the data's classes",
    "model.channels": "preprocess.mean, one number a channel",
    "model.image": "preprocess.size",
    "model.family": "model",
}
"""Values of a model that a run derives, and from what."""


Data = str | Path | Splits | None
Classes = Literal["top", "leaf"]
"""Which folders are the classes: those at the top, or each that holds images."""


@dataclass(frozen=True)
class Chosen:
    """A Run, its opened images, and why it is this recipe."""

    run: Run
    splits: Splits
    why: str
    opened: float | None
    """The share that was held out when the images were opened; None for images that somebody else opened."""

    def with_run(self, run: Run) -> "Chosen":
        """The same with a changed Run; another share is held out where it asks for one."""
        again = self.opened not in (None, run.holdout)
        splits = draw_again(self.splits, run.holdout) if again else self.splits
        return Chosen(run, choose_fold(splits, run), self.why, self.opened)


def choose_run(
    data: Data, *, recipe: str | None = None, model: str | None = None,
    weights: str | Path | None = None, epochs: float | None = None, holdout: float | None = None,
    download: bool = False, classes: Classes = "top", like: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Chosen:  # fmt: skip
    """The recipe for these images, with `changes` by dotted name. Raises ConfigError for a name that is not there."""
    if not data and not like:
        raise ConfigError("no images were named", next_step="name a folder of images, or a set such as 'digits'")
    changes = spell_out(changes or {})
    chosen = open_run(
        data, classes=classes, like=like, recipe=recipe, model=model,
        weights=read_pretrained(str(weights)) if weights else None, holdout=holdout, download=download,
        follow_links=bool(changes.get("follow_links")), device=str(changes.get("hardware.device", "auto")),
        patch=changes.get("model.patch"),
    )  # fmt: skip
    return chosen.with_run(with_changes(chosen.run, {**changes, **shorthands(epochs, holdout)}, where="train"))


def open_run(
    data: Data, *, classes: Classes, recipe: str | None, model: str | None, weights: Pretrained | None,
    like: str | Path | None, holdout: float | None, download: bool, follow_links: bool, device: str,
    patch: Sequence[int] | None = None,
) -> Chosen:  # fmt: skip
    """A recipe's own Run, or the settings of another run, on these images; they are opened once."""
    if like and (recipe or model or weights):
        raise ConfigError(
            "the settings of another run have their own recipe, model and weights",
            next_step="leave recipe, model and weights out, or leave out like",
        )
    first = guess_run(recipe=recipe, model=model, weights=weights, like=like)
    data = name_leaves(data or first.data, classes)
    where = data.train.name if isinstance(data, Splits) else str(data)
    first = replace(first, data=where, follow_links=follow_links or first.follow_links)
    first = first if holdout is None else replace(first, holdout=holdout)
    if isinstance(data, Splits):
        splits, opened = data if holdout is None else draw_again(data, holdout), None
    else:
        splits, opened = open_for(first, download=download), first.holdout
    if like:
        return Chosen(first, splits, f"the settings of another run (recipe {first.recipe or 'of its own'})", opened)
    given = request_for(splits, model=model, patch=patch, weights=weights, device=device)
    name, why = (recipe, "chosen by name") if recipe else choose(given)
    run = replace(make_run(name, given), data=where, follow_links=follow_links)
    return Chosen(run, splits, f"recipe {name}: {why}", opened)


def name_leaves(data: Data, classes: Classes) -> Data:
    """The images by a name that says which folders are the classes."""
    if classes == "top" or not data:
        return data
    if isinstance(data, Splits):
        raise ConfigError(
            "classes = 'leaf' for images that are opened", next_step="open them with '/**' after the folder"
        )
    return data if str(data).endswith(f"/{LEAVES}") else f"{data}/{LEAVES}"


def read_like(path: str | Path) -> Run:
    """The settings in a run folder or a file run.json, to be used again: this machine chooses its own threads and precision."""
    path = Path(path)
    run = read_run(path) if path.is_file() else RunFolder.read(path)
    kept = {name: getattr(run.hardware, name) for name in ("checkpoint_activations", "deterministic", "parallel")}
    return replace(run, rules=2, fold=None, hardware=Hardware(**kept))


def guess_run(
    *, recipe: str | None, model: str | None, weights: Pretrained | None, like: str | Path | None = None
) -> Run:
    """The Run before the images are opened: the family of its model and its objective are already right."""
    if like:
        return read_like(like)
    if recipe:
        return make_run(recipe, Given(model=model, pretrained=weights))
    if weights:
        return Run(model=weights.config)
    return Run(model=zoo.config(model)) if model else Run()


def shorthands(epochs: float | None, holdout: float | None = None) -> dict[str, Any]:
    """The values of a Run that have a short name."""
    length = {} if epochs is None else {"length": f"{epochs:g} epochs"}
    return length if holdout is None else {**length, "holdout": holdout}


def spell_out(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values by their full names: "optim.lr" for "lr". Raises ConfigError for a name of another toolkit, or a derived one."""
    for name in changes:
        if ours := translate_peer(name):
            raise ConfigError(f"vitrail has no {name!r}", next_step=ours if " " in ours else f"it is {ours!r} here")
        if name.partition(".")[0] not in known_names() | SHORT.keys():
            raise ConfigError(
                f"there is no {name!r} to set",
                next_step=suggest(name, [*known_names(), *SHORT, "epochs", "recipe", "weights"]),
            )
    found = {SHORT.get(name, name): name_device(value) for name, value in changes.items()}
    for name in ("preprocess.size", "model.patch"):
        if isinstance(found.get(name), int):
            found[name] = [found[name]] * 2
    refuse_derived(found)
    return found


def known_names() -> set[str]:
    return {part.name for part in fields(Run)}


def refuse_derived(changes: Mapping[str, Any]) -> None:
    for name in DERIVED.keys() & changes.keys():
        raise ConfigError(f"{name} is not set by hand", next_step=f"it follows from {DERIVED[name]}")
