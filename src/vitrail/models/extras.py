"""Settings of a ViT that the paper does not have: of later methods, and of weights that others published.

The paper's own settings are `ViTConfig`. Each field here is read in one place of `vit.py`, `layers.py` or `positions.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from vitrail.models.checks import at_least, epsilons, probabilities
from vitrail.models.resize import Resize


@dataclass(frozen=True, kw_only=True)
class Extras:
    """The defaults change nothing: they are the ViT of the paper."""

    class_token: bool | None = None
    """None: the model has one if `pool` reads it. True with pool="mean" is MAE's fine-tuning."""
    registers: int = 0
    """Trained tokens between class token and patches (DINOv2)."""
    mask_token: bool = False
    """Keeps the vector that replaced hidden patches in pre-training (DINOv2): `features(images, masked)` reads it."""
    rotary: Literal["", "dinov3", "dinov3-rounded", "eva02", "pe", "pe-patches", "rope-vit"] = ""
    """Rotation of queries and keys by their place, beside the table or in its stead; a row of `positions.ROTARIES`."""
    rotary_grid: int = 0
    """Patch numbers are scaled to a grid of this side, the one of the training (EVA-02, PE); 0: they are not."""
    positions_on: Literal["all", "class", "patches"] = "all"
    """Tokens before the patches that have rows in the learned 1-D table: all, the class token, or none."""
    positions_at: Literal["stem", "layers", "shared"] = "stem"
    """Positions are added at the stem; or again before each later block, from a table of its own or from the stem's
    (paper D.4, Table 8)."""
    position_resize: Resize = "bilinear"
    """How the learned table follows a new grid; a row of `positions.RESIZES`."""
    activation: Literal["gelu", "gelu-tanh", "gelu-quick", "swiglu"] = "gelu"
    """The JAX originals compute GELU with tanh; OpenAI's CLIP x σ(1.702 x); SwiGLU is DINOv2's."""
    norm_eps: float = 1e-6
    convs: int = 0
    """Number of 3×3 convolutions before the patches, each of which halves the image (CCT, arXiv 2104.05704)."""
    pre_norm: bool = False
    """A norm on the tokens before the first block, and patches without bias (CLIP)."""
    inner_norm: Literal["none", "mlp", "both"] = "none"
    """A norm before the last linear map of the MLP (EVA-02), or of the MLP and of attention (its CLIP)."""
    final_norm: Literal["tokens", "pooled", "none"] = "tokens"
    """Equation 4's LN: on all tokens before pooling, on the pooled vector (MAE's fc_norm), or left out (PE)."""
    pool_heads: int = 0
    """Heads of the probe of pool="map"; 0: as many as the blocks have. PE has 8 at any width."""
    pool_mlp_width: int = 0
    """Width of the MLP behind the probe; 0: the blocks', twice that behind gated ones (timm). PE's giant has another."""
    pool_prefix: bool = False
    """The probe reads class token and registers too (PE)."""
    projection: int = 0
    """Width of a linear map without bias behind the pooling, into the space of texts (CLIP); 0: no such map."""
    normalise: bool = False
    """The head reads features of length 1: its logits are scaled cosines (`vitrail name`)."""
    qk_norm: bool = False
    """A norm on the queries and keys of each head (arXiv 2302.05442)."""
    qkv_bias: bool = True
    layer_scale: float = 0.0
    """Start value of a trained factor per channel on each branch (CaiT, DeiT III, DINOv2); 0: no such factor."""
    pre_logits: int = 0
    """Width of the dense layer with tanh before the head (the paper's pre-training, section 3.1); 0: no such layer."""
    head_bias: float = 0.0
    """Start value of the head's bias; -log K suits sigmoid losses."""
    drop_path: float = 0.0
    """Stochastic depth of the last block (arXiv 1603.09382). Earlier blocks rise to it linearly from 0."""
    merge: int = 0
    """Patches merged in each block, without training (ToMe, arXiv 2210.09461): faster, and a little less accurate."""

    def __post_init__(self) -> None:
        sizes = (
            "registers",
            "pre_logits",
            "projection",
            "pool_heads",
            "pool_mlp_width",
            "rotary_grid",
            "merge",
            "convs",
        )
        at_least(self, 0, *sizes)
        epsilons(self, "norm_eps")
        probabilities(self, "drop_path")

    @property
    def gated(self) -> bool:
        """Whether the MLPs of the blocks multiply two halves of their first layer."""
        return self.activation == "swiglu"


PLAIN = Extras()
"""The paper's ViT."""
NAMES = frozenset(field.name for field in fields(Extras))


def settings(config: Any) -> dict[str, Any]:
    """All values of a model config by name, those of its extras among them."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    extras = values.pop("extras", None)
    return values | ({field.name: getattr(extras, field.name) for field in fields(extras)} if extras else {})


def value_of(config: Any, name: str) -> Any:
    """A value of a model config, or of its extras, or of a property."""
    extras = getattr(config, "extras", None)
    return getattr(extras, name) if hasattr(extras, name) else getattr(config, name)


def nest(values: Mapping[str, Any], default: Extras) -> dict[str, Any]:
    """Plain values in which names of extras may stand at the top, as version 0.1.0 wrote them: moved into `extras`."""
    flat = {name: values[name] for name in NAMES & values.keys()}
    rest = {name: value for name, value in values.items() if name not in NAMES}
    if not flat:
        return rest
    return rest | {"extras": {**settings(default), **rest.get("extras", {}), **flat}}
