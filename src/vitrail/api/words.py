"""Short names for values of a Run, and the words of other toolkits; without torch, for `--help`."""

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
    "amp": "precision",
    "arch": "model",
    "bs": "batch",
    "cfg": "like",
    "class_weights": "balance",
    "clip_grad": "optim.clip",
    "config": "like",
    "cutmix": "mixing.cutmix",
    "data_path": "name the images without an option",
    "dataset": "name the images without an option",
    "dropout": "model.dropout",
    "early_stopping": "patience",
    "fp16": "precision",
    "gpu": "device",
    "gpus": "start one process for each GPU with torchrun",
    "image": "size",
    "image_size": "size",
    "img_size": "size",
    "imgsz": "size",
    "input_size": "size",
    "label_smoothing": "objective.label_smoothing",
    "learning_rate": "lr",
    "lr0": "lr",
    "max_epochs": "epochs",
    "mixup": "mixing.mixup",
    "momentum": "optim.momentum",
    "name": "out",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "num_workers": "workers",
    "opt": "optim.name",
    "optimizer": "optim.name",
    "output": "out",
    "output_dir": "out",
    "pretrained": "weights",
    "project": "out",
    "resolution": "size",
    "smoothing": "objective.label_smoothing",
    "top_k": "top",
    "topk": "top",
    "val_split": "holdout",
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
