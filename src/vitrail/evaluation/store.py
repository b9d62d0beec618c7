"""Features in a file: what one pass gave, with all that is needed to know whose they are. Every protocol reads it back.

`.safetensors` is built in; `.parquet` (one row an image, for pandas, DuckDB or Polars) needs the extra `parquet`.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from vitrail import config as configs
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.images.preprocess import Preprocess
from vitrail.prediction.forward import model_digest as model_digest
from vitrail.prediction.parts import DONE, JOB, Job, arrow
from vitrail.storage import write_whole

FORMAT = "vitrail features 1"
SPLITS = ("train", "test", "val")


@dataclass(frozen=True, kw_only=True)
class About:
    """The model and data of some features. Two files with one digest, layer and preprocess may be compared."""

    model: str
    digest: str
    """sha256 over the model's tensors; "pixels" for none."""
    layer: str
    """"pooled", or the blocks and the pooling: "11", "9 10 11 12 cls"."""
    preprocess: Preprocess
    classes: tuple[str, ...]
    data: str = ""
    fingerprints: tuple[str, ...] = ()
    """Fingerprints of the sources, one for each split in the file."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks whose features lie side by side; none where they are what the head reads, or pixels."""
        return tuple(int(word) for word in self.layer.split() if word.isdigit())


@dataclass(frozen=True, eq=False)
class Kept:
    """Features of N images, in order."""

    about: About
    features: Float[Tensor, "N D"]
    labels: Int[Tensor, "N"]
    """-1: unlabelled."""
    splits: Int[Tensor, "N"]
    """0 train, 1 test, 2 val."""
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        counts = [len(part) for part in (self.features, self.labels, self.splits, self.keys)]
        if len(set(counts)) > 1 or not set(self.splits.unique().tolist()) <= set(range(len(SPLITS))):
            raise DataError(
                "features of {} images with {} labels, {} splits and {} keys".format(*counts),
                allowed="one of each an image, splits " + ", ".join(f"{k} {name}" for k, name in enumerate(SPLITS)),
                next_step="make them again with `vitrail embed`",
            )

    def last(self, count: int, *, of: int) -> "Kept":
        """The features of the last `count` blocks where those of `of` blocks lie side by side."""
        width = self.features.shape[1] // of
        return dataclasses.replace(self, features=self.features[:, -count * width :])

    def at(self, blocks: Sequence[int]) -> "Kept":
        """The features of these blocks only. Raises ConfigError for one that was not kept."""
        there = self.about.blocks
        if not blocks:
            return self
        if absent := [block for block in blocks if block not in there]:
            raise ConfigError(
                f"layer {absent[0]} of features of {self.about.layer}",
                allowed=", ".join(map(str, there)) or "no layer: these are what the head reads",
                next_step=f"keep the layers you need with `vitrail embed` and `layer={blocks}`",
            )
        width = self.features.shape[1] // len(there)
        parts = [self.features[:, place * width : (place + 1) * width] for place in map(there.index, blocks)]
        pool = self.about.layer.split()[-1]
        about = dataclasses.replace(self.about, layer=" ".join(map(str, [*blocks, pool])))
        return dataclasses.replace(self, about=about, features=torch.cat(parts, 1) if len(parts) > 1 else parts[0])

    def part(self, split: str) -> Labelled:
        """The checked features of one split. Raises DataError where the file has none or labels are missing."""
        rows = self.splits == SPLITS.index(split)
        if not rows.any():
            there = [name for index, name in enumerate(SPLITS) if (self.splits == index).any()]
            raise DataError(f"these features have no {split} images", allowed=", ".join(there))
        return labelled(self.features[rows], self.labels[rows], len(self.about.classes) or None)


