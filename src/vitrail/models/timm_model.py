"""Any model of timm under this package's contract: `timm:resnet18`, `timm:convnext_tiny.fb_in22k`. Needs the extra `timm`.

timm's code computes everything but the last linear map. That is a `Head`, as in all other families, so that fine-tuning
and probes find it.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError, ShapeError, suggest
from vitrail.models.backbone import FAMILIES, Backbone, ModelConfig, Stage
from vitrail.models.checks import at_least
from vitrail.models.features import Features
from vitrail.models.layers import Head

PREFIX = "timm:"
COUNT = "num_batches_tracked"
_LAYOUTS = {"NCHW": "B D h w", "NHWC": "B h w D"}


@dataclass(frozen=True, kw_only=True)
class TimmConfig(ModelConfig):
    """A model of timm by its name there, with or without a tag: `resnet18`, `vit_base_patch16_224.augreg_in21k`."""

    family: ClassVar[str] = "timm"
    name: str
    image: tuple[int, int] = (224, 224)
    channels: int = 3
    classes: int = 1000

    def __post_init__(self) -> None:
        at_least(self, 1, "channels")
        at_least(self, 0, "classes")

    @property
    def multiple(self) -> int:
        """The patch of a plain ViT, else 32: most others halve the image five times."""
        patch = re.search(r"patch(\d+)_", f"{self.name}_")
        return int(patch[1]) if patch and int(patch[1]) >= 8 else 32


@FAMILIES.register("timm")
class TimmModel(Backbone[TimmConfig]):
    """A model of timm: `body` is timm's module without its classifier, `head` the linear map behind it."""

    Config = TimmConfig
    body: Any

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.config = config
        self.body, classifier = split(create(config), config.name)
        self.head: nn.Module = Head(classifier.weight.shape[1], config.classes) if config.classes else nn.Identity()
        self._layout = "B D h w"  # of the body's features; each call of `features` sets it
        # without its count of batches a BatchNorm computes the same, and a state holds numbers of one kind
        for module in self.body.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.num_batches_tracked = None
        self.register_load_state_dict_post_hook(_forget_counts)

    def to_empty(self, *, device: Any, recurse: bool = True) -> "TimmModel":
        """Moves the model. timm keeps tables in buffers that no state has, so the body is made with memory at once."""
        self.head.to_empty(device=device)
        self.body.to(device)
        return self

    def features(self, images: Float[Tensor, "B C H W"]) -> Features:
        """timm's `forward_features`: the positions of a map, or the tokens behind class and register tokens."""
        if images.shape[1] != self.config.channels:
            raise ShapeError(f"images of {images.shape[1]} channels", allowed=f"{self.config.channels}")
        x = self.body.forward_features(images)
        self._layout = "B N D" if x.ndim == 3 else _LAYOUTS[getattr(self.body, "output_fmt", "NCHW")]
        if x.ndim == 3:
            prefix = getattr(self.body, "num_prefix_tokens", 0)
            return Features(x, prefix, _grid(x.shape[1] - prefix, images.shape[2:]))
        x = rearrange(x, f"{self._layout} -> B h w D")
        return Features(rearrange(x, "B h w D -> B (h w) D"), 0, (x.shape[1], x.shape[2]))

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """timm's `forward_head` without the classifier."""
        if self._layout == "B N D":
            return self.body.forward_head(features.tokens)
        return self.body.forward_head(rearrange(features.map, f"B D h w -> {self._layout}"))

    def stages(self) -> Sequence[Stage]:
        """The groups by which timm itself decays learning rates; what they leave over belongs to the head."""
        from timm.models._manipulate import group_with_matcher

        matcher = self.body.group_matcher(coarse=False)
        groups = group_with_matcher(self.body.named_parameters(), matcher, return_values=True)
        ordered: list[tuple[Any, Any]] = sorted(groups.items())
        number = {id(parameter): at for at, (_, group) in enumerate(ordered) for parameter in group}
        parts: dict[int, list[nn.Module | nn.Parameter]] = {at: [] for at in range(len(groups))}
        for at, part in _whole_parts(self.body, number):
            parts[at].append(part)
        first, *middle = parts.values()
        blocks = [(f"block {at}", part) for at, part in enumerate(middle, 1)]
        return [("stem", first), *blocks, ("head", [self.head])]

    def initialise(self, generator: torch.Generator) -> None:
        """timm's own start, and a zero head. timm draws from torch's global state, which stays as it was."""
        seed = int(torch.randint(2**31, (1,), generator=generator))
        fresh = split(create(self.config, seed=seed), self.config.name)[0]
        self.body.load_state_dict(fresh.state_dict(), strict=False)
        self.initialise_head()

    @property
    def checkpoint_activations(self) -> bool:  # pyrefly: ignore[bad-override]
        """Compute activations again in the backward pass, where timm's model can."""
        return bool(getattr(self.body, "grad_checkpointing", False))

    @checkpoint_activations.setter
    def checkpoint_activations(self, on: bool) -> None:
        self.body.set_grad_checkpointing(on)


