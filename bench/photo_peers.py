"""The recipes of fastai and timm for `photos.py`: the same weights, pictures, pixels and one thread; float32.

`weights` is a folder that `vitrail weights convert … --to timm` wrote. The answer is the accuracy on the test images
after the last epoch.
"""

from pathlib import Path


def fastai(folder: Path, weights: Path, pixels: int, seed: int) -> float:
    """Its `fine_tune(10)` with its head, `aug_transforms()` and batches of 32; squashed to the size."""
    import fastai.vision.all as fa

    def three_groups(model):
        """First half of the blocks, second half, head: `fine_tune` gives them rates that rise by ten."""
        vit = model[0].model
        middle = len(vit.blocks) // 2
        late = [*fa.params(vit.blocks[middle:]), *fa.params(vit.norm)]
        known = {id(one) for one in late}
        return [[one for one in fa.params(vit) if id(one) not in known], late, fa.params(model[1:])]

    fa.set_seed(seed, reproducible=True)
    size = fa.Resize(pixels, method=fa.ResizeMethod.Squish)
    data = fa.ImageDataLoaders.from_folder(
        folder,
        train="train",
        valid="test",
        seed=seed,
        item_tfms=size,
        batch_tfms=fa.aug_transforms(),
        bs=32,
        num_workers=0,
    )
    learner = fa.vision_learner(
        data, f"local-dir:{weights}", splitter=three_groups, metrics=fa.accuracy, img_size=pixels, path=folder
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(10)
    return float(learner.recorder.values[-1][-1])


def timm(folder: Path, weights: Path, pixels: int, seed: int, epochs: int = 10) -> float:
    """The parts of its training script: batches of 16, AdamW at 1e-4, layer decay 0.75, smoothing 0.1."""
    import torch
    from timm import create_model
    from timm.data import create_transform
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2
    from timm.utils import random_seed
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    random_seed(seed)
    classes = len(list((folder / "train").iterdir()))
    model = create_model(f"local-dir:{weights}", pretrained=True, num_classes=classes, img_size=pixels)
    look = {key: model.pretrained_cfg[key] for key in ("mean", "std")}
    crops = create_transform(
        pixels, is_training=True, scale=(0.08, 1), hflip=0.5, color_jitter=0.4, interpolation="random", **look
    )
    squashed = create_transform(pixels, crop_mode="squash", crop_pct=1.0, interpolation="bicubic", **look)
    batches = DataLoader(ImageFolder(folder / "train", crops), 16, shuffle=True, drop_last=True)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-4, weight_decay=0.05, layer_decay=0.75)
    schedule, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=epochs, warmup_epochs=1)
    loss_of = LabelSmoothingCrossEntropy(0.1)
    model.train()
    for epoch in range(epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            loss_of(model(images), labels).backward()
            optimizer.step()
        schedule.step(epoch + 1)
    model.eval()
    with torch.inference_mode():
        tests = DataLoader(ImageFolder(folder / "test", squashed), 64)
        right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in tests)
    return right / len(tests.dataset)


PEERS = {"fastai": fastai, "timm": timm}
