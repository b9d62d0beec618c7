"""`vitrail.probe`: few-shot, nearest neighbours, linear probes and logistic regression on frozen features."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from vitrail.api.embed import open_features_model, open_split
from vitrail.api.models import Model
from vitrail.arguments import Pool, Precision, Say
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.embedding import PIXELS as PIXELS_DIGEST
from vitrail.evaluation.embedding import Extraction, embed, parts_of
from vitrail.evaluation.evaluate import check_one_class
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.layers import Pixels
from vitrail.evaluation.probing import WIDE, Row, Settings, check_protocols, layers_for
from vitrail.evaluation.probing import probe as probe_features
from vitrail.evaluation.store import is_features, read
from vitrail.images.samples import Source, Splits
from vitrail.reports.progress import progress

PROTOCOLS = ("fewshot", "knn", "nearest-mean", "linear")


@dataclass(frozen=True, kw_only=True)
class Probing:
    """A measurement, checked: the protocols, the blocks they read, their settings, and how features are made."""

    protocols: tuple[str, ...]
    layer: tuple[int, ...]
    size: tuple[int, ...]
    settings: Settings
    how: Extraction
    cache: Path | None
    say: Say

    def __post_init__(self) -> None:
        check_protocols(self.protocols)
        if not self.settings.seeds:
            raise ConfigError("seeds = 0", allowed="1 or more")


def probe(
    model: Model, data: str | Path | Splits | None = None, *, protocols: Sequence[str] = PROTOCOLS,
    layer: int | Sequence[int] = (), pool: Pool = "auto", size: int | Sequence[int] = (),
    shots: Sequence[int] | None = None, l2: Sequence[float] = (1024.0,), k: Sequence[int] | None = None, seeds: int = 3,
    beside: Sequence[Model] = (), at_least: int = 0, holdout: float = 0.2, download: bool = False, follow_links: bool = False,
    cache: str | Path | None = None, batch: int = 64, device: str = "auto", precision: Precision = "auto", workers: int = -1,
    say: Say = lambda text: None,
) -> list[tuple[str, Row]]:  # fmt: skip
    """(name of the features, row) of each protocol on frozen features, after one pass over the images.

        vitrail.probe("runs/photos-1", "./photos", protocols=["linear", "logistic"])

    A model is a path, a module, a file of `vitrail.embed` (then without `data`), or the word "pixels". The protocols learn on
    the training part and are tested on held-out images that no model was trained on.

    Args:
        protocols: Of fewshot, knn, nearest-mean, linear, linear-4 (the last four blocks side by side) and logistic.
        layer: The block whose output is read, from 1, or from the last with -1; several are rows of one table, after one
            pass. Without it, what the model's head reads.
        size: Sides of square images in pixels, each measured: what resolution brings. Without it, the model's own.
        shots: Images of each class; 1 5 10 25, as far as the data allows.
        l2: Strengths of the few-shot ridge. Each is a row: choosing among them by the test set would be cheating.
        k: Neighbours; 10 20 100 200, as far as the data allows.
        seeds: Few-shot draws and probe trainings, averaged.
        beside: More models to measure in the same table.
        at_least: Leave out classes of fewer images, train and test together.
    """
    shots, k = as_tuple(shots or ()) or None, as_tuple(k or ()) or None
    asked = Probing(
        protocols=tuple(protocols), layer=as_tuple(layer), size=as_tuple(size), cache=Path(cache) if cache else None, say=say,
        settings=Settings(shots=shots, l2=tuple(l2), k=k, seeds=tuple(range(seeds))),
        how=Extraction(pool=pool, batch_size=batch, device=device, precision=precision, workers=workers),
    )  # fmt: skip
    models = (model, *beside)
    stored = read_stored(models, asked)
    fresh = [one for one in models if str(one) not in stored]
    splits = open_images(data, fresh, at_least, say, holdout=holdout, download=download, follow_links=follow_links)
    rows = [row for name, kept in features(models, stored, splits, asked) for row in measure(name, kept, asked)]
    if not rows:
        raise ConfigError(f"none of {', '.join(protocols)} applies to {model}", next_step="try the protocol 'linear'")
    return rows


def as_tuple(numbers: int | Sequence[int]) -> tuple[int, ...]:
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)


def read_stored(models: Sequence[Model], asked: Probing) -> dict[str, FeatureTable]:
    """The files of features among the models, by name. Raises ConfigError where one lacks a layer."""
    named = [name for name in models if isinstance(name, str | Path)]
    stored = {str(name): read(str(name)) for name in named if is_features(str(name))}
    for name, kept in stored.items():
        check_layers(kept, asked)
        if asked.size or asked.how.pool != "auto":
            asked.say(f"{name} holds features already: size and pool change nothing there")
    return stored


def open_images(
    data: str | Path | Splits | None, models: Sequence[Model], at_least: int, say: Say, **opening: Any
) -> Splits | None:
    """The images, with a test part that no model was trained on; None where files of features need none."""
    if isinstance(data, str | None) and not data:
        if models:
            raise ConfigError(
                "no images were named", next_step="name them: digits, or a folder with a folder per class"
            )
        return None
    splits, notes = open_split(data, models, **opening)
    check_one_class(splits.train)
    splits = keep_classes(splits, at_least, say)
    for sentence in (f"{len(splits.train):,} to learn from, {len(splits.test):,} to test: {splits.how}", *notes):
        say(sentence)
    return splits


def features(
    models: Sequence[Model], stored: Mapping[str, FeatureTable], splits: Splits | None, asked: Probing
) -> Iterator[tuple[str, FeatureTable]]:
    """The features of every model, by name and size; one pass each for all layers that the protocols read."""
    for model in models:
        name = type(model).__name__ if isinstance(model, nn.Module) else str(model)
        if splits is None or name in stored:
            yield name, stored[name]
            continue
        for size in asked.size or (None,):
            called = name if size is None else f"{name}, {size} px"
            module = open_features_model(model, splits, size)
            how = replace(asked.how, layers=layers_for(module, asked.protocols, asked.layer))
            how = replace(how, pool="auto") if isinstance(module, Pixels) else how
            yield called, embed(module, parts_of(splits), name=called, how=how, cache=asked.cache)


def keep_classes(splits: Splits, least: int, say: Say) -> Splits:
    """Without the classes of fewer than `least` images, which `say` hears."""
    if least < 1:
        return splits
    counts = splits.train.counts + splits.test.counts
    kept = np.flatnonzero(counts >= least)
    if len(kept) == len(counts):
        return splits
    if len(kept) < 2:
        raise DataError(f"{len(kept)} classes have {least} images or more", allowed=f"at_least={np.sort(counts)[-2]}")
    names = splits.train.classes
    small = [f"{names[k]} ({counts[k]})" for k in np.flatnonzero(counts < least)]
    say(f"{len(small)} of {len(counts)} classes are left out, of fewer than {least} images: {', '.join(small)}")

    def of(source: Source) -> Source:
        some = source.subset(np.flatnonzero(np.isin(source.labels, kept)))
        return replace(some, labels=np.searchsorted(kept, some.labels), classes=tuple(names[k] for k in kept))

    return replace(splits, train=of(splits.train), test=of(splits.test), val=splits.val and of(splits.val))


def measure(name: str, kept: FeatureTable, asked: Probing) -> Iterator[tuple[str, Row]]:
    """Each row with the name of its features: every protocol on every layer."""
    asked.say(f"{name}: {len(kept.keys):,} images, {kept.features.shape[1]} features ({kept.about.layer})")
    wanted = readings(name, kept, asked)
    with progress(len(wanted), f"Protocols on {name}") as bar:
        for done, (called, protocol, layers) in enumerate(wanted, start=1):
            yield from ((called, row) for row in probe_features(kept.at(layers), [protocol], asked.settings))
            bar.update(done)


def check_layers(kept: FeatureTable, asked: Probing) -> None:
    """Raises ConfigError if stored features lack a layer that was asked for. Pixels have no layers: `readings` checks
    them."""
    if kept.about.blocks:
        readings("", kept, asked)
    elif kept.about.digest != PIXELS_DIGEST:
        most = max(WIDE.get(protocol, 1) for protocol in asked.protocols)
        kept.at(asked.layer or (tuple(range(-most, 0)) if most > 1 else ()))


def readings(name: str, kept: FeatureTable, asked: Probing) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, protocol, the layers it reads) of everything to measure on these features. A note names protocols
    without layers. Raises ConfigError for layers that were not kept.
    """
    there, found = kept.about.blocks, []
    last = there[-1] if there else 0
    for layer in asked.layer if there and asked.layer else (last,):
        number = layer + last + 1 if layer < 0 else layer
        called = f"{name}, layer {number}" if len(asked.layer) > 1 and there else name
        for protocol in asked.protocols:
            count = WIDE.get(protocol, 1)
            if not there and count > 1:
                asked.say(f"{name} has no layers to put side by side: {protocol} is left out")
                continue
            layers = tuple(range(number - count + 1, number + 1)) if there else ()
            kept.at(layers)
            found.append((called, protocol, layers))
    return found
