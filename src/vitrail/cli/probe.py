"""`vitrail probe`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from torch import nn

from vitrail.cli.arguments import Switch, parse, say
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.embedding import PIXELS as PIXELS_DIGEST
from vitrail.evaluation.embedding import Extraction, embed, parts_of
from vitrail.evaluation.layers import Pixels, Pool, blocks_of, up_to
from vitrail.evaluation.probing import WIDE, Row, Settings, check_protocols, probe, table
from vitrail.evaluation.store import Kept, is_features, read
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import open_data
from vitrail.reports.progress import progress
from vitrail.reports.tables import show
from vitrail.weights.bundle import load

PIXELS = 32
"""Raw pixels are compared at this many a side, or at the images' own size where that is smaller."""


@dataclass(frozen=True)
class Probe:
    """Measures frozen features as the papers do: few-shot, nearest neighbours, linear probe, logistic regression.

    One pass over the images gives the features, every protocol reads them. Learnt on the train part of DATA, tested on
    its held-out part. MODEL is a run folder, a bundle, a weights file, a file made by `vitrail embed` (then DATA is
    left out), or the word `pixels`.

    examples:
      vitrail probe runs/photos-1 ./photos
      vitrail probe vit-s16.npz fashion-mnist --layer 10 11 --protocols fewshot,knn,linear --beside pixels runs/mine
      vitrail probe features.safetensors --protocols linear,logistic --json
      vitrail probe vit-s16.npz ./photos --save runs/quick    a classifier in seconds, for `vitrail predict`
      vitrail probe runs/photos-1 ./many-subjects --at-least 12 --holdout 0.5 --protocols fewshot
    """

    model: tyro.conf.Positional[str]
    data: tyro.conf.Positional[str] = ""
    """Labelled images, as for `vitrail train`."""
    protocols: str = "fewshot,knn,nearest-mean,linear"
    """Of fewshot, knn, nearest-mean, linear, linear-4 (the last four blocks side by side) and logistic."""
    layer: tuple[int, ...] = ()
    """The block whose output is read, from 1, or from the last with -1; several are rows of one table, after one pass.
    Without it, what the model's head reads."""
    pool: Pool = "auto"
    """With --layer: the class token, the mean of the patches, or both."""
    image: tuple[int, ...] = ()
    """Sides of square images in pixels, each measured: what resolution brings. Without it, the model's own."""
    shots: tuple[int, ...] | None = None
    """Images of each class; 1 5 10 25, as far as the data allows."""
    l2: tuple[float, ...] = (1024.0,)
    """Strengths of the few-shot ridge. Each is a row: choosing among them by the test set would be cheating."""
    k: tuple[int, ...] | None = None
    """Neighbours; 10 20 100 200, as far as the data allows."""
    seeds: int = 3
    """Few-shot draws and probe trainings, averaged."""
    beside: tuple[str, ...] = ()
    """More models to measure in the same table."""
    save: Path | None = None
    """A new run folder: logistic regression as the model's head, which `vitrail predict` and `evaluate` take. No
    protocols are measured then; the same as `vitrail train DATA --weights MODEL --recipe logistic_head`."""
    at_least: int = 0
    """Leave out classes of fewer images, train and test together."""
    holdout: float = 0.2
    cache: Path | None = None
    """A folder in which features are kept between commands; a pass that was stopped goes on."""
    batch: int = 64
    device: str = "auto"
    precision: Annotated[str, tyro.conf.arg(help="auto, fp32 or bf16")] = "auto"
    workers: int = -1
    json: Switch = False
    csv: Switch = False


def main(words: Sequence[str]) -> int:
    asked = parse(Probe, words, command="probe")
    if asked.save:
        return save_head(asked, asked.save)
    rows = [row for name, kept in features(asked) for row in measure(name, kept, asked)]
    if not rows:
        raise ConfigError(f"none of {asked.protocols} applies to {asked.model}", next_step="try --protocols linear")
    show(
        table(rows, f"features on {asked.data or asked.model}"),
        "json" if asked.json else "csv" if asked.csv else "table",
    )
    return 0


def save_head(asked: Probe, out: Path) -> int:
    """A training run of no steps, whose head is logistic regression on the frozen features."""
    from vitrail.cli import train

    words = [asked.data, "--weights", asked.model, "--recipe", "logistic_head", "--out", str(out)]
    words += ["--holdout", str(asked.holdout), "--hardware.device", asked.device]
    if asked.image:
        words += ["--preprocess.size", *map(str, (asked.image * 2)[:2])]
    return train.main([*words, "--json"] if asked.json else words)


