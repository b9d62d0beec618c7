"""A model with the images it is shown, and a finding: the form in which every analysis gives its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from vitrail.errors import DoesNotApply
from vitrail.inspection.figures import Pixels, Plate, Rgb, shrink
from vitrail.inspection.heads import Heads, heads
from vitrail.inspection.patches import patch_features
from vitrail.models.backbone import Backbone
from vitrail.reports.tables import Column, Table

SHOWN = 4
"""Images in the figures. The numbers are over all images."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and the images it is shown."""

    name: str
    model: Backbone
    images: UInt8[Tensor, "I C H W"]
    keys: Sequence[str] = ()
    layers: Sequence[int] | None = None
    heads: Sequence[int] | None = None
    truths: Sequence[str] = ()
    """The names of the images' classes, where they are known."""

    @property
    def few(self) -> UInt8[Tensor, "_ C H W"]:
        """The images in the figures. Raises DoesNotApply where there are none."""
        if not len(self.images):
            raise DoesNotApply("no images were given")
        return self.images[:SHOWN]

    def key(self, index: int) -> str:
        """The name of an image."""
        return self.keys[index] if index < len(self.keys) else f"image {index}"

    @cached_property
    def pictures(self) -> list[Pixels]:
        return [picture_of(image) for image in self.images[:SHOWN]]

    @cached_property
    def features(self) -> Tensor:
        """B h w D, of all images."""
        _ = self.few
        return patch_features(self.model, self.images)

    @cached_property
    def measured(self) -> list[Heads]:
        _ = self.few
        return heads(self.model, self.images, layers=self.layers)


@dataclass(frozen=True, eq=False)
class Finding:
    """The result of an analysis. `arrays` go into the JSON, next to the rows of the table."""

    text: str
    plates: Sequence[Plate]
    table: Table
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    heading: str = ""
    """A heading for the page, where the title of the analysis is not true of this model."""


def table_of(rows: Any, columns: Mapping[str, str]) -> Table:
    """Rows under the names of `columns`, each written in its format."""
    return Table(tuple(Column(name, form) for name, form in columns.items()), tuple(rows))


def peak(values: Tensor) -> tuple[float, int, int, float]:
    """(sum, row, column, value at the largest)."""
    row, column = divmod(int(values.argmax()), values.shape[1])
    return float(values.sum()), row, column, float(values.max())


def picture_of(image: UInt8[Tensor, "C H W"]) -> Rgb:
    return shrink(image.permute(1, 2, 0).numpy())
