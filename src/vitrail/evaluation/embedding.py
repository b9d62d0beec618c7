"""Images to features that can be kept: one pass over each split, read from the cache where the same pass was made
before.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from vitrail import config as configs
from vitrail import hardware
from vitrail.batches.loader import Batch, eval_batches
from vitrail.errors import ConfigError
from vitrail.evaluation import store
from vitrail.evaluation.feature_table import SPLITS, About, FeatureTable, join
from vitrail.evaluation.features import extract, make_answer
from vitrail.evaluation.layers import AtLayers, Pixels, Pool
from vitrail.images.samples import Source, Splits
from vitrail.prediction.bulk import ROWS, Bulk, job_of
from vitrail.prediction.engine import TorchEngine
from vitrail.prediction.forward import model_digest, place, preprocess_of
from vitrail.prediction.parts import Part
from vitrail.reports.progress import Progress, progress
from vitrail.scores.finite import check_finite

PIXELS = "pixels"
"""The digest of no model at all."""
CHUNK = 4096
"""Images between two savings of a pass that is kept."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """How features are taken from a model."""

    layers: tuple[int, ...] = ()
    """Blocks, from 1, or from the last with -1; several are put side by side. None: what the model's head reads."""
    pool: Pool = "auto"
    batch_size: int = 64
    device: str | None = None
    precision: str = "auto"
    workers: int = -1

    def reader(self, model: nn.Module) -> nn.Module:
        if not self.layers:
            if self.pool != "auto":
                raise ConfigError("a pooling without a layer", next_step="name the layer too: `layer=-1` is the last")
            return model
        return AtLayers(model, self.layers, pool=self.pool)

    def named(self, reader: nn.Module) -> str:
        return f"{' '.join(map(str, reader.layers))} {self.pool}" if isinstance(reader, AtLayers) else "pooled"


def embed(
    model: nn.Module,
    parts: Mapping[str, Source],
    *,
    name: str = "",
    how: Extraction | None = None,
    cache: Path | None = None,
) -> FeatureTable:
    """Features of the sources, by the names of their splits (train, test, val).

    `cache` is a folder of files named by what decides the features: model, layer, preprocessing and data. Features that are there
    are read and not computed; a pass that was stopped goes on where it last wrote, CHUNK images back at most.
    """
    how = how or Extraction()
    reader = how.reader(model)
    about = about_of(model, reader, parts, name, how)
    file = cache / f"{key(about, how.precision)}.safetensors" if cache else None
    if file is not None and file.is_file():
        return store.read(file)
    aside = file.with_suffix("") if file else None
    kept = join([_pass(reader, about, split, source, how, aside) for split, source in parts.items()])
    kept = dataclasses.replace(kept, about=about)
    if file is not None and aside is not None:
        store.save(file, kept)
        shutil.rmtree(aside, ignore_errors=True)
    return kept


def about_of(model: nn.Module, reader: nn.Module, parts: Mapping[str, Source], name: str, how: Extraction) -> About:
    """The description of the features to come."""
    sources = list(parts.values())
    return About(
        model=name,
        digest=PIXELS if isinstance(model, Pixels) else model_digest(model),
        layer=how.named(reader),
        preprocess=preprocess_of(reader),
        classes=sources[0].classes,
        data=", ".join(dict.fromkeys(source.name for source in sources)),
        fingerprints=tuple(source.fingerprint for source in sources),
    )


def bulk(
    model: nn.Module, parts: Mapping[str, Source], *, name: str = "", how: Extraction | None = None, part: int = ROWS
) -> Bulk:
    """The same features as `embed`, for a folder of Parquet parts: for more images than fit into memory, by several
    processes, resumable. An image that cannot be read has a row that says why."""
    how = how or Extraction()
    reader: Any = how.reader(model)
    about = about_of(model, reader, parts, name, how)
    where = place(reader, how.device)
    read = make_answer(reader, "features", about.preprocess, how.device, how.precision)
    engine = TorchEngine(reader, about.preprocess, about.classes, where, hardware.precision(how.precision, where))

    def answer(images: UInt8[Tensor, "B C H W"]) -> Any:  # features, one row an image
        features = read(images).float().cpu()
        check_finite(features, what="the features of")
        return features

    width = answer(torch.zeros(1, about.preprocess.channels, *about.preprocess.size, dtype=torch.uint8)).shape[1]
    job = job_of(engine, about.digest, parts, "features", about.layer, how.batch_size, part)

    def table(span: Part, keys: Sequence[str], answers: Sequence[Any], errors: Sequence[str | None]) -> Any:
        rows = [torch.zeros(width) if row is None else row for row in answers]
        labels = torch.from_numpy(parts[span.split].labels[span.start : span.stop])
        labels = labels.long() if labels.ndim == 1 else torch.full((len(rows),), -1)
        splits = torch.full((len(rows),), SPLITS.index(span.split))
        return store.table_of(FeatureTable(torch.stack(rows), labels, splits, tuple(keys), about), errors)

    return Bulk(job, parts, about.preprocess.read, answer, table)


def every_part(splits: Splits) -> dict[str, Source]:
    """All parts that have images."""
    return {split: source for split, source in splits.parts.items() if len(source)}


def parts_of(splits: Splits) -> dict[str, Source]:
    """Train and test; a validation part is left to the caller."""
    return {"train": splits.train, "test": splits.test}


def key(about: About, *more: str) -> str:
    """A short name for the features of one model on one data set."""
    decides = {**configs.to_dict(about), "model": "", "data": "", "more": more}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _pass(
    reader: nn.Module, about: About, split: str, source: Source, how: Extraction, aside: Path | None
) -> FeatureTable:
    """Features of one source; with a folder `aside`, in pieces that are written there as soon as they are made."""
    size = CHUNK if aside else max(1, len(source))
    found: list[FeatureTable] = []
    with progress(len(source), f"Features of {source.name} ({split})") as bar:
        for start in range(0, max(1, len(source)), size):
            piece = aside / f"{split}-{start:010d}.safetensors" if aside else None
            if piece is not None and piece.is_file():
                found.append(store.read(piece))
                bar.update(start + len(found[-1].keys))
                continue
            some = source if size >= len(source) else source.subset(range(start, min(start + size, len(source))))
            found.append(_some(reader, about, split, some, how, bar))
            if piece is not None:
                store.save(piece, found[-1])
    return join(found)


def _some(reader: nn.Module, about: About, split: str, source: Source, how: Extraction, bar: Progress) -> FeatureTable:
    batches = eval_batches(source, preprocess=about.preprocess, batch_size=how.batch_size, workers=how.workers)
    counted = _counted(batches, bar)
    found = extract(reader, counted, what="features", device=how.device, precision=how.precision)
    labels = found.labels.long() if found.labels.ndim == 1 else torch.full((len(found.keys),), -1)
    return dataclasses.replace(found, labels=labels, splits=found.splits + SPLITS.index(split), about=about)


def _counted(batches: Iterable[Batch], bar: Progress) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        bar.update(bar.done + len(batch.keys))
