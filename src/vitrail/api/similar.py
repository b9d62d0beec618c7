"""`vitrail.similar`: the images nearest to one, and pairs that are nearly the same, by the features of a model."""

from dataclasses import replace
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from vitrail.api.models import Model, open_model
from vitrail.errors import ConfigError, DataError, suggest
from vitrail.evaluation.embedding import Extraction, embed
from vitrail.evaluation.feature_table import FeatureTable, check_same_model
from vitrail.evaluation.neighbours import Pair, mutual_pairs, near_duplicates, nearest
from vitrail.evaluation.store import read
from vitrail.images.sources import open_images


def similar(
    features: FeatureTable | str | Path, of: str | Path, *, k: int = 10, model: Model | None = None
) -> list[tuple[str, float]]:
    """The keys of the `k` images most like one, with their cosines, the most similar first.

        vitrail.similar("features.safetensors", "other.jpg")

    Raises DataError for a name that is neither, or for another model; ConfigError for a `k` below 1.

    Args:
        features: A file of `vitrail embed`.
        of: The key of an image in the file, or the end of it; or a new image file.
        k: How many images are listed.
        model: The model that reads a new image; without it, the one that made the features.
    """
    if k < 1:
        raise ConfigError(f"k = {k}", allowed="1 or more")
    kept = features if isinstance(features, FeatureTable) else read(features)
    row = None if Path(of).is_file() and str(of) not in kept.keys else find_row(kept, str(of))
    query = embed_one(kept, Path(of), model) if row is None else kept.features[row : row + 1]
    near = nearest(query, kept.features, k=min(k + (row is not None), len(kept.keys)))
    found = zip(near.index[0].tolist(), near.similarity[0].tolist(), strict=True)
    return [(kept.keys[index], cosine) for index, cosine in found if index != row][:k]


def duplicates(features: FeatureTable | str | Path, *, threshold: float | None = None) -> list[Pair]:
    """Pairs of nearly equal images. With a `threshold` all pairs of that cosine; without one the pairs above 0.95 that have
    no nearer neighbour."""
    kept = features if isinstance(features, FeatureTable) else read(features)
    if threshold is None:
        return mutual_pairs(kept.features)
    return near_duplicates(kept.features, threshold=threshold)


def embed_one(kept: FeatureTable, image: Path, model: Model | None) -> Float[Tensor, "1 D"]:
    """The features of a new image as `kept` has them."""
    name = model if model is not None else kept.about.model
    if model is None and not Path(kept.about.model).exists():
        raise DataError(
            f"{image} is not in these features, and their model {kept.about.model!r} is not here",
            next_step="name the `model` that made them",
        )
    words = kept.about.layer.split()
    pool = {} if words[-1].isdigit() or words == ["pooled"] else {"pool": words[-1]}
    how = Extraction(layers=kept.about.blocks, **pool)  # pyrefly: ignore[bad-argument-type]
    found = embed(open_model(name), {"test": open_images([image])}, name=str(name), how=how)
    check_same_model(replace(found.about, classes=kept.about.classes), kept.about)
    return found.features


def find_row(kept: FeatureTable, key: str) -> int:
    """The row of the image with this key, or the only one whose key ends so. Raises DataError."""
    exact = [index for index, name in enumerate(kept.keys) if name == key]
    found = exact or [index for index, name in enumerate(kept.keys) if name.endswith(key)]
    if len(found) != 1:
        hint = suggest(key, kept.keys[:10_000]) if not found else ", ".join(kept.keys[index] for index in found[:5])
        raise DataError(
            f"{len(found)} images are called {key!r}",
            allowed="the key of one image in the features, or an image file",
            next_step=hint,
        )
    return found[0]
