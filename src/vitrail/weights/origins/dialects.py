"""Which dialect timm's MaxViT and CoAtNet files speak (`vitrail.models.mbconv.Dialect`), and what they leave unsaid."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from vitrail.images.preprocess import IMAGENET, INCEPTION, Preprocess
from vitrail.models.maxvit import MaxViTConfig
from vitrail.models.mbconv import GOOGLE, TIMM_COATNET, TIMM_MAXVIT, Dialect

LICENCES = {"google": "Apache-2.0", "timm": "Apache-2.0", "torchvision": "BSD-3-Clause"}
_CROP = Preprocess(resize="crop", interpolation="bicubic")
PREPROCESS = {
    "google": Preprocess(mean=INCEPTION[0], std=INCEPTION[1]),
    "timm": dataclasses.replace(_CROP, crop_fraction=0.95, mean=INCEPTION[0], std=INCEPTION[1]),
    "torchvision": dataclasses.replace(_CROP, mean=IMAGENET[0], std=IMAGENET[1]),
}


def silent_words(config: MaxViTConfig) -> tuple[str, ...]:
    """What timm's CoAtNets do one way or the other, without a trace in names or shapes."""
    return ("stride", "pre_activation", "squeeze_activation") if set(config.kinds) & {"C", "T"} else ()


def unsaid(config: MaxViTConfig) -> tuple[str, ...]:
    """That, as a note."""
    taken = ", ".join(f"{word} {getattr(config.dialect, word)}" for word in silent_words(config))
    return (f'not in the file, the default of timm: {taken} (config "dialect" says otherwise)',) if taken else ()


def dialect_of(ours: Mapping[str, Tensor], kinds: str, *, batch: bool, early: bool) -> Dialect:
    """timm's: Google's own weights, or what it trained itself, as far as names and shapes tell."""
    if "stem.conv1.bias" in ours:
        return GOOGLE
    if "M" in kinds:
        pooled = "pooled" if "pre_logits.bias" in ours else "tokens"
        return dataclasses.replace(TIMM_MAXVIT, final_norm=pooled, conv_bias="blocks.0.0.conv.shrink.bias" in ours)
    biased, first = "blocks.0.0.shrink.bias" in ours, f"blocks.{kinds.find('T')}.0."
    around = f"{first}shortcut.conv.bias" in ours
    reduce, depthwise = ours["blocks.0.0.squeeze.reduce.weight"], ours["blocks.0.0.depthwise.weight"]
    return dataclasses.replace(
        TIMM_COATNET,
        norm="batch" if batch else "layer",
        squeeze=4 * len(reduce) / len(depthwise),
        squeeze_first=early,
        conv_bias=biased,
        map_shortcut_bias=None if around == biased else around,
        layer_scale=f"{first}ls1.gamma" in ours,
        # timm's models with these biases do otherwise in both, those with the shortcut's alone in the second
        pre_activation=not biased,
        squeeze_activation="silu" if biased or around else "relu",
    )
