"""Tables of features in files, with all that is needed to know whose they are.

`.safetensors` is built in; `.parquet` (one row an image, for pandas, DuckDB or Polars) needs the extra `parquet`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors

from vitrail import config as configs
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.feature_table import SPLITS, About, FeatureTable
from vitrail.images.arrow import arrow, plain_errors, read_table
from vitrail.prediction.parts import DONE, JOB, Job
from vitrail.storage import write_whole

FORMAT = "vitrail features 1"


def save(path: str | Path, kept: FeatureTable) -> None:
    """Writes the file, whole or not at all. Raises ConfigError for another ending, StorageError where it cannot be written."""
    path = Path(path)
    writer = _of(path, {".safetensors": _to_safetensors, ".parquet": _to_parquet})
    write_whole(path, writer(kept))


def read(path: str | Path) -> FeatureTable:
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


def _header(kept: FeatureTable) -> dict[str, str]:
    about = json.dumps(configs.to_dict(kept.about), ensure_ascii=False)
    return {"format": FORMAT, "about": about}


def _sum(about: str, kept: FeatureTable) -> str:
    """A sha256 over all that a file holds: one flipped bit of a feature is another feature."""
    digest = hashlib.sha256(about.encode())
    for tensor in (kept.features, kept.labels.long(), kept.splits.to(torch.uint8)):
        digest.update(tensor.contiguous().numpy().tobytes())
    digest.update("\n".join(kept.keys).encode())
    return digest.hexdigest()


def _about(header: dict[str, str] | None, path: Path) -> About:
    if (header or {}).get("format") != FORMAT:
        raise DataError(f"{path} does not hold features", next_step="make such a file with `vitrail embed`")
    assert header is not None
    return configs.from_dict(About, configs.parse_json(header["about"]), where=str(path))


def _to_safetensors(kept: FeatureTable) -> bytes:
    names = json.dumps(kept.keys, ensure_ascii=False).encode()
    tensors = {
        "features": kept.features.contiguous(),
        "labels": kept.labels.long().contiguous(),
        "splits": kept.splits.to(torch.uint8).contiguous(),
        "keys": torch.frombuffer(bytearray(names), dtype=torch.uint8),
    }
    return to_safetensors(tensors, metadata={**(header := _header(kept)), "sha256": _sum(header["about"], kept)})


def _from_safetensors(path: Path) -> FeatureTable:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            about = _about(header, path)
            found = {name: file.get_tensor(name) for name in ("features", "labels", "splits", "keys")}
        keys = tuple(configs.parse_json(found["keys"].numpy().tobytes()))
    except (SafetensorError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error})", next_step="make it again with `vitrail embed`") from None
    kept = FeatureTable(found["features"], found["labels"], found["splits"].long(), keys, about)
    if header.get("sha256") not in (None, _sum(header["about"], kept)):  # 0.1.0 wrote none
        raise DataError(f"{path} is damaged: its sum is another", next_step="make it again with `vitrail embed`")
    return kept


def _to_parquet(kept: FeatureTable) -> bytes:
    pa, parquet = arrow()
    sink = pa.BufferOutputStream()
    parquet.write_table(table_of(kept), sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def table_of(kept: FeatureTable, errors: Sequence[str | None] | None = None) -> Any:
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


def _from_parquet(path: Path) -> FeatureTable:
    return _from_tables([path], path)


def _from_parts(folder: Path) -> FeatureTable:
    """The features of a folder that `embed_parts` finished."""
    job = configs.read_json(Job, folder / JOB)
    if job.kind != "features" or not (folder / DONE).is_file():
        why = "is not finished" if job.kind == "features" else f"holds {job.kind}"
        raise DataError(f"{folder} {why}", next_step="start its `vitrail embed` again")
    return _from_tables([folder / part.name for part in job.parts], folder)


def _from_tables(files: Sequence[Path], path: Path) -> FeatureTable:
    """The rows of some Parquet files, one after the other. Raises DataError that names `path`."""
    try:
        with plain_errors():
            return _from_table(arrow()[0].concat_tables([read_table(file) for file in files]), path)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:  # a column of another kind
        raise DataError(f"{path} is damaged ({error})", next_step="make it again with `vitrail embed`") from None


def _from_table(table: Any, path: Path) -> FeatureTable:
    header = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    about = _about(header, path)
    if "error" in table.column_names:
        table = table.filter(table["error"].is_null())
    feature = table.column("feature").combine_chunks()
    width = feature.type.list_size
    values = feature.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    splits = [SPLITS.index(name) for name in table.column("split").to_pylist()]
    return FeatureTable(
        torch.from_numpy(np.array(values)),
        torch.from_numpy(np.array(table.column("label").to_numpy())),
        torch.tensor(splits, dtype=torch.long),
        tuple(table.column("key").to_pylist()),
        about,
    )