def features(asked: Probe) -> Iterator[tuple[str, Kept]]:
    """The features of every model named, checked before the first is computed."""
    check_protocols(names(asked))
    if asked.seeds < 1:
        raise ConfigError(f"--seeds {asked.seeds}", allowed="1 or more")
    models = (asked.model, *asked.beside)
    stored = {name: read(name) for name in models if is_features(name)}
    for name, kept in stored.items():
        check_layers(kept, asked)
        if asked.image or asked.pool != "auto":
            say(f"{name} holds features already: --image and --pool change nothing there")
    if not asked.data and len(stored) < len(models):
        raise ConfigError("no images were named", next_step=f"try `vitrail probe {asked.model} digits`")
    splits = open_data(asked.data, holdout=asked.holdout) if asked.data else None
    if splits:
        splits = with_classes(splits, asked.at_least)
        say(f"{len(splits.train):,} to learn from, {len(splits.test):,} to test: {splits.how}")
    for name in models:
        if name in stored:
            yield name, stored[name]
            continue
        assert splits is not None
        for size in asked.image or (None,):
            called = name if size is None else f"{name}, {size} px"
            model = open_model(name, splits, size)
            yield called, embed(model, parts_of(splits), name=called, how=how(model, asked), cache=asked.cache)


def with_classes(splits: Splits, least: int) -> Splits:
    """Without the classes of fewer than `least` images, which are said."""
    if least < 1:
        return splits
    counts = splits.train.counts + splits.test.counts
    kept = np.flatnonzero(counts >= least)
    if len(kept) == len(counts):
        return splits
    if len(kept) < 2:
        raise DataError(f"{len(kept)} classes have {least} images or more", allowed=f"--at-least {np.sort(counts)[-2]}")
    names = splits.train.classes
    small = [f"{names[k]} ({counts[k]})" for k in np.flatnonzero(counts < least)]
    say(f"{len(small)} of {len(counts)} classes are left out, of fewer than {least} images: {', '.join(small)}")

    def of(source: Source) -> Source:
        some = source.subset(np.flatnonzero(np.isin(source.labels, kept)))
        return replace(some, labels=np.searchsorted(kept, some.labels), classes=tuple(names[k] for k in kept))

    return replace(splits, train=of(splits.train), test=of(splits.test), val=splits.val and of(splits.val))


def measure(name: str, kept: Kept, asked: Probe) -> Iterator[tuple[str, Row]]:
    """Each row with the name of its features: every protocol on every layer."""
    say(f"{name}: {len(kept.keys):,} images, {kept.features.shape[1]} features ({kept.about.layer})")
    settings = Settings(shots=asked.shots, l2=asked.l2, k=asked.k, seeds=tuple(range(asked.seeds)))
    wanted = views(name, kept, asked)
    with progress(len(wanted), f"Protocols on {name}") as bar:
        for done, (called, protocol, layers) in enumerate(wanted, start=1):
            yield from (
                (called, row) for row in probe(kept.at(layers), [protocol], settings, blocks=max(1, len(layers)))
            )
            bar.update(done)


def check_layers(kept: Kept, asked: Probe) -> None:
    """Raises ConfigError where features that were kept lack a layer that is asked for. Pixels have none, which is said
    later."""
    if kept.about.blocks:
        views("", kept, asked)
    elif kept.about.digest != PIXELS_DIGEST:
        most = max(WIDE.get(protocol, 1) for protocol in names(asked))
        kept.at(asked.layer or (tuple(range(-most, 0)) if most > 1 else ()))


def views(name: str, kept: Kept, asked: Probe) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, protocol, the layers it reads) of everything to measure on these features; what they have no layers for is
    said. Raises ConfigError for layers that were not kept.
    """
    there, found = kept.about.blocks, []
    last = there[-1] if there else 0
    for layer in asked.layer if there and asked.layer else (last,):
        number = layer + last + 1 if layer < 0 else layer
        called = f"{name}, layer {number}" if len(asked.layer) > 1 and there else name
        for protocol in names(asked):
            count = WIDE.get(protocol, 1)
            if not there and count > 1:
                say(f"{name} has no layers to put side by side: {protocol} is left out")
                continue
            layers = tuple(range(number - count + 1, number + 1)) if there else ()
            kept.at(layers)
            found.append((called, protocol, layers))
    return found


def names(asked: Probe) -> list[str]:
    return [name.strip() for name in asked.protocols.split(",") if name.strip()]


def how(model: nn.Module, asked: Probe) -> Extraction:
    """One pass for all layers that the protocols read."""
    counts = [WIDE.get(protocol, 1) for protocol in names(asked)]
    layers: set[int] = set()
    if not isinstance(model, Pixels) and (asked.layer or (max(counts) > 1 and blocks_of(model))):
        layers = {number for layer in asked.layer or (-1,) for count in counts for number in up_to(layer, count, model)}
    return Extraction(
        layers=tuple(sorted(layers)),
        pool="auto" if isinstance(model, Pixels) else asked.pool,
        batch_size=asked.batch,
        device=asked.device,
        precision=asked.precision,
        workers=asked.workers,
    )


def open_model(name: str, splits: Splits, image: int | None = None) -> nn.Module:
    """A model by path, or `pixels`; for square images of `image` pixels a side where that is given."""
    return open_pixels(splits.train, image) if name == "pixels" else load(name, image=image)


def open_pixels(source: Source, image: int | None = None) -> nn.Module:
    height, width, channels = source.shape or (PIXELS, PIXELS, 3)
    size = (min(height, PIXELS), min(width, PIXELS)) if image is None else (image, image)
    return Pixels(size, channels)