def check_same_model(first: About, second: About) -> None:
    """Raises DataError unless both were made by one model, at one layer, from images prepared alike."""
    for name in ("digest", "layer", "preprocess", "classes"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            what = {"digest": "of different models"}.get(name, f"with different {name}")
            shown = f"{first.model} and {second.model}" if name == "digest" else f"{one} and {other}"
            raise DataError(f"features {what}: {shown}", next_step="extract both again with the same model and options")


# --- files -----------------------------------------------------------------------------------------------------------


def save(path: str | Path, kept: Kept) -> None:
    """Writes the file, whole or not at all. Raises ConfigError for another ending, StorageError where it cannot be written."""
    path = Path(path)
    writer = _of(path, {".safetensors": _to_safetensors, ".parquet": _to_parquet})
    write_whole(path, writer(kept))


def read(path: str | Path) -> Kept:
    """Features from a file, or a folder of parts. Raises DataError for one that is missing, damaged or something else.

    Images that could not be read have a row in a table, and none here.
    """
    path = Path(path)
    if (path / JOB).is_file():
        return _from_parts(path)
    reader = _of(path, {".safetensors": _from_safetensors, ".parquet": _from_parquet})
    if not path.is_file():
        raise DataError(f"there is no file {path}", next_step="make it with `vitrail embed`")
    return reader(path)


def is_features(path: str | Path) -> bool:
    """Whether a file, or a folder of parts, holds features, and not weights."""
    path = Path(path)
    if (path / JOB).is_file():
        return configs.read_json(Job, path / JOB).kind == "features"
    if path.suffix == ".parquet" or path.suffix != ".safetensors" or not path.is_file():
        return path.suffix == ".parquet"
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except SafetensorError:
        return False


def _of(path: Path, table: dict[str, Any]) -> Any:
    if path.suffix not in table:
        raise ConfigError(f"features in {path.name!r}", allowed="a name that ends with " + " or ".join(table))
    return table[path.suffix]


def _header(kept: Kept) -> dict[str, str]:
    return {"format": FORMAT, "about": json.dumps(configs.to_dict(kept.about), ensure_ascii=False)}


def _about(header: dict[str, str] | None, path: Path) -> About:
    if (header or {}).get("format") != FORMAT:
        raise DataError(f"{path} does not hold features", next_step="make such a file with `vitrail embed`")
    assert header is not None
    return configs.from_dict(About, json.loads(header["about"]), where=str(path))


def _to_safetensors(kept: Kept) -> bytes:
    names = json.dumps(kept.keys, ensure_ascii=False).encode()
    tensors = {
        "features": kept.features.contiguous(),
        "labels": kept.labels.long().contiguous(),
        "splits": kept.splits.to(torch.uint8).contiguous(),
        "keys": torch.frombuffer(bytearray(names), dtype=torch.uint8),
    }
    return to_safetensors(tensors, metadata=_header(kept))


def _from_safetensors(path: Path) -> Kept:
    try:
        with safe_open(path, framework="pt") as file:
            about = _about(file.metadata(), path)
            found = {name: file.get_tensor(name) for name in ("features", "labels", "splits", "keys")}
        keys = tuple(json.loads(found["keys"].numpy().tobytes()))
    except (SafetensorError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error})", next_step="make it again with `vitrail embed`") from None
    return Kept(about, found["features"], found["labels"], found["splits"].long(), keys)


def _to_parquet(kept: Kept) -> bytes:
    pa, parquet = arrow()
    sink = pa.BufferOutputStream()
    parquet.write_table(table_of(kept), sink)
    return sink.getvalue().to_pybytes()


def table_of(kept: Kept, errors: Sequence[str | None] | None = None) -> Any:
    """A pyarrow table, a row an image. With `errors`, an image that has one has no feature, and says why."""
    pa, _ = arrow()
    names = np.array([*kept.about.classes, None], dtype=object)  # a label of -1 finds the last
    count, width = kept.features.shape
    missing = np.array([error is not None for error in errors or [None] * count], bool)
    values = pa.array(kept.features.numpy().ravel())
    columns = {
        "key": list(kept.keys),
        "split": [SPLITS[index] for index in kept.splits.tolist()],
        "label": kept.labels.numpy(),
        "class": pa.array(names[kept.labels.numpy()].tolist() if kept.about.classes else [None] * count, pa.string()),
        "feature": pa.FixedSizeListArray.from_arrays(values, width, mask=pa.array(missing)),
    }
    if errors is not None:
        columns["error"] = pa.array(errors, pa.string())
    return pa.table(columns).replace_schema_metadata(_header(kept))


def _from_parquet(path: Path) -> Kept:
    pa, parquet = arrow()
    try:
        return _from_table(parquet.read_table(path), path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged ({error})", next_step="make it again with `vitrail embed`") from None


def _from_parts(folder: Path) -> Kept:
    """The features of a folder that `embed_parts` finished."""
    pa, parquet = arrow()
    job = configs.read_json(Job, folder / JOB)
    if job.kind != "features" or not (folder / DONE).is_file():
        why = "is not finished" if job.kind == "features" else f"holds {job.kind}"
        raise DataError(f"{folder} {why}", next_step="start its `vitrail embed` again")
    try:
        tables = [parquet.read_table(folder / part.name, page_checksum_verification=True) for part in job.parts]
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{folder} is damaged ({error})", next_step="start its `vitrail embed` again") from None
    return _from_table(pa.concat_tables(tables), folder)


def _from_table(table: Any, path: Path) -> Kept:
    header = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    about = _about(header, path)
    if "error" in table.column_names:
        table = table.filter(table["error"].is_null())
    feature = table.column("feature").combine_chunks()
    width = feature.type.list_size
    values = feature.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    splits = [SPLITS.index(name) for name in table.column("split").to_pylist()]
    return Kept(
        about,
        torch.from_numpy(np.array(values)),
        torch.from_numpy(np.array(table.column("label").to_numpy())),
        torch.tensor(splits, dtype=torch.long),
        tuple(table.column("key").to_pylist()),
    )


def join(parts: Sequence[Kept]) -> Kept:
    """One file out of several, of one model."""
    first = parts[0]
    for part in parts[1:]:
        check_same_model(first.about, part.about)
    prints = tuple(text for part in parts for text in part.about.fingerprints)
    return Kept(
        dataclasses.replace(first.about, fingerprints=prints),
        torch.cat([part.features for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.splits for part in parts]),
        tuple(key for part in parts for key in part.keys),
    )
