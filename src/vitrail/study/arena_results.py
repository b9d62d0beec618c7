"""The numbers of the arena, one by one, and what is said of several."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import config
from vitrail.study.progress import stored, write


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number: how well one model answers by one protocol."""

    study: str
    """`budget` or `ratio`."""
    method: str
    seed: int
    flops: float
    """Of pre-training, all of it."""
    protocol: str
    accuracy: float
    mask_ratio: float | None = None
    share: float = 1.0
    """Of the budget."""


def save(cells: Sequence[Cell], path: Path) -> None:
    write(path, [dataclasses.asdict(cell) for cell in cells])


def load(path: Path) -> list[Cell]:
    """The cells of an earlier start; none where there is no file. ConfigError for one that is damaged."""
    return [config.from_dict(Cell, one, where=str(path)) for one in stored(path)]


def means(cells: Iterable[Cell], key: Callable[[Cell], Any]) -> dict[Any, tuple[float, float, int]]:
    """Of the cells with each key: mean accuracy, standard deviation over seeds (0 for one), number of seeds."""
    groups: dict[Any, list[float]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell.accuracy)
    spread = {name: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for name, values in groups.items()}
    return {name: (float(np.mean(values)), spread[name], len(values)) for name, values in groups.items()}


def largest_budgets(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the table: of each method and seed those with the most pre-training."""
    budget = [cell for cell in cells if cell.study == "budget"]
    most: dict[tuple[str, int], float] = {}
    for cell in budget:
        most[cell.method, cell.seed] = max(most.get((cell.method, cell.seed), 0.0), cell.flops)
    return [cell for cell in budget if cell.flops == most[cell.method, cell.seed]]
