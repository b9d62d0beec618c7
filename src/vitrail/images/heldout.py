"""Which images are held out: the data's own split, a drawn one, drawn again, or with validation images; and how often an epoch
shows the others."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64

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
    rank = np.array([_rank(seed, key) for key in source.keys], np.uint64)
    for members in [np.arange(len(source))] if source.multi_label else _groups(source.labels):
        count = min(max(round(holdout * len(members)), 1), len(members) - 1)
        held[members[np.argsort(rank[members], kind="stable")[:count]]] = True
    copies = _find_copies(source, held)
    held[copies] = False
    if not held.any():
        raise _no_holdout(source, len(copies))
    how = f"{held.sum():,} of {len(source):,} images held out, {holdout:.0%} of every class, chosen by seed {seed}"
    if len(copies):
        how += f"; not among them: {len(copies):,} that equal a training image, byte for byte"
    return Splits(source.subset(_where(~held)), source.subset(_where(held)), how, drawn=True)


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


def _find_copies(source: Source, held: Bool[np.ndarray, "N"]) -> Int64[np.ndarray, "M"]:
    """Held-out images that are byte for byte a training image."""
    sizes = source.contents.sizes[source.rows]
    among = candidates(sizes)
    if len(among) > _COMPARED[0] or sizes[among].sum() > _COMPARED[1]:
        return among[:0]  # the audit finds them
    groups = same_bytes(lambda index: source[index].content, among)
    mixed = [index for group in groups if not held[group].all() for index in group if held[index]]
    return np.array(mixed, np.int64)


def _groups(labels: Int64[np.ndarray, "N"]) -> list[Int64[np.ndarray, "M"]]:
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _where(mask: Bool[np.ndarray, "N"]) -> Int64[np.ndarray, "M"]:
    return np.flatnonzero(mask)


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


def add_validation(splits: Splits, share: float, seed: int = 1) -> Splits:
    """The same with so many of the training images of every class as validation images; a validation part stays."""
    if splits.val is not None:
        return splits
    parts = split(splits.train, share, seed)
    how = f"{splits.how}; {len(parts.test):,} training images are validation images: they choose the best weights"
    return replace(splits, train=parts.train, val=parts.test, how=how)


def repeat_rare(source: Source) -> Source:
    """Every class as often as the largest: its images in turn, until there are so many. For balanced sampling."""
    if source.multi_label:
        raise ConfigError("balanced sampling of images with several labels", allowed="balance = 'none'")
    members = [np.flatnonzero(source.labels == k) for k in range(len(source.classes))]
    most = max(len(rows) for rows in members)
    return source.subset(np.sort(np.concatenate([np.resize(rows, most) for rows in members if len(rows)])))
