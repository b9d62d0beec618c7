"""Linear probe: softmax heads on frozen features, one for each learning rate, all trained at once.

The grid and the length are DINOv2's (`eval/linear.py`): 13 learning rates from 1e-5 to 0.1, scaled with batch / 256,
SGD with momentum 0.9, cosine to zero, no weight decay. Features are standardised with the training set's mean and
deviation, as by MAE's BatchNorm without parameters (appendix A.1): a grid then means the same for every model.
The learning rate is chosen on a tenth of the training images; that head is then trained again on all of them and
tested once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from vitrail.errors import DataError
from vitrail.evaluation.feature_set import Labelled, Tally, check_grid, check_pair

LEARNING_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
EPOCHS = 10
LEAST_STEPS = 1250
"""A small data set is seen more often than EPOCHS times: ten epochs of 500 images teach a head nothing."""


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Tally):
    """The chosen head's accuracy, and what it was chosen by."""

    lr: float
    validation: tuple[tuple[float, float], ...]
    """(learning rate, accuracy on the held-out tenth) of every head."""
    steps: int


def linear_probe(
    train: Labelled,
    test: Labelled,
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    batch_size: int = 256,
    steps: int | None = None,
    seed: int = 0,
) -> LinearProbe:
    """Test accuracy of the head whose learning rate did best on held-out training images. `steps`: 10 epochs, at
    least 1,250.
    """
    check_pair(train, test)
    check_grid(learning_rates, "learning_rates")
    steps = steps or max(LEAST_STEPS, math.ceil(EPOCHS * len(train) / batch_size))
    kept, held = hold_out(train, seed=seed)
    heads = _train(kept, learning_rates, batch_size, steps, seed)
    validation = [hits / len(held) for hits in heads.right(held)]
    best = learning_rates[validation.index(max(validation))]
    (hits,) = _train(train, [best], batch_size, steps, seed).right(test)
    return LinearProbe(
        right=hits,
        tested=len(test),
        lr=float(best),
        validation=tuple(zip(map(float, learning_rates), validation, strict=True)),
        steps=steps,
    )


def hold_out(train: Labelled, *, seed: int) -> tuple[Labelled, Labelled]:
    """(kept, held out): a random tenth of the images, at least one. Raises DataError where nothing would be left."""
    held = max(1, round(0.1 * len(train)))
    if len(train) - held < 2:
        raise DataError(f"{len(train)} training images", allowed="three or more, to hold some out")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train.rows(order[held:]), train.rows(order[:held])


@dataclass(frozen=True, eq=False)
class _Heads:
    """L linear heads side by side: column l·K + k is class k of head l."""

    mean: Float[Tensor, "D"]
    scale: Float[Tensor, "D"]
    weight: Float[Tensor, "D LK"]
    bias: Float[Tensor, "LK"]
    classes: int

    def right(self, data: Labelled) -> list[int]:
        hits = []
        for features, labels in zip(data.features.split(4096), data.labels.split(4096), strict=True):
            scores = self.bias + ((features - self.mean) / self.scale).to(self.weight) @ self.weight
            hits.append((scores.unflatten(1, (-1, self.classes)).argmax(2) == labels[:, None]).sum(0))
        return torch.stack(hits).sum(0).tolist()


def _train(train: Labelled, learning_rates: Sequence[float], batch_size: int, steps: int, seed: int) -> _Heads:
    """SGD by the closed form of the gradient, (softmax - one-hot) / batch: no graph, one product each way for all
    heads.
    """
    mean, scale = train.features.mean(0), train.features.std(0, correction=0) + 1e-5
    features = ((train.features - mean) / scale).float()
    targets = one_hot(train.labels, train.classes).float()
    draws = torch.Generator().manual_seed(seed)
    heads = len(learning_rates)
    weight = 0.01 * torch.randn(train.width, train.classes, generator=draws).repeat(1, heads).to(features)
    bias = features.new_zeros(heads * train.classes)
    moving, moving_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    lr = torch.tensor(learning_rates).repeat_interleave(train.classes).to(features) * min(batch_size, len(train)) / 256
    for step, rows in zip(range(steps), _batches(len(train), batch_size, draws), strict=False):
        batch, answers = features[rows], targets[rows]
        p = torch.addmm(bias, batch, weight).unflatten(1, (heads, -1)).softmax(2)
        error = (p - answers[:, None]).flatten(1) / len(rows)
        torch.addmm(moving, batch.T, error, beta=0.9, out=moving)
        moving_bias.mul_(0.9).add_(error.sum(0))
        now = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        weight -= now * moving
        bias -= now * moving_bias
    return _Heads(mean, scale, weight, bias, train.classes)


def _batches(images: int, size: int, draws: torch.Generator):
    """Shuffled epochs without end; a last short batch is left out, unless there is no other."""
    while True:
        order = torch.randperm(images, generator=draws)
        yield from order[: max(images // size * size, min(images, size))].split(size)
