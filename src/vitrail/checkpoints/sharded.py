"""Checkpoints of a run whose ranks hold shards: each rank writes its own, and any number of ranks reads them.

    step-00000120/   shard-00000.safetensors …  shards.json  state.json  manifest.json

Planners of torch.distributed.checkpoint say who writes and who reads what. The storage below is ours, for two things in torch
unpickle: `FileSystemReader.read_metadata` its `.metadata` (checkpoint/filesystem.py, `pickle.load`), and `save` and `load`
the plans that ranks send one another (checkpoint/utils.py, `gather_object`). Here metadata and plans are JSON.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from vitrail.checkpoints.read import SHARDS
from vitrail.checkpoints.write import write, write_tensors

DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool,
)}  # fmt: skip


class SavePlans(DefaultSavePlanner):
    """DCP's own plan, of tensors as they were when `stage` copied them: they may be written while training goes on."""

    def __init__(self) -> None:
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._staged: dict[MetadataIndex, Tensor] = {}

    def create_local_plan(self) -> SavePlan:
        """Without the empty shards of tensors that have fewer rows than there are ranks."""
        plan = super().create_local_plan()
        held = [item for item in plan.items if item.type != WriteItemType.SHARD or 0 not in _chunk(item).sizes]
        return dataclasses.replace(plan, items=held)

    def stage(self, plan: SavePlan, copy: Any) -> None:
        found = {item.index: super(SavePlans, self).resolve_data(item) for item in plan.items}
        self._staged = {index: copy(name_of(index), tensor) for index, tensor in found.items()}

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self._staged[write_item.index]


