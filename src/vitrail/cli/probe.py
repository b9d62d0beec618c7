"""`vitrail probe`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn

from vitrail.cli.arguments import Switch, parse, say
from vitrail.errors import ConfigError
from vitrail.evaluate.embedding import Extraction, embed, parts_of
from vitrail.evaluate.layers import Pixels, Pool
from vitrail.evaluate.probing import WIDE, Row, Settings, check_protocols, probe, table
from vitrail.evaluate.store import Kept, is_features, read
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
      vitrail probe vit-s16.npz fashion-mnist --layer 10 --protocols fewshot,knn,linear --beside pixels
      vitrail probe features.safetensors --protocols linear,logistic --json
    """

    model: tyro.conf.Positional[str]
    data: tyro.conf.Positional[str] = ""
    """Labelled images, as for `vitrail train`."""
    protocols: str = "fewshot,knn,nearest-mean,linear"
    """Of fewshot, knn, nearest-mean, linear, linear-4 (the last four blocks side by side) and logistic."""
    layer: int | None = None
    """The block whose output is read, from 1, or from the last with -1; without it, what the model's head reads."""
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
    holdout: float = 0.2
    cache: Path | None = None
    """A folder in which features are kept between commands."""
    batch: int = 64
    device: str = "auto"
    precision: Annotated[str, tyro.conf.arg(help="auto, fp32 or bf16")] = "auto"
    workers: int = -1
    json: Switch = False
    csv: Switch = False


def main(words: Sequence[str]) -> int:
    asked = parse(Probe, words, command="probe")
    rows = [(name, row) for name, kept in features(asked) for row in measure(name, kept, asked)]
    show(
        table(rows, f"features on {asked.data or asked.model}"),
        "json" if asked.json else "csv" if asked.csv else "table",
    )
    return 0


def features(asked: Probe) -> Iterator[tuple[str, Kept]]:
    """The features of every model named, checked before the first is computed."""
    check_protocols(names(asked))
    if asked.seeds < 1:
        raise ConfigError(f"--seeds {asked.seeds}", allowed="1 or more")
    models = (asked.model, *asked.beside)
    stored = {name: read(name) for name in models if is_features(name)}
    if not asked.data and len(stored) < len(models):
        raise ConfigError("no images were named", next_step=f"try `vitrail probe {asked.model} digits`")
    splits = open_data(asked.data, holdout=asked.holdout) if asked.data else None
    if splits:
        say(f"{len(splits.train):,} to learn from, {len(splits.test):,} to test: {splits.how}")
    for name in models:
        if name in stored:
            yield name, stored[name]
            continue
        assert splits is not None
        for size in asked.image or (None,):
            called = name if size is None else f"{name}, {size} px"
            model = open_model(name, splits, size)
            yield called, embed(model, parts_of(splits), name=called, how=how(name, asked), cache=asked.cache)


def measure(name: str, kept: Kept, asked: Probe) -> Iterator[Row]:
    say(f"{name}: {len(kept.keys):,} images, {kept.features.shape[1]} features ({kept.about.layer})")
    settings = Settings(shots=asked.shots, l2=asked.l2, k=asked.k, seeds=tuple(range(asked.seeds)))
    blocks = len(kept.about.layer.split()) - 1 if kept.about.layer != "pooled" else 1
    wanted = [protocol for protocol in names(asked) if WIDE.get(protocol, 1) <= blocks]
    with progress(len(wanted), f"Protocols on {name}") as bar:
        for done, protocol in enumerate(wanted, start=1):
            yield from probe(kept, [protocol], settings, blocks=blocks)
            bar.update(done)


def names(asked: Probe) -> list[str]:
    return [name.strip() for name in asked.protocols.split(",") if name.strip()]


def how(name: str, asked: Probe) -> Extraction:
    blocks = max(WIDE.get(protocol, 1) for protocol in names(asked))
    last = asked.layer if asked.layer is not None or blocks == 1 else -1
    layers = () if last is None or name == "pixels" else tuple(range(last - blocks + 1, last + 1))
    return Extraction(
        layers=layers,
        pool=asked.pool if layers else "auto",
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
