"""config.json and preprocessor_config.json of transformers: they say what its tensors do not."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.mae import MAEConfig
from vitrail.models.resnet import GROUPS, ResNetConfig
from vitrail.models.vit import ViTConfig

_KINDS = {
    "ViT": ("vit", "ViT"),
    "DeiT": ("deit", "DeiT"),
    "DINOv2": ("dinov2", "Dinov2"),
    "DINOv2 with registers": ("dinov2_with_registers", "Dinov2WithRegisters"),
}
"""By style: the model type, which is the tensors' prefix too, and what its classes' names begin with."""
_HEADS = ("classifier", "cls_classifier", "distillation_classifier")


def style_of(config: ViTConfig) -> str:
    """The style that has names for such a model."""
    if config.extras.layer_scale:
        return "DINOv2 with registers" if config.extras.registers else "DINOv2"
    return "DeiT" if config.extras.registers else "ViT"


def add_prefix(tensors: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """A model with a head has its body under the name of its type; of the others the tables say so."""
    if isinstance(config, ResNetConfig) and not config.classes:
        return {name.removeprefix("bit."): tensor for name, tensor in tensors.items()}
    if not isinstance(config, ViTConfig):
        return dict(tensors)
    prefix = f"{_KINDS[style_of(config)][0]}." if config.classes else ""
    return {name if name.startswith(_HEADS) else prefix + name: tensor for name, tensor in tensors.items()}


def describe(config: Any, preprocess: Preprocess, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """config.json and preprocessor_config.json of such a model."""
    if isinstance(config, MAEConfig):
        about = _of_mae(config)
    elif isinstance(config, ResNetConfig):
        about = _of_bit(config)
    else:
        about = _of_vit(config)
    if config.classes:
        names = classes or tuple(f"LABEL_{index}" for index in range(config.classes))
        about["id2label"] = {str(index): label for index, label in enumerate(names)}
        about["label2id"] = {label: index for index, label in enumerate(names)}
    return {"config.json": about, "preprocessor_config.json": _processor(preprocess)}


def _of_vit(config: ViTConfig) -> dict[str, Any]:
    kind, name = _KINDS[style_of(config)]
    teacher = "WithTeacher" if config.family == "deit" else ""
    about: dict[str, Any] = {
        "architectures": [f"{name}ForImageClassification{teacher}" if config.classes else f"{name}Model"],
        "model_type": kind,
        **_of_encoder(config),
    }
    if kind.startswith("dinov2"):
        return about | _of_dinov2(config)
    pooler = {"pooler_output_size": config.extras.pre_logits, "pooler_act": "tanh"} if config.extras.pre_logits else {}
    return about | {"intermediate_size": config.mlp_width} | pooler


def _of_encoder(config: ViTConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "patch_size": _one(config.patch),
        "image_size": _one(config.image),
        "num_channels": config.channels,
        "layer_norm_eps": config.extras.norm_eps,
        "hidden_act": {"gelu-tanh": "gelu_pytorch_tanh"}.get(config.extras.activation, "gelu"),
        "qkv_bias": config.extras.qkv_bias,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def _of_mae(config: MAEConfig) -> dict[str, Any]:
    if config.target == "unknown":
        raise WeightsError(
            "it is unknown whether this decoder predicts pixels or normalised ones, and config.json must say it",
            next_step='read the weights with config={"target": "pixels"} or "normalised"; nothing was written',
        )
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        **_of_encoder(config.encoder),
        "intermediate_size": config.encoder.mlp_width,
        "decoder_hidden_size": config.decoder_width,
        "decoder_num_hidden_layers": config.decoder_depth,
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_intermediate_size": config.decoder_mlp_width,
        "norm_pix_loss": config.target == "normalised",
    }


def _of_bit(config: ResNetConfig) -> dict[str, Any]:
    return {
        "architectures": ["BitForImageClassification" if config.classes else "BitModel"],
        "model_type": "bit",
        "embedding_size": config.root_width,
        "hidden_sizes": list(config.widths),
        "depths": list(config.depths),
        "num_channels": config.channels,
        "num_groups": GROUPS,
        "layer_type": "preactivation",
        "hidden_act": "relu",
    }


def _of_dinov2(config: ViTConfig) -> dict[str, Any]:
    gated = config.extras.activation == "swiglu"
    return {
        "mlp_ratio": _ratio(config.width, config.mlp_width, gated),
        "use_swiglu_ffn": gated,
        "use_mask_token": config.extras.mask_token,
        "layerscale_value": config.extras.layer_scale,
        "apply_layernorm": True,
        **({"num_register_tokens": config.extras.registers} if config.extras.registers else {}),
    }


def hidden_of_dinov2(width: int, ratio: float, gated: bool) -> int:
    """The MLP's width; behind a gate two thirds of it, in steps of eight."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def _ratio(width: int, hidden: int, gated: bool) -> float:
    """A whole ratio where one gives this width, as transformers 5 wants it."""
    whole = (ratio for ratio in range(1, 65) if hidden_of_dinov2(width, ratio, gated) == hidden)
    return next(whole, hidden / width * (1.5 if gated else 1))


def _processor(preprocess: Preprocess) -> dict[str, Any]:
    height, width = preprocess.size
    numbers = {"nearest": 0, "bilinear": 2, "bicubic": 3}
    about: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "resample": numbers[preprocess.interpolation],
    }
    if preprocess.resize == "crop" and height == width:
        edge = int(height / preprocess.crop_fraction + 1e-6)
        crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
        return {"image_processor_type": "BitImageProcessor", **about, "size": {"shortest_edge": edge}, **crop}
    return {"image_processor_type": "ViTImageProcessor", **about, "size": {"height": height, "width": width}}


def _one(sides: tuple[int, int]) -> int | list[int]:
    return sides[0] if sides[0] == sides[1] else list(sides)
