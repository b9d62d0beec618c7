"""Nearest class mean: the class whose mean feature is most similar. No parameter to choose, one pass over the data."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from vitrail.errors import DataError
from vitrail.evaluation.feature_set import Labelled, Tally, check_pair


def class_means(data: Labelled) -> Float[Tensor, "K D"]:
    """The mean of the unit features of each class. Raises DataError for a class without images."""
    counts = data.counts
    if int(counts.min()) == 0:
        raise DataError(f"class {int(counts.argmin())} has no training images", allowed="one or more of each class")
    sums = data.features.new_zeros(data.classes, data.width)
    return sums.index_add_(0, data.labels, normalize(data.features)) / counts[:, None]


def nearest_mean(train: Labelled, test: Labelled) -> Tally:
    """Accuracy by cosine to the class means (the nearest-class-mean classifier of Mensink et al. 2013, on unit
    features).
    """
    check_pair(train, test)
    scores = test.features @ normalize(class_means(train)).T  # the length of the query changes no order
    return Tally(right=int((scores.argmax(1) == test.labels).sum()), tested=len(test))
