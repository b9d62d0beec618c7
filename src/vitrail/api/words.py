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
"""What `vitrail train` and `vitrail.train` call a value, and its full name."""

PEERS = {
    "arch": "model",
    "bs": "batch",
    "cfg": "like",
    "class_weights": "balance",
    "config": "like",
    "data_path": "the images, without an option",
    "early_stopping": "patience",
    "dropout": "model.dropout",
    "image": "size",
    "image_size": "size",
    "img_size": "size",
    "imgsz": "size",
    "input_size": "size",
    "learning_rate": "lr",
    "lr0": "lr",
    "mixup": "mixing.mixup",
    "momentum": "optim.momentum",
    "name": "out",
    "num_workers": "workers",
    "opt": "optim.name",
    "optimizer": "optim.name",
    "output": "out",
    "output_dir": "out",
    "pretrained": "weights",
    "project": "out",
    "smoothing": "objective.label_smoothing",
    "top_k": "top",
    "topk": "top",
    "warmup": "optim.warmup",
    "wd": "optim.weight_decay",
    "weight_decay": "optim.weight_decay",
}
"""Words of timm, ultralytics, fastai and transformers, and ours."""


def translate_peer(word: str) -> str:
    """Our word for an option of another toolkit, or an empty string."""
    return PEERS.get(word.lstrip("-").replace("-", "_"), "")


def full_name(name: str) -> str:
    """The full name of a value of a Run: "optim.lr" for "lr"."""
    return SHORT.get(name, name)
