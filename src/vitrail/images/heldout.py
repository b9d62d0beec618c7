"""Which images are held out: the data's own split, a drawn one, drawn again, in folds, or with validation images; and how
often an epoch shows the others."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from vitrail.errors import ConfigError, DataError
from vitrail.images.exact_duplicates import candidates, same_bytes
from vitrail.images.samples import Source, Splits


def own_split(parts: Mapping[str, Source], whose: str) -> Splits:
    """The split that the data bring along. Without a part `test`, `val` is the held-out one."""
    sizes = ", ".join(f"{name} {len(part):,}" for name, part in parts.items())
    test, val = (parts["test"], parts.get("val")) if "test" in parts else (parts["val"], None)
    return Splits(parts["train"], test, f"the split is the {whose} own: {sizes}", val)


# of files of equal size: how many, and how many bytes, a split reads to keep copies on one side
_COMPARED = 10_000, 64 << 20


def split(source: Source, holdout: float, seed: int) -> Splits:
    """Holds out a share of every class, at least one image and never all; a class of one image is only trained on.

    An image's rank follows from the seed and its key alone, whatever the order of listing. A copy of a training image
    is not held out: a test on it would mean nothing. A share of 0 holds out none.
    """
    if holdout == 0:
        how = f"all {len(source):,} images are trained on, none is held out: there will be no score"
        return Splits(source, source.subset([]), how, drawn=True)
    held = np.zeros(len(source), bool)
    for members in _shuffle_classes(source, seed):
        count = min(max(round(holdout * len(members)), 1), len(members) - 1)
        held[members[:count]] = True
    mixed = [group for group in _group_copies(source) if not held[group].all()]
    copies = np.array([index for group in mixed for index in group if held[index]], np.int64)
    held[copies] = False
    if not held.any():
        raise _no_holdout(source, len(copies))
    how = f"{held.sum():,} of {len(source):,} images held out, {holdout:.0%} of every class, chosen by seed {seed}"
    if len(copies):
        how += f"; not among them: {len(copies):,} that equal a training image, byte for byte"
    return Splits(source.subset(np.flatnonzero(~held)), source.subset(np.flatnonzero(held)), how, drawn=True)


def _no_holdout(source: Source, copies: int) -> DataError:
    if copies:
        return DataError(
            f"every image of {source.name} that could be held out is a copy, byte for byte, of a training image "
            f"({copies:,} of {len(source):,} images)",
            allowed="held-out images that are not trained on",
            next_step="keep one of each; `vitrail data check` lists the copies",
        )
    return DataError(
        f"{source.name} has {len(source)} images, too few to hold any out",
        allowed="a class of two or more images",
        next_step="add images",
    )


def _group_copies(source: Source) -> list[list[int]]:
    """Groups of images that are equal byte for byte; none where too much would have to be read."""
    sizes = source.contents.sizes[source.rows]
    among = candidates(sizes)
    if len(among) > _COMPARED[0] or sizes[among].sum() > _COMPARED[1]:
        return []  # the audit finds them
    return same_bytes(lambda index: source[index].content, among)


def _shuffle_classes(source: Source, seed: int) -> list[Int64[np.ndarray, "M"]]:
    """The images of each class in an order that follows from the seed and their keys; all in one where an image has
    several labels, or a number.
    """
    rank = np.array([_rank(seed, key) for key in source.keys], np.uint64)
    if source.labels.ndim == 2:
        return [np.argsort(rank, kind="stable")]
    order = np.lexsort((rank, source.labels))
    return np.split(order, np.flatnonzero(np.diff(source.labels[order])) + 1)


def _rank(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "little")


def join_split(splits: Splits) -> Source:
    """All images of a drawn split, in the order of the storage."""
    train, test = splits.train, splits.test
    order = np.argsort(np.concatenate([train.rows, test.rows]), kind="stable")
    keys = [*train.keys, *test.keys]
    return replace(
        train,
        labels=np.concatenate([train.labels, test.labels])[order],
        keys=[keys[index] for index in order],
        rows=np.concatenate([train.rows, test.rows])[order],
    )


def draw_again(splits: Splits, holdout: float, seed: int = 0) -> Splits:
    """The same images with another share held out; a split that the data brought along stays."""
    return split(join_split(splits), holdout, seed) if splits.drawn else splits


def draw_folds(splits: Splits, folds: int, seed: int = 0) -> tuple[Splits, ...]:
    """So many splits of the same images, in which every image is held out once: k-fold cross-validation.

    Each fold has its share of every class. Copies of an image are in one fold; a class of one image is only trained on.
    Raises ConfigError for data with a split of its own, and for more folds than images; DataError for a fold without any.
    """
    if not splits.drawn:
        raise ConfigError("folds of images that have a split of their own", allowed="images without train/ and test/")
    whole = join_split(splits)
    if not 2 <= folds <= len(whole):
        raise ConfigError(f"{folds} folds of {len(whole)} images", allowed="2 or more, and at most as many as images")
    fold, dealt = np.full(len(whole), -1), 0
    for members in _shuffle_classes(whole, seed):
        if len(members) > 1:
            fold[members] = np.arange(dealt, dealt + len(members)) % folds
            dealt += len(members)
    for group in _group_copies(whole):
        fold[group] = fold[group].min()
    if set(range(folds)) - set(fold.tolist()):
        raise DataError(
            f"{folds} folds of {len(whole)} images, many of them copies of others: a fold would hold out no image",
            next_step="take fewer folds, or keep one of each; `vitrail data check` lists the copies",
        )
    return tuple(
        Splits(
            whole.subset(np.flatnonzero(fold != number)),
            whole.subset(np.flatnonzero(fold == number)),
            f"fold {number + 1} of {folds}: {(fold == number).sum():,} of {len(whole):,} images held out",
            drawn=True,
        )
        for number in range(folds)
    )


def add_validation(splits: Splits, share: float, seed: int = 1) -> Splits:
    """The same with so many of the training images of every class as validation images; a validation part stays."""
    if splits.val is not None:
        return splits
    parts = split(splits.train, share, seed)
    how = f"{splits.how}; {len(parts.test):,} training images are validation images: they choose the best weights"
    return replace(splits, train=parts.train, val=parts.test, how=how)


def repeat_rare(source: Source) -> Source:
    """Every class as often as the largest: its images in turn, until there are so many. For balanced sampling."""
    if source.labels.ndim == 2:
        raise ConfigError("balanced sampling of images without classes of their own", allowed="balance = 'none'")
    members = [np.flatnonzero(source.labels == k) for k in range(len(source.classes))]
    most = max(len(rows) for rows in members)
    return source.subset(np.sort(np.concatenate([np.resize(rows, most) for rows in members if len(rows)])))
