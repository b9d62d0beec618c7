"""An origin of plain ViTs, as data: tables of names, and what its code takes for granted and its files do not say.

The shapes of the tensors give the config, whoever named them. The caller or a JSON file next to the tensors gives the
rest; where both are silent, the origin's default is taken, and a note says so.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from vitrail import config as configs
from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.deit import DeiTConfig
from vitrail.models.extras import settings, value_of
from vitrail.models.vit import ViTConfig
from vitrail.models.zoo import change, skeleton
from vitrail.weights.origins.table import Foreign, Row, one_of_ours, rows_of, stacked, to_ours, to_theirs, unstacked

USE_TIMM = 'load it by its name in timm: vitrail.load("timm:NAME")'
KINDS: dict[str, type[ViTConfig]] = {"vit": ViTConfig, "deit": DeiTConfig}
HEADS = {
    192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14, 1024: 16, 1152: 16, 1280: 16, 1408: 16,
    1536: 24, 1664: 16, 1792: 16,
}  # fmt: skip
"""By width, in all published ViTs of the origins whose files do not say it (1536 is DINOv2's giant)."""
SILENT = ("heads", "activation", "norm_eps", "position_resize")
"""Settings that tensors do not show, though they change the function. `pool` is often one of them."""


def pair(
    ours: str,
    *theirs: str,
    ends: tuple[str, str] = (".weight", ".bias"),
    layouts: tuple[str, str] = ("same", "same"),
    when: tuple[str, Any] | None = None,
) -> tuple[Row, Row]:
    """The rows of a weight and its bias."""
    words = zip((".weight", ".bias"), ends, layouts, strict=True)
    return tuple(  # pyrefly: ignore[bad-return]
        Row(ours + our, tuple(name + end for name in theirs), layout, when) for our, end, layout in words
    )


@dataclass(frozen=True)
class Style:
    """One way to name the tensors, and one set of habits."""

    table: tuple[Row, ...]
    signature: frozenset[str]
    """Names every file of this style has."""
    habits: Mapping[str, Any]
    """Fields of the config that its files do not say."""
    preprocess: Preprocess
    """For the config's image size, unless that is `native`."""
    licence: str = ""
    never: frozenset[str] = frozenset()
    """Names that no file of it has: another origin's."""
    native: tuple[int, int] | None = None
    """The image size of a position table that was trained for more pixels than it is used with (DINOv2)."""
    stack: str = ""
    """The name under which all blocks lie in one array each, in place of `{i}` (big_vision's scan)."""
    biases_free: bool = False
    """Whether its code makes models whose q, k and v have no biases. Elsewhere a file without them lacks something."""
    wrapped: bool | None = None
    """Whether its files hold the tensors under "model"; None: either."""


@dataclass(frozen=True)
class Origin:
    """A source of weights, like the modules beside this one."""

    NAME: str
    styles: Mapping[str, Style]
    plain: Callable[[str], str] = str
    """Their name without a prefix that some files have."""

    @property
    def SIGNATURE(self) -> set[str]:
        return set(next(iter(self.styles.values())).signature)

    def recognises(self, keys: Collection[str]) -> bool:
        return self.style(keys) is not None

    def style(self, keys: Collection[str], wrapped: bool | None = None) -> str | None:
        """The first style whose signature is among the keys."""
        names = {self.plain(key) for key in keys}
        for name, style in self.styles.items():
            if names >= style.signature and not names & style.never and wrapped in (None, style.wrapped):
                return name
        return None if wrapped is None else self.style(keys)

    def read(
        self,
        tensors: Mapping[str, Tensor],
        *,
        where: str,
        config: ViTConfig | None = None,
        told: Mapping[str, Any] | None = None,
        wrapped: bool | None = None,
    ) -> Foreign:
        """Config and tensors in our names. `config`, or the fields in `told`, say what the file cannot.

        WeightsError for missing, unknown or misshapen tensors and for a setting that is unknown; ConfigError for odd fields.
        """
        name = self.style(tensors.keys(), wrapped)
        if name is None:
            raise WeightsError(f"{where} is not of {self.NAME}", next_step="nothing was loaded")
        style = self.styles[name]
        if "norm_pre.weight" in tensors:
            what = "a norm before its blocks (timm's CLIP models), which no model here has"
            raise WeightsError(f"{where} has {what}", next_step=USE_TIMM)
        tensors = unstacked({self.plain(key): tensor for key, tensor in tensors.items()}, style.stack)
        said: tuple[str, ...] = ()
        if config is None:
            config, said = self.config(style, tensors, dict(told or {}), where)
        ours = to_ours(present(style.table, config), tensors, where=where)
        return Foreign(
            config, ours, preprocess_for(style, config), style.licence, (f"names: {self.NAME}, {name}", *said)
        )

    def write(self, state: Mapping[str, Tensor], config: ViTConfig, *, style: str = "") -> dict[str, Tensor]:
        """A state under the names of `style` (the first by default). WeightsError for what has no name."""
        chosen = self.styles[style or next(iter(self.styles))]
        if not (config.extras.qkv_bias or chosen.biases_free):
            raise WeightsError(f"{self.NAME} has no models without qkv biases", next_step="nothing was written")
        given = config.extras.positions_on
        on = chosen.habits.get("positions_on", given)
        there = change(config, positions_on=on).positioned_prefix == config.positioned_prefix
        if config.positions == "learned" and not there:
            raise WeightsError(
                f"{self.NAME} has positions_on {on!r} and not {given!r}", next_step="nothing was written"
            )
        rows = present(chosen.table, config)
        nameless = sorted(state.keys() - {row.ours for row in rows})
        if nameless:
            raise WeightsError(f"{self.NAME} has no names for {', '.join(nameless)}", next_step="nothing was written")
        return stacked(to_theirs(rows, state, heads=config.heads), chosen.stack, config.depth)

    def config(
        self, style: Style, tensors: Mapping[str, Tensor], told: dict[str, Any], where: str
    ) -> tuple[ViTConfig, tuple[str, ...]]:
        """The config, and sentences about where what is in no shape came from."""
        seen = seen_in(style.table, tensors, where)
        kind = KINDS[seen.get("family", told.get("family", "vit"))]
        known = settings(kind()).keys() | {"family"}
        if not told.keys() <= known:  # before anything is missed for want of the word that was misspelt
            configs.from_dict(kind, _plain_values(told), where=where)
        if not style.biases_free:
            seen["qkv_bias"] = True
        if seen.get("final_norm") == "pooled":  # a norm behind the pooling is there for the mean
            seen.setdefault("pool", "mean")
        seen |= positions_of(tensors, style, seen, {**style.habits, **seen, **told}, where)
        found = {**style.habits, **seen, **told}
        silent = [name for name in (*SILENT, "pool") if name not in seen and name not in told]
        if "heads" not in found:
            if found["width"] not in HEADS:
                raise WeightsError(
                    f"{where} does not say its heads, and no published model of {self.NAME} is {found['width']} wide",
                    next_step='say them: config={"heads": …}',
                )
            found["heads"] = HEADS[found["width"]]
        said = [f"from the config given: {_list(told)}"] if told else []
        if silent:
            defaults = {name: found[name] for name in silent if name in found}
            if seen["positions"] not in ("learned", told.get("positions")):  # no table: of another kind
                defaults["positions"] = seen["positions"]
            said.append(f"not in the file, the default of {self.NAME}: {_list(defaults)}")
        found = {name: value for name, value in found.items() if name in known}
        return configs.from_dict(kind, _plain_values(found), where=where), tuple(said)


def _list(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_plain_values({'': value})['']}" for name, value in values.items())


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def present(table: Sequence[Row], config: ViTConfig) -> list[Row]:
    """The rows a model of this config has, blocks written out."""
    names = skeleton(config).state_dict().keys()
    rows = [row for row in rows_of(table, config.depth) if row.ours in names]
    return [row for row in rows if row.when is None or value_of(config, row.when[0]) == row.when[1]]


def seen_in(table: Sequence[Row], tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The fields of a config that names and shapes give; no number is read."""
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    found = [row for row in table if "{i}" not in row.ours and shapes.keys() >= set(row.theirs)]
    depth = 0
    while block := [row for row in _block(table, depth) if shapes.keys() & set(row.theirs)]:
        found += [row for row in block if shapes.keys() >= set(row.theirs)]
        depth += 1
    ours = {row.ours: one_of_ours(row, shapes, where) for row in found}
    shared = Counter(row.theirs for row in found)  # a name that stands in two rows tells nothing
    seen: dict[str, Any] = {row.when[0]: row.when[1] for row in found if row.when and shared[row.theirs] == 1}
    kernels = [row for row in found if row.layout == "qkv" and shapes[row.theirs[0]].ndim == 3]
    if kernels:  # D A d
        seen["heads"] = shapes[kernels[0].theirs[0]].shape[1]
    try:
        return {**_sizes(ours), **seen, "depth": depth}
    except (KeyError, IndexError, ValueError) as error:
        raise WeightsError(f"{where}: {error} is missing or misshapen", next_step="nothing was loaded") from None


def _block(table: Sequence[Row], index: int) -> list[Row]:
    rows = [row for row in table if "{i}" in row.ours]
    return [
        replace(row, ours=row.ours.format(i=index), theirs=tuple(n.format(i=index) for n in row.theirs)) for row in rows
    ]


def _sizes(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """A config's fields from the shapes of our own names."""
    width, channels, p, q = ours["patch_embed.weight"].shape
    hidden = ours["blocks.0.mlp.fc2.weight"].shape[1]
    sizes: dict[str, Any] = {
        "width": width,
        "channels": channels,
        "patch": (p, q),
        "mlp_width": hidden,
        "class_token": "cls_token" in ours,
        "registers": ours["registers"].shape[1] if "registers" in ours else 0,
        "mask_token": "mask_token" in ours,
        "layer_scale": 1.0 if "blocks.0.ls1.gamma" in ours else 0.0,
        "qkv_bias": "blocks.0.attn.qkv.bias" in ours,
        "qk_norm": "blocks.0.attn.q_norm.weight" in ours,
        "pre_logits": len(ours["pre_logits.weight"]) if "pre_logits.weight" in ours else 0,
        "classes": len(ours.get("head.weight", ours.get("head.label.weight", ()))),
    }
    if ours["blocks.0.mlp.fc1.weight"].shape[0] == 2 * hidden:
        sizes["activation"] = "swiglu"
    if sizes["qk_norm"]:
        sizes["heads"] = width // len(ours["blocks.0.attn.q_norm.weight"])
    if "attention_pool.probe" in ours:
        sizes["pool"] = "map"
    elif "head.weight" in ours and not sizes["pre_logits"] and ours["head.weight"].shape[1] == 2 * width:
        sizes["pool"] = "cls-mean"
    elif not sizes["class_token"]:
        sizes["pool"] = "mean"
    return sizes


def positions_of(
    tensors: Mapping[str, Tensor], style: Style, seen: Mapping[str, Any], found: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Kind of positions, image size, and which prefix tokens the table has rows for.

    A table of M rows is a square grid behind all prefix tokens, behind the class token, or without any: the one that
    fits, or the one that the image size (if that was told) leaves.
    """
    p, q = found["patch"]
    name = next(row.theirs[0] for row in style.table if row.ours == "positions.table")
    if name not in tensors:
        if found.get("positions", "learned") == "learned":
            raise WeightsError(
                f"{where} has no {name}: it is lost, or its model has rotary or relative positions, which none here has",
                next_step='where there are no positions at all, say so: config={"positions": "none"}',
            )
        return {"positions": found["positions"], "image": tuple(max(1, round(224 / size)) * size for size in (p, q))}
    rows = tensors[name].shape[1] if tensors[name].ndim == 3 else 0
    prefixes = {"all": seen["class_token"] + seen["registers"], "class": int(seen["class_token"]), "patches": 0}
    if "positions_on" in found:
        prefixes = {found["positions_on"]: prefixes[found["positions_on"]]}
    fits: dict[int, tuple[str, tuple[int, int]]] = {}
    for on, prefix in prefixes.items():
        grid = (
            (found["image"][0] // p, found["image"][1] // q)
            if "image" in found
            else (math.isqrt(max(0, rows - prefix)),) * 2
        )
        if grid[0] > 0 and grid[0] * grid[1] == rows - prefix:
            fits.setdefault(prefix, (on, grid))
    if len(fits) != 1:
        what = "more than one grid" if fits else "no square grid" if "image" not in found else "not the image's grid"
        raise WeightsError(
            f"{where}: {name} has {rows} rows, which fit {what} of {p}×{q} patches",
            next_step='say the size: config={"image": [height, width]}',
        )
    on, grid = next(iter(fits.values()))
    return {"positions": "learned", "positions_on": on, "image": (grid[0] * p, grid[1] * q)}


def preprocess_for(style: Style, config: ViTConfig) -> Preprocess:
    """The style's, at the config's size and for its channels."""
    size = style.preprocess.size if config.image == style.native else config.image
    preprocess = replace(style.preprocess, size=size)
    if config.channels == preprocess.channels:
        return preprocess
    return replace(preprocess, mean=(0.5,) * config.channels, std=(0.5,) * config.channels)
