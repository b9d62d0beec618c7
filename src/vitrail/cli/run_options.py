"""From words to a Run: the recipe is found first, then every option is read with its values as defaults."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, TypeVar

import tyro

from vitrail import hardware
from vitrail.cli.arguments import parse
from vitrail.errors import ConfigError, DecodeError
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source
from vitrail.models import zoo
from vitrail.recipes import Given, Pretrained, choose, recipe
from vitrail.training.run import Run
from vitrail.training.setup import open_for
from vitrail.weights.bundle import read_record
from vitrail.weights.encoder import encoder_config

HELP = ("-h", "--help")
DERIVED = {
    "--model.classes": "the data's classes",
    "--model.channels": "--preprocess.mean, one number a channel",
    "--model.image": "--preprocess.size",
    "--model.family": "--model",
}
"""Fields of a model that a run derives, and from what."""


@dataclass(frozen=True, kw_only=True)
class Settings(Run):
    """A Run whose data is named by position."""

    data: tyro.conf.Suppress[str] = ""


@dataclass(frozen=True)
class Asked:
    """What `train` and `plan` both read."""

    data: tyro.conf.Positional[str] = ""
    """A folder with a folder per class (train/ val/ test/ inside or not), a folder of IDX files, or a named set."""
    model: str | None = None
    """A model by name, such as vit-ti/16; `vitrail models` lists them."""
    epochs: float | None = None
    """Passes over the images: the same as --length "N epochs"."""
    run: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


A = TypeVar("A", bound=Asked)


def understand(kind: type[A], words: Sequence[str], *, command: str) -> tuple[A, Run, str]:
    """(all arguments, the Run they ask for, a sentence that says which recipe it is and why).

    Two readings: the first, with the defaults of the right model family, finds data and recipe. The second has the
    recipe's own values as defaults, so that an override changes one field only and `--help` shows what would run.
    """
    plain = [word for word in words if word not in HELP]
    for option in DERIVED.keys() & {word.partition("=")[0] for word in plain}:
        raise ConfigError(f"{option} is not set by hand", next_step=f"it follows from {DERIVED[option]}")
    early = Early.of(plain)
    first = parse(kind, plain, command=command, default=kind(run=settings(early.run())), check=False)
    if not first.data:
        if plain != list(words):
            parse(kind, words, command=command, default=kind(run=settings(early.run())))
        raise ConfigError(
            "no images were named", next_step=f"try `vitrail {command} digits` or `vitrail {command} ./photos`"
        )
    given = look(first, early)
    name, why = (early.recipe, "it was asked for") if early.recipe else choose(given)
    base = settings(replace(recipe(name, given), data=first.data))
    asked = parse(kind, words, command=command, default=kind(run=base))
    return asked, finished(asked), f"recipe {name}: {why}"


@dataclass(frozen=True)
class Early:
    """The three words that decide what the other options mean."""

    recipe: str | None = None
    model: str | None = None
    pretrained: Pretrained | None = None

    @classmethod
    def of(cls, words: Sequence[str]) -> "Early":
        weights = _value(words, "--weights")
        return cls(_value(words, "--recipe"), _value(words, "--model"), pretrained(weights) if weights else None)

    def run(self) -> Run:
        """The recipe on data nobody has looked at yet: right in the model's family, all the first reading needs."""
        given = Given(model=self.model, pretrained=self.pretrained)
        if self.recipe:
            return recipe(self.recipe, given)
        if self.pretrained:
            return Run(model=self.pretrained.config)
        return Run(model=zoo.config(self.model)) if self.model else Run()


def pretrained(path: str) -> Pretrained:
    record = read_record(path)
    return Pretrained(path=path, config=encoder_config(record.config), preprocess=record.preprocess)


def look(asked: Asked, early: Early) -> Given:
    """Opens the data to see how many images of what shape there are."""
    train = open_for(early.run().objective, asked.data, asked.run.holdout).train
    channels, start = channels_of(train), early.pretrained
    if start and channels != 3 and channels != start.preprocess.channels:
        start = replace(start, preprocess=in_channels(start.preprocess, channels))
    return Given(
        images=len(train),
        classes=len(train.classes),
        shape=train.shape,
        channels=channels,
        model=early.model,
        pretrained=start,
        accelerator=hardware.device(asked.run.hardware.device).type != "cpu",
    )


def channels_of(source: Source) -> int:
    """How many channels a model of these images should read, by the first of them: 3 for grey and colour files."""
    try:
        channels = source.pixels(0).shape[2]
    except DecodeError:  # training names it
        return 3
    return 3 if channels == 1 else channels


def in_channels(preprocess: Preprocess, channels: int) -> Preprocess:
    """The same for images of another number of channels: each with the mean of the old means and deviations."""
    mean, std = (sum(values) / len(values) for values in (preprocess.mean, preprocess.std))
    return replace(preprocess, mean=(mean,) * channels, std=(std,) * channels)


def finished(asked: Asked) -> Run:
    """The Run proper, with the shorthands laid on it."""
    run = Run(**{part.name: getattr(asked.run, part.name) for part in fields(Run)})
    run = replace(run, data=asked.data)
    return run if asked.epochs is None else replace(run, length=f"{asked.epochs:g} epochs")


def settings(run: Run) -> Settings:
    return Settings(**{part.name: getattr(run, part.name) for part in fields(Run)})


def _value(words: Sequence[str], option: str) -> str | None:
    """The last value of `--option value` or `--option=value`."""
    values = [word.partition("=")[2] for word in words if word.startswith(option + "=")]
    values += [after for word, after in itertools.pairwise(words) if word == option]
    return values[-1] if values else None
