"""Other people's files, one module an origin: how to know one, and a two-way table of names.

A source is a module with `name`, `recognises(keys)`, `read(tensors) -> Foreign` and `write(state, config) -> tensors`.
"""

from collections.abc import Mapping
from types import ModuleType

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.zoo import ModelConfig
from vitrail.weights.sources import bit, deit, google, hybrid, mae
from vitrail.weights.sources.table import Foreign

SOURCES: dict[str, ModuleType] = {source.NAME: source for source in (google, hybrid, bit, mae, deit)}


def read_foreign(
    tensors: Mapping[str, Tensor], *, where: str, config: ModelConfig | None = None
) -> tuple[str, Foreign]:
    """(origin, model) of a file of unknown origin, by its exact keys. WeightsError for an unknown or ambiguous one."""
    found = [name for name, source in SOURCES.items() if source.recognises(tensors.keys())]
    if len(found) != 1:
        some = ", ".join(sorted(tensors)[:4])
        what = f"fits {' and '.join(found)} alike" if found else f"is of no known origin (its keys: {some}, …)"
        missing = [
            f"{name} lacks {', '.join(sorted(source.SIGNATURE - tensors.keys())[:3])}"
            for name, source in SOURCES.items()
            if not source.recognises(tensors.keys())
        ]
        raise WeightsError(f"{where} {what}", allowed=", ".join(SOURCES), next_step="; ".join(missing))
    return found[0], SOURCES[found[0]].read(tensors, where=where, config=config)
