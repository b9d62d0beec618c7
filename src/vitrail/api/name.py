"""`vitrail.name`: a classifier from the names of its classes, by the text tower of CLIP or SigLIP."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.api.models import save
from vitrail.api.probe import probe
from vitrail.arguments import Precision, Say
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.evaluate import evaluate
from vitrail.evaluation.probing import Row
from vitrail.images.samples import Splits
from vitrail.images.sources import open_data
from vitrail.models import zoo
from vitrail.models.backbone import Backbone
from vitrail.scores.calibration import fit_temperature
from vitrail.scores.classification import Scores, index_labels
from vitrail.weights.fit import fit
from vitrail.weights.record import Told
from vitrail.weights.texts import Pair, embed_names, read_pair

PROMPTS = ("a photo of a {}",)
MOST_NAMES, PRECISION, ENOUGH = 5_000, 0.95, 20
_ID = re.compile(r"[a-z]?\d+|n\d{8}|(class|label|category)[ _-]?\d+", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Named:
    """A classifier made of names, and what labelled images say about it."""

    model: Backbone
    folder: Path | None
    """The bundle; None where nothing was written."""
    scores: Scores | None = None
    """On the test images; None without labelled images."""
    rows: tuple[Row, ...] = ()
    """Few-shot and linear probes on the same tower and the same test images."""
    least: float | None = None
    """The probability from which 95 of 100 answers are right, fitted on other images; None where none is enough."""
    kept: float | None = None
    """The share of test images that have an answer of that probability."""
    precision: float | None = None
    """The share of right ones among these."""


def name(
    weights: str | Path, names: Sequence[str] = (), images: str | Path | Splits | None = None, *,
    prompts: Sequence[str] = PROMPTS, out: str | Path | None = None, config: Told = None, holdout: float = 0.5,
    batch: int = 64, device: str = "auto", precision: Precision = "auto", say: Say = lambda text: None,
) -> Named:  # fmt: skip
    """A classifier whose classes are named by words: no image is trained on.

        vitrail.name("siglip2-b/16", ["cat", "dog"], "./photos", out="cats-and-dogs").scores

    Each name is put into every one of `prompts` at its {}; the directions of these texts are the rows of an ordinary head,
    which is applied to features of length 1. With labelled `images`, one part of them fits a temperature and a least
    probability. The other part measures the accuracy, beside few-shot and linear probes on the same tower. Raises
    ConfigError for names or prompts that cannot be, WeightsError for weights without a text tower.

    Args:
        weights: Both towers of CLIP or SigLIP: a name of `vitrail models --published`, hf:owner/name, a folder or a file.
        names: Names of the classes, with commas between. Without them, those of the images.
        images: Images with labels, to measure on; may be left out.
        prompts: Texts with {} for the name; the directions of several are averaged.
        out: Folder for the bundle; the command writes into named where none is named.
        holdout: Share of the images that is measured; the rest fits temperature and least probability.
    """
    splits = _open(images, holdout)
    names = tuple(names) or (splits.test.classes if splits else ())
    check_names(names, prompts)
    if odd := [one for one in names if _ID.fullmatch(one)]:
        say(
            f"names that look like numbers, not words: {', '.join(odd[:5])}. A text tower does not know what they stand for"
        )
    pair = read_pair(weights, config=config)
    model = build_classifier(pair, names, prompts)
    named = Named(model, None)
    if splits is None:
        say("no accuracy: there are no labelled images")
    elif _labels_fit(splits, names, say):
        named = measure(model, splits, {"batch_size": batch, "device": device, "precision": precision})
        named = replace(named, rows=_probe(model, splits, say, batch=batch, device=device, precision=precision))
    if out is not None:
        save(named.model, out)
        named = replace(named, folder=Path(out))
    return named


def check_names(names: Sequence[str], prompts: Sequence[str]) -> None:
    """ConfigError for no names, empty ones, too many, one twice, and prompts without a place for the name."""
    if len(names) < 2:
        raise ConfigError(f"{len(names)} names", allowed="two or more", next_step="separate them with commas")
    if len(names) > MOST_NAMES:
        raise ConfigError(f"{len(names):,} names", allowed=f"{MOST_NAMES:,} at most")
    if not all(one.strip() for one in names):
        raise ConfigError("an empty name", next_step="remove the comma too many")
    folded = [one.casefold() for one in names]
    if twice := sorted({one for one in names if folded.count(one.casefold()) > 1}):
        raise ConfigError(f"names that are there twice: {', '.join(twice[:5])}", next_step="name each class once")
    if bad := [prompt for prompt in prompts if "{}" not in prompt]:
        raise ConfigError(f"the prompt {bad[0]!r} has no place for the name", allowed="a text with {}: a photo of a {}")
    if not prompts:
        raise ConfigError("no prompts", allowed="at least one text with {}")


def build_classifier(pair: Pair, names: Sequence[str], prompts: Sequence[str]) -> Backbone:
    """The image tower with a head of scaled cosines: logits = scale · cos(image, name) + bias."""
    record = pair.image.record
    config = zoo.change(record.config, classes=len(names), normalise=True)
    directions = embed_names(pair, names, prompts)
    head = {"head.weight": pair.scale * directions, "head.bias": torch.full((len(names),), pair.bias)}
    model = zoo.skeleton(config)
    kept = {key: tensor for key, tensor in pair.image.tensors.items() if not key.startswith("head.")}
    fit(model, {**kept, **head}, where=record.source)
    note = "its head was made of names by the text tower: scores are similarities until a temperature is fitted"
    model.record = replace(
        record,
        config=config,
        classes=tuple(names),
        training={**record.training, "prompts": " | ".join(prompts)},
        notes=(*record.notes, note),
        sha256="",
    )
    return model.eval()


def measure(model: Backbone, splits: Splits, how: dict) -> Named:
    """Temperature and least probability from the training part, scores from the test part."""
    _, fitted = evaluate(model, splits.train, **how)
    targets = torch.as_tensor(index_labels(splits.train.labels, splits.train.classes, model.record.classes))
    temperature = fit_temperature(fitted.features, targets, smoothing=1 / (len(targets) + 2))  # Platt 1999
    model.record = replace(model.record, temperature=temperature)
    scores, tested = evaluate(model, splits.test, **how)
    assert isinstance(scores, Scores)
    least = find_least(*_sure(fitted.features, targets, temperature))
    sure, right = _sure(tested.features, torch.from_numpy(scores.targets), temperature)
    answered = sure >= (least if least is not None else 2.0)
    kept = float(answered.mean()) if least is not None else None
    share = float(right[answered].mean()) if answered.any() else None
    return Named(model, None, scores, (), least, kept, share)


def _sure(logits: Tensor, targets: Tensor, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """(probability of the answer, whether it is right) of every image."""
    sure, answers = (logits.double() / temperature).softmax(1).max(1)
    return sure.numpy(), answers.eq(targets).numpy()


def find_least(sure: np.ndarray, right: np.ndarray) -> float | None:
    """The smallest probability from which `PRECISION` of the answers are right; None where fewer than `ENOUGH` are left.

    With four digits, rounded down, so that it can be written into a command.
    """
    order = np.argsort(-sure, kind="stable")
    share = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.flatnonzero(share >= PRECISION)
    if not len(last) or last[-1] + 1 < ENOUGH:
        return None
    return math.floor(sure[order][last[-1]] * 1e4) / 1e4


def _open(images: str | Path | Splits | None, holdout: float) -> Splits | None:
    if images is None or isinstance(images, Splits):
        return images
    try:
        return open_data(images, holdout=holdout)
    except DataError:
        if not Path(images).is_dir() or any(part.is_dir() for part in Path(images).iterdir()):
            raise
        return None  # a folder of pictures without labels


def _probe(model: Backbone, splits: Splits, say: Say, **how: Any) -> tuple[Row, ...]:
    """The probes beside it; none where the images are too few or of one class. `say` hears why."""
    try:
        return tuple(row for _, row in probe(model, splits, protocols=("fewshot", "linear"), **how))
    except (ConfigError, DataError) as error:
        say(f"no probes: {error}")
        return ()


def _labels_fit(splits: Splits, names: Sequence[str], say: Say) -> bool:
    strange = [one for one in splits.test.classes if one not in names]
    if strange:
        say(f"no accuracy: the images have classes that are not among the names: {', '.join(strange[:5])}")
    return not strange