def timm() -> Any:
    """The package. ConfigError where it is not installed."""
    try:
        import timm as package
    except ImportError:
        raise ConfigError("timm is not installed", next_step="pip install 'vitrail[timm]'") from None
    return package


def config_of(name: str) -> TimmConfig:
    """The config of a model of timm at the size and number of outputs that timm publishes it with."""
    package = timm()
    if not package.is_model(name):
        near = suggest(name.partition(".")[0], package.list_models())
        raise ConfigError(f"timm has no model {name!r}", next_step=near or "`timm.list_models()` gives all names")
    about = package.get_pretrained_cfg(name)
    channels, height, width = about.input_size if about else (3, 224, 224)
    classes = getattr(about, "num_classes", None) or 0
    return TimmConfig(name=name, image=(height, width), channels=channels, classes=classes)


def create(config: TimmConfig, *, pretrained: bool = False, seed: int = 0) -> nn.Module:
    """timm's own module with its classifier, in memory even under a meta device. Global random states stay as they were.

    The image size is passed to models that ask for it; a ViT then takes other sizes too.
    """
    package, state = timm(), random.getstate()
    wanted: dict[str, Any] = {"num_classes": config.classes, "in_chans": config.channels, "pretrained": pretrained}
    sized: dict[str, Any] = {"img_size": config.image}
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            random.seed(seed)
            for more in (sized | {"dynamic_img_size": True}, sized, {}):
                try:
                    return package.create_model(config.name, **wanted, **more)
                except TypeError as error:
                    if "unexpected keyword" not in str(error):
                        raise
    finally:
        random.setstate(state)
    raise ConfigError(f"timm cannot make {config.name} of {config.channels} channels", next_step="choose another model")


def split(module: nn.Module, name: str) -> tuple[nn.Module, Any]:
    """(the body, which gives pooled features; the classifier). ConfigError for a model with two heads."""
    body: Any = module
    classifier = body.get_classifier()
    if not isinstance(classifier, nn.Linear | nn.Conv2d | nn.Identity):
        raise ConfigError(f"timm's {name} has no single linear classifier", next_step="choose another model of timm")
    body.reset_classifier(0)
    return body, classifier


def resize_positions(table: Tensor, old: TimmConfig, new: TimmConfig) -> Tensor:
    """A ViT's position table for another image size, resized as timm does."""
    from timm.layers import resample_abs_pos_embed

    grids = [[side // config.multiple for side in config.image] for config in (old, new)]
    prefix = table.shape[1] - grids[0][0] * grids[0][1]
    if table.ndim != 3 or prefix < 0 or old.image == new.image:
        return table
    return resample_abs_pos_embed(table, grids[1], grids[0], num_prefix_tokens=prefix)


def _grid(patches: int, image: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of so many patches on an image of this shape."""
    fits = [(h, patches // h) for h in range(1, patches + 1) if patches % h == 0]
    return min(fits, key=lambda grid: abs(grid[0] * image[1] - grid[1] * image[0]))


def _whole_parts(module: nn.Module, number: dict[int, int]) -> Iterator[tuple[int, nn.Module | nn.Parameter]]:
    """(group, part): the largest modules whose parameters are all of one group, and single parameters between them."""
    groups = {number[id(parameter)] for parameter in module.parameters()}
    if len(groups) == 1:
        yield groups.pop(), module
    elif groups:
        for parameter in module.parameters(recurse=False):
            yield number[id(parameter)], parameter
        for child in module.children():
            yield from _whole_parts(child, number)


def _forget_counts(model: nn.Module, keys: Any) -> None:
    """A BatchNorm that reads a state without version adds its count of batches to it."""
    keys.unexpected_keys[:] = [name for name in keys.unexpected_keys if not name.endswith(COUNT)]
