"""An origin of weights, as data: its tables of names, and all else that is known of its files.

Names and shapes of the tensors give the config. A file next to them, the file's name or the caller gives the rest.
Where all are silent, the origin's default is taken, and a note says so.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail import config as configs
from vitrail.errors import VitrailError, WeightsError
from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.models.zoo import ModelConfig, skeleton
from vitrail.registry import Registry
from vitrail.weights.name_tables import Row, rows_of, stacked, to_ours, to_shapes, to_theirs, unstacked

Tensors = Mapping[str, Tensor]
Fields = Mapping[str, Any]
"""Values of a config by name."""
SQUASH = Preprocess()
"""Straight to size, as the ViT paper."""
CROP = Preprocess(resize="crop", interpolation="bicubic", crop_fraction=0.875, mean=IMAGENET[0], std=IMAGENET[1])
"""How most code for ImageNet prepares images."""

LATER = ("rotary", "rotary_grid", "pool_heads", "pool_prefix")
"""Settings of later weights that only the name of an architecture says."""


@dataclass(frozen=True)
class Foreign:
    """A model read from another's file, in our names."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    preprocess: Preprocess
    licence: str = ""
    said: tuple[str, ...] = ()
    """Sentences: what the file could not say and who said it instead."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts that stand outside of the tensors: in a file next to them, or in the file's name."""

    config: Fields = field(default_factory=dict)
    """Fields of our config."""
    preprocess: Fields = field(default_factory=dict)
    """Fields of our Preprocess."""
    classes: tuple[str, ...] = ()
    licence: str = ""
    training: Mapping[str, str | float] = field(default_factory=dict)
    where: str = ""
    """The file that says it."""


@dataclass(frozen=True)
class Checkpoint:
    """A published file: the model in it, its data, licence, and top-1 on ImageNet (fine-tuned)."""

    name: str
    model: str
    data: str
    licence: str
    top1: float | None = None
    image: int = 224
    config: Fields = field(default_factory=dict)
    """Fields of our config that only the file's name says."""


