"""google-research: vision_transformer's ViTs and hybrids, big_transfer's ResNets (JAX names), and MaxViT (TensorFlow's).

A file says all but activation, epsilon and preprocessing: there the originals' code speaks. For ViTs that is tanh GELU,
1e-6 and 0.5 ± 0.5; for the ResNets of hybrids σ + 1e-5 and GroupNorm 1e-6.
"""

import re
from typing import Any

from vitrail.weights.imagenet import imagenet_classes
from vitrail.weights.name_tables import Row, pair, pairs, prefixed, tensors
from vitrail.weights.origin import ORIGINS, Checkpoint, Facts, Origin, Style
from vitrail.weights.origins.big_vision import HABITS, JAX, LINEN, hybrid_resnet, vit_rows

_POSITIONS = "Transformer/posembed_input/pos_embedding"
# flax numbered a module's children over all kinds until "linen", since then by kind
_PUBLISHED = ("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
_VIT = {**HABITS, "positions_on": "all"}
_RESNET = {"standardise": "deviation", "standardise_eps": 1e-5, "group_norm_eps": 1e-6}
_ROOT = {"conv_root/kernel"}


def _vit(names: tuple[str, str, str], layout: str = "") -> Style:
    """A style of ViTs; of hybrids where a layout of their GroupNorms is given."""
    always = {"embedding/kernel", "Transformer/encoder_norm/scale", _POSITIONS}
    signature = always | {f"Transformer/encoderblock_0/{names[2]}/Dense_0/kernel"}
    table = vit_rows(_POSITIONS, *names)
    if not layout:
        return Style(table, signature, _VIT, licence="Apache-2.0", never=_ROOT)
    table = prefixed(hybrid_resnet(layout), "resnet.") + prefixed(table, "vit.")
    habits = {**_VIT, **_RESNET}
    return Style(table, signature | _ROOT, habits, licence="Apache-2.0", shapes="hybrid")


_UNIT, _TF = "blocks.{b}.{u}.", "resnet/block{B}/unit{U:02}/"
_GAMMA = ("/gamma", "/beta")
BIT = (
    Row("root.weight", ("resnet/root_block/standardized_conv2d/kernel",), "conv"),
    Row(_UNIT + "conv{n}.weight", (_TF + "{abc}/standardized_conv2d/kernel",), "conv"),
    *pair(_UNIT + "norm{n}", _TF + "{abc}/group_norm", ends=_GAMMA),
    Row(_UNIT + "shortcut.weight", (_TF + "a/proj/standardized_conv2d/kernel",), "conv"),
    *pair("norm", "resnet/group_norm", ends=_GAMMA),
    *pair("head", "resnet/head/conv2d", ends=JAX, layouts=("pixel", "same")),
)

_AT = "maxvit/block_{b:02}_{u:02}/"
_CONV, _MB = "blocks.{b}.{u}.conv.", _AT + "mbconv/"
_CONVS = {"expand": "expand_conv", "shrink": "shrink_conv", "shortcut.conv": "shortcut_conv"} | {
    "squeeze.reduce": "se/reduce_conv2d",
    "squeeze.expand": "se/expand_conv2d",
}
_DENSE = {"ends": ("/weight", "/bias"), "layouts": ("dense", "same")}
_FLAT = {"ends": JAX, "layouts": ("conv", "same")}


def _batch_norms(ours: str, theirs: str, parts: dict[str, str]) -> tuple[Row, ...]:
    means = {f"{our}.running_mean": f"{their}/moving_mean" for our, their in parts.items()}
    variances = {f"{our}.running_var": f"{their}/moving_variance" for our, their in parts.items()}
    return (*pairs(ours, theirs, parts, ends=_GAMMA), *tensors(ours, theirs, means | variances))


def _transformer(ours: str, number: str) -> tuple[Row, ...]:
    attention = f"{_AT}attention{number}/"
    qkv = tuple(attention + part for part in "qkv")
    return (
        *pair(ours + "norm1", f"{_AT}attn_layer_norm{number}", ends=_GAMMA),
        *pair(ours + "attn.qkv", *qkv, ends=_DENSE["ends"], layouts=("qkv", "qkv bias")),
        *pair(ours + "attn.proj", attention + "o", ends=_DENSE["ends"], layouts=("out", "same")),
        Row(ours + "attn.table", (attention + "relative_bias",)),
        *pair(ours + "norm2", f"{_AT}ffn_layer_norm{number}", ends=_GAMMA),
        *pairs(ours, f"{_AT}ffn{number}/", {"mlp.fc1": "expand_dense", "mlp.fc2": "shrink_dense"}, **_DENSE),
    )


MAXVIT = (
    *pairs("stem.", "maxvit/stem/", {"conv1": "conv_0", "conv2": "conv_1"}, **_FLAT),
    *_batch_norms("stem.", "maxvit/stem/", {"norm": "norm_0"}),
    *_batch_norms(_CONV, _MB, {"pre_norm": "pre_norm", "norm1": "expand_norm", "norm2": "depthwise_norm"}),
    Row(_CONV + "depthwise.weight", (_MB + "depthwise_conv/depthwise_kernel",), "depthwise"),
    *pairs(_CONV, _MB, _CONVS, **_FLAT),
    *_transformer("blocks.{b}.{u}.attn_window.", ""),
    *_transformer("blocks.{b}.{u}.attn_grid.", "_1"),
    *pair("norm", "maxvit/final_layer_norm", ends=_GAMMA),
    *pairs("", "maxvit/cls_head/", {"pre_logits": "inner_dense", "head": "logit_dense"}, **_DENSE),
)

# --- published files


def _paper(size: str, model: str, top1: float) -> Checkpoint:
    name = f"imagenet21k+imagenet2012_ViT-{size}.npz"
    return Checkpoint(name, model, "ImageNet-21k", "Apache-2.0", top1, 384)


def _augreg(size: str, model: str, training: str, top1: float) -> Checkpoint:
    return Checkpoint(f"{size}-i21k-300ep-{training}.npz", model, "ImageNet-21k", "Apache-2.0", top1, 384)


PUBLISHED = (
    # AugReg: its own table of recommended files, fine-tuned on ImageNet at 384 pixels
    _augreg("L_16", "vit-l/16", "lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0", 85.59),
    _augreg("B_16", "vit-b/16", "lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0", 85.49),
    _augreg("S_16", "vit-s/16", "lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0", 83.73),
    _augreg("R50_L_32", "r50+vit-l/32", "lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1", 85.99),
    _augreg("R26_S_32", "r26+vit-s/32", "lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", 83.85),
    _augreg("Ti_16", "vit-ti/16", "lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", 78.22),
    _augreg("B_32", "vit-b/32", "lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", 83.59),
    _augreg("S_32", "vit-s/32", "lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0", 79.58),
    _augreg("R_Ti_16", "r+vit-ti/16", "lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", 75.40),
    # the paper's Table 5, pre-trained on ImageNet-21k
    _paper("B_16", "vit-b/16", 83.97),
    _paper("B_32", "vit-b/32", 81.28),
    _paper("L_16", "vit-l/16", 85.15),
    _paper("L_32", "vit-l/32", 80.99),
    # BiT-M, by its README
    Checkpoint("BiT-M-R50x1-ILSVRC2012.npz", "r50x1", "ImageNet-21k", "Apache-2.0", 80.68, 480),
)

_STEM = r"(?P<model>[A-Za-z0-9_+]+)-(?P<data>i21k|i1k)-(?P<epochs>\d+)ep"
_TRAINING = r"-lr_(?P<lr>[\d.e-]+)-aug_(?P<augmentation>\w+)-wd_(?P<weight_decay>[\d.]+)"
_REGULARISED = r"-do_(?P<dropout>[\d.]+)-sd_(?P<drop_path>[\d.]+)"
_TUNED = r"(--(?P<tuned_on>\w+)-steps_(?P<tuned_steps>\d+k?)-lr_(?P<tuned_lr>[\d.e-]+)-res_(?P<resolution>\d+))?"
_AUGREG = re.compile(f"{_STEM}{_TRAINING}{_REGULARISED}{_TUNED}\\.npz")
_DATA = {"i21k": "ImageNet-21k", "i1k": "ImageNet-1k"}
_MODELS = {"R_Ti": "r+vit-ti", "R26_S": "r26+vit-s", "R50_L": "r50+vit-l"}


def read_training(name: str) -> dict[str, str | float]:
    """The training that the name of a file of "How to train your ViT?" (AugReg, arXiv 2106.10270) tells.

    Model, data, epochs, lr, augmentation, weight decay, dropout, stochastic depth; and of its fine-tuning: on what, steps,
    lr, resolution. Another name says nothing.
    """
    match = _AUGREG.fullmatch(name)
    if not match:
        return {}
    found: dict[str, str | float] = {key: _number(value) for key, value in match.groupdict().items() if value}
    size, _, patch = match["model"].rpartition("_")
    return found | {"model": f"{_MODELS.get(size, f'vit-{size.lower()}')}/{patch}", "data": _DATA[match["data"]]}


def _number(word: str) -> Any:
    if not re.fullmatch(r"[\d.]+(e-?\d+)?k?", word):
        return word
    return float(word) if "." in word or "e" in word else int(word.replace("k", "000"))


def read_name(name: str) -> Facts:
    return Facts(training=read_training(name), classes=imagenet_classes() if "imagenet2012" in name else ())


ORIGIN = Origin(
    "google",
    {
        "published": _vit(_PUBLISHED),
        "linen": _vit(LINEN),
        # published were the GroupNorms of an older flax, 1 1 1 C
        "hybrid": _vit(_PUBLISHED, "spread"),
        "hybrid, linen": _vit(LINEN, "flat"),
        "BiT": Style(
            BIT,
            {BIT[0].theirs[0], "resnet/block1/unit01/a/standardized_conv2d/kernel"},
            licence="Apache-2.0",
            shapes="resnet",
            # some published files number one layer more
            plain=lambda name: re.sub(r"standardized_conv2d_\d+/", "standardized_conv2d/", name),
        ),
        "MaxViT": Style(
            MAXVIT,
            {"maxvit/stem/conv_0/kernel", "maxvit/block_00_00/mbconv/pre_norm/gamma"},
            licence="Apache-2.0",
            shapes="maxvit",
        ),
    },
    suffixes=(".npz",),
    published=PUBLISHED,
    read_name=read_name,
)
ORIGINS.register(ORIGIN.name, ORIGIN)
