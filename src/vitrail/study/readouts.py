"""Numbers that a study reads of a trained model: by frozen features, by images that are changed on purpose, and its cost."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from vitrail.batches.batch import Batch
from vitrail.batches.loader import eval_batches
from vitrail.errors import DataError
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.features import extract
from vitrail.evaluation.fewshot import few_shot
from vitrail.evaluation.knn import knn
from vitrail.evaluation.linear import linear_probe
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import open_data
from vitrail.models.extras import value_of
from vitrail.registry import Registry
from vitrail.weights.bundle import load

MOST = 10_000
"""Images of a set whose features are read, evenly chosen."""
HELD_OUT = 2000
"""Held-out images that are changed, evenly chosen."""
Change = Callable[[UInt8[Tensor, "B C H W"]], UInt8[Tensor, "B C H W"]]


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, and the images that it is read with."""

    weights: str
    splits: Splits

    @functools.cached_property
    def model(self) -> Any:
        return load(self.weights)

    @functools.cached_property
    def features(self) -> tuple[Labelled, Labelled]:
        """Of training and held-out images."""
        train_set, test = map(self._features_of, (self.splits.train, self.splits.test))
        return train_set, test

    def _features_of(self, source: Source) -> Labelled:
        batches = eval_batches(source.thin(MOST), preprocess=self.model.record.preprocess, batch_size=512)
        found = extract(self.model, batches, what="features")
        return labelled(found.features, found.labels, len(source.classes))


def _few_shot(trained: Trained) -> dict[str, float]:
    train_set, test = trained.features
    shots = min(5, int(train_set.counts.min()))
    if not shots:
        absent = trained.splits.train.classes[int(train_set.counts.argmin())]
        raise DataError(
            f"5-shot: none of {len(train_set):,} training images of {trained.splits.train.name} is of the class {absent!r}",
            next_step="train on more images, or leave this readout out",
        )
    return {"5-shot": float(np.mean([cell.accuracy for cell in few_shot(train_set, test, shots=(shots,))]))}


def _neighbours(trained: Trained) -> dict[str, float]:
    train_set, test = trained.features
    return {"10-NN": knn(train_set, test, k=(min(10, len(train_set)),))[0].accuracy}


def _linear(trained: Trained) -> dict[str, float]:
    return {"linear": linear_probe(*trained.features).accuracy}


def shuffle_accuracy(trained: Trained) -> dict[str, float]:
    """Accuracy on images whose patches stand in another order, the same for all images."""
    height, width = value_of(trained.model.config, "patch")
    answers, labels = _logits(trained, lambda images: shuffle_patches(images, height, width, seed=0))
    return {"shuffled patches": _share(answers.argmax(1) == labels)}


def shuffle_patches(
    images: UInt8[Tensor, "B C H W"], height: int, width: int, *, seed: int
) -> UInt8[Tensor, "B C H W"]:
    """The patches of height × width pixels in one other order, drawn by the seed."""
    rows, columns = images.shape[2] // height, images.shape[3] // width
    order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(seed))
    patches = rearrange(images, "B C (h p) (w q) -> B (h w) C p q", p=height, q=width)
    return rearrange(patches[:, order], "B (h w) C p q -> B C (h p) (w q)", h=rows)


def read_shifts(trained: Trained) -> dict[str, float]:
    """For shifts of 1, 2, 4, … pixels to the right, up to a quarter of the width: accuracy, how often the answer is that
    of the image in its place, and the cosine of both features.
    """
    model, still = trained.model, lambda images: images
    answers, labels = _logits(trained, still)
    features = _pooled(trained, still)
    found = {"0 px right": _share(answers.argmax(1) == labels), "0 px agree": 1.0, "0 px cosine": 1.0}
    for pixels in shifts(model.record.preprocess.size[1]):
        moved, _ = _logits(trained, lambda images, by=pixels: shift_right(images, by))
        cosine = torch.cosine_similarity(features, _pooled(trained, lambda images, by=pixels: shift_right(images, by)))
        found |= {
            f"{pixels} px right": _share(moved.argmax(1) == labels),
            f"{pixels} px agree": _share(moved.argmax(1) == answers.argmax(1)),
            f"{pixels} px cosine": float(cosine.mean()),
        }
    return found


def shifts(width: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … pixels, up to a quarter of the width."""
    steps = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    return [step for step in steps if step <= max(1, width // 4)]


def shift_right(images: UInt8[Tensor, "B C H W"], pixels: int) -> UInt8[Tensor, "B C H W"]:
    """The pixels of the left edge come in."""
    if not pixels:
        return images
    return torch.cat([images[..., :1].expand(*images.shape[:3], pixels), images[..., :-pixels]], dim=3)


def measure_cost(trained: Trained) -> dict[str, float]:
    """Images per second of a forward pass in batches of 64 on this device, one thread; and bytes of the weights.

    The best of three passes over 256 images counts.
    """
    model, source = trained.model, trained.splits.test.thin(256)
    batches = list(eval_batches(source, preprocess=model.record.preprocess, batch_size=64))
    best = 0.0
    for _ in range(3):
        began = time.perf_counter()
        extract(model, batches)
        best = max(best, len(source) / (time.perf_counter() - began))
    return {"images_per_s": best, "memory": float(sum(weight.nbytes for weight in model.parameters()))}


def _logits(trained: Trained, change: Change) -> tuple[Float[Tensor, "N K"], Int[Tensor, "N"]]:
    found = extract(trained.model, _changed(trained, change))
    return found.features, found.labels


def _pooled(trained: Trained, change: Change) -> Float[Tensor, "N D"]:
    return extract(trained.model, _changed(trained, change), what="features").features


def _changed(trained: Trained, change: Change) -> Iterator[Batch]:
    source = trained.splits.test.thin(HELD_OUT)
    for batch in eval_batches(source, preprocess=trained.model.record.preprocess, batch_size=256):
        yield dataclasses.replace(batch, images=change(batch.images))


def _share(hits: Tensor) -> float:
    return float(hits.float().mean())


Readout = Callable[[Trained], dict[str, float]]
READOUTS = Registry[Readout](
    "readout",
    {
        "5-shot": _few_shot,
        "10-NN": _neighbours,
        "linear": _linear,
        "shuffled patches": shuffle_accuracy,
        "shifts": read_shifts,
        "speed": measure_cost,
    },
)


def read_out(trained: Trained, names: Sequence[str]) -> dict[str, float]:
    """The numbers of these readouts. `NAME@DATA` reads the model with other labelled images."""
    found: dict[str, float] = {}
    others: dict[str, Trained] = {"": trained}
    for name in names:
        readout, _, data = name.partition("@")
        if data not in others:
            others[data] = Trained(trained.weights, open_data(data))
        numbers = READOUTS[readout](others[data])
        found |= {f"{number}@{data}" if data else number: value for number, value in numbers.items()}
    return found