class ShardWriter(StorageWriter):
    """Writes each rank's shard as a safetensors file, and what lies where as JSON, into a folder that is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def reset(self, checkpoint_id: Any = None) -> None:
        self.folder = Path(checkpoint_id or self.folder)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        pass

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Each rank's file."""
        return [
            dataclasses.replace(plan, storage_data=f"shard-{rank:05d}.safetensors") for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Results carry the file's name, size and checksum, which the manifest wants."""
        tensors = {name_of(item.index): planner.resolve_data(item) for item in plan.items}
        facts = write_tensors(self.folder / plan.storage_data, tensors)  # pyrefly: ignore[bad-argument-type]
        data = {"file": plan.storage_data, **facts}
        return _done([WriteResult(item.index, facts["size"], data) for item in plan.items])

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        files = {result.index: result.storage_data["file"] for rank in results for result in rank}
        self.index = write(self.folder / SHARDS, json.dumps(to_json(metadata, files)).encode())

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return Path(checkpoint_id).is_dir()


class ShardReader(StorageReader):
    """Reads of a folder's files the slices that a plan asks for. It checks no sums: `checkpoints.read` has."""

    def __init__(self, folder: Path, index: Mapping[str, Any] | None = None) -> None:
        self.folder, self._index = Path(folder), index
        self._files: dict[MetadataIndex, str] = {}

    def reset(self, checkpoint_id: Any = None) -> None:
        self.folder = Path(checkpoint_id or self.folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return from_json(self._index or json.loads((self.folder / SHARDS).read_bytes()))

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self._files = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        files: dict[str, Any] = {}
        for item in plan.items:
            if 0 in item.lengths:
                continue
            name = self._files[item.storage_index]
            if name not in files:
                files[name] = safe_open(self.folder / name, "pt")
            part = name_of(item.storage_index)
            cut = tuple(slice(o, o + n) for o, n in zip(item.storage_offsets, item.lengths, strict=True))
            wanted = files[name].get_slice(part)[cut] if cut else files[name].get_tensor(part)
            planner.resolve_tensor(item).detach().copy_(wanted)
        return _done(None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return (Path(checkpoint_id) / SHARDS).is_file()


class Group(Mapping[str, Tensor]):
    """The tensors of one group (model, optimizer, ema), each whole, read when asked for; `load` reads a rank's own parts."""

    def __init__(self, reader: ShardReader, prefix: str) -> None:
        self._reader, self._prefix = reader, prefix
        self._metadata = reader.read_metadata()
        self.described = {
            name.removeprefix(prefix): torch.empty(about.size, dtype=about.properties.dtype, device="meta")  # pyrefly: ignore[missing-attribute]
            for name, about in self._metadata.state_dict_metadata.items()
            if name.startswith(prefix)
        }
        """Without their numbers."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.described)

    def __len__(self) -> int:
        return len(self.described)

    def __contains__(self, name: object) -> bool:
        return name in self.described

    def __getitem__(self, name: str) -> Tensor:
        whole = torch.empty_like(self.described[name], device="cpu")
        self.load({name: whole})
        return whole

    def load(self, targets: Mapping[str, Tensor]) -> None:
        """Fills the targets, tensors or this rank's shards of them, whatever number of ranks wrote."""
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        wanted = {self._prefix + name: target for name, target in targets.items()}
        planner.set_up_planner(wanted, self._metadata, True)  # pyrefly: ignore[bad-argument-type]
        self._reader.set_up_storage_reader(self._metadata, True)
        self._reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


def groups(folder: Path, index: Mapping[str, Any]) -> dict[str, Group]:
    """A checkpoint's groups by name."""
    reader = ShardReader(folder, index)
    return {name: Group(reader, f"{name}/") for name in dict.fromkeys(key.partition("/")[0] for key in index)}


def name_of(index: MetadataIndex) -> str:
    """A part's name in its file: the tensor's, and where the part begins."""
    return f"{index.fqn}@{','.join(map(str, index.offset or ()))}"


# --- metadata and plans as JSON --------------------------------------------------------------------------------------


def to_json(metadata: Metadata, files: Mapping[MetadataIndex, str]) -> dict[str, Any]:
    """{tensor: dtype, size, parts (where it begins, its size, its file)}."""
    return {
        name: {
            "dtype": str(about.properties.dtype).removeprefix("torch."),
            "size": list(about.size),
            "parts": [[list(c.offsets), list(c.sizes), files[MetadataIndex(name, c.offsets)]] for c in about.chunks],
        }
        for name, about in metadata.state_dict_metadata.items()
        if isinstance(about, TensorStorageMetadata)
    }


def from_json(index: Mapping[str, Any]) -> Metadata:
    """The way back; `storage_data` says each part's file."""
    tensors, files = {}, {}
    for name, about in index.items():
        chunks = [ChunkStorageMetadata(torch.Size(begin), torch.Size(size)) for begin, size, _ in about["parts"]]
        files |= {MetadataIndex(name, torch.Size(begin)): file for begin, _, file in about["parts"]}
        properties = TensorProperties(dtype=DTYPES[about["dtype"]])
        tensors[name] = TensorStorageMetadata(properties, torch.Size(about["size"]), chunks)
    return Metadata(tensors, storage_data=files)


def plan_to_json(plan: SavePlan) -> list[list[Any]]:
    """What a rank would write: (tensor, kind, dtype, whole size, where its part begins, the part's size)."""
    return [
        [item.index.fqn, item.type.name, str(data.properties.dtype).removeprefix("torch."), *map(list, sizes)]
        for item in plan.items
        if (data := item.tensor_data) is not None
        for sizes in [(data.size, data.chunk.offsets, data.chunk.sizes)]
    ]


def plan_from_json(rows: list[list[Any]]) -> SavePlan:
    items = []
    for name, kind, dtype, *lists in rows:
        size, offsets, sizes = map(torch.Size, lists)
        data = TensorWriteData(ChunkStorageMetadata(offsets, sizes), TensorProperties(dtype=DTYPES[dtype]), size)
        items.append(WriteItem(MetadataIndex(name, offsets), WriteItemType[kind], tensor_data=data))
    return SavePlan(items)


def _chunk(item: WriteItem) -> ChunkStorageMetadata:
    assert item.tensor_data is not None
    return item.tensor_data.chunk


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
