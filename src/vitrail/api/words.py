"""Short names for values of a Run, and the words of other toolkits; without torch, for `--help`."""

from collections.abc import Iterable

SHORT = {
    "batch": "batch_size",
    "device": "hardware.device",
    "lr": "optim.lr",
    "precision": "hardware.precision",
    "size": "preprocess.size",
    "threads": "hardware.threads",
    "workers": "hardware.workers",
}
"""Short names of values in `vitrail train` and `vitrail.train`, and their full names."""

PEERS = {
    "aa": "augment.randaugment",
    "amp": "precision",
    "arch": "model",
    "bs": "batch",
    "cfg": "like",
    "checkpoint": "weights",
    "ckpt": "weights",
    "class_weights": "balance",
    "clip_grad": "optim.clip",
    "config": "like",
    "crop_pct": "preprocess.crop_fraction",
    "cutmix": "mixing.cutmix",
    "data": "name the images without an option",
    "data_path": "name the images without an option",
    "dataset": "name the images without an option",
    "drop_path": "model.extras.drop_path",
    "dropout": "model.dropout",
    "early_stopping": "patience",
    "fp16": "precision",
    "gpu": "device",
    "gpus": "start one process for each GPU with torchrun",
    "hflip": "augment.flip",
    "image": "size",
    "image_size": "size",
    "img_size": "size",
    "imgsz": "size",
    "input_size": "size",
    "label_smoothing": "objective.label_smoothing",
    "layer_decay": "optim.layer_decay",
    "learning_rate": "lr",
    "lr0": "lr",
    "max_epochs": "epochs",
    "mixup": "mixing.mixup",
    "model_ema_decay": "ema",
    "momentum": "optim.momentum",
    "n_epoch": "epochs",
    "name": "out",
    "nc": "classes are counted from the images",
    "num_classes": "classes are counted from the images",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "num_workers": "workers",
    "opt": "optim.name",
    "optimizer": "optim.name",
    "output": "out",
    "output_dir": "out",
    "pretrained": "weights",
    "project": "out",
    "reprob": "augment.erase",
    "resolution": "size",
    "smoothing": "objective.label_smoothing",
    "test_size": "holdout",
    "top_k": "top",
    "topk": "top",
    "val_split": "holdout",
    "valid_pct": "holdout",
    "validation_split": "holdout",
    "verbose": "quiet",
    "warmup": "optim.warmup",
    "warmup_steps": "optim.warmup",
    "wd": "optim.weight_decay",
    "weight_decay": "optim.weight_decay",
}
"""Words of timm, ultralytics, fastai and transformers, and ours: a name, or a sentence."""


def translate_peer(word: str) -> str:
    """Our word for an option of another toolkit, or an empty string."""
    return PEERS.get(word.lstrip("-").replace("-", "_"), "")


def hints_at_peers(words: Iterable[str]) -> list[str]:
    """For each option of another toolkit among the words of a command line, a sentence with ours."""
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    named = [(option, translate_peer(option)) for option in options]
    return [
        f"{option}: {ours}" if " " in ours else f"{option} is --{ours.replace('_', '-')} here"
        for option, ours in named
        if ours
    ]
