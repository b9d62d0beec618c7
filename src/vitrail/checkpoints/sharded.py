"""Checkpoints of a run whose ranks hold shards: each rank writes its own file, and any number of ranks reads them.

    step-00000120/   shard-00000.safetensors …  state.json  manifest.json

The files have the layout of torch.distributed.checkpoint's Hugging Face storage, and torch's reader and planners do the reading.
torch's own `save`, `load` and writer are not used: they send pickled plans from rank to rank (checkpoint/utils.py,
`gather_object`). Shards that lie along one dimension need no plan: a header says where in its tensor each part begins.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, HuggingFaceStorageReader
from torch.distributed.checkpoint.planner import WriteItemType

from vitrail.checkpoints.write import write_tensors
from vitrail.config import read_object
from vitrail.errors import CheckpointError

FIRST_INDEX = "shards.json"
"""Where Vitrail 0.1.0 wrote which part of which tensor lies in which file."""

Tensors = Mapping[str, Mapping[str, Tensor]]
Parts = dict[str, tuple[Tensor, list[int]]]
"""{group/name: (the part that this rank holds, where it begins in the whole tensor)}."""


def list_parts(tensors: Tensors, leads: bool) -> Parts:
    """The parts that this rank writes. The first rank also writes the tensors without shards; empty parts are left out."""
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    flat = {f"{group}/{name}": tensor for group, held in tensors.items() for name, tensor in held.items()}
    planner.set_up_planner(flat, is_coordinator=leads)
    parts: Parts = {}
    for item in planner.create_local_plan().items:
        part: Any = planner.resolve_data(item)
        if part.numel() if item.type == WriteItemType.SHARD else leads:
            parts[item.index.fqn] = part, list(item.index.offset or ())
    return parts


def write_parts(path: Path, parts: Parts) -> dict[str, Any]:
    """Writes one rank's file; gives its line of the manifest."""
    begins = {name: {"saved_offsets": begin} for name, (_, begin) in parts.items()}
    about = {"format": "pt", "DCP_SHARDING_INFO": json.dumps(begins)}  # names of torch's format
    return write_tensors(path, {name: part for name, (part, _) in parts.items()}, about)


class Group(Mapping[str, Tensor]):
    """The tensors of one group (model, optimizer, ema), each whole, read when asked for; `load` reads a rank's own parts."""

    def __init__(self, reader: HuggingFaceStorageReader, metadata: Any, prefix: str) -> None:
        self._reader, self._metadata, self._prefix = reader, metadata, prefix
        self.described = {
            name.removeprefix(prefix): torch.empty(about.size, dtype=about.properties.dtype, device="meta")
            for name, about in metadata.state_dict_metadata.items()
            if name.startswith(prefix)
        }
        """Shapes and types, without the numbers."""

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
        """Fills the targets, whole tensors or this rank's shards of them, whatever number of ranks wrote."""
        planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
        wanted = {self._prefix + name: target for name, target in targets.items()}
        planner.set_up_planner(wanted, self._metadata, is_coordinator=True)  # pyrefly: ignore[bad-argument-type]
        self._reader.set_up_storage_reader(self._metadata, is_coordinator=True)
        self._reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


def open_groups(folder: Path) -> Mapping[str, Mapping[str, Tensor]]:
    """A checkpoint's groups by name. Its bytes are not checked here: `checkpoints.read` has done so."""
    if (folder / FIRST_INDEX).is_file():
        return _read_first(folder)
    reader = HuggingFaceStorageReader(str(folder))
    metadata = reader.read_metadata()
    names = dict.fromkeys(name.partition("/")[0] for name in metadata.state_dict_metadata)
    return {name: Group(reader, metadata, f"{name}/") for name in names}


def _read_first(folder: Path) -> Mapping[str, Mapping[str, Tensor]]:
    """A checkpoint of Vitrail 0.1.0, in memory: a part's name in its file ends with where it begins."""
    groups: dict[str, dict[str, Tensor]] = {}
    for path, about in read_object(folder / FIRST_INDEX, CheckpointError).items():
        group, _, name = path.partition("/")
        whole = torch.empty(about["size"], dtype=getattr(torch, about["dtype"]))
        for begin, size, file in about["parts"]:
            with safe_open(folder / Path(file).name, "pt") as opened:
                place = tuple(slice(first, first + count) for first, count in zip(begin, size, strict=True))
                whole[place] = opened.get_tensor(f"{path}@{','.join(map(str, begin))}")
        groups.setdefault(group, {})[name] = whole
    return groups