def in_lists(values: Fields) -> dict[str, Any]:
    """The values as JSON has them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


class Shapes:
    """How the models of one family show in the names and shapes of tensors: one file in `weights/shapes/` each."""

    kind: type
    """The family's config."""

    def sizes(self, ours: Tensors) -> dict[str, Any]:
        """The config's fields that the shapes of tensors under our names give."""
        raise NotImplementedError

    def read_config(self, style: "Style", tensors: Tensors, told: Fields, where: str) -> tuple[Any, list[str]]:
        """The config, and in words the settings that neither the file nor `told` says."""
        found = {**style.habits, **self.sizes(to_shapes(style.table, tensors, where)), **told}
        return configs.from_dict(self.kind, in_lists(found), where=where), []

    def rows(self, style: "Style", config: Any) -> list[Row]:
        """The rows of one model."""
        return rows_of(style.table, skeleton(config).state_dict().keys(), config)

    def heads(self, config: Any, name: str) -> int:
        """Attention heads of the block that the tensor `name` is in."""
        return getattr(config, "heads", 1)

    def strip(self, style: "Style", tensors: dict[str, Tensor], config: Any, where: str) -> dict[str, Tensor]:
        """Their tensors without those that no model here has. WeightsError for one that says something."""
        return tensors

    def complete(self, style: "Style", tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
        """The way back: with the tensors that `strip` takes away."""
        return tensors


@dataclass(frozen=True)
class Style:
    """One way to name the tensors of one family, and one set of habits."""

    table: tuple[Row, ...]
    signature: Collection[str]
    """Names every file of this style has."""
    habits: Fields = field(default_factory=dict)
    """Fields of the config that its files do not say."""
    preprocess: Preprocess = SQUASH
    """For the config's image size, unless that is `native`."""
    licence: str = ""
    shapes: str = "vit"
    """A name of `SHAPES`."""
    never: Collection[str] = ()
    """Names that no file of it has: another style's."""
    plain: Callable[[str], str] = str
    """Their name without a prefix that some files have."""
    native: tuple[int, int] | None = None
    """The image size of a position table that was trained for more pixels than it is used with (DINOv2)."""
    stack: str = ""
    """The name under which all blocks lie in one array each, in place of `{i}` (big_vision's scan)."""
    biases_free: bool = False
    """Whether its code makes models whose q, k and v have no biases. Elsewhere a file without them lacks something."""
    wrapped: bool | None = None
    """Whether its files hold the tensors under "model"; None: either."""
    leaves: tuple[str, ...] = ()
    """Beginnings of names that are left out, with a note: parts that no model here has, such as a text tower."""
    opens: Callable[[dict[str, Tensor], str], tuple[dict[str, Tensor], Fields]] = lambda tensors, where: (tensors, {})
    """(tensors, where) to the tensors that have rows, and the fields of the config that the others show."""
    closes: Callable[[dict[str, Tensor], Any], dict[str, Tensor]] = lambda tensors, config: tensors
    """(tensors, config) to a whole file: with those that `opens` takes away."""
    writes: Callable[[Any], bool] = lambda config: True
    """Whether it has models of such a config of its family."""

    @property
    def families(self) -> set[str]:
        """The families it has names for: a student of two heads has other rows than a ViT."""
        named = {row.when[1] for row in self.table if row.when and row.when[0] == "family"}
        return named if named and self.shapes == "vit" else {self.shapes}

    def fits(self, keys: Collection[str]) -> bool:
        names = {self.plain(key) for key in keys}
        return names.issuperset(self.signature) and names.isdisjoint(self.never)


@dataclass(frozen=True)
class Origin:
    """A library, or a group of people, whose files are read, and written where `suffixes` says as what."""

    name: str
    styles: Mapping[str, Style]
    suffixes: tuple[str, ...] = ()
    """Endings of the files that `convert` writes; "" is a folder with model.safetensors. Empty: it writes none."""
    published: tuple[Checkpoint, ...] = ()
    read_name: Callable[[str], Facts] = lambda name: Facts()
    """Reads the name of one of its files."""
    read_json: Callable[[dict[str, Any], Path], Facts | None] = lambda data, path: None
    """Reads its config.json; None for one of another origin."""
    describe: Callable[[str, Any, Preprocess, tuple[str, ...]], dict[str, dict[str, Any]]] = lambda *facts: {}
    """(style, config, preprocessing, class names) to JSON files by name; none where they cannot describe the model."""
    finish: Callable[[str, dict[str, Tensor], Any], dict[str, Tensor]] = lambda style, tensors, config: tensors
    """(style, tensors, config) to the tensors of a whole file, such as with the prefix of a model with a head."""
    tellable: tuple[str, ...] = ()
    """Settings that its users pass when they build a model: without JSON files nothing says them."""
    untold: Mapping[str, Any] = field(default_factory=dict)
    """Settings that its JSON files do not say either, and the value that a reader takes."""
    drops: tuple[str, ...] = ()
    """Tensors for which it has no name, and needs none."""
    positions_on: str = "all"
    """The tokens before the patches that its position tables have rows for."""
    keeps_sincos: bool = False
    """Whether its code computes fixed positions itself; others get them as a table."""

    def style(self, keys: Collection[str], wrapped: bool | None = None) -> str | None:
        """The name of the first style that fits the keys; best one whose files are `wrapped` as this is."""
        found = [name for name, style in self.styles.items() if style.fits(keys)]
        best = [name for name in found if wrapped in (None, self.styles[name].wrapped)]
        return next(iter(best or found), None)

    def style_for(self, config: ModelConfig) -> str | None:
        """The name of the style that `convert` writes such a model in."""
        for name, style in self.styles.items():
            if config.family in style.families and style.writes(config):
                return name
        return None

    def read(
        self,
        tensors: Tensors,
        *,
        where: str,
        config: Any = None,
        told: Fields | None = None,
        wrapped: bool | None = None,
    ) -> Foreign:
        """Config and tensors in our names. `config`, or the fields in `told`, say what the file cannot.

        WeightsError for missing, unknown or misshapen tensors and for a setting that is unknown; ConfigError for odd
        fields.
        """
        name = self.style(tensors.keys(), wrapped)
        if name is None:
            raise WeightsError(f"{where} is not of {self.name}", next_step="nothing was loaded")
        style = self.styles[name]
        shapes = SHAPES[style.shapes]
        theirs = unstacked({style.plain(key): tensor for key, tensor in tensors.items()}, style.stack)
        said = [f"names: {self.name}, {name}"]
        theirs, shown = style.opens(theirs, where)
        told = {**shown, **(told or {})}
        if left := [name for name in theirs if name.startswith(style.leaves)]:
            parts = sorted({part.rstrip(".") for part in style.leaves if any(name.startswith(part) for name in left)})
            said.append(f"left out: {len(left)} tensors of {', '.join(parts)}")
            theirs = {name: tensor for name, tensor in theirs.items() if name not in left}
        if config is None:
            config, silent = self._read_config(style, theirs, told, where)
            if silent:
                said.append(f"not in the file, the default of {self.name}: {', '.join(silent)}")
        ours = to_ours(shapes.rows(style, config), shapes.strip(style, theirs, config, where), where=where)
        return Foreign(config, ours, _preprocess_for(style, config), style.licence, tuple(said))

    def _read_config(self, style: Style, theirs: Tensors, told: Fields, where: str) -> Any:
        try:
            return SHAPES[style.shapes].read_config(style, theirs, told, where)
        except VitrailError:
            raise
        except (KeyError, IndexError, ValueError) as error:
            raise WeightsError(f"{where}: {error} is missing or misshapen", next_step="nothing was loaded") from None

    def write(self, state: Tensors, config: Any, style: str = "") -> dict[str, Tensor]:
        """A state under the names of `style`, or of the first that has such models. WeightsError for what has no name."""
        chosen = self.styles[style or self.style_for(config) or next(iter(self.styles))]
        shapes = SHAPES[chosen.shapes]
        if problem := _problem(chosen, config):
            raise WeightsError(f"{self.name} has {problem}", next_step="nothing was written")
        rows = shapes.rows(chosen, config)
        nameless = sorted(state.keys() - {row.ours for row in rows})
        if nameless:
            raise WeightsError(f"{self.name} has no names for {', '.join(nameless)}", next_step="nothing was written")
        theirs = to_theirs(rows, state, lambda name: shapes.heads(config, name))
        theirs = shapes.complete(chosen, stacked(theirs, chosen.stack, getattr(config, "depth", 0)), config)
        return chosen.closes(theirs, config)


ORIGINS = Registry[Origin]("origin of weights")
SHAPES = Registry[Shapes]("family in files of weights")


def _problem(style: Style, config: Any) -> str:
    """A setting of a ViT that this style's code does not have."""
    extras = getattr(config, "extras", None)
    if extras is None or style.shapes != "vit":
        return ""
    if not (extras.qkv_bias or style.biases_free):
        return "no models without qkv biases"
    on, given = style.habits.get("positions_on", extras.positions_on), extras.positions_on
    there = replace(config, extras=replace(extras, positions_on=on)).positioned_prefix == config.positioned_prefix
    return "" if there or config.positions != "learned" else f"positions_on {on!r} and not {given!r}"


def _preprocess_for(style: Style, config: Any) -> Preprocess:
    """The style's, at the config's size and for its channels."""
    size = style.preprocess.size if config.image == style.native else config.image
    preprocess = replace(style.preprocess, size=size)
    if config.channels == preprocess.channels:
        return preprocess
    return replace(preprocess, mean=(0.5,) * config.channels, std=(0.5,) * config.channels)
